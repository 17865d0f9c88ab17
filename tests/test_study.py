"""The second edition: its design, and the answers to contrasts of which the effects are known."""

import dataclasses
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from analysis.forest import Row, forest
from analysis.reports.algorithm_plots import algorithms_figure
from analysis.reports.algorithm_plots import read_runs as read_algorithms
from analysis.reports.algorithm_plots import report as report_algorithms
from analysis.reports.stopping_plots import report as report_stopping
from analysis.reports.trials import Trial, TrialOutcome, Trials, accuracy_at_training_loss
from analysis.reports.trials import test_loss_at_training_loss as loss_at_training_loss
from analysis.study import contrasts as contrasts_module
from analysis.study import pages as pages_module
from analysis.study.__main__ import check_texts, files_of, text_of, texts_of
from analysis.study.contrasts import divergence, draw, markdown, write_answers
from analysis.study.design import EXPERIMENTS, SLOW_WORKERS, Experiment, Level, diverged, slow_label
from analysis.study.effects import (
    CONTRASTS,
    FEWEST,
    Contrast,
    answer,
    expanded,
    holm,
    judge,
    measure,
    p_in_words,
    place_in_words,
    read_contrasts,
)
from analysis.study.experiment_plots import FIGURES
from analysis.study.pages import FINDINGS, NOT_RUN, PAGES, TEMPLATES, Lookup, page
from common import load_dataset, make_generator, partition_samples
from conftest import DATA, ROOT, needs_data, train
from interface.errors import DataError
from scripts.experiment import main
from scripts.plan import PlannedRun
from scripts.schedules import schedule_of
from training.config import RunConfig
from training.names import run_name
from training.record.reader import read_log

OUTCOME = TrialOutcome(
    test_accuracy=80.0, test_loss=0.5, train_accuracy=80.0, train_loss=0.5, seconds=1.0, updates=10,
    mean_staleness=0.0, max_staleness=0, converged=True, first_left_accuracy=85.0, first_left_seconds=0.8,
    evaluations=((0.5, 5, 70.0), (1.0, 10, 80.0)),
)  # fmt: skip


def trial(config: RunConfig, **outcome: float) -> Trial:
    return Trial(run_name(config), config.seed, config.clock, config, dataclasses.replace(OUTCOME, **outcome))


# ----------------------------------------------------------------------------------------------------
# Design
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", SLOW_WORKERS)
def test_the_slow_worker_owns_the_label_of_the_seed(workers):
    labels = torch.arange(10)
    slow_labels = []
    for seed, slow in enumerate(SLOW_WORKERS[workers], start=1):
        generator = make_generator(seed, "partition")
        owned = partition_samples("split_labels_unscaled", labels, labels, workers, generator)
        assert slow_label(seed) in owned[slow - 1]
        slow_labels += owned[slow - 1].tolist()
    assert workers < 10 or sorted(slow_labels) == list(range(10))  # each is slow once


def test_one_worker_is_slow():
    experiment = EXPERIMENTS["partitions"]
    for seed in (1, 12):
        config = experiment.config(("labels", "5", "one slow", "total"), 0.1, seed)
        speeds = config.worker_speeds.split()
        assert speeds.count("0.5") == 1 and speeds.index("0.5") + 1 == SLOW_WORKERS[5][(seed - 1) % 10]
    assert experiment.config(("labels", "5", "equal", "total"), 0.1, 1).worker_speeds is None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_of_an_experiment_is_a_command(name):
    experiment = EXPERIMENTS[name].replaced(seeds=[1], tuning_seeds=[11])
    best = {cell: config.lr for cell, config in experiment.tuning()}
    assert read_contrasts(CONTRASTS, name)
    for config in [*experiment.runs(best), *(config for _, config in experiment.tuning())]:
        run = PlannedRun.of(config)
        assert PlannedRun.parse(f"row {run.command.removeprefix('python3 ')}").config == config


