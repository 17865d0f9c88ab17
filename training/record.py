"""What a run leaves behind: its log, its saved weights and its model. The only writer and parser of them.

A log opens with one line of JSON (configuration, seed, versions, machine), has a line for each gradient,
update and validation, and closes with a line of JSON, the result. Lines in between hold a time since the
start of training and then pairs of a key and a value, two spaces apart:

    12.345678 s  update 17/5628  Worker_2  batch 9/938  epoch 1/6  loss 2.29  staleness 1  fetched 15  weight_norm 8.9

While a run goes on, its files carry `_partial` and the process number in their names; they are renamed when whole.
"""

import dataclasses
import errno
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import FlatModel
from evaluation import Score
from interface.errors import DataError
from interface.files import make_folder, removed_on_error, with_filename
from training.names import ARTIFACTS, base_of, parse_run_name, run_name
from training.options import RunConfig
from training.plan import Plan, available_cores, save_points
from training.protocol import Push, Update

FORMAT = 1
REPOSITORY = Path(__file__).resolve().parent.parent


def revision() -> str:
    """The git revision of the code, with a + if it was changed since; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def header(plan: Plan, clock: str) -> dict[str, Any]:
    """Everything that is known of a run before its first update."""
    return {
        "format": FORMAT,
        "name": run_name(plan.config),
        "clock": clock,
        "seed": plan.seed,
        "threads_per_gradient": plan.threads_per_gradient,
        "data": plan.fingerprint,
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "config": dataclasses.asdict(plan.config),
        "train_samples": len(plan.train),
        "validation_samples": len(plan.validation),
        "updates": plan.updates,
        "updates_per_epoch": plan.updates_per_epoch,
        "worker_samples": [len(shard) for shard in plan.shards],
        "worker_batches_per_epoch": list(plan.batches_per_epoch),
        "revision": revision(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "torchvision", "numpy")},
        "host": platform.node(),
        "machine": platform.machine(),
        "cores": available_cores(),
        "command": sys.argv,
    }


class Record:
    """Writes the files of one run. Use it as a context; what is not `finish`ed stays as a partial run.

    Raises OSError, which names the file, where something cannot be written, ValueError for a folder that is a file.
    """

    def __init__(self, plan: Plan, clock: str) -> None:
        self.plan = plan
        self.folder = make_folder(Path(plan.config.subfolder))
        self.base = run_name(plan.config)
        for path in map(self.path, ARTIFACTS):
            if path.is_dir():  # renaming would fail, when all the work is done
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path = self._partial("log")
        with removed_on_error(path):
            path.write_text(json.dumps(header(plan, clock)) + "\n", encoding="utf-8")
        self._log = path.open("a", encoding="utf-8", buffering=1)
        self._weights = None
        self._rows = 0
        self._written = ["log"]

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # of what could not be written before
            self._close()
        if self._weights is not None and self._rows == 0:
            self._partial("weights").unlink()

    def _close(self) -> None:
        for file in filter(None, (self._weights, self._log)):
            with with_filename(file.name):
                file.close()

    def _partial(self, kind: str) -> Path:
        return self.folder / f"{self.base}_partial{os.getpid()}{ARTIFACTS[kind]}"

    def path(self, kind: str) -> Path:
        """The final path of the run's "log", "weights" or "model"."""
        return self.folder / f"{self.base}{ARTIFACTS[kind]}"

    def _line(self, seconds: float, *fields: str) -> None:
        with with_filename(self._log.name):
            self._log.write("  ".join((f"{seconds:.6f} s", *fields)) + "\n")

    def _whose(self, push: Push) -> tuple[str, ...]:
        batches = self.plan.batches_per_epoch[push.worker - 1]
        epoch, batch = divmod(push.step - 1, batches)
        return (
            f"Worker_{push.worker}",
            f"batch {batch + 1}/{batches}",
            f"epoch {epoch + 1}/{self.plan.config.epochs}",
            f"loss {push.loss}",
        )

    def gradient(self, seconds: float, push: Push) -> None:
        """A gradient that came in and waits for the others of its round."""
        self._line(seconds, f"gradient {push.step}", *self._whose(push), f"fetched {push.version}")

    def update(self, seconds: float, update: Update) -> None:
        """An update of the global model. Of a synchronous one, `gradient` has told the parts."""
        if self.plan.config.mode == "sync":
            about = (f"gradients {len(update.pushes)}", f"loss {update.loss}")
        else:
            about = self._whose(update.pushes[0])
        self._line(
            seconds,
            f"update {update.version}/{self.plan.updates}",
            *about,
            f"staleness {update.staleness}",
            f"fetched {update.pushes[0].version}",
            f"weight_norm {update.weight_norm}",
        )

    def validation(self, seconds: float, epoch: int, train: Score, validation: Score) -> None:
        """Loss and accuracy at the end of an epoch."""
        self._line(seconds, f"validation {epoch}/{self.plan.config.epochs}", *train.fields("train"),
                   *validation.fields("val"))  # fmt: skip

    def warning(self, seconds: float, text: str) -> None:
        """Something that a reader of the run must know."""
        self._line(seconds, f"warning {text}")

    def save_weights(self, state: Tensor) -> None:
        """Append one row (S,) to the saved weights."""
        if self._weights is None:
            self._weights = self._partial("weights").open("wb")
        with with_filename(self._weights.name):
            if self._rows == 0:
                self._write_weights_header(len(state))
            self._weights.write(state.numpy().astype(np.float32, copy=False).tobytes())
            self._weights.flush()  # a row counts once it is there
            self._rows += 1
            self._write_weights_header(len(state))
        if self._rows == 1:
            self._written.append("weights")

    def _write_weights_header(self, columns: int) -> None:
        # numpy pads the header so that the number of rows can grow in place.
        self._weights.seek(0)
        np.lib.format.write_array_header_1_0(
            self._weights, {"descr": "<f4", "fortran_order": False, "shape": (self._rows, columns)}
        )
        self._weights.seek(0, os.SEEK_END)
        self._weights.flush()

    def save_model(self, state: dict[str, Tensor]) -> None:
        """Write the model's state dict."""
        content = io.BytesIO()  # torch.save has an error of its own for a full disk
        torch.save(state, content)
        path = self._partial("model")
        with removed_on_error(path):
            path.write_bytes(content.getbuffer())
        self._written.append("model")

    def finish(self, seconds: float, result: dict[str, Any]) -> list[Path]:
        """Close the log with the result of a complete run and give all files their final names, the log last."""
        self._close_log(seconds, {"status": "complete", **result})
        self._close()
        for kind in reversed(self._written):
            self._partial(kind).replace(self.path(kind))
        return [self.path(kind) for kind in self._written]

    def abandon(self, seconds: float, reason: str, result: dict[str, Any]) -> list[Path]:
        """Close the log of a run that ends early; its files keep their partial names."""
        if not self._log.closed:  # as it is where only the new names could not be given
            self._close_log(seconds, {"status": "partial", "reason": reason, **result})
        return [path for path in map(self._partial, self._written) if path.exists()]

    def _close_log(self, seconds: float, result: dict[str, Any]) -> None:
        self._line(seconds, "result " + json.dumps(result))


