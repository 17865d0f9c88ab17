"""Malenia SGD: synchronous rounds in which fast workers contribute several gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from training.algorithms.base import Algorithm
from training.algorithms.gathering import BufferFlags, MeanTable
from training.protocol import Outcome, Update

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


class Malenia(Algorithm):
    """w ← w − (α/M) Σᵢ (1/Bᵢ) Σ gᵢ over Bᵢ gradients of worker i on w; older ones are dropped.

    Workers continue on the same w until the harmonic mean of the Bᵢ reaches S/M, which needs one of every worker
    (Tyurin and Richtárik 2023, arXiv 2305.12387, method 6). Memory: one gradient per worker, 247 MB for 1,000
    workers of LeNet5.
    """

    title, mode, flags = "Malenia SGD", "sync", (BufferFlags,)
    purpose = """\
synchronous SGD in which no worker is idle: fast workers average several gradients per round, and all workers
count alike. For workers with different data, at the speed of the slowest."""
    tolerates_lost_workers = False
    waits = False

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self._buffer_size, self._workers = config.buffer_size, len(workers)
        self._awaited = set(workers)
        self._start_round()

    @staticmethod
    def default_buffer_size(workers: int) -> int:
        return workers

    def _start_round(self) -> None:
        self._means = MeanTable()
        self._receipts: list[Push] = []

    def push(self, push: Push) -> Outcome:
        if self.staleness(push):
            return self.drop(push)
        self._means.add(push.worker, push.gradient)
        self._receipts.append(push.receipt())
        return Outcome(self._close_round(), released=(push.worker,))

    def leave(self, worker: int) -> Outcome:
        self._awaited.discard(worker)
        return Outcome(self._close_round())

    def _close_round(self) -> Update | None:
        counts = self._means.counts
        if not counts or not self._awaited <= set(counts):
            return None
        # Those that left push no more: over them, the harmonic mean might never get there.
        growing = Counter(counts[worker] for worker in self._awaited or counts)
        reciprocals = sum(Fraction(workers, count) for count, workers in growing.items())
        if growing.total() / reciprocals < Fraction(self._buffer_size, self._workers):
            return None
        update = self.server.apply(self._means.mean(), tuple(self._receipts))
        self._start_round()
        return update
