"""The parameter server as a plain state machine: the global model, its optimiser and its version.

It has no processes, threads, clocks or output. The algorithm decides which gradients are applied and who waits.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from training.protocol import Push, Snapshot, Update


class Optimizer(Protocol):
    """Updates parameters (P,) in place by one step along a gradient (P,). tensors: its state."""

    tensors: list[Tensor]

    def step(self, gradient: Tensor, learning_rate: float) -> None: ...


class ParameterServer:
    """The global model, its optimiser and the running statistics of BatchNorm.

    parameters (P,), buffers (B,): the global model, updated in place.
    optimizer: over `parameters`; learning_rate: (version, gradients pushed so far) → learning rate.
    """

    def __init__(
        self,
        parameters: Tensor,
        buffers: Tensor,
        optimizer: Optimizer,
        learning_rate: Callable[[int, int], float],
    ) -> None:
        self.parameters = parameters
        self.buffers = buffers
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.copy: Callable[[Tensor], Tensor] = torch.clone  # of the parameters, for a snapshot
        self.version = 0
        self.gradients_pushed = 0
        self._snapshot: Snapshot | None = None
        self._latest_buffers: dict[int, Tensor] = {}

    def fetch(self, worker: int) -> Snapshot:
        """A copy of the global model for `worker`; workers that fetch the same version share one copy."""
        if self._snapshot is None or self._snapshot.version != self.version:
            self._snapshot = Snapshot(self.version, self.copy(self.parameters), self.buffers.clone(), self.current_rate)
        return self._snapshot

    def state(self) -> dict[str, Any]:
        """Everything but the global model and the optimiser."""
        return {
            "version": self.version,
            "gradients_pushed": self.gradients_pushed,
            "buffers": self._latest_buffers,
            "snapshot": self._snapshot,  # whose learning rate may be that of an earlier gradient
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.version, self.gradients_pushed = state["version"], state["gradients_pushed"]
        self._latest_buffers, self._snapshot = state["buffers"], state["snapshot"]

    @property
    def current_rate(self) -> float:
        """The learning rate of the next update."""
        return self.learning_rate(self.version, self.gradients_pushed)

    def receive(self, push: Push) -> None:
        """Keep the running statistics of a worker, whatever becomes of its gradient, which the algorithm takes next."""
        if len(self.buffers):
            self._latest_buffers[push.worker] = push.buffers

    def forget(self, worker: int) -> None:
        """Leave the running statistics of a lost worker, which would become ever older, out of the mean."""
        self._latest_buffers.pop(worker, None)

    def apply(self, gradient: Tensor, pushes: tuple[Push, ...], weight: float = 1.0) -> Update:
        """Take one optimiser step along `gradient` (P,), which was computed from `pushes`; weight: of its rate."""
        self.optimizer.step(gradient, self.current_rate * weight)
        self.version += 1
        if self._latest_buffers:
            in_worker_order = [self._latest_buffers[worker] for worker in sorted(self._latest_buffers)]
            torch.mean(torch.stack(in_worker_order), dim=0, out=self.buffers)
        loss = sum(push.loss for push in pushes) / len(pushes)
        return Update(self.version, pushes, loss, torch.linalg.vector_norm(self.parameters).item())
