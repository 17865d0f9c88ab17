"""Figures of a landscape: interactive contour and surface (HTML), and the contour as an image. Evaluates nothing."""

import html
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.ticker import FixedLocator, NullLocator
from plotly.offline import get_plotlyjs

from analysis.figures import Figure
from analysis.landscape.survey import Landscape, Trajectory
from interface.files import atomic_write

# The Okabe-Ito palette, distinguishable with colour blindness, without its yellow, which is too pale for a line.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Of the loss, low to high: grey, so that only the runs are coloured.
SHADES = ("#F0F4F7", "#CBD4DC", "#9AA8B4", "#647584", "#2F3C48")
INK, PAPER = "#222222", "#FFFFFF"
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}  # Plotly's names: matplotlib's
FILLS = {"diamond": (INK, PAPER), "diamond-open": (PAPER, INK)}  # marker: face and edge colours
MIN_LOSS = 1e-8  # smaller losses are drawn at this value
LEVELS = 24
STEPS_BETWEEN_ROWS = 20  # segments of a line on the surface from one row to the next
EYE_DISTANCE = 2.15  # from the centre of the scene, whose sides are at most 1.4
ELEVATIONS = np.radians([35, 45, 55, 65])
SIGHT_STEPS = 60  # points checked along a line of sight


def draw(landscape: Landscape, stem: Path, *, shared_plotly: bool) -> list[Path]:
    """Write {stem}_contour.html, {stem}_surface.html and {stem}_contour.png; return their paths.

    Draws nothing, with a warning, if no loss on the grid is finite.
    """
    if not landscape.finite:
        logging.warning("nothing to draw: no loss on the grid is finite")
        return []
    contour, surface, image = (
        stem.with_name(stem.name + end) for end in ("_contour.html", "_surface.html", "_contour.png")
    )
    write_page(contour_figure(landscape), landscape, contour, shared_plotly=shared_plotly)
    write_page(surface_figure(landscape), landscape, surface, shared_plotly=shared_plotly)
    with atomic_write(image) as path:
        contour_image(landscape).savefig(path, dpi=200, bbox_inches="tight")
    return [contour, surface, image]


# ----------------------------------------------------------------------------------------------------
# Shared by all figures
# ----------------------------------------------------------------------------------------------------


def logarithm(losses: np.ndarray) -> np.ndarray:
    """The decimal logarithm of losses, with NaN for those that are not finite."""
    return np.log10(np.where(np.isfinite(losses), np.maximum(losses, MIN_LOSS), np.nan))


def loss_range(landscape: Landscape) -> tuple[float, float]:
    """The lowest and the highest loss drawn on the grid."""
    logarithms = logarithm(landscape.losses)
    return float(10 ** np.nanmin(logarithms)), float(10 ** np.nanmax(logarithms))


def log_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two positive ones; fewer if two digits are not enough to tell them apart."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(np.arange(10, 100) / 10)):
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks[:: math.ceil(len(ticks) / 8)]
    return ticks or [low]


def axis_titles(landscape: Landscape) -> tuple[str, str]:
    """The labels of the plane's axes."""
    if landscape.plane.is_random:
        return "random direction 1 (norms of the filters)", "random direction 2 (norms of the filters)"
    first, second = 100 * landscape.plane.explained
    return f"PC1 ({first:.1f} % of variance)", f"PC2 ({second:.1f} % of variance)"


def title(landscape: Landscape) -> str:
    """What the figure shows, in one line."""
    return f"Loss of {landscape.about['network']} on {landscape.about['data']}"


def marker_key(landscape: Landscape) -> str:
    """What the markers mean and which points are missing, in one line."""
    masked = f"; {landscape.masked} of {landscape.losses.size} grid points left out (loss not finite)"
    clipped = f"; {landscape.about['clipped']} leaves the picture" if "clipped" in landscape.about else ""
    return f"○ start, ■ end, ◆ lowest grid point{masked if landscape.masked else ''}{clipped}"


