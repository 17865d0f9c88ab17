"""The base class of algorithms: how the server turns gradients into updates and when it releases workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push, Snapshot
    from training.server import ParameterServer


class Algorithm(ABC):
    """One algorithm. Its file contains everything about it: source, flags, state, and properties for other modules.

    A worker that pushes waits until an outcome releases it; then it fetches and continues, or leaves if it has no
    mini-batches left. A subclass defines:

    title: such as "asynchronous SGD"; mode: "sync" or "async", the script that offers it;
    flags: dataclasses of its own flags (training/flags.py), whose docstrings are their headings in --help;
    tolerates_lost_workers: whether the run can continue without a worker that died;
    gathers: whether an update may apply gradients other than the one just pushed. If so, the log has one line per
    gradient and one per update; otherwise one line for both;
    keeps_gradients: whether it still needs a gradient after it has released the worker that pushed it.
    """

    title: ClassVar[str]
    mode: ClassVar[str]
    flags: ClassVar[tuple[type, ...]] = ()
    tolerates_lost_workers: ClassVar[bool] = True
    gathers: ClassVar[bool] = True
    keeps_gradients: ClassVar[bool] = True

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        """config: of the run, with the flags of this algorithm; workers: the numbers of all workers, 1…N."""
        self.server = server

    @classmethod
    @abstractmethod
    def updates_per_epoch(cls, batches: Sequence[int], config: Any) -> int | None:
        """Updates in one epoch, where worker m has `batches[m - 1]` mini-batches; None if not known in advance.

        Validation, saved weights and learning rate schedules count updates, or gradients if this is None.
        """

    def fetch(self, worker: int) -> Snapshot:
        """The current model, for a worker that was released."""
        return self.server.fetch(worker)

    @abstractmethod
    def push(self, push: Push) -> Outcome:
        """Take one gradient; returns at most one update, and the released workers."""

    def leave(self, worker: int) -> Outcome:
        """A worker has finished its last mini-batch or was lost; this may release workers that waited for it."""
        return Outcome()
