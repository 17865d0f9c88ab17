"""Trials: what was asked of a run and what came of it, one line of JSON per run in trials.jsonl.

A trial is measured once, from the run's own log and model, and stands for itself from then on: the log and the
model may go. A line holds the whole configuration; a setting or an outcome that was added to the suite after the line
was written reads as its default.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import itertools
import json
import logging
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from analysis.spread import Spread
from catalogue import DATASETS
from interface.errors import DataError, UsageError
from interface.files import make_folder, with_filename
from training.config import RunConfig, default_of, experiment_of
from training.flags import MODES
from training.names import ARTIFACTS
from training.settings import ROWS, RUN_CLOCKS
from training.words import is_usual

if TYPE_CHECKING:
    import numpy as np

    from training.record.run_log import Events, RunLog

LOG_ENDING = ARTIFACTS["log"]
CURVE_POINTS = 50
HISTOGRAM_BINS = 100
MAX_RESULT = 1 << 20  # bytes, of the line of a log with the result
COUNTED = ("seconds", "updates", "gradients", "dropped_gradients", "mean_staleness", "max_staleness")


# ----------------------------------------------------------------------------------------------------
# One trial
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What came of a run, and how it came about.

    Accuracies in percent and losses (mean negative log-likelihood) of the final model, on the whole test and training
    set; seconds: of training, on the run's clock; real_seconds: on the wall's; staleness in updates;
    status: "partial" for a run without an end, such as the replay of one that was killed;
    first_left: the moment at which the first worker left; ended_by: the rule that ended the run;
    evaluations: seconds, update and test accuracy of each evaluation on the way; test_losses: the loss of each;
    validations: seconds, epoch, validation loss and accuracy after each epoch, with --val;
    training_losses: seconds, update and mean loss of some mini-batches, for a curve; stalenesses: the mean staleness
    of the same parts of the run;
    staleness_counts: staleness, or the lowest one of a bin, and the number of updates with it;
    epochs_done: how far the run went, in epochs;
    validation_accuracy: of the last validation, with --val; label_accuracies: test accuracy of each label.
    """

    test_accuracy: float
    test_loss: float
    train_accuracy: float
    train_loss: float
    seconds: float
    updates: int
    mean_staleness: float
    max_staleness: int
    converged: bool
    gradients: int = 0
    dropped_gradients: int = 0
    std_staleness: float | None = None
    ended_by: str = "epochs"
    first_left_update: int | None = None
    first_left_seconds: float | None = None
    first_left_accuracy: float | None = None
    evaluations: tuple[tuple[float, int, float], ...] = ()
    test_losses: tuple[float, ...] = ()
    validations: tuple[tuple[float, int, float, float], ...] = ()
    training_losses: tuple[tuple[float, int, float], ...] = ()
    stalenesses: tuple[tuple[float, int, float], ...] = ()
    staleness_counts: tuple[tuple[int, int], ...] = ()
    epochs_done: float | None = None
    validation_accuracy: float | None = None
    label_accuracies: tuple[float, ...] = ()
    real_seconds: float | None = None
    host: str = ""
    processor: str = ""
    torch: str = ""
    lost_workers: str = ""
    status: str = "complete"
    started: str = ""
    revision: str = ""

    @classmethod
    def of(cls, log: RunLog, model_path: Path, data_dir: str) -> TrialOutcome:
        """Test the model of a run. Raises DataError if it is not there or not of that network."""
        import torch

        from common import build_model, load_dataset
        from evaluation import evaluate, label_accuracies, predict, score
        from training.record.models import check_norm, read_model

        config = log.config
        dataset = load_dataset(config.dataset, data_dir, config.changed_data)
        model = build_model(config.dataset, config.network_name)
        read_model(model_path, model)
        check_norm(model_path, model, log)  # a run with --no_save_model leaves that of an earlier one
        train, predicted = evaluate(dataset.train, model), predict(dataset.test, model)
        test = score(predicted, dataset.test.labels)
        finite = bool(torch.isfinite(model.parameters).all()) and math.isfinite(test.loss)
        return dataclasses.replace(
            cls.of_log(log),
            test_accuracy=test.accuracy,
            test_loss=test.loss,
            train_accuracy=train.accuracy,
            train_loss=train.loss,
            converged=finite and DATASETS[config.dataset].was_learned(test.accuracy),
            label_accuracies=label_accuracies(predicted, dataset.test.labels),
        )

    @classmethod
    def of_log(cls, log: RunLog) -> TrialOutcome:
        """What the log contains: of the final model, accuracy and loss on the test set, if the run went to its end."""
        config, header, result = log.config, log.header or {}, log.result or {}
        accuracy, loss = result.get("test_accuracy"), result.get("test_loss")
        first = next((one for one in log.evaluations if one.first_left), None)
        staleness = log.updates.staleness
        planned = header.get("gradients") or len(log.gradients)
        return cls(
            test_accuracy=math.nan if accuracy is None else accuracy,
            test_loss=math.nan if loss is None else loss,
            train_accuracy=math.nan,
            train_loss=math.nan,
            converged=None not in (accuracy, loss) and DATASETS[config.dataset].was_learned(accuracy),
            seconds=log.seconds,
            updates=len(log.updates),
            mean_staleness=float(staleness.mean()) if len(staleness) else 0.0,
            max_staleness=int(staleness.max(initial=0)),
            gradients=len(log.gradients),
            dropped_gradients=log.dropped,
            std_staleness=float(staleness.std()) if len(staleness) else None,
            ended_by=result.get("ended_by") or "epochs",
            first_left_update=first.update if first else None,
            first_left_seconds=first.seconds if first else None,
            first_left_accuracy=first.test_accuracy if first else None,
            evaluations=tuple(
                (one.seconds, one.update, one.test_accuracy) for one in log.evaluations if not one.first_left
            ),
            test_losses=tuple(one.test_loss for one in log.evaluations if not one.first_left),
            validations=tuple((one.seconds, one.epoch, one.val_loss, one.val_accuracy) for one in log.validations),
            training_losses=curve(log.updates, log.updates.loss),
            stalenesses=curve(log.updates, staleness),
            staleness_counts=histogram(staleness),
            epochs_done=config.epochs * len(log.gradients) / planned if planned else 0.0,
            validation_accuracy=log.validations[-1].val_accuracy if log.validations else None,
            real_seconds=result.get("real_seconds"),
            host=header.get("host", ""),
            processor=header.get("processor", ""),
            torch=header.get("versions", {}).get("torch", ""),
            lost_workers=" ".join(result.get("lost_workers", [])),
            status=log.status or "partial",
            started=header.get("started", ""),
            revision=header.get("revision", ""),
        )

    @property
    def remark(self) -> str:
        """What sets a run apart from one that went to its end with all of its workers."""
        return "partial" if self.status != "complete" else "lost workers" if self.lost_workers else ""


