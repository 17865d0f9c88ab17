"""What algorithms gather gradients in: a sum of some, or a table with a row per worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interface.command_line import Interval
from training.flags import DISTRIBUTED, flag

if TYPE_CHECKING:
    from torch import Tensor

    from training.protocol import Push


@dataclass(frozen=True, kw_only=True)
class BufferFlags:
    """Buffered gradients (rennala, fedbuff, malenia)"""

    buffer_size: int | None = flag(
        None, "gradients per update: of fedbuff (default 10), of rennala (default: the number of workers); malenia: a "
        "round needs at least N / workers gradients per worker, as a harmonic mean (default: the number of workers)",
        Interval(int, "[1,inf)"), modes=DISTRIBUTED, suffix="buffer",
        fills=lambda config: config.rule.default_buffer_size(config.workers),
        label="buffer size", phrase="buffer of {}",
    )  # fmt: skip


class GradientSum:
    """A sum of gradients, and the receipts of the pushes that it consists of. Memory: one gradient."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sum: Tensor | None = None
        self._receipts: list[Push] = []

    def __len__(self) -> int:
        return len(self._receipts)

    def add(self, push: Push, weight: float = 1.0) -> None:
        """Add a gradient times a weight."""
        gradient = push.gradient if weight == 1 else push.gradient * weight
        self._sum = gradient if self._sum is None else self._sum + gradient
        self._receipts.append(push.receipt())

    def take_mean(self) -> tuple[Tensor, tuple[Push, ...]]:
        """The sum (P,) divided by the number of gradients, and their receipts; starts again from nothing."""
        mean, receipts = self._sum / len(self._receipts), tuple(self._receipts)
        self._clear()
        return mean, receipts


class GradientTable:
    """One gradient per worker, and their mean.

    Their sum is kept in double precision, so that replacing rows one after the other does not accumulate rounding
    errors. Memory: one gradient per worker and two for the sum, which is 247 kB · (workers + 2) for LeNet5.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Tensor] = {}
        self._sum: Tensor | None = None

    def replace(self, worker: int, gradient: Tensor) -> None:
        """Set the row of a worker to a gradient (P,)."""
        self.remove(worker)
        if self._sum is None:
            self._sum = gradient.double()
        else:
            self._sum.add_(gradient)
        self.rows[worker] = gradient

    def remove(self, worker: int) -> None:
        """Remove the row of a worker, if there is one."""
        if (old := self.rows.pop(worker, None)) is not None:
            self._sum.sub_(old)

    def mean(self) -> Tensor:
        """The mean of the rows (P,), in single precision."""
        return (self._sum / len(self.rows)).float()


class MeanTable(GradientTable):
    """A table whose row is the mean of several gradients of a worker. counts: worker → their number."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, int] = {}

    def add(self, worker: int, gradient: Tensor) -> None:
        """Include a gradient (P,) in the mean of a worker."""
        count = self.counts.get(worker, 0) + 1
        row = self.rows.get(worker)
        self.replace(worker, gradient if row is None else row + (gradient - row) / count)
        self.counts[worker] = count

    def remove(self, worker: int) -> None:
        super().remove(worker)
        self.counts.pop(worker, None)
