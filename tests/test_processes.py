"""Real processes: they end together, tolerate lost workers where possible, and listen only on loopback."""

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from conftest import ROOT, train, weights_of
from interface.processes import FORK, available_cores
from live_run import LiveRun, listening_addresses
from training.record.reader import read_log

LONG = ("--dataset", "digits", "--epochs", "500", "--seed", "1")  # defaults, which a test may override


needs_cores = pytest.mark.skipif(available_cores() == 1, reason="on one core, the virtual clock needs no processes")


@pytest.fixture
def start(tmp_path):
    runs = []

    def start(script: str, *arguments: object) -> LiveRun:
        runs.append(LiveRun(tmp_path, script, *LONG, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def wait_until_gone(pids: list[int], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "processes are still running"
        time.sleep(0.01)


def partial_files(folder: Path) -> dict[str, Path]:
    assert all("_partial" in path.name for path in folder.iterdir()), list(folder.iterdir())
    return {path.stem.rpartition("_")[2]: path for path in folder.iterdir()}


def test_async_continues_without_a_dead_worker(start, tmp_path):
    run = start("dist_async.py", "--world_size", 4, "--epochs", 15, "--split_dataset")
    workers = run.wait_until_training()
    os.kill(workers[1], signal.SIGKILL)
    code, _, error = run.end()
    assert code == 0, error
    assert "Worker_2 was lost (killed by SIGKILL): continuing without it" in error
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert (log.result["status"], log.result["lost_workers"]) == ("complete", ["Worker_2"])
    of_workers = [len(log.updates.of_worker(worker)) for worker in (1, 2, 3)]
    assert of_workers[0] == of_workers[2] == 15 * 15 > of_workers[1]
    wait_until_gone(workers)


def test_sync_ends_when_a_worker_dies(start, tmp_path):
    run = start("dist_sync.py", "--world_size", 4)
    workers = run.wait_until_training()
    os.kill(workers[2], signal.SIGKILL)
    code, _, error = run.end(timeout=10)
    assert code == 1
    assert "error: Worker_3 was lost (killed by SIGKILL)" in error.splitlines()[-1]
    files = partial_files(tmp_path)
    assert read_log(files["log"]).result["status"] == "partial"
    assert len(torch.load(files["model"], weights_only=True)) == 10
    wait_until_gone(workers)


@pytest.mark.parametrize("victims", [(0,), (2,), (0, 1)])
def test_async_continues_without_workers_that_die_at_start_up(victims, start, tmp_path):
    run = start("dist_async.py", "--world_size", 4, "--epochs", 2, "--split_dataset")
    workers = run.wait_for_workers(3)
    for victim in victims:
        os.kill(workers[victim], signal.SIGKILL)
    code, _, error = run.end()
    assert code == 0, error
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert log.result["status"] == "complete"
    assert sorted(log.result["lost_workers"]) == [f"Worker_{victim + 1}" for victim in victims]
    assert set(log.updates.worker) == {1, 2, 3} - {victim + 1 for victim in victims}
    wait_until_gone(workers)


def test_sync_ends_when_a_worker_dies_at_start_up(start):
    run = start("dist_sync.py", "--world_size", 4)
    workers = run.wait_for_workers(3)
    os.kill(workers[1], signal.SIGKILL)
    code, _, error = run.end(timeout=10)
    assert code == 1
    assert "error: Worker_2 was lost (killed by SIGKILL)" in error.splitlines()[-1]
    wait_until_gone(workers)


def test_workers_end_if_the_launcher_dies_at_start_up(start):
    run = start("dist_async.py", "--world_size", 4)
    workers = run.wait_for_workers(3)
    run.kill()
    wait_until_gone(workers)


def test_async_completes_when_a_worker_dies_in_the_last_updates(start, tmp_path):
    run = start("dist_async.py", "--world_size", 3, "--epochs", 1, "--split_dataset", "--delay", "--delay_type",
                "constant", "--delay_ms", 100)  # fmt: skip
    workers = run.wait_until_training(updates=2 * 23 - 8)
    os.kill(workers[0], signal.SIGKILL)
    code, _, error = run.end()
    assert code == 0, error
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert log.result["lost_workers"] == ["Worker_1"]
    assert len(log.updates.of_worker(1)) < 23 == len(log.updates.of_worker(2))
    wait_until_gone(workers)


@pytest.mark.parametrize("script", ["dist_async.py", "dist_sync.py"])
def test_a_run_waits_for_a_stopped_worker(script, start, tmp_path):
    run = start(script, "--world_size", 3, "--epochs", 10, "--split_dataset")
    workers = run.wait_until_training()
    os.kill(workers[1], signal.SIGSTOP)
    assert run.wait_for_message() == f"{script}: warning: Worker_2 is stopped (SIGSTOP): waiting for it\n"
    assert run.process.poll() is None
    os.kill(workers[1], signal.SIGCONT)
    code, _, error = run.end()
    assert code == 0, error
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert (log.result["status"], log.result["lost_workers"]) == ("complete", [])
    assert len(log.warnings) == 1
    assert len(log.gradients) == 10 * 46
    wait_until_gone(workers)


def test_async_ends_when_all_workers_die(start):
    run = start("dist_async.py", "--world_size", 3)
    for worker in run.wait_until_training():
        os.kill(worker, signal.SIGKILL)
    code, _, error = run.end(timeout=10)
    assert code == 1 and "the last one" in error.splitlines()[-1]


@pytest.mark.parametrize("script", ["dist_async.py", "dist_sync.py"])
def test_workers_end_with_their_server(script, start, tmp_path):
    run = start(script, "--world_size", 4)
    workers = run.wait_until_training()
    run.kill()
    wait_until_gone(workers)
    assert len(read_log(partial_files(tmp_path)["log"]).updates) >= 20


@pytest.mark.parametrize("script", ["nonDistributed.py", "dist_async.py", "dist_sync.py"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_everything(script, number, start, tmp_path):
    run = start(script)
    workers = run.wait_until_training()
    run.process.send_signal(number)
    code, _, error = run.end(timeout=10)
    assert code == 130
    assert error.splitlines()[-1] == f"{script}: error: interrupted"
    wait_until_gone(workers)
    files = partial_files(tmp_path)
    assert read_log(files["log"]).result["reason"] == "KeyboardInterrupt"
    assert torch.load(files["model"], weights_only=True)


def test_interruption_on_the_virtual_clock(start, tmp_path):
    run = start("dist_async.py", "--clock", "virtual", "--world_size", 101)
    processes = run.wait_until_training()
    run.process.send_signal(signal.SIGINT)
    code, _, errors = run.end(timeout=10)
    assert code == 130, errors
    assert read_log(partial_files(tmp_path)["log"]).result["status"] == "partial"
    wait_until_gone(processes)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("dist_sync.py", "--clock", "virtual", "--world_size", 3), marks=needs_cores),
        ("dist_async.py", "--world_size", 3),
        ("kfold.py", "--k_splits", 2, "--jobs", 2),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_interruption_in_the_middle_of_a_fork_is_not_lost(arguments, tmp_path):
    interrupt = "os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))"
    (tmp_path / "sitecustomize.py").write_text(f"import os, signal\n{interrupt}\n")
    script, *flags = arguments
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), *LONG[:2], *map(str, flags)], cwd=tmp_path, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # none of its processes is left
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and errors.splitlines()[-1] == f"{script}: error: interrupted", errors
    assert "ignored" not in errors


@needs_cores
def test_a_computing_process_that_is_killed_ends_the_run(start, tmp_path):
    run = start("dist_sync.py", "--clock", "virtual", "--world_size", 11)
    processes = run.wait_until_training()
    assert len(processes) == min(10, available_cores())
    os.kill(processes[0], signal.SIGKILL)
    code, _, errors = run.end(timeout=10)
    assert code == 1
    assert errors.splitlines()[-1] == (
        "dist_sync.py: error: a process that computes gradients ended: killed by SIGKILL"
    )
    assert read_log(partial_files(tmp_path)["log"]).result["status"] == "partial"
    wait_until_gone(processes)


@needs_cores
def test_computing_processes_end_with_the_run(start):
    run = start("dist_async.py", "--clock", "virtual", "--world_size", 11)
    processes = run.wait_until_training()
    run.kill()
    wait_until_gone(processes)


def test_a_local_run_listens_only_on_loopback(start):
    run = start("dist_async.py", "--world_size", 3)
    workers = run.wait_until_training()
    addresses = listening_addresses([run.process.pid, *workers])
    assert addresses <= {"0100007F", "00000000000000000000000001000000"}
    assert addresses, "RPC must listen on some address: this test misses it"


def test_simultaneous_runs_do_not_interfere(nursery, tmp_path):
    """Ten runs in one folder, in pairs of the same name: all complete, and leave only their final files."""
    folder, temporary = tmp_path / "runs", tmp_path / "temporary"
    temporary.mkdir()
    flags = ("--dataset", "digits", "--subfolder", folder)
    surroundings = {"folder": temporary, "variables": {"TMPDIR": str(temporary)}, "timeout": 120}
    runs = [nursery.start("dist_async.py", *flags, "--seed", seed, **surroundings) for seed in (1, 2, 3, 4, 5) * 2]
    for run in runs:
        assert run.wait(120).code == 0, run.errors.read_text()
    assert len(list(folder.iterdir())) == 5 * 2
    assert {read_log(path).result["status"] for path in folder.glob("*.log")} == {"complete"}
    assert list(temporary.iterdir()) == []


def test_more_processes_than_cores(tmp_path):
    done = train("dist_async.py", tmp_path, "--world_size", 41, "--split_dataset", "--seed", 2)
    assert len(read_log(done["log"]).updates) == 80


def test_a_public_group_replaces_the_star_where_torch_lacks_its_parts(nursery, tmp_path):
    flags = ("--dataset", "digits", "--world_size", 3, "--seed", 1, "--split_dataset")
    ended = nursery.run("tests/without_star.py", "dist_sync.py", *flags, "--subfolder", tmp_path / "group", timeout=120)
    assert ended.code == 0, ended.errors
    (model,) = (tmp_path / "group").glob("*_model.pt")
    with_star = train("dist_sync.py", tmp_path / "star", *flags, "--lr", 0.01, "--momentum", 0)
    assert weights_of({"model": model}) == weights_of(with_star)


def page_faults_of_collection() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_garbage_collection_in_a_forked_process_copies_no_objects():
    objects = [[] for _ in range(1_000_000)]  # about 18,000 pages, each with objects that collection would write to
    with FORK.Pool(1) as pool:
        assert pool.apply_async(page_faults_of_collection).get(timeout=60) < 5000
    gc.unfreeze()
    assert len(objects) == 1_000_000
