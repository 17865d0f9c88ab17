"""Read logs. Those of this suite (see writer.py) are checked line by line for consistency with the lines before."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from interface.errors import DataError
from training.config import RunConfig
from training.positions import pushes_of
from training.record.published import WRONG, read_published, within
from training.record.run_log import Evaluation, Events, LostWorker, RunLog, Validation
from training.settings import ROWS, RUN_CLOCKS

VERSION = [field.name for field in dataclasses.fields(Events)].index("version")
MAX_THREADS = 4096  # of a gradient, on any machine
FORMATS = (1, 2)  # current and earlier formats of writer.py
HEADER_TYPES = {"seed": int, "threads_per_gradient": int, "cores": int, "clock": str, "data": str, "started": str,
                "revision": str, "updates": int | None, "worker_samples": list}  # fmt: skip
OPTIONAL_TYPES = {"host": str, "processor": str, "versions": dict}  # of later versions of the suite


def read_log(path: str | Path) -> RunLog:
    """Read a log of this suite or of the published study, complete or truncated.

    Raises a DataError that names the file and the line if it is neither.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a log: it contains binary data") from error
    lines = text.split("\n")
    lines.pop()  # after the last line feed: nothing, or an incomplete line
    if not lines:
        raise DataError(f"{path}: not a log: it is empty or truncated in its first line")
    try:
        return _read_own(path, lines) if lines[0].startswith("{") else read_published(path, lines)
    except WRONG as error:  # such as numbers that do not fit into an array
        raise DataError(f"{path}: not a log ({error})") from error


def _read_own(path: Path, lines: list[str]) -> RunLog:
    try:
        head, config = _own_header(lines[0])
    except WRONG as error:
        raise DataError(f"{path}, line 1: not the header of a log ({error})") from error
    course, validations, evaluations, warned, result, seconds = _Course(head, config), [], [], [], None, 0.0
    for number, line in enumerate(lines[1:], start=2):
        try:
            _demand(result is None, "a line after the result")
            time, kind, *fields = line.split("  ")
            seconds = within(float(time.removesuffix(" s")), 0, sys.float_info.max, "time")
            kind, _, value = kind.partition(" ")
            pairs = dict(field.partition(" ")[::2] if " " in field else ("worker", field) for field in fields)
            if kind == "update":
                course.update(seconds, value, pairs)
            elif kind == "gradient":
                course.gradient(seconds, pairs)
            elif kind == "validation":
                validations.append(_own_validation(seconds, value, pairs))
                _demand(len(validations) == validations[-1].epoch <= config.epochs, "unexpected epoch")
            elif kind == "evaluation":
                evaluations.append(_own_evaluation(seconds, value, pairs, len(course.updates)))
            elif kind == "left":
                course.leave(pairs)
            elif kind == "lost":
                warned.append(course.lose(seconds, pairs))
            elif kind == "warning":
                warned.append("  ".join((value, *fields)))
            elif kind == "result":
                result = _own_result("  ".join((value, *fields)))
                seconds = result["seconds"]
            else:
                raise ValueError(f"unknown kind {kind!r}")
        except WRONG as error:
            raise DataError(f"{path}, line {number}: not a line of a log ({error})") from error
    return RunLog(
        path,
        head,
        config,
        head["clock"],
        Events.from_rows(course.updates),
        Events.from_rows(course.gradients),
        tuple(validations),
        tuple(evaluations),
        course.left,
        tuple(course.losses),
        tuple(warned),
        seconds,
        result,
    )


def _own_header(line: str) -> tuple[dict[str, Any], RunConfig]:
    head = json.loads(line)
    _demand(head["format"] in FORMATS, f"format {head['format']!r}, expected {' or '.join(map(str, FORMATS))}")
    config = RunConfig.from_json(head["config"])
    for key, kind in HEADER_TYPES.items():
        _demand(isinstance(head[key], kind) and not isinstance(head[key], bool), f"{key} {str(head[key])[:80]!r}")
    for key, kind in OPTIONAL_TYPES.items():
        _demand(isinstance(head.get(key, kind()), kind), f"{key} {str(head.get(key))[:80]!r}")
    _demand(head["clock"] in RUN_CLOCKS, f"clock {head['clock']!r}")
    _demand(
        head["seed"] in ROWS["seed"].valid and config.seed in (None, head["seed"]), f"seed {str(head['seed'])[:80]}"
    )
    _demand(all(type(samples) is int for samples in head["worker_samples"]), "samples that are no whole numbers")
    planned = head.get("gradients", 0) if head["updates"] is not None else head["gradients"]  # format 1 has none
    _demand(type(planned) is int and planned >= 0, f"gradients {str(planned)[:80]!r}")
    _demand((head["updates"] or 0) >= 0, f"updates {head['updates']}")
    within(head["threads_per_gradient"], 1, MAX_THREADS, "threads per gradient")
    batches = [math.ceil(samples / config.batch_size) for samples in head["worker_samples"]]
    _demand(head["worker_batches_per_epoch"] == batches, "mini-batches do not match samples")
    _demand(len(batches) == config.workers, f"{len(batches)} workers, expected {config.workers}")
    return head, config


def _demand(true: bool, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)


