"""Ringleader ASGD: rounds in which each worker triggers exactly one step along the mean of all workers' means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Algorithm
from training.algorithms.gathering import MeanTable
from training.protocol import Outcome, Update

if TYPE_CHECKING:
    from training.protocol import Push, Snapshot
    from training.server import ParameterServer


class Ringleader(Algorithm):
    """w ← w − (α/M) Σᵢ Gᵢ, once per round for each worker; Gᵢ is the mean of its gradients of the round.

    A round first gathers until every worker is in; the last one to come makes the first step. Then each of the others
    makes one, as its next gradient arrives and joins its mean. Gradients of workers that had their step are kept for
    the next round. A worker fetches a new model at its step only, so that one mean is of gradients at one model
    (Maranjyan and Richtárik 2025, arXiv 2509.22860).
    Memory: up to two gradients and one model per worker, 741 MB for 1,000 workers of LeNet5.
    """

    title, mode = "Ringleader ASGD", "async"
    purpose = """\
rounds of one step per worker, along the mean of all workers' means: no worker waits, no gradient is
dropped, and all data count alike. For workers with different data and different speeds."""
    gathers = False
    keeps_models = True

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self._workers = set(workers)
        self._models: dict[int, Snapshot] = {}
        self._means, self._next_means = MeanTable(), MeanTable()
        self._stepping: set[int] | None = None  # who has not made its step yet; None while gathering

    def fetch(self, worker: int) -> Snapshot:
        if worker not in self._models:
            self._models[worker] = self.server.fetch(worker)
        return self._models[worker]

    def push(self, push: Push) -> Outcome:
        early = self._stepping is not None and push.worker not in self._stepping
        (self._next_means if early else self._means).add(push.worker, push.gradient)
        return Outcome(None if early else self._step(push), released=(push.worker,))

    def _step(self, push: Push) -> Update | None:
        if self._stepping is None:
            if not self._workers <= set(self._means.counts):
                return None
            self._stepping = set(self._workers)
        update = self.server.apply(self._means.mean(), (push,))
        del self._models[push.worker]
        self._stepping.discard(push.worker)
        self._end_round()
        return update

    def leave(self, worker: int) -> Outcome:
        self._workers.discard(worker)
        self._models.pop(worker, None)
        if self._stepping is not None:
            self._stepping.discard(worker)
            self._end_round()
        return Outcome()

    def _end_round(self) -> None:
        if not self._stepping:
            self._means, self._next_means, self._stepping = self._next_means, MeanTable(), None
