"""When a run ends: each rule with each mode and clock, with workers that die, and in a replay."""

import os
import signal

import numpy as np
import pytest

from conftest import train, weights_of
from live_run import LiveRun
from training.record.reader import read_log
from training.record.run_log import RunLog

SCRIPTS = {"sync": "dist_sync.py", "async": "dist_async.py"}
UNEQUAL = ("--epochs", 2, "--seed", 3, "--world_size", 4, "--split_dirichlet", 0.3, "--slow_worker_1", "--delay_ms", 3)


def epochs_of(log: RunLog) -> list[int]:
    """The gradients of the epochs of each worker."""
    return [2 * batches for batches in log.header["worker_batches_per_epoch"]]


def pushed(log: RunLog) -> list[int]:
    return [len(log.gradients.of_worker(worker)) for worker in range(1, log.config.workers + 1)]


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("mode", SCRIPTS)
@pytest.mark.parametrize("rule", ["epochs", "first", "total"])
def test_each_rule_in_each_mode_on_each_clock(rule, mode, clock, tmp_path):
    done = train(SCRIPTS[mode], tmp_path, *UNEQUAL, "--stop", rule, "--clock", clock, "--saves_per_epoch", 3, "--val")
    log = read_log(done["log"])
    planned, found = epochs_of(log), pushed(log)
    assert (log.status, log.result["ended_by"]) == ("complete", rule)
    assert set(log.left) == {1, 2, 3}, "the log says when each worker left"
    assert len(np.load(done["weights"])) == len(log.saved_versions) and log.saved_versions[-1] == len(log.updates)
    if rule == "epochs":
        assert found == planned
    elif rule == "first":
        finished = [worker for worker in (1, 2, 3) if found[worker - 1] == planned[worker - 1]]
        assert finished and all(update == len(log.updates) for update in log.left.values())
        assert sum(found) < sum(planned)
    else:
        assert sum(found) == sum(planned)
        if mode == "sync":
            assert max(found) - min(found) <= 1
        elif clock == "virtual":  # each works to the end, at its own speed
            last = [log.gradients.of_worker(worker).seconds[-1] for worker in (1, 2, 3)]
            assert min(last) > 0.9 * log.seconds
    first = min(log.left.values())
    assert log.result["first_left_update"] == first
    assert log.result["updates_after_first_left"] == len(log.updates) - first
    (evaluation,) = [one for one in log.evaluations if one.first_left]
    assert (evaluation.update, evaluation.test_accuracy) == (
        first, pytest.approx(log.result["first_left_test_accuracy"], abs=0.01),
    )  # fmt: skip


@pytest.mark.parametrize("rule", ["first", "total"])
def test_one_worker_ends_as_ever(rule, tmp_path):
    flags = ("--world_size", 2, "--seed", 1, "--clock", "virtual", "--epochs", 2)
    plain, ruled = (train("dist_async.py", tmp_path / name, *flags, "--stop", name) for name in ("epochs", rule))
    assert weights_of(plain) == weights_of(ruled)


def test_synchronous_rules_agree_on_both_clocks(tmp_path):
    for rule in ("first", "total"):
        runs = [train("dist_sync.py", tmp_path / clock, *UNEQUAL, "--stop", rule, "--clock", clock)
                for clock in ("wall", "virtual")]  # fmt: skip
        assert weights_of(runs[0]) == weights_of(runs[1])


@pytest.mark.parametrize("flags", [("--stop", "first"), ("--stop", "total"), ("--max_seconds", 0.3, "--epochs", 60)])
def test_a_replay_ends_as_the_run_did(flags, tmp_path):
    wall = train("dist_async.py", tmp_path, *UNEQUAL, *flags)
    again = train("dist_async.py", tmp_path / "again", "--replay", wall["log"])
    assert weights_of(again) == weights_of(wall)
    one, other = read_log(wall["log"]), read_log(again["log"])
    assert one.result["ended_by"] == other.result["ended_by"]
    assert one.left == other.left


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("mode", SCRIPTS)
def test_a_time_limit(mode, clock, tmp_path):
    flags = ("--epochs", 500, "--seed", 1, "--split_dataset", "--delay", "--max_seconds", 0.5)
    log = read_log(train(SCRIPTS[mode], tmp_path, *flags, "--clock", clock)["log"])
    assert (log.status, log.result["ended_by"]) == ("complete", "max_seconds")
    assert len(log.updates) > 0 and log.updates.seconds[-1] <= 0.5
    assert log.result["seconds"] == 0.5 and log.result["seconds_after_first_left"] == 0