# ----------------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Events:
    """The gradients or the updates of a log, one column a quantity, in the order of the log.

    seconds since the start; worker 1…N (0 where many took part); step: the worker's mini-batches so far
    (of a synchronous update: its number); fetched: the version it was computed on; staleness in updates.
    """

    seconds: np.ndarray
    worker: np.ndarray
    step: np.ndarray
    loss: np.ndarray
    staleness: np.ndarray
    fetched: np.ndarray
    weight_norm: np.ndarray

    @classmethod
    def from_rows(cls, rows: list[tuple]) -> "Events":
        """Columns from rows in the order of the fields."""
        columns = list(zip(*rows, strict=True)) or [()] * 7
        kinds = (float, int, int, float, int, int, float)
        return cls(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))

    def __len__(self) -> int:
        return len(self.seconds)

    def of_worker(self, worker: int) -> "Events":
        """The events of one worker."""
        return Events(*(getattr(self, field.name)[self.worker == worker] for field in dataclasses.fields(self)))


@dataclass(frozen=True)
class Validation:
    """Loss and accuracy (percent) at the end of one epoch."""

    seconds: float
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class RunLog:
    """One log as it was read.

    header: None for a log of the published study; clock: wall, virtual or replay; gradients: each worker's
    (asynchronous and classic: the updates themselves); seconds: from the start to the end of training;
    result: None if the run was cut short without a word.
    """

    path: Path
    header: dict[str, Any] | None
    config: RunConfig
    clock: str
    updates: Events
    gradients: Events
    validations: tuple[Validation, ...]
    warnings: tuple[str, ...]
    seconds: float
    result: dict[str, Any] | None

    @property
    def saved_versions(self) -> np.ndarray:
        """The version (n,) of each saved row of weights, of a complete run of this suite."""
        return np.array(save_points(self.config, len(self.updates)), dtype=int)


