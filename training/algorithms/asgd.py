"""Asynchronous SGD, with optional delay compensation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interface.command_line import Interval
from training.algorithms.base import OnArrival
from training.flags import Needs, flag
from training.protocol import Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from training.protocol import Push, Snapshot
    from training.server import ParameterServer

COMPENSATED = Needs(lambda config: config.compensation, "without --compensation")


@dataclass(frozen=True, kw_only=True)
class AsgdFlags:
    """Delay compensation"""

    compensation: bool = flag(
        False, "use delay compensation (DC-ASGD, arXiv 1609.08326)", modes=("async",),
        label="delay compensation", phrase="delay compensation", off="no delay compensation",
    )  # fmt: skip
    compensation_lambda: float | None = flag(
        None, "strength λ of the compensation", Interval(float, "[0,inf)"), modes=("async",), needs=COMPENSATED,
        fills=2.0, suffix="lambda", label="λ", phrase="λ {:g}",
    )  # fmt: skip
    compensation_mode: str | None = flag(
        None, "constant: DC-ASGD-c; adaptive: DC-ASGD-a", ("constant", "adaptive"), modes=("async",), needs=COMPENSATED,
        fills="constant", suffix="", label="mode of compensation", phrase="{} compensation",
    )  # fmt: skip


class DelayCompensation:
    """DC-ASGD (Zheng et al. 2016, arXiv 1609.08326): a first-order correction of a delayed gradient.

    g' = g + λ g ⊙ g ⊙ (w − w_bak[m]), where w is the current model and w_bak[m] the one that worker m fetched
    (equation 10). `adaptive` divides λ by √(MS + 1e-7), MS = 0.95 MS + 0.05 g ⊙ g (section 6, DC-ASGD-a).
    """

    DECAY, EPSILON = 0.95, 1e-7

    def __init__(self, strength: float, adaptive: bool) -> None:
        self.strength = strength
        self.mean_square: Tensor | float | None = 0.0 if adaptive else None
        self.backups: dict[int, Tensor] = {}

    def remember(self, snapshot: Snapshot, worker: int) -> None:
        """Keep the parameters that `worker` fetched; the snapshot is already a copy."""
        self.backups[worker] = snapshot.parameters

    def compensate(self, push: Push, parameters: Tensor) -> Tensor:
        """The gradient (P,) to apply at `parameters` (P,) instead of the pushed one."""
        square = push.gradient * push.gradient
        strength = self.strength
        if self.mean_square is not None:
            self.mean_square = self.DECAY * self.mean_square + (1 - self.DECAY) * square
            strength = self.strength / (self.mean_square + self.EPSILON).sqrt()
        return push.gradient + strength * square * (parameters - self.backups[push.worker])


class Asgd(OnArrival):
    """w ← w − α g as soon as a gradient arrives; with --compensation, g' instead of g.

    Memory: one copy of the model per version that some worker still computes on; with --compensation, per version that
    some worker fetched last, and in adaptive mode one vector of parameters more.
    """

    title, flags = "asynchronous SGD", (AsgdFlags,)
    keeps_gradients = False
    state_classes = (DelayCompensation,)
    purpose = """\
the baseline: each gradient is applied as it arrives, however stale. With --compensation, DC-ASGD:
a correction for what changed since the worker fetched, for moderate staleness."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.compensation = None
        if config.compensation:
            self.compensation = DelayCompensation(config.compensation_lambda, config.compensation_mode == "adaptive")

    def fetch(self, worker: int) -> Snapshot:
        snapshot = super().fetch(worker)
        if self.compensation is not None:
            self.compensation.remember(snapshot, worker)
        return snapshot

    def push(self, push: Push) -> Outcome:
        gradient = push.gradient
        if self.compensation is not None:
            gradient = self.compensation.compensate(push, self.server.parameters)
        return Outcome(self.server.apply(gradient, (push,)), released=(push.worker,))
