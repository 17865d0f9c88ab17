"""The runs of a report: the trials of some folders, grouped by their settings."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.reports.settings import settings_of, shared_in_words, varying_and_shared
from analysis.reports.trials import LOG_ENDING, Group, Trial, TrialOutcome, Trials, run_of, sort_key
from interface.errors import DataError
from training.config import RunConfig, default_of
from training.record.reader import read_log
from training.words import differences_in_words, headline, table_columns


@dataclass(frozen=True)
class Run:
    """One run. log: its file, or None if only its trial is left."""

    trial: Trial
    log: Path | None

    @property
    def outcome(self) -> TrialOutcome:
        """The outcome of the run."""
        return self.trial.outcome


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seeds only. label: what sets it apart from the others; cells: one per column."""

    label: str
    cells: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def outcomes(self) -> list[TrialOutcome]:
        """The outcomes of all runs."""
        return [run.outcome for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """What a report shows. shared: the settings that all runs have, in words; columns: those in which they differ."""

    shared: str
    columns: tuple[str, ...]
    settings: tuple[Setting, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for setting in self.settings for run in setting.runs]


def read_folder(folder: Path, summary_dir: Path, data_dir: str) -> Iterator[Run]:
    """The complete runs of a folder, and all trials of `summary_dir`.

    Those without a trial are measured; of what cannot be measured there is what its log contains. A log that cannot be
    read is left out, with a warning.
    """
    from tqdm import tqdm

    trials = Trials(summary_dir)
    logs = sorted(path for path in folder.glob(f"*{LOG_ENDING}") if "_partial" not in path.name)
    for log in tqdm(logs, unit=" logs", dynamic_ncols=True, disable=None):
        try:
            yield Run(trial_of(trials, log, data_dir), log)
        except DataError as error:
            logging.warning("%s: left out", error)
    known = set(map(run_of, logs))
    yield from (Run(trial, None) for name, trial in trials.rows.items() if name not in known)


def trial_of(trials: Trials, log: Path, data_dir: str) -> Trial:
    """The trial of a run with its curves. Raises DataError if there is none, and its log cannot be read."""
    name = run_of(log)
    if name not in trials.rows or trials.is_outdated(log):
        return measured(trials, log, data_dir)
    trial = trials.rows[name]
    return trial if trial.outcome.stalenesses else with_curves(trial, log)  # of an earlier version


def measured(trials: Trials, log: Path, data_dir: str) -> Trial:
    """The trial of a run, added to the others if there is a file of them."""
    try:
        trial = Trial.of(log, data_dir)
    except DataError as error:
        found = read_log(log)
        logging.warning("%s: only what its log contains is reported", error)
        config = replace(found.config, data_dir=default_of("data_dir"), subfolder=default_of("subfolder"))
        return Trial(run_of(log), found.seed, found.clock, config, TrialOutcome.of_log(found))
    if trials.path.exists():  # a report changes no folder that is not one of this suite's sweeps
        trials.add(trial)
    return trial


def with_curves(trial: Trial, log: Path) -> Trial:
    """The trial with the curves of its log."""
    found = TrialOutcome.of_log(read_log(log))
    names = ("training_losses", "stalenesses", "staleness_counts", "epochs_done", "validations", "evaluations",
             "test_losses")  # fmt: skip
    curves = {name: getattr(found, name) for name in names}
    return replace(trial, outcome=replace(trial.outcome, **curves))


def compare(runs: Sequence[Run]) -> Comparison:
    """Group runs by their settings; of runs that are repetitions with the same seed, the last one with a log counts."""
    distinct: dict[tuple, Run] = {}
    for run in runs:
        key = (*run.trial.experiment, run.trial.repetition)
        if run.log is not None or key not in distinct:  # another folder may have the same trial without its log
            distinct[key] = run
    by_setting: dict[tuple[RunConfig, str, str], list[Run]] = {}
    for run in distinct.values():
        by_setting.setdefault(run.trial.experiment, []).append(run)
    experiments = sorted(by_setting, key=lambda one: (*sort_key(one[0]), *one[1:]))
    groups = [Group(*experiment, tuple(run.outcome for run in by_setting[experiment])) for experiment in experiments]
    cells = [settings_of(one) for one in groups]
    varying, shared_names = varying_and_shared(groups)
    titles = table_columns() | {"remark": "remark"}
    shared = shared_in_words(groups[0], shared_names)
    networks = dict.fromkeys(group.config.network_name for group in groups)
    return Comparison(
        shared if len(networks) > 1 else f"{next(iter(networks))}, {shared}",
        tuple(titles[name] for name in varying),
        tuple(
            Setting(label, tuple(values[name] for name in varying), tuple(by_setting[experiment]))
            for label, values, experiment in zip(labels_of(groups), cells, experiments, strict=True)
        ),
    )  # fmt: skip


def labels_of(groups: Sequence[Group]) -> list[str]:
    """For each group, the settings in which it differs from the others."""
    clocks = {group.clock for group in groups}
    labels = []
    for group, words in zip(groups, differences_in_words([group.config for group in groups]), strict=True):
        clock = [f"{group.clock} clock"] if len(clocks) > 1 else []
        labels.append(", ".join([*words, *clock, *filter(None, [group.remark])]) or headline(group.config))
    return labels
