"""The content of a log as arrays, whether of this suite or of the published study."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.config import RunConfig
from training.positions import Points, save_points


@dataclass(frozen=True)
class Events:
    """The gradients or the updates of a log, one column per quantity, in the order of the log.

    seconds: since the start; worker: 1…N (0 for an update with the gradients of several workers);
    step: which of the worker's pushes it was, counted from 1 (for such an update: its number);
    fetched: the version that the gradient was computed on; staleness: in updates; version: of the model directly
    afterwards, before a worker that leaves or is lost leads to another update;
    dropped: whether the gradient was dropped as it arrived;
    weight: the factor by which the algorithm scaled it, or its rate.
    """

    seconds: np.ndarray
    worker: np.ndarray
    step: np.ndarray
    loss: np.ndarray
    staleness: np.ndarray
    fetched: np.ndarray
    weight_norm: np.ndarray
    version: np.ndarray
    dropped: np.ndarray
    weight: np.ndarray

    TYPES = (float, int, int, float, int, int, float, int, bool, float)

    @classmethod
    def from_rows(cls, rows: list[tuple]) -> "Events":
        """Build the columns from rows whose values are in the order of the fields."""
        columns = list(zip(*rows, strict=True)) or [()] * len(cls.TYPES)
        return cls(*(np.array(column, dtype=kind) for column, kind in zip(columns, cls.TYPES, strict=True)))

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def arrived(self) -> np.ndarray:
        """The version (N,) of the model when each gradient arrived."""
        return self.fetched + self.staleness

    def where(self, chosen: np.ndarray) -> "Events":
        """The events (n,) selected by a boolean array (N,)."""
        return Events(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def of_worker(self, worker: int) -> "Events":
        """The events of one worker."""
        return self.where(self.worker == worker)


@dataclass(frozen=True)
class Validation:
    """Loss and accuracy (percent) after one epoch."""

    seconds: float
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy (percent) on the test set after some update; first_left: when the first worker left."""

    seconds: float
    update: int
    test_loss: float
    test_accuracy: float
    first_left: bool


@dataclass(frozen=True)
class LostWorker:
    """A worker that died: when, after how many gradients of all workers, and why."""

    seconds: float
    worker: int
    gradients: int
    how: str


@dataclass(frozen=True)
class RunLog:
    """The content of one log.

    header: None for a log of the published study; clock: wall, virtual or replay; gradients: all that were pushed;
    seconds: from the start to the end of training; result: None if the log ends before its result.
    """

    path: Path
    header: dict[str, Any] | None
    config: RunConfig
    clock: str
    updates: Events
    gradients: Events
    validations: tuple[Validation, ...]
    evaluations: tuple[Evaluation, ...]
    left: dict[int, int]
    losses: tuple[LostWorker, ...]
    warnings: tuple[str, ...]
    seconds: float
    result: dict[str, Any] | None

    @property
    def seed(self) -> int | None:
        """The run's seed; None if the log does not contain it."""
        return (self.header or {}).get("seed")

    @property
    def status(self) -> str | None:
        """ "complete" or "partial"; None if the log has no result."""
        return None if self.result is None else self.result["status"]

    @property
    def gathers(self) -> bool:
        """Whether an update may apply the gradients of several workers."""
        return self.config.distributed and self.config.rule.gathers

    @property
    def dropped(self) -> int:
        """The number of gradients that were dropped as they arrived; not those that a buffer still had at the end."""
        return int(self.gradients.dropped.sum())

    @property
    def epochs_trained(self) -> float:
        """How many epochs the run trained for, fewer than planned if it ended early; only for runs of this suite."""
        what = "updates" if self.header["updates"] is not None else "gradients"
        return len(getattr(self, what)) * self.config.epochs / self.header[what]

    @property
    def saved_versions(self) -> np.ndarray:
        """The version (n,) of each saved row of weights; only for complete runs of this suite."""
        if self.header["updates"] is not None:
            return np.array(reached(save_points(self.config, self.header["updates"]), len(self.updates)), dtype=int)
        positions = reached(save_points(self.config, self.header["gradients"]), len(self.gradients))
        versions = [0, *self.gradients.version[:-1], len(self.updates)]  # an update may follow the last gradient
        return np.array(versions)[positions]


def reached(points: Points, end: int) -> list[int]:
    """The save points of a run that ended at some position; the end is one, too."""
    before = points.up_to(end)
    return before if end in before or not points.count else [*before, end]
