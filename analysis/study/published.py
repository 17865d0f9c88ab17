"""The settings of the published study: what it reported for each, and what was measured here for the same."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.reports.trials import Group, Trial, Trials, distinct, group
from interface.errors import DataError
from interface.files import with_filename
from training.config import RunConfig, experiment_of
from training.settings import ROWS

SEEDS = (1, 2, 3)  # of the runs that are set beside the published ones
COMPUTE_MS = 15.0  # of a gradient on the published study's machine
SAME_FOR_ALL = {"dataset": "fashion_mnist", "lr": 0.005, "momentum": 0.9, "batch_size": 32, "epochs": 6}
VIRTUAL = {"clock": "virtual", "compute_ms": COMPUTE_MS}
NOT_DISTRIBUTED = RunConfig(mode="classic", **SAME_FOR_ALL)


def studied(mode: str, workers: int, partition: str) -> RunConfig:
    """A distributed setting of the published study without a delay, on the virtual clock."""
    return RunConfig(mode=mode, world_size=workers + 1, partition=partition, **SAME_FOR_ALL, **VIRTUAL)


def delayed(setting: RunConfig, delay_ms: float, delay_type: str, slow_worker_1: bool = False) -> RunConfig:
    """The same setting with every worker delayed."""
    return replace(setting, delay=True, slow_worker_1=slow_worker_1, delay_ms=delay_ms, delay_type=delay_type)


def compensated(setting: RunConfig, strength: float) -> RunConfig:
    """The same setting with delay compensation."""
    return replace(setting, compensation=True, compensation_mode="constant", compensation_lambda=strength)


def uncompensated(setting: RunConfig) -> RunConfig:
    """The same setting without delay compensation."""
    return replace(setting, compensation=False, compensation_mode=None, compensation_lambda=None)


def setting_of(row: dict[str, str]) -> RunConfig:
    """The setting that a row of published.csv is about."""
    if row["script"] == "classic":
        return NOT_DISTRIBUTED
    setting = studied(row["script"], int(row["world_size"]) - 1, row["partition"])
    setting = replace(setting, momentum=float(row["momentum"]))
    if row["delayed"] != "none":
        setting = delayed(setting, float(row["delay_ms"]), row["delay_type"], row["delayed"] == "worker 1")
    strength = float(row["compensation_lambda"])
    return compensated(setting, strength) if strength else setting


FREE = ("world_size", "partition", "momentum", "delay", "slow_worker_1", "delay_type", "delay_ms",
        "compensation", "compensation_mode", "compensation_lambda")  # fmt: skip


def is_studied(setting: RunConfig) -> bool:
    """Whether a setting without its seed differs from the published ones only in what they differ in themselves."""
    like = studied(setting.mode, 2, "none") if setting.distributed else NOT_DISTRIBUTED
    return all(getattr(setting, name) == getattr(like, name) for name in ROWS if name not in FREE)


@dataclass(frozen=True)
class Results:
    """rows: those of published.csv, as they stand there; published: test accuracy, percent, of one run each.

    trials: every run there is, of whatever setting;
    measured: all SEEDS of a setting together; by_seed: test accuracy, percent, of each run.
    """

    rows: list[dict[str, str]]
    published: dict[RunConfig, float]
    trials: list[Trial]
    measured: dict[RunConfig, Group]
    by_seed: dict[tuple[RunConfig, int], float]

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """From published.csv and the trials of each folder in a folder. Raises DataError, naming the file."""
        path = folder / "published.csv"
        try:
            with with_filename(path), path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            published = {setting_of(row): float(row["test_accuracy_percent"]) for row in rows}
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: not the published accuracies ({error})") from error
        trials = read_trials(folder)
        comparable = [trial for trial in trials if trial.seed in SEEDS and is_studied(experiment_of(trial.config))]
        measured = {one.config: one for one in group(comparable)}
        by_seed = {(experiment_of(trial.config), trial.seed): trial.outcome.test_accuracy for trial in comparable}
        return cls(rows, published, trials, measured, by_seed)


def read_trials(folder: Path) -> list[Trial]:
    """The runs of all experiments in a folder; of one that several of them have, the first folder's counts."""
    files = sorted(folder.glob("*/trials.jsonl"), reverse=True)
    return distinct(trial for path in files for trial in Trials(path.parent).rows.values())
