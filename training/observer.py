"""Observe a run: count, call the watchers in turn, and close the record with the result. Uses no random numbers."""

import logging
import math
import sys
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from common import FlatModel
from training.plan import Plan
from training.protocol import Outcome, Push, Update
from training.record.writer import Record
from training.watchers import (
    DivergenceWarning,
    Evaluate,
    LogWriter,
    ProgressBar,
    Validator,
    Watcher,
    WeightSaver,
)


class Observer:
    """Receives the events of an engine, with the seconds since training started, from one thread at a time.

    evaluate: scores a model on samples (indices) of the training set.
    As a context manager it saves a partial run if it is left by an exception.
    """

    def __init__(self, plan: Plan, model: FlatModel, record: Record, evaluate: Evaluate) -> None:
        self.plan = plan
        self.model = model
        self.record = record
        self.evaluate = evaluate
        self.updates = self.gradients = self.dropped = 0
        self.seconds = 0.0
        self.staleness_sum = self.staleness_max = 0
        self.lost: list[int] = []
        self._position = 0
        self._divergence = DivergenceWarning(self.warn)
        gathers = plan.config.distributed and plan.config.rule.gathers
        self.watchers: list[Watcher] = [
            LogWriter(record, gathers),
            self._divergence,
            WeightSaver(plan, model, record),
            *([Validator(plan, model, record, evaluate)] if plan.config.val else []),
            ProgressBar(plan),
        ]
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> "Observer":
        self._redirect.__enter__()
        for watcher in self.watchers:
            watcher.begin()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        self._close_watchers()
        self._redirect.__exit__(kind, error, traceback)
        if error is not None:
            self._abandon(str(error) or kind.__name__)

    def _close_watchers(self) -> None:
        for watcher in self.watchers:
            watcher.close()

    def _abandon(self, reason: str) -> None:
        try:
            if not self.plan.config.no_save_model:
                self.record.save_model(self.model.state_dict())
            for path in self.record.abandon(self.seconds, reason, self.result()):
                print(f"  partial: {path}", file=sys.stderr)
        except OSError as error:
            logging.warning("the partial run could not be saved: %s", error)

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        """A gradient arrived, and led to the update in `outcome`, if there is one."""
        self.gradients += 1
        self.dropped += outcome.dropped
        for watcher in self.watchers:
            watcher.push(seconds, push, outcome)
        if outcome.update is not None:
            self.update(seconds, outcome.update)
        else:
            self._reach(seconds)

    def update(self, seconds: float, update: Update) -> None:
        """The model was changed."""
        self.updates, self.seconds = update.version, seconds
        self.staleness_sum += update.staleness
        self.staleness_max = max(self.staleness_max, update.staleness)
        for watcher in self.watchers:
            watcher.update(seconds, update)
        self._reach(seconds)

    def _reach(self, seconds: float) -> None:
        position = self.plan.position(self.updates, self.gradients)
        if position != self._position:
            self._position = position
            for watcher in self.watchers:
                watcher.reach(seconds, position)

    def lose(self, seconds: float, worker: int, how: str) -> None:
        """A worker died, and the run continues without it."""
        self.lost.append(worker)
        for watcher in self.watchers:
            watcher.lose(seconds, worker, how)

    def warn(self, seconds: float, text: str) -> None:
        """Print a warning and write it to the log."""
        logging.warning(text)
        self.record.warning(seconds, text)

    def result(self) -> dict[str, Any]:
        """The content of the last line of the log."""
        result: dict[str, Any] = {
            "seconds": self.seconds,
            "updates": self.updates,
            "gradients": self.gradients,
            "dropped_gradients": self.dropped,
            "updates_per_second": self.updates / self.seconds if self.seconds else None,
            "mean_staleness": self.staleness_sum / self.updates if self.updates else None,
            "max_staleness": self.staleness_max,
            "weight_norm": torch.linalg.vector_norm(self.model.parameters).item(),
            "diverged_at": self._divergence.diverged_at,
            "lost_workers": [f"Worker_{worker}" for worker in self.lost],
        }
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in result.items()}  # fmt: skip

    def finish(self) -> None:
        """Save the model, close the record of a complete run, and print a summary and the paths of all files."""
        self._close_watchers()
        result = self.result()
        if self.plan.config.model_accuracy:
            score = self.evaluate(self.model, self.plan.train)
            result |= {"train_loss": score.loss, "train_accuracy": score.accuracy}
            print(f"Train accuracy: {score.accuracy:.2f} % ({score.correct}/{score.total}), loss: {score.loss:.4f}")
        if not self.plan.config.no_save_model:
            self.record.save_model(self.model.state_dict())
        paths = self.record.finish(self.seconds, result)
        whose = " of virtual time" if self.plan.config.clock == "virtual" else ""
        dropped = f", {self.dropped} of {self.gradients} gradients dropped" if self.dropped else ""
        staleness = self.staleness_sum / max(1, self.updates)
        print(
            f"Finished {self.updates} updates in {self.seconds:.2f} s{whose} "
            f"({self.updates / max(self.seconds, 1e-9):.1f} updates/s), mean staleness {staleness:.2f}{dropped}"
        )
        for path in paths:
            print(f"  {path}")
