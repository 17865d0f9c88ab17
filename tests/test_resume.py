"""Interrupted runs continue from their last checkpoint, to the same bits as if nothing had happened."""

import math
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import common
from conftest import ROOT, run, train, weights_of
from interface.errors import DataError
from live_run import LiveRun
from training.algorithms import ALGORITHMS
from training.checkpoints import Checkpoints
from training.config import RunConfig
from training.engines import virtual
from training.engines.rpc.coordinator import Coordinator, shared_settings
from training.engines.rpc.mailbox import OnTheWire
from training.observer import Observer
from training.plan import make_plan
from training.protocol import Push
from training.record.reader import read_log
from training.record.resume import find_checkpoint
from training.record.writer import Record

KILLS = int(os.environ.get("RESUME_KILLS", "1"))  # per case
VARIABLE = re.compile(r'"(real_seconds|paused_seconds)": [^,}]*|"resumed_after": \[[^]]*\]')


class PowerFailure(Exception):
    """Ends a run in the middle of an update."""


def train_here(
    folder: Path, fails_at: float | None = None, resume: bool = False, **settings
) -> tuple[torch.Tensor, str]:
    """A short run on the virtual clock in this process: its parameters, and its log without the header.

    fails_at: the update that is lost; infinity: none, but the end of the run.
    """
    config = RunConfig(dataset="digits", train_split=0.2, lr=0.02, clock="virtual", seed=4, subfolder=str(folder),
                       resume=resume, **{"epochs": 3, "checkpoint_every": 5} | settings)  # fmt: skip
    resumed = find_checkpoint(config)
    dataset = common.load_dataset("digits", "unused")
    plan = make_plan(config, config.seed, dataset.train)
    model = common.build_model("digits", config.network_name, config.seed)
    algorithm = plan.algorithm(model)
    with Record(plan, "virtual", resumed) as record, Observer(plan, model, record, dataset) as observer:
        checkpoints = Checkpoints(plan, model, algorithm.server.optimizer, observer, resumed)
        update = observer.update

        def fail(seconds, done):
            if done.version == fails_at:
                raise PowerFailure
            update(seconds, done)

        observer.update = fail
        virtual.train(plan, dataset.train, algorithm, observer, checkpoints)
        if fails_at == math.inf:
            raise PowerFailure
        observer.finish()
    (log,) = folder.glob("*_log.log")
    lines = log.read_text().splitlines()[1:]
    return model.parameters, "\n".join(VARIABLE.sub("", line) for line in lines)


CASES = {
    **{name: {"mode": rule.mode, "algorithm": name, "world_size": 5} for name, rule in ALGORITHMS.items()},
    "compensation": {"mode": "async", "world_size": 4, "compensation": True, "compensation_mode": "adaptive"},
    "momentum": {"mode": "async", "world_size": 4, "momentum": 0.9, "lrs": "exponential", "val": True},
    "dana with momentum": {"mode": "async", "algorithm": "dana", "momentum": 0.9, "world_size": 4},
    "Adam": {"mode": "async", "world_size": 3, "alr": True, "lrs": "cosine_annealing", "saves_per_epoch": 3},
    "dropout": {"mode": "async", "world_size": 3, "alt_model": True, "epochs": 1, "evals_per_epoch": 2},
    "local steps": {"mode": "async", "world_size": 3, "local_steps": 2, "epochs": 6},
    "snapshots outlive their rate": {
        "mode": "async",
        "algorithm": "fedbuff",
        "buffer_size": 5,
        "world_size": 5,
        "local_steps": 2,
        "lrs": "cosine_annealing",
        "epochs": 6,
    },
    "one worker": {"mode": "async", "world_size": 2},
    "labels": {"mode": "async", "world_size": 6, "partition": "split_labels_unscaled", "slow_worker_1": True},
    "total": {"mode": "async", "world_size": 4, "stop": "total", "compute_time": "pareto:1.5"},
    "sync": {"mode": "sync", "world_size": 4, "momentum": 0.9, "delay": True, "val": True},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_resumes_to_the_same_bits_on_the_virtual_clock(case, tmp_path):
    settings = CASES[case]
    whole, log = train_here(tmp_path / "whole", **settings)
    updates = len(re.findall(r"  update ", log))
    draw = random.Random(case)
    for attempt in range(KILLS):
        folder = tmp_path / str(attempt)
        with pytest.raises(PowerFailure):
            train_here(folder, draw.randint(6, updates), **settings)
        if attempt % 2:  # interrupted twice
            with pytest.raises(PowerFailure):
                train_here(folder, updates, resume=True, **settings)
        (checkpoint,) = folder.glob("*_checkpoint.pt")
        checkpoint.with_suffix(".new").write_bytes(b"cut")  # as if killed while it wrote the next one
        parameters, resumed_log = train_here(folder, resume=True, **settings)
        assert torch.equal(parameters, whole)
        assert resumed_log == log
        (path,) = folder.glob("*_log.log")
        assert read_log(path).result["resumed_after"][0] >= 5
        assert not list(folder.glob("*partial*"))


@pytest.mark.parametrize("case", ["malenia", "fedbuff", "momentum", "total", "sync", "first"])
def test_a_run_resumes_after_its_last_gradient(case, tmp_path):
    settings = CASES.get(case, {"mode": "async", "world_size": 4, "stop": "first", "slow_worker_1": True})
    whole, log = train_here(tmp_path / "whole", **settings, checkpoint_every=1)
    with pytest.raises(PowerFailure):
        train_here(tmp_path, math.inf, **settings, checkpoint_every=1)
    parameters, resumed_log = train_here(tmp_path, resume=True, **settings, checkpoint_every=1)
    assert torch.equal(parameters, whole)
    assert resumed_log == log
    assert not list(tmp_path.glob("*partial*"))


RATE = ("--lr", 0.02, "--momentum", 0.9)
LONG = ("--epochs", 20, "--seed", 7, "--checkpoint_every", 10, "--train_split", 0.3)
COMMANDS = {
    "classic": ("nonDistributed.py",),
    "classic with dropout": ("nonDistributed.py", "--alt_model", "--epochs", 4, "--threads", 1),
    "sync": ("dist_sync.py", "--split_dataset", "--delay", "--delay_ms", 2, "--saves_per_epoch", 2),
    "sync with dropout": ("dist_sync.py", "--alt_model", "--epochs", 4),
    "sync, virtual": ("dist_sync.py", "--clock", "virtual", "--world_size", 5),
    "async, virtual": ("dist_async.py", "--clock", "virtual", "--world_size", 5, "--alr"),
}


def kill(folder: Path, command: tuple, updates: int, flags: tuple = LONG) -> None:
    """Start a run and kill its processes with SIGKILL after so many updates."""
    with LiveRun(folder, command[0], "--dataset", "digits", *RATE, *flags, *command[1:]) as live:
        live.wait_until_training(updates)
        os.kill(live.process.pid, signal.SIGKILL)
        live.end()


@pytest.mark.parametrize("case", COMMANDS)
def test_a_killed_run_resumes_to_the_same_bits(case, tmp_path):
    command = COMMANDS[case]
    whole = train(command[0], tmp_path / "whole", *RATE, *LONG, *command[1:])
    updates = len(read_log(whole["log"]).updates)
    draw = random.Random(case)
    for attempt in range(KILLS):
        folder = tmp_path / str(attempt)
        kill(folder, command, draw.randint(11, min(60, updates - 10)))
        assert list(folder.glob("*_checkpoint.pt")), sorted(folder.iterdir())
        done = run(command[0], "--dataset", "digits", *RATE, *LONG, *command[1:], "--resume",
                   "--subfolder", folder)  # fmt: skip
        again = {path.stem.rpartition("_")[2]: path for path in folder.iterdir()}
        assert again.keys() == whole.keys(), done.stdout
        assert weights_of(again) == weights_of(whole)
        first, second = read_log(whole["log"]), read_log(again["log"])
        assert np.array_equal(first.updates.weight_norm, second.updates.weight_norm)
        assert second.status == "complete"
        assert second.result["resumed_after"][0] >= 10
        if "weights" in whole:
            assert again["weights"].read_bytes() == whole["weights"].read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("case", ["classic", "sync", "async, virtual", "async"])
def test_an_interrupted_run_loses_nothing(case, number, tmp_path):
    script, *own = COMMANDS.get(case, ("dist_async.py", "--world_size", 4, "--split_dataset"))
    epochs = 15 if "virtual" in case else 60  # four workers, each on all samples
    folder, flags = tmp_path / "runs", (*RATE, "--epochs", epochs, "--seed", 7, "--train_split", 0.3, *own)
    with LiveRun(folder, script, "--dataset", "digits", *flags) as live:
        live.wait_until_training(40)
        live.process.send_signal(number)
        code, _, errors = live.end()
    assert code == 130 and "_checkpoint.pt" in errors, errors
    (path,) = folder.glob("*_log.log")
    before, reached = path.read_text().splitlines()[1:-1], len(read_log(path).updates)
    again = train(script, folder, *flags, "--resume")
    log = read_log(again["log"])
    assert log.status == "complete" and log.result["resumed_after"] == [reached]
    assert again["log"].read_text().splitlines()[1 : len(before) + 1] == before
    if case in COMMANDS:
        assert weights_of(again) == weights_of(train(script, tmp_path / "whole", *flags))


def test_only_a_repeated_interruption_ends_a_run_between_two_updates():
    held, checkpoints = [], object.__new__(Checkpoints)
    checkpoints._interrupted = set()
    with pytest.raises(KeyboardInterrupt), checkpoints.interruptible():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
            held.append(number)
    assert held == [signal.SIGINT, signal.SIGTERM]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    checkpoints._interrupted = set()
    with pytest.raises(KeyboardInterrupt), checkpoints.interruptible():
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(60)  # an update that does not come


def test_a_synchronous_run_resumes_amid_a_round_to_the_same_running_statistics(tmp_path):
    command = ("tests/normalised.py", "--world_size", 4, "--split_dataset", "--threads", 1)
    flags, models = ("--epochs", 20, "--seed", 7, "--train_split", 0.3), []
    for folder in (tmp_path / "whole", tmp_path / "resumed"):
        if folder.name == "resumed":
            kill(folder, command, 20, flags)
        run(*command, "--dataset", "digits", *RATE, *flags, "--resume", "--subfolder", folder)
        models.append(torch.load(*folder.glob("*_model.pt"), weights_only=True))
    assert "1.running_mean" in models[0]
    assert all(torch.equal(models[1][name], value) for name, value in models[0].items())


def test_an_asynchronous_run_on_the_wall_clock_goes_on_from_the_state_it_had(tmp_path):
    command = ("dist_async.py", "--split_dataset", "--world_size", 4)
    kill(tmp_path, command, 40)
    (before,) = tmp_path.glob("*_log.log")
    logged = before.read_text().splitlines()
    run(*command, "--dataset", "digits", *RATE, *LONG, "--resume", "--subfolder", tmp_path)
    (path,) = tmp_path.glob("*_log.log")
    log = read_log(path)
    (after,) = log.result["resumed_after"]
    assert after >= 30
    lines = path.read_text().splitlines()
    assert lines[1 : after + 1] == logged[1 : after + 1]
    assert log.status == "complete" and len(log.updates) == log.header["updates"]
    assert (log.updates.seconds[1:] >= log.updates.seconds[:-1]).all()
    (model,) = tmp_path.glob("*_model.pt")
    for folder in (tmp_path / "again", tmp_path / "again/and_again"):  # the replay, and the replay of that
        run("dist_async.py", "--replay", path, "--subfolder", folder)
        (path,), (again,) = folder.glob("*_log.log"), folder.glob("*_model.pt")
        weights, repeated = (torch.load(one, weights_only=True) for one in (model, again))
        assert all(torch.equal(repeated[name], value) for name, value in weights.items())


def test_a_sweep_resumes_the_run_in_which_it_was_interrupted(tmp_path):
    flags = ("--dataset", "digits", *RATE, *LONG)
    kill(tmp_path, ("nonDistributed.py",), 30)
    plan = shlex.join(map(str, ("row", "nonDistributed.py", *flags, "--subfolder", tmp_path)))
    command = [sys.executable, "-m", "scripts.sweep", "--summary_dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, input=plan, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = tmp_path.glob("*_log.log")
    assert read_log(log).result["resumed_after"][0] >= 30


def test_what_cannot_be_resumed(tmp_path):
    command = ("nonDistributed.py", "--dataset", "digits", *RATE, *LONG)
    fresh = run(*command, "--resume", "--epochs", 1, "--subfolder", tmp_path / "fresh")
    assert "no interrupted run with these settings" in fresh.stderr

    kill(tmp_path / "runs", ("nonDistributed.py",), 30)
    other = run(*command, "--lr", 0.01, "--epochs", 1, "--resume", "--subfolder", tmp_path / "runs")
    assert "no interrupted run with these settings" in other.stderr

    (checkpoint,), (log,) = (list((tmp_path / "runs").glob(f"*_partial*{end}")) for end in ("_checkpoint.pt", ".log"))
    content, text = checkpoint.read_bytes(), log.read_bytes()

    def refused(expected: str) -> None:
        done = run(*command, "--resume", "--subfolder", tmp_path / "runs", check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert expected in done.stderr

    other = run(*command, "--threads", 5, "--resume", "--subfolder", tmp_path / "runs", check=False)
    assert other.returncode == 2 and "--threads 5 conflicts with the interrupted run" in other.stderr

    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"device": "cuda"}, checkpoint)
    other = run(*command, "--resume", "--subfolder", tmp_path / "runs", check=False)
    assert other.returncode == 2 and "--device cpu conflicts with the interrupted run" in other.stderr
    torch.save(state | {"tf32": True}, checkpoint)
    other = run(*command, "--resume", "--subfolder", tmp_path / "runs", check=False)
    assert other.returncode == 2 and "no --tf32 conflicts with the interrupted run" in other.stderr
    torch.save(state | {"format": 99}, checkpoint)
    refused("written in format 99")
    torch.save(state | {"torch": "1.0"}, checkpoint)
    refused("with torch 1.0")
    torch.save(state | {"data": "0" * 16}, checkpoint)
    refused("trained on other data")
    torch.save([1], checkpoint)
    refused("not a checkpoint")
    checkpoint.write_bytes(content[:1000])
    refused("not a checkpoint")
    checkpoint.write_bytes(content)
    log.write_bytes(text[:500])
    refused("shorter than when its checkpoint was written")
    log.unlink()
    refused("missing")
    log.write_bytes(text)
    assert "Finished" in run(*command, "--resume", "--subfolder", tmp_path / "runs").stdout


@pytest.mark.parametrize(("keep", "message"), [(2000, "shorter than when its checkpoint"), (20, "damaged")])
def test_a_run_whose_saved_weights_are_cut_is_not_resumed(keep, message, tmp_path):
    command = ("nonDistributed.py", "--saves_per_epoch", 5)
    kill(tmp_path, command, 40)
    (weights,) = tmp_path.glob("*_partial*_weights.npy")
    weights.write_bytes(weights.read_bytes()[:keep])
    done = run(*command, "--dataset", "digits", *RATE, *LONG, "--resume", "--subfolder", tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1) and message in done.stderr


def test_a_run_that_another_process_resumes_at_the_same_moment_is_refused(tmp_path):
    kill(tmp_path, ("nonDistributed.py",), 30)
    config = RunConfig(mode="classic", dataset="digits", lr=0.02, momentum=0.9, seed=7, epochs=20, train_split=0.3,
                       resume=True, checkpoint_every=10, subfolder=str(tmp_path))  # fmt: skip
    resumed = find_checkpoint(config)
    plan = make_plan(config, resumed.seed, common.load_dataset("digits", "unused").train)
    lock = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(); input()"
    (log,) = tmp_path.glob("*_partial*_log.log")
    before = log.read_bytes()
    with subprocess.Popen([sys.executable, "-c", lock, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # it holds the lock
        with pytest.raises(DataError, match="another process has resumed this run"):
            Record(plan, "wall", resumed)
        other.communicate(b"\n")
    assert log.read_bytes() == before


@pytest.mark.parametrize("rejoined", [{1, 2}, set()], ids=["rejoined", "none has rejoined"])
@pytest.mark.parametrize("algorithm", ["ssp", "asgd"])
def test_a_worker_is_lost_before_the_others_have_rejoined(algorithm, rejoined, tmp_path):
    """Its loss releases those that wait for it; they fetch once all are there, and the log is readable."""
    settings = {"algorithm": algorithm} | ({"slack": 0} if algorithm == "ssp" else {})

    def start(resume: bool):
        config = RunConfig(mode="async", dataset="digits", world_size=4, seed=4, train_split=0.3, epochs=1,
                           checkpoint_every=1, resume=resume, subfolder=str(tmp_path), **settings)  # fmt: skip
        resumed, dataset = find_checkpoint(config), common.load_dataset("digits", "unused")
        plan, model = make_plan(config, 4, dataset.train), common.build_model("digits", "LeNet5", 4)
        algorithm, record = plan.algorithm(model), Record(plan, "wall", resumed)
        observer = Observer(plan, model, record, dataset)
        checkpoints = Checkpoints(plan, model, algorithm.server.optimizer, observer, resumed)
        mailboxes = dict.fromkeys(plan.steps, OnTheWire())
        return record, observer, Coordinator(plan, algorithm, observer, checkpoints, mailboxes), shared_settings(plan)

    def exchange(coordinator: Coordinator, worker: int, step: int, version: int):
        gradient = torch.zeros_like(coordinator.dispatcher.algorithm.server.parameters)
        return coordinator.exchange(Push(worker, step, version, 1.0, gradient, gradient[:0]))

    record, observer, coordinator, same = start(resume=False)
    with observer:
        for worker in (1, 2, 3):
            coordinator.join(worker, same)
        observer.paused_seconds += 5  # an evaluation; the clock of the run stood still
        coordinator._start -= 5
        for worker in (1, 2):
            exchange(coordinator, worker, 1, 0)
    record._log.close()  # as if killed

    record, observer, coordinator, same = start(resume=True)
    with observer:
        answers = {worker: coordinator.join(worker, same) for worker in rejoined}
        coordinator.lose(3, "killed by SIGKILL")
        answers |= {worker: coordinator.join(worker, same) for worker in {1, 2} - rejoined}
        assert coordinator.error is None
        answers[3] = coordinator.join(3, same)
        assert all(answer.done() for answer in answers.values())
        assert [answers[worker].value().version for worker in (1, 2)] == [2, 2]
        assert "continues without this worker" in answers[3].value().reason
        exchange(coordinator, 1, 2, 2)
    record._log.close()
    (log,) = map(read_log, tmp_path.glob("*_log.log"))
    assert [loss.worker for loss in log.losses] == [3] and len(log.updates) == 3


def test_a_failure_after_the_end_leaves_the_run_complete(tmp_path, monkeypatch):
    """The terminal may be gone when the paths of the files are printed."""

    def show(text="", **options):
        if str(text).startswith("Finished"):
            raise BrokenPipeError

    monkeypatch.setattr("builtins.print", show)
    with pytest.raises(BrokenPipeError):
        train_here(tmp_path, mode="async", world_size=3, epochs=1)
    assert sorted(path.name.rpartition("_")[2] for path in tmp_path.iterdir()) == ["log.log", "model.pt"]
    assert not list(tmp_path.glob("*_partial*"))


def test_a_run_that_is_still_going_on_is_not_resumed(tmp_path):
    config = RunConfig(mode="classic", dataset="digits", epochs=300, seed=7, resume=True, subfolder=str(tmp_path))
    flags = ("--dataset", "digits", "--seed", 7, "--epochs", 300, "--checkpoint_every", 5)
    with LiveRun(tmp_path, "nonDistributed.py", *flags) as live:
        live.wait_until_training(30)
        assert find_checkpoint(config) is None
        live.kill()
        live.end()
    assert find_checkpoint(config).state["updates"] >= 30
