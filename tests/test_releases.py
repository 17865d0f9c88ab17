"""Only released workers fetch: on both clocks, in a replay, and when a worker dies."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, shared_nursery, weights_of
from live_run import LiveRun
from nursery import Ended
from toys import TOYS
from training.algorithms import ALGORITHMS
from training.record.reader import read_log

EASY = ("--dataset", "digits", "--lr", "0.05", "--world_size", "4", "--split_dataset", "--epochs", "2", "--seed", "1")
CLOCKS = ("wall", "virtual")


@pytest.fixture(autouse=True)
def toys_are_known(monkeypatch):
    """Register the toys in this process, which reads their logs."""
    for name, rule in TOYS.items():
        monkeypatch.setitem(ALGORITHMS, name, rule)


def toy(algorithm: str, folder: Path, *flags: object) -> Ended:
    """Train with one of the toys; a run that hangs fails the test."""
    given = flags if "--replay" in flags else (*EASY, *flags)
    return shared_nursery().run("tests/toys.py", algorithm, *given, "--subfolder", folder, timeout=60)


def files_of(folder: Path) -> dict[str, Path]:
    return {path.stem.rpartition("_")[2]: path for path in folder.iterdir()}


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_stalled_run_ends_immediately_and_names_the_algorithm_and_the_waiting_workers(clock, tmp_path):
    done = toy("deaf", tmp_path, "--clock", clock)
    assert done.code == 1
    error = done.errors.splitlines()[-1]
    assert "algorithm deaf is stalled" in error
    assert re.search(r"\(Worker_1, Worker_2, Worker_3\) after 3 of \d+ gradients", error)
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert log.status == "partial" and "deaf is stalled" in log.result["reason"]
    assert (len(log.updates), len(log.gradients)) == (0, 3)


@pytest.mark.parametrize("clock", CLOCKS)
def test_releasing_a_worker_that_is_not_waiting_is_a_bug(clock, tmp_path):
    done = toy("rude", tmp_path, "--clock", clock)
    assert done.code == 70
    assert "Traceback" in done.errors and "algorithm rude released Worker_" in done.errors
    assert "this is a bug" in done.errors.splitlines()[-1]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("algorithm", ["pairs", "picky", "turns"])
def test_every_planned_gradient_is_pushed_and_logged(algorithm, clock, tmp_path):
    done = toy(algorithm, tmp_path, "--clock", clock, "--val", "--saves_per_epoch", 3)
    assert done.code == 0, done.errors
    files = files_of(tmp_path)
    log = read_log(files["log"])
    batches = log.header["worker_batches_per_epoch"]
    assert log.status == "complete" and len(log.gradients) == 2 * sum(batches) == log.header["gradients"]
    for worker, planned in enumerate(batches, start=1):
        assert log.gradients.of_worker(worker).step.tolist() == list(range(1, 2 * planned + 1))
    assert [validation.epoch for validation in log.validations] == [1, 2]
    assert len(log.saved_versions) == len(np.load(files["weights"])) == 7
    assert log.saved_versions[-1] == len(log.updates)
    if algorithm == "pairs":
        assert len(log.updates) == len(log.gradients) // 2 and not log.dropped
    elif algorithm == "picky":
        assert log.dropped == len(log.gradients) - len(log.updates) > 0
        assert log.gradients.staleness[log.gradients.dropped].min() > 0 and log.updates.staleness.max() == 0
        assert log.result["dropped_gradients"] == log.dropped
        assert f"{log.dropped} of {len(log.gradients)} gradients dropped" in done.output
    else:
        assert log.updates.staleness.max() <= 4  # no worker is more than one turn ahead of the three others


@pytest.mark.parametrize("algorithm", ["pairs", "picky", "turns"])
def test_a_replay_buffers_drops_and_waits_as_the_run_did(algorithm, tmp_path):
    assert toy(algorithm, tmp_path / "run", "--clock", "wall", "--delay").code == 0
    run = files_of(tmp_path / "run")
    done = toy(algorithm, tmp_path / "again", "--replay", run["log"])
    assert done.code == 0, done.errors
    again = files_of(tmp_path / "again")
    assert weights_of(again) == weights_of(run)
    first, second = (
        [line for line in files["log"].read_text().splitlines() if "  gradient " in line or "  update " in line]
        for files in (run, again)
    )
    assert first == second


def test_figures_and_reports_include_dropped_gradients(tmp_path):
    assert toy("picky", tmp_path, "--clock", "virtual").code == 0
    files = files_of(tmp_path)
    code = (
        "import toys; toys.ALGORITHMS |= toys.TOYS; import test_model; from interface.command_line import run_script; "
        "run_script(test_model.main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(files["model"]), str(files["log"]), "--training_time", "--pics",
         "--subfolder", str(tmp_path)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = read_log(files["log"])
    assert f"{log.dropped} of {len(log.gradients)} gradients dropped" in done.stdout
    assert list(tmp_path.glob("*_training_plots.png"))


def test_workers_that_wait_for_a_dead_worker_continue_also_in_a_replay(tmp_path):
    """Without `leave`, two workers would wait forever for the turn of the third."""
    with LiveRun(tmp_path / "run", "tests/toys.py", "turns", *EASY, "--epochs", 12, "--lr", 0.01) as live:
        os.kill(live.wait_until_training(updates=30)[1], signal.SIGKILL)
        code, _, errors = live.end()
    assert code == 0, errors
    run = files_of(tmp_path / "run")
    log = read_log(run["log"])
    assert log.result["lost_workers"] == ["Worker_2"]
    assert [(loss.worker, loss.how) for loss in log.losses] == [(2, "killed by SIGKILL")]
    done = toy("turns", tmp_path / "again", "--replay", run["log"])
    assert done.code == 0, done.errors
    again = files_of(tmp_path / "again")
    assert weights_of(again) == weights_of(run)
    assert read_log(again["log"]).result["lost_workers"] == ["Worker_2"]
