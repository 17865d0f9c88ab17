"""The contrasts of the second edition, which were written down before its runs, and what came of them.

python3 -m analysis.study.contrasts partitions summaries/partitions --plot_dir plots

Reads summaries/contrasts.json and the trials of an experiment; writes contrasts.md beside the trials, and a forest
plot. A contrast is a difference in test accuracy, in points, of two cells of an experiment that is paired by seed, or
the difference of two such differences. Intervals are Student's t over the seeds; the p-values of an experiment's
primary contrasts are adjusted together (Holm 1979). Of a contrast with a margin it is asked whether the two are
equivalent: two one-sided tests (Schuirmann 1987), which is to say that the 90 % interval lies within the margin. A run
that diverged has no accuracy that a mean could take in: pairs with one are counted and left out.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import OKABE_ITO, Figure, new_figure, save, set_titles, write_key, write_title
from analysis.flags import add_plot_dir
from analysis.reports.trials import Trials
from analysis.spread import counted, half_width
from analysis.study.design import EXPERIMENTS, Cell, Experiment, diverged
from analysis.study.experiment_plots import FIGURES
from analysis.tables import markdown_table, write_text
from interface.command_line import ArgumentParser, count, run_script
from interface.errors import DataError
from interface.files import make_folder, with_filename

CONTRASTS = Path(__file__).resolve().parents[2] / "summaries/contrasts.json"
LEVEL = 0.05  # of significance
UNSETTLED = ("too few runs", "not settled")
FEWEST = 3  # pairs of which an interval is given


@dataclass(frozen=True)
class Contrast:
    """The difference between two cells, first − second, or that difference less the same one in another place.

    cells: two, or four; claim, where: what is compared, in words; margin: of equivalence, points; None if it is asked
    whether they differ.
    """

    claim: str
    cells: tuple[Cell, ...]
    where: str
    primary: bool
    margin: float | None


@dataclass(frozen=True)
class Effect:
    """What came of a contrast. differences: points, one per seed; diverged: pairs that count for nothing."""

    contrast: Contrast
    differences: tuple[float, ...]
    diverged: int

    @property
    def mean(self) -> float:
        """Of the differences, points."""
        return statistics.fmean(self.differences) if self.differences else math.nan

    @property
    def half_width(self) -> float:
        """Of the 95 % interval."""
        return half_width(self.differences)

    @property
    def low(self) -> float:
        """Of the interval, or the mean where there is none."""
        return self.mean if math.isnan(self.half_width) else self.mean - self.half_width

    @property
    def high(self) -> float:
        """The same at its other end."""
        return 2 * self.mean - self.low

    @property
    def in_words(self) -> str:
        """The mean and its 95 % interval."""
        if not self.differences:
            return ""
        interval = "" if math.isnan(self.half_width) else f" ± {self.half_width:.2f}"
        return f"{self.mean:+.2f}{interval}".replace("-", "−")

    @property
    def p(self) -> float:
        """Of the hypothesis that there is no difference, or with a margin, that it is at least that large."""
        from scipy.special import stdtr

        if len(self.differences) < FEWEST:
            return math.nan
        error = statistics.stdev(self.differences) / math.sqrt(len(self.differences))
        freedom, margin = len(self.differences) - 1, self.contrast.margin
        if margin is None:
            return 2 * float(stdtr(freedom, -abs(self.mean) / error)) if error else float(self.mean == 0)
        return float(stdtr(freedom, (abs(self.mean) - margin) / error)) if error else float(abs(self.mean) >= margin)


# ----------------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------------


def read_contrasts(path: Path, name: str) -> list[Contrast]:
    """Those of an experiment. Raises DataError if the file does not fit the experiment."""
    try:
        with with_filename(path):
            rows = json.loads(path.read_text(encoding="utf-8"))
        return [contrast for row in rows[name] for contrast in expanded(row, EXPERIMENTS[name])]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: not the contrasts of {name} ({error})") from error


def expanded(row: dict[str, Any], experiment: Experiment) -> list[Contrast]:
    """A row of the file: one contrast for each combination of the levels of the factors in `each`.

    A combination that would be compared with itself is left out.
    """
    found = []
    each = {factor: list(experiment.factors[factor]) for factor in row.get("each", ())}
    for levels in itertools.product(*each.values()):
        here = dict(zip(each, levels, strict=True))
        places = [row.get("at", {}) | here]
        if "less_at" in row:
            places.append(places[0] | row["less_at"])
        cells = tuple(
            cell_of(place | row[side], experiment) for place, side in itertools.product(places, ("first", "second"))
        )
        if cells[0] == cells[1]:
            continue
        where = ", ".join(f"{factor} {level}" for factor, level in here.items())
        found.append(Contrast(row["claim"], cells, where, row.get("primary", False), row.get("margin")))
    return found


def cell_of(levels: dict[str, str], experiment: Experiment) -> Cell:
    """The cell with these levels. Raises ValueError if it is none."""
    if set(levels) != set(experiment.factors):
        raise ValueError(f"give a level of each of {', '.join(experiment.factors)}, not of {', '.join(levels)}")
    for factor, level in levels.items():
        if level not in experiment.factors[factor]:
            raise ValueError(f"{factor} {level} is none of {', '.join(experiment.factors[factor])}")
    return tuple(levels[factor] for factor in experiment.factors)


def measure(contrast: Contrast, accuracies: dict[Cell, dict[int, float | None]]) -> Effect:
    """The differences of the seeds that all of its cells have. accuracies: cell → seed → percent, None if diverged."""
    found, lost = [], 0
    for seed in sorted(set.intersection(*(set(accuracies[cell]) for cell in contrast.cells))):
        values = [accuracies[cell][seed] for cell in contrast.cells]
        if None in values:
            lost += 1
        else:
            found.append(sum(value * sign for value, sign in zip(values, (1, -1, -1, 1), strict=False)))
    return Effect(contrast, tuple(found), lost)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


# ----------------------------------------------------------------------------------------------------
# Answers
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An effect, and its p-value among the primary contrasts; NaN if it is not one, or has too few pairs."""

    effect: Effect
    adjusted_p: float

    @property
    def p(self) -> float:
        """The one that counts."""
        return self.adjusted_p if self.effect.contrast.primary else self.effect.p

    @property
    def verdict(self) -> str:
        """In words."""
        margin = self.effect.contrast.margin
        if math.isnan(self.p):
            return "too few runs"
        if self.p < LEVEL:
            return "different" if margin is None else f"equal within {margin:g}"
        beyond = margin is not None and (self.effect.low > margin or self.effect.high < -margin)
        return f"more than {margin:g} apart" if beyond else "not settled"


