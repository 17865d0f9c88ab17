"""What each setting changes: differences in test accuracy of runs that differ only in it, paired by seed.

A setting is compared with its usual value, or with the first one if none of the runs has that. Where several settings
vary, there is a difference for each combination of the others, and the difference of two such differences says whether
one setting changes what another does. Runs whose loss is not finite are left out. 95 % intervals, not adjusted for
how many there are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from analysis.reports.settings import changes, settings_of, varying_and_shared
from analysis.reports.trials import Group, Trial, distinct, sort_key
from analysis.spread import interval
from analysis.tables import markdown_table
from training.config import RunConfig, applies, default_of
from training.settings import ROWS
from training.words import table_columns

PRINTED = 12  # differences on a terminal
LONGEST = 60  # table
COLUMNS = ("compared", "where", "pairs", "difference, points")


@dataclass(frozen=True)
class Difference:
    """One value of a setting less another, in points of test accuracy.

    where: further settings → their values in a table; of a difference of differences two values of one of them;
    points: label of a pair of runs, usually their seed → difference in test accuracy.
    """

    setting: str
    compared: str
    where: dict[str, str]
    points: dict[object, float]

    @property
    def values(self) -> list[float]:
        """The differences of all pairs."""
        return list(self.points.values())

    @property
    def title(self) -> str:
        """The two values that are compared, in words."""
        return in_words(self.setting, self.compared)

    @property
    def place(self) -> str:
        """Where."""
        return ", ".join(in_words(name, value) for name, value in self.where.items() if value != "none")

    @property
    def in_words(self) -> str:
        """The mean and its 95 % interval, points."""
        return f"{'+' * (sum(self.values) > 0)}{interval(self.values)}".replace("-", "−")


def in_words(name: str, value: str) -> str:
    """A setting with its value, which says it all for one that is on or off."""
    on_or_off = name in ROWS and isinstance(default_of(name), bool)
    return value if on_or_off else f"{(table_columns() | {'clock': 'clock'})[name]} {value}"


@dataclass(frozen=True)
class Setting:
    """Repetitions of one setting. cells: of a table; accuracies: repetition → test accuracy, percent."""

    config: RunConfig
    cells: dict[str, str]
    accuracies: dict[object, float]

    def has(self, name: str) -> bool:
        """Whether a setting of a table applies to it."""
        return name not in ROWS or applies(self.config, name)

    def is_like(self, other: Setting, name: str) -> bool:
        """Whether both have the same value, or both their usual one, or one of them has none."""
        if self.cells[name] == other.cells[name] or not (self.has(name) and other.has(name)):
            return True
        return name in ROWS and not changes(self.config, name) and not changes(other.config, name)


def differences(trials: Collection[Trial]) -> list[Difference]:
    """What each setting that varies changes, by setting."""
    settings, varying = read(trials)
    found = []
    for name in varying:
        base = bases_of(name, settings)
        others = [other for other in varying if other != name]
        having = [one for one in settings if one.has(name)]
        bases = [one for one in having if one.cells[name] in base]
        for first, second in itertools.product(having, bases):
            if first.cells[name] not in base and all(first.is_like(second, other) for other in others):
                found.append(difference(first, second, name, others))
    return [one for one in found if one.points]


def interactions(trials: Collection[Trial]) -> list[Difference]:
    """Of each two differences between the same values, the one less the other: that where another setting is usual."""
    settings, varying = read(trials)
    bases = {name: bases_of(name, settings) for name in varying}
    by_title: dict[str, list[Difference]] = {}
    for one in differences(trials):
        by_title.setdefault(one.title, []).append(one)
    found = []
    for first, second in itertools.chain.from_iterable(itertools.product(ones, ones) for ones in by_title.values()):
        apart = [name for name in first.where if first.where[name] != second.where.get(name)]
        if len(apart) != 1 or first.where.keys() != second.where.keys():
            continue
        (name,) = apart
        # The other way round it is the same number.
        if second.where[name] in bases[name] and varying.index(name) > varying.index(first.setting):
            points = {pair: first.points[pair] - second.points[pair] for pair in first.points if pair in second.points}
            where = first.where | {name: f"{first.where[name]} − {second.where[name]}"}
            found.append(Difference(first.setting, first.compared, where, points))
    return [one for one in found if one.points]


def read(trials: Collection[Trial]) -> tuple[list[Setting], list[str]]:
    """The settings of the trials in order, and the names of those that vary."""
    by_setting: dict[tuple, list[Trial]] = {}
    usual = [trial for trial in trials if not trial.remark]  # a run that lost workers is not one of its setting
    for trial in distinct(usual or trials):
        by_setting.setdefault(trial.experiment, []).append(trial)
    ordered = sorted(by_setting, key=lambda one: (*sort_key(one[0]), *one[1:]))
    groups = [Group(*one, tuple(trial.outcome for trial in by_setting[one])) for one in ordered]
    varying, _ = varying_and_shared(groups)
    accuracies = [
        {one.repetition: one.outcome.test_accuracy for one in by_setting[key] if math.isfinite(one.outcome.test_loss)}
        for key in ordered
    ]
    settings = [Setting(one.config, settings_of(one), found) for one, found in zip(groups, accuracies, strict=True)]
    return settings, [name for name in varying if name != "remark"]


def bases_of(name: str, settings: Sequence[Setting]) -> set[str]:
    """The value that others are compared with; of an algorithm, that of each mode."""
    having = [one for one in settings if one.has(name)]
    usual = {one.cells[name] for one in having if name in ROWS and not changes(one.config, name)}
    return usual or {having[0].cells[name]}


def difference(first: Setting, second: Setting, name: str, others: Sequence[str]) -> Difference:
    """What one value of a setting changes against another."""
    points = {
        pair: accuracy - second.accuracies[pair]
        for pair, accuracy in first.accuracies.items()
        if pair in second.accuracies and math.isfinite(accuracy) and math.isfinite(second.accuracies[pair])
    }
    where = {other: first.cells[other] for other in others if first.has(other)}
    return Difference(name, f"{first.cells[name]} − {second.cells[name]}", where, points)


# ----------------------------------------------------------------------------------------------------
# In words
# ----------------------------------------------------------------------------------------------------


def tables(trials: Collection[Trial]) -> list[tuple[str, str, list[Sequence[str]]]]:
    """Title, explanation and rows of each table for readers, of COLUMNS; none if nothing can be compared."""
    found = (
        ("Differences", "Test accuracy of runs that differ in only one setting, in points", differences(trials)),
        ("Does one depend on another?", "Differences less those at another value of a setting, in points",
         interactions(trials)),
    )  # fmt: skip
    diverged = any(not math.isfinite(trial.outcome.test_loss) for trial in trials)
    left_out = " Runs whose loss is not finite are left out." if diverged else ""
    return [
        (
            title,
            f"{about}: mean and 95 % confidence interval (Student's t) over pairs with the same seed, not adjusted for "
            f"how many there are.{left_out}{f' The first {LONGEST} of {len(ones)}.' if len(ones) > LONGEST else ''}",
            [(one.title, one.place, str(len(one.points)), one.in_words) for one in ones[:LONGEST]],
        )
        for title, about, ones in found
        if ones
    ]


def markdown(trials: Collection[Trial]) -> str:
    """The tables for readers."""
    return "".join(
        f"\n## {title}\n\n{about}\n\n{markdown_table(COLUMNS, rows)}" for title, about, rows in tables(trials)
    )


def show(trials: Collection[Trial]) -> None:
    """Print the first differences, if there are any."""
    found = differences(trials)
    if found:
        print("Differences in test accuracy, points, with 95 % intervals over pairs with the same seed:")
    for one in found[:PRINTED]:
        place = f" ({one.place})" if one.place else ""
        print(f"  {one.title}{place}: {one.in_words}, n = {len(one.points)}")
    if len(found) > PRINTED:
        print(f"  and {len(found) - PRINTED} more")
