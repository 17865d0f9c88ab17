"""What a worker and the parameter server tell each other, and what becomes of a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The global model as one worker fetched it; nobody writes to these tensors afterwards.

    version: updates applied before it was taken; parameters (P,); buffers (B,), empty without BatchNorm.
    """

    version: int
    parameters: Tensor
    buffers: Tensor


@dataclass(frozen=True, slots=True)
class Push:
    """One worker's gradient of one mini-batch.

    worker: 1…N; step: counts the worker's mini-batches from 1; version: of the snapshot it was computed on;
    loss: of the mini-batch; gradient (P,); buffers (B,): the worker's own running statistics.
    """

    worker: int
    step: int
    version: int
    loss: float
    gradient: Tensor
    buffers: Tensor


@dataclass(frozen=True, slots=True)
class Update:
    """One optimiser step of the server.

    version: updates applied, this one included; pushes: the gradients in it, in worker order;
    loss: mean over them; weight_norm: Euclidean norm of the new parameters.
    """

    version: int
    pushes: tuple[Push, ...]
    loss: float
    weight_norm: float

    @property
    def staleness(self) -> int:
        """Updates applied between the fetch of the weights and the application of their (oldest) gradient."""
        return self.version - 1 - min(push.version for push in self.pushes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a push, or a worker's leaving, led to.

    update: the one that was made, or None; released: the workers that may fetch now, in this order;
    dropped: whether the gradient just pushed will never be applied. One that is neither applied nor dropped is
    buffered: a later update applies it.
    """

    update: Update | None = None
    released: tuple[int, ...] = ()
    dropped: bool = False
