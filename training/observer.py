"""Watches a run: writes its record, saves weights, validates, warns and shows progress. Never draws at random."""

import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common import FlatModel
from evaluation import Score
from training.plan import Plan
from training.protocol import Push, Update
from training.record import Record

SHOW_INTERVAL = 0.2  # seconds between two changes of what stands behind the progress bar

Evaluate = Callable[[FlatModel, Tensor], Score]


class Observer:
    """What follows each update, in order: a line in the log, saved weights, a validation, the progress bar.

    Engines call `push` and `update` with the seconds since training started, from one thread at a
    time, while nobody changes the model. `evaluate` scores a model on samples (indices) of the training set.
    A context: left by an exception, it saves what there is as a partial run.
    """

    def __init__(self, plan: Plan, model: FlatModel, record: Record, evaluate: Evaluate) -> None:
        self.plan = plan
        self.model = model
        self.record = record
        self.evaluate = evaluate
        self.updates = 0
        self.seconds = 0.0
        self.staleness_sum = self.staleness_max = 0
        self.diverged_at: int | None = None
        self.lost: list[int] = []
        self._shown = 0.0
        self._redirect = logging_redirect_tqdm()
        tqdm.monitor_interval = 0  # no thread of tqdm's: engines fork
        self._bar = tqdm(
            total=plan.updates, unit=" updates", smoothing=0.05, dynamic_ncols=True, disable=None, file=sys.stderr
        )

    def __enter__(self) -> "Observer":
        self._redirect.__enter__()
        if 0 in self.plan.save_points:
            self.record.save_weights(self.model.state_vector())
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        self._bar.close()
        self._redirect.__exit__(kind, error, traceback)
        if error is not None:
            self._abandon(str(error) or kind.__name__)

    def _abandon(self, reason: str) -> None:
        try:
            if not self.plan.config.no_save_model:
                self.record.save_model(self.model.state_dict())
            for path in self.record.abandon(self.seconds, reason, self.result()):
                print(f"  partial: {path}", file=sys.stderr)
        except OSError as error:
            logging.warning("the partial run could not be saved: %s", error)

    def push(self, seconds: float, push: Push) -> None:
        """A gradient came in; of a synchronous run it may have to wait for the others of its round."""
        if self.plan.config.mode == "sync":
            self.record.gradient(seconds, push)

    def update(self, seconds: float, update: Update) -> None:
        """The model was changed."""
        self.updates, self.seconds = update.version, seconds
        self.staleness_sum += update.staleness
        self.staleness_max = max(self.staleness_max, update.staleness)
        self.record.update(seconds, update)
        if self.diverged_at is None and not (math.isfinite(update.loss) and math.isfinite(update.weight_norm)):
            self.diverged_at = update.version
            self.warn(seconds, f"no convergence: the loss is no longer finite at update {update.version}")
        if update.version in self.plan.save_points:
            self.record.save_weights(self.model.state_vector())
        if self.plan.config.val and update.version % self.plan.updates_per_epoch == 0:
            self._validate(seconds, update.version // self.plan.updates_per_epoch)
        self._show(update)

    def warn(self, seconds: float, text: str) -> None:
        """Tell the user and the log."""
        logging.warning(text)
        self.record.warning(seconds, text)

    def _validate(self, seconds: float, epoch: int) -> None:
        self.record.validation(
            seconds,
            epoch,
            train=self.evaluate(self.model, self.plan.train),
            validation=self.evaluate(self.model, self.plan.validation),
        )

    def _show(self, update: Update) -> None:
        if not self._bar.disable:
            self._bar.update()
            now = time.monotonic()
            if now - self._shown > SHOW_INTERVAL:
                self._shown = now
                self._bar.set_postfix_str(f"loss {update.loss:.4f}, staleness {update.staleness}", refresh=False)

    def result(self) -> dict[str, Any]:
        """What the log closes with."""
        result: dict[str, Any] = {
            "seconds": self.seconds,
            "updates": self.updates,
            "updates_per_second": self.updates / self.seconds if self.seconds else None,
            "mean_staleness": self.staleness_sum / self.updates if self.updates else None,
            "max_staleness": self.staleness_max,
            "weight_norm": torch.linalg.vector_norm(self.model.parameters).item(),
            "diverged_at": self.diverged_at,
            "lost_workers": [f"Worker_{worker}" for worker in self.lost],
        }
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in result.items()}  # fmt: skip

    def finish(self) -> None:
        """Save the model, close the record of a complete run, and tell where everything is."""
        self._bar.close()
        result = self.result()
        if self.plan.config.model_accuracy:
            score = self.evaluate(self.model, self.plan.train)
            result |= {"train_loss": score.loss, "train_accuracy": score.accuracy}
            print(f"Train accuracy: {score.accuracy:.2f} % ({score.correct}/{score.total}), loss: {score.loss:.4f}")
        if not self.plan.config.no_save_model:
            self.record.save_model(self.model.state_dict())
        paths = self.record.finish(self.seconds, result)
        whose = " of virtual time" if self.plan.config.clock == "virtual" else ""
        print(
            f"Finished {self.updates} updates in {self.seconds:.2f} s{whose} "
            f"({self.updates / max(self.seconds, 1e-9):.1f} updates/s), mean staleness {result['mean_staleness']:.2f}"
        )
        for path in paths:
            print(f"  {path}")