def answer(experiment: Experiment, folder: Path, contrasts: Sequence[Contrast]) -> list[Answer]:
    """What the trials of a folder say."""
    accuracies = {
        cell: {seed: experiment.accuracy(cell, trial) for seed, trial in by_seed.items()}
        for cell, by_seed in experiment.read(folder).items()
    }
    effects = [measure(contrast, accuracies) for contrast in contrasts]
    tested = [effect for effect in effects if effect.contrast.primary and not math.isnan(effect.p)]
    adjusted = dict(zip(map(id, tested), holm([effect.p for effect in tested]), strict=True))
    return [Answer(effect, adjusted.get(id(effect), math.nan)) for effect in effects]


def markdown(experiment: Experiment, answers: Sequence[Answer]) -> str:
    """One row per contrast."""
    rows = []
    for one in answers:
        effect, contrast = one.effect, one.effect.contrast
        rows.append([
            contrast.claim, contrast.where, "primary" if contrast.primary else "", str(len(effect.differences)),
            effect.in_words, str(effect.diverged or ""),
            "" if math.isnan(one.p) else in_words(one.p), one.verdict,
        ])  # fmt: skip
    titles = ("contrast", "where", "", "pairs", "difference, points", "diverged", "p", "answer")
    return (
        f"# {experiment.title}\n\nDifferences in test accuracy, paired by seed: mean and 95 % confidence interval "
        "(Student's t) over the seeds. Diverged: pairs that are left out because one of their runs did. p: of no "
        "difference, or where a margin is named, of one that is larger; those of the primary contrasts are adjusted "
        f'together (Holm). "More than 1 apart" says that the interval, which is not adjusted, lies beyond the margin. '
        "This reading was added when six of the ten seeds of the partitions were known."
        f"\n\n{markdown_table(titles, rows)}"
    )


def tuning_table(experiment: Experiment, folder: Path) -> str:
    """Mean validation accuracy with each learning rate that was tried, the best in bold."""
    tried = experiment.tried(Trials(folder / "tuning"))
    best = experiment.best_rates(Trials(folder / "tuning"))
    rates = sorted({rate for by_rate in tried.values() for rate in by_rate})
    tuned = [place for place, factor in enumerate(experiment.factors) if factor in experiment.tuned]
    rows = [
        [", ".join(cell[place] for place in tuned)]
        + [f"**{by_rate[rate]:.1f}**" if rate == best[cell] else f"{by_rate[rate]:.1f}" if rate in by_rate else ""
           for rate in rates]
        for cell, by_rate in tried.items()
    ]  # fmt: skip
    titles = (", ".join(experiment.tuned), *(f"{rate:g}" for rate in rates))
    return (
        f"## Learning rates\n\nValidation accuracy at the end, %, by learning rate; mean over "
        f"{count(len(experiment.tuning_seeds), 'seed')}.\n\n{markdown_table(titles, rows)}"
    )


