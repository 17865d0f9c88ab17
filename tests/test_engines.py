"""Different engines must agree, bit for bit where possible."""

import itertools
import json
import re
import signal
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import common
from conftest import run, train, weights_of
from interface.processes import available_cores
from live_run import LiveRun
from training.algorithms import ALGORITHMS
from training.config import RunConfig
from training.engines.dispatcher import RunShape
from training.engines.gradients import OwnGradients
from training.engines.processes import ProcessGradients
from training.engines.shared_memory import SharedRows
from training.engines.virtual import simulate
from training.plan import make_plan
from training.protocol import Snapshot
from training.record.reader import read_log

EASY = ("--epochs", 2, "--seed", 3)


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """Runs of nonDistributed.py with three configurations, each on one core and on all cores."""
    folder = tmp_path_factory.mktemp("control")
    return {
        (options, cores): weights_of(train("nonDistributed.py", folder / str(cores), *EASY, *options, cores=cores))
        for cores in (1, None)
        for options in ((), ("--lrs", "cosine_annealing", "--val"), ("--alr", "--alt_model"))
    }


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("script", ["dist_sync.py", "dist_async.py"])
def test_one_worker_is_the_control(script, clock, control, tmp_path):
    """Step 1: with one worker, distributed training equals plain SGD, bit for bit."""
    for (options, cores), expected in control.items():
        if (cores == 1 and clock == "wall") or (cores is None and clock == "virtual"):
            continue  # a gradient uses one thread on the virtual clock, otherwise all cores
        if options and clock == "wall" and script == "dist_sync.py":
            continue  # same processes as in dist_async.py
        done = train(script, tmp_path, *EASY, *options, "--world_size", 2, "--clock", clock)
        assert weights_of(done) == expected, options


def test_control_depends_on_its_settings(control):
    assert len({expected for (_, cores), expected in control.items() if cores == 1}) == 3


def test_the_number_of_cores_does_not_affect_the_virtual_clock(tmp_path):
    for world_size in (2, 4):
        flags = (*EASY, "--world_size", world_size, "--clock", "virtual", "--split_dataset")
        runs = [train("dist_async.py", tmp_path / str(cores), *flags, cores=cores) for cores in (1, None)]
        assert weights_of(runs[0]) == weights_of(runs[1])
        assert {read_log(done["log"]).header["threads_per_gradient"] for done in runs} == {1}


