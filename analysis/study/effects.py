"""Contrasts that were written down before the runs of an experiment, and what its rows say of them.

A contrast is a difference in test accuracy, in points, of two cells of an experiment that is paired by seed, or the
difference of two such differences. Of each it is asked whether there is a difference (Student's two-sided t test over
the seeds); of one with a margin also whether the two are equal within it (two one-sided tests, Schuirmann 1987). Each
of the two questions has its p-values adjusted together over the primary contrasts of an experiment (Holm 1979). A run
that diverged has no accuracy that a mean could take in: pairs with one are counted and left out, and nothing with such
a pair is called equal.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.spread import half_width
from analysis.study.design import EXPERIMENTS, Cell, Experiment, Runs
from interface.command_line import count
from interface.errors import DataError
from interface.files import with_filename

CONTRASTS = Path(__file__).resolve().parents[2] / "summaries/contrasts.json"
LEVEL = 0.05  # of significance
POWER = 0.8
FEWEST = 3  # pairs of which an interval is given


@dataclass(frozen=True)
class Contrast:
    """The difference between two cells, first − second, or that difference less the same one in another place.

    cells: two, or four; claim, where: what is compared, in words; margin: of equivalence, points; None if it is only
    asked whether they differ.
    """

    claim: str
    cells: tuple[Cell, ...]
    where: str
    primary: bool
    margin: float | None


@dataclass(frozen=True)
class Effect:
    """What came of a contrast. differences: points, one per seed; lost: pairs without one."""

    contrast: Contrast
    differences: tuple[float, ...]
    lost: int

    @property
    def pairs(self) -> int:
        """All that were run."""
        return len(self.differences) + self.lost

    @property
    def mean(self) -> float:
        """The mean of the differences, points."""
        return statistics.fmean(self.differences) if self.differences else math.nan

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval of the mean, points."""
        return half_width(self.differences)

    @property
    def in_words(self) -> str:
        """The mean and its 95 % interval, and how many pairs are lost."""
        interval = "" if math.isnan(self.half_width) else f" ± {self.half_width:.2f}"
        words = f"{self.mean:+.2f}{interval}".replace("-", "−") if self.differences else "not known"
        return f"{words} ({self.lost} of {self.pairs} lost)" if self.lost else words

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, points."""
        return statistics.stdev(self.differences) / math.sqrt(len(self.differences))

    @property
    def p_no_difference(self) -> float:
        """Of the hypothesis that there is none; 1 with fewer than FEWEST pairs."""
        if len(self.differences) < FEWEST:
            return 1.0
        return min(1.0, 2 * self._tail(abs(self.mean)))

    @property
    def p_margin_or_more(self) -> float:
        """Of the hypothesis that they are the margin or more apart; 1 without one, or with fewer than FEWEST pairs."""
        margin = self.contrast.margin
        if margin is None or len(self.differences) < FEWEST:
            return 1.0
        return self._tail(margin - abs(self.mean))

    def _tail(self, distance: float) -> float:
        """How likely Student's t is to be this far from a hypothesis, in its direction. distance: points."""
        from scipy.special import stdtr

        if self.standard_error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stdtr(len(self.differences) - 1, -distance / self.standard_error))

    @property
    def seeds_needed(self) -> int | None:
        """Seeds for an answer "equal" with a probability of POWER, roughly, without adjustment.

        If there is no difference, and runs scatter as these do; None where that is not asked or not known. The first n
        that Student's t with n − 1 degrees of freedom allows (Chow, Shao and Wang, Sample Size Calculations in
        Clinical Research, section 3.1.3).
        """
        from scipy.special import stdtrit

        margin = self.contrast.margin
        if margin is None or len(self.differences) < FEWEST:
            return None
        scatter, seeds = statistics.stdev(self.differences), FEWEST
        while True:
            quantiles = stdtrit(seeds - 1, 1 - LEVEL) + stdtrit(seeds - 1, (1 + POWER) / 2)
            if quantiles * scatter <= margin * math.sqrt(seeds):
                return seeds
            seeds += 1


# ----------------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------------


def read_contrasts(path: Path, name: str) -> list[Contrast]:
    """Those of an experiment; a primary one is not asked a second time. Raises DataError if the file does not fit."""
    try:
        with with_filename(path):
            rows = json.loads(path.read_text(encoding="utf-8"))
        found = [contrast for row in rows[name] for contrast in expanded(row, EXPERIMENTS[name])]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: not the contrasts of {name} ({error})") from error
    primary = {contrast.cells for contrast in found if contrast.primary}
    return [contrast for contrast in found if contrast.primary or contrast.cells not in primary]


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
        found.append(Contrast(row["claim"], cells, place_in_words(here), row.get("primary", False), row.get("margin")))
    return found


def place_in_words(levels: Mapping[str, str]) -> str:
    """The levels of some factors; a number says of what, as in "10 workers, momentum 0.9"."""
    return ", ".join(map(level_in_words, levels, levels.values()))


def level_in_words(factor: str, level: str) -> str:
    """One level of a factor: "10 workers", "momentum 0.9", "labels"."""
    if factor.endswith("s") and level.isdigit():
        return count(int(level), factor.removesuffix("s"))
    return f"{factor} {level}" if level.replace(".", "").isdigit() else level


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


# ----------------------------------------------------------------------------------------------------
# Answers
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An effect, with the p-values that count: adjusted if its contrast is primary.

    p_different: of no difference; p_equal: of the margin or more.
    """

    effect: Effect
    p_different: float
    p_equal: float

    @property
    def verdict(self) -> str:
        """In words."""
        effect, margin = self.effect, self.effect.contrast.margin
        if len(effect.differences) < FEWEST:
            return "too few runs" if effect.pairs < FEWEST else "runs lost"
        if not any(effect.differences) and not effect.lost:
            return "identical"
        different = self.p_different < LEVEL
        equal = self.p_equal < LEVEL and not effect.lost
        if different and equal:
            return f"different by less than {margin:g}"
        return "different" if different else f"equal within {margin:g}" if equal else "not settled"

    @property
    def settled(self) -> bool:
        """Whether the verdict answers the question."""
        return self.verdict.startswith(("different", "equal", "identical"))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def answer(experiment: Experiment, runs: Runs, contrasts: Sequence[Contrast]) -> list[Answer]:
    """The answers that the runs of an experiment give to its contrasts."""
    accuracies = {
        cell: {seed: experiment.accuracy(cell, trial) for seed, trial in by_seed.items()}
        for cell, by_seed in runs.items()
    }
    return judge([measure(contrast, accuracies) for contrast in contrasts])


def judge(effects: Sequence[Effect]) -> list[Answer]:
    """The answers of an experiment, from all of its effects."""
    primary = [place for place, effect in enumerate(effects) if effect.contrast.primary]
    with_margin = [place for place in primary if effects[place].contrast.margin is not None]
    different = [effect.p_no_difference for effect in effects]
    equal = [effect.p_margin_or_more for effect in effects]
    for p_values, family in ((different, primary), (equal, with_margin)):
        for place, adjusted in zip(family, holm([p_values[place] for place in family]), strict=True):
            p_values[place] = adjusted
    return [Answer(*row) for row in zip(effects, different, equal, strict=True)]


def p_in_words(p: float) -> str:
    """A p-value, with a fourth digit where three do not tell on which side of the LEVEL it is."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if round(p, 3) != LEVEL else f"{p:.4f}"
