"""Ringmaster ASGD: asynchronous SGD that drops what is too stale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interface.command_line import Interval
from training.algorithms.base import OnArrival
from training.flags import flag
from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


@dataclass(frozen=True, kw_only=True)
class RingmasterFlags:
    """Dropped gradients (ringmaster)"""

    max_staleness: float | None = flag(
        None, "R: gradients of this staleness and more are dropped (default: the number of workers)",
        Interval(int, "[1,inf]"), modes=("async",), suffix="stale", fills=lambda config: config.workers,
        label="dropped from staleness", phrase="gradients of staleness {} dropped", argparse={"metavar": "R"},
    )  # fmt: skip


class Ringmaster(OnArrival):
    """w ← w − α g if τ < R; otherwise the gradient is dropped (Maranjyan, Tyurin and Richtárik 2025, arXiv 2501.16168).

    Memory: as asynchronous SGD.
    """

    title, flags = "Ringmaster ASGD", (RingmasterFlags,)
    keeps_gradients = False
    purpose = """\
drops gradients of staleness R and more: meant for workers with the same data and very different speeds.
What only a much slower worker has seen may never be learnt."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.max_staleness = config.max_staleness

    @classmethod
    def updates_per_epoch(cls, batches: Sequence[int], config: Any) -> None:
        return None

    def push(self, push: Push) -> Outcome:
        if self.staleness(push) >= self.max_staleness:
            return self.drop(push)
        return Outcome(self.server.apply(push.gradient, (push,)), released=(push.worker,))
