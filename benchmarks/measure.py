"""One measurement: who does what, in a process of its own, and how long that took.

Nothing here imports torch, whose pages the measuring process would share with the runs whose memory it measures.
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
BATCH_SIZE, LEARNING_RATE, MOMENTUM = 32, 0.01, 0.9  # of all training


def cores() -> int:
    """Cores that a process may use."""
    return len(os.sched_getaffinity(0))


def threads_of(workers: int) -> int:
    """Threads of each of some workers, so that there are no more of them than cores."""
    return max(1, cores() // workers)


@dataclass(frozen=True)
class Task:
    """What the contestants of an experiment do alike.

    data_dir: of Fashion-MNIST, in torchvision's layout; amount: how many gradients to compute, over all workers
    (landscape: test images a point; k-fold: samples to search on).
    """

    data_dir: str
    network: str = "LeNet5"
    workers: int = 1
    amount: int = 0

    @property
    def warm_up(self) -> int:
        """The gradients that are computed before the clock starts, one tenth of all."""
        return self.amount // 10

    @property
    def measured(self) -> int:
        """The gradients that are timed."""
        return self.amount - self.warm_up


@dataclass(frozen=True)
class Sample:
    """One measurement.

    value: in the unit of its experiment; wall_ms, cpu_ms: time of one piece of work (a gradient, say), on the clock and
    summed over the cores; cpu_ms is NaN where the measurement was too short for it.
    """

    value: float
    wall_ms: float
    cpu_ms: float

    @classmethod
    def rate(cls, pieces: float, seconds: float, cpu: float, per_piece: float = 1.0) -> "Sample":
        """So many pieces of work, each `per_piece` of what is counted, in `seconds` and `cpu` seconds."""
        return cls(per_piece * pieces / seconds, 1000 * seconds / pieces, 1000 * cpu / pieces)


class Stopwatch:
    """Measures the process that makes it and all its descendants, from then on."""

    def __init__(self) -> None:
        self._cpu = cpu_seconds(os.getpid())
        self._start = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds, and CPU seconds, so far."""
        seconds = time.perf_counter() - self._start
        return seconds, cpu_seconds(os.getpid()) - self._cpu

    def rate(self, pieces: float, per_piece: float = 1.0) -> Sample:
        """See Sample.rate."""
        return Sample.rate(pieces, *self.read(), per_piece)


@dataclass(frozen=True)
class Contestant:
    """Whoever takes part in an experiment.

    function: "module.function" of this package, which takes the task and the options and returns a Sample;
    needs: a package that it cannot do without.
    """

    name: str
    function: str
    task: Task
    options: dict[str, object] = field(default_factory=dict)
    needs: str | None = None


class MeasurementFailedError(Exception):
    """A measurement that ended without a result; the text says why."""


@contextmanager
def nursery(contestants: Sequence[Contestant]) -> Iterator[Callable[[Contestant], Sample]]:
    """A function that lets one of the contestants do its task once, in a fresh process.

    It raises MeasurementFailedError. The processes are forked from one that has imported what all of them need, which
    would take most of the time otherwise.
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
