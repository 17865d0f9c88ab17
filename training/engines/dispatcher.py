"""What all engines do with a gradient: pass it to the algorithm, report it, and dispatch the released workers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from interface.errors import DataError
from training.algorithms import Algorithm
from training.protocol import Outcome, Push, Snapshot, Update


class StalledError(DataError):
    """All workers wait, and the algorithm releases none of them."""


class WorkerLostError(DataError):
    """A worker died, and the run cannot continue without it."""


class Listener(Protocol):
    """Receives the events of a run; implemented by training/observer.py."""

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None: ...  # including its update, if any

    def update(self, seconds: float, update: Update) -> None: ...

    def lose(self, seconds: float, worker: int, how: str) -> None: ...


class Dispatcher:
    """Tracks whether each worker computes, waits for its release, or has left.

    name: of the algorithm, for messages; steps: worker → number of mini-batches to push;
    compute: called with a worker and its fetched model, to start its next gradient;
    dismiss: called with a worker that has no mini-batches left.
    """

    def __init__(
        self,
        name: str,
        algorithm: Algorithm,
        listener: Listener,
        steps: Mapping[int, int],
        compute: Callable[[int, Snapshot], None],
        dismiss: Callable[[int], None] = lambda worker: None,
    ) -> None:
        self.name = name
        self.algorithm = algorithm
        self.listener = listener
        self.steps = steps
        self.compute = compute
        self.dismiss = dismiss
        self.pushed = dict.fromkeys(steps, 0)
        self.computing: set[int] = set()
        self.waiting: set[int] = set()
        self.lost: set[int] = set()

    @property
    def over(self) -> bool:
        """Whether every worker has left."""
        return not self.computing and not self.waiting

    def start(self) -> None:
        """All workers that are not lost fetch the first model."""
        for worker in self.steps:
            if worker not in self.lost:
                self._send(worker)

    def push(self, seconds: float, push: Push) -> None:
        """Take a gradient. Raises StalledError if afterwards all workers wait."""
        self.computing.remove(push.worker)
        self.waiting.add(push.worker)
        self.pushed[push.worker] += 1
        outcome = self.algorithm.push(push)
        self.algorithm.server.gradients_pushed += 1
        self.listener.push(seconds, push, outcome)
        self._release(seconds, outcome.released)
        self._check_progress()

    def lose(self, seconds: float, worker: int, how: str) -> None:
        """Handle the loss of a worker. Raises WorkerLostError if the run needs it, or if it was the last one."""
        message = f"Worker_{worker} was lost ({how})"
        if not self.algorithm.tolerates_lost_workers:
            raise WorkerLostError(f"{message}: {self.algorithm.title} needs every worker")
        if len(self.lost) + 1 == len(self.steps):
            raise WorkerLostError(f"{message}, the last one")
        self.lost.add(worker)
        self.computing.discard(worker)
        self.waiting.discard(worker)
        self.listener.lose(seconds, worker, how)
        self._leave(seconds, worker)
        self._check_progress()

    def check_complete(self) -> None:
        """Raise AssertionError if any worker that was not lost has not pushed all its planned gradients."""
        for worker, steps in self.steps.items():
            if worker not in self.lost and self.pushed[worker] != steps:
                raise AssertionError(f"Worker_{worker} pushed {self.pushed[worker]} of {steps} gradients")

    def _release(self, seconds: float, workers: Iterable[int]) -> None:
        for worker in workers:
            if worker not in self.waiting:
                raise AssertionError(f"algorithm {self.name} released Worker_{worker}, which is not waiting")
            self.waiting.remove(worker)
            if self.pushed[worker] < self.steps[worker]:
                self._send(worker)
            else:
                self.dismiss(worker)
                self._leave(seconds, worker)

    def _leave(self, seconds: float, worker: int) -> None:
        outcome = self.algorithm.leave(worker)
        if outcome.update is not None:
            self.listener.update(seconds, outcome.update)
        self._release(seconds, outcome.released)

    def _check_progress(self) -> None:
        if self.waiting and not self.computing:
            who = ", ".join(f"Worker_{worker}" for worker in sorted(self.waiting))
            raise StalledError(
                f"algorithm {self.name} is stalled: it released none of the waiting workers ({who}) "
                f"after {sum(self.pushed.values())} of {sum(self.steps.values())} gradients"
            )

    def _send(self, worker: int) -> None:
        self.computing.add(worker)
        self.compute(worker, self.algorithm.fetch(worker))
