"""What an algorithm is: the rule by which the server turns gradients into updates and lets workers go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push, Snapshot
    from training.server import ParameterServer


class Algorithm(ABC):
    """One rule; its file holds it whole: the paper, the flags, the state, and what engines and records need to know.

    A worker that pushes waits until an outcome releases it; then it fetches and goes on, or leaves if it has no
    mini-batch left. A subclass gives:

    title: as in "asynchronous SGD"; mode: "sync" or "async", the script that offers it;
    flags: dataclasses of its own flags (training/flags.py), whose docstrings are their headings in --help;
    tolerates_lost_workers: whether the run goes on without a worker that died;
    gathers: whether an update may apply other gradients than the one just pushed; then the log has a line for each
    gradient and one for the update, else one line for both;
    keeps_gradients: whether it holds on to a gradient after it has released the worker that pushed it.
    """

    title: ClassVar[str]
    mode: ClassVar[str]
    flags: ClassVar[tuple[type, ...]] = ()
    tolerates_lost_workers: ClassVar[bool] = True
    gathers: ClassVar[bool] = True
    keeps_gradients: ClassVar[bool] = True

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        """`config`: the run's, with this algorithm's flags; workers: the numbers of all, 1…N."""
        self.server = server

    @classmethod
    @abstractmethod
    def updates_per_epoch(cls, batches: Sequence[int], config: Any) -> int | None:
        """Updates of one epoch in which worker m has `batches[m - 1]` mini-batches; None where only the run can tell.

        Validation, saved weights and learning rate schedules follow it; where it is None, they follow the gradients.
        """

    def fetch(self, worker: int) -> Snapshot:
        """The model for a worker that was released."""
        return self.server.fetch(worker)

    @abstractmethod
    def push(self, push: Push) -> Outcome:
        """Take one gradient: at most one update, and the workers that are released."""

    def leave(self, worker: int) -> Outcome:
        """A worker has done its last mini-batch, or was lost; who waits for it may be released."""
        return Outcome()