def test_rates_are_chosen_by_mean_validation_accuracy(tmp_path):
    experiment = EXPERIMENTS["momentum"]
    trials = Trials(tmp_path)
    with pytest.raises(DataError, match="missing"):
        experiment.best_rates(trials)
    for cell, config in experiment.tuning():
        effective = config.lr / (1 - config.momentum)
        best = 0.1 if cell[0] == "20" else 0.2
        value = 80 - abs(math.log(effective / best)) + (0.3 if config.seed == 11 else -0.3)
        trials.rows[run_name(config)] = trial(config, validation_accuracy=value)
    best = experiment.best_rates(trials)
    assert best["1", "0", "tuned"] == pytest.approx(0.2) and best["20", "0.9", "tuned"] == pytest.approx(0.01)
    assert experiment.rate(("20", "0.9", "matched"), best) == pytest.approx(0.1 * (1 - 0.9))


@pytest.mark.parametrize("name", FIGURES)
def test_the_figure_of_an_experiment_shows_all_of_its_panels(name):
    experiment = EXPERIMENTS[name].replaced(seeds=[1, 2, 3])
    best = {cell: config.lr for cell, config in experiment.tuning()}
    runs = {
        cell: {
            seed: trial(
                experiment.config(cell, experiment.rate(cell, best), seed), test_accuracy=80.0 + seed,
                test_losses=(0.6, 0.5), training_losses=((0.5, 5, 0.6 - 0.01 * seed), (1.0, 10, 0.4)),
                first_left_accuracy=20.0,
            )
            for seed in experiment.seeds
        }
        for cell in experiment.cells
    }  # fmt: skip
    figure = FIGURES[name](experiment, runs)
    figure.draw_without_rendering()
    assert len(figure.axes) >= 2 and all(axes.lines or axes.images or axes.collections for axes in figure.axes)
    assert "3 seeds" in "".join(text.get_text() for text in figure.texts)
    for axes in figure.axes:
        low, high = sorted(axes.get_ylim())
        assert all(low < y < high for line in axes.lines if line.get_marker() == "o" for y in line.get_ydata())


def test_a_run_that_forgot_has_not_diverged():
    config = RunConfig(mode="async", dataset="fashion_mnist", seed=1)
    assert not diverged(trial(config, test_accuracy=10.0, first_left_accuracy=85.0))
    assert diverged(trial(config, test_accuracy=10.0, first_left_accuracy=10.0))
    assert diverged(trial(config, test_accuracy=10.0, first_left_accuracy=85.0, test_loss=math.nan))
    assert diverged(trial(config, test_accuracy=10.01, first_left_accuracy=None))  # a model that says one label


def test_a_run_that_diverged_after_the_moment_that_is_read_counts():
    experiment, config = EXPERIMENTS["partitions"], RunConfig(mode="async", dataset="fashion_mnist", seed=1)
    late, early = (trial(config, test_accuracy=10.0, test_loss=math.nan, first_left_accuracy=accuracy)
                   for accuracy in (85.0, 10.0))  # fmt: skip
    first, whole = (("labels", "5", "equal", stop) for stop in ("first", "epochs"))
    assert [experiment.accuracy(first, one) for one in (late, early)] == [85.0, None]
    assert [experiment.accuracy(whole, one) for one in (late, early)] == [None, None]
    learned_later = trial(config, test_accuracy=80.0, first_left_accuracy=10.0)
    assert experiment.accuracy(first, learned_later) == 10.0


def test_accuracy_is_read_where_the_training_loss_first_falls_to_a_limit():
    outcome = dataclasses.replace(
        OUTCOME, training_losses=((0.1, 10, 0.9), (0.2, 20, 0.4), (0.3, 30, 0.5), (0.4, 40, 0.2)),
        evaluations=((0.1, 10, 50.0), (0.3, 30, 80.0), (0.4, 40, 82.0)), test_losses=(0.9, 0.6, 0.5),
    )  # fmt: skip
    # The parts have their middles at the updates 5, 15, 25 and 35.
    assert accuracy_at_training_loss(0.65, outcome) == pytest.approx(50.0)
    assert accuracy_at_training_loss(0.45, outcome) == pytest.approx(50 + 30 * (14 - 10) / 20)
    assert accuracy_at_training_loss(0.3, outcome) == pytest.approx(80 + 2 * (25 + 10 * 2 / 3 - 30) / 10)
    assert accuracy_at_training_loss(0.1, outcome) is None
    assert loss_at_training_loss(0.45, outcome) == pytest.approx(0.9 - 0.3 * (14 - 10) / 20)


def test_an_epochs_run_passes_the_end_of_a_first_run(tmp_path):
    """The partitions experiment reads the one from the other."""
    flags = ("--epochs", 3, "--clock", "virtual", "--seed", 1, "--world_size", 6, "--split_labels", "--worker_speeds",
             1, 1, 0.5, 1, 1, "--evals_per_epoch", 1)  # fmt: skip
    epochs, first = (
        read_log(train("dist_async.py", tmp_path / rule, *flags, "--stop", rule)["log"]) for rule in ("epochs", "first")
    )
    assert epochs.result["test_accuracy"] != first.result["test_accuracy"]
    assert TrialOutcome.of_log(epochs).first_left_accuracy == first.result["test_accuracy"]


def test_a_schedule_without_gradients_is_that_of_the_run(tmp_path):
    flags = ("--epochs", 2, "--clock", "virtual", "--seed", 1, "--world_size", 6, "--split_labels")
    log = read_log(train("dist_async.py", tmp_path, *flags)["log"])
    schedule = schedule_of(log.config, load_dataset("digits", "unused").train)
    assert schedule.staleness == log.updates.staleness.tolist()
    assert 0 < schedule.first_left < schedule.updates == len(log.updates)


# ----------------------------------------------------------------------------------------------------
# Answers
# ----------------------------------------------------------------------------------------------------


def effect_of(differences: list[float], margin: float | None = None, *, lost: int = 0, primary: bool = True):
    contrast = Contrast("", (("a",), ("b",)), "", primary, margin)
    first = dict(enumerate([*np.add(differences, 70.0), *[None] * lost]))
    return measure(contrast, {("a",): first, ("b",): dict.fromkeys(first, 70.0)})


def verdict_of(differences: list[float], margin: float | None = None, **more: int) -> str:
    return judge([effect_of(differences, margin, **more)])[0].verdict


def test_p_values_are_those_of_student():
    differences = [0.3, -0.2, 1.1, 0.8, 0.4]
    effect = effect_of(differences)
    expected = stats.ttest_1samp(effect.differences, 0)
    assert effect.p_no_difference == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (effect.mean - effect.half_width, effect.mean + effect.half_width) == pytest.approx((low, high))


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    differences = [0.3, -0.2, 1.1, 0.8, 0.4]
    sides = (stats.ttest_1samp(differences, 1.0, alternative="less").pvalue,
             stats.ttest_1samp(differences, -1.0, alternative="greater").pvalue)  # fmt: skip
    assert effect_of(differences, margin=1.0).p_margin_or_more == pytest.approx(max(sides))
    assert effect_of(differences).p_margin_or_more == 1


NEAR, SLIGHT, FAR, WIDE = ([0.1, -0.1, 0.2, 0.0], [0.4, 0.5, 0.6, 0.5], [5.1, 4.9, 5.2, 5.0], [3.0, -2.0, 4.0, 0.0])


def test_a_contrast_with_a_margin_asks_for_a_difference_and_for_none():
    assert [verdict_of(values, 1.0) for values in (NEAR, SLIGHT, FAR, WIDE)] == [
        "equal within 1", "different by less than 1", "different", "not settled",
    ]  # fmt: skip
    assert [verdict_of(values) for values in (NEAR, SLIGHT)] == ["not settled", "different"]


def test_the_two_questions_are_adjusted_apart_and_only_for_primary_contrasts():
    effects = [effect_of(NEAR, 1.0), effect_of(FAR, 1.0), effect_of(WIDE), effect_of(SLIGHT, 1.0, primary=False)]
    answers = judge(effects)
    assert [one.p_different for one in answers[:3]] == holm([one.p_no_difference for one in effects[:3]])
    assert [one.p_equal for one in answers[:2]] == holm([one.p_margin_or_more for one in effects[:2]])
    assert answers[3].p_different == effects[3].p_no_difference


def test_a_primary_contrast_without_runs_still_counts_for_the_adjustment():
    alone, beside = judge([effect_of(SLIGHT)]), judge([effect_of(SLIGHT), effect_of([], lost=3)])
    assert beside[0].p_different == pytest.approx(2 * alone[0].p_different)


@pytest.mark.parametrize(("scatter", "seeds"), [(0.1, 3), (0.45, 4), (0.7, 6), (0.96, 10), (1.5, 21)])
def test_seeds_needed_show_equivalence_in_four_of_five_experiments_and_fewer_do_not(scatter, seeds):
    random = np.random.default_rng(0)

    def power(pairs: int) -> float:
        verdicts = [verdict_of(list(random.normal(0, scatter, pairs)), 1.0) for _ in range(400)]
        return sum("1" in verdict for verdict in verdicts) / 400

    assert effect_of([scatter, -scatter] * 200, 1.0).seeds_needed == seeds
    assert power(seeds) > 0.76 and (seeds == FEWEST or power(seeds - 1) < 0.84)


def test_pairs_without_any_difference_are_identical():
    (found,) = judge([effect_of([0.0, 0.0, 0.0], 1.0)])
    assert found.verdict == "identical" and found.settled
    assert verdict_of([0.0, 0.0, 0.0], 1.0, lost=1) == "not settled"


def test_a_p_value_says_on_which_side_of_the_level_it_is():
    assert [p_in_words(p) for p in (0.0002, 0.04951, 0.0496, 0.05046, 0.3)] == [
        "< 0.001", "0.0495", "0.0496", "0.0505", "0.300",
    ]  # fmt: skip


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_pairs_with_a_diverged_run_are_counted_apart():
    contrast = Contrast("", (("a",), ("b",)), "", True, None)
    effect = measure(contrast, {("a",): {1: 80.0, 2: None, 3: 81.0, 4: 9.0}, ("b",): {1: 79.0, 2: 70.0, 3: 82.0}})
    assert effect.differences == (1.0, -1.0) and effect.lost == 1
    assert effect.in_words == "+0.00 ± 12.71 (1 of 3 lost)" and effect.p_no_difference == 1


def test_nothing_with_a_lost_pair_is_called_equal():
    assert verdict_of(NEAR, 1.0, lost=1) == "not settled" and verdict_of(FAR, 1.0, lost=1) == "different"
    assert verdict_of([], 1.0, lost=10) == "runs lost" and verdict_of([1.0], 1.0) == "too few runs"


def test_contrasts_of_which_all_pairs_are_lost_are_written_and_drawn():
    answers = judge([effect_of([], lost=10), effect_of(NEAR, 1.0, lost=1)])
    assert "| not known (10 of 10 lost) |" in markdown(answers)
    for shown in (answers, answers[:1]):
        figure = draw(TINY.title, shown)
        figure.draw_without_rendering()
        assert "(10\xa0lost)" in figure.axes[0].get_yticklabels()[0].get_text()


def test_an_experiment_of_which_no_pair_has_run_is_refused_and_changes_nothing(tmp_path):
    shutil.copytree(ROOT / "summaries/momentum/tuning", tmp_path / "tuning")
    (tmp_path / "contrasts.md").write_text("as before")
    with pytest.raises(DataError, match="no seed has run in both cells"):
        write_answers("momentum", EXPERIMENTS["momentum"], tmp_path, tmp_path)
    assert (tmp_path / "contrasts.md").read_text() == "as before"


@pytest.mark.parametrize(("values", "logarithmic"), [([-40.0, 1.0, 8.0], True), ([-4.0, 1.0, 2.0], False)])
def test_a_forest_plot_says_whether_its_scale_is_logarithmic(values, logarithmic):
    figure = draw(TINY.title, judge([effect_of(values)]))
    said = any("logarithmic beyond ±2 points" in text.get_text() for text in figure.texts)
    assert said == logarithmic == (figure.axes[0].get_xscale() == "symlog")