def read_log(path: str | Path) -> RunLog:
    """Read a log of this suite or of the published study, whole or cut short.

    Raises DataError, which names the file and the line, if it is neither.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a log, but binary data") from error
    lines = text.split("\n")
    lines.pop()  # behind the last line feed: nothing, or a line that was cut off
    if not lines:
        raise DataError(f"{path}: not a log: it is empty, or cut in its first line")
    try:
        return _read_own(path, lines) if lines[0].startswith("{") else _read_published(path, lines)
    except WRONG as error:  # of numbers that no array holds
        raise DataError(f"{path}: not a log ({error})") from error


WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)  # of damaged text


def _read_own(path: Path, lines: list[str]) -> RunLog:
    try:
        head, config = _own_header(lines[0])
    except WRONG as error:
        raise DataError(f"{path}, line 1: not the header of a log ({error})") from error
    course, validations, warned, result, seconds = _Course(head, config), [], [], None, 0.0
    for number, line in enumerate(lines[1:], start=2):
        try:
            _demand(result is None, "it stands behind the result")
            time, kind, *fields = line.split("  ")
            seconds = _within(float(time.removesuffix(" s")), 0, sys.float_info.max, "time")
            kind, _, value = kind.partition(" ")
            pairs = dict(field.partition(" ")[::2] if " " in field else ("worker", field) for field in fields)
            if kind == "update":
                course.update(seconds, value, pairs)
            elif kind == "gradient":
                course.gradient(seconds, value, pairs)
            elif kind == "validation":
                validations.append(_own_validation(seconds, value, pairs))
                _demand(len(validations) == validations[-1].epoch <= config.epochs, "an epoch is missing")
            elif kind == "warning":
                warned.append("  ".join((value, *fields)))
            elif kind == "result":
                result = _own_result("  ".join((value, *fields)))
                seconds = result["seconds"]
            else:
                raise ValueError(f"unknown kind {kind!r}")
        except WRONG as error:
            raise DataError(f"{path}, line {number}: not a line of a log ({error})") from error
    updates = Events.from_rows(course.updates)
    return RunLog(
        path,
        head,
        config,
        head["clock"],
        updates,
        Events.from_rows(course.gradients) if config.mode == "sync" else updates,
        tuple(validations),
        tuple(warned),
        seconds,
        result,
    )


def _own_header(line: str) -> tuple[dict[str, Any], RunConfig]:
    head = json.loads(line)
    config = RunConfig(**head["config"])
    for key, kind in {"seed": int, "threads_per_gradient": int, "clock": str, "data": str}.items():
        _demand(type(head[key]) is kind, f"{key} {head[key]!r}")
    _within(head["threads_per_gradient"], 1, head["cores"], "threads a gradient")
    batches = [math.ceil(samples / config.batch_size) for samples in head["worker_samples"]]
    _demand(head["worker_batches_per_epoch"] == batches, "mini-batches that do not fit the samples")
    _demand(len(batches) == config.workers, f"{len(batches)} workers in place of {config.workers}")
    return head, config


def _demand(true: bool, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)


def _within(value: Any, low: float, high: float, name: str) -> Any:
    _demand(low <= value <= high, f"{name} {value}, not in {low} to {high}")
    return value


class _Course:
    """The gradients and updates of a log so far, which the next line must follow from; rows as in `Events`."""

    def __init__(self, head: dict[str, Any], config: RunConfig) -> None:
        self.updates: list[tuple] = []
        self.gradients: list[tuple] = []
        self._sync, self._epochs = config.mode == "sync", config.epochs
        self._batches = dict(enumerate(head["worker_batches_per_epoch"], start=1))
        self._steps = dict.fromkeys(self._batches, 0)
        self._fetched = dict.fromkeys(self._batches, 0)  # worker → the earliest version it may have fetched

    def gradient(self, seconds: float, number: str, pairs: dict[str, str]) -> None:
        """Of a synchronous run."""
        worker, step = self._whose(pairs)
        fetched = _within(int(pairs["fetched"]), len(self.updates), len(self.updates), "version fetched")
        self.gradients.append((seconds, worker, step, float(pairs["loss"]), 0, fetched, math.nan))

    def update(self, seconds: float, number: str, pairs: dict[str, str]) -> None:
        """Of any run; of a synchronous one, the lines of its gradients tell whose."""
        last, version = len(self.updates), int(number.partition("/")[0])
        _demand(version == last + 1, f"update {version} follows update {last}")
        worker, step = (0, version) if self._sync else self._whose(pairs)
        fetched = _within(int(pairs["fetched"]), last if self._sync else self._fetched[worker], last, "version fetched")
        stale = _within(int(pairs["staleness"]), last - fetched, last - fetched, "staleness")
        self._fetched[worker] = version
        self.updates.append((seconds, worker, step, float(pairs["loss"]), stale, fetched, float(pairs["weight_norm"])))

    def _whose(self, pairs: dict[str, str]) -> tuple[int, int]:
        worker = int(pairs["worker"].removeprefix("Worker_"))
        batch, epoch = (int(pairs[key].partition("/")[0]) for key in ("batch", "epoch"))
        step = (epoch - 1) * self._batches[worker] + batch
        _demand(step == self._steps[worker] + 1, f"mini-batch {step} follows mini-batch {self._steps[worker]}")
        _within(step, 1, self._epochs * self._batches[worker], "mini-batch")
        self._steps[worker] = step
        return worker, step


def _own_validation(seconds: float, number: str, pairs: dict[str, str]) -> Validation:
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return Validation(seconds, int(number.partition("/")[0]), *(float(pairs[name].split(" ")[0]) for name in names))


def _own_result(text: str) -> dict[str, Any]:
    result = json.loads(text)
    _within(result["seconds"], 0, sys.float_info.max, "time")
    _demand(result["status"] in ("complete", "partial"), f"status {result['status']!r}")
    ", ".join(result.get("lost_workers", []))  # names, or none
    return result


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


def _read_published(path: Path, lines: list[str]) -> RunLog:
    try:
        config = parse_run_name(base_of(path))
    except ValueError as error:
        raise DataError(f"{path}: a log without a header, and its name does not tell the run ({error})") from error
    updates, gradients, validations = [], [], []
    versions: dict[int, int] = {}  # worker → the version it fetched last, which was right behind its own update
    start = seconds = None
    step, finished = 0, False
    for number, line in enumerate(lines, start=1):
        try:
            kind, found, moment = _match_published(line)
            start = moment if start is None else start
            seconds = (moment - start).total_seconds()
            count, worker = len(updates), _within(int(found.get("worker", 1)), 1, config.workers, "worker")
            if kind == "got":
                step = int(found["step"])
            elif kind == "updated":
                fetched = versions.get(worker, 0)
                loss, norm = float(found["loss"]), float(found["norm"])
                updates.append((seconds, worker, step, loss, count - fetched, fetched, norm))
                versions[worker] = count + 1
            elif kind == "gradient":
                gradients.append((seconds, worker, int(found["step"]), np.nan, 0, count, np.nan))
            elif kind in ("round", "classic"):
                whose = 0 if kind == "round" else 1
                updates.append((seconds, whose, count + 1, float(found["loss"]), 0, count, float(found["norm"])))
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
        Events.from_rows(gradients) if config.mode == "sync" else all_updates,
        tuple(validations),
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


def read_model(path: str | Path, model: FlatModel) -> None:
    """Load a checkpoint into `model`. Never executes what the file holds.

    Raises DataError, which names the file, if it is no state dict or one of another network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of file formats; what matters is an error below
            state = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises whatever the bytes happen to trip over
        raise DataError(f"{path}: not a model: torch.load refuses it ({first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: not a model: it holds no state dict")
    network = type(model.network).__name__
    try:
        expected, found = kinds(model.state_dict()), kinds(state)
        if found != expected:
            name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
            raise DataError(
                f"{path}: not a model of {network}: {name} is {found.get(name, 'not there')}, "
                f"{network} wants {expected.get(name, 'none')}"
            )
        model.load_state_dict(state)
    except RuntimeError as error:  # torch's word for tensors without plain values
        raise DataError(f"{path}: not a model of {network}: {first_line(error)}") from error


def kinds(state: dict[str, Tensor]) -> dict[str, str]:
    """Type and shape of each entry of a state dict."""
    return {str(name): f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.") for name, value in state.items()}


def read_weights(path: str | Path, columns: int) -> np.ndarray:
    """The saved weights of a run, float32 (rows, columns). Never executes what the file holds.

    Raises DataError, which names the file, if it is no such array.
    """
    try:
        weights = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # numpy raises whatever the bytes happen to trip over
        raise DataError(f"{path}: not saved weights: numpy refuses it ({first_line(error)})") from error
    if not isinstance(weights, np.ndarray) or weights.ndim != 2 or weights.shape[1] != columns:
        shape = getattr(weights, "shape", "unknown")
        raise DataError(f"{path}: not saved weights of this network: shape {shape}, expected (rows, {columns})")
    if weights.dtype != np.float32 or len(weights) == 0:
        raise DataError(f"{path}: not saved weights: {len(weights)} rows of {weights.dtype}, expected float32")
    return weights


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
