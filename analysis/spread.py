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


def t_quantiles(largest: int) -> list[float]:
    """The 97.5 % quantiles of Student's t for samples of 2, 3, … `largest` values."""
    from scipy.special import stdtrit

    return stdtrit(range(1, largest), 0.975).tolist()


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of a mean (Student's t); NaN for a single value."""
    if len(values) < 2:
        return math.nan
    return t_quantiles(len(values))[-1] * statistics.stdev(values) / math.sqrt(len(values))


def interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean and 95 % confidence interval of a mean, without an interval for a single value."""
    mean, half = statistics.fmean(values), half_width(values)
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def rate_interval(found: int, total: int) -> str:
    """95 % interval of a rate, percent (Clopper and Pearson 1934): "3 to 56 %"."""
    from scipy.stats import binomtest

    low, high = binomtest(found, total).proportion_ci(0.95, method="exact")
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def in_digits(loss: float) -> str:
    """A loss with four decimals; one that exploded, with its power of ten."""
    return f"{loss:.4g}" if abs(loss) > EXPLODED else f"{loss:.4f}"


def counted(counts: Sequence[int], what: str = "seed") -> str:
    """How many seeds there are, of several settings: "3 seeds", "1 to 3 seeds"."""
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} {what}{'' if high == 1 else 's'}"
