"""Dry runs: one process plans everything, and what it cannot plan is refused in one line."""

import os
import re
import shutil
import subprocess
import sys

from conftest import ROOT

RUN = "row dist_async.py --dataset digits --seed 1 --subfolder runs"


def serve(*plans: str) -> tuple[list[str], list[str]]:
    """The answers to some requests, and what was complained about."""
    command = [sys.executable, "-m", "scripts.sweep", "--serve"]
    done = subprocess.run(command, input="".join(plans), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_one_process_answers_plan_after_plan(tmp_path):
    flags = f"--summary_dir '{tmp_path}/it'\"'\"'s here'"
    answers, errors = serve(
        f"{flags} --dry_run\n{RUN}\n{RUN} --lr 0.1\n{RUN}\nend\n",
        f"{flags} --names\n{RUN}\nend\n",
        f"{flags} --dry_run --verbose\nend\n",
    )
    assert re.fullmatch("2 runs: 0 done, 2 to do, about .*", answers[0])
    assert answers[1:] == ["end 0", "digits_async_3_100_001_00_32_1_SGD_seed1", "end 0",
                           "0 runs: 0 done, 0 to do", "end 0"]  # fmt: skip
    assert errors == [] and list(tmp_path.iterdir()) == []


def test_a_plan_that_is_refused_leaves_the_others(tmp_path):
    flags = f"--summary_dir {tmp_path}"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/trials.jsonl").write_text("no trial\n")
    answers, errors = serve(
        f"{flags} --dry_run\n{RUN} --lr -1\nend\n",
        f"{flags} --jobs 0\n{RUN}\nend\n",
        f"--summary_dir {tmp_path}/bad --dry_run\n{RUN}\nend\n",
        f"{flags} --names\n{RUN}\nend\n",
    )
    assert answers == ["end 2", "end 2", "end 1", "digits_async_3_100_001_00_32_1_SGD_seed1", "end 0"]
    assert len(errors) == 3
    for error, named in zip(errors, ("--lr", "--jobs", "trials.jsonl, line 1"), strict=True):
        assert "error: " in error and named in error


def test_the_study_is_planned_by_one_process(tmp_path):
    """What it says is what its drivers say when each of them plans by itself."""
    calls = tmp_path / "calls"
    counting = tmp_path / "bin/python3"
    counting.parent.mkdir()
    counting.write_text(f'#!/bin/sh\necho >>"{calls}"\nexec "{sys.executable}" "$@"\n')
    counting.chmod(0o755)
    environment = os.environ | {"PATH": f"{counting.parent}:{os.environ['PATH']}", "VENV": "/nowhere"}

    def ask(driver: str, *words: object) -> str:
        command = ["bash", ROOT / f"scripts/{driver}.sh", "--dry_run", "--verbose", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    for name in ("close_ups", "algorithms/tuning"):
        shutil.copytree(ROOT / "summaries" / name, tmp_path / "rows" / name)
    rows = tmp_path / "rows"
    together = ask(
        "run_study", "--experiments", "close_ups", "algorithms", "partitions", "kfold", "--summary_dir", rows,
        "--results", tmp_path / "r",
    )  # fmt: skip
    assert calls.read_text().count("\n") == 1
    folders = ("--results", tmp_path / "r/close_ups", "--summary_dir", rows / "close_ups")
    flags = ("--clock", "virtual", "--compute_ms", 15, "--plot_dir", "plots/close_ups", "--data_dir", "data")
    alone = ask("run_close_ups", *folders, *flags)
    assert calls.read_text().count("\n") > 2
    said = re.search("==> close_ups\n(.*)\n==> algorithms", together, re.DOTALL)[1]
    assert said == alone and said.count("  # done") == 24, "the files are not here, but the rows and the figures"
    assert re.search("==> kfold\n(.*\n){4}4 runs: 0 done, 4 to do\n$", together)
    assert re.findall(r"^\d+ runs: .* to do", together, re.MULTILINE) == [
        "12 runs: 12 done, 0 to do", "12 runs: 12 done, 0 to do", "75 runs: 75 done, 0 to do",
        "75 runs: 0 done, 75 to do", "90 runs: 0 done, 90 to do", "360 runs: 0 done, 360 to do",
        "4 runs: 0 done, 4 to do",
    ]  # fmt: skip


def test_what_another_module_refuses_is_said_and_the_next_plan_answered():
    answers, errors = serve("module scripts.experiment nothing --dry_run\nend\n", "--dry_run --summary_dir x\nend\n")
    assert answers == ["end 2", "0 runs: 0 done, 0 to do", "end 0"] and len(errors) == 1 and "NAME" in errors[0]
