"""FedBuff: buffered asynchronous aggregation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Algorithm
from training.algorithms.gathering import BufferFlags, GradientSum
from training.flags import flag
from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


@dataclass(frozen=True, kw_only=True)
class FedBuffFlags:
    """Weights of buffered gradients (fedbuff)"""

    staleness_weight: str | None = flag(
        None, "weight of a buffered gradient of staleness τ: sqrt, 1/√(1 + τ), or constant, 1", ("sqrt", "constant"),
        modes=("async",), fills="sqrt", suffix="weight", label="weight of a gradient", phrase="{} weights",
    )  # fmt: skip


class FedBuff(Algorithm):
    """w ← w − (α / K) Σ s(τ) g over the next K gradients, s(τ) = 1/√(1 + τ).

    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba 2021, arXiv 2106.06639, algorithm 1; K = 10 and s as they
    recommend. With --local_steps H, a worker's gradient is the sum along its local steps, as in the paper.
    Memory: one gradient.
    """

    title, mode, flags = "buffered asynchronous SGD", "async", (BufferFlags, FedBuffFlags)
    purpose = """\
updates with the mean of the next K gradients, stale ones with a lower weight (FedBuff): fewer, less noisy
updates, for many workers and for --local_steps."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.buffer_size = config.buffer_size
        self.weighs = config.staleness_weight == "sqrt"
        self._sum = GradientSum()

    @staticmethod
    def default_buffer_size(workers: int) -> int:
        return 10

    def push(self, push: Push) -> Outcome:
        weight = 1 / math.sqrt(1 + self.staleness(push)) if self.weighs else 1.0
        self._sum.add(push, weight)
        update = None
        if len(self._sum) == self.buffer_size:
            update = self.server.apply(*self._sum.take_mean())
        return Outcome(update, released=(push.worker,), weight=weight if self.weighs else None)
