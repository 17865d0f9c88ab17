"""Stale synchronous parallel SGD: fast workers wait for slow ones, up to a slack."""

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
class SspFlags:
    """Bounded staleness (ssp)"""

    slack: float | None = flag(
        None, "s: a worker waits while it is more than s gradients ahead of the slowest",
        Interval(int, "[0,inf]"), modes=("async",), suffix="slack", fills=3, label="slack", phrase="slack {}",
        argparse={"metavar": "s"},
    )  # fmt: skip


class StaleSynchronousParallel(OnArrival):
    """w ← w − α g on arrival, but a worker more than s clocks ahead of the slowest waits (Ho et al., NIPS 2013).

    The clock of a worker is the number of its own gradients. Memory: as asynchronous SGD.
    """

    title, flags = "stale synchronous parallel SGD", (SspFlags,)
    keeps_gradients = False
    purpose = """\
fast workers wait for slow ones when they are more than s gradients ahead: every worker contributes alike,
and nothing is much older than s rounds, at the speed of the slowest (SSP)."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.slack = config.slack
        self.clocks = dict.fromkeys(workers, 0)
        self._waiting: set[int] = set()

    def push(self, push: Push) -> Outcome:
        self.clocks[push.worker] += 1
        self._waiting.add(push.worker)
        return Outcome(self.server.apply(push.gradient, (push,)), released=self._release())

    def leave(self, worker: int) -> Outcome:
        del self.clocks[worker]
        self._waiting.discard(worker)
        return Outcome(released=self._release())

    def _release(self) -> tuple[int, ...]:
        slowest = min(self.clocks.values(), default=0)
        released = tuple(w for w in sorted(self._waiting) if self.clocks[w] - slowest <= self.slack)
        self._waiting.difference_update(released)
        return released