def curve(updates: Events, values: np.ndarray) -> tuple[tuple[float, int, float], ...]:
    """Seconds, update and mean value of at most CURVE_POINTS equal parts of a run; values: one per update."""
    import numpy as np

    ends = np.unique(np.linspace(0, len(updates), CURVE_POINTS + 1).round().astype(int))
    return tuple(
        (float(updates.seconds[end - 1]), int(end), float(values[start:end].mean()))
        for start, end in itertools.pairwise(ends)
    )


def bin_width(max_staleness: int) -> int:
    """How many values of the staleness a bin of the histogram has."""
    return max_staleness // HISTOGRAM_BINS + 1


def histogram(staleness: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Each staleness and how often it occurs; in at most HISTOGRAM_BINS bins, named after their lowest value."""
    import numpy as np

    width = bin_width(int(staleness.max(initial=0)))
    values, counts = np.unique(staleness // width * width, return_counts=True)
    return tuple(zip(values.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class Trial:
    """One run. seed: None where its log, of the published study, does not contain it; clock: that of its log."""

    name: str
    seed: int | None
    clock: str
    config: RunConfig
    outcome: TrialOutcome

    @classmethod
    def of(cls, path: Path, data_dir: str) -> Trial:
        """Of the run with this log and the model beside it. Raises DataError if one of them cannot be used."""
        from training.record.reader import read_log

        log = read_log(path)
        outcome = TrialOutcome.of(log, path.with_name(run_of(path) + ARTIFACTS["model"]), data_dir)
        config = dataclasses.replace(log.config, data_dir=default_of("data_dir"), subfolder=default_of("subfolder"))
        return cls(run_of(path), log.seed, log.clock, config, outcome)  # which may be published: without folders

    @property
    def remark(self) -> str:
        """What sets it apart from a complete run of this suite, which has a seed."""
        return "published" if self.seed is None else self.outcome.remark

    @property
    def experiment(self) -> tuple[RunConfig, str, str]:
        """Configuration, clock and remark, but for the seed: equal for runs that are repetitions of one another."""
        return experiment_of(self.config), self.clock, self.remark

    @property
    def repetition(self) -> object:
        """The label that sets it apart within its experiment: its seed, or its name if the seed is unknown."""
        return self.name if self.seed is None else self.seed

    def line(self) -> str:
        """Its line of the file. Numbers that are not finite, which JSON does not have, are texts."""
        fields = {"name": self.name, "seed": self.seed, "clock": self.clock}
        outcome = {name: finite_or_text(value) for name, value in dataclasses.asdict(self.outcome).items()}
        return json.dumps(fields | {"config": self.config.to_json(), "outcome": outcome}, allow_nan=False)

    @classmethod
    def parse(cls, line: str) -> Trial:
        """What `line` made, by this or an earlier version of the suite. Raises ValueError for anything else."""
        try:
            found = json.loads(line)
            name, seed, clock = (found[key] for key in ("name", "seed", "clock"))
            config, outcome = RunConfig.from_json(found["config"]), TrialOutcome(**parse_outcome(found["outcome"]))
        except (UsageError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(str(error) or type(error).__name__) from error
        for key, value, kind in (("name", name, str), ("seed", seed, int | None), ("clock", clock, str)):
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{key} {str(value)[:80]!r}")
        if clock not in RUN_CLOCKS:
            raise ValueError(f"clock {clock!r}")
        if seed is not None and (config.seed not in (None, seed) or seed not in ROWS["seed"].valid):
            raise ValueError(f"seed {str(seed)[:80]}")
        return cls(name, seed, clock, config, outcome)


@functools.cache
def outcome_types() -> dict[str, Any]:
    """Field of a TrialOutcome → its type."""
    return get_type_hints(TrialOutcome)


def parse_outcome(found: dict[str, Any]) -> dict[str, Any]:
    """The fields of a TrialOutcome as a line holds them. Raises ValueError for a value of another type."""
    values = dict(found)
    for name, kind in outcome_types().items():
        if name in values:
            values[name] = parse_value(name, values[name], kind)
    for name, value in values.items():
        limit = 100.0 if name.endswith("_accuracy") else sys.float_info.max if name in COUNTED else math.inf
        if isinstance(value, int | float) and limit < math.inf and not 0 <= value <= limit:
            raise ValueError(f"{name} {value}")
    return values


def finite_or_text(value: Any) -> Any:
    """The value, with texts for the numbers in it that are not finite."""
    if isinstance(value, tuple | list):
        return [finite_or_text(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def parse_value(name: str, value: Any, kind: Any) -> Any:
    """One value of a line as a field of this type has it. Raises ValueError for a value of another type."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        each = itertools.repeat(kinds[0]) if kinds[-1] is ... else kinds
        return tuple(parse_value(name, *pair) for pair in zip(value, each, strict=kinds[-1] is not ...))
    kinds = get_args(kind) or (kind,)
    if float in kinds and isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)
    if type(value) not in kinds:
        raise ValueError(f"{name} {str(value)[:80]!r}")
    return value


