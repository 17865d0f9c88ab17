"""Accuracy against one setting of a sweep: a line for each value of a second one, panels for those of others.

What there is to draw follows from the runs: there is no list of workers, delays or seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import MARKERS, OKABE_ITO, annotate, new_figure, set_titles, write_key, write_title
from analysis.spread import Spread, counted
from catalogue import DATASETS
from training.config import RunConfig

ACCURACY = "test accuracy (%)"
PANEL_HEIGHT = 1.55  # inches
STEP = 0.07  # between the marks of runs that did not converge, as a fraction of a panel

Aspect = Callable[[RunConfig], tuple[Any, str]]  # of a setting: a value to sort by, and its name


@dataclass(frozen=True)
class Point:
    """A setting: its test accuracies, percent, one per seed, and that of the published run, if there is one.

    converged: how many seeds did.
    """

    config: RunConfig
    accuracies: tuple[float, ...] = ()
    converged: int = 0
    published: float | None = None

    @property
    def published_converged(self) -> bool | None:
        """Whether the published run did, by the measure of this suite's own runs; None if there is none."""
        return None if self.published is None else DATASETS[self.config.dataset].was_learned(self.published)


@dataclass(frozen=True)
class Sweep:
    """What a figure compares. x: the swept setting, with its title below each panel."""

    title: str
    x_title: str
    x: Aspect
    lines: Aspect
    columns: Aspect
    rows: Aspect = lambda config: (0, "")


Line = list[Point]
Grid = dict[tuple[Any, Any], dict[str, Line]]  # (row, column) → name of a line → its points


