"""The summary of a sweep: a row of trials.csv for each run, and a table of their means over the seeds.

python3 -m analysis.reports.summary runs

A trial is measured once, from the run's own log and model, and its row stands for itself from then on:
the log and the model may go. The tables are made of the rows alone: summary.md and summary.csv beside them.
"""

import csv
import dataclasses
import fcntl
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from analysis.spread import Spread
from analysis.tables import markdown_table, write_rows, write_text
from common import DATASETS, build_model, load_dataset, network_name
from evaluation import evaluate
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from interface.files import make_folder, with_filename
from training.record import RunLog, read_log, read_model

LOG_ENDING = "_log.log"
BETTER_THAN_CHANCE = 2  # times the accuracy of a guess: what a run that converged exceeds

# ----------------------------------------------------------------------------------------------------
# One trial
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Setting:
    """What a run was asked for, but for the seed, in the order in which tables show it."""

    dataset: str
    network: str
    train_split: float
    mode: str
    world_size: int
    partition: str
    optimizer: str
    lr: float
    schedule: str
    momentum: float
    batch_size: int
    epochs: int
    validation: str
    delayed: str
    delay_type: str
    delay_ms: float
    compensation: str
    clock: str
    compute_ms: float

    @classmethod
    def of(cls, log: RunLog) -> "Setting":
        """Whatever does not apply is "none" or 0."""
        config = log.config
        return cls(
            dataset=config.dataset,
            network=network_name(config.dataset, config.alt_model),
            train_split=config.train_split,
            mode=config.mode,
            world_size=0 if config.mode == "classic" else config.world_size,
            partition=config.partition,
            optimizer="Adam" if config.alr else "SGD",
            lr=config.lr,
            schedule=config.lrs or "none",
            momentum=config.momentum,
            batch_size=config.batch_size,
            epochs=config.epochs,
            validation="10 %" if config.val else "none",
            delayed=WHO_IS_DELAYED[config.delay, config.slow_worker_1],
            delay_type=config.delay_type or "none",
            delay_ms=config.delay_mean_ms if config.delayed else 0.0,
            compensation=f"{config.compensation_mode} {config.compensation_lambda:g}"
            if config.compensation
            else "none",
            clock=log.clock,
            compute_ms=config.compute_ms or 0.0,
        )


