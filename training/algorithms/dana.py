"""DANA: distributed asynchronous Nesterov's acceleration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.algorithms.base import OnArrival
from training.protocol import Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from training.protocol import Push, Snapshot
    from training.server import ParameterServer


class Dana(OnArrival):
    """One momentum vᵢ per worker: vᵢ ← μ vᵢ + g and w ← w − α vᵢ; a worker fetches w − α μ Σⱼ vⱼ.

    What is fetched estimates where the model will be when the gradient arrives, after one more step of each worker
    (Hakimi, Barkai, Gabel and Schuster 2019, arXiv 1907.11612, DANA-Zero). μ is --momentum; they recommend 0.9.
    Memory: one vector per worker, 247 MB for 1,000 workers of LeNet5.
    """

    title = "asynchronous SGD with DANA's momentum"
    keeps_gradients = False
    purpose = """\
one momentum per worker, and gradients at the point to which momentum will carry the model: keeps
--momentum 0.9 stable at a staleness where a shared momentum diverges."""
    own_momentum = True

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.momentum = config.momentum
        self.velocities: dict[int, Tensor] = {}
        self._sum = server.parameters.new_zeros(server.parameters.shape)  # Σⱼ vⱼ
        self._ahead: Snapshot | None = None

    def fetch(self, worker: int) -> Snapshot:
        snapshot = self.server.fetch(worker)
        if not self.momentum:
            return snapshot
        if self._ahead is None or self._ahead.version != snapshot.version:
            ahead = snapshot.parameters - snapshot.learning_rate * self.momentum * self._sum
            self._ahead = dataclasses.replace(snapshot, parameters=ahead)
        return self._ahead

    def push(self, push: Push) -> Outcome:
        old = self.velocities.get(push.worker)
        velocity = push.gradient.clone() if old is None else self.momentum * old + push.gradient
        self._sum += velocity if old is None else velocity - old
        self.velocities[push.worker] = velocity
        return Outcome(self.server.apply(velocity, (push,)), released=(push.worker,))

    def leave(self, worker: int) -> Outcome:
        if (velocity := self.velocities.pop(worker, None)) is not None:
            self._sum -= velocity  # it makes no more steps
        return Outcome()
