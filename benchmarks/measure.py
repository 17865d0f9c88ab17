"""Single measurements of tasks, each in its own process.

Nothing here imports torch: the measuring process would share its pages with the runs whose memory it measures.
"""

import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import cpu_seconds, end_descendants, running

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 600  # of one measurement
BATCH_SIZE, LEARNING_RATE, MOMENTUM = 32, 0.01, 0.9  # in all training runs


def cores() -> int:
    """The number of cores that a process may use."""
    return len(os.sched_getaffinity(0))


def threads_of(workers: int) -> int:
    """Threads per worker, so that all workers together have no more threads than cores."""
    return max(1, cores() // workers)


@dataclass(frozen=True)
class Task:
    """The task that all contestants of an experiment perform.

    data_dir: of Fashion-MNIST, in torchvision's layout; amount: gradients to compute by all workers together
    (landscape: test images per point; k-fold: samples to search on).
    """

    data_dir: str
    network: str = "LeNet5"
    workers: int = 1
    amount: int = 0

    @property
    def warm_up(self) -> int:
        """The number of gradients before the clock starts: a tenth of all."""
        return self.amount // 10

    @property
    def measured(self) -> int:
        """The number of gradients that are timed."""
        return self.amount - self.warm_up


@dataclass(frozen=True)
class Sample:
    """One measurement.

    value: in the unit of its experiment; wall_ms, cpu_ms: wall-clock time and CPU time per piece of work, such as a
    gradient; cpu_ms is NaN if the measurement was too short for it.
    """

    value: float
    wall_ms: float
    cpu_ms: float

    @classmethod
    def rate(cls, pieces: float, seconds: float, cpu: float, per_piece: float = 1.0) -> "Sample":
        """The sample for pieces of work, each worth `per_piece` units, in `seconds` and with `cpu` CPU seconds."""
        return cls(per_piece * pieces / seconds, 1000 * seconds / pieces, 1000 * cpu / pieces)


class Stopwatch:
    """Measures this process and all its descendants, from the time of construction."""

    def __init__(self) -> None:
        self._cpu = cpu_seconds(os.getpid())
        self._start = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Wall-clock seconds and CPU seconds so far."""
        seconds = time.perf_counter() - self._start
        return seconds, cpu_seconds(os.getpid()) - self._cpu

    def rate(self, pieces: float, per_piece: float = 1.0) -> Sample:
        """See Sample.rate."""
        return Sample.rate(pieces, *self.read(), per_piece)


@dataclass(frozen=True)
class Contestant:
    """A contestant in an experiment.

    function: "module.function" in this package, which takes the task and the options and returns a Sample;
    needs: a package that it requires.
    """

    name: str
    function: str
    task: Task
    options: dict[str, object] = field(default_factory=dict)
    needs: str | None = None


class MeasurementFailedError(Exception):
    """A measurement ended without a result; the message says why."""


@contextmanager
def nursery(contestants: Sequence[Contestant]) -> Iterator[Callable[[Contestant], Sample]]:
    """Yield a function that runs the task of one contestant once, in a new process.

    It raises MeasurementFailedError. The processes are forked from one that has already imported all modules, since the
    imports would take most of the time otherwise.
    """
    modules = sorted({contestant.function.rpartition(".")[0] for contestant in contestants})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.nursery", *modules]
    with running(command, cwd=ROOT, env=environment, **pipes) as process:

        def measure(contestant: Contestant) -> Sample:
            try:
                process.stdin.write(json.dumps(dataclasses.asdict(contestant)) + "\n")
                process.stdin.flush()
            except BrokenPipeError as error:
                raise MeasurementFailedError(f"{' or '.join(modules)} cannot be imported") from error
            if not select.select([process.stdout], [], [], TIMEOUT_SECONDS)[0]:
                end_descendants(process.pid)
            answer = json.loads(process.stdout.readline() or '{"error": "the nursery died"}')
            if "error" in answer:
                raise MeasurementFailedError(answer["error"])
            return Sample(**answer)

        yield measure