def arrange(sweep: Sweep, points: Iterable[Point]) -> Grid:
    """The points of each line of each panel; panels in which nothing is swept are left out."""
    found: dict[tuple[Any, Any], dict[tuple[Any, str], Line]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        found[sweep.rows(point.config), sweep.columns(point.config)][sweep.lines(point.config)].append(point)
    return {
        place: {name: line for (_, name), line in sorted(lines.items())}
        for place, lines in found.items()
        if max(len({sweep.x(point.config) for point in line}) for line in lines.values()) > 1
    }


def sweep_figure(sweep: Sweep, points: Iterable[Point], control: Point | None = None) -> Figure:
    """Rows and columns of panels. control: what the same training reaches without distribution."""
    grid = arrange(sweep, points)
    rows, columns = (sorted({place[axis] for place in grid}) or [(0, "")] for axis in (0, 1))
    drawn = [point for lines in grid.values() for line in lines.values() for point in line]
    styles = styles_of(sorted({sweep.lines(point.config) for point in drawn}))
    figure = new_figure(1.3 + PANEL_HEIGHT * len(rows))
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row")
    for row, beside in zip(rows, panels, strict=True):
        failures = []
        for axes, column in zip(beside, columns, strict=True):
            lines = grid.get((row, column), {})
            failures.append(draw_panel(axes, sweep, lines, styles))
            if control and control.accuracies and lines:
                axes.axhline(np.mean(control.accuracies), color="0.5", linestyle=":", linewidth=0.8, zorder=0)
            set_titles(axes, column[1] if row == rows[0] else "")
        draw_failures(beside, failures)
        beside[0].set_ylabel("\n".join([*filter(None, row[1].split(", ")), ACCURACY]))
    for axes in panels[-1]:
        axes.set_xlabel(sweep.x_title)
    write_key(figure, key(styles, drawn, control))
    faint = "; faint points: each seed" if any(len(point.accuracies) > 1 for point in drawn) else ""
    write_title(figure, f"{sweep.title}\n{describe(drawn)}{faint}")
    return figure


Style = dict[str, Any]
Mark = tuple[int, Style]  # a place on the x axis, and how what did not converge there is marked
PUBLISHED: Style = {"marker": "+", "markersize": 6, "markeredgewidth": 1, "linestyle": ""}
FAILED: Style = {"marker": "x", "markersize": 3.5, "markeredgewidth": 1, "linestyle": ""}


def styles_of(lines: Sequence[tuple[Any, str]]) -> dict[str, Style]:
    """A colour, a marker and a width of its bars for each line: at one place, bars of several remain visible."""
    caps = np.linspace(3.5, 1.5, len(lines))
    looks = zip(lines, cycle(zip(OKABE_ITO, MARKERS, strict=False)), caps, strict=False)
    return {name: {"color": color, "marker": marker, "capsize": cap} for (_, name), (color, marker), cap in looks}


def draw_panel(axes: Axes, sweep: Sweep, lines: dict[str, Line], styles: dict[str, Style]) -> list[Mark]:
    """The lines of one panel; the values of the swept setting are equally far apart. Returns what did not converge."""
    values = sorted({sweep.x(point.config) for line in lines.values() for point in line})
    failures = []
    for name, line in lines.items():
        placed = sorted(((values.index(sweep.x(point.config)), point) for point in line), key=lambda one: one[0])
        draw_line(axes, placed, styles[name])
        color = {"color": styles[name]["color"]}
        failures += [(x, FAILED | color) for x, point in placed if point.accuracies and not point.converged]
        failures += [(x, PUBLISHED | color) for x, point in placed if point.published_converged is False]
    axes.set_xticks(range(len(values)), [text for _, text in values])
    axes.set_xlim(-0.4, max(1, len(values)) - 0.6)
    if not lines:
        annotate(axes, "nothing measured")
    return failures


def draw_line(axes: Axes, line: list[tuple[int, Point]], style: Style) -> None:
    """Mean and standard deviation of several seeds filled, each seed faint; a single seed hollow, without a bar."""
    color = style["color"]
    means = [(x, np.mean(point.accuracies) if point.converged else np.nan) for x, point in line if point.accuracies]
    if means:
        axes.plot(*zip(*means, strict=True), color=color, linewidth=0.8, alpha=0.7)
    for x, point in line:
        if point.converged:
            draw_mean(axes, x, Spread.of(point.accuracies), **style)
            axes.plot([x] * len(point.accuracies), point.accuracies, ".", color=color, alpha=0.4, markersize=2.5)
        if point.published_converged:
            axes.plot(x, point.published, color=color, **PUBLISHED)


def draw_mean(axes: Axes, x: float, spread: Spread, **style: Any) -> None:
    """A filled point with a bar; a single seed, which has no deviation, is a hollow point without a bar."""
    if math.isnan(spread.deviation):
        axes.plot(x, spread.mean, color=style["color"], marker=style["marker"], markerfacecolor="white")
    else:
        axes.errorbar(x, spread.mean, spread.deviation, elinewidth=0.8, **{"capsize": 2} | style)


def draw_failures(panels: Sequence[Axes], failures: Sequence[list[Mark]]) -> None:
    """Marks below the scale of some panels, which they would stretch: those of one colour stand at one height."""
    colors = sorted({style["color"] for marks in failures for _, style in marks}, key=OKABE_ITO.index)
    if not (tallest := len(colors)):
        return
    low, high = panels[0].get_ylim()
    step = STEP * (high - low) / (1 - STEP * (tallest + 0.5))
    panels[0].set_ylim(low - step * (tallest + 0.5), high)
    for axes, marks in zip(panels, failures, strict=True):
        axes.axhspan(low - step * (tallest + 0.5), low, color="0.94", linewidth=0, zorder=0)
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
        for x, style in marks:
            axes.plot(x, low - step * (colors.index(style["color"]) + 0.75), **style)


def key(styles: dict[str, Style], drawn: Sequence[Point], control: Point | None) -> list[Line2D]:
    """The key: the lines, and each kind of point that occurs."""
    lines = [Line2D([], [], color=style["color"], marker=style["marker"], linewidth=0.8, label=name)
             for name, style in styles.items()]  # fmt: skip
    failed = Line2D([], [], color="0.3", **FAILED, label="no convergence")
    published = Line2D([], [], color="0.3", **PUBLISHED, label="published, one run")
    reference = Line2D([], [], color="0.5", linestyle=":", linewidth=0.8, label="not distributed")
    return [
        *lines,
        *single_key(drawn),
        *[failed] * any(point.accuracies and not point.converged for point in drawn),
        *[published] * any(point.published is not None for point in drawn),
        *[reference] * bool(control and control.accuracies),
    ]


def single_key(drawn: Sequence[Point]) -> list[Line2D]:
    """How a single seed is drawn, if there is one."""
    single = Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="one seed")
    return [single] * any(len(point.accuracies) == 1 for point in drawn)


def describe(drawn: Sequence[Point]) -> str:
    """What is trained, with how many seeds, and what points and bars are."""
    measured = [point for point in drawn if point.accuracies]
    if not measured:
        return "nothing measured yet"
    networks = ", ".join(sorted({point.config.network_name for point in measured}))
    titles = ", ".join(sorted({DATASETS[point.config.dataset].title for point in measured}))
    counts = [len(point.accuracies) for point in measured]
    bars = "; mean ± sample standard deviation over the seeds" if max(counts) > 1 else ""
    return f"{networks} on {titles}, {counted(counts)} per setting{bars}"
