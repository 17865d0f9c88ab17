"""Where in a run weights are saved and the model is evaluated. A position is a number of updates or of gradients."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.config import RunConfig


@dataclass(frozen=True)
class Points:
    """Positions of a run that are evenly spaced: round(k · length / count) for k = first … count; none if count is 0.

    They are never listed, as there may be more of them than fit into memory.
    """

    count: int
    length: int
    first: int

    def number(self, position: int) -> int | None:
        """The k of a position; None if it is not one of the points."""
        if not self.count:
            return None
        near = position * self.count // self.length
        found = (k for k in (near, near + 1, near - 1) if self.first <= k <= self.count and self._at(k) == position)
        return next(found, None)

    def up_to(self, end: int) -> list[int]:
        """The points that a run passes which ends at some position."""
        ks = itertools.takewhile(lambda k: self._at(k) <= end, range(self.first, self.count + 1))
        return list(map(self._at, ks)) if self.count else []

    def _at(self, k: int) -> int:
        return round(k * self.length / self.count)


def save_points(config: RunConfig, length: int) -> Points:
    """The positions at which a run saves its weights, from the initialisation (0) to the end."""
    return Points((config.saves_per_epoch or 0) * config.epochs, length, first=0)


def eval_points(config: RunConfig, length: int) -> Points:
    """The positions at which a run is evaluated on the test set, up to the end."""
    return Points((config.evals_per_epoch or 0) * config.epochs, length, first=1)


def pushes_of(batches: Sequence[int], local_steps: int) -> tuple[int, ...]:
    """Gradients pushed in one epoch of so many mini-batches, for each worker."""
    return tuple(math.ceil(count / local_steps) for count in batches)
