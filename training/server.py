"""The parameter server as a plain state machine: no process, thread, clock or printing.

`fetch` hands a worker the model, `push` takes its gradient and answers with the update that it led to.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from training.protocol import Push, Snapshot, Update


class Optimizer(Protocol):
    """Changes parameters (P,) in place by one step along a gradient (P,)."""

    def step(self, gradient: Tensor, learning_rate: float) -> None: ...


class DelayCompensation:
    """DC-ASGD (Zheng et al., arXiv 1609.08326): a first-order correction of a delayed gradient.

    g' = g + λ g ⊙ g ⊙ (w − w_bak[m]), with the model w and the model w_bak[m] that worker m fetched
    (equation 10). `adaptive` divides λ by √(MS + 1e-7), MS = 0.95 MS + 0.05 g ⊙ g (section 6, DC-ASGD-a).
    """

    DECAY, EPSILON = 0.95, 1e-7

    def __init__(self, strength: float, adaptive: bool) -> None:
        self.strength = strength
        self.mean_square: Tensor | float | None = 0.0 if adaptive else None
        self.backups: dict[int, Tensor] = {}

    def remember(self, snapshot: Snapshot, worker: int) -> None:
        """Keep what `worker` fetched; the snapshot is a copy already."""
        self.backups[worker] = snapshot.parameters

    def compensate(self, push: Push, parameters: Tensor) -> Tensor:
        """The gradient (P,) to apply at `parameters` (P,) in place of the pushed one."""
        square = push.gradient * push.gradient
        strength = self.strength
        if self.mean_square is not None:
            self.mean_square = self.DECAY * self.mean_square + (1 - self.DECAY) * square
            strength = self.strength / torch.sqrt(self.mean_square + self.EPSILON)
        return push.gradient + strength * square * (parameters - self.backups[push.worker])


class ParameterServer:
    """What both servers share: the global model, its optimiser and the running statistics of BatchNorm.

    parameters (P,), buffers (B,): the global model, changed in place.
    optimizer: over `parameters` alone; learning_rate: the rate of update number 0, 1, ….
    """

    def __init__(
        self,
        parameters: Tensor,
        buffers: Tensor,
        optimizer: Optimizer,
        learning_rate: Callable[[int], float],
    ) -> None:
        self.parameters = parameters
        self.buffers = buffers
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.version = 0
        self._snapshot: Snapshot | None = None
        self._latest_buffers: dict[int, Tensor] = {}

    def fetch(self, worker: int) -> Snapshot:
        """A copy of the global model for `worker`; those who fetch the same version share it."""
        if self._snapshot is None or self._snapshot.version != self.version:
            self._snapshot = Snapshot(self.version, self.parameters.clone(), self.buffers.clone())
        return self._snapshot

    def _apply(self, gradient: Tensor, pushes: tuple[Push, ...]) -> Update:
        self.optimizer.step(gradient, self.learning_rate(self.version))
        self.version += 1
        if len(self.buffers):
            self._latest_buffers |= {push.worker: push.buffers for push in pushes}
            in_worker_order = [self._latest_buffers[worker] for worker in sorted(self._latest_buffers)]
            torch.mean(torch.stack(in_worker_order), dim=0, out=self.buffers)
        loss = sum(push.loss for push in pushes) / len(pushes)
        return Update(self.version, pushes, loss, torch.linalg.vector_norm(self.parameters).item())


class AsyncServer(ParameterServer):
    """Applies every gradient the moment it comes, whatever the others do."""

    def __init__(
        self,
        parameters: Tensor,
        buffers: Tensor,
        optimizer: Optimizer,
        learning_rate: Callable[[int], float],
        compensation: DelayCompensation | None = None,
    ) -> None:
        super().__init__(parameters, buffers, optimizer, learning_rate)
        self.compensation = compensation

    def fetch(self, worker: int) -> Snapshot:
        snapshot = super().fetch(worker)
        if self.compensation is not None:
            self.compensation.remember(snapshot, worker)
        return snapshot

    def push(self, push: Push) -> Update:
        """Apply one gradient."""
        gradient = push.gradient
        if self.compensation is not None:
            gradient = self.compensation.compensate(push, self.parameters)
        return self._apply(gradient, (push,))


class SyncServer(ParameterServer):
    """Waits for the gradients of all workers that still have batches, then applies their mean.

    steps: how many mini-batches each worker has over the whole run; workers with fewer finish early.
    """

    def __init__(
        self,
        parameters: Tensor,
        buffers: Tensor,
        optimizer: Optimizer,
        learning_rate: Callable[[int], float],
        steps: Mapping[int, int],
    ) -> None:
        super().__init__(parameters, buffers, optimizer, learning_rate)
        self.steps = steps
        self._round: dict[int, Push] = {}
        self._awaited = set(steps)

    def push(self, push: Push) -> Update | None:
        """Take one gradient; the update, if it was the last one that the round waited for."""
        self._round[push.worker] = push
        if len(self._round) < len(self._awaited):
            return None
        pushes = tuple(self._round[worker] for worker in sorted(self._round))
        gradient = pushes[0].gradient
        for other in pushes[1:]:  # in worker order, so that the sum never depends on who came first
            gradient = gradient + other.gradient
        if len(pushes) > 1:
            gradient.div_(len(pushes))
        self._awaited -= {push.worker for push in pushes if push.step == self.steps[push.worker]}
        self._round.clear()
        return self._apply(gradient, pushes)
