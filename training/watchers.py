"""What follows the gradients and updates of a run: its log, saved weights, validation, a warning, the progress bar.

A watcher never draws at random and never changes the model.
"""

import logging
import math
import sys
import time
from collections.abc import Callable

from torch import Tensor
from tqdm import tqdm

from common import FlatModel
from evaluation import Score
from training.plan import Plan
from training.protocol import Outcome, Push, Update
from training.record.writer import Record

Evaluate = Callable[[FlatModel, Tensor], Score]


class Watcher:
    """Is told of everything; each does what it cares about. Seconds count from the start of training."""

    def begin(self) -> None:
        """The model is initialised."""

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        """A gradient came in; `update` follows if it led to one."""

    def update(self, seconds: float, update: Update) -> None:
        """The model was changed."""

    def reach(self, seconds: float, position: int) -> None:
        """The run is at a new position (see Plan)."""

    def lose(self, seconds: float, worker: int, how: str) -> None:
        """A worker died, and the run goes on."""

    def close(self) -> None:
        """Training is over, well or not."""


class LogWriter(Watcher):
    """A line for each update, for each gradient that was not applied at once, and for each lost worker."""

    def __init__(self, record: Record, gathers: bool) -> None:
        self.record = record
        self.gathers = gathers
        self._version = 0
        self._alone: Push | None = None  # the gradient that an update consists of

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        if outcome.update is not None and not self.gathers:
            self._alone = push
        else:
            self.record.gradient(seconds, push, self._version, "dropped" if outcome.dropped else "buffered")

    def update(self, seconds: float, update: Update) -> None:
        self.record.update(seconds, update, self._alone)
        self._version, self._alone = update.version, None

    def lose(self, seconds: float, worker: int, how: str) -> None:
        self.record.loss(seconds, worker, how)


class DivergenceWarning(Watcher):
    """One warning, at the update at which loss or weights stop being finite; training goes on."""

    def __init__(self, warn: Callable[[float, str], None]) -> None:
        self.warn = warn
        self.diverged_at: int | None = None

    def update(self, seconds: float, update: Update) -> None:
        if self.diverged_at is None and not (math.isfinite(update.loss) and math.isfinite(update.weight_norm)):
            self.diverged_at = update.version
            self.warn(seconds, f"no convergence: the loss is no longer finite at update {update.version}")


class WeightSaver(Watcher):
    """A row of weights at each save point, the initialisation included."""

    def __init__(self, plan: Plan, model: FlatModel, record: Record) -> None:
        self.points = plan.save_points
        self.model = model
        self.record = record

    def begin(self) -> None:
        self.reach(0.0, 0)

    def reach(self, seconds: float, position: int) -> None:
        if position in self.points:
            self.record.save_weights(self.model.state_vector())


class Validator(Watcher):
    """Loss and accuracy on the training and the held-out samples at the end of each (pseudo) epoch."""

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


class ProgressBar(Watcher):
    """On a terminal only."""

    INTERVAL = 0.2  # seconds between two changes of the text after the bar

    def __init__(self, plan: Plan) -> None:
        tqdm.monitor_interval = 0  # no thread of tqdm's: engines fork
        unit = " gradients" if plan.updates is None else " updates"
        self.bar = tqdm(
            total=plan.length, unit=unit, smoothing=0.05, dynamic_ncols=True, disable=None, file=sys.stderr
        )  # fmt: skip
        self._shown = 0.0

    def update(self, seconds: float, update: Update) -> None:
        now = time.monotonic()
        if not self.bar.disable and now - self._shown > self.INTERVAL:
            self._shown = now
            self.bar.set_postfix_str(f"loss {update.loss:.4f}, staleness {update.staleness}", refresh=False)

    def reach(self, seconds: float, position: int) -> None:
        if not self.bar.disable:
            self.bar.update()

    def lose(self, seconds: float, worker: int, how: str) -> None:
        logging.warning("Worker_%d was lost (%s): going on without it", worker, how)

    def close(self) -> None:
        self.bar.close()
