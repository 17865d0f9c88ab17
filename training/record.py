"""What a run leaves behind: its log, its saved weights and its model. The only writer and parser of them.

A log opens with one line of JSON (configuration, seed, versions, machine), has a line for each gradient,
update and validation, and closes with a line of JSON, the result. Lines in between hold a time since the
start of training and then pairs of a key and a value, two spaces apart:

    12.345678 s  update 17/5628  Worker_2  batch 9/938  epoch 1/6  loss 2.29  staleness 1  fetched 15  weight_norm 8.9

While a run goes on, its files carry `_partial` and the process number in their names; they are renamed when whole.
"""

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import DataError, FlatModel
from training.names import ARTIFACTS, base_of, parse_run_name, run_name
from training.options import RunConfig
from training.plan import Plan, available_cores
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

    Raises OSError where the folder cannot be made or written to.
    """

    def __init__(self, plan: Plan, clock: str) -> None:
        self.plan = plan
        self.folder = Path(plan.config.subfolder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = run_name(plan.config)
        self._log = self._partial("log").open("w", encoding="utf-8", buffering=1)
        self._weights = None
        self._rows = 0
        self._written = ["log"]
        self._log.write(json.dumps(header(plan, clock)) + "\n")

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *exception: object) -> None:
        self._log.close()
        if self._weights is not None:
            self._weights.close()

    def _partial(self, kind: str) -> Path:
        return self.folder / f"{self.base}_partial{os.getpid()}{ARTIFACTS[kind]}"

    def path(self, kind: str) -> Path:
        """The final path of the run's "log", "weights" or "model"."""
        return self.folder / f"{self.base}{ARTIFACTS[kind]}"

    def _line(self, seconds: float, *fields: str) -> None:
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

    def validation(self, seconds: float, epoch: int, train: "Score", validation: "Score") -> None:
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
            self._written.append("weights")
            self._write_weights_header(len(state))
        self._weights.write(state.numpy().astype(np.float32, copy=False).tobytes())
        self._rows += 1
        self._write_weights_header(len(state))

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
        self._written.append("model")
        torch.save(state, self._partial("model"))

    def finish(self, seconds: float, result: dict[str, Any]) -> list[Path]:
        """Close the log with the result of a complete run and give all files their final names."""
        self._close_log(seconds, {"status": "complete", **result})
        self.__exit__()
        for kind in self._written:
            self._partial(kind).replace(self.path(kind))
        return [self.path(kind) for kind in self._written]

    def abandon(self, seconds: float, reason: str, result: dict[str, Any]) -> list[Path]:
        """Close the log of a run that ends early; its files keep their partial names."""
        self._close_log(seconds, {"status": "partial", "reason": reason, **result})
        return [self._partial(kind) for kind in self._written]

    def _close_log(self, seconds: float, result: dict[str, Any]) -> None:
        self._line(seconds, "result " + json.dumps(result))


@dataclass(frozen=True)
class Score:
    """Mean loss over `total` samples, of which `correct` were classified right."""

    loss: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.total

    def fields(self, name: str) -> tuple[str, str]:
        """The score as a log line and a report hold it."""
        return f"{name}_loss {self.loss}", f"{name}_accuracy {self.accuracy:.2f} % ({self.correct}/{self.total})"


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
        raise DataError(f"{path}: not a log: it is empty")
    if lines[0].startswith("{"):
        return _read_own(path, lines)
    return _read_published(path, lines)