def divergence(experiment: Experiment, folder: Path) -> str:
    """How many runs of each cell diverged, with Clopper and Pearson's interval (1934) of the rate."""
    from scipy.stats import binomtest

    rows, total = [], 0
    for cell, by_seed in experiment.read(folder).items():
        lost = sum(map(diverged, by_seed.values()))
        total += len(by_seed)
        if lost:
            low, high = binomtest(lost, len(by_seed)).proportion_ci(1 - LEVEL, method="exact")
            rows.append([", ".join(cell), f"{lost} of {len(by_seed)}", f"{100 * low:.0f} to {100 * high:.0f} %"])
    if not rows:
        return f"## Runs that diverged\n\nNone of the {total} outcomes is that of a run that diverged.\n"
    titles = (", ".join(experiment.factors), "runs", "95 % interval of the rate")
    return f"## Runs that diverged\n\n{markdown_table(titles, rows)}"


def in_words(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def forest(experiment: Experiment, answers: Sequence[Answer]) -> Figure:
    """The difference and interval of each contrast, below its claim; those that are settled filled."""
    shown = [one for one in answers if one.effect.differences]
    claims = list(dict.fromkeys(one.effect.contrast.claim for one in shown))
    figure = new_figure(1.2 + 0.17 * (len(shown) + 1.3 * len(claims)))
    axes = figure.subplots()
    places, labels, place = [], [], 0.0
    for claim in claims:
        axes.annotate(claim, (0.01, place), xycoords=("axes fraction", "data"), va="center", fontweight="bold",
                      bbox={"color": "white", "pad": 1})  # fmt: skip
        for one in (one for one in shown if one.effect.contrast.claim == claim):
            place += 1
            draw_effect(axes, one, place)
            places.append(place)
            labels.append(one.effect.contrast.where)
        place += 1.3
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place - 0.5, -0.7)
    axes.set_xscale("symlog", linthresh=2)
    low = 1.5 * min(-1.0, *(one.effect.low for one in shown))
    high = 1.5 * max(1.0, *(one.effect.high for one in shown))
    ticks = [sign * tick for sign in (-1, 1) for tick in (1, 3, 10, 30, 100)]
    axes.set_xticks([0, *(tick for tick in ticks if low <= tick <= high)], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
    axes.set_xlim(low, high)
    axes.set_xlabel("difference in test accuracy (points)")
    set_titles(axes, "")
    margins = {one.effect.contrast.margin for one in shown if one.effect.contrast.margin is not None}
    for margin in margins:
        axes.axvspan(-margin, margin, color="0.93", zorder=-1)
    kinds = {True: "primary contrast", False: "other"}
    write_key(figure, [
        *(Line2D([], [], color=color_of(kind), marker="o", linewidth=1, label=name) for kind, name in kinds.items()),
        Line2D([], [], color="0.3", marker="o", linestyle="", markerfacecolor="white", label="not settled"),
        *(Patch(color="0.93", label=f"within {margin:g} point{'' if margin == 1 else 's'}") for margin in margins),
    ])  # fmt: skip
    seeds = counted([len(one.effect.differences) for one in shown], "pair")
    write_title(figure, f"{experiment.title}\nmean and 95 % interval over the seeds, {seeds}")
    return figure


def draw_effect(axes: Axes, one: Answer, place: float) -> None:
    """A point and its interval."""
    color, half = color_of(one.effect.contrast.primary), one.effect.half_width
    axes.errorbar(one.effect.mean, place, xerr=None if math.isnan(half) else half, fmt="o", color=color, markersize=4,
                  markerfacecolor="white" if one.verdict in UNSETTLED else color, capsize=2, linewidth=1)  # fmt: skip


def color_of(primary: bool) -> str:
    """That of a contrast."""
    return OKABE_ITO[0] if primary else OKABE_ITO[1]


def write_answers(name: str, experiment: Experiment, folder: Path, plot_dir: Path) -> None:
    """contrasts.md beside the trials of an experiment, and its figure."""
    answers = answer(experiment, folder, read_contrasts(CONTRASTS, name))
    parts = (markdown(experiment, answers), divergence(experiment, folder), tuning_table(experiment, folder))
    text = "\n".join(parts)
    write_text(folder / "contrasts.md", text)
    written = save(forest(experiment, answers), make_folder(plot_dir, "--plot_dir") / name)
    if name in FIGURES:
        written += save(FIGURES[name](experiment, experiment.read(folder)), plot_dir / f"{name}_runs")
    print(*(f"  {path}" for path in (folder / "contrasts.md", *written)), sep="\n")


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("experiment", metavar="NAME", choices=EXPERIMENTS, help=", ".join(EXPERIMENTS))
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where trials.jsonl is")
    add_plot_dir(parser, "plots")
    arguments = parser.parse_args()
    name = arguments.experiment
    write_answers(name, EXPERIMENTS[name], arguments.folder, arguments.plot_dir)


if __name__ == "__main__":
    run_script(main)
