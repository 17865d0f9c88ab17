"""Write the files of a run: its log, saved weights and model.

A log starts with one line of JSON (configuration, seed, versions, machine), has one line per update, gradient,
validation, warning and lost worker, and ends with the result, whose value is JSON. Each line after the first contains
the time since the start of training, followed by key-value pairs separated by two spaces:

    12.345678 s  update 17/5628  Worker_2  batch 9/938  epoch 1/6  loss 2.29  staleness 1  fetched 15  weight_norm 8.9

A gradient that is not applied immediately has its own line, which states whether it was buffered for a later update or
dropped. `weight` is the factor by which the algorithm scaled a gradient or its learning rate, if it does. During a run,
the names of its files contain `_partial` and a number; they are renamed when the run is complete.
"""

import errno
import fcntl
import io
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation import Score
from interface.errors import DataError
from interface.files import make_folder, partial_mark, removed_on_error, with_filename
from interface.processes import available_cores, cpu_model
from training.names import ARTIFACTS, CHECKPOINT, run_name
from training.plan import Plan, threads_of
from training.protocol import Push, Update
from training.record.resume import Checkpoint

FORMAT = 2  # format 1, which can still be read, had no lines for dropped gradients or lost workers
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def revision() -> str:
    """The git revision of the code, with a + if a Python file was modified; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        # A checkout that another user owns is fine to read.
        command = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "*.py") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def header(plan: Plan, clock: str) -> dict[str, Any]:
    """The header of the log: everything known about a run before its first update."""
    return {
        "format": FORMAT,
        "name": run_name(plan.config),
        "clock": clock,
        "seed": plan.seed,
        "threads_per_gradient": plan.threads_per_gradient,
        "threads_from": "log" if plan.config.replay else threads_of(plan.config)[1],
        "data": plan.fingerprint,
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "config": plan.config.to_json(),
        "train_samples": len(plan.train),
        "validation_samples": len(plan.validation),
        "updates": plan.updates,
        "gradients": sum(plan.steps.values()),
        "updates_per_epoch": plan.updates_per_epoch,
        "worker_samples": [len(shard) for shard in plan.shards],
        "worker_batches_per_epoch": list(plan.batches_per_epoch),
        "worker_speeds": [plan.speed(worker) for worker in plan.steps],
        "revision": revision(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "torchvision", "numpy")},
        "host": platform.node(),
        "machine": platform.machine(),
        # The last bits of a gradient depend on both.
        "processor": f"{cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": available_cores(),
        "command": sys.argv,
    }


def _weight(weight: float | None) -> tuple[str, ...]:
    return () if weight is None else (f"weight {weight}",)


class Record:
    """Writes the files of one run. A context manager; without a call of `finish`, the files keep their partial names.

    Raises an OSError that names the file if it cannot be written, and UsageError if the folder is a file.
    """

    def __init__(self, plan: Plan, clock: str, resumed: Checkpoint | None = None) -> None:
        """resumed: the checkpoint of the run whose partial files are continued, if there is one."""
        self.plan = plan
        self.resumed = resumed is not None
        self.folder = make_folder(Path(plan.config.subfolder))
        self.base = run_name(plan.config)
        self._unfinished = self.base + partial_mark() if resumed is None else resumed.base.name
        self._weights = None
        self._rows = 0
        self._written = ["log"]
        for path in map(self.path, ARTIFACTS):
            if path.is_dir():  # otherwise renaming would fail at the end of the run
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path = self._partial("log")
        if resumed is None:
            with removed_on_error(path):
                path.write_text(json.dumps(header(plan, clock), allow_nan=False) + "\n", encoding="utf-8")
        self._log = path.open("a", encoding="utf-8", buffering=1)
        try:
            fcntl.lockf(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # for --resume: the run is not interrupted
        except BlockingIOError as error:
            raise DataError(f"{path}: another process has resumed this run") from error
        if resumed is not None:
            self._continue(**resumed.state["record"])

    def position(self) -> dict[str, int]:
        """How far the files are, for a checkpoint; what they hold so far is on the disk."""
        for file in filter(None, (self._log, self._weights)):
            os.fsync(file.fileno())
        return {"log_bytes": os.fstat(self._log.fileno()).st_size, "rows": self._rows}

    def _continue(self, log_bytes: int, rows: int) -> None:
        """Remove from the files what was written after the checkpoint."""
        if os.fstat(self._log.fileno()).st_size < log_bytes:
            raise DataError(f"{self._log.name}: shorter than when its checkpoint was written: it cannot be resumed")
        self._log.truncate(log_bytes)
        if rows:
            path = self._partial("weights")
            self._weights = path.open("r+b")
            try:
                np.lib.format.read_magic(self._weights)
                (_, columns), _, dtype = np.lib.format.read_array_header_1_0(self._weights)
            except ValueError as error:
                raise DataError(f"{path}: damaged ({error}): the run cannot be resumed") from error
            length = self._weights.tell() + rows * columns * dtype.itemsize
            if os.fstat(self._weights.fileno()).st_size < length:
                raise DataError(f"{path}: shorter than when its checkpoint was written: it cannot be resumed")
            self._weights.truncate(length)
            self._rows = rows
            self._write_weights_header(columns)
            self._written.append("weights")

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # from data that could not be written before
            self._close()
        if self._weights is not None and self._rows == 0:
            self._partial("weights").unlink()

    def _close(self) -> None:
        for file in filter(None, (self._weights, self._log)):
            with with_filename(file.name):
                file.close()

    def _partial(self, kind: str) -> Path:
        return self.folder / f"{self._unfinished}{ARTIFACTS[kind]}"

    @property
    def checkpoint(self) -> Path:
        """The path of the run's checkpoint."""
        return self.folder / f"{self._unfinished}{CHECKPOINT}"

    @property
    def _new_checkpoint(self) -> Path:
        """What becomes the checkpoint once it is complete; a run that is killed meanwhile leaves it behind."""
        return self.checkpoint.with_suffix(".new")

    def path(self, kind: str) -> Path:
        """The final path of the run's "log", "weights" or "model"."""
        return self.folder / f"{self.base}{ARTIFACTS[kind]}"

    def _line(self, seconds: float, *fields: str) -> None:
        text = "  ".join(fields)
        with with_filename(self._log.name):
            self._log.write(f"{seconds:.6f} s  {text}\n")

    def _whose(self, push: Push) -> tuple[str, ...]:
        batches = self.plan.pushes_per_epoch[push.worker - 1]
        epoch, batch = divmod(push.step - 1, batches)
        return (
            f"Worker_{push.worker}",
            f"batch {batch + 1}/{batches}",
            f"epoch {epoch + 1}/{self.plan.config.epochs}",
            f"loss {push.loss}",
        )

    def gradient(self, seconds: float, push: Push, version: int, fate: str, weight: float | None) -> None:
        """Log a gradient that arrived at `version` and was not applied immediately; fate: "buffered" or "dropped"."""
        stale = version - push.version
        self._line(seconds, f"gradient {push.step}", *self._whose(push), f"staleness {stale}",
                   f"fetched {push.version}", f"fate {fate}", *_weight(weight))  # fmt: skip

    def update(self, seconds: float, update: Update, push: Push | None, weight: float | None) -> None:
        """Log an update of the global model; push: its only gradient, unless `gradient` has already logged it."""
        about = (f"gradients {len(update.pushes)}", f"loss {update.loss}") if push is None else self._whose(push)
        planned = "" if self.plan.updates is None else f"/{self.plan.updates}"
        self._line(
            seconds,
            f"update {update.version}{planned}",
            *about,
            f"staleness {update.staleness}",
            f"fetched {min(push.version for push in update.pushes)}",
            f"weight_norm {update.weight_norm}",
            *_weight(weight),
        )

    def loss(self, seconds: float, worker: int, how: str) -> None:
        """Log a worker that was lost."""
        self._line(seconds, "lost", f"Worker_{worker}", f"how {how}")

    def validation(self, seconds: float, epoch: int, train: Score, validation: Score) -> None:
        """Log loss and accuracy after an epoch."""
        self._line(seconds, f"validation {epoch}/{self.plan.config.epochs}", *train.fields("train"),
                   *validation.fields("val"))  # fmt: skip

    def evaluation(self, seconds: float, number: str, update: int, test: Score) -> None:
        """Loss and accuracy on the test set, of the model after some update."""
        self._line(seconds, f"evaluation {number}", f"after {update}", *test.fields("test"))

    def left(self, seconds: float, worker: int, update: int) -> None:
        """A worker that has nothing left to do after some update."""
        self._line(seconds, "left", f"Worker_{worker}", f"after {update}")

    def warning(self, seconds: float, text: str) -> None:
        """Log a warning."""
        self._line(seconds, f"warning {text}")

    def save_weights(self, state: Tensor) -> None:
        """Append one row (S,) to the saved weights."""
        if self._weights is None:
            self._weights = self._partial("weights").open("wb")
        with with_filename(self._weights.name):
            if self._rows == 0:
                self._write_weights_header(len(state))
            self._weights.write(state.numpy().astype(np.float32, copy=False).tobytes())
            self._weights.flush()  # write the row before the header counts it
            self._rows += 1
            self._write_weights_header(len(state))
        if self._rows == 1:
            self._written.append("weights")

    def _write_weights_header(self, columns: int) -> None:
        # numpy pads the header, so the number of rows can be updated in place.
        self._weights.seek(0)
        np.lib.format.write_array_header_1_0(
            self._weights, {"descr": "<f4", "fortran_order": False, "shape": (self._rows, columns)}
        )
        self._weights.seek(0, os.SEEK_END)
        self._weights.flush()

    def save_model(self, state: dict[str, Tensor]) -> None:
        """Write the model's state dict."""
        content = io.BytesIO()  # torch.save raises its own error for a full disk
        torch.save(state, content)
        path = self._partial("model")
        with removed_on_error(path):
            path.write_bytes(content.getbuffer())
        self._written.append("model")

    def save_checkpoint(self, content: memoryview) -> None:
        """Replace the run's checkpoint."""
        with removed_on_error(self._new_checkpoint), self._new_checkpoint.open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())  # the machine may lose power
        self._new_checkpoint.replace(self.checkpoint)

    def finish(self, seconds: float, result: dict[str, Any], partial: str = "") -> list[Path]:
        """Write the result of a run to the log and give all files their final names, the log last.

        partial: for a replay, why the run that it repeats is not complete.
        """
        status = {"status": "partial", "reason": partial} if partial else {"status": "complete"}
        self._close_log(seconds, status | result)
        self._close()
        for path in (self._new_checkpoint, self.checkpoint):  # first: the renamed files could not be continued
            path.unlink(missing_ok=True)
        for kind in reversed(self._written):
            self._partial(kind).replace(self.path(kind))
        return [self.path(kind) for kind in self._written]

    def abandon(self, seconds: float, reason: str, result: dict[str, Any]) -> list[Path]:
        """Write the result of a run that ended early to the log; its files keep their partial names."""
        if not self._log.closed:  # it is closed if only the renaming failed
            self._close_log(seconds, {"status": "partial", "reason": reason, **result})
        return [path for path in (*map(self._partial, self._written), self.checkpoint) if path.exists()]

    def _close_log(self, seconds: float, result: dict[str, Any]) -> None:
        self._line(seconds, "result " + json.dumps(result))
