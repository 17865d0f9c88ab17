"""Forest plots: paired differences in test accuracy below the claims that they belong to."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import AutoMinorLocator, MaxNLocator

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles
from analysis.spread import half_width

LINES = 45  # in a column; more make another one
PLACE, CLAIM = (44, 30, 26), (80, 36, 30)  # characters of a line with one, two and three columns
TICKS = ((1, 2, 5, 10, 30, 100), (2, 10, 50), (10,))  # points, with one, two and three columns
WIDE = (20, 20, 10)  # points; a figure that shows a larger difference has a logarithmic scale
LINEAR = 2  # points on both sides of 0 that such a scale shows as they are


@dataclass(frozen=True)
class Row:
    """A line of a forest plot. values: of all pairs, points."""

    claim: str
    place: str
    values: Sequence[float]
    color: str = OKABE_ITO[0]
    filled: bool = True

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the 95 % interval; twice the mean where there is none."""
        mean, half = statistics.fmean(self.values), half_width(self.values)
        return (mean, mean) if math.isnan(half) else (mean - half, mean + half)


@dataclass(frozen=True)
class Block:
    """A claim and its rows, each with the lines of its text."""

    claim: list[str]
    rows: list[tuple[Row, list[str]]]

    @property
    def lines(self) -> float:
        """The height of this part, in lines of text."""
        return len(self.claim) + 0.3 + sum(len(label) for _, label in self.rows)


def forest(rows: Sequence[Row], pairs: bool = False) -> tuple[Figure, list[Axes]]:
    """The mean and 95 % interval of each row, in as many columns as a page needs. The caller adds title and key.

    pairs: whether each pair is drawn, too. The title should end with scale_of(panels).
    """
    for columns in (1, 2, 3):
        blocks = [
            Block(textwrap.wrap(claim, CLAIM[columns - 1]), [
                (row, textwrap.wrap(row.place, PLACE[columns - 1]) or [""]) for row in rows if row.claim == claim
            ])
            for claim in dict.fromkeys(row.claim for row in rows)
        ]  # fmt: skip
        if sum(block.lines for block in blocks) <= LINES * columns:
            break
    parts = split(blocks, columns)
    columns = len(parts)  # a long block may leave fewer
    figure = new_figure(1.2 + 0.17 * max(sum(block.lines for block in part) for part in parts))
    panels = list(figure.subplots(1, len(parts), squeeze=False)[0])
    ends = [end for row in rows if row.values for end in (*row.ends, *(row.values if pairs else ()))]
    bottom = max(draw_blocks(axes, part, pairs) for axes, part in zip(panels, parts, strict=True))
    for heading in (text for axes in panels for text in axes.texts if columns > 1):
        heading.set(x=0.99, ha="right", in_layout=False)  # beyond the narrow panel, above the names of its rows
    for axes in panels:
        axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(bottom - 0.5, -0.7)
        axes.spines["left"].set_bounds(min(axes.get_yticks()) - 0.5, bottom - 0.5)
        frame(axes, ends, TICKS[columns - 1], WIDE[columns - 1])
        axes.set_xlabel("difference in test accuracy (points)" if columns == 1 else "difference (points)")
        set_titles(axes, "")
    return figure, panels


def split(blocks: Sequence[Block], columns: int) -> list[list[Block]]:
    """The blocks in order, in columns of about the same height."""
    height = sum(block.lines for block in blocks) / columns
    parts, top = [], 0.0
    for block in blocks:
        if len(parts) <= (top + block.lines / 2) / height:
            parts.append([])
        parts[-1].append(block)
        top += block.lines
    return parts


def draw_blocks(axes: Axes, blocks: Sequence[Block], pairs: bool) -> float:
    """Claims and their rows below one another; returns where they end, in lines."""
    places, place = [], 0.0
    for block in blocks:
        middle = place + (len(block.claim) - 1) / 2
        axes.annotate("\n".join(block.claim), (0.01, middle), xycoords=("axes fraction", "data"), va="center",
                      fontweight="bold", bbox={"color": "white", "pad": 1})  # fmt: skip
        place += len(block.claim) - 1
        for row, label in block.rows:
            place += (len(label) + 1) / 2
            draw_row(axes, row, place, pairs)
            places.append((place, "\n".join(label)))
            place += (len(label) - 1) / 2
        place += 1.3
    axes.set_yticks(*zip(*places, strict=True))
    return place


def draw_row(axes: Axes, row: Row, place: float, pairs: bool) -> None:
    """A point and its interval, the pairs faint; nothing of a row without values."""
    if not row.values:
        return
    low, high = row.ends
    if pairs:
        axes.plot(row.values, [place] * len(row.values), ".", color=row.color, alpha=0.4, markersize=3)
    axes.errorbar((low + high) / 2, place, xerr=(high - low) / 2 or None, fmt="o", color=row.color, markersize=4,
                  markerfacecolor=row.color if row.filled else "white", capsize=2, linewidth=1)  # fmt: skip


def frame(axes: Axes, ends: Sequence[float], ticks: Sequence[int], wide: int) -> None:
    """An axis that shows all of these: linear, or logarithmic on both sides of 0 if one is more than `wide` from it."""
    if max(map(abs, ends), default=0) <= wide:
        axes.xaxis.set_major_locator(MaxNLocator(len(ticks) + 2, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(AutoMinorLocator(2))
        low, high = 1.1 * min([-1.0, *ends]), 1.1 * max([1.0, *ends])
    else:
        axes.set_xscale("symlog", linthresh=LINEAR)
        low, high = 1.5 * min([-1.0, *ends]), 1.5 * max([1.0, *ends])
        signed = [sign * tick for sign in (-1, 1) for tick in ticks]
        axes.set_xticks([0, *(tick for tick in signed if low <= tick <= high)], minor=False)
        between = [sign * tick * decade for sign in (-1, 1) for decade in (1, 10) for tick in range(1, 10)]
        axes.set_xticks([tick for tick in between if low <= tick <= high], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
    axes.set_xlim(low, high)


def scale_of(panels: Sequence[Axes]) -> str:
    """What a title has to say about the scale; empty if it is linear."""
    return f"; logarithmic beyond ±{LINEAR} points" if panels[0].get_xscale() == "symlog" else ""
