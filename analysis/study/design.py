"""The designed experiments of the study: what each varies, and the runs that it takes.

An experiment is a product of factors, such as the partition and the number of workers; a cell has one level of each.
Every cell gets the learning rate with the highest validation accuracy, and is then trained with new seeds. The test set
decides nothing: it only says what came out.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from analysis.reports.trials import Trial, TrialOutcome, Trials, accuracy_at_training_loss
from catalogue import DATASETS
from interface.errors import DataError
from training.config import RunConfig
from training.names import run_name

Cell = tuple[str, ...]  # the levels, in the order of the factors
Rates = dict[Cell, float]  # cell that is tuned → learning rate
Runs = Mapping[Cell, Mapping[int, Trial]]  # cell → seed → run

SHARED = {"mode": "async", "dataset": "fashion_mnist", "epochs": 6, "clock": "virtual", "evals_per_epoch": 1}
# Number of workers → the slow one, for the seeds 1 to 10: where labels are split, it owns `slow_label`.
SLOW_WORKERS = {
    2: (2, 1, 1, 1, 2, 1, 1, 1, 1, 2),
    5: (4, 2, 2, 1, 3, 3, 2, 2, 1, 5),
    10: (8, 3, 3, 1, 6, 5, 4, 3, 1, 9),
}


def slow_label(seed: int) -> int:
    """A label that the slow worker owns where labels are split: each once in ten seeds."""
    return (seed - 1) % 10


@dataclass(frozen=True)
class Level:
    """A level of a factor, and what it means for a run.

    slow_speed: of the one worker that is slow, on the virtual clock; on the wall clock, worker 1 sleeps twice as long
    as the others. matched: the learning rate is not tuned, but (1 − momentum) times the one that is best without
    momentum; rate_scale: of the rates to try; read: the accuracy that counts, percent, if it is not that of the end.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    slow_speed: float = 1.0
    matched: bool = False
    rate_scale: float = 1.0
    read: Callable[[TrialOutcome], float | None] | None = None


WORKERS = {str(workers): Level({"world_size": workers + 1}) for workers in (1, 2, 5, 10, 20)}
SAMPLES = {"samples": Level({"partition": "split_dataset"})}
LABELS = {"labels": Level({"partition": "split_labels"})}
EQUAL = {"equal": Level()}
ONE_SLOW = {"one slow": Level(slow_speed=0.5)}


def momentum_levels(*values: float) -> dict[str, Level]:
    """A level for each value."""
    return {f"{value:g}": Level({"momentum": value}) for value in values}