def test_sync_is_one_worker_with_a_larger_batch():
    """Step 2: K workers equal one worker with their concatenated batches, up to rounding."""
    digits = common.load_dataset("digits", "unused").train
    config = RunConfig(mode="sync", dataset="digits", world_size=4, partition="split_dataset", batch_size=16, lr=0.05)
    plan = make_plan(config, 11, digits)
    model, joint = (common.build_model("digits", "LeNet5", seed=11) for _ in range(2))
    algorithm = plan.algorithm(model)
    workers = [plan.worker(number) for number in plan.steps]
    twins = [plan.worker(number) for number in plan.steps]
    scratch = common.build_model("digits", "LeNet5")
    for _ in range(20):
        pushes = [worker.compute(algorithm.fetch(worker.number), scratch, digits) for worker in workers]
        outcomes = [algorithm.push(push) for push in pushes]
        assert [outcome.released for outcome in outcomes] == [(), (), (1, 2, 3)]

        batches = torch.cat([next(twin._batches)[0] for twin in twins])
        images, labels = digits.batch(batches)
        joint.gradients.zero_()
        F.nll_loss(joint.network(images), labels).backward()
        joint.parameters.sub_(config.lr * joint.gradients)
    torch.testing.assert_close(model.parameters, joint.parameters, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("flags", [("--split_dataset", "--delay"), ("--split_labels", "--alt_model", "--val")])
def test_sync_on_both_clocks(flags, tmp_path):
    """Step 3: synchronous training does not depend on the order of arrival, bit for bit."""
    wall, virtual = (
        train("dist_sync.py", tmp_path, *EASY, *flags, "--world_size", 3, "--clock", clock)
        for clock in ("wall", "virtual")
    )
    assert weights_of(wall) == weights_of(virtual)
    logs = [read_log(run["log"]) for run in (wall, virtual)]
    assert [log.clock for log in logs] == ["wall", "virtual"]
    assert [a.val_loss for a in logs[0].validations] == [a.val_loss for a in logs[1].validations]
    assert np.array_equal(logs[0].updates.loss, logs[1].updates.loss)


class Recorder:
    """A listener that stores the updates."""

    def __init__(self):
        self.updates = []

    def push(self, seconds, push, outcome):
        staleness = outcome.update and outcome.update.staleness
        self.updates.append((round(seconds * 1000), push.worker, staleness))

    def update(self, seconds, update):
        pass

    def leave(self, seconds, worker):
        pass

    def end(self, rule):
        self.ended_by = rule


def run_schedule(durations_ms: dict[int, float], steps: int, processes: int = 0, **settings):
    """A run on the virtual clock with constant compute times; processes: 0 for this one."""
    digits = common.load_dataset("digits", "unused").train
    settings = {"mode": "async", "dataset": "digits", "world_size": len(durations_ms) + 1, "lr": 0.05} | settings
    config = RunConfig(**settings)
    plan = make_plan(config, 5, digits)
    model = common.build_model("digits", config.network_name, 5)
    recorder = Recorder()
    algorithm = plan.algorithm(model)
    shape = RunShape(config.algorithm, dict.fromkeys(durations_ms, steps))
    times = {worker: itertools.repeat(ms) for worker, ms in durations_ms.items()}
    own = nullcontext(OwnGradients(plan, digits))
    with (
        own
        if not processes
        else ProcessGradients(plan, digits, algorithm.server, algorithm.keeps_gradients, processes) as gradients
    ):
        simulate(shape, algorithm, recorder, times, gradients)
    return recorder.updates, model.parameters


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_equal_times_give_equal_staleness(workers):
    """Step 4: K equally fast workers push in worker order, with staleness 0, 1, …, K-1 and then always K-1."""
    updates, _ = run_schedule(dict.fromkeys(range(1, workers + 1), 10.0), steps=6)
    assert [staleness for _, _, staleness in updates] == [*range(workers), *[workers - 1] * (5 * workers)]
    assert [worker for _, worker, _ in updates] == [*range(1, workers + 1)] * 6


def test_a_hand_computed_schedule():
    """Worker 1 takes 10 ms, worker 2 takes 25 ms; the tie at 50 ms goes to worker 1."""
    updates, _ = run_schedule({1: 10.0, 2: 25.0}, steps=5)
    assert updates == [
        (10, 1, 0), (20, 1, 0), (25, 2, 2), (30, 1, 1), (40, 1, 0), (50, 1, 0), (50, 2, 3),
        (75, 2, 0), (100, 2, 0), (125, 2, 0),
    ]  # fmt: skip


def test_a_slow_worker_is_twice_as_stale():
    updates, _ = run_schedule({1: 20.0, 2: 10.0, 3: 10.0, 4: 10.0, 5: 10.0}, steps=40)
    together = updates[: len(updates) // 2]
    staleness = {worker: [s for _, w, s in together if w == worker][2:] for worker in (1, 2)}
    assert np.mean(staleness[1]) == pytest.approx(2 * np.mean(staleness[2]), rel=0.2)
    counts = [sum(w == worker for _, w, _ in together) for worker in (1, 2)]
    assert counts[0] == pytest.approx(counts[1] / 2, abs=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"alt_model": True}, {"local_steps": 3}, {"algorithm": "dana", "momentum": 0.9}]
    + [{"mode": rule.mode, "algorithm": name} for name, rule in ALGORITHMS.items() if name not in ("asgd", "dana")],
    ids=str,
)
def test_the_number_of_processes_does_not_affect_the_result(settings, monkeypatch):
    """Not with dropout either, nor if results wait for their turn: a fast worker's tasks overtake."""
    monkeypatch.setattr("training.engines.processes.RESULT_BYTES", 0)
    times = {1: 90.0, 2: 11.0, 3: 13.0} | dict.fromkeys(range(4, 12), 100.0)
    runs = [run_schedule(times, steps=4, processes=processes, **settings) for processes in (0, 1, 2, 5)]
    assert all(updates == runs[0][0] for updates, _ in runs)
    assert all(torch.equal(parameters, runs[0][1]) for _, parameters in runs)


def test_a_task_is_no_longer_than_an_epoch():
    _, epoch = run_schedule({1: 10.0, 2: 13.0}, steps=2, local_steps=45)
    _, endless = run_schedule({1: 10.0, 2: 13.0}, steps=2, processes=2, local_steps=2**62)
    assert torch.equal(epoch, endless)


