"""The settings of the published study: what it reported for each, and what was measured here for the same."""

import csv
from dataclasses import dataclass, fields
from pathlib import Path

from analysis.reports.summary import Group, Setting, Trial, Trials, group
from interface.errors import DataError
from interface.files import with_filename

DELAYED = {"none": "none", "all": "all", "worker 1": "all, worker 1 twice"}  # published words: ours
SAME_FOR_ALL = {"dataset": "fashion_mnist", "network": "LeNet5", "train_split": 1.0, "optimizer": "SGD", "lr": 0.005,
                "schedule": "none", "batch_size": 32, "epochs": 6, "validation": "none"}  # fmt: skip
SEEDS = ("1", "2", "3")  # of the runs that are set beside the published ones
COMPUTE_MS = 15.0  # of a gradient on the published study's machine


@dataclass(frozen=True)
class Cell:
    """A setting of the published study: what tells it from the others there."""

    mode: str
    world_size: int
    partition: str
    delayed: str = "none"
    delay_ms: float = 0.0
    delay_type: str = "none"
    momentum: float = 0.9
    compensation: str = "none"

    @classmethod
    def of_published(cls, row: dict[str, str]) -> "Cell":
        """Of a row of published.csv."""
        strength = float(row["compensation_lambda"])
        return cls(
            row["script"],
            int(row["world_size"]),
            row["partition"],
            DELAYED[row["delayed"]],
            float(row["delay_ms"]),
            row["delay_type"] or "none",
            float(row["momentum"]),
            f"constant {strength:g}" if strength else "none",
        )

    @classmethod
    def of_measured(cls, setting: Setting) -> "Cell | None":
        """Of one of ours; None where it is not of the published study's kind."""
        as_published = all(getattr(setting, name) == value for name, value in SAME_FOR_ALL.items())
        if not as_published or (setting.mode != "classic" and setting.compute_ms != COMPUTE_MS):
            return None
        return cls(*(getattr(setting, field.name) for field in fields(cls)))


NOT_DISTRIBUTED = Cell("classic", 0, "none")


@dataclass(frozen=True)
class Results:
    """rows: those of published.csv, as they stand there; published: test accuracy, percent, of one run each.

    trials: every run there is, of whatever setting;
    measured: all SEEDS of a setting together; by_seed: test accuracy, percent, of each run.
    """

    rows: list[dict[str, str]]
    published: dict[Cell, float]
    trials: list[Trial]
    measured: dict[Cell, Group]
    by_seed: dict[tuple[Cell, str], float]

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """From published.csv and the trials.csv of each folder in a folder. Raises DataError, naming the file."""
        path = folder / "published.csv"
        try:
            with with_filename(path), path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            published = {Cell.of_published(row): float(row["test_accuracy_percent"]) for row in rows}
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: not the published accuracies ({error})") from error
        trials = read_trials(folder)
        comparable = [
            (cell, trial) for trial in trials if trial.seed in SEEDS and (cell := Cell.of_measured(trial.setting))
        ]
        cell_of = {trial.setting: cell for cell, trial in comparable}
        measured = {cell_of[one.setting]: one for one in group(trial for _, trial in comparable)}
        by_seed = {(cell, trial.seed): trial.outcome.test_accuracy for cell, trial in comparable}
        return cls(rows, published, trials, measured, by_seed)


def read_trials(folder: Path) -> list[Trial]:
    """The runs of all experiments in a folder; a setting with a seed that several of them have counts once."""
    trials = (trial for path in sorted(folder.glob("*/trials.csv")) for trial in Trials(path.parent).rows.values())
    return list({(trial.setting, trial.seed): trial for trial in trials}.values())
