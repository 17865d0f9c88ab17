"""Mean and standard deviation of repeated measurements, formatted for tables."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

EXPLODED = 1e6  # losses beyond are written with their power of ten


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


def interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean and 95 % confidence interval of a mean (Student's t), without an interval for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    from scipy import stats  # slow to import

    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def in_digits(loss: float) -> str:
    """A loss with four decimals; one that exploded, with its power of ten."""
    return f"{loss:.4g}" if abs(loss) > EXPLODED else f"{loss:.4f}"
