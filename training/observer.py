"""Observe a run: count, call the watchers in turn, and close the record with the result. Uses no random numbers."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from common import Dataset, FlatModel
from evaluation import Score, evaluate
from interface.files import as_argument
from training.plan import Plan
from training.protocol import Outcome, Push, Update
from training.record.writer import Record
from training.watchers import (
    DivergenceWarning,
    LogWriter,
    ProgressBar,
    Tester,
    Validator,
    Watcher,
    WeightSaver,
)

COUNTED = (
    *("updates", "gradients", "dropped", "seconds", "paused_seconds", "lost", "resumed_after"),
    *("staleness_sum", "staleness_squares", "staleness_max", "_position"),
)


class Observer:
    """Receives the events of an engine, with the seconds since training started, from one thread at a time.

    paused_seconds: real time spent on evaluations and checkpoints, which the clock of the run does not count.
    resumed_after: the updates after which the run was interrupted and resumed.
    As a context manager it saves a partial run if it is left by an exception.
    """

    def __init__(self, plan: Plan, model: FlatModel, record: Record, dataset: Dataset) -> None:
        self.plan = plan
        self.model = model
        self.record = record
        self.dataset = dataset
        self.paused_seconds = 0.0
        self.ended_by: str | None = None
        self.updates = self.gradients = self.dropped = 0
        self.seconds = 0.0
        self.staleness_sum = self.staleness_squares = self.staleness_max = 0
        self.lost: list[int] = []
        self.resumed_after: list[int] = []
        self._position = 0
        self._finished = False  # the record has its final names
        self._divergence = DivergenceWarning(self.warn)
        self._tester = Tester(plan, partial(evaluate, dataset.test, model), record, self.pause)
        gathers = plan.config.distributed and plan.config.rule.gathers
        self.watchers: list[Watcher] = [
            LogWriter(record, gathers),
            self._divergence,
            WeightSaver(plan, model, record),
            *([Validator(plan, model, record, self._evaluate)] if plan.config.val else []),
            self._tester,
            ProgressBar(plan),
        ]
        # Most events concern one or two watchers, and there are thousands in a second.
        self._pushed, self._updated, self._reached = (
            [
                getattr(watcher, event)
                for watcher in self.watchers
                if getattr(type(watcher), event) is not getattr(Watcher, event)
            ]
            for event in ("push", "update", "reach")
        )
        self._redirect = logging_redirect_tqdm()
        self._began = time.perf_counter()

    def __enter__(self) -> "Observer":
        self._redirect.__enter__()
        for watcher in self.watchers:
            if not self.record.resumed:
                watcher.begin()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        self._close_watchers()
        self._redirect.__exit__(kind, error, traceback)
        if error is not None and not self._finished:
            self._abandon(str(error) or kind.__name__)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        own = {name: getattr(self, name) for name in COUNTED}
        real_seconds = time.perf_counter() - self._began
        return own | {"real_seconds": real_seconds, "watchers": [watcher.state() for watcher in self.watchers]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        for name in COUNTED:
            setattr(self, name, state[name])
        self.resumed_after = [*self.resumed_after, self.updates]
        self._began -= state["real_seconds"]
        for watcher, of_watcher in zip(self.watchers, state["watchers"], strict=True):
            watcher.restore(of_watcher)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The clock of the run stands still in this context."""
        start = time.perf_counter()
        yield
        self.paused_seconds += time.perf_counter() - start

    def _evaluate(self, model: FlatModel, indices: Tensor) -> Score:
        return evaluate(self.dataset.train, model, indices)

    def _close_watchers(self) -> None:
        for watcher in self.watchers:
            watcher.close()

    def _abandon(self, reason: str) -> None:
        try:
            if not self.plan.config.no_save_model:
                self.record.save_model(self.model.state_dict())
            for path in self.record.abandon(self.seconds, reason, finite(self.result())):
                print(f"  partial: {path}", file=sys.stderr)
            if self.record.checkpoint.exists():
                print("  to continue, run the same command with --resume", file=sys.stderr)
        except OSError as error:
            logging.warning("the partial run could not be saved: %s", error)

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        """A gradient arrived, and led to the update in `outcome`, if there is one."""
        self.seconds = seconds
        self.gradients += 1
        self.dropped += outcome.dropped
        for pushed in self._pushed:
            pushed(seconds, push, outcome)
        if outcome.update is not None:
            self.update(seconds, outcome.update)
        elif self.gradients != self.plan.length:  # an update may follow the last one, as its worker leaves
            self._reach(seconds)

    def update(self, seconds: float, update: Update) -> None:
        """The model was changed."""
        self.updates, self.seconds = update.version, seconds
        staleness = update.staleness
        self.staleness_sum += staleness
        self.staleness_squares += staleness**2
        self.staleness_max = max(self.staleness_max, staleness)
        for updated in self._updated:
            updated(seconds, update)
        self._reach(seconds)

    def _reach(self, seconds: float) -> None:
        position = self.plan.position(self.updates, self.gradients)
        if position != self._position:
            self._position = position
            for reached in self._reached:
                reached(seconds, position)

    def leave(self, seconds: float, worker: int) -> None:
        """A worker has nothing left to do."""
        self.seconds = max(self.seconds, seconds)  # later than the last push if the time of the run is over
        for watcher in self.watchers:
            watcher.leave(seconds, worker)

    def end(self, rule: str) -> None:
        """The run has ended, by a stopping rule or by --max_seconds."""
        self.ended_by = rule

    def lose(self, seconds: float, worker: int, how: str) -> None:
        """A worker died, and the run continues without it."""
        self.lost.append(worker)
        logging.warning("Worker_%d was lost (%s): continuing without it", worker, how)
        for watcher in self.watchers:
            watcher.lose(seconds, worker, how)

    def warn(self, seconds: float, text: str) -> None:
        """Print a warning and write it to the log."""
        logging.warning(text)
        self.record.warning(seconds, text)

    def result(self) -> dict[str, Any]:
        """The content of the last line of the log."""
        mean = variance = None
        if self.updates:
            mean = self.staleness_sum / self.updates
            variance = max(0.0, self.staleness_squares / self.updates - mean**2)
        result: dict[str, Any] = {
            "seconds": self.seconds,
            "real_seconds": time.perf_counter() - self._began,
            "paused_seconds": self.paused_seconds,
            "ended_by": self.ended_by,
            "updates": self.updates,
            "gradients": self.gradients,
            "dropped_gradients": self.dropped,
            "updates_per_second": self.updates / self.seconds if self.seconds else None,
            "gradients_per_second": self.gradients / self.seconds if self.seconds else None,
            "mean_staleness": mean,
            "std_staleness": None if variance is None else math.sqrt(variance),
            "max_staleness": self.staleness_max,
            "weight_norm": torch.linalg.vector_norm(self.model.parameters).item(),
            "diverged_at": self._divergence.diverged_at,
            "resumed_after": self.resumed_after,
            "lost_workers": [f"Worker_{worker}" for worker in self.lost],
        }
        if self._tester.first_left is not None:
            seconds, update, score = self._tester.first_left
            result |= {
                "first_left_update": update,
                "updates_after_first_left": self.updates - update,
                "seconds_after_first_left": self.seconds - seconds,
                "first_left_test_loss": score.loss,
                "first_left_test_accuracy": score.accuracy,
            }
        return result

    def finish(self, partial: str = "") -> None:
        """Save the model, close the record, and print a summary and the paths of all files.

        partial: for a replay, why the run that it repeats is not complete.
        """
        self._reach(self.seconds)
        for watcher in self.watchers:
            watcher.finish()
        self._close_watchers()
        if not self.updates:
            arrived = f"of {self.gradients} gradients that arrived, {self.dropped} were dropped"
            self.warn(self.seconds, f"the model was never updated: {arrived}")
        result = self.result()
        if self.plan.config.model_accuracy:
            score = self._evaluate(self.model, self.plan.train)
            result |= {"train_loss": score.loss, "train_accuracy": score.accuracy}
            print(f"Train accuracy: {score.accuracy:.2f} % ({score.correct}/{score.total}), loss: {score.loss:.4f}")
        score = self._tester.measure_end()
        result |= {"test_loss": score.loss, "test_accuracy": score.accuracy}
        print(f"Test accuracy: {score.accuracy:.2f} % ({score.correct}/{score.total}), loss: {score.loss:.4f}")
        if not self.plan.config.no_save_model:
            self.record.save_model(self.model.state_dict())
        paths = self.record.finish(self.seconds, finite(result), partial)
        self._finished = True
        print(self._end_in_words(result["real_seconds"]))
        for path in paths:
            print(f"  {path}")
        if not self.plan.config.no_save_model:
            model, log = (as_argument(self.record.path(kind)) for kind in ("model", "log"))
            print(f"Reports and figures: python3 test_model.py {model} {log} --pics")

    def _end_in_words(self, real_seconds: float) -> str:
        """How far the run went, and how fast."""
        times = f"{self.seconds:.2f} s"
        if self.plan.config.clock == "virtual":
            times += f" of virtual time, {real_seconds:.1f} s of real time"
        speed = self.gradients / max(1e-9, real_seconds if self.plan.config.clock == "virtual" else self.seconds)
        dropped = f", {self.dropped} of {self.gradients} gradients dropped" if self.dropped else ""
        staleness = self.staleness_sum / max(1, self.updates)
        return (
            f"Finished {self.updates} updates in {times} ({speed:.1f} gradients/s), "
            f"mean staleness {staleness:.2f}{dropped}"
        )


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with None for numbers that are not finite, which JSON does not have."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()}  # fmt: skip