def time_to(target: float, outcome: TrialOutcome) -> tuple[float, int] | None:
    """Seconds and updates until the test accuracy first was `target` percent; None if no evaluation found it so."""
    reached = (one for one in outcome.evaluations if one[2] >= target)
    return next(((seconds, update) for seconds, update, _ in reached), None)


def training_loss_curve(outcome: TrialOutcome) -> tuple[np.ndarray, np.ndarray]:
    """The updates in the middles of the parts of a run, and the mean loss of each part's mini-batches."""
    import numpy as np

    _, ends, losses = np.array(outcome.training_losses).reshape(-1, 3).T
    return (ends + np.append(0, ends[:-1])) / 2, losses


def update_at_training_loss(limit: float, outcome: TrialOutcome) -> float | None:
    """The update at which the training loss first fell to `limit`; None if it never did."""
    import numpy as np

    updates, losses = training_loss_curve(outcome)
    below = np.flatnonzero(losses <= limit)
    if not below.size:
        return None
    last, first = max(0, below[0] - 1), below[0]  # above the limit, and below
    return float(np.interp(-limit, -losses[[last, first]], updates[[last, first]]))


def accuracy_at_training_loss(limit: float, outcome: TrialOutcome) -> float | None:
    """Test accuracy, percent, when the training loss first fell to `limit`; None if it never did.

    Between two evaluations, in proportion to the updates.
    """
    return at_training_loss(limit, outcome, [accuracy for _, _, accuracy in outcome.evaluations])


