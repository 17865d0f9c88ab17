"""What counts as a repetition of a run, and what a line of trials.jsonl holds."""

import dataclasses
import json
import math

import pytest

from analysis.reports.trials import Trial, TrialOutcome, Trials, distinct, group
from conftest import ROOT
from training.config import RunConfig, default_of
from training.names import run_name
from training.settings import ROWS

CONFIG = RunConfig(mode="async", dataset="digits", delay=True, clock="virtual", compensation=True)
OUTCOME = TrialOutcome(
    test_accuracy=90.1, test_loss=0.3, train_accuracy=95.0, train_loss=0.1, seconds=12.5, updates=90,
    mean_staleness=1.0, max_staleness=3, converged=True,
)  # fmt: skip


def trial(seed: int | None = 1, accuracy: float = 90.1, clock: str = "virtual", **changes: object) -> Trial:
    config = dataclasses.replace(CONFIG, seed=seed, **changes)
    outcome = dataclasses.replace(OUTCOME, test_accuracy=accuracy)
    return Trial(run_name(config), seed, clock, config, outcome)


def test_seeds_are_repetitions():
    (only,) = group([trial(1, 80.0), trial(2, 90.0)])
    assert (only.spread("test_accuracy").mean, len(only.outcomes)) == (85.0, 2)


@pytest.mark.parametrize(
    "changes", [{"saves_per_epoch": 3}, {"data_dir": "elsewhere"}, {"subfolder": "runs"}, {"model_accuracy": True}],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_is_kept_and_where_it_ran_make_no_second_seed(changes):
    (only,) = group([trial(1, 80.0), trial(1, 80.0, **changes), trial(2, 90.0)])
    assert len(only.outcomes) == 2
    assert len(distinct([trial(1), trial(1, **changes)])) == 1


@pytest.mark.parametrize(
    "changes", [{"val": True}, {"compensation_lambda": 0.5}, {"compute_ms": 15.0}, {"network": "CNN1"}, {"lr": 0.02}],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_changes_training_is_another_experiment(changes):
    assert len(group([trial(1), trial(2, **changes)])) == 2


def test_a_published_run_is_no_repetition_of_our_own():
    assert [one.remark for one in group([trial(None), trial(1)])] == ["", "published"]


def test_only_whole_runs_are_reported(tmp_path):
    trials = Trials(tmp_path)
    lost, partial = trial(2), trial(3)
    trials.add(trial(1))
    trials.add(dataclasses.replace(lost, outcome=dataclasses.replace(lost.outcome, lost_workers="Worker_2")))
    trials.add(dataclasses.replace(partial, outcome=dataclasses.replace(partial.outcome, status="partial")))
    assert [one.seed for one in trials.named([])] == [1]
    assert [one.seed for one in trials.named([lost.name, trial(1).name])] == [1]


def test_a_replay_is_no_repetition_of_runs_on_a_clock():
    assert len(group([trial(1), trial(1, clock="replay")])) == 2


def test_an_intensity_is_the_mean_delay_that_it_stands_for():
    assert len(group([trial(1), trial(2, delay_intensity=None, delay_ms=10.0)])) == 1


def test_runs_whose_seed_is_not_known_all_count():
    unknown = [dataclasses.replace(trial(None), name=name) for name in ("a", "b")]
    assert len(group(unknown)[0].outcomes) == 2


def test_a_line_is_read_as_it_was_written(tmp_path):
    diverged = dataclasses.replace(OUTCOME, test_loss=math.nan, train_loss=math.inf, converged=False)
    written = [trial(1), dataclasses.replace(trial(2), outcome=diverged)]
    for flag, algorithm in (("slack", "ssp"), ("max_staleness", "ringmaster")):
        config = RunConfig(mode="async", dataset="digits", clock="virtual", algorithm=algorithm, **{flag: math.inf})
        written.append(dataclasses.replace(trial(3), name=run_name(config), config=config))
    for one in written:
        Trials(tmp_path).add(one)
    assert repr(list(Trials(tmp_path).rows.values())) == repr(written)
    for line in (tmp_path / "trials.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("name", [name for name in ROWS if default_of(name) == getattr(CONFIG, name)])
def test_a_setting_that_was_added_later_reads_as_its_default_in_older_lines(name):
    line = json.loads(trial(1).line())
    del line["config"][name]
    assert Trial.parse(json.dumps(line)).experiment == trial(1).experiment


def test_an_outcome_that_was_added_later_reads_as_its_default_in_older_lines():
    line = json.loads(trial(1).line())
    for field in dataclasses.fields(TrialOutcome):
        if field.default is not dataclasses.MISSING:
            del line["outcome"][field.name]
    assert Trial.parse(json.dumps(line)).outcome == OUTCOME


def test_the_committed_trials_are_read():
    folders = sorted(path.parent for path in ROOT.glob("summaries/*/trials.jsonl"))
    rows = [row for folder in folders for row in Trials(folder).rows.values()]
    assert len(rows) >= 769
    assert all(run_name(row.config) == row.name for row in rows)