@dataclass(frozen=True)
class Style:
    """How one trajectory is drawn. dash: Plotly's name; width: earlier trajectories are wider, the last has 1."""

    run: Trajectory
    colour: str
    dash: str
    width: float


def styles(landscape: Landscape) -> list[Style]:
    """A distinct style for each trajectory; where several coincide, all remain visible."""
    widths = np.linspace(2, 1, len(landscape.trajectories)) if len(landscape.trajectories) > 1 else [1.5]
    return [
        Style(run, COLOURS[number % len(COLOURS)], list(DASHES)[number // len(COLOURS) % len(DASHES)], float(width))
        for number, (run, width) in enumerate(zip(landscape.trajectories, widths, strict=True))
    ]


# ----------------------------------------------------------------------------------------------------
# Interactive pages
# ----------------------------------------------------------------------------------------------------

GRID_HOVER = "at (%{x:.3g}, %{y:.3g})<br>loss %{customdata:.4g}<extra></extra>"
ROW_HOVER = (
    "epoch %{customdata[0]:.2f}<br>loss %{customdata[1]:.4g}<br>loss of its projection %{customdata[2]:.4g}<br>"
    "distance from the plane %{customdata[3]:.3g}<extra></extra>"
)


def legend_entry(run: Trajectory, *, shown: bool = True) -> dict[str, Any]:
    """The legend entry of one trace of a trajectory: all of its traces toggle together, and one is `shown`."""
    return {"name": html.escape(run.label), "legendgroup": run.label, "showlegend": shown}


def hover_fields(run: Trajectory) -> dict[str, Any]:
    """What is displayed for the saved row under the pointer."""
    return {
        "customdata": np.stack([run.epochs, run.losses, run.plane_losses, run.distances], axis=-1),
        "hovertemplate": f"<b>{html.escape(run.label)}</b><br>{ROW_HOVER}",
    }


def row_marks(style: Style, size: float) -> dict[str, Any]:
    """A hollow circle at the start, a square at the end, dots in between."""
    between = len(style.run.epochs) - 2
    return {
        "size": [1.7 * size, *[size] * between, 1.7 * size],
        "symbol": ["circle", *["circle"] * between, "square"],
        "color": [PAPER, *[style.colour] * (between + 1)],
        "opacity": 1,
    }


def single_points(landscape: Landscape) -> Iterator[tuple[str, str, np.ndarray, float, str]]:
    """Name, symbol, coordinates (2,), loss in the plane and hover text of each marker outside the trajectories."""
    x, y, loss = landscape.lowest
    yield "lowest grid point", "diamond", np.array([x, y]), loss, f"lowest grid point<br>loss {loss:.4g}"
    if (model := landscape.model) is not None:
        text = f"{model.label}<br>loss {model.losses[0]:.4g}<br>loss of its projection {model.plane_losses[0]:.4g}"
        yield model.label, "diamond-open", model.coordinates[0], model.plane_losses[0], text


def contour_figure(landscape: Landscape) -> go.Figure:
    """The loss in the plane as shades, with the trajectories on top."""
    low, high = np.log10(loss_range(landscape))
    figure = go.Figure()
    figure.add_contour(
        x=landscape.grid.x,
        y=landscape.grid.y,
        z=logarithm(landscape.losses),
        customdata=landscape.losses,
        hovertemplate=GRID_HOVER,
        colorscale=list(SHADES),
        contours={"start": low, "end": high, "size": max(high - low, 1e-6) / LEVELS},
        line={"width": 0.5, "color": PAPER},
        colorbar=colour_bar(landscape),
    )
    for style in styles(landscape):
        x, y = style.run.coordinates.T
        casing = {"width": 2.5 * style.width + 4, "color": PAPER}
        figure.add_scatter(
            x=x, y=y, mode="lines", line=casing, hoverinfo="skip", **legend_entry(style.run, shown=False)
        )
    for style in styles(landscape):
        x, y = style.run.coordinates.T
        line = {"width": 2.5 * style.width, "color": style.colour, "dash": style.dash}
        marks = row_marks(style, 8)
        marks["line"] = {"width": [2, *[1] * (len(x) - 1)], "color": [style.colour, *[PAPER] * (len(x) - 1)]}
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            line=line,
            marker=marks,
            **legend_entry(style.run),
            **hover_fields(style.run),
        )
    for name, symbol, (x, y), _, text in single_points(landscape):
        fill, edge = FILLS[symbol]
        marker = {"symbol": "diamond", "size": 15, "color": fill, "line": {"width": 2, "color": edge}}
        figure.add_scatter(x=[x], y=[y], name=name, mode="markers", marker=marker, hovertext=text, hoverinfo="text")
    first, second = axis_titles(landscape)
    x, y = landscape.grid.x, landscape.grid.y
    figure.update_xaxes(title=first, range=[x[0], x[-1]], constrain="domain", zeroline=False, ticks="outside")
    figure.update_yaxes(title=second, range=[y[0], y[-1]], constrain="domain", zeroline=False, ticks="outside",
                        scaleanchor="x")  # fmt: skip
    width, height = plane_size(landscape, 900, 680)
    return styled(figure, landscape).update_layout(width=width + 190, height=height + 210)


def plane_size(landscape: Landscape, width: float, height: float) -> tuple[float, float]:
    """The largest size within (width, height) that shows the plane with equal axis scales."""
    x, y = np.ptp(landscape.grid.x), np.ptp(landscape.grid.y)
    scale = min(width / x, height / y)
    return x * scale, y * scale


def surface_figure(landscape: Landscape) -> go.Figure:
    """The loss as height above the plane, with the trajectories' projections on the surface."""
    heights = logarithm(landscape.losses)
    low, high = np.nanmin(heights), np.nanmax(heights)
    lift = 0.02 * max(high - low, 1e-6)  # keeps lines and markers from sinking into the surface
    figure = go.Figure()
    figure.add_surface(
        x=landscape.grid.x,
        y=landscape.grid.y,
        z=heights,
        customdata=landscape.losses,
        hovertemplate=GRID_HOVER,
        colorscale=list(SHADES),
        colorbar=colour_bar(landscape),
        contours={"z": {"show": True, "start": low, "end": high, "size": max(high - low, 1e-6) / LEVELS,
                        "color": PAPER, "width": 1}},
        lighting={"ambient": 0.85, "diffuse": 0.25, "specular": 0.02},
    )  # fmt: skip
    for style in styles(landscape):
        above = lift * (3 - style.width)  # where runs coincide, the narrower is drawn on top
        x, y, z = draped(landscape, style.run.coordinates)
        line = {"width": 3.5 * style.width, "color": style.colour, "dash": style.dash}
        figure.add_scatter3d(
            x=x, y=y, z=z + above, mode="lines", line=line, hoverinfo="skip", **legend_entry(style.run)
        )
        x, y = style.run.coordinates.T
        z = np.where(is_outside(landscape, x, y), np.nan, logarithm(style.run.plane_losses) + above)
        marks = row_marks(style, 6) | {"line": {"width": 2, "color": style.colour}}
        figure.add_scatter3d(
            x=x,
            y=y,
            z=z,
            mode="markers",
            marker=marks,
            **legend_entry(style.run, shown=False),
            **hover_fields(style.run),
        )
    for name, symbol, (x, y), loss, text in single_points(landscape):
        marker = {"symbol": symbol, "size": 6, "color": INK}
        figure.add_scatter3d(x=[x], y=[y], z=logarithm(np.array([loss])) + lift, name=name, mode="markers",
                             marker=marker, hovertext=text, hoverinfo="text")  # fmt: skip
    first, second = axis_titles(landscape)
    ticks = log_ticks(*loss_range(landscape))
    box = np.array([*plane_size(landscape, 1.4, 1.4), 0.7])
    axis = {"nticks": 7, "tickfont": {"size": 12}, "title_font": {"size": 13}}  # small: the scene truncates long titles
    figure.update_scenes(
        xaxis={"title_text": first, **axis},
        yaxis={"title_text": second, **axis},
        zaxis={"title_text": "loss", "tickvals": np.log10(ticks), "ticktext": [f"{tick:g}" for tick in ticks], **axis},
        aspectmode="manual",
        aspectratio=dict(zip("xyz", box.tolist(), strict=True)),
        camera={"eye": dict(zip("xyz", viewpoint(landscape, box).tolist(), strict=True)), "center": {"z": -0.22}},
    )
    return styled(figure, landscape).update_layout(width=1100, height=840, margin={"l": 20, "b": 60})


def draped(landscape: Landscape, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and logarithm of the loss, all (m,), along the lines between coordinates (n, 2); bilinear interpolation."""
    corners = np.arange(len(coordinates))
    along = np.linspace(0, corners[-1], STEPS_BETWEEN_ROWS * corners[-1] + 1)
    x, y = (np.interp(along, corners, column) for column in coordinates.T)
    return x, y, np.where(is_outside(landscape, x, y), np.nan, height_at(landscape, x, y))


def is_outside(landscape: Landscape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie beyond the grid, as those of a run that leaves the picture."""
    grid = landscape.grid
    return (x < grid.x[0]) | (x > grid.x[-1]) | (y < grid.y[0]) | (y > grid.y[-1])


def height_at(landscape: Landscape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The logarithm of the loss at x, y, arrays of the same shape; bilinear interpolation."""
    heights, size = logarithm(landscape.losses), len(landscape.grid.x)
    column = np.interp(x, landscape.grid.x, np.arange(size))
    row = np.interp(y, landscape.grid.y, np.arange(size))
    j, i = (np.minimum(place.astype(int), size - 2) for place in (column, row))
    right, up = column - j, row - i
    lower = (1 - right) * heights[i, j] + right * heights[i, j + 1]
    upper = (1 - right) * heights[i + 1, j] + right * heights[i + 1, j + 1]
    return (1 - up) * lower + up * upper


def viewpoint(landscape: Landscape, box: np.ndarray) -> np.ndarray:
    """The camera position, in units of the scene, from which the surface hides the least of the trajectories.

    box: the sides of the scene. Among equally good positions, the lowest one is chosen.
    """
    heights = logarithm(landscape.losses)
    low = np.array([landscape.grid.x[0], landscape.grid.y[0], np.nanmin(heights)])
    high = np.array([landscape.grid.x[-1], landscape.grid.y[-1], np.nanmax(heights)])
    scale = box / np.maximum(high - low, 1e-12)
    drawn = np.concatenate([np.stack(draped(landscape, run.coordinates)) for run in landscape.trajectories], axis=1).T
    points = (drawn - (low + high) / 2) * scale  # (points, 3), in the scene
    along = np.linspace(0.02, 0.7, SIGHT_STEPS)[:, None, None]  # further along, the line of sight has left the box
    best, most = np.zeros(3), -1.0
    for elevation in ELEVATIONS:
        for azimuth in np.arange(0, 2 * np.pi, np.pi / 12):
            flat = EYE_DISTANCE * np.cos(elevation)
            eye = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), EYE_DISTANCE * np.sin(elevation)])
            sight = points + along * (eye - points)  # (steps, points, 3)
            x, y, height = np.moveaxis(sight / scale + (low + high) / 2, -1, 0)
            inside = (abs(sight) < box / 2).all(axis=-1)
            hidden = (inside & (height < height_at(landscape, x, y))).any(axis=0)
            seen = round(1 - hidden.mean(), 2)
            if seen > most:
                best, most = eye, seen
    return best


def colour_bar(landscape: Landscape) -> dict[str, Any]:
    """A colour bar labelled with losses rather than logarithms."""
    ticks = log_ticks(*loss_range(landscape))
    return {
        "title": {"text": "loss"},
        "tickvals": np.log10(ticks),
        "ticktext": [f"{tick:g}" for tick in ticks],
        "thickness": 16,
    }


def styled(figure: go.Figure, landscape: Landscape) -> go.Figure:
    """The figure with its title and legend."""
    return figure.update_layout(
        title={"text": f"{title(landscape)}<br><sup>{marker_key(landscape)}</sup>", "x": 0.5},
        font={"family": "Helvetica, Arial, sans-serif", "size": 15, "color": INK},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yref": "container", "yanchor": "bottom"},
        template="plotly_white",
        margin={"l": 80, "r": 110, "t": 90, "b": 120},
    )


def write_page(figure: go.Figure, landscape: Landscape, path: Path, *, shared_plotly: bool) -> None:
    """Write a page that works offline: plotly.js is embedded, or shared by all pages of the folder."""
    if shared_plotly:
        share_plotly(path.parent)
    plot = figure.to_html(
        include_plotlyjs="directory" if shared_plotly else True,
        full_html=False,
        config={"displaylogo": False},
    )
    text = html.escape(landscape.report()).replace("\n", "<br>\n")
    with atomic_write(path) as unfinished:
        unfinished.write_text(
            f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{html.escape(path.stem)}</title></head>
<body style="width: fit-content; margin: auto">
{plot}
<p style="font: 14px/1.5 Helvetica, Arial, sans-serif; color: {INK}; margin: 1em 3em">{text}</p>
</body>
</html>
""",
            encoding="utf-8",
        )


def share_plotly(folder: Path) -> None:
    """Write plotly.min.js to a folder unless this version is already there."""
    path, script = folder / "plotly.min.js", get_plotlyjs()
    if not path.exists() or path.stat().st_size != len(script.encode()):
        with atomic_write(path) as unfinished:
            unfinished.write_text(script, encoding="utf-8")


# ----------------------------------------------------------------------------------------------------
# Image
# ----------------------------------------------------------------------------------------------------


def contour_image(landscape: Landscape) -> Figure:
    """The contour for print."""
    low, high = loss_range(landscape)
    low, high = low * (1 - 1e-6), high * (1 + 1e-6)  # so that rounding excludes no point
    ticks = log_ticks(low, high)
    losses = np.ma.masked_invalid(10 ** logarithm(landscape.losses))
    x, y = landscape.grid.x, landscape.grid.y
    size = np.add(plane_size(landscape, 6, 5), (1.5, 1.4))  # inches
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    levels = np.geomspace(low, high, LEVELS + 1)
    filled = axes.contourf(
        x, y, losses, levels, norm=LogNorm(low, high), cmap=LinearSegmentedColormap.from_list("loss", SHADES)
    )
    lines = axes.contour(x, y, losses, ticks, colors=PAPER, linewidths=0.8)
    bar = figure.colorbar(filled, ax=axes, label="loss")
    bar.add_lines(lines)
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter("{x:g}")
    for style in styles(landscape):
        axes.plot(*style.run.coordinates.T, color=PAPER, linewidth=1.6 * style.width + 2, zorder=4)
    for style in styles(landscape):
        x, y = style.run.coordinates.T
        line = {"color": style.colour, "linestyle": DASHES[style.dash], "linewidth": 1.6 * style.width}
        axes.plot(
            x,
            y,
            **line,
            marker="o",
            markersize=5,
            markeredgecolor=PAPER,
            zorder=4,
            label=style.run.label.replace("$", r"\$"),
        )
        axes.plot(
            x[0], y[0], "o", color=PAPER, markeredgecolor=style.colour, markeredgewidth=1.5, markersize=8, zorder=5
        )
        axes.plot(x[-1], y[-1], "s", color=style.colour, markeredgecolor=PAPER, markersize=8, zorder=5)
    for name, symbol, (x, y), _, _ in single_points(landscape):
        fill, edge = FILLS[symbol]
        axes.plot(x, y, "D", color=fill, markeredgecolor=edge, markersize=9, zorder=5, label=name)
    axes.set(xlim=landscape.grid.x[[0, -1]], ylim=landscape.grid.y[[0, -1]], aspect="equal")
    first, second = axis_titles(landscape)
    axes.set(xlabel=first, ylabel=second)
    axes.set_title(f"{title(landscape)}\n{marker_key(landscape)}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure
