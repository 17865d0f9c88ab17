"""What settings change: known effects in imagined trials are found, paired by seed, and nothing else is compared."""

import dataclasses
import itertools
import math

import pytest

from analysis.reports.differences import LONGEST, differences, interactions, markdown, show
from analysis.reports.trials import Trial, TrialOutcome
from training.config import RunConfig
from training.names import run_name

OUTCOME = TrialOutcome(
    test_accuracy=80.0, test_loss=0.5, train_accuracy=80.0, train_loss=0.5, seconds=1.0, updates=10,
    mean_staleness=0.0, max_staleness=0, converged=True,
)  # fmt: skip


def trial(accuracy: float, seed: int, mode: str = "async", **settings) -> Trial:
    config = RunConfig(mode=mode, dataset="digits", seed=seed, **settings)
    outcome = dataclasses.replace(OUTCOME, test_accuracy=accuracy)
    return Trial(run_name(config), seed, config.clock, config, outcome)


def in_words(found) -> list[tuple[str, str, list[float]]]:
    return [(one.title, one.place, [round(value, 6) for value in one.values]) for one in found]


def crossed() -> list[Trial]:
    """Momentum 0.9 costs 3 points, 10 workers in place of 2 cost 5, and both together 2 more."""
    return [
        trial(90 + seed - 3 * (momentum > 0) - 5 * (workers == 10) - 2 * (momentum > 0 and workers == 10), seed,
              momentum=momentum, world_size=workers + 1)
        for seed, momentum, workers in itertools.product((1, 2, 3), (0.0, 0.9), (2, 10))
    ]  # fmt: skip


def test_each_setting_is_compared_where_the_others_are_alike():
    assert in_words(differences(crossed())) == [
        ("momentum 0.9 − 0", "workers 2", [-3.0] * 3),
        ("momentum 0.9 − 0", "workers 10", [-5.0] * 3),
        ("workers 10 − 2", "momentum 0", [-5.0] * 3),
        ("workers 10 − 2", "momentum 0.9", [-7.0] * 3),
    ]


def test_what_one_setting_adds_to_the_effect_of_another():
    assert in_words(interactions(crossed())) == [("momentum 0.9 − 0", "workers 10 − 2", [-2.0] * 3)]


def test_pairs_have_the_same_seed():
    trials = [trial(80.0, 1), trial(81.0, 2), trial(83.0, 2, momentum=0.5), trial(85.0, 3, momentum=0.5)]
    (found,) = differences(trials)
    assert found.points == {2: 2.0} and found.in_words == "+2.0"


def test_runs_that_lost_workers_are_left_out():
    lost = trial(50.0, 2, momentum=0.5)
    lost = dataclasses.replace(lost, outcome=dataclasses.replace(lost.outcome, lost_workers="Worker_1"))
    trials = [trial(80.0, 1), trial(81.0, 2), trial(83.0, 1, momentum=0.5), lost]
    (found,) = differences(trials)
    assert found.points == {1: 3.0}


def test_the_usual_value_is_the_base():
    trials = [trial(80.0, 1), trial(70.0, 1, stop="first"), trial(85.0, 1, stop="total")]
    assert [one.compared for one in differences(trials)] == ["first − epochs", "total − epochs"]


def test_modes_are_compared_although_some_settings_are_of_one_mode_only():
    trials = [trial(80.0, 1, "sync"), trial(70.0, 1), trial(75.0, 1, stop="total"), trial(60.0, 1, algorithm="dude")]
    assert in_words(differences(trials)) == [
        ("mode asynchronous − synchronous", "algorithm asgd, ends when epochs", [-10.0]),
        ("algorithm dude − asgd", "mode asynchronous, ends when epochs", [-10.0]),
        ("ends when total − epochs", "mode asynchronous, algorithm asgd", [5.0]),
    ]


def test_a_setting_that_is_on_or_off_says_it_all():
    trials = [trial(80.0, seed, compensation=on) for seed, on in itertools.product((1, 2), (False, True))]
    (found,) = differences(trials)
    assert found.title == "delay compensation − no delay compensation" and found.in_words == "0.0 ± 0.0"


def test_runs_without_an_accuracy_and_single_settings_are_not_compared(capsys):
    assert differences([trial(math.nan, 1), trial(80.0, 1, momentum=0.5)]) == []
    exploded = trial(10.0, 1)
    exploded = dataclasses.replace(exploded, outcome=dataclasses.replace(exploded.outcome, test_loss=math.nan))
    assert differences([exploded, trial(80.0, 1, momentum=0.5)]) == []
    text = markdown([exploded, *(trial(80.0, seed, momentum=m) for seed, m in ((2, 0.0), (1, 0.5), (2, 0.5)))])
    assert "| momentum 0.5 − 0 |  | 1 | 0.0 |" in text and "Runs whose loss is not finite are left out." in text
    assert differences([trial(80.0, 1), trial(81.0, 2)]) == [] and markdown([trial(80.0, 1)]) == ""
    show([trial(80.0, 1)])
    assert capsys.readouterr().out == ""


def test_tables_and_terminals_have_an_end(capsys):
    trials = [trial(80.0 + rate, 1, lr=rate / 1000) for rate in range(1, LONGEST + 10)]
    text = markdown(trials)
    assert text.count("| learning rate") == LONGEST and f"The first {LONGEST} of {len(trials) - 1}." in text
    show(trials)
    assert capsys.readouterr().out.splitlines()[-1] == f"  and {len(trials) - 1 - 12} more"


@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_clocks_are_compared_too(clock):
    trials = [trial(80.0, 1, clock="virtual"), trial(79.0, 1)]
    assert len(differences(trials)) == 1