WHO_IS_DELAYED = {
    (False, False): "none",
    (False, True): "worker 1",
    (True, False): "all",
    (True, True): "all, worker 1 twice",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a run, and how it came about.

    Accuracies in percent and losses (mean negative log-likelihood) of the final model, on the whole test and training
    set; seconds: of training, on the run's clock; staleness in updates.
    """

    test_accuracy: float
    test_loss: float
    train_accuracy: float
    train_loss: float
    seconds: float
    updates: int
    mean_staleness: float
    max_staleness: int
    converged: bool
    lost_workers: str
    started: str
    revision: str

    @classmethod
    def of(cls, log: RunLog, model_path: Path, data_dir: str) -> "Outcome":
        """Test the model of a run. Raises DataError if it is not there or not of that network."""
        config = log.config
        dataset = load_dataset(config.dataset, data_dir)
        model = build_model(config.dataset, config.alt_model)
        read_model(model_path, model)
        train, test = evaluate(dataset.train, model), evaluate(dataset.test, model)
        chance = 100 / DATASETS[config.dataset].labels
        finite = bool(torch.isfinite(model.parameters).all()) and math.isfinite(test.loss)
        header, result = log.header or {}, log.result or {}
        return cls(
            test_accuracy=test.accuracy,
            test_loss=test.loss,
            train_accuracy=train.accuracy,
            train_loss=train.loss,
            seconds=log.seconds,
            updates=len(log.updates),
            mean_staleness=float(log.updates.staleness.mean()) if len(log.updates) else 0.0,
            max_staleness=int(log.updates.staleness.max(initial=0)),
            converged=finite and test.accuracy > BETTER_THAN_CHANCE * chance,
            lost_workers=" ".join(result.get("lost_workers", [])),
            started=header.get("started", ""),
            revision=header.get("revision", ""),
        )


@dataclass(frozen=True)
class Trial:
    """One run. seed: empty where its log does not tell, as those of the published study."""

    name: str
    seed: str
    setting: Setting
    outcome: Outcome

    @classmethod
    def of(cls, path: Path, data_dir: str) -> "Trial":
        """Of the run with this log and the model beside it. Raises DataError if one of them cannot be used."""
        log = read_log(path)
        seed = str((log.header or {}).get("seed", ""))
        return cls(
            run_of(path), seed, Setting.of(log), Outcome.of(log, path.with_name(f"{run_of(path)}_model.pt"), data_dir)
        )

    def row(self) -> list[str]:
        """Its row of the file."""
        return [self.name, self.seed, *map(str, dataclasses.astuple(self.setting) + dataclasses.astuple(self.outcome))]

    @classmethod
    def parse(cls, row: list[str]) -> "Trial":
        """What `row` made. Raises ValueError for anything else."""
        if len(row) != len(COLUMNS):
            raise ValueError(f"{len(row)} columns in place of {len(COLUMNS)}")
        name, seed, *values = row
        settings = len(dataclasses.fields(Setting))
        trial = cls(name, seed, parse_fields(Setting, values[:settings]), parse_fields(Outcome, values[settings:]))
        if trial.row() != row:
            raise ValueError("a value that is not written so")
        return trial


def parse_fields(kind: type, texts: list[str]) -> Any:
    """A dataclass of plain values from their texts."""
    pairs = zip(dataclasses.fields(kind), texts, strict=True)
    return kind(**{field.name: text == "True" if field.type is bool else field.type(text) for field, text in pairs})


def run_of(log: Path) -> str:
    """The name of the run of a log."""
    return log.name.removesuffix(LOG_ENDING)


SETTINGS, OUTCOMES = (tuple(field.name for field in dataclasses.fields(kind)) for kind in (Setting, Outcome))
COLUMNS = ("name", "seed", *SETTINGS, *OUTCOMES)


# ----------------------------------------------------------------------------------------------------
# All trials of a folder
# ----------------------------------------------------------------------------------------------------


class Trials:
    """The file of trials in a folder, to which several processes may add at once.

    rows: name of the run → Trial. Raises DataError, which names file and line, for what cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "trials.csv"
        self.rows = {trial.name: trial for trial in self._read()}

    def _read(self) -> Iterator[Trial]:
        if not self.path.exists():
            return
        with with_filename(self.path):
            *lines, torn = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        header = ",".join(COLUMNS)  # `torn` is nothing, or a row that was cut off, which `add` takes away
        if lines[:1] != [header] and (lines or not header.startswith(torn)):
            raise DataError(f"{self.path}, line 1: not the columns of trials; move the file away")
        for number, line in enumerate(lines[1:], start=2):
            try:
                (row,) = csv.reader([line])
                yield Trial.parse(row)
            except (ValueError, csv.Error) as error:
                raise DataError(
                    f"{self.path}, line {number}: damaged ({error}); remove the line, and its run is measured again"
                ) from error

    def add(self, trial: Trial) -> None:
        """Append a row."""
        make_folder(self.path.parent, "--summary_dir")
        with with_filename(self.path), self.path.open("a+", encoding="utf-8", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed; lockf's would end when any reader closes it
            whole = self.path.read_bytes().rfind(b"\n") + 1
            file.truncate(whole)
            writer = csv.writer(file, lineterminator="\n")
            if not whole:
                writer.writerow(COLUMNS)
            writer.writerow(trial.row())
        self.rows[trial.name] = trial

    def add_missing(self, folder: Path, data_dir: str) -> int:
        """Measure the complete runs of a folder without a row; returns how many cannot be, each with a warning."""
        logs = sorted(path for path in folder.glob(f"*{LOG_ENDING}") if "_partial" not in path.name)
        missing = [path for path in logs if run_of(path) not in self.rows]
        failures = 0
        for path in tqdm(missing, unit=" runs", dynamic_ncols=True, disable=None):
            try:
                self.add(Trial.of(path, data_dir))
            except DataError as error:
                logging.warning("%s", error)
                failures += 1
        return failures


# ----------------------------------------------------------------------------------------------------
# The table
# ----------------------------------------------------------------------------------------------------

MEASURES = {  # column → title, digits
    "test_accuracy": ("test accuracy, %", 2),
    "test_loss": ("test loss", 4),
    "train_accuracy": ("train accuracy, %", 2),
    "seconds": ("time, s", 1),
    "mean_staleness": ("mean staleness", 2),
}


@dataclass(frozen=True)
class Group:
    """The outcomes of one setting, one a seed."""

    setting: Setting
    outcomes: tuple[Outcome, ...]

    def spread(self, measure: str) -> Spread:
        """Of one of the MEASURES."""
        return Spread.of([getattr(outcome, measure) for outcome in self.outcomes])

    @property
    def max_staleness(self) -> int:
        """Over all seeds."""
        return max(outcome.max_staleness for outcome in self.outcomes)

    @property
    def converged(self) -> int:
        """How many did."""
        return sum(outcome.converged for outcome in self.outcomes)


def group(trials: Iterable[Trial]) -> list[Group]:
    """Trials by setting, sorted."""
    outcomes = defaultdict(list)
    for trial in trials:
        outcomes[trial.setting].append(trial.outcome)
    return [Group(setting, tuple(outcomes[setting])) for setting in sorted(outcomes)]


def markdown(groups: list[Group]) -> str:
    """The table for readers: what all groups share in a line over it, then a row a group."""
    varying = [name for name in SETTINGS if len({getattr(group.setting, name) for group in groups}) > 1]
    shared = ", ".join(f"{name} {getattr(groups[0].setting, name)}" for name in SETTINGS if name not in varying)
    titles = [*varying, "runs", *(title for title, _ in MEASURES.values()), "largest staleness", "converged"]
    rows = [
        [
            *(str(getattr(group.setting, name)) for name in varying),
            str(len(group.outcomes)),
            *(f"{group.spread(measure):.{digits}f}" for measure, (_, digits) in MEASURES.items()),
            str(group.max_staleness),
            str(group.converged),
        ]
        for group in groups
    ]
    return (
        f"Shared by all runs: {shared}.\n\n"
        "Mean ± sample standard deviation over the seeds, a run each. Accuracy and loss: of the final model, on the "
        "whole test or training set; time: of training, on the run's clock; staleness: in updates. A run converged if "
        "its weights and test loss are finite and its test accuracy is more than "
        f"{BETTER_THAN_CHANCE} times that of a guess.\n\n{markdown_table(titles, rows)}"
    )


def numbers(groups: list[Group]) -> list[Sequence[object]]:
    """The same for programs: every setting; mean and deviation apart, empty where there is none."""
    spreads = [f"{measure}_{statistic}" for measure in MEASURES for statistic in ("mean", "std")]
    rows: list[Sequence[object]] = [[*SETTINGS, "runs", *spreads, "max_staleness", "converged"]]
    for one in groups:
        values = (value for measure in MEASURES for value in dataclasses.astuple(one.spread(measure)))
        texts = [f"{value:.6g}" if math.isfinite(value) else "" for value in values]
        count = len(one.outcomes)
        rows.append([*dataclasses.astuple(one.setting), count, *texts, one.max_staleness, one.converged])
    return rows


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="where logs and models are")
    add("--summary_dir", metavar="DIR", type=Path, help="where trials.csv and the tables are (default FOLDER)")
    add("--data_dir", metavar="DIR", default="data", help="where data sets lie or are downloaded to (default data)")
    arguments = parser.parse_args()
    folder = arguments.summary_dir or arguments.folder

    trials = Trials(folder)
    failures = trials.add_missing(arguments.folder, arguments.data_dir)
    if not trials.rows:
        raise DataError(f"{arguments.folder}: no complete run to summarise")
    groups = group(trials.rows.values())
    table, for_programs = folder / "summary.md", folder / "summary.csv"
    write_text(table, markdown(groups))
    write_rows(for_programs, numbers(groups))
    print(f"Summary of {len(trials.rows)} runs of {len(groups)} settings:")
    for path in (table, for_programs, trials.path):
        print(f"  {path}")
    if failures:
        raise DataError(f"{arguments.folder}: {failures} of its runs could not be measured")


if __name__ == "__main__":
    run_script(main)
