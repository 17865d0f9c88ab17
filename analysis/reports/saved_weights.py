"""Measurements on the saved weights of runs: numbers, one per row of a CSV file, and the figure drawn from them."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Generic, TypeVar, get_type_hints

import numpy as np

from analysis.figures import Figure, save
from analysis.flags import add_plot_dir
from analysis.reports.trials import LOG_ENDING, alike_but_for, run_of
from analysis.tables import write_rows
from interface.command_line import ArgumentParser
from interface.errors import DataError, UsageError
from interface.files import make_folder, with_filename
from training.names import ARTIFACTS, parse_run_name
from training.record.models import read_weights
from training.record.reader import read_log
from training.record.run_log import RunLog
from training.settings import ROWS
from training.words import in_common

Number = TypeVar("Number")  # a dataclass whose fields are str, int or float


def read_asynchronous(path: Path) -> RunLog:
    """The log of a complete asynchronous run. Raises DataError for another one."""
    log = read_log(path)
    if log.header is None or log.status != "complete":
        raise DataError(f"{path}: not the log of a complete run of this suite")
    if not log.config.depends_on_arrival:
        raise DataError(f"{path}: the log of a {log.config.mode} run: give asynchronous ones")
    return log


def check_alike(logs: Sequence[RunLog], *differing: str) -> None:
    """Raise UsageError, naming the setting, where runs differ in more than these settings and the seed."""
    alike = [alike_but_for(log.config, *differing) | {"clock": log.clock} for log in logs]
    for log, settings in zip(logs, alike, strict=True):
        for name in settings | alike[0]:
            if settings.get(name) != alike[0].get(name):
                value, other = (one.clock if name == "clock" else getattr(one.config, name) for one in (log, logs[0]))
                *first, last = [ROWS[one].label for one in differing] + ["seed"]
                raise UsageError(
                    f"{log.path} is not valid beside {logs[0].path}: {name} {value} and {other}; give runs that differ "
                    f"only in {', '.join(first)} and {last}"
                )


def read_saved(log: RunLog, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The saved weights (n, columns) of a complete run, and the updates (n,) between each of them and its end.

    Raises DataError, which names the file, where the rows are not all there.
    """
    if not len(log.updates):
        raise DataError(f"{log.path}: the run made no update")
    path = log.path.with_name(run_of(log.path) + ARTIFACTS["weights"])
    if not len(log.saved_versions):
        raise DataError(f"{log.path}: the run saved no weights: train with --saves_per_epoch")
    weights = read_weights(path, columns)
    if len(weights) != len(log.saved_versions):
        raise DataError(f"{path}: {len(weights)} rows in place of {len(log.saved_versions)}")
    return weights, len(log.updates) - log.saved_versions


def left_after(log: RunLog) -> dict[int, int]:
    """Worker → the updates after which it had nothing left to do; of an old log, those after its last gradient."""
    gradients = log.gradients
    return log.left or {
        worker: int(gradients.of_worker(worker).version[-1]) for worker in set(gradients.worker.tolist())
    }


def first_finished(log: RunLog) -> int:
    """The updates between the moment at which the first worker finished and the end."""
    return len(log.updates) - min(left_after(log).values())


def write_numbers(path: Path, numbers: Sequence[Number]) -> None:
    """One row each, below the names of the fields."""
    write_rows(path, [[field.name for field in fields(numbers[0])], *map(astuple, numbers)])


def read_numbers(path: Path, kind: type[Number]) -> list[Number]:
    """The numbers in a file that `write_numbers` filled, at least one. Raises DataError, which names the file."""
    types = get_type_hints(kind)
    try:
        with with_filename(path), path.open(encoding="utf-8", newline="") as file:
            titles, *rows = csv.reader(file)
        if titles != list(types) or not rows:
            raise ValueError("other columns, or no rows")
        return [kind(*(read(value) for read, value in zip(types.values(), row, strict=True))) for row in rows]
    except ValueError as error:
        raise DataError(f"{path}: not the numbers of {path.stem.replace('_', ' ')} ({error})") from error


@dataclass(frozen=True)
class Measurement(Generic[Number]):
    """A script that measures runs and draws the numbers, or draws numbers that are there.

    name: of the CSV file and of the figure; kind: of a number, whose `name` is that of a run; measure: all numbers of a
    run; draw: the figure, with what the runs have in common; differing: the settings that they do not, besides the
    number of workers and the seed.
    """

    doc: str
    name: str
    kind: type[Number]
    measure: Callable[[RunLog, argparse.Namespace], list[Number]]
    draw: Callable[[Sequence[Number], str], Figure]
    differing: tuple[str, ...] = ()
    add_flags: Callable[[ArgumentParser], object] = lambda parser: None

    def main(self) -> None:
        """Read the command line, write the files, and print their paths."""
        parser = ArgumentParser(self.doc)
        add = parser.add_argument
        add("inputs", metavar="FILE", type=Path, nargs="+",
            help=f"logs of runs, {{base}}{LOG_ENDING}, with their weights beside, or one {self.name}.csv")  # fmt: skip
        add("--summary_dir", metavar="DIR", type=Path, default=Path(), help="where the numbers go (default .)")
        add_plot_dir(parser)
        self.add_flags(parser)
        arguments = parser.parse_args()
        figure, written = make_folder(arguments.plot_dir, "--plot_dir") / self.name, []
        if arguments.inputs[0].suffix == ".csv":
            numbers = read_numbers(arguments.inputs[0], self.kind)
        else:
            logs = [read_asynchronous(path) for path in arguments.inputs]
            check_alike(logs, "world_size", *self.differing)
            numbers = [number for log in logs for number in self.measure(log, arguments)]
            written = [make_folder(arguments.summary_dir, "--summary_dir") / f"{self.name}.csv"]
            write_numbers(written[0], numbers)
        about = in_common(parse_run_name(numbers[0].name), *self.differing)
        print(*(f"  {path}" for path in [*written, *save(self.draw(numbers, about), figure)]), sep="\n")