def accuracy_after_training_loss(limit: float, outcome: TrialOutcome) -> float | None:
    """Test accuracy, percent, at the first evaluation after the training loss fell to `limit`; None if it never did."""
    update = update_at_training_loss(limit, outcome)
    if update is None:
        return None
    return next((accuracy for _, at, accuracy in outcome.evaluations if at >= update), outcome.test_accuracy)


def test_loss_at_training_loss(limit: float, outcome: TrialOutcome) -> float | None:
    """Test loss when the training loss first fell to a limit; None if it never did."""
    return at_training_loss(limit, outcome, outcome.test_losses)


def at_training_loss(limit: float, outcome: TrialOutcome, values: Sequence[float]) -> float | None:
    """A value per evaluation, as it was when the training loss first fell to `limit`."""
    import numpy as np

    update = update_at_training_loss(limit, outcome)
    if update is None or not values:
        return None
    return float(np.interp(update, [at for _, at, _ in outcome.evaluations], values))


def header_of(log: Path) -> dict[str, Any]:
    """The header of a log, without reading the rest of it; empty for anything else, such as a published log."""
    try:
        with log.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def result_of(log: Path) -> dict[str, Any]:
    """The result of a log, without reading the lines before it; empty for anything else."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_RESULT))
            line = file.read().decode(errors="replace").rstrip("\n").rpartition("\n")[2]
        result = json.loads(line.partition("  result ")[2])
    except (OSError, ValueError, RecursionError):
        return {}
    return result if isinstance(result, dict) else {}


def run_of(log: Path) -> str:
    """The name of the run of a log."""
    return log.name.removesuffix(LOG_ENDING)


# ----------------------------------------------------------------------------------------------------
# All trials of a folder
# ----------------------------------------------------------------------------------------------------


class Trials:
    """The file of trials in a folder, to which several processes may add at once.

    rows: name of the run → Trial. Raises DataError, which names file and line, for what cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "trials.jsonl"
        self.rows = {trial.name: trial for trial in self._read()}

    def _read(self) -> Iterator[Trial]:
        if not self.path.exists():
            return
        with with_filename(self.path):
            *lines, torn = self.path.read_bytes().split(b"\n")
        if torn and not torn.startswith(b"{"):  # else a line that was cut off, which `add` removes
            lines.append(torn)
        for number, line in enumerate(lines, start=1):
            try:
                yield Trial.parse(line.decode())
            except ValueError as error:
                raise DataError(
                    f"{self.path}, line {number}: damaged ({error}); remove the line, and its run is measured again"
                ) from error

    def named(self, names: Sequence[str]) -> list[Trial]:
        """The complete runs with these names that kept all of their workers; all, each run once, without names."""
        found = [self.rows[name] for name in names if name in self.rows] if names else distinct(self.rows.values())
        return [trial for trial in found if not trial.remark]

    def add(self, trial: Trial) -> None:
        """Append a line."""
        make_folder(self.path.parent, "--summary_dir")
        with with_filename(self.path), self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed; lockf's would end when any reader closes it
            file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            file.write(f"{trial.line()}\n".encode())
        self.rows[trial.name] = trial

    def is_outdated(self, log: Path) -> bool:
        """Whether the row of a log was measured on an earlier run of that name."""
        measured, started = self.rows[run_of(log)].outcome.started, header_of(log).get("started")
        return bool(measured and started and measured != started)

    def add_missing(self, folder: Path, data_dir: str) -> int:
        """Measure the complete runs of a folder without a line, or whose line is that of an earlier run.

        Returns how many cannot be measured, each with a warning.
        """
        from tqdm import tqdm

        logs = sorted(path for path in folder.glob(f"*{LOG_ENDING}") if "_partial" not in path.name)
        missing = [path for path in logs if run_of(path) not in self.rows or self.is_outdated(path)]
        failures = 0
        for path in tqdm(missing, unit=" runs", dynamic_ncols=True, disable=None):
            try:
                self.add(Trial.of(path, data_dir))
            except DataError as error:
                logging.warning("%s", error)
                failures += 1
        return failures


