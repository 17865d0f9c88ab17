"""Injected delays, and compute times on the virtual clock. Does not import torch before the first draw.

Each distribution is one row, which maps random draws from a worker's own generator to milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Draws:
    """Random numbers for one purpose and one worker, from its own generator."""

    def __init__(self, generator: torch.Generator) -> None:
        import torch

        self._generator = generator
        self._randn, self._double = torch.randn, torch.float64

    def normal(self) -> float:
        """The next draw from the standard normal distribution."""
        return self._randn((), generator=self._generator, dtype=self._double).item()


@dataclass(frozen=True)
class Distribution:
    """A distribution of times around a mean.

    draw: (draws, mean in ms, slowdown) → ms, never negative; slowdown: the factor by which this worker is slower,
    already included in the mean. title: the name in figures.
    """

    title: str
    draw: Callable[[Draws, float, float], float]


GAUSSIAN_DEVIATION_MS = 5.0  # doubled, like the mean, for a slow worker 1


def constant(draws: Draws, mean_ms: float, slowdown: float) -> float:
    """Always the mean."""
    return mean_ms


def gaussian(draws: Draws, mean_ms: float, slowdown: float) -> float:
    """Normal with a standard deviation of 5 ms (10 ms for a worker that is twice as slow), clipped at 0."""
    return max(0.0, mean_ms + slowdown * GAUSSIAN_DEVIATION_MS * draws.normal())


DELAY_TYPES = {
    "constant": Distribution("constant", constant),
    "gaussian": Distribution("gaussian", gaussian),
}


def jittered(draws: Draws, mean_ms: float, slowdown: float) -> float:
    """Normal with a coefficient of variation of 0.1, clipped at 0."""
    return max(0.0, mean_ms * (1 + 0.1 * draws.normal()))


COMPUTE_TIMES = {
    "normal": Distribution("normal, coefficient of variation 0.1", jittered),
}


class Times:
    """A sequence of times, ms, for one purpose and one worker."""

    def __init__(self, distribution: Distribution, mean_ms: float, draws: Draws, slowdown: float = 1.0) -> None:
        self.distribution = distribution
        self.mean_ms = mean_ms
        self.draws = draws
        self.slowdown = slowdown

    def next_ms(self) -> float:
        """The next time, ms; never negative."""
        return self.distribution.draw(self.draws, self.mean_ms, self.slowdown)


class NoDelay:
    """The delays of a worker that never sleeps."""

    def next_ms(self) -> float:
        return 0.0
