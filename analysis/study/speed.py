"""The speed comparison: gradients a second and accuracy, synchronous against asynchronous, on each clock."""

from itertools import product

from analysis.reports.summary import Group, Setting, group
from analysis.spread import Spread
from analysis.study.published import SAME_FOR_ALL, Results
from analysis.tables import markdown_table

CLOCKS = {"virtual": 10.0, "wall": 0.0}  # clock → compute_ms of a gradient, which a wall clock has none of
NETWORKS = ("LeNet5", "CNN1")
MODES = {"sync": "synchronous", "async": "asynchronous"}
PARTITIONS = {"none": "no split", "split_dataset": "samples split", "split_labels": "labels split"}
WORKERS = {"1 worker, or 2": (1, 2), "5 workers": (5,), "10 workers": (10,)}  # labels are split among 2 at least


def belongs(setting: Setting) -> bool:
    """Whether a run is distributed, nobody is delayed, and all but what is compared is as in the study."""
    alike = all(
        getattr(setting, name) == SAME_FOR_ALL[name] for name in SAME_FOR_ALL.keys() - {"network", "train_split"}
    )
    plain = (setting.delayed, setting.momentum, setting.compensation) == ("none", 0.9, "none")
    return alike and plain and setting.mode in MODES and CLOCKS.get(setting.clock) == setting.compute_ms


def gradients_per_second(runs: Group) -> Spread:
    """Of all workers together, on the runs' clock; a synchronous update takes a gradient of each."""
    each = runs.setting.world_size - 1 if runs.setting.mode == "sync" else 1
    return Spread.of([outcome.updates * each / outcome.seconds for outcome in runs.outcomes])


class Comparison:
    """The settings of the comparison among all that were run."""

    def __init__(self, results: Results) -> None:
        self._groups = group(trial for trial in results.trials if belongs(trial.setting))

    def by_workers(self, clock: str, network: str, partition: str, mode: str) -> dict[int, Group]:
        """Number of workers → the runs with it, in ascending order.

        Of runs on different shares of the training set, those on the largest.
        """
        asked = (clock, network, partition, mode)
        return {
            runs.setting.world_size - 1: runs
            for runs in self._groups
            if (runs.setting.clock, runs.setting.network, runs.setting.partition, runs.setting.mode) == asked
        }


def speed_table(results: Results, clock: str) -> str:
    """Gradients/s and test accuracy of each setting that was run on this clock, in Markdown."""
    comparison, lines = Comparison(results), []
    for network, partition, mode in product(NETWORKS, PARTITIONS, MODES):
        if found := comparison.by_workers(clock, network, partition, mode):
            cells = ([tell(found[n]) for n in numbers if n in found] for numbers in WORKERS.values())
            lines.append([f"{network}, {PARTITIONS[partition]}, {MODES[mode]}", *map(" or ".join, cells)])
    return markdown_table(["", *WORKERS], lines)


def tell(runs: Group) -> str:
    """How fast, and how good; and on how much of the training set, if not on all of it."""
    share = runs.setting.train_split
    of = f" ({100 * share:g} % of the samples)" if share < 1 else ""
    return f"{gradients_per_second(runs):.0f}/s, {runs.spread('test_accuracy'):.1f} %" + of