class _Course:
    """The gradients and updates of a log so far, to check the next line against; rows as in `Events`."""

    def __init__(self, head: dict[str, Any], config: RunConfig) -> None:
        self.updates: list[tuple] = []
        self.gradients: list[tuple] = []
        self.losses: list[LostWorker] = []
        self._pushed = False  # whether the next update is that of the last gradient, not of a worker that left since
        self.left: dict[int, int] = {}  # worker → the updates that it left after
        self._epochs = config.epochs
        self._goes_on = config.stop == "total"  # beyond its epochs
        self._keeps_models = config.distributed and config.rule.keeps_models
        self._batches = dict(enumerate(pushes_of(head["worker_batches_per_epoch"], config.local_steps), start=1))
        self._steps = dict.fromkeys(self._batches, 0)
        self._fetched = dict.fromkeys(self._batches, 0)  # worker → the earliest version that it can have fetched

    def gradient(self, seconds: float, pairs: dict[str, str]) -> None:
        """Add a gradient that was not applied immediately."""
        last = len(self.updates)
        worker, step = self._whose(pairs)
        fetched = within(int(pairs["fetched"]), self._fetched[worker], last, "version fetched")
        stale = within(int(pairs.get("staleness", last - fetched)), last - fetched, last - fetched, "staleness")
        fate = pairs.get("fate", "buffered")
        _demand(fate in ("buffered", "dropped"), f"fate {fate!r}")
        self._fetches(worker, fetched, last)
        self._pushed = True
        self.gradients.append(
            (seconds, worker, step, float(pairs["loss"]), stale, fetched, math.nan, last, fate == "dropped",
             self._weight(pairs))
        )  # fmt: skip

    def update(self, seconds: float, number: str, pairs: dict[str, str]) -> None:
        """Add an update: of the single gradient in its line, or of gradients with their own lines."""
        last, version = len(self.updates), int(number.partition("/")[0])
        _demand(version == last + 1, f"update {version} follows update {last}")
        single = "worker" in pairs
        _demand(single or "gradients" in pairs, "it names neither a worker nor gradients")
        worker, step = self._whose(pairs) if single else (0, version)
        fetched = within(int(pairs["fetched"]), self._fetched[worker] if single else 0, last, "version fetched")
        stale = within(int(pairs["staleness"]), last - fetched, last - fetched, "staleness")
        row = (seconds, worker, step, float(pairs["loss"]), stale, fetched, float(pairs["weight_norm"]), version, False,
               self._weight(pairs))  # fmt: skip
        self.updates.append(row)
        if single:
            self._fetches(worker, fetched, version)
            self.gradients.append(row)
        elif self._pushed:
            self.gradients[-1] = (*self.gradients[-1][:VERSION], version, *self.gradients[-1][VERSION + 1 :])
            self._fetched[self.gradients[-1][1]] = version
            self._pushed = False

    def lose(self, seconds: float, pairs: dict[str, str]) -> str:
        """Add a worker that died; returns a description."""
        worker, how = self._worker(pairs), pairs["how"]
        self._pushed = False
        self.losses.append(LostWorker(seconds, worker, len(self.gradients), how))
        return f"Worker_{worker} was lost ({how})"

    def leave(self, pairs: dict[str, str]) -> None:
        """A worker that has nothing left to do."""
        update = int(pairs["after"])
        self._pushed = False
        self.left[self._worker(pairs)] = within(update, len(self.updates), len(self.updates), "update")

    def _fetches(self, worker: int, had: int, current: int) -> None:
        self._fetched[worker] = had if self._keeps_models else current

    @staticmethod
    def _weight(pairs: dict[str, str]) -> float:
        return within(float(pairs.get("weight", 1)), 0, sys.float_info.max, "weight")

    def _worker(self, pairs: dict[str, str]) -> int:
        worker = int(pairs["worker"].removeprefix("Worker_"))
        _demand(worker in self._batches, f"Worker_{worker} in a run of {len(self._batches)} workers")
        _demand(all(worker != loss.worker for loss in self.losses), f"Worker_{worker} was lost before")
        return worker

    def _whose(self, pairs: dict[str, str]) -> tuple[int, int]:
        worker = self._worker(pairs)
        batch, epoch = (int(pairs[key].partition("/")[0]) for key in ("batch", "epoch"))
        step = (epoch - 1) * self._batches[worker] + batch
        _demand(step == self._steps[worker] + 1, f"mini-batch {step} follows mini-batch {self._steps[worker]}")
        within(step, 1, math.inf if self._goes_on else self._epochs * self._batches[worker], "mini-batch")
        _demand(worker not in self.left, f"Worker_{worker} left earlier")
        self._steps[worker] = step
        return worker, step


def _own_validation(seconds: float, number: str, pairs: dict[str, str]) -> Validation:
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return Validation(seconds, int(number.partition("/")[0]), *(float(pairs[name].split(" ")[0]) for name in names))


def _own_evaluation(seconds: float, number: str, pairs: dict[str, str], updates: int) -> Evaluation:
    loss, accuracy = (float(pairs[name].split(" ")[0]) for name in ("test_loss", "test_accuracy"))
    update = within(int(pairs["after"]), updates, updates, "update")
    return Evaluation(seconds, update, loss, within(accuracy, 0, 100, "accuracy"), number == "first_left")


def _own_result(text: str) -> dict[str, Any]:
    result = json.loads(text)
    within(result["seconds"], 0, sys.float_info.max, "time")
    _demand(result["status"] in ("complete", "partial"), f"status {result['status']!r}")
    lost = result.get("lost_workers", [])
    _demand(isinstance(lost, list) and all(isinstance(name, str) for name in lost), f"lost workers {str(lost)[:80]}")
    return result
