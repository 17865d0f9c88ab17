"""Mean and standard deviation of repeated measurements, formatted for tables."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A mean and a sample standard deviation (n - 1), NaN for a single value or if not all values are finite."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one or more values."""
        several = len(values) > 1 and all(map(math.isfinite, values))
        return cls(statistics.fmean(values), statistics.stdev(values) if several else math.nan)

    def __format__(self, specification: str) -> str:
        if not math.isfinite(self.mean):
            return "not finite"
        deviation = f" ± {self.deviation:{specification}}" if math.isfinite(self.deviation) else ""
        return f"{self.mean:{specification}}{deviation}"
