"""Rennala SGD: mini-batches gathered from whoever is fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Algorithm
from training.algorithms.gathering import BufferFlags, GradientSum
from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


class Rennala(Algorithm):
    """w ← w − (α / B) Σ g over the first B gradients computed on w; older ones are dropped.

    Workers continue on the same w until the update (Tyurin and Richtárik 2023, arXiv 2305.12387, method 4).
    Memory: one gradient.
    """

    title, mode, flags = "Rennala SGD", "async", (BufferFlags,)
    purpose = """\
updates with the mean of B gradients of the current model, mostly of fast workers, and drops stale ones:
synchronous SGD without waiting, for workers with the same data."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.buffer_size = config.buffer_size
        self._sum = GradientSum()

    @staticmethod
    def default_buffer_size(workers: int) -> int:
        return workers

    def push(self, push: Push) -> Outcome:
        if self.staleness(push):
            return self.drop(push)
        self._sum.add(push)
        update = None
        if len(self._sum) == self.buffer_size:
            update = self.server.apply(*self._sum.take_mean())
        return Outcome(update, released=(push.worker,))