def test_rows_of_shared_memory_are_used_again_only_when_their_copy_is_gone():
    rows, values = SharedRows(3, 5), torch.arange(5.0)
    kept = [rows.copy(values + number) for number in range(4)]
    assert [rows.row_of(copy) is None for copy in kept] == [False, False, False, True]
    free = rows.row_of(kept.pop(1))
    for number in range(100):
        copy = rows.copy(values - number)
        assert rows.row_of(copy) == free and torch.equal(copy, values - number)
        del copy
    assert all(torch.equal(copy, values + number) for copy, number in zip(kept, (0, 2, 3), strict=True))


def test_virtual_runs_are_reproducible(tmp_path):
    flags = ("--world_size", 6, "--clock", "virtual", "--split_labels_unscaled", "--delay", "--compensation")
    logs = [train("dist_async.py", tmp_path / name, *EASY, *flags)["log"].read_text() for name in ("a", "b")]
    real = r'"(real|paused)_seconds": [^,]*'  # of the wall's clock
    first, second = ([re.sub(real, "", line) for line in log.splitlines()[1:]] for log in logs)
    assert first == second
    assert len(first) > 50


REPLAYS = {
    "delays": (3, "--delay", "--slow_worker_1", "--split_dataset"),
    "labels": (6, "--split_labels_unscaled", "--compensation", "--compensation_mode", "adaptive"),
    "adam": (4, "--alr", "--split_dataset", "--lrs", "exponential", "--val"),
    "many": (11, "--split_dataset", "--delay", "--delay_type", "constant"),
    "dropout": (3, "--alt_model", "--split_labels", "--compensation"),
}


@pytest.mark.parametrize("name", REPLAYS)
def test_a_replay_reproduces_the_run(name, tmp_path):
    """Step 5: the log contains everything that happened; no read was torn and no update lost."""
    world_size, *flags = REPLAYS[name]
    wall = train("dist_async.py", tmp_path, "--epochs", 2, "--world_size", world_size, *flags)
    again = train("dist_async.py", tmp_path, "--replay", wall["log"])
    assert weights_of(again) == weights_of(wall)
    original, replayed = read_log(wall["log"]), read_log(again["log"])
    assert (original.clock, replayed.clock) == ("wall", "replay")
    assert replayed.warnings == original.warnings
    assert np.array_equal(original.updates.weight_norm, replayed.updates.weight_norm, equal_nan=True)
    assert np.array_equal(original.updates.seconds, replayed.updates.seconds)
    if world_size > 2:
        assert original.updates.staleness.max() > 0


def test_replay_of_a_truncated_log(tmp_path):
    wall = train("dist_async.py", tmp_path, "--seed", 4, "--split_dataset")
    lines = wall["log"].read_text().splitlines(keepends=True)
    cut = tmp_path / "cut_log.log"
    cut.write_text("".join(lines[:21]) + lines[21][:30])
    done = run("dist_async.py", "--dataset", "digits", "--replay", cut, "--subfolder", tmp_path)
    assert "ends at gradient 20 of" in done.stderr
    replayed = read_log(next(tmp_path.glob("*_replay*_log.log")))
    assert np.array_equal(replayed.updates.weight_norm, read_log(wall["log"]).updates.weight_norm[:20])
    assert (replayed.status, replayed.result["reason"]) == ("partial", "the log ends at gradient 20 of 46")


def test_a_replay_of_a_run_that_was_interrupted_is_partial_too(tmp_path):
    """It must not pass for a run of all its epochs: the summary sets it apart."""
    flags = ("--dataset", "digits", "--lr", 0.05, "--momentum", 0.9, "--seed", 1, "--epochs", 60)
    with LiveRun(tmp_path / "runs", "dist_async.py", *flags) as live:
        live.wait_until_training(updates=30)
        live.process.send_signal(signal.SIGINT)
        assert live.end()[0] == 130
    (log,) = (tmp_path / "runs").glob("*_log.log")
    again = train("dist_async.py", tmp_path / "runs", "--replay", log)
    replayed = read_log(again["log"])
    assert (replayed.status, replayed.result["reason"]) == ("partial", read_log(log).result["reason"])
    train("dist_async.py", tmp_path / "runs", "--seed", 2)
    run("analysis/reports/summary.py", tmp_path / "runs")
    table = (tmp_path / "runs/summary.md").read_text()
    assert re.search(r"\| remark \|.*\n.*\n.*\|  \| 1 \|.*\n.*\| partial \| 1 \|", table), table