AVERAGING = 10  # how much larger the best rates of rules are that average the gradients of ten workers or more
ALGORITHMS = {
    "asgd": Level(),
    **{name: Level({"algorithm": name}) for name in ("delay_adaptive", "ringmaster", "ssp", "dude", "rescaled")},
    "compensation": Level({"compensation": True}),
    "dana": Level({"algorithm": "dana", "momentum": 0.9}),
    **{name: Level({"algorithm": name}, rate_scale=math.sqrt(AVERAGING)) for name in ("staleness_aware", "ringleader")},
    **{name: Level({"algorithm": name}, rate_scale=AVERAGING) for name in ("rennala", "fedbuff")},
    **{name: Level({"algorithm": name, "mode": "sync"}, rate_scale=AVERAGING)
       for name in ("average", "backup", "malenia")},
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """tuned: the factors on which the learning rate depends, tried with the first level of the others.

    rates: to try, times 1 − momentum and the scales of a cell's levels.
    """

    title: str
    factors: dict[str, dict[str, Level]]
    tuned: tuple[str, ...]
    rates: tuple[float, ...]
    shared: dict[str, Any] = field(default_factory=dict)
    tuning_seeds: Sequence[int] = (11, 12)
    seeds: Sequence[int] = range(1, 11)

    @property
    def cells(self) -> list[Cell]:
        """All cells: the combinations of one level of each factor."""
        return list(itertools.product(*self.factors.values()))

    def tuned_as(self, cell: Cell) -> Cell:
        """The cell whose learning rates are tried for this one."""
        first = [next(iter(levels)) for levels in self.factors.values()]
        return tuple(
            level if name in self.tuned else usual for name, level, usual in zip(self.factors, cell, first, strict=True)
        )

    def levels(self, cell: Cell) -> list[Level]:
        """The levels of a cell, in the order of the factors."""
        return [levels[name] for levels, name in zip(self.factors.values(), cell, strict=True)]

    def settings(self, cell: Cell) -> dict[str, Any]:
        """The settings of the runs of a cell that do not depend on the seed."""
        settings = SHARED | self.shared
        for level in self.levels(cell):
            settings |= level.settings
        return settings

    def momentum(self, cell: Cell) -> float:
        """The momentum of the runs of a cell."""
        return self.settings(cell).get("momentum", 0.0)

    def config(self, cell: Cell, learning_rate: float, seed: int, **more: Any) -> RunConfig:
        """A run of a cell."""
        settings = self.settings(cell)
        slow = [level.slow_speed for level in self.levels(cell) if level.slow_speed != 1]
        if slow and settings["clock"] == "wall":
            settings["slow_worker_1"] = True
        elif slow:
            workers = settings["world_size"] - 1
            owners = SLOW_WORKERS[workers]
            place = owners[(seed - 1) % len(owners)]
            speeds = [slow[0] if worker == place else 1.0 for worker in range(1, workers + 1)]
            settings["worker_speeds"] = " ".join(map(str, speeds))
        return RunConfig(**settings, lr=learning_rate, seed=seed, **more)

    def rates_of(self, cell: Cell) -> list[float]:
        """The learning rates to try."""
        scale = (1 - self.momentum(cell)) * math.prod(level.rate_scale for level in self.levels(cell))
        return [float(f"{rate * scale:.6g}") for rate in self.rates]

    # ------------------------------------------------------------------------------------------------
    # Runs
    # ------------------------------------------------------------------------------------------------

    def tuning(self, **more: Any) -> Iterator[tuple[Cell, RunConfig]]:
        """The runs that choose the learning rates."""
        cells = dict.fromkeys(map(self.tuned_as, self.cells))
        for seed, cell in itertools.product(self.tuning_seeds, cells):
            for rate in self.rates_of(cell):
                yield cell, self.config(cell, rate, seed, val=True, **more)

    def tried(self, trials: Trials) -> dict[Cell, dict[float, float]]:
        """Tuned cell → learning rate → mean validation accuracy, percent. Raises DataError if a run is missing."""
        found: dict[Cell, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for cell, config in self.tuning():
            accuracy = trial_of(config, trials).outcome.validation_accuracy
            if accuracy is None:
                raise DataError(f"{trials.path}: {run_name(config)} was not validated: it ended before its first epoch")
            found[cell][config.lr].append(accuracy)
        return {
            cell: {rate: statistics.fmean(values) for rate, values in by_rate.items()}
            for cell, by_rate in found.items()
        }

    def best_rates(self, trials: Trials) -> Rates:
        """The rates with the highest mean validation accuracy; of equal ones the lowest.

        Raises DataError if a run is missing.
        """
        return {cell: max(rates, key=lambda rate: (rates[rate], -rate)) for cell, rates in self.tried(trials).items()}

    def rate(self, cell: Cell, best: Rates) -> float:
        """The learning rate of a cell."""
        if not any(level.matched for level in self.levels(cell)):
            return best[self.tuned_as(cell)]
        still = tuple(NO_MOMENTUM if name == "momentum" else level
                      for name, level in zip(self.factors, cell, strict=True))  # fmt: skip
        return float(f"{best[self.tuned_as(still)] * (1 - self.momentum(cell)):.6g}")

    def runs(self, best: Rates, **more: Any) -> Iterator[RunConfig]:
        """The runs that count, whole seeds one after the other: an interrupted experiment is balanced."""
        for seed, cell in itertools.product(self.seeds, self.cells):
            yield self.config(cell, self.rate(cell, best), seed, **more)

    def outcomes(self, best: Rates, trials: Trials, cell: Cell) -> dict[int, Trial]:
        """Seed → the run of a cell, as far as there are any that kept all of their workers."""
        names = {seed: run_name(self.config(cell, self.rate(cell, best), seed)) for seed in self.seeds}
        found = {seed: trials.rows.get(name) for seed, name in names.items()}
        return {seed: trial for seed, trial in found.items() if trial is not None and not trial.remark}

    def read(self, folder: Path) -> Runs:
        """Cell → seed → run, of the seeds that all cells have: an interrupted experiment stays balanced.

        Raises DataError if the rates were not tuned.
        """
        trials, best = Trials(folder), self.best_rates(Trials(folder / "tuning"))
        runs = {cell: self.outcomes(best, trials, cell) for cell in self.cells}
        whole = set.intersection(*(set(by_seed) for by_seed in runs.values()))
        return {
            cell: {seed: trial for seed, trial in by_seed.items() if seed in whole} for cell, by_seed in runs.items()
        }

    def accuracy(self, cell: Cell, trial: Trial) -> float | None:
        """The number that counts in a cell, percent; None if the run had diverged by then, or never got there.

        A run that learned later had not diverged by then, however low its accuracy was.
        """
        read = next((level.read for level in self.levels(cell) if level.read), None)
        if read is None:
            return None if diverged(trial) else trial.outcome.test_accuracy
        value = read(trial.outcome)
        if value is None or (diverged(trial) and not DATASETS[trial.config.dataset].was_learned(value)):
            return None
        return value

    def replaced(self, **changes: Any) -> Experiment:
        """The same experiment with other settings of all runs, and other seeds."""
        named = {name: changes.pop(name) for name in ("seeds", "tuning_seeds") if name in changes}
        return replace(self, shared=self.shared | changes, **named)


def diverged(trial: Trial) -> bool:
    """Whether the loss is not finite, or the model has not learned, nor had it when a worker first finished.

    A run that was better then has not diverged: it has forgotten labels since.
    """
    outcome = trial.outcome
    best = max(outcome.test_accuracy, outcome.first_left_accuracy or 0.0)
    return not math.isfinite(outcome.test_loss) or not DATASETS[trial.config.dataset].was_learned(best)


def trial_of(config: RunConfig, trials: Trials) -> Trial:
    """The row of a run. Raises DataError if it is missing, or that of a run that lost workers."""
    name = run_name(config)
    if name not in trials.rows or trials.rows[name].remark:
        raise DataError(f"{trials.path}: {name} is missing")
    return trials.rows[name]


NO_MOMENTUM = "0"
EXPERIMENTS = {
    "partitions": Experiment(
        title="What do partitions do, and what does the stopping rule do?",
        factors={
            "partition": SAMPLES | LABELS | {"Dirichlet 0.1": Level({"split_dirichlet": 0.1})},
            "workers": {name: WORKERS[name] for name in ("2", "5", "10")},
            "speeds": EQUAL | ONE_SLOW,
            "stop": {
                "total": Level({"stop": "total"}),
                "epochs": Level({"stop": "epochs"}),
                # A run under `first` is that under `epochs` as far as the moment at which its first worker finishes.
                "first": Level({"stop": "epochs"}, read=attrgetter("first_left_accuracy")),
            },
        },
        tuned=("partition", "workers"),
        rates=(0.01, 0.02, 0.05, 0.1, 0.2),
    ),
    "momentum": Experiment(
        title="What do staleness and momentum do?",
        factors={
            "workers": WORKERS,
            "momentum": momentum_levels(0.0, 0.5, 0.9, 0.95),
            "rate": {"tuned": Level(), "matched": Level(matched=True)},
        },
        tuned=("workers", "momentum"),
        rates=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
        shared={"partition": "split_dataset", "stop": "total"},
    ),
    "regulariser": Experiment(
        title="Is momentum a regulariser?",
        factors={
            "training": {
                "1 worker": Level({"world_size": 2}),
                "synchronous": Level({"world_size": 11, "mode": "sync"}, rate_scale=AVERAGING / 2),
                "asynchronous": Level({"world_size": 11}),
            },
            "momentum": momentum_levels(0.0, 0.5, 0.9),
            "rate": {"tuned": Level(), "matched": Level(matched=True)},
            "at": {
                "the end": Level(),
                **{
                    f"training loss {loss}": Level(read=partial(accuracy_at_training_loss, loss))
                    for loss in (0.3, 0.2, 0.1)
                },
            },
        },
        tuned=("training", "momentum"),
        rates=(0.02, 0.05, 0.1, 0.2),
        shared={"partition": "split_dataset", "stop": "total", "epochs": 40},
        tuning_seeds=(11,),
        seeds=range(1, 9),
    ),
    "remedies": Experiment(
        title="Which algorithm helps where?",
        factors={
            "algorithm": ALGORITHMS,
            "partition": SAMPLES | LABELS,
            "speeds": EQUAL | ONE_SLOW | {"lognormal": Level({"compute_time": "lognormal:0.5"})},
        },
        tuned=("algorithm", "partition"),
        rates=(0.003, 0.01, 0.03, 0.1),
        shared={"world_size": 11, "stop": "total"},
        tuning_seeds=(11,),
    ),
    "speeds": Experiment(
        title="Do heavy tails and persistent speeds matter?",
        factors={
            "partition": SAMPLES | LABELS,
            "workers": {name: WORKERS[name] for name in ("5", "10")},
            "momentum": momentum_levels(0.0, 0.9),
            "speeds": {
                "normal": Level({"compute_time": "normal:0.1"}),
                "lognormal": Level({"compute_time": "lognormal:0.5"}),
                "Pareto": Level({"compute_time": "pareto:2.5"}),
                "spread": Level({"worker_speeds": "spread:0.3"}),
            },
        },
        tuned=("partition", "workers", "momentum"),
        rates=(0.01, 0.02, 0.05, 0.1, 0.2),
        shared={"stop": "total"},
        tuning_seeds=(11,),
    ),
}


def elsewhere(
    experiment: Experiment, rates: tuple[float, ...], on_wall_clock: dict[str, Any], **kept: Sequence[str]
) -> Experiment:
    """Key cells of an experiment on other data, with another network, and on the wall clock.

    rates: to try; on_wall_clock: further settings of the runs there; kept: factor → its levels that are tried again;
    else all.
    """
    where = {
        "MNIST": Level({"dataset": "mnist"}),
        "CNN1": Level({"network": "CNN1", "epochs": 3}),
        "wall clock": Level({"clock": "wall"} | on_wall_clock),
    }
    again = {
        factor: {name: level for name, level in levels.items() if name in kept.get(factor, levels)}
        for factor, levels in experiment.factors.items()
    }
    return replace(
        experiment,
        title=f"{experiment.title} (elsewhere)",
        factors={"where": where} | again,
        tuned=("where", *experiment.tuned),
        rates=rates,
        tuning_seeds=(11,),
        seeds=range(1, 6),
    )


SAME_DELAY = {"delay": True, "delay_type": "constant", "delay_ms": 30.0}
EXPERIMENTS |= {
    "partitions_elsewhere": elsewhere(
        EXPERIMENTS["partitions"],
        rates=(0.02, 0.05, 0.1, 0.2),
        on_wall_clock=SAME_DELAY,
        partition=["labels"],
        workers=["5"],
        stop=["total", "epochs"],
    ),
    "momentum_elsewhere": elsewhere(
        EXPERIMENTS["momentum"],
        rates=(0.02, 0.05, 0.1, 0.2),
        on_wall_clock={},
        workers=["1", "10"],
        momentum=["0", "0.9"],
        rate=["tuned"],
    ),
    "remedies_elsewhere": elsewhere(
        EXPERIMENTS["remedies"],
        rates=EXPERIMENTS["remedies"].rates,
        on_wall_clock=SAME_DELAY,
        algorithm=["asgd", "dude", "average", "backup"],
        partition=["labels"],
        speeds=["one slow"],
    ),
}
