"""When a run ends: who computes another gradient, and who leaves. Loads no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far the workers are. steps: worker → the gradients of its epochs; pushed: those it has pushed so far.

    total: gradients pushed by all workers; planned: those of all epochs of all workers;
    computing: who has fetched a model and not pushed yet.
    """

    steps: Mapping[int, int]
    computing: set[int] = field(default_factory=set)
    total: int = 0

    def __post_init__(self) -> None:
        self.pushed = dict.fromkeys(self.steps, 0)
        self.planned = sum(self.steps.values())

    def count(self, worker: int) -> None:
        """A worker has pushed a gradient."""
        self.pushed[worker] += 1
        self.total += 1


class StoppingRule(ABC):
    """One rule. A worker that is released computes another gradient if the rule lets it, else it leaves.

    title: in the title of a figure, after "ends when".
    """

    title: str
    first_ends_run = False  # whether the run ends when the first worker leaves
    leave_together = False  # whether workers leave only because the run ends: none has finished its data before others

    @abstractmethod
    def goes_on(self, worker: int, progress: Progress) -> bool:
        """Whether a released worker computes another gradient."""

    @abstractmethod
    def missing(self, progress: Progress, lost: set[int]) -> str:
        """What was planned and not pushed when everybody has left, in words; empty if nothing is missing."""


class Epochs(StoppingRule):
    """Each worker leaves after its own epochs, as in the published study."""

    title = "every worker has done its epochs"

    def goes_on(self, worker: int, progress: Progress) -> bool:
        return progress.pushed[worker] < progress.steps[worker]

    def missing(self, progress: Progress, lost: set[int]) -> str:
        short = [worker for worker, steps in progress.steps.items()
                 if worker not in lost and progress.pushed[worker] != steps]  # fmt: skip
        return ", ".join(f"Worker_{worker} pushed {progress.pushed[worker]} of {progress.steps[worker]} gradients"
                         for worker in short)  # fmt: skip


class First(Epochs):
    """The run ends when the first worker has done its epochs; what others compute at that moment is discarded."""

    title = "the first worker has done its epochs"
    first_ends_run = True

    def missing(self, progress: Progress, lost: set[int]) -> str:
        finished = any(progress.pushed[worker] == steps for worker, steps in progress.steps.items())
        return "" if finished else super().missing(progress, lost)


class Total(StoppingRule):
    """The run ends after as many gradients as all epochs of all workers have, whoever computes them.

    Workers go through their shards again, each time in a new order, so that all of them work to the end. Nobody starts
    a gradient that would be one too many.
    """

    title = "all workers together have done their epochs"
    leave_together = True

    def goes_on(self, worker: int, progress: Progress) -> bool:
        return progress.total + len(progress.computing) < progress.planned

    def missing(self, progress: Progress, lost: set[int]) -> str:
        if lost or progress.total == progress.planned:
            return ""
        return f"{progress.total} of {progress.planned} gradients were pushed"


STOPPING_RULES: dict[str, StoppingRule] = {"epochs": Epochs(), "first": First(), "total": Total()}