def test_replay_refuses_conflicting_flags_logs_and_data(tmp_path):
    wall = train("dist_async.py", tmp_path, "--seed", 4)
    sync = train("dist_sync.py", tmp_path, "--seed", 4)
    header, *lines = wall["log"].read_text().splitlines()
    other_data = tmp_path / "other_log.log"
    other_data.write_text("\n".join([json.dumps(json.loads(header) | {"data": "0" * 16}), *lines, ""]))
    for log, flags, code, text in (
        (wall["log"], ("--lr", 0.01), 2, "--lr 0.01 conflicts with"),
        (wall["log"], ("--seed", 5), 2, "--seed 5 conflicts with"),
        (wall["log"], ("--val",), 2, "--val conflicts with"),
        (wall["log"], ("--alr",), 2, "--alr conflicts with"),
        (wall["log"], ("--world_size", 4), 2, "--world_size 4 conflicts with"),
        (wall["log"], ("--dataset", "mnist"), 2, "--dataset mnist conflicts with"),
        (sync["log"], (), 1, "only asynchronous runs"),
        (other_data, (), 1, "trained on other data"),
        (tmp_path / "none.log", (), 2, "no such file"),
        (wall["model"], (), 1, "not a log"),
    ):
        done = run("dist_async.py", "--replay", log, "--subfolder", tmp_path, *flags, check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert text in done.stderr


def test_compensation_changes_a_run_unless_lambda_is_0(tmp_path):
    flags = (*EASY, "--world_size", 6, "--clock", "virtual", "--split_dataset")
    plain = train("dist_async.py", tmp_path, *flags)
    runs = {
        settings: weights_of(train("dist_async.py", tmp_path, *flags, "--compensation", *settings))
        for settings in ((), ("--compensation_mode", "adaptive"), ("--compensation_lambda", 0))
    }
    assert runs["--compensation_lambda", 0] == weights_of(plain)
    assert len({*runs.values()}) == 3


def test_batch_norm_statistics_are_averaged_over_workers():
    """A worker pushes its running statistics with its gradient; the global model has their mean."""
    config = RunConfig(mode="sync", dataset="cifar10", world_size=3, partition="split_dataset", batch_size=4)
    generator = torch.Generator().manual_seed(0)
    samples = common.Samples(torch.randn(8, 32, 32, 3, generator=generator), torch.arange(8) % 4)
    plan = make_plan(config, 1, samples)
    model, scratch = common.build_model("cifar10", "ResNet18", 1), common.build_model("cifar10", "ResNet18", 2)
    algorithm = plan.algorithm(model)
    pushes = [plan.worker(number).compute(algorithm.fetch(number), scratch, samples) for number in (1, 2)]
    assert not torch.equal(pushes[0].buffers, pushes[1].buffers)
    for push in pushes:
        algorithm.server.receive(push)
        algorithm.push(push)
    torch.testing.assert_close(model.buffers, (pushes[0].buffers + pushes[1].buffers) / 2)
    state = model.state_dict()
    assert state["bn1.num_batches_tracked"].item() == 1
    assert state["bn1.running_mean"].abs().sum() > 0
    fresh = plan.worker(1).compute(Snapshot(0, model.parameters, model.buffers), scratch, samples)
    assert fresh.buffers.isfinite().all()


def test_the_threads_of_a_gradient(tmp_path, nursery):
    """--threads comes before OMP_NUM_THREADS, which comes before the number of cores; the log says which it was."""
    flags = ("--dataset", "digits", "--seed", 1)
    for variables, given, expected in (
        ({"OMP_NUM_THREADS": "3"}, ("--threads", 1), (1, "--threads")),
        ({"OMP_NUM_THREADS": "1"}, (), (1, "OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": ""}, (), (available_cores(), "cores")),
    ):
        folder = tmp_path / expected[1]
        done = nursery.start("nonDistributed.py", *flags, *given, "--subfolder", folder, variables=variables).wait(60)
        assert done.code == 0, done.errors
        header = read_log(next(folder.glob("*_log.log"))).header
        assert (header["threads_per_gradient"], header["threads_from"]) == expected
    logs = [read_log(next((tmp_path / name).glob("*_log.log"))) for name in ("--threads", "OMP_NUM_THREADS")]
    assert np.array_equal(logs[0].updates.weight_norm, logs[1].updates.weight_norm)
