"""What counts as done: a proof holds for the run, the seed and the flags that it was made from."""

import fcntl
import json
import os
import re
import subprocess
import sys

import pytest

from analysis.reports.trials import Trial
from conftest import ROOT, run, train
from test_drivers import drive, trials_of
from training.record.reader import read_log

RUN = ("--epochs", 2, "--clock", "virtual", "--saves_per_epoch", 2)
TRAIN = ["--dataset", "digits", "--clock", "virtual", "--lr", "0.05", "--subfolder", "runs"]


def done_in(words: str) -> str:
    return re.search(r"^(\d+ runs?, \d+) already done", words, re.MULTILINE)[1]


def test_a_report_is_made_again_for_another_run_of_the_same_name(tmp_path):
    folder = tmp_path / "runs"
    reports = []
    for _ in range(2):  # the same name, other random seeds
        run("dist_async.py", *TRAIN, *RUN, "--subfolder", folder)
        assert done_in(drive("test_model", "runs", cwd=tmp_path)) == "1 run, 0"
        (report,) = folder.glob("*_performance.txt")
        found = re.search(r"Test accuracy: (\S+) %", report.read_text())[1]
        (trial,) = {trial.name: trial for trial in trials_of(folder)}.values()
        assert f"{trial.outcome.test_accuracy:.2f}" == found, "the summary is of the same run"
        reports.append(report.read_text())
    assert reports[0] != reports[1]
    assert done_in(drive("test_model", "runs", cwd=tmp_path)) == "1 run, 1"


def test_a_landscape_is_drawn_again_with_other_flags(tmp_path):
    train("dist_async.py", tmp_path / "runs", *RUN, "--seed", 1, "--momentum", 0)
    for grid, done in ((3, 0), (4, 0), (4, 1)):
        words = drive("loss_landscape", "runs", "--grid_size", grid, "--test_samples", 50, cwd=tmp_path)
        assert done_in(words) == f"1 run, {done}"


def sweep(plan: str, folder) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.sweep", "--summary_dir", str(folder / "runs")]
    return subprocess.run(command, cwd=folder, input=plan, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip


@pytest.mark.parametrize("proof", ["row", "files"])
def test_an_unseeded_run_does_not_pass_for_the_default_seed(proof, tmp_path):
    plain, seeded = (f"{proof} dist_async.py {' '.join(TRAIN)}{seed}\n" for seed in ("", " --seed 42"))
    for plan, done in ((plain, 0), (seeded, 0), (seeded, 1), (plain, 0)):
        ended = sweep(plan, tmp_path)
        assert done_in(ended.stdout) == f"1 run, {done}", ended.stderr
    rows = (tmp_path / "runs/trials.jsonl").read_text().splitlines()
    assert [Trial.parse(row).config.seed for row in rows] == [None, 42, None]


def test_two_sweeps_do_not_work_in_one_folder(tmp_path):
    (tmp_path / "runs").mkdir()
    other = os.open(tmp_path / "runs", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    ended = sweep(f"row dist_async.py {' '.join(TRAIN)} --seed 1\n", tmp_path)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert f"{tmp_path}/runs: another sweep is at work in this folder" in ended.stderr
    assert list((tmp_path / "runs").iterdir()) == []
    os.close(other)
    assert sweep(f"row dist_async.py {' '.join(TRAIN)} --seed 1\n", tmp_path).returncode == 0


def test_a_landscape_that_cannot_be_drawn_is_not_reported_as_written(tmp_path):
    train("dist_async.py", tmp_path / "runs", *RUN, "--seed", 1, "--lr", 50)
    words = drive("loss_landscape", "runs", "--grid_size", 3, cwd=tmp_path)
    nothing = r"^1/1 .*contour.html  nothing written: .*nothing to draw"
    assert re.search(nothing, words, re.MULTILINE)
    (model,) = (tmp_path / "runs").glob("*_model.pt")
    model.with_name(model.name.replace("_model.pt", "_loss_landscape_contour.html")).write_text("of an earlier run")
    for _ in range(2):
        assert re.search(nothing, drive("loss_landscape", "runs", "--grid_size", 3, cwd=tmp_path), re.MULTILINE)


@pytest.mark.parametrize("log_is_there", [True, False])
def test_a_run_that_lost_a_worker_is_repeated(log_is_there, tmp_path):
    plan = f"row dist_async.py {' '.join(TRAIN)} --seed 1\n"
    assert sweep(plan, tmp_path).returncode == 0
    rows = tmp_path / "runs/trials.jsonl"
    (log,) = rows.parent.glob("*.log")
    for path in rows, log:
        path.write_text(re.sub(r'("lost_workers": )(\[\]|"")', lambda found: found[1] + json.dumps(
            ["Worker_1"] if found[2] == "[]" else "Worker_1"), path.read_text()))  # fmt: skip
    assert json.loads(rows.read_text())["outcome"]["lost_workers"] == "Worker_1"
    if not log_is_there:
        log.unlink()
    assert [done_in(sweep(plan, tmp_path).stdout) for _ in range(2)] == ["1 run, 0", "1 run, 1"]
    (trial,) = {trial.name: trial for trial in trials_of(rows.parent)}.values()
    assert trial.outcome.lost_workers == "" and read_log(log).result["lost_workers"] == []


@pytest.mark.parametrize("driver", ["test_model", "loss_landscape"])
def test_a_folder_without_runs_is_named(driver, tmp_path):
    (tmp_path / "empty").mkdir()
    words = drive(driver, "empty", cwd=tmp_path, code=1)
    assert words.endswith("conclude.py: error: empty: no complete run to summarise\n") and words.count("\n") == 2


def test_runs_in_a_folder_whose_name_says_partial(tmp_path):
    train("dist_async.py", tmp_path / "runs_partial2", *RUN, "--seed", 1)
    words = drive("test_model", "runs_partial2", cwd=tmp_path)
    assert done_in(words) == "1 run, 0" and "Summary of 1 run " in words


@pytest.mark.parametrize("driver", ["test_model", "loss_landscape"])
def test_results_go_where_they_are_asked_for(driver, tmp_path):
    train("dist_async.py", tmp_path / "runs", *RUN, "--seed", 1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    grid = ["--grid_size", 3] if driver == "loss_landscape" else []
    drive(driver, "runs", *grid, "--results", "out", cwd=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == before
    assert {"report.html", "summary.md", "trials.jsonl"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_files_of_two_containers_have_different_names(tmp_path):
    """Each container has its own process ids, so that both trainings can have the same one."""
    script = "import nonDistributed as script; from interface.command_line import run_script; run_script(script.main)"
    code = f"import os; os.getpid = lambda: 7; {script}"
    command = [sys.executable, "-c", code, "--dataset", "digits", "--lr", "0.05", "--seed", "1", "--subfolder", "runs"]
    both = [subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]  # fmt: skip
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    from training.record.reader import read_log

    files = sorted((tmp_path / "runs").iterdir())
    assert len(files) == 2, files
    (log,) = (tmp_path / "runs").glob("*_log.log")
    assert read_log(log).status == "complete"
