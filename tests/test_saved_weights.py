"""What is measured with the saved weights of runs: accuracy of the last ones, distances between them, recall."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score

from analysis.reports.class_recall import Recall
from analysis.reports.distance_plots import Part
from analysis.reports.saved_weights import read_numbers
from common import build_model, load_dataset
from conftest import train, weights_of
from evaluation import predict
from test_drivers import QUICK, drive, rows_of, trials_of
from training.plan import make_plan
from training.record.reader import read_log


def test_last_updates_are_tested_up_to_the_model_of_the_run(tmp_path):
    driver = ("run_last_updates", *QUICK, "--saves_per_epoch", 20, "--world_sizes", 3, 6, "--seeds", 1, "--jobs", 2)
    drive(*driver, "--last", 10, "--results", "runs", cwd=tmp_path)
    assert (tmp_path / "runs/last_updates.png").stat().st_size > 0
    trials, weights = trials_of(tmp_path / "runs"), rows_of(tmp_path / "runs/last_updates.csv")
    for trial in trials:
        log = read_log(tmp_path / "runs" / f"{trial.name}_log.log")
        rows = [row for row in weights if row["name"] == trial.name]
        left, finished = [int(row["updates_left"]) for row in rows], int(rows[0]["first_finished"])
        assert left == [updates for updates in len(log.updates) - log.saved_versions if updates <= max(10, left[0])]
        assert finished <= left[0]
        later = log.updates.worker[len(log.updates) - finished :]
        assert len(set(later)) == trial.config.workers - 1
        assert float(rows[-1]["test_accuracy"]) == trial.outcome.test_accuracy


def test_distances_are_those_between_the_saved_weights(nursery, tmp_path):
    chosen = ("--world_sizes", 3, "--momentums", 0.5, "--saves_per_epoch", 44, "--lr", 0.02)
    drive("run_distances", *QUICK, *chosen, "--results", "runs", "--plot_dir", "plots", cwd=tmp_path)
    (log,) = map(read_log, (tmp_path / "runs").glob("*_log.log"))
    assert log.config.lr == pytest.approx(0.01)
    weights = np.load(next((tmp_path / "runs").glob("*_weights.npy")))
    row_of = {version: row for row, version in enumerate(log.saved_versions.tolist())}
    parts = read_numbers(tmp_path / "runs/distances.csv", Part)
    measured = {
        version: 100 * np.linalg.norm(weights[row_of[version - 1]] - weights[row_of[fetched]])
        / np.linalg.norm(weights[row_of[version - 1]])
        for version, fetched in zip(log.updates.version.tolist(), log.updates.fetched.tolist(), strict=True)
        if version - 1 in row_of and fetched in row_of
    }  # fmt: skip
    start = 0
    for part in parts:
        mine = [value for version, value in measured.items() if start < version <= part.update]
        assert part.distance == pytest.approx(np.mean(mine), rel=1e-4)
        start = part.update
    before = (tmp_path / "plots/distances.png").read_bytes()
    redraw = ("analysis/reports/distance_plots.py", tmp_path / "runs/distances.csv")
    nursery.run(*redraw, folder=tmp_path / "plots").went_well()
    assert (tmp_path / "plots/distances.png").read_bytes() == before


def test_workers_finish_where_the_log_says_although_updates_have_several(nursery, tmp_path):
    flags = ("--algorithm", "fedbuff", "--buffer_size", 2, "--worker_speeds", 1, 0.25, "--split_labels")
    log = train("dist_async.py", tmp_path / "runs", *flags, "--clock", "virtual", "--seed", 1, "--saves_per_epoch", 5,
                "--epochs", 2, "--lr", 0.02)["log"]  # fmt: skip
    left = read_log(log).left
    assert left[1] < left[2]
    nursery.run("analysis/reports/class_recall.py", log, folder=tmp_path).went_well()
    assert {one.last for one in read_numbers(tmp_path / "recall.csv", Recall)} == {2}
    nursery.run("analysis/reports/last_updates.py", log, folder=tmp_path).went_well()
    (finished,) = {row["first_finished"] for row in rows_of(tmp_path / "last_updates.csv")}
    assert int(finished) == left[2] - left[1]


def test_an_update_after_a_worker_left_is_not_in_the_row_saved_before(tmp_path):
    """The last gradient of a worker is late for its round of Malenia SGD, which closes as the worker leaves."""
    unequal = ("--split_dirichlet", 0.1, "--slow_worker_1", "--delay", "--delay_ms", 30, "--clock", "virtual")
    rounds = ("--algorithm", "malenia", "--buffer_size", 14, "--world_size", 6, "--seed", 4)
    done = train("dist_sync.py", tmp_path, *unequal, *rounds, "--epochs", 2, "--saves_per_epoch", 40)
    log, weights = read_log(done["log"]), np.load(done["weights"])
    events = re.findall(r"^\S+ s  (gradient|update|left) ", done["log"].read_text(), flags=re.MULTILINE)
    assert ("left", "update") in pairwise(events)
    changed = (weights[1:] != weights[:-1]).any(axis=1)
    assert np.array_equal(changed, np.diff(log.saved_versions) > 0)


@pytest.mark.parametrize(("seed", "epochs", "speeds"), [(15, 2, (1, 0.25)), (4, 1, (0.5, 1))])
def test_a_run_ends_with_the_update_that_its_last_worker_leads_to_by_leaving(seed, epochs, speeds, tmp_path):
    unequal = ("--split_dirichlet", 0.5, "--worker_speeds", *speeds, "--compute_time", "constant", "--clock", "virtual")
    often = ("--saves_per_epoch", 2, "--evals_per_epoch", 2, "--seed", seed, "--epochs", epochs)
    done = train("dist_sync.py", tmp_path, *unequal, *often, "--train_split", 0.3, "--lr", 0.1, "--momentum", 0,
                 "--world_size", 3, "--algorithm", "malenia", "--buffer_size", 3)  # fmt: skip
    log, weights = read_log(done["log"]), np.load(done["weights"])
    assert len(weights) == 2 * epochs + 1 and weights[-1].tobytes() == weights_of(done)
    assert log.saved_versions[-1] == log.evaluations[-1].update == len(log.updates)
    assert log.evaluations[-1].test_loss == log.result["test_loss"]
    events = re.findall(r"^\S+ s  (gradient|update|left) ", done["log"].read_text(), flags=re.MULTILINE)
    assert events[-2:] == ["left", "update"]


def test_runs_without_an_update_are_named(nursery, tmp_path):
    log = train("dist_async.py", tmp_path, "--clock", "virtual", "--max_seconds", 0.001, "--saves_per_epoch", 5)["log"]
    for script in ("last_updates", "distance_plots"):
        ended = nursery.run(f"analysis/reports/{script}.py", log, folder=tmp_path)
        assert ended.code == 1 and ended.errors.rstrip().endswith(f"{log}: the run made no update"), ended.errors
    of_run = [log.with_name(log.name.replace("_log.log", kind)) for kind in ("_model.pt", "_weights.npy")]
    ended = nursery.run("loss_landscape.py", *of_run, folder=tmp_path)
    assert ended.code == 1 and "train longer, or with a larger --saves_per_epoch" in ended.errors


def test_runs_whose_gradients_all_wait_in_a_buffer_have_no_table_of_stopping_rules(nursery, tmp_path):
    train("dist_async.py", tmp_path, "--clock", "virtual", "--algorithm", "fedbuff", "--buffer_size", 1000,
          "--epochs", 2, "--split_labels", "--evals_per_epoch", 2)  # fmt: skip
    nursery.run("analysis/reports/summary.py", tmp_path, folder=tmp_path).went_well()
    ended = nursery.run("analysis/reports/stopping_plots.py", tmp_path, folder=tmp_path)
    assert ended.code == 1 and ended.errors.rstrip().endswith("the run made no update"), ended.errors
    nursery.run("analysis/report/__main__.py", tmp_path, folder=tmp_path).went_well()


def test_workers_may_have_listed_speeds_and_defaults_of_their_own(nursery, tmp_path):
    often = ("--evals_per_epoch", 2, "--saves_per_epoch", 5)
    flags = ("--clock", "virtual", "--algorithm", "ringmaster", *often, "--seed", 1)
    logs = [
        train("dist_async.py", tmp_path / str(workers), *flags, "--world_size", workers + 1, "--worker_speeds", 0.5,
              *[1] * (workers - 1))["log"]
        for workers in (2, 3)
    ]  # fmt: skip
    nursery.run("analysis/reports/last_updates.py", *logs, folder=tmp_path).went_well()
    for log in logs:
        nursery.run("analysis/reports/summary.py", log.parent, "--summary_dir", tmp_path, folder=tmp_path).went_well()
    nursery.run("analysis/reports/stopping_plots.py", tmp_path, folder=tmp_path).went_well()


def test_recall_is_that_of_the_saved_weights(nursery, tmp_path):
    chosen = ("--world_sizes", 3, "--seeds", 1, "--saves_per_epoch", 10, "--epochs", 4, "--lr", 0.05)
    drive("run_recall", *QUICK, *chosen, "--results", "runs", "--plot_dir", "plots", cwd=tmp_path)
    (log,) = map(read_log, (tmp_path / "runs").glob("*_log.log"))
    numbers = read_numbers(tmp_path / "runs/recall.csv", Recall)
    alone = np.flatnonzero(log.updates.worker == 2)[-1] + 1  # updates after which only the slow worker is left
    dataset, model = load_dataset("digits", "data"), build_model("digits", "LeNet5")
    shards = make_plan(log.config, log.seed, dataset.train).shards
    weights, saved = np.load(next((tmp_path / "runs").glob("*_weights.npy"))), log.saved_versions.tolist()
    for one in numbers:
        assert (dataset.train.labels[shards[one.owner - 1]] == one.label).any() and one.last == 1
    assert {one.since for one in numbers} == {version - alone for version in saved if version >= 2 * alone - saved[-1]}
    for since in (min(one.since for one in numbers), len(log.updates) - alone):
        model.load_state_vector(torch.from_numpy(weights[saved.index(alone + since)]))
        found = predict(dataset.test, model).argmax(dim=1)
        recalls = recall_score(dataset.test.labels, found, average=None, zero_division=0)
        assert [one.recall for one in numbers if one.since == since] == pytest.approx(100 * recalls)
    before = (tmp_path / "plots/recall.png").read_bytes()
    script = "analysis/reports/class_recall.py"
    nursery.run(script, tmp_path / "runs/recall.csv", folder=tmp_path / "plots").went_well()
    assert (tmp_path / "plots/recall.png").read_bytes() == before
    refused = train("dist_async.py", tmp_path / "others", "--split_dataset", "--clock", "virtual")["log"]
    nursery.run(script, refused, folder=tmp_path).refused("own no labels")


@pytest.mark.parametrize("measured", ["class_recall", "distance_plots", "last_updates"])
def test_only_asynchronous_runs_are_measured(measured, nursery, tmp_path):
    flags = ("--split_labels", "--saves_per_epoch", 5, "--clock", "virtual")
    log = train("dist_sync.py", tmp_path, *flags)["log"]
    nursery.run(f"analysis/reports/{measured}.py", log, folder=tmp_path).refused(f"{log}: the log of a sync run")


@pytest.mark.parametrize("measured", ["class_recall", "distance_plots"])
def test_only_like_runs_share_a_figure(measured, nursery, tmp_path):
    flags = ("--clock", "virtual", "--split_labels", "--saves_per_epoch", 20)
    logs = [train("dist_async.py", tmp_path, *flags, "--batch_size", size)["log"] for size in (32, 64)]
    nursery.run(f"analysis/reports/{measured}.py", *logs, folder=tmp_path).refused(
        "batch_size 64 and 32; give runs that differ only in workers"
    )


def test_last_updates_refuse_runs_that_they_cannot_tell_of(nursery, tmp_path):
    flags = ("--clock", "virtual", "--split_labels", "--seed", 1)
    good = train("dist_async.py", tmp_path / "runs", *flags, "--saves_per_epoch", 3)
    other = train("dist_async.py", tmp_path / "others", *flags, "--delay", "--delay_ms", 30)
    np.save(good["weights"], np.load(good["weights"])[:-1])
    for logs, words in (
        ([good["log"], other["log"]], "is not valid beside"),
        ([other["log"]], "--saves_per_epoch"),
        ([good["log"]], f"{good['weights']}: 3 rows in place of 4"),
    ):
        nursery.run("analysis/reports/last_updates.py", *logs, folder=tmp_path).refused(words)
