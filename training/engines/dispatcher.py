"""What all engines do with a gradient: pass it to the algorithm, report it, and dispatch the released workers."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from interface.errors import DataError
from training.algorithms import Algorithm
from training.plan import Plan
from training.protocol import Outcome, Push, Snapshot, Update
from training.stopping import STOPPING_RULES, Progress


class StalledError(DataError):
    """All workers wait, and the algorithm releases none of them."""


class WorkerLostError(DataError):
    """A worker died, and the run cannot continue without it."""


@dataclass(frozen=True)
class RunShape:
    """What a dispatcher needs to know of a run.

    algorithm: its name, for messages; steps: worker → number of gradients of its epochs;
    stop: key of STOPPING_RULES; max_seconds: time limit on the run's clock, or None.
    """

    algorithm: str
    steps: Mapping[int, int]
    stop: str = "epochs"
    max_seconds: float | None = None

    @classmethod
    def of(cls, plan: Plan) -> "RunShape":
        """The shape of the run that a plan describes."""
        return cls(plan.config.algorithm, plan.steps, plan.config.stop, plan.config.max_seconds)


class Listener(Protocol):
    """Receives the events of a run; implemented by training/observer.py."""

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None: ...  # including its update, if any

    def update(self, seconds: float, update: Update) -> None: ...

    def leave(self, seconds: float, worker: int) -> None: ...  # with nothing left to do

    def lose(self, seconds: float, worker: int, how: str) -> None: ...

    def end(self, rule: str) -> None: ...


class Dispatcher:
    """Tracks whether each worker computes, waits for its release, or has left.

    compute: called with a worker and its fetched model, to start its next gradient;
    dismiss: called with a worker that computes no more.
    """

    def __init__(
        self,
        shape: RunShape,
        algorithm: Algorithm,
        listener: Listener,
        compute: Callable[[int, Snapshot], None],
        dismiss: Callable[[int], None] = lambda worker: None,
    ) -> None:
        self.shape = shape
        self.rule = STOPPING_RULES[shape.stop]
        self.algorithm = algorithm
        self.listener = listener
        self.compute = compute
        self.dismiss = dismiss
        self.progress = Progress(shape.steps)
        self.waiting: set[int] = set()
        self.lost: set[int] = set()
        self.started = False
        self.ended_by: str | None = None
        self._ready_to_leave: list[int] = []  # they left, and the algorithm still counts on them

    @property
    def computing(self) -> set[int]:
        """The workers that have fetched a model and not pushed yet."""
        return self.progress.computing

    def state(self) -> dict[str, Any]:
        """The algorithm and where the workers are, between two pushes."""
        return {
            "server": self.algorithm.server.state(),
            "algorithm": self.algorithm.state(),
            "pushed": self.progress.pushed,
            "computing": sorted(self.computing),
            "waiting": sorted(self.waiting),
            "lost": sorted(self.lost),
            "ready_to_leave": self._ready_to_leave,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state. Workers that were computing are so again, without a call of `compute`."""
        self.algorithm.server.restore(state["server"])
        self.algorithm.restore(state["algorithm"])
        self.progress.pushed = dict(state["pushed"])
        self.progress.total = sum(state["pushed"].values())
        self.progress.computing = set(state["computing"])
        self.waiting, self.lost = set(state["waiting"]), set(state["lost"])
        self._ready_to_leave = list(state["ready_to_leave"])
        self.started = True

    def start(self) -> None:
        """All workers that are not lost fetch the model; after `restore`, those that were computing fetch again."""
        workers = sorted(self.computing) if self.started else self.shape.steps
        self.started = True
        for worker in workers:
            if worker not in self.lost:
                self._send(worker)

    def push(self, seconds: float, push: Push) -> None:
        """Take a gradient; one after the time limit ends the run. Raises StalledError if all workers then wait."""
        self.computing.remove(push.worker)
        self.waiting.add(push.worker)
        if self.check_time(seconds):
            return
        self.progress.count(push.worker)
        self.algorithm.server.receive(push)
        outcome = self.algorithm.push(push)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{type(self.algorithm).__name__}.push returned {outcome!r}, which is not an Outcome")
        self.algorithm.server.gradients_pushed += 1
        self.listener.push(seconds, push, outcome)
        self._release(seconds, outcome.released)
        self._check_progress()

    def check_time(self, seconds: float) -> bool:
        """End the run if its time is over; returns whether it is."""
        over = self.shape.max_seconds is not None and seconds > self.shape.max_seconds
        if over and self.ended_by is None:
            self.end(self.shape.max_seconds, "max_seconds")
        return over

    def lose(self, seconds: float, worker: int, how: str) -> None:
        """Handle the loss of a worker. Raises WorkerLostError if the run needs it, or if it was the last one."""
        message = f"Worker_{worker} was lost ({how})"
        if not self.algorithm.tolerates_lost_workers:
            raise WorkerLostError(f"{message}: {self.algorithm.title} needs every worker")
        if len(self.lost) + 1 == len(self.shape.steps):
            raise WorkerLostError(f"{message}, the last one")
        self.lost.add(worker)
        self.computing.discard(worker)
        self.waiting.discard(worker)
        self.algorithm.server.forget(worker)
        self.listener.lose(seconds, worker, how)
        released = list(self._leave(seconds, worker))
        while self._ready_to_leave:  # they will not do its share
            released += self._leave(seconds, self._ready_to_leave.pop())
        self._release(seconds, released)
        self._check_progress()

    def end(self, seconds: float, rule: str) -> None:
        """End the run now: everybody leaves, and gradients that are still being computed are discarded."""
        self.ended_by = rule
        self.listener.end(rule)
        for worker in sorted(self.computing | self.waiting):
            self.listener.leave(seconds, worker)
            self.dismiss(worker)
        self.computing.clear()
        self.waiting.clear()

    def check_complete(self) -> None:
        """Raise AssertionError if the run ended by itself although planned gradients are missing."""
        missing = "" if self.ended_by == "max_seconds" else self.rule.missing(self.progress, self.lost)
        if missing:
            raise AssertionError(missing)

    def _release(self, seconds: float, workers: Iterable[int]) -> None:
        released = deque(workers)  # who leaves may release others, who may leave as well
        while released and self.ended_by is None:
            worker = released.popleft()
            if worker not in self.waiting:
                raise AssertionError(f"algorithm {self.shape.algorithm} released Worker_{worker}, which is not waiting")
            self.waiting.remove(worker)
            if self.rule.goes_on(worker, self.progress):
                self._send(worker)
                continue
            self.listener.leave(seconds, worker)
            self.dismiss(worker)
            if self.rule.first_ends_run:
                self.end(seconds, self.shape.stop)
            elif self.rule.leave_together:
                self._ready_to_leave.append(worker)
            else:
                released.extend(self._leave(seconds, worker))
        self._check_end(seconds)

    def _leave(self, seconds: float, worker: int) -> tuple[int, ...]:
        outcome = self.algorithm.leave(worker)
        if outcome.update is not None:
            self.listener.update(seconds, outcome.update)
        return outcome.released

    def _check_end(self, seconds: float) -> None:
        if self.started and self.ended_by is None and not self.computing:
            complete = self.rule.leave_together and not self.rule.missing(self.progress, set())
            if complete or not self.waiting:
                self.end(seconds, self.shape.stop)  # who still waits has nothing to wait for

    def _check_progress(self) -> None:
        if self.waiting and not self.computing:
            who = ", ".join(f"Worker_{worker}" for worker in sorted(self.waiting))
            raise StalledError(
                f"algorithm {self.shape.algorithm} is stalled: it released none of the waiting workers ({who}) "
                f"after {self.progress.total} of {self.progress.planned} gradients"
            )

    def _send(self, worker: int) -> None:
        self.computing.add(worker)
        self.compute(worker, self.algorithm.fetch(worker))