@pytest.mark.parametrize(("claims", "columns"), [(1, 1), (3, 1), (7, 2), (11, 3)])
def test_a_forest_plot_of_any_length_shows_which_numbers_its_scale_has(claims, columns):
    rows = [
        Row(f"claim {claim}", f"place {place}", (-40.0, 3.0, 28.0)) for claim in range(claims) for place in range(10)
    ]
    _, panels = forest(rows * (6 if claims == 1 else 1))
    assert len(panels) == columns
    for axes in panels:
        labelled, others = axes.get_xticks(), axes.get_xticks(minor=True)
        assert {-10, 0, 10} <= set(labelled) and {-5, 5} <= {*labelled, *others}
        assert (axes.get_xlabel() == "difference in test accuracy (points)") == (columns == 1)


def test_a_primary_contrast_is_not_asked_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    row = {"claim": "total − epochs", "first": {"stop": "total"}, "second": {"stop": "epochs"}}
    (tmp_path / "contrasts.json").write_text(json.dumps({"tiny": [row, row | {"claim": "the same", "primary": True}]}))
    assert [one.claim for one in read_contrasts(tmp_path / "contrasts.json", "tiny")] == ["the same"]


def test_places_are_read_as_words():
    levels = {"partition": "labels", "workers": "1", "momentum": "0.9"}
    assert place_in_words(levels) == "labels, 1 worker, momentum 0.9"
    assert place_in_words({"workers": "10"}) == "10 workers"


def test_a_difference_of_differences():
    row = {"claim": "", "at": {"workers": "20", "rate": "tuned"}, "less_at": {"workers": "1"},
           "first": {"momentum": "0.9"}, "second": {"momentum": "0"}}  # fmt: skip
    (contrast,) = expanded(row, EXPERIMENTS["momentum"])
    values = {("20", "0.9", "tuned"): 1.0, ("20", "0", "tuned"): 10.0, ("1", "0.9", "tuned"): 100.0,
              ("1", "0", "tuned"): 1000.0}  # fmt: skip
    effect = measure(contrast, {cell: {1: value} for cell, value in values.items()})
    assert effect.differences == ((1.0 - 10.0) - (100.0 - 1000.0),)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_contrasts_fit_their_experiment(name):
    contrasts = read_contrasts(CONTRASTS, name)
    assert any(contrast.primary for contrast in contrasts)
    assert {cell for contrast in contrasts for cell in contrast.cells} <= set(EXPERIMENTS[name].cells)


def test_contrasts_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "contrasts.json"
    good = json.loads(CONTRASTS.read_text(encoding="utf-8"))["partitions"][0]
    changes = [{"at": {"partition": "labels"}}, {"first": {"stop": "never"}}, {"each": ["seeds"]}]
    for text in ["{", "[]", "{}", *(json.dumps({"partitions": [good | change]}) for change in changes)]:
        path.write_text(text)
        with pytest.raises(DataError, match=r"contrasts\.json: not the contrasts of partitions"):
            read_contrasts(path, "partitions")


def test_known_effects_are_found(tmp_path):
    """Under epochs a slow worker that owns labels costs 20 points; nothing else makes a difference of a point."""
    experiment, noise = EXPERIMENTS["partitions"], np.random.default_rng(0)
    tuning, trials = Trials(tmp_path / "tuning"), Trials(tmp_path)
    for _, config in experiment.tuning():
        tuning.add(trial(config, validation_accuracy=80.0 - abs(config.lr - 0.05)))
    for config in experiment.runs(experiment.best_rates(tuning)):
        assert config.lr == 0.05
        harmed = config.partition == "split_labels" and config.worker_speeds and config.stop == "epochs"
        value = 85 + 0.3 * noise.normal()
        trials.rows[run_name(config)] = trial(config, test_accuracy=value - 20 * bool(harmed),
                                              first_left_accuracy=value)  # fmt: skip
    for row in list(trials.rows.values()):
        trials.add(row)
    answers = answer(experiment, experiment.read(tmp_path), read_contrasts(CONTRASTS, "partitions"))
    for one in answers:
        contrast = one.effect.contrast
        assert len(one.effect.differences) == 10
        if contrast.primary:
            assert one.verdict == ("equal within 1" if contrast.margin else "different"), contrast
    assert markdown(answers).count("\n| ") == len(answers) + 2
    assert sum(one.settled for one in answers) >= 18
    write_answers("partitions", experiment, tmp_path, tmp_path)
    assert "0 of 360 runs.\n" in (tmp_path / "contrasts.md").read_text()
    assert (tmp_path / "partitions_runs.png").exists() and (tmp_path / "partitions.png").stat().st_size > 10_000