def _read_own(path: Path, lines: list[str]) -> RunLog:
    try:
        head = json.loads(lines[0])
        config = RunConfig(**head["config"])
        batches = head["worker_batches_per_epoch"]
        clock = head["clock"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line 1: not the header of a log ({error})") from error
    updates, gradients, validations, warned, result, seconds = [], [], [], [], None, 0.0
    for number, line in enumerate(lines[1:], start=2):
        try:
            time, kind, *fields = line.split("  ")
            seconds = float(time.removesuffix(" s"))
            kind, _, value = kind.partition(" ")
            pairs = dict(field.partition(" ")[::2] if " " in field else ("worker", field) for field in fields)
            if kind == "update":
                updates.append(_own_event(seconds, value, pairs, batches))
            elif kind == "gradient":
                gradients.append(_own_event(seconds, value, pairs, batches))
            elif kind == "validation":
                validations.append(_own_validation(seconds, value, pairs))
            elif kind == "warning":
                warned.append("  ".join((value, *fields)))
            elif kind == "result":
                result = json.loads("  ".join((value, *fields)))
                seconds = float(result["seconds"])
            else:
                raise ValueError(f"unknown kind {kind!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a line of a log ({error})") from error
    all_updates = Events.from_rows(updates)
    return RunLog(
        path,
        head,
        config,
        clock,
        all_updates,
        Events.from_rows(gradients) if config.mode == "sync" else all_updates,
        tuple(validations),
        tuple(warned),
        seconds,
        result,
    )


def _own_event(seconds: float, number: str, pairs: dict[str, str], batches: list[int]) -> tuple:
    worker = int(pairs["worker"].removeprefix("Worker_")) if "worker" in pairs else 0
    step = int(number.partition("/")[0])
    if worker:
        batch, epoch = (int(pairs[key].partition("/")[0]) for key in ("batch", "epoch"))
        step = (epoch - 1) * batches[worker - 1] + batch
    return (
        seconds,
        worker,
        step,
        float(pairs["loss"]),
        int(pairs.get("staleness", 0)),
        int(pairs["fetched"]),
        float(pairs.get("weight_norm", "nan")),
    )


def _own_validation(seconds: float, number: str, pairs: dict[str, str]) -> Validation:
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return Validation(seconds, int(number.partition("/")[0]), *(float(pairs[name].split(" ")[0]) for name in names))


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
    finished = False
    for number, line in enumerate(lines, start=1):
        kind, found, moment = _match_published(path, number, line)
        start = moment if start is None else start
        seconds = (moment - start).total_seconds()
        if kind == "got":
            step = int(found["step"])
        elif kind == "updated":
            worker, fetched = int(found["worker"]), versions.get(int(found["worker"]), 0)
            stale = len(updates) - fetched
            updates.append((seconds, worker, step, float(found["loss"]), stale, fetched, float(found["norm"])))
            versions[worker] = len(updates)
        elif kind == "gradient":
            gradients.append((seconds, int(found["worker"]), int(found["step"]), np.nan, 0, len(updates), np.nan))
        elif kind in ("round", "classic"):
            count = len(updates)
            worker = 0 if kind == "round" else 1
            updates.append((seconds, worker, count + 1, float(found["loss"]), 0, count, float(found["norm"])))
        elif kind == "validation":
            validations.append(
                Validation(seconds, int(found["epoch"]), *(float(found[name]) for name in
                           ("train_loss", "train_accuracy", "val_loss", "val_accuracy")))
            )  # fmt: skip
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


def _match_published(path: Path, number: int, line: str) -> tuple[str, dict[str, str], datetime]:
    prefix = PUBLISHED_PREFIX.fullmatch(line)
    if prefix:
        moment = datetime.strptime(prefix[1], "%Y-%m-%d %H:%M:%S,%f")
        for kind, pattern in PUBLISHED_LINES.items():
            if match := pattern.fullmatch(prefix[2]):
                return kind, match.groupdict(), moment
    raise DataError(f"{path}, line {number}: not a line of a training log: {line[:80]!r}")


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
    expected = {name: tuple(value.shape) for name, value in model.network.state_dict().items()}
    found = {str(name): tuple(value.shape) for name, value in state.items()}
    if found != expected:
        name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
        network = type(model.network).__name__
        raise DataError(
            f"{path}: not a model of {network}: {name} has shape {found.get(name, 'none')}, "
            f"{network} wants {expected.get(name, 'none')}"
        )
    model.load_state_dict(state)


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
