"""Synchronous SGD with backup workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interface.command_line import Interval
from training.algorithms.average import Average
from training.flags import flag
from training.protocol import Outcome

if TYPE_CHECKING:
    from training.protocol import Push
    from training.server import ParameterServer


@dataclass(frozen=True, kw_only=True)
class BackupFlags:
    """Backup workers (backup)"""

    backup_workers: int | None = flag(
        None, "b: a round closes without its slowest b gradients (default 1, with one worker 0)",
        Interval(int, "[0,inf)"), modes=("sync",), suffix="backups", fills=lambda config: min(1, config.workers - 1),
        label="backup workers", phrase="{} backup workers", argparse={"metavar": "b"},
    )  # fmt: skip


class Backup(Average):
    """w ← w − α mean of the first M − b gradients computed on w; later ones are dropped.

    Chen, Pan, Monga, Bengio and Jozefowicz 2016, arXiv 1604.00981; of 100 workers, they keep 4 as backups. A worker
    that is late joins the round that is open. Memory: one gradient per worker of a round.
    """

    title, flags = "synchronous SGD with backup workers", (BackupFlags,)
    purpose = """\
a round does not wait for its slowest b workers and drops what they send: against stragglers that change.
A worker that is always slow never counts."""

    def __init__(self, server: ParameterServer, config: Any, workers: Sequence[int]) -> None:
        super().__init__(server, config, workers)
        self.backup_workers = config.backup_workers

    @classmethod
    def updates_per_epoch(cls, batches: Sequence[int], config: Any) -> int | None:
        return super().updates_per_epoch(batches, config) if config.backup_workers == 0 else None

    def push(self, push: Push) -> Outcome:
        return self.drop(push) if self.staleness(push) else super().push(push)

    def _needed(self) -> int:
        return max(1, super()._needed() - self.backup_workers)
