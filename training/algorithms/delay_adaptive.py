"""Delay-adaptive asynchronous SGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Weighted

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


class DelayAdaptive(Weighted):
    """w ← w − α (M / max(M, τ)) g (Mishchenko, Bach, Even and Woodworth 2022, arXiv 2206.07638).

    Only gradients with more than the usual staleness of M workers are scaled down. Memory: as asynchronous SGD.
    """

    title = "delay-adaptive SGD"
    keeps_gradients = False
    purpose = """\
lowers the learning rate of gradients that are more than M updates stale: one extremely slow worker
does no harm, and the usual staleness of M workers changes nothing."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.workers = len(workers)

    def weight(self, push: Push) -> float:
        return self.workers / max(self.workers, self.staleness(push))
