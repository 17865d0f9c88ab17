"""Forest plots: paired differences in test accuracy below the claims that they belong to."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles
from analysis.spread import half_width

CLAIM, PLACE = 80, 44  # characters of a line
TICKS = (1, 3, 10, 30, 100)  # points


@dataclass(frozen=True)
class Row:
    """A line of a forest plot. values: of all pairs, points; remark: at the right end of the line."""

    claim: str
    place: str
    values: Sequence[float]
    color: str = OKABE_ITO[0]
    filled: bool = True
    remark: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        """Of the 95 % interval, or the mean where there is none."""
        mean, half = statistics.fmean(self.values), half_width(self.values)
        return (mean, mean) if math.isnan(half) else (mean - half, mean + half)


def forest(rows: Sequence[Row], pairs: bool = False) -> tuple[Figure, Axes]:
    """The mean and 95 % interval of each row. pairs: whether each pair is drawn, too. The caller adds title and key."""
    claims = {row.claim: textwrap.wrap(row.claim, CLAIM) for row in rows}
    labels = [textwrap.wrap(row.place, PLACE) or [""] for row in rows]
    lines = sum(map(len, labels)) + sum(len(claim) + 0.3 for claim in claims.values())
    figure = new_figure(1.2 + 0.17 * lines)
    axes = figure.subplots()
    places, place = [], 0.0
    for claim, words in claims.items():
        axes.annotate("\n".join(words), (0.01, place + (len(words) - 1) / 2), xycoords=("axes fraction", "data"),
                      va="center", fontweight="bold", bbox={"color": "white", "pad": 1})  # fmt: skip
        place += len(words) - 1
        for row, label in zip(rows, labels, strict=True):
            if row.claim == claim:
                place += (len(label) + 1) / 2
                draw_row(axes, row, place, pairs)
                places.append((place, "\n".join(label)))
                place += (len(label) - 1) / 2
        place += 1.3
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    axes.set_yticks(*zip(*places, strict=True))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place - 0.5, -0.7)
    frame(axes, [end for row in rows if row.values for end in (*row.ends, *(row.values if pairs else ()))])
    axes.set_xlabel("difference in test accuracy (points)")
    set_titles(axes, "")
    return figure, axes


def draw_row(axes: Axes, row: Row, place: float, pairs: bool) -> None:
    """A point and its interval, the pairs faint, and the remark."""
    if row.values:
        low, high = row.ends
        if pairs:
            axes.plot(row.values, [place] * len(row.values), ".", color=row.color, alpha=0.4, markersize=3)
        axes.errorbar((low + high) / 2, place, xerr=(high - low) / 2 or None, fmt="o", color=row.color, markersize=4,
                      markerfacecolor=row.color if row.filled else "white", capsize=2, linewidth=1)  # fmt: skip
    if row.remark:
        axes.annotate(
            row.remark, (0.99, place), xycoords=("axes fraction", "data"), ha="right", va="center", color="0.3"
        )


def frame(axes: Axes, ends: Sequence[float]) -> None:
    """An axis that shows all of these, logarithmic on both sides of 0."""
    axes.set_xscale("symlog", linthresh=2)
    low, high = 1.5 * min([-1.0, *ends]), 1.5 * max([1.0, *ends])
    ticks = [sign * tick for sign in (-1, 1) for tick in TICKS]
    axes.set_xticks([0, *(tick for tick in ticks if low <= tick <= high)], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
    axes.set_xlim(low, high)
