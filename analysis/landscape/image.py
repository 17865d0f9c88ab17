"""The contour of a landscape as an image."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.figures import Figure, key_columns, new_figure, write_key, write_title
from analysis.landscape.landscape import Landscape
from analysis.landscape.style import (
    DASHES,
    FILLS,
    LEVELS,
    PAPER,
    SHADES,
    axis_titles,
    crowded,
    log_ticks,
    logarithm,
    loss_range,
    marker_key,
    plane_size,
    single_points,
    styles,
    title,
)


def contour_image(landscape: Landscape) -> Figure:
    """The contour for print; where runs lie close together, that part enlarged beside it."""
    box = crowded(landscape)
    panels = 2 if box else 1
    _, height = plane_size(landscape, 5.2 / panels, 3.6)
    labels = [run.label for run in landscape.trajectories] + [name for name, *_ in single_points(landscape)]
    columns = key_columns(labels)
    figure = new_figure(max(height, 2.2) + 1.1 + 0.16 * math.ceil(len(labels) / columns), layout="compressed")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    low, high = loss_range(landscape)
    low, high = low * (1 - 1e-6), high * (1 + 1e-6)  # so that rounding excludes no point
    ticks = log_ticks(low, high)
    for panel in axes:
        filled, lines = draw_loss(panel, landscape, (low, high), ticks)
        draw_trajectories(panel, landscape)
        panel.set(xlim=landscape.grid.x[[0, -1]], ylim=landscape.grid.y[[0, -1]], aspect="equal")
    bar = figure.colorbar(filled, ax=list(axes), label="loss", aspect=30)
    bar.add_lines(lines)
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter("{x:g}")
    first, second = axis_titles(landscape)
    axes[0].set(xlabel=first, ylabel=second)
    if box:
        (left, bottom), (right, top) = box
        axes[0].add_patch(Rectangle((left, bottom), right - left, top - bottom, fill=False, zorder=6, linewidth=0.8))
        axes[1].set(xlim=(left, right), ylim=(bottom, top), xlabel="the framed part, enlarged")
    handles, _ = axes[0].get_legend_handles_labels()
    write_key(figure, handles, columns)
    lines = (title(landscape), landscape.settings, marker_key(landscape))
    write_title(figure, "\n".join(line for line in lines if line))
    return figure


def draw_loss(axes: Axes, landscape: Landscape, limits: tuple[float, float], ticks: list[float]) -> tuple[Any, Any]:
    """Shades of the loss, and lines at the ticks; both are returned for the colour bar."""
    losses = np.ma.masked_invalid(10 ** logarithm(landscape.losses))
    shades = LinearSegmentedColormap.from_list("loss", SHADES)
    x, y = landscape.grid.x, landscape.grid.y
    filled = axes.contourf(x, y, losses, np.geomspace(*limits, LEVELS + 1), norm=LogNorm(*limits), cmap=shades)
    return filled, axes.contour(x, y, losses, ticks, colors=PAPER, linewidths=0.5)


def draw_trajectories(axes: Axes, landscape: Landscape) -> None:
    """Every run, with its saved rows, and the markers outside of the runs.

    White casings lie below all runs: rims around points would hide their neighbours.
    """
    for style in styles(landscape):
        casing = {"color": PAPER, "linewidth": style.width + 1.4, "marker": "o", "markersize": 4.4}
        axes.plot(*style.run.coordinates.T, **casing, markeredgewidth=0, zorder=4)
    for style in styles(landscape):
        x, y = style.run.coordinates.T
        line = {"color": style.colour, "linestyle": DASHES[style.dash], "linewidth": style.width}
        label = style.run.label.replace("$", r"\$")
        axes.plot(x, y, **line, marker="o", markersize=2.8, markeredgewidth=0, zorder=4, label=label)
        around = 3 + 2.6 * style.width  # circles of runs that start together lie in one another
        axes.plot(x[0], y[0], "o", color="none", markeredgecolor=style.colour, markersize=around, zorder=5)
        axes.plot(x[-1], y[-1], "s", color=style.colour, markeredgecolor=PAPER, markeredgewidth=0.6, markersize=5.5,
                  zorder=5)  # fmt: skip
    for name, symbol, (x, y), _, _ in single_points(landscape):
        fill, edge = FILLS[symbol]
        axes.plot(x, y, "D", color=fill, markeredgecolor=edge, markersize=5.5, linestyle="", zorder=4.5, label=name)
