"""Synchronous SGD: rounds of one gradient per worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Algorithm
from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


class Average(Algorithm):
    """Wait for a gradient from every worker that still has mini-batches, then apply the mean: w ← w − α (Σ g)/n.

    Memory: one gradient per worker.
    """

    title, mode = "synchronous SGD", "sync"
    purpose = """\
the baseline: each update waits for one gradient of every worker, and all fetch the same model. Exact and
repeatable, at the speed of the slowest worker."""
    tolerates_lost_workers = False

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self._round: dict[int, Push] = {}
        self._awaited = set(workers)

    @classmethod
    def updates_per_epoch(cls, batches: Sequence[int], config: Any) -> int | None:
        if config.stop == "total":  # an uneven total ends in a round that does not close
            return batches[0] if len(set(batches)) == 1 else None
        return max(batches)

    def push(self, push: Push) -> Outcome:
        self._round[push.worker] = push
        return self._close_round()

    def leave(self, worker: int) -> Outcome:
        self._awaited.discard(worker)
        return self._close_round()

    def _close_round(self) -> Outcome:
        if not self._round or len(self._round) < self._needed():
            return Outcome()
        pushes = tuple(self._round[worker] for worker in sorted(self._round))
        gradient = pushes[0].gradient
        for other in pushes[1:]:  # in worker order, so that the sum does not depend on the order of arrival
            gradient = gradient + other.gradient
        if len(pushes) > 1:
            gradient.div_(len(pushes))
        self._round.clear()
        return Outcome(self.server.apply(gradient, pushes), released=tuple(push.worker for push in pushes))

    def _needed(self) -> int:
        """The gradients that close the round."""
        return len(self._awaited)
