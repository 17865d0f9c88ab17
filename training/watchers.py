"""Watchers of a run: log, saved weights, validation, divergence warning, progress bar.

A watcher uses no random numbers and never changes the model.
"""

import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from tqdm import tqdm

from common import FlatModel
from evaluation import Score
from training.plan import Plan
from training.protocol import Outcome, Push, Update
from training.record.writer import Record

Evaluate = Callable[[FlatModel, Tensor], Score]


class Watcher:
    """Receives all events; subclasses override those they need. Seconds count from the start of training.

    counted: the attributes that change during a run.
    """

    counted: tuple[str, ...] = ()

    def begin(self) -> None:
        """The model is initialised."""

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        """A gradient arrived; `update` follows if it led to one."""

    def update(self, seconds: float, update: Update) -> None:
        """The model was changed."""

    def reach(self, seconds: float, position: int) -> None:
        """The run has reached a new position (see Plan)."""

    def leave(self, seconds: float, worker: int) -> None:
        """A worker has nothing left to do."""

    def lose(self, seconds: float, worker: int, how: str) -> None:
        """A worker died, and the run continues."""

    def finish(self) -> None:
        """The run is complete."""

    def close(self) -> None:
        """Training has ended, successfully or not."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what it has counted."""
        return {name: getattr(self, name) for name in self.counted}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        vars(self).update(state)


class LogWriter(Watcher):
    """Writes a line for each update, each gradient that was not applied immediately, and each lost worker."""

    counted = ("_version",)

    def __init__(self, record: Record, gathers: bool) -> None:
        self.record = record
        self.gathers = gathers
        self._version = 0
        self._applied: Push | None = None  # the only gradient of the next update
        self._weight: float | None = None  # of that gradient

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        if outcome.update is not None and not self.gathers:
            self._applied, self._weight = push, outcome.weight
        else:
            fate = "dropped" if outcome.dropped else "buffered"
            self.record.gradient(seconds, push, self._version, fate, outcome.weight)

    def update(self, seconds: float, update: Update) -> None:
        self.record.update(seconds, update, self._applied, self._weight)
        self._version, self._applied, self._weight = update.version, None, None

    def leave(self, seconds: float, worker: int) -> None:
        self.record.left(seconds, worker, self._version)

    def lose(self, seconds: float, worker: int, how: str) -> None:
        self.record.loss(seconds, worker, how)


class DivergenceWarning(Watcher):
    """Warns once, at the first update with a non-finite loss or weight; training continues."""

    counted = ("diverged_at",)

    def __init__(self, warn: Callable[[float, str], None]) -> None:
        self.warn = warn
        self.diverged_at: int | None = None

    def update(self, seconds: float, update: Update) -> None:
        if self.diverged_at is None and not (math.isfinite(update.loss) and math.isfinite(update.weight_norm)):
            self.diverged_at = update.version
            self.warn(seconds, f"no convergence: the loss is no longer finite at update {update.version}")


class WeightSaver(Watcher):
    """Saves a row of weights at each save point, from the initialisation to the end of the run, wherever that is."""

    counted = ("_last",)

    def __init__(self, plan: Plan, model: FlatModel, record: Record) -> None:
        self.points = plan.save_points
        self.model = model
        self.record = record

    def begin(self) -> None:
        self.reach(0.0, 0)

    def reach(self, seconds: float, position: int) -> None:
        self._last = position
        if self.points.number(position) is not None:
            self.record.save_weights(self.model.state_vector())

    def finish(self) -> None:
        if self.points.count and self.points.number(self._last) is None:
            self.record.save_weights(self.model.state_vector())


class Validator(Watcher):
    """Measures loss and accuracy on the training and the held-out samples after each (pseudo) epoch."""

    def __init__(self, plan: Plan, model: FlatModel, record: Record, evaluate: Evaluate) -> None:
        self.plan = plan
        self.model = model
        self.record = record
        self.evaluate = evaluate

    def reach(self, seconds: float, position: int) -> None:
        epoch, rest = divmod(position, self.plan.epoch_length)
        if rest == 0:
            scores = (self.evaluate(self.model, part) for part in (self.plan.train, self.plan.validation))
            self.record.validation(seconds, epoch, *scores)


class Tester(Watcher):
    """Measures loss and accuracy on the test set at each evaluation point, and when the first worker leaves.

    pause: a context in which the clock of the run stands still.
    """

    counted = ("first_left", "_updates", "_last")

    def __init__(
        self, plan: Plan, evaluate: Callable[[], Score], record: Record, pause: Callable[[], AbstractContextManager]
    ) -> None:
        self.points = plan.eval_points
        self.evaluate = evaluate
        self.record = record
        self.pause = pause
        self.first_left: tuple[float, int, Score] | None = None  # seconds, updates, score
        self._updates = 0
        self._last: tuple[int, Score | None] = (0, None)  # updates, score

    def update(self, seconds: float, update: Update) -> None:
        self._updates = update.version

    def reach(self, seconds: float, position: int) -> None:
        if (number := self.points.number(position)) is not None:
            self.record.evaluation(seconds, f"{number}/{self.points.count}", self._updates, self._measure())

    def leave(self, seconds: float, worker: int) -> None:
        if self.first_left is None:
            self.first_left = seconds, self._updates, self._measure()
            self.record.evaluation(seconds, "first_left", self._updates, self.first_left[2])

    def measure_end(self) -> Score:
        """The score of the final model."""
        at, score = self._last
        return score if at == self._updates and score is not None else self._measure()

    def _measure(self) -> Score:
        with self.pause():
            score = self.evaluate()
        self._last = self._updates, score
        return score


class ProgressBar(Watcher):
    """A progress bar, shown only on a terminal."""

    INTERVAL = 0.2  # seconds between changes of the text after the bar

    def __init__(self, plan: Plan) -> None:
        tqdm.monitor_interval = 0  # no monitor thread: engines fork
        unit = " gradients" if plan.updates is None else " updates"
        self.bar = tqdm(
            total=plan.length, unit=unit, smoothing=0.05, dynamic_ncols=True, disable=None, file=sys.stderr
        )  # fmt: skip
        self._shown = 0.0
        self._position = 0

    def update(self, seconds: float, update: Update) -> None:
        now = time.monotonic()
        if not self.bar.disable and now - self._shown > self.INTERVAL:
            self._shown = now
            self.bar.set_postfix_str(f"loss {update.loss:.4f}, staleness {update.staleness}", refresh=False)

    def reach(self, seconds: float, position: int) -> None:
        self._position = position
        if not self.bar.disable:
            self.bar.update()

    def state(self) -> dict[str, Any]:
        return {"position": self._position}

    def restore(self, state: dict[str, Any]) -> None:
        self._position = state["position"]
        self.bar.initial = self.bar.n = state["position"]

    def close(self) -> None:
        self.bar.close()
