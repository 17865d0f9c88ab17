"""Each algorithm by its command line: on both clocks, in a replay, and when a worker is killed."""

import os
import signal

import numpy as np
import pytest

from conftest import run, train, weights_of
from live_run import LiveRun
from test_theory import EXPECTED
from training.algorithms import ALGORITHMS
from training.config import algorithms_of
from training.record.reader import read_log

SCRIPTS = {"sync": "dist_sync.py", "async": "dist_async.py"}
CLOCKS = ("wall", "virtual")
UNEQUAL = ("--epochs", 2, "--seed", 3, "--world_size", 5, "--split_labels_unscaled", "--stop", "total")
UNEQUAL_SPEEDS = ("--clock", "virtual", "--worker_speeds", 1, 0.5, 1, 0.3, 1)


def script_of(algorithm: str) -> str:
    return SCRIPTS[ALGORITHMS[algorithm].mode]


def as_flags(settings: dict) -> list:
    flags = []
    for name, value in settings.items():
        flags += [f"--{name}"] if value is True else [f"--{name}", value]
    return flags


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The model of one worker of asynchronous SGD, on each clock."""
    folder = tmp_path_factory.mktemp("plain")
    return {clock: weights_of(train("dist_async.py", folder / clock, "--world_size", 2, "--seed", 3, "--momentum", 0,
                                    "--clock", clock)) for clock in CLOCKS}  # fmt: skip


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "asgd"])
def test_one_worker_is_plain_sgd(algorithm, clock, plain, tmp_path):
    flags = as_flags(EXPECTED[algorithm].equals_asgd) if EXPECTED[algorithm].one_worker else []
    flags = ["--momentum", 0, *flags]
    done = train(script_of(algorithm), tmp_path, "--algorithm", algorithm, "--world_size", 2, "--seed", 3, *flags,
                 "--clock", clock)  # fmt: skip
    assert weights_of(done) == plain[clock]


def test_settings_that_change_nothing(tmp_path):
    """With several workers; on the virtual clock, where a run is repeatable."""
    flags = ("--epochs", 2, "--seed", 3, "--world_size", 6, "--split_labels", *UNEQUAL_SPEEDS, "--momentum", 0)
    asgd = weights_of(train("dist_async.py", tmp_path / "asgd", *flags))
    same = {name: row.equals_asgd for name, row in EXPECTED.items() if isinstance(row.equals_asgd, dict)}
    same["asgd"] = {"local_steps": 1, "compensation": True, "compensation_lambda": 0.0}
    for name, settings in same.items():
        done = train("dist_async.py", tmp_path / f"{name}_", "--algorithm", name, *flags, *as_flags(settings))
        assert weights_of(done) == asgd, name


@pytest.mark.parametrize("clock", CLOCKS)
def test_no_backup_worker_is_the_average(clock, tmp_path):
    flags = ("--epochs", 2, "--seed", 3, "--world_size", 4, "--split_dataset", "--clock", clock)
    average = train("dist_sync.py", tmp_path / "average", *flags)
    backup = train("dist_sync.py", tmp_path / "backup", *flags, "--algorithm", "backup", "--backup_workers", 0)
    assert weights_of(backup) == weights_of(average)


@pytest.mark.parametrize("algorithm", algorithms_of("async"))
def test_a_replay_reproduces_the_run(algorithm, tmp_path):
    flags = ("--seed", 1, "--world_size", 4, "--split_dataset", "--delay_ms", 4, "--delay", "--slow_worker_1",
             "--stop", "total")  # fmt: skip
    wall = train("dist_async.py", tmp_path / "run", "--algorithm", algorithm, *flags)
    again = train("dist_async.py", tmp_path / "again", "--replay", wall["log"])
    assert weights_of(again) == weights_of(wall)
    one, other = (read_log(done["log"]) for done in (wall, again))
    assert one.config.algorithm == algorithm and np.array_equal(one.gradients.weight, other.gradients.weight)
    assert len(one.gradients) == one.header["gradients"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_record_of_each_algorithm(algorithm, tmp_path):
    """Adam, momentum, schedules, validation and saved weights work with each algorithm; the log has its decisions."""
    rule = ALGORITHMS[algorithm]
    adam = [] if rule.own_momentum else ["--alr", "--momentum", 0, "--lr", 0.001]
    flags = ("--epochs", 2, "--seed", 3, "--world_size", 6, *UNEQUAL_SPEEDS, "--split_labels", "--stop", "total",
             "--val", "--saves_per_epoch", 2, "--lrs", "exponential", *adam)  # fmt: skip
    done = train(script_of(algorithm), tmp_path, "--algorithm", algorithm, *flags)
    log = read_log(done["log"])
    assert log.status == "complete" and len(log.gradients) == log.header["gradients"]
    assert [one.epoch for one in log.validations] == [1, 2]
    assert len(np.load(done["weights"])) == len(log.saved_versions) >= 5
    assert bool(log.dropped) == (algorithm in ("ringmaster", "rennala", "backup", "malenia"))
    weighed = {"staleness_aware", "delay_adaptive", "fedbuff", "rescaled"}
    assert bool((log.gradients.weight != 1).any()) == (algorithm in weighed)
    if algorithm == "staleness_aware":
        assert np.allclose(log.gradients.weight, 1 / np.maximum(1, log.gradients.staleness))
    if algorithm == "ringmaster":
        assert np.array_equal(log.gradients.dropped, log.gradients.staleness >= 5)
    report = run("test_model.py", done["model"], done["log"], "--training_time", "--pics", "--subfolder", tmp_path)
    assert rule.title.replace("SGD", "Adam") in report.stdout or rule.title in report.stdout


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_worker_that_is_killed(algorithm, tmp_path):
    flags = ("--dataset", "digits", "--algorithm", algorithm, "--world_size", 4, "--split_dataset", "--epochs", 8,
             "--seed", 1)  # fmt: skip
    with LiveRun(tmp_path, script_of(algorithm), *flags) as live:
        os.kill(live.wait_until_training(updates=10)[1], signal.SIGKILL)
        code, _, errors = live.end()
    (path,) = tmp_path.glob("*_log.log")
    log = read_log(path)
    if ALGORITHMS[algorithm].mode == "sync":
        assert code == 1 and f"Worker_2 was lost (killed by SIGKILL): {ALGORITHMS[algorithm].title} needs" in errors
        assert log.status == "partial"
        return
    assert code == 0, errors
    assert (log.status, log.result["lost_workers"]) == ("complete", ["Worker_2"])
    batches = log.header["worker_batches_per_epoch"]
    assert [len(log.gradients.of_worker(worker)) for worker in (1, 3)] == [8 * batches[0], 8 * batches[2]]


@pytest.mark.parametrize(
    ("script", "flags", "complaint"),
    [
        ("dist_async.py", "--max_staleness 3", "--max_staleness 3 has no effect with --algorithm asgd"),
        ("dist_async.py", "--algorithm ssp --buffer_size 3", "--buffer_size 3 has no effect with --algorithm ssp"),
        ("dist_async.py", "--algorithm ssp --compensation", "--compensation has no effect with --algorithm ssp"),
        ("dist_async.py", "--algorithm dana --alr", "--alr has no effect with --algorithm dana"),
        ("dist_async.py", "--algorithm malenia", "invalid choice: 'malenia'"),
        ("dist_async.py", "--algorithm ringmaster --max_staleness 0", "give an integer in [1,inf]"),
        ("dist_async.py", "--algorithm ssp --slack -1", "give an integer in [0,inf]"),
        ("dist_async.py", "--algorithm fedbuff --staleness_weight linear", "invalid choice: 'linear'"),
        ("dist_async.py", "--algorithm fedbuff --buffer_size inf", "give an integer in [1,inf)"),
        ("dist_sync.py", "--algorithm backup --backup_workers 2", "give an integer in [0,1] with 2 workers"),
        ("dist_sync.py", "--backup_workers 1", "--backup_workers 1 has no effect with --algorithm average"),
        ("nonDistributed.py", "--algorithm asgd", "unrecognized arguments: --algorithm"),
    ],
)
def test_flags_of_an_algorithm_are_checked(script, flags, complaint, tmp_path):
    done = run(script, "--dataset", "digits", "--subfolder", tmp_path, *flags.split(), check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert complaint in done.stderr


def test_settings_of_algorithms_are_in_the_name_and_the_title(tmp_path):
    done = train("dist_async.py", tmp_path, "--algorithm", "ringmaster", "--max_staleness", "inf", "--seed")
    assert done["log"].name == "digits_async_3_100_005_09_32_1_SGD_staleinf_ringmaster_log.log"
    assert read_log(done["log"]).config.max_staleness == float("inf")
    for flags, part in ((("fedbuff", "--staleness_weight", "constant"), "_SGD_fedbuff_weightconstant_log"),
                        (("fedbuff", "--buffer_size", 4), "_SGD_buffer4_fedbuff_log"),
                        (("ssp", "--slack", 0), "_SGD_slack0_ssp_log")):  # fmt: skip
        done = train("dist_async.py", tmp_path, "--algorithm", *flags, "--seed")
        assert part in done["log"].name
        report = run("test_model.py", done["model"], done["log"], "--subfolder", tmp_path)
        assert report.returncode == 0