# ----------------------------------------------------------------------------------------------------
# Repetitions
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The outcomes of one experiment, one per seed. remark: of their Trials."""

    config: RunConfig
    clock: str
    remark: str
    outcomes: tuple[TrialOutcome, ...]

    def spread(self, measure: str) -> Spread:
        """Mean and standard deviation over the runs of one of their outcomes."""
        return Spread.of([getattr(outcome, measure) for outcome in self.outcomes])

    @property
    def max_staleness(self) -> int:
        """Over all seeds."""
        return max(outcome.max_staleness for outcome in self.outcomes)

    @property
    def converged(self) -> int:
        """How many of the runs converged."""
        return sum(outcome.converged for outcome in self.outcomes)


def alike_but_for(config: RunConfig, *names: str) -> dict[str, Any]:
    """The settings of an experiment without some, and without those that have their usual value.

    Runs with other numbers of workers are alike although their lists of speeds are not equally long.
    """
    left_out = {*names, *(["worker_speeds"] if "world_size" in names else [])}
    settings = experiment_of(config).as_dict().items()
    return {name: value for name, value in settings
            if name not in left_out and (name == "mode" or not is_usual(config, name))}  # fmt: skip


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Each run once: of runs that differ only in where they ran and what was kept, the last one."""
    return list({(*trial.experiment, trial.repetition): trial for trial in trials}.values())


def group(trials: Iterable[Trial]) -> list[Group]:
    """Trials by experiment, sorted."""
    outcomes = defaultdict(list)
    for trial in distinct(trials):
        outcomes[trial.experiment].append(trial.outcome)
    groups = [Group(*experiment, tuple(found)) for experiment, found in outcomes.items()]
    return sorted(groups, key=lambda one: (*sort_key(one.config), one.clock, one.remark))


def sort_key(config: RunConfig) -> tuple:
    """Any configurations in order: by their settings, what is not given first."""
    values = (config.dataset, MODES.index(config.mode), *(getattr(config, name) for name in ROWS))
    return tuple((value is not None, "" if value is None else value) for value in values)
