"""Mean and standard deviation of what was measured several times, as tables tell them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A mean, and the deviation of a sample (n - 1): NaN for a lone value, and where not all are finite."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one value or more."""
        several = len(values) > 1 and all(map(math.isfinite, values))
        return cls(statistics.fmean(values), statistics.stdev(values) if several else math.nan)

    def __format__(self, specification: str) -> str:
        if not math.isfinite(self.mean):
            return "not finite"
        deviation = f" ± {self.deviation:{specification}}" if math.isfinite(self.deviation) else ""
        return f"{self.mean:{specification}}{deviation}"
