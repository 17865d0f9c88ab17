"""Rescaled asynchronous SGD: slow workers take longer steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Weighted
from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


class Rescaled(Weighted):
    """w ← w − α (1 / (M pᵢ)) g for worker i with share pᵢ of all gradients so far.

    The rate of a worker is proportional to its time per gradient, so that over a cycle each worker has the same sum of
    rates (Mahran, Maranjyan and Richtárik 2026, arXiv 2605.13434). They assume known times; here the shares estimate
    them, and the rates of equally fast workers tend to α. Memory: as asynchronous SGD.
    """

    title = "rescaled asynchronous SGD"
    keeps_gradients = False
    purpose = """\
gives slow workers a proportionally higher learning rate, so that all data count alike: for workers with
different data, as long as the slowest is not slower by orders of magnitude."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.pushed = dict.fromkeys(workers, 0)

    def weight(self, push: Push) -> float:
        self.pushed[push.worker] += 1
        return sum(self.pushed.values()) / (len(self.pushed) * self.pushed[push.worker])

    def leave(self, worker: int) -> Outcome:
        del self.pushed[worker]  # the shares are those of the workers that remain
        return Outcome()