def test_diverged_runs_are_counted_with_their_interval(tmp_path):
    tuning, trials = Trials(tmp_path / "tuning"), Trials(tmp_path)
    for _, config in TINY.tuning():
        tuning.add(trial(config, validation_accuracy=80.0))
    for config in TINY.runs(TINY.best_rates(tuning)):
        lost = config.stop == "total" and config.seed <= 3
        trials.add(trial(config, test_accuracy=10.0 if lost else 80.0, first_left_accuracy=10.0))
    text = divergence(TINY, TINY.read(tmp_path))
    assert "3 of 20 runs" in text and "| total | 3 of 10 | 7 to 65 % |\n| 1 cell | 0 of 10 | 0 to 31 % |" in text
    low, high = stats.beta.ppf(0.025, 3, 8), stats.beta.ppf(0.975, 4, 7)
    assert (round(100 * low), round(100 * high)) == (7, 65)


TINY = Experiment(
    title="Two stopping rules",
    factors={"stop": {"epochs": Level({"stop": "epochs"}), "total": Level({"stop": "total"})}},
    tuned=("stop",),
    rates=(1e-6, 0.05),
    shared={"partition": "split_dataset"},
)


def test_an_interrupted_experiment_counts_whole_seeds(tmp_path):
    tuning, trials = Trials(tmp_path / "tuning"), Trials(tmp_path)
    for _, config in TINY.tuning():
        tuning.add(trial(config, validation_accuracy=80.0))
    for number, config in enumerate(TINY.runs(TINY.best_rates(tuning)), start=1):
        trials.add(trial(config))
        assert {len(by_seed) for by_seed in TINY.read(tmp_path).values()} == {number // 2}


def test_runs_on_the_wall_clock_do_not_slow_each_other_down(tmp_path, monkeypatch, capsys):
    flags = ["momentum_elsewhere", "--dry_run", "--jobs", "2", "--summary_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["experiment.py", *flags])
    main()
    plan = re.findall(r"(\d+) runs: 0 done.* with --jobs (\d)", capsys.readouterr().out)
    assert plan == [("32", "2"), ("16", "1"), ("40", "2"), ("20", "1")]  # to tune, then to compare; a third on the wall


def test_an_experiment_from_its_runs_to_its_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    monkeypatch.setattr(contrasts_module, "CONTRASTS", tmp_path / "contrasts.json")
    row = {"claim": "total − epochs", "first": {"stop": "total"}, "second": {"stop": "epochs"}, "primary": True}
    (tmp_path / "contrasts.json").write_text(json.dumps({"tiny": [row]}))
    flags = ("tiny", "--dataset", "digits", "--epochs", 3, "--seeds", 1, 2, 3, "--tuning_seeds", 11, "--results",
             tmp_path / "runs", "--plot_dir", tmp_path)  # fmt: skip
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def command(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["experiment.py", *map(str, flags), *more])
        main()
        return capsys.readouterr().out

    assert "4 runs: 0 done, 4 to do" in command("--dry_run") and not (tmp_path / "runs").exists()
    command()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert {one.config.lr for one in Trials(tmp_path / "runs").rows.values()} == {0.05}
    page = (tmp_path / "runs/contrasts.md").read_text(encoding="utf-8")
    assert "LeNet5 on digits, 3 epochs, tuned rates; 3 seeds." in page and "| total − epochs |  | primary | 3 |" in page
    assert "6 runs: 6 done, 0 to do" in command("--dry_run")


# ----------------------------------------------------------------------------------------------------
# Pages
# ----------------------------------------------------------------------------------------------------

SUMMARIES = ROOT / "summaries"


@pytest.fixture(scope="module")
def study():
    return Lookup(SUMMARIES)


@pytest.fixture(scope="module")
def texts():
    return texts_of(SUMMARIES)


def test_every_number_on_the_pages_is_that_of_the_rows(texts):
    check_texts(texts)


@pytest.mark.parametrize(
    "name", [*PAGES, "comparison.md", "comparison.csv", "speeds/contrasts.md", "stopping/summary.md", "../README.md"]
)
def test_a_page_whose_number_drifted_is_refused(name, texts, tmp_path):
    path = (SUMMARIES / name).resolve()
    text = path.read_text(encoding="utf-8")
    place = re.search(r"± \d", text).start() + 2
    drifted = tmp_path / path.name
    drifted.write_text(text[:place] + "9" + text[place:], encoding="utf-8")
    with pytest.raises(DataError, match=rf"{path.name}, line \d+: the rows say .* ± "):
        check_texts({drifted: texts[path]})


def test_only_the_findings_of_a_readme_are_written(texts, tmp_path):
    (tmp_path / "summaries").symlink_to(SUMMARIES)
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n\n## What it finds\n\nOld.\n\n## Next\n\n## Last\n")
    study = Lookup(SUMMARIES)
    assert files_of(tmp_path / "summaries")[FINDINGS] == readme
    text = text_of(FINDINGS, study, readme)
    assert text == f"# Mine\n\n## What it finds\n\n{page(FINDINGS, study)}\n## Next\n\n## Last\n"
    readme.write_text("# A README without findings\n")
    assert FINDINGS not in files_of(tmp_path / "summaries")


@pytest.mark.parametrize("folder", ["plots", "summaries"])
def test_no_result_names_a_folder_of_the_machine_that_made_it(folder):
    kinds = {".csv", ".json", ".jsonl", ".md", ".txt"}
    texts = [path for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    assert texts
    absolute = re.compile(r"(?<![\w.:/])/(?:home|mnt|root|tmp|work)/")
    assert [path.name for path in texts if absolute.search(path.read_text(encoding="utf-8"))] == []


def test_the_table_of_the_stopping_rules_is_that_of_its_rows():
    text = (SUMMARIES / "stopping/stopping.md").read_text(encoding="utf-8")
    assert text == report_stopping(SUMMARIES / "stopping")[0]


@needs_data
def test_the_table_of_the_algorithms_is_that_of_its_rows():
    text = (SUMMARIES / "algorithms/algorithms.md").read_text(encoding="utf-8")
    assert text == report_algorithms(SUMMARIES / "algorithms", [], str(DATA))[0]


@pytest.mark.parametrize("count", [3, 5, 7])
def test_a_figure_of_any_number_of_algorithms_has_no_empty_frame(count):
    runs = dict(itertools.islice(read_algorithms(SUMMARIES / "algorithms", []).items(), count))
    panels = algorithms_figure(runs).axes
    assert [axes.axison for axes in panels] == [True] * count + [False] * (len(panels) - count)


def test_an_experiment_answers_from_three_pairs_on(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    monkeypatch.setattr(pages_module, "CONTRASTS", tmp_path / "contrasts.json")
    row = {"claim": "total − epochs", "first": {"stop": "total"}, "second": {"stop": "epochs"}, "primary": True}
    (tmp_path / "contrasts.json").write_text(json.dumps({"tiny": [row]}))
    shutil.copy(SUMMARIES / "published.csv", tmp_path)
    tuning, trials = Trials(tmp_path / "tiny/tuning"), Trials(tmp_path / "tiny")
    for _, config in TINY.tuning():
        tuning.add(trial(config, validation_accuracy=80.0))
    answered = []
    for config in TINY.runs(TINY.best_rates(tuning)):
        trials.add(trial(config))
        answered.append(Lookup(tmp_path).has("tiny"))
    assert answered.index(True) == 5 and all(answered[5:])
    assert Lookup(tmp_path).effects("tiny", "total − epochs") == "+0.00 ± 0.00"


def test_every_experiment_that_was_run_has_a_chapter(study, tmp_path, monkeypatch):
    imagined = {name: whole for name, whole in EXPERIMENTS.items() if not study.has(name)}
    for existing in SUMMARIES.iterdir():
        if existing.name not in imagined:
            (tmp_path / existing.name).symlink_to(existing)
    random = np.random.default_rng(0)
    for name, whole in imagined.items():
        experiment = dataclasses.replace(whole, seeds=range(1, 4))
        monkeypatch.setitem(EXPERIMENTS, name, experiment)
        tuning, trials = Trials(tmp_path / name / "tuning"), Trials(tmp_path / name)
        for _, config in experiment.tuning():
            tuning.add(trial(config, validation_accuracy=random.normal(80, 2)))
        losses = tuple((float(at), at, 1 / at) for at in range(1, 40))
        for config in dict.fromkeys(experiment.runs(experiment.best_rates(tuning))):
            accuracies = random.normal(80, 2, size=2)
            trials.add(trial(config, test_accuracy=accuracies[0], training_losses=losses,
                                evaluations=((1.0, 1, accuracies[1]), (39.0, 39, accuracies[0]))))  # fmt: skip
    text = page("README.md", Lookup(tmp_path))
    for name in EXPERIMENTS:
        assert f"`{name}`" in text or f"run_experiment.sh {name}`" in text, name
        assert f"{name}/contrasts.md" in text, name
    assert NOT_RUN not in text and "#what-is-not-settled)" not in text
    assert all(line.startswith("|") for line in text.splitlines() if line.endswith(" |"))


def test_messages_name_the_study(tmp_path):
    command = [sys.executable, "-m", "analysis.study", tmp_path / "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"study: error: {tmp_path}/nowhere/published.csv: No such file or directory\n"


@pytest.mark.parametrize("name", [*PAGES, FINDINGS])
def test_no_result_is_typed_into_a_template(name):
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    typed = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|`[^`]*`", "", template, flags=re.DOTALL)
    assert not re.findall(r"± ?\d|\d\.\d+ ?(?:%|±)|\d(?: %| points) (?:higher|lower|more|less)", typed)


def test_a_claim_that_the_rows_no_longer_support_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setattr(pages_module, "TEMPLATES", tmp_path)
    (tmp_path / "claim.md.jinja").write_text("# Claims\n\nTrue.{{ check(1 < 2) }}\n\nFalse.{{ check(2 < 1) }}\n")
    with pytest.raises(DataError, match=r"claim.md.jinja, line 5: the rows no longer say"):
        page("claim.md", study)


def test_a_line_whose_runs_are_missing_is_refused_as_that(tmp_path):
    for needed in ("published.csv", "stopping"):
        (tmp_path / needed).symlink_to(SUMMARIES / needed)
    with pytest.raises(DataError, match=r"published.md.jinja, line \d+: the runs that this line is about are missing"):
        page("published.md", Lookup(tmp_path))


def test_a_study_that_somebody_makes_again_has_its_page(tmp_path):
    """Its runs were made once, on one machine."""
    for path in SUMMARIES.iterdir():
        if path.name != "repeated":
            (tmp_path / path.name).symlink_to(path)
    text = page("README.md", Lookup(tmp_path))
    assert "# The study" in text and "on two machines" not in text


def test_rows_are_looked_up_by_their_settings(study):
    runs = study.rows("stopping", world_size=3, stop="first")
    assert set(runs.by_run) == set(range(1, 11))
    assert runs.interval == study.cell("stopping/stopping.md", "at the end", workers=2, stop="first")
    assert len(study.rows("stopping", world_size=[3, 6], stop="first")) == 20
    assert (runs - runs).values == [0.0] * 10 and len(runs | runs) == 20
