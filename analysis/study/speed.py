"""The speed comparison: gradients per second and accuracy, synchronous against asynchronous, on each clock."""

from itertools import product

from analysis.reports.trials import Group, group
from analysis.spread import Spread
from analysis.study.published import SAME_FOR_ALL, Results
from analysis.tables import markdown_table
from catalogue import PARTITIONS
from training.config import RunConfig
from training.settings import MODE_TITLES

CLOCKS = {"virtual": 10.0, "wall": None}  # clock → compute_ms of a gradient, which a wall clock has none of
NETWORKS = ("LeNet5", "CNN1")
COMPARED_MODES = ("sync", "async")
COMPARED_PARTITIONS = ("none", "split_dataset", "split_labels")
WORKERS = {"1 worker, or 2": (1, 2), "5 workers": (5,), "10 workers": (10,)}  # labels are split among 2 at least


def belongs(config: RunConfig, clock: str) -> bool:
    """Whether a run is distributed, and all but what is compared is as in the study."""
    if config.mode not in COMPARED_MODES or clock not in CLOCKS or config.partition not in COMPARED_PARTITIONS:
        return False
    compared = {name: getattr(config, name) for name in ("mode", "world_size", "partition", "train_split", "alt_model")}
    return config == RunConfig(**compared, **SAME_FOR_ALL, clock=clock, compute_ms=CLOCKS[clock])


def gradients_per_second(runs: Group) -> Spread:
    """Of all workers together, on the runs' clock; a synchronous update takes a gradient of each."""
    each = runs.config.workers if runs.config.rule.gathers else 1
    return Spread.of([outcome.updates * each / outcome.seconds for outcome in runs.outcomes])


class Comparison:
    """The settings of the comparison among all that were run."""

    def __init__(self, results: Results) -> None:
        self._groups = [one for one in group(results.trials) if belongs(one.config, one.clock)]

    def places(self) -> list[tuple[str, str]]:
        """Clock and network of all that was run, in the order of their tables."""
        found = {(runs.clock, runs.config.network_name) for runs in self._groups}
        return [place for place in product(CLOCKS, NETWORKS) if place in found]

    def by_workers(self, clock: str, network: str, partition: str, mode: str) -> dict[int, Group]:
        """Number of workers → the runs with it, in ascending order.

        Of runs on different shares of the training set, those on the largest.
        """
        asked = (clock, network, partition, mode)
        found = [
            runs
            for runs in self._groups
            if (runs.clock, runs.config.network_name, runs.config.partition, runs.config.mode) == asked
        ]
        found.sort(key=lambda runs: (runs.config.workers, runs.config.train_split))
        return {runs.config.workers: runs for runs in found}


def speed_table(results: Results, clock: str) -> str:
    """Gradients/s and test accuracy of each setting that was run on this clock, in Markdown."""
    comparison, lines = Comparison(results), []
    for network, partition, mode in product(NETWORKS, COMPARED_PARTITIONS, COMPARED_MODES):
        if found := comparison.by_workers(clock, network, partition, mode):
            cells = ([describe(found[n]) for n in numbers if n in found] for numbers in WORKERS.values())
            title = f"{network}, {PARTITIONS[partition].short_title}, {MODE_TITLES[mode]}"
            lines.append([title, *map(" or ".join, cells)])
    return markdown_table(["", *WORKERS], lines)


def describe(runs: Group) -> str:
    """How fast, and how good; and on how much of the training set, if not on all of it."""
    share = runs.config.train_split
    of = f" ({100 * share:g} % of the samples)" if share < 1 else ""
    return f"{gradients_per_second(runs):.0f}/s, {runs.spread('test_accuracy'):.1f} %" + of
