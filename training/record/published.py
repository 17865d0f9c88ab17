"""Read the logs of the published study (Junod, Lamour and Reategui, EPFL CS-439, 2023), of all three modes.

They have no header, so the settings come from the file name. Asynchronous workers fetched immediately after their own
update, from which the staleness is inferred.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from interface.errors import DataError, UsageError
from training.names import base_of, parse_run_name
from training.record.run_log import Events, RunLog, Validation

# Errors that parsing a damaged log may raise.
WRONG = (UsageError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def within(value: Any, low: float, high: float, name: str) -> Any:
    """Return the value. Raises ValueError if it is not between the bounds."""
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not in [{low},{high}]")
    return value


_NUMBER = r"[-+\w.]+"
_WHERE = r"(?P<batch>\d+)/\d+ \((?P<step>\d+)/\d+\), epoch \d+/\d+"
PUBLISHED_LINES = {
    "got": re.compile(rf"PS got update from Worker_(?P<worker>\d+), {_WHERE}"),
    "updated": re.compile(
        rf"PS updated model, worker loss: (?P<loss>{_NUMBER}) \(Worker_(?P<worker>\d+)\), "
        rf"weight norm: weights norm (?P<norm>{_NUMBER})"
    ),
    "gradient": re.compile(rf"PS got \d+/\d+ updates \(from Worker_(?P<worker>\d+), {_WHERE}\)"),
    "round": re.compile(rf"PS updated model, global loss is (?P<loss>{_NUMBER}), weights norm is (?P<norm>{_NUMBER})"),
    "classic": re.compile(
        rf"Loss: (?P<loss>{_NUMBER}), weight norm: (?P<norm>{_NUMBER}), "
        r"batch: \d+/\d+ \((?P<step>\d+)/\d+\), epoch: \d+/\d+"
    ),
    "validation": re.compile(
        rf"Train loss: (?P<train_loss>{_NUMBER}), train accuracy: (?P<train_accuracy>{_NUMBER}) % \(\d+/\d+\), "
        rf"val loss: (?P<val_loss>{_NUMBER}), val accuracy: (?P<val_accuracy>{_NUMBER}) % \(\d+/\d+\), "
        r"epoch: (?P<epoch>\d+)/\d+"
    ),
    "other": re.compile(r"Start.*|Worker_\d+ is working.*|Finished.*"),
}
PUBLISHED_PREFIX = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - [\w.]+ - (?:DEBUG|INFO|WARNING) - (.*)")


def read_published(path: Path, lines: list[str]) -> RunLog:
    """Parse the lines of a published log. Raises a DataError that names the file and the line."""
    try:
        config = parse_run_name(base_of(path))
    except UsageError as error:
        raise DataError(f"{path}: the log has no header, and its name does not identify the run ({error})") from error
    updates, gradients, validations = [], [], []
    versions: dict[int, int] = {}  # worker → the version it fetched last, immediately after its own update
    start = seconds = None
    step, finished = 0, False
    for number, line in enumerate(lines, start=1):
        try:
            kind, found, moment = _match_published(line)
            start = moment if start is None else start
            seconds = (moment - start).total_seconds()
            count, worker = len(updates), within(int(found.get("worker", 1)), 1, config.workers, "worker")
            if kind == "got":
                step = int(found["step"])
            elif kind == "updated":
                fetched = versions.get(worker, 0)
                loss, norm = float(found["loss"]), float(found["norm"])
                updates.append((seconds, worker, step, loss, count - fetched, fetched, norm, count + 1, False, 1.0))
                versions[worker] = count + 1
            elif kind == "gradient":
                gradients.append((seconds, worker, int(found["step"]), np.nan, 0, count, np.nan, count, False, 1.0))
            elif kind in ("round", "classic"):
                whose = 0 if kind == "round" else 1
                loss, norm = float(found["loss"]), float(found["norm"])
                updates.append((seconds, whose, count + 1, loss, 0, count, norm, count + 1, False, 1.0))
            elif kind == "validation":
                validations.append(
                    Validation(seconds, int(found["epoch"]), *(float(found[name]) for name in
                               ("train_loss", "train_accuracy", "val_loss", "val_accuracy")))
                )  # fmt: skip
        except WRONG as error:
            raise DataError(f"{path}, line {number}: not a line of a training log ({error})") from error
        finished |= line.endswith("Finished training")
    all_updates = Events.from_rows(updates)
    return RunLog(
        path,
        None,
        config,
        "wall",
        all_updates,
        Events.from_rows(gradients) if gradients else all_updates,
        tuple(validations),
        (),
        {},
        (),
        (),
        seconds,
        {"status": "complete"} if finished else None,
    )


def _match_published(line: str) -> tuple[str, dict[str, str], datetime]:
    if prefix := PUBLISHED_PREFIX.fullmatch(line):
        moment = datetime.strptime(prefix[1], "%Y-%m-%d %H:%M:%S,%f")
        for kind, pattern in PUBLISHED_LINES.items():
            if match := pattern.fullmatch(prefix[2]):
                return kind, match.groupdict(), moment
    raise ValueError(repr(line[:80]))
