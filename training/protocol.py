"""The messages between workers and the parameter server, and the outcome of a push."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The global model as fetched by a worker; its tensors are never modified.

    version: updates applied before it was taken; parameters (P,); buffers (B,), empty without BatchNorm;
    learning_rate: of the server's next update, with which a worker makes its local steps.
    """

    version: int
    parameters: Tensor
    buffers: Tensor
    learning_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Push:
    """One worker's gradient for one mini-batch, or the sum of those of its local steps.

    worker: 1…N; step: which of the worker's pushes this is, counted from 1; version: of the snapshot it was computed
    on; loss: mean over the mini-batch, and over the local steps; gradient (P,), empty in a receipt; buffers (B,): the
    worker's running statistics.
    """

    worker: int
    step: int
    version: int
    loss: float
    gradient: Tensor
    buffers: Tensor

    def receipt(self) -> Push:
        """The push without its gradient, for an algorithm that keeps only a sum of gradients."""
        return dataclasses.replace(self, gradient=self.gradient.new_empty(0))


@dataclass(frozen=True, slots=True)
class Update:
    """One optimiser step of the server.

    version: updates applied so far, including this one; pushes: the gradients applied;
    loss: mean over the pushes; weight_norm: Euclidean norm of the new parameters.
    """

    version: int
    pushes: tuple[Push, ...]
    loss: float
    weight_norm: float

    @property
    def staleness(self) -> int:
        """Updates applied since the snapshot of the oldest gradient was fetched."""
        return self.version - 1 - min(push.version for push in self.pushes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a push, or of a worker leaving.

    update: the resulting update, or None; released: the workers that may fetch now, in this order;
    dropped: whether the pushed gradient will never be applied. A gradient that is neither applied nor dropped is
    buffered for a later update.
    weight: the factor by which the algorithm scaled the gradient or its learning rate; None if it never does.
    """

    update: Update | None = None
    released: tuple[int, ...] = ()
    dropped: bool = False
    weight: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.released, tuple):
            raise TypeError(f"an Outcome releases a tuple of workers, such as (push.worker,), not {self.released!r}")
