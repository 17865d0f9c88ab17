"""DuDe-ASGD: steps along the mean of the latest gradients of all workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Algorithm
from training.algorithms.gathering import GradientTable
from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


class Dude(Algorithm):
    """Each gradient replaces the row Gᵢ of its worker; then w ← w − (α/M) Σⱼ Gⱼ, from when every worker has a row.

    Wang, Sun, Wai and Zhang 2024, arXiv 2405.16966; also called incremental aggregated gradient. Until all rows are
    there, workers continue on the initial model. A worker that leaves takes its row with it.
    Memory: one gradient per worker, 247 MB for 1,000 workers of LeNet5.
    """

    title, mode = "DuDe-ASGD", "async"
    purpose = """\
each step follows the mean of the latest gradients of all workers: asynchronous, and all data count alike.
For workers with different data; a table of one gradient per worker."""
    gathers = False

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self._awaited = set(workers)  # who has no row yet
        self._table = GradientTable()

    def push(self, push: Push) -> Outcome:
        self._table.replace(push.worker, push.gradient)
        self._awaited.discard(push.worker)
        update = None if self._awaited else self.server.apply(self._table.mean(), (push,))
        return Outcome(update, released=(push.worker,))

    def leave(self, worker: int) -> Outcome:
        self._awaited.discard(worker)
        self._table.remove(worker)
        return Outcome()
