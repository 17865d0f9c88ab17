"""The suite's training scripts, run as real command lines and measured from outside."""

import dataclasses
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.data import TRAIN_IMAGES
from benchmarks.measure import BATCH_SIZE, LEARNING_RATE, MOMENTUM, ROOT, MeasurementFailedError, Sample, Task
from benchmarks.processes import cpu_seconds, running

WATCH_INTERVAL = 0.05  # seconds between samples, multiplied by the number of processes to limit the overhead


def command(task: Task, script: str, flags: Sequence[str], folder: str) -> list[object]:
    """A command line that computes the gradients of a task, each of a full mini-batch."""
    workers = ["--world_size", task.workers + 1, "--split_dataset"] if script != "nonDistributed.py" else []
    epochs = math.ceil(task.amount * BATCH_SIZE / TRAIN_IMAGES)
    while task.amount % (epochs * task.workers):
        epochs += 1
    return [
        *(sys.executable, ROOT / script, "--dataset", "fashion_mnist", "--data_dir", task.data_dir, *workers),
        *("--train_split", task.amount / epochs * BATCH_SIZE / TRAIN_IMAGES, "--epochs", epochs),
        *("--batch_size", BATCH_SIZE, "--lr", LEARNING_RATE, "--momentum", MOMENTUM, "--seed", 1),
        *("--no_save_model", "--subfolder", folder, *flags, *(["--alt_model"] if task.network == "CNN1" else [])),
    ]


@dataclass(frozen=True)
class RunningScript:
    """A running script; folder: where it writes its log; errors: its stderr."""

    process: subprocess.Popen
    folder: Path
    errors: IO[bytes]

    @property
    def log_bytes(self) -> int:
        """The size of its log so far; 0 if there is none yet."""
        with os.scandir(self.folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.name.endswith("_log.log"))

    def has_begun(self) -> bool:
        """Whether its log contains an update."""
        return any(b"  update " in log.read_bytes() for log in self.folder.glob("*_log.log"))

    def check(self) -> None:
        """Raise MeasurementFailedError, with the script's error message, if it failed."""
        if self.process.poll():
            self.errors.seek(0)
            lines = self.errors.read().decode().strip().splitlines()
            raise MeasurementFailedError(lines[-1] if lines else f"exit code {self.process.returncode}")


@contextmanager
def running_script(task: Task, script: str, flags: Sequence[str]) -> Iterator[RunningScript]:
    """Run a script on a task; it is killed on exit from the context."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, tempfile.TemporaryFile() as errors:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": errors, "cwd": folder}
        with running(command(task, script, flags, folder), **quiet) as process:
            yield RunningScript(process, Path(folder), errors)


@dataclass(frozen=True)
class Moment:
    """The state of a run at one moment: wall-clock seconds, CPU seconds and size of the log so far."""

    seconds: float
    cpu: float
    log_bytes: int


def watch(run: RunningScript, interval: float) -> list[Moment]:
    """Sample the state of a run every `interval` seconds until it ends."""
    moments = []
    while run.process.poll() is None:
        moments.append(Moment(time.perf_counter(), cpu_seconds(run.process.pid), run.log_bytes))
        time.sleep(interval)
    run.check()
    return moments


def gradients(task: Task, script: str, flags: Sequence[str] = (), per_gradient: float = 1.0) -> Sample:
    """Gradients/s of a run (or `per_gradient` times as many of another unit), without its start-up.

    Counts the gradients after the warm-up, using the timestamps in the log of the run. On the virtual clock, logs
    contain no real times, and many gradients are computed ahead of their updates: there it counts all gradients, from
    the creation of the log until it has the last one. CPU time is always measured from outside.
    """
    virtual = "virtual" in flags
    processes = 1 if virtual or script == "nonDistributed.py" else task.workers + 1
    with running_script(task, script, flags) as run:
        moments = [moment for moment in watch(run, WATCH_INTERVAL * processes) if moment.log_bytes]
        log = next(run.folder.glob("*_log.log")).read_bytes()
    counts = done(moments, log)
    if virtual:
        return between(moments[0], moments[counts.index(counts[-1])], counts[-1], per_gradient)
    times = [float(line.split(b" ")[0]) for line in log.splitlines() if b"  update " in line]
    warm_up = len(times) // 10
    seconds = times[-1] - times[warm_up - 1]
    measured = counts[-1] * (1 - warm_up / len(times))
    cpu_ms = cpu_ms_after_warm_up(moments, counts)
    return dataclasses.replace(Sample.rate(measured, seconds, math.nan, per_gradient), cpu_ms=cpu_ms)


def done(moments: list[Moment], log: bytes) -> list[int]:
    """The number of gradients in the log of a run at each moment."""
    line = b"  gradient " if b"  gradient " in log else b"  update "  # gradient lines: a synchronous run
    return [log[: moment.log_bytes].count(line) for moment in moments]


def between(first: Moment, last: Moment, pieces: int, per_piece: float = 1.0) -> Sample:
    """The sample for pieces of work between two moments."""
    return Sample.rate(pieces, last.seconds - first.seconds, last.cpu - first.cpu, per_piece)


def cpu_ms_after_warm_up(moments: list[Moment], counts: list[int]) -> float:
    """CPU time per gradient, ms, between the warm-up and the end; NaN if the samples cover less than half of that."""
    total = counts[-1]
    inside = [number for number, count in enumerate(counts) if total // 10 <= count < total]
    pieces = counts[inside[-1]] - counts[inside[0]] if inside else 0
    return between(moments[inside[0]], moments[inside[-1]], pieces).cpu_ms if pieces > total / 2 else math.nan