@pytest.mark.parametrize("rule", ["epochs", "first", "total"])
def test_a_worker_that_is_killed_under_each_rule(rule, tmp_path):
    flags = ("--dataset", "digits", "--world_size", 4, "--split_dataset", "--epochs", 20, "--seed", 1, "--stop", rule)
    with LiveRun(tmp_path, "dist_async.py", *flags) as live:
        os.kill(live.wait_until_training(updates=60)[2], signal.SIGKILL)
        code, _, errors = live.end()
    assert code == 0, errors
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert log.result["lost_workers"] == ["Worker_3"] and set(log.left) == {1, 2}
    assert log.result["ended_by"] == rule
    planned = 20 * sum(log.header["worker_batches_per_epoch"])
    total = sum(pushed(log))
    if rule == "total":  # the others do what the dead one would have done
        assert total == planned
    else:
        assert total < planned


def test_evaluations_leave_the_run_alone(tmp_path):
    flags = ("--epochs", 4, "--seed", 2, "--momentum", 0.5, "--split_dataset", "--clock", "virtual")
    plain, watched = (
        train("dist_async.py", tmp_path / "a", *flags),
        train("dist_async.py", tmp_path / "b", *flags, "--evals_per_epoch", 3),
    )
    assert weights_of(plain) == weights_of(watched)
    logs = [read_log(done["log"]) for done in (plain, watched)]
    assert np.array_equal(logs[0].updates.seconds, logs[1].updates.seconds), "the virtual clock stands still"
    curve = [one for one in logs[1].evaluations if not one.first_left]
    assert len(curve) == 12 and curve[-1].update == len(logs[1].updates)
    assert curve[-1].test_accuracy > curve[0].test_accuracy
    assert logs[1].result["paused_seconds"] > 0
    assert logs[0].result["real_seconds"] > 0


def test_evaluations_of_a_run_without_distribution(tmp_path):
    log = read_log(train("nonDistributed.py", tmp_path, "--evals_per_epoch", 2, "--epochs", 2, "--seed", 1)["log"])
    assert [one.update for one in log.evaluations] == [22, 45, 68, 90]


def test_the_result_describes_staleness_and_rates_by_name(tmp_path):
    log = read_log(train("dist_sync.py", tmp_path, "--seed", 1, "--clock", "virtual", "--split_dataset")["log"])
    assert log.result["gradients_per_second"] == pytest.approx(2 * log.result["updates_per_second"])
    log = read_log(train("dist_async.py", tmp_path, "--seed", 1, "--clock", "virtual", "--split_dataset")["log"])
    assert log.result["std_staleness"] == pytest.approx(log.updates.staleness.std())


def test_local_steps_push_the_sum_of_their_gradients():
    import torch
    import torch.nn.functional as F

    import common
    from training.config import RunConfig
    from training.plan import make_plan

    digits = common.load_dataset("digits", "unused").train
    config = RunConfig(mode="async", dataset="digits", local_steps=3, lr=0.05, world_size=2)
    plan = make_plan(config, 1, digits)
    assert plan.pushes_per_epoch == (15,) and plan.batches_per_epoch == (45,)
    model, scratch, by_hand = (common.build_model("digits", "LeNet5", 1) for _ in range(3))
    snapshot = plan.algorithm(model).fetch(1)
    push = plan.worker(1).compute(snapshot, scratch, digits)
    total, losses = torch.zeros_like(by_hand.parameters), []
    for batch in next(plan.worker(1)._batches):
        images, labels = digits.batch(batch)
        loss = F.nll_loss(by_hand.network(images), labels)
        by_hand.gradients.zero_()
        loss.backward()
        total += by_hand.gradients
        by_hand.parameters.sub_(0.05 * by_hand.gradients)
        losses.append(loss.item())
    torch.testing.assert_close(push.gradient, total)
    assert push.loss == pytest.approx(np.mean(losses))
    torch.testing.assert_close(model.parameters - 0.05 * push.gradient, by_hand.parameters)


def test_runs_with_local_steps(tmp_path):
    flags = ("--epochs", 2, "--seed", 1, "--world_size", 3, "--split_dataset", "--local_steps", 4)
    for script in SCRIPTS.values():
        log = read_log(train(script, tmp_path, *flags, "--clock", "virtual")["log"])
        assert log.header["worker_batches_per_epoch"] == [23, 23]
        assert pushed(log) == [12, 12]
    wall = train("dist_async.py", tmp_path, *flags)
    assert weights_of(train("dist_async.py", tmp_path, "--replay", wall["log"])) == weights_of(wall)
