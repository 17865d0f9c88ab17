"""Staleness-aware asynchronous SGD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.algorithms.base import Weighted

if TYPE_CHECKING:
    from training.protocol import Push


class StalenessAware(Weighted):
    """w ← w − (α / max(1, τ)) g (Zhang, Gupta, Lian and Liu 2015, arXiv 1511.05950, equation 3).

    Memory: as asynchronous SGD.
    """

    title = "staleness-aware SGD"
    keeps_gradients = False
    purpose = """\
divides the learning rate by the staleness: stable at rates that plain asynchronous SGD does not
survive, but the gradients of slow workers count for little."""

    def weight(self, push: Push) -> float:
        return 1 / max(1, self.staleness(push))
