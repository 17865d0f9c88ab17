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
    mini-batches left. In the docstrings of algorithms: M workers, model w of P parameters, learning rate α, gradient g,
    staleness τ. A subclass defines:

    title: such as "asynchronous SGD"; mode: "sync" or "async", the script that offers it;
    purpose: what it is for, in one or two lines of --help;
    flags: dataclasses of its own flags (training/flags.py), whose docstrings are their headings in --help;
    tolerates_lost_workers: whether the run can continue without a worker that died;
    gathers: whether an update has several pushes, whose oldest determines its staleness. If so, the log has one line
    per gradient and one per update; otherwise one line for both, also if the update mixes in earlier gradients;
    keeps_gradients: whether it may still read a gradient when it has answered the push. If not, engines need not copy
    gradients, and the memory of one is used for the next;
    waits: whether a worker of a synchronous algorithm waits for the end of a round;
    keeps_models: whether it may give a released worker the model that it already has;
    own_momentum: whether its rule contains the momentum, so that the optimiser takes plain steps of SGD;
    state_classes: classes of its own whose objects it keeps, which a checkpoint may contain.
    """

    title: ClassVar[str]
    mode: ClassVar[str]
    purpose: ClassVar[str]
    flags: ClassVar[tuple[type, ...]] = ()
    tolerates_lost_workers: ClassVar[bool] = True
    gathers: ClassVar[bool] = True
    keeps_gradients: ClassVar[bool] = True
    waits: ClassVar[bool] = True
    keeps_models: ClassVar[bool] = False
    own_momentum: ClassVar[bool] = False
    state_classes: ClassVar[tuple[type, ...]] = ()

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        """config: of the run, with the flags of this algorithm; workers: the numbers of all workers, 1…M."""
        self.server = server

    @classmethod
    def updates_per_epoch(cls, batches: Sequence[int], config: Any) -> int | None:
        """Updates in one epoch, where worker m pushes `batches[m - 1]` gradients; None if not known in advance.

        Validation, saved weights and learning rate schedules count updates, or gradients if this is None.
        """
        return None

    def fetch(self, worker: int) -> Snapshot:
        """The current model, for a worker that was released."""
        return self.server.fetch(worker)

    @abstractmethod
    def push(self, push: Push) -> Outcome:
        """Take one gradient; returns at most one update, and the released workers."""

    def leave(self, worker: int) -> Outcome:
        """A worker has pushed its last gradient or was lost; this may release workers that waited for it."""
        return Outcome()

    def state(self) -> dict[str, Any]:
        """Everything that changes during a run, for a checkpoint."""
        return {name: value for name, value in vars(self).items() if name != "server"}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        vars(self).update(state)

    def staleness(self, push: Push) -> int:
        """Updates applied since the model that a gradient was computed on."""
        return self.server.version - push.version

    def drop(self, push: Push) -> Outcome:
        """The outcome for a gradient that is discarded: its worker continues from the current model."""
        return Outcome(released=(push.worker,), dropped=True)


class OnArrival(Algorithm):
    """An asynchronous algorithm that makes one update of each gradient as soon as it arrives.

    Memory: one copy of the model per version that some worker still computes on.
    """

    mode = "async"
    gathers = False

    @classmethod
    def updates_per_epoch(cls, batches: Sequence[int], config: Any) -> int | None:
        return sum(batches)


class Weighted(OnArrival):
    """An algorithm that scales the learning rate of each gradient."""

    @abstractmethod
    def weight(self, push: Push) -> float:
        """The factor on the learning rate for this gradient."""

    def push(self, push: Push) -> Outcome:
        weight = self.weight(push)
        return Outcome(self.server.apply(push.gradient, (push,), weight), released=(push.worker,), weight=weight)
