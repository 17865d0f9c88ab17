"""The drivers as a user runs them: their plans, whole sweeps on the digits, and what survives an interruption."""

import contextlib
import csv
import dataclasses
import fcntl
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from analysis.reports.trials import Trial, Trials
from analysis.study.plots import FIGURES
from analysis.study.published import Results, uncompensated
from analysis.study.tables import TABLES
from conftest import ROOT
from interface.processes import available_cores
from scripts.sweep import shares
from training.command_line import make_parser
from training.config import RunConfig
from training.names import run_name
from training.record.reader import read_log

DRIVERS = (
    "run_delay_exps", "run_speed_comp", "run_async_momentums", "run_close_ups", "run_last_updates", "run_stopping",
    "run_distances", "run_recall", "run_algorithms", "run_kfold", "run_kfold_full",
)  # fmt: skip
PLAN = ("--dry_run", "--verbose")
QUICK = ("--clock", "virtual", "--dataset", "digits", "--epochs", 1)


def command(driver: str, *arguments: object) -> list[str]:
    return ["bash", str(ROOT / "scripts" / f"{driver}.sh"), *map(str, arguments)]


def environment() -> dict[str, str]:
    """The interpreter of the tests, whatever else is installed: no folder can be where VENV is."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "VENV": "/dev/null/venv"}


def drive(driver: str, *arguments: object, cwd: Path, code: int = 0, timeout: float = 300) -> str:
    """Run a driver in a folder; its words, errors included."""
    done = subprocess.run(
        command(driver, *arguments), cwd=cwd, env=environment(), text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def planned(words: str) -> list[list[str]]:
    """The commands of a dry run."""
    return [shlex.split(line) for line in words.splitlines() if line.startswith("python3 ")]


def config_of(words: list[str]) -> RunConfig:
    """The settings of a planned training."""
    _, script, *flags = words
    mode = {"nonDistributed.py": "classic", "dist_sync.py": "sync", "dist_async.py": "async"}[script]
    return RunConfig(mode=mode, **vars(make_parser(mode, "").parse_args(flags)))


def trials_of(folder: Path) -> list[Trial]:
    return list(Trials(folder).rows.values())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_delay_experiments_are_what_the_study_describes(tmp_path):
    configs = [config_of(words) for words in planned(drive("run_delay_exps", *PLAN, cwd=tmp_path))]
    assert len(configs) == len({run_name(config) for config in configs}) == 36 + 9 + 27 + 144
    shared = {(c.dataset, c.lr, c.batch_size, c.epochs, c.delay, c.alr, c.clock) for c in configs}
    assert shared == {("fashion_mnist", 0.005, 32, 6, True, False, "wall")}
    assert {c.world_size for c in configs if c.partition == "split_dataset"} == {2, 6, 11}
    assert {c.world_size for c in configs if c.partition == "split_labels"} == {3, 6, 11}
    assert {c.delay_intensity for c in configs} == {"small", "medium", "long"}
    kinds = Counter((c.delay_type, c.slow_worker_1, c.compensation, c.momentum) for c in configs)
    constant = {
        ("constant", False, False, 0.9): 18,
        ("constant", True, False, 0.9): 18,
        ("constant", True, True, 0.9): 9,
    }
    constant |= {("constant", True, False, momentum): 9 for momentum in (0, 0.5, 0.99)}
    gaussian = {
        ("gaussian", False, compensated, momentum): 18
        for compensated in (False, True)
        for momentum in (0, 0.5, 0.9, 0.99)
    }
    assert kinds == constant | gaussian
    other_parts = {c.partition for c in configs if c.slow_worker_1 and (c.compensation or c.momentum != 0.9)}
    assert other_parts == {"split_labels"}


def test_speed_comparison_is_what_the_study_describes(tmp_path):
    configs = [config_of(words) for words in planned(drive("run_speed_comp", *PLAN, cwd=tmp_path))]
    kinds = Counter((c.mode, c.alt_model, c.partition) for c in configs)
    assert kinds.pop(("classic", False, "none")) == 1
    assert len(kinds) == 12 and set(kinds.values()) == {3}
    assert len({run_name(config) for config in configs}) == 37
    words = drive("run_speed_comp", *PLAN, "--modes", "async", "--networks", "CNN1", cwd=tmp_path)
    assert {(c.mode, c.alt_model) for c in map(config_of, planned(words))} == {("async", True)}
    assert "--modes tandem" in drive("run_speed_comp", "--dry_run", "--modes", "tandem", cwd=tmp_path, code=2)


def test_momentum_experiment_is_what_the_study_describes(tmp_path):
    commands = planned(drive("run_async_momentums", *PLAN, cwd=tmp_path))
    trainings, tests, landscapes = commands[:5], commands[5:10], commands[10:]
    configs = [config_of(words) for words in trainings]
    assert [c.momentum for c in configs] == [0.99, 0.95, 0.9, 0.5, 0.0]
    assert all(c.val and c.saves_per_epoch == 3 and c.world_size == 4 for c in configs)
    assert [Path(words[2]).name for words in tests] == [f"{run_name(config)}_model.pt" for config in configs]
    assert len(landscapes) == 1 and sum(word.endswith("_weights.npy") for word in landscapes[0]) == 5


def test_grid_searches_are_planned_for_one_optimiser_or_both(tmp_path):
    for arguments, expected in (((), [False]), (("--alr",), [True])):
        words = planned(drive("run_kfold", *PLAN, "--dataset", "digits", *arguments, cwd=tmp_path))
        assert ["--alr" in command for command in words] == expected
    words = planned(drive("run_kfold_full", *PLAN, cwd=tmp_path))
    assert Counter("--alr" in command for command in words) == {True: 8, False: 8}


def test_overrides_reach_every_run_and_seeds_multiply(tmp_path):
    overrides = ("--delays", 30, "--world_sizes", "3 6", "--parts", "a", "b", "--seeds", 1, 2, "--train_split", 0.5)
    more = ("--compute_ms", 15, "--results", "here")
    words = drive("run_delay_exps", *PLAN, *QUICK, *overrides, *more, cwd=tmp_path)
    configs = [config_of(command) for command in planned(words)]
    assert len(configs) == (4 + 1) * 2 * 2
    assert {(c.delay_ms, c.clock, c.compute_ms, c.dataset, c.epochs, c.train_split, c.subfolder) for c in configs} == {
        (30.0, "virtual", 15.0, "digits", 1, 0.5, "here")
    }
    assert {c.world_size for c in configs} == {3, 6} and {c.seed for c in configs} == {1, 2}
    assert list(tmp_path.iterdir()) == []


OVERRIDES = {
    "dataset": "digits", "train_split": 0.5, "lr": 0.123, "batch_size": 17, "epochs": 3, "clock": "virtual",
    "compute_ms": 12, "compute_time": "lognormal:0.5", "worker_speeds": "spread:0.3", "communication_ms": 1.5,
    "stop": "first", "max_seconds": 99, "evals_per_epoch": 3,
}  # fmt: skip
SETTINGS_OF_ALL = {"dataset", "train_split", "lr", "batch_size", "epochs", "evals_per_epoch"}


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if "kfold" not in driver])
def test_no_setting_of_training_is_accepted_and_then_ignored(driver, tmp_path):
    taken = set(re.findall(r"^  --(\w+)", drive(driver, "--help", cwd=tmp_path), re.MULTILINE))
    if driver == "run_distances":
        taken.remove("lr")  # the rate without momentum, from which the others follow
    given = {name: value for name, value in OVERRIDES.items() if name in taken}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    commands = planned(drive(driver, *PLAN, "--seeds", 5, *flags, cwd=tmp_path))
    trained = [command for command in commands if command[1] in ("nonDistributed.py", "dist_sync.py", "dist_async.py")]
    assert len(given) > 10 and trained
    for command in trained:
        for name in given.keys() & SETTINGS_OF_ALL if command[1] == "nonDistributed.py" else given:
            assert f"--{name} {given[name]} " in " ".join(command) + " ", (name, command)


def test_each_variant_of_an_algorithm_is_tuned_and_trained_by_itself(tmp_path):
    variants = ("ringmaster", "ringmaster+max_staleness=3", "asgd+momentum=0.90+compensation", "average")
    words = drive("run_algorithms", *PLAN, *QUICK, "--world_size", 3, "--worker_speeds", 0.5, 1, "--rates", 0.1, 0.2,
                  "--seeds", 2, "--algorithms", *variants, cwd=tmp_path)  # fmt: skip
    tuning, new = ([config_of(command) for command in planned(part)] for part in words.split("==> New seeds"))
    assert len(tuning) == 8 and len({(one.algorithm, one.max_staleness, one.lr) for one in tuning}) == 8
    assert [(one.mode, one.algorithm, one.max_staleness, one.momentum, one.compensation) for one in new] == [
        ("sync", "average", None, 0.0, False), ("async", "asgd", None, 0.9, True),
        ("async", "ringmaster", 2, 0.0, False), ("async", "ringmaster", 3, 0.0, False),
    ]  # fmt: skip


def test_the_network_of_a_comparison_is_also_that_of_its_control(tmp_path):
    commands = planned(drive("run_speed_comp", *PLAN, "--networks", "CNN1", cwd=tmp_path))
    assert {config_of(command).network_name for command in commands} == {"CNN1"}
    assert config_of(commands[0]).mode == "classic"


@pytest.mark.parametrize(
    ("driver", "arguments", "named"),
    [
        ("run_kfold", ("--networks", "LeNet5"), "--networks LeNet5 is not valid: give some of default alt"),
        ("run_kfold", ("--optimizers", "Adam"), "--optimizers Adam is not valid: give some of SGD ADAM"),
        ("run_kfold", ("--alr", "--momentums", 0.5), "--momentums has no effect with ADAM only"),
        ("run_stopping", ("--stop", "first"), "--stop is not valid"),
        ("run_stopping", ("--seeds", ""), "--seeds needs a value"),
        ("run_stopping", ("--jobs scheduler", 3), "--jobs scheduler is not valid"),
        ("run_stopping", ("--results", "two\nlines"), "--results takes no line breaks"),
        ("run_kfold", ("--summary_dir", "rows"), "--summary_dir is not valid"),
        ("run_algorithms", ("--lr", 0.1), "--lr is not valid"),
        ("run_algorithms", ("--algorithms", "adam"), "--algorithms adam is not valid: give some of average backup"),
        (
            "run_algorithms",
            ("--algorithms", "asgd+local_steps=4"),
            "--algorithms asgd+local_steps=4 is not valid",
        ),
        ("run_algorithms", ("--clock", "wall"), "--clock wall is not valid: a worker has a speed on the virtual clock"),
    ],
    ids=str,
)
def test_a_value_that_a_driver_has_no_use_for_is_refused(driver, arguments, named, tmp_path):
    assert f"{driver}.sh: error: {named}" in drive(driver, *arguments, "--dry_run", cwd=tmp_path, code=2)


@pytest.mark.parametrize("driver", [("compare",), ("run_experiment", "partitions"), ("run_stopping",)], ids=" ".join)
def test_commands_are_shown_only_in_a_dry_run(driver, tmp_path):
    said = drive(*driver, "--verbose", cwd=tmp_path, code=2)
    assert "error: --verbose has no effect without --dry_run" in said and not list(tmp_path.iterdir())


def test_folders_that_begin_like_flags(tmp_path):
    words = drive("run_stopping", *PLAN, *QUICK, "--seeds", 1, "--results", "-new", cwd=tmp_path)
    assert {config_of(command).subfolder for command in planned(words)} == {"./-new"}
    (tmp_path / "-runs").mkdir()
    (tmp_path / "-runs/some_log.log").touch()
    (command,) = planned(drive("test_model", "-runs", *PLAN, cwd=tmp_path))
    assert command[2:4] == ["./-runs/some_model.pt", "./-runs/some_log.log"]


def test_numbers_are_read_and_written_alike_in_every_locale(tmp_path, monkeypatch):
    made = ["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"]  # where 0.002 is written with a comma
    subprocess.run(made, stderr=subprocess.DEVNULL, check=False, timeout=60)  # without its source, C takes its place
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    words = drive(
        "run_distances", *PLAN, "--lr", "0.0123456789", "--momentums", 0, 0.9, "--world_sizes", 3, cwd=tmp_path
    )
    assert [config_of(command).lr for command in planned(words)] == [0.0123456789, 0.00123456789]
    words = drive("run_algorithms", *PLAN, "--algorithms", "dana+momentum=0.9", "--rates", "3e-2", cwd=tmp_path)
    assert config_of(planned(words)[0]).lr == 0.003
    assert "--lr: 'abc' is not valid" in drive("run_distances", "--lr", "abc", "--dry_run", cwd=tmp_path, code=2)
    words = drive("run_delay_exps", *PLAN, "--parts", "d", "--delays", "1e2", "small", cwd=tmp_path)
    assert {(config_of(one).delay_ms, config_of(one).delay_intensity) for one in planned(words)} == {
        (100.0, None), (None, "small"),
    }  # fmt: skip


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--colour", "red"), "--colour"),
        (("--epochs",), "--epochs"),
        (("--jobs", "0"), "--jobs"),
        (("digits",), "digits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_line_is_refused(driver, arguments, named, tmp_path):
    words = drive(driver, *arguments, cwd=tmp_path, code=2, timeout=20)
    assert re.fullmatch(rf"run_\w+\.sh: error: .*{named}.*\n", words)


@pytest.mark.parametrize("flags", [("--clock", "sundial"), ("--networks", "LeNet5")], ids=" ".join)
def test_a_mistyped_flag_ends_even_a_dry_run(flags, tmp_path):
    assert flags[0] in drive("run_delay_exps", "--dry_run", *flags, cwd=tmp_path, code=2, timeout=20)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_no_run_can_have_ends_the_driver_before_anything_runs(tmp_path):
    words = drive("run_delay_exps", *QUICK, "--world_sizes", 5, cwd=tmp_path, code=2)
    assert "--world_size 5 is not valid with --split_labels" in words
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("question", ["--dry_run", "--help", "--names"])
def test_a_question_has_no_side_effect_and_needs_nothing_installed(question, tmp_path):
    """A plan is printed on a machine that has Python and no package at all."""
    site, home, folder = (tmp_path / name for name in ("site", "home", "cwd"))
    for path in (site, home, folder):
        path.mkdir()
    blocked = ("torch", "numpy", "tqdm", "sklearn", "matplotlib")
    (site / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({blocked})\n")
    environ = environment() | {"PYTHONPATH": str(site), "HOME": str(home), "VENV": str(home / "venv")}
    for driver, count in (("run_speed_comp", 37), ("compare", 6)):
        done = subprocess.run(
            command(driver, question), cwd=folder, env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert question != "--dry_run" or f"{count} runs: 0 done, {count} to do" in done.stdout
        assert question != "--names" or len(set(done.stdout.split())) == len(done.stdout.splitlines()) == count
    assert not list(home.iterdir()) and not list(folder.iterdir())


@pytest.mark.parametrize("driver", [*DRIVERS, "run_study", "test_model", "loss_landscape"])
def test_every_driver_explains_itself_and_each_of_its_settings(driver, tmp_path):
    words = drive(driver, "--help", cwd=tmp_path, timeout=20)
    assert f"scripts/{driver}.sh" in words and "shellcheck" not in words
    settings = words[words.index("Settings, their values, and what they are:") :].splitlines()[1:]
    assert {"--jobs", "--dry_run", "--verbose", "--results"} <= {line.split()[0] for line in settings}
    for line in settings:
        assert re.fullmatch(r"  --\w+( \S.*?)? +\S.* \S+|  --dry_run +.*", line) and len(line) > 47, line


SWEEP = (
    *("run_delay_exps", *QUICK, "--parts", "b", "c", "--world_sizes", 3),
    *("--delays", "small", "--seeds", 1, 2, "--results", "runs"),
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A small sweep with two seeds, in which no run fails."""
    folder = tmp_path_factory.mktemp("sweep")
    drive(*SWEEP, "--jobs", 2, cwd=folder)
    return folder


def test_a_summary_gives_means_and_deviations_over_seeds(swept):
    trials, groups = trials_of(swept / "runs"), rows_of(swept / "runs/summary.csv")
    assert len(trials) == 8 and len(groups) == 4
    for group in groups:
        varied = group["momentum"], group["compensation"]
        same = [t.outcome for t in trials if (str(t.config.momentum), str(t.config.compensation)) == varied]
        assert len(same) == int(group["runs"]) == 2
        for measure in ("test_accuracy", "test_loss", "train_accuracy", "seconds", "mean_staleness"):
            values = [getattr(outcome, measure) for outcome in same]
            assert float(group[f"{measure}_mean"]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(group[f"{measure}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-4, abs=1e-9)
    table = (swept / "runs/summary.md").read_text()
    runs, differences = table.split("\n## ")
    assert runs.count("\n| ") == 2 + len(groups) and differences.count("\n| ") == 2 + 2
    assert "Shared by all runs: asynchronous, digits, " in table and "| momentum | delay compensation |" in table


@pytest.mark.skipif(available_cores() < 2, reason="there is nothing to share")
def test_parallel_runs_share_the_cores(swept, tmp_path):
    """Each computes on its own, to the same bits as alone."""
    cores = available_cores()
    for path in (swept / "runs").glob("*_log.log"):
        assert read_log(path).header["cores"] in (cores // 2, cores - cores // 2)
    assert shares([4, 5, 6], 2) == [(4, 6), (5,)] and shares([4, 5], 3) == [(4, 5)] * 3
    drive(*SWEEP, cwd=tmp_path)
    alone, together = ({name: row.outcome.test_loss for name, row in Trials(folder / "runs").rows.items()}
                       for folder in (tmp_path, swept))  # fmt: skip
    assert alone == together and len(alone) == 8


def test_the_summary_agrees_with_test_model(swept):
    drive("test_model", "runs", "--jobs", 2, cwd=swept)
    for trial in trials_of(swept / "runs"):
        report = (swept / "runs" / f"{trial.name}_model_test_performance.txt").read_text()
        assert f"Test accuracy: {trial.outcome.test_accuracy:.2f} %" in report
        staleness = f"staleness mean {trial.outcome.mean_staleness:.2f}, max {trial.outcome.max_staleness}"
        assert staleness in report
    assert len(list((swept / "runs").glob("*_training_plots.png"))) == 8


def test_published_accuracies_stand_beside_those_measured_for_the_same_setting(swept, tmp_path):
    trial = next(iter(Trials(swept / "runs").rows.values()))
    where = {"dataset": "fashion_mnist", "epochs": 6, "world_size": 6, "partition": "split_labels", "momentum": 0.9}
    delay = {"delay": True, "slow_worker_1": True, "delay_type": "constant", "delay_ms": 30.0}
    clock = {"clock": "virtual", "compute_ms": 15.0, "lr": 0.005}
    same = RunConfig(mode="async", **where, **delay, **clock, compensation=True)
    runs = (
        (1, 60.0, same),
        (2, 64.0, same),
        (3, 90.0, uncompensated(same)),
        (3, 91.0, dataclasses.replace(same, dataset="mnist")),
        (42, 92.0, same),  # of another experiment
        (2, 64.0, dataclasses.replace(same, saves_per_epoch=3)),  # the same run once more
        (1, 85.0, dataclasses.replace(same, momentum=0.95)),  # values that the study does not plan
        (1, 86.0, dataclasses.replace(uncompensated(same), momentum=0.95)),
        (1, 87.0, dataclasses.replace(same, momentum=0.95, partition="none")),
        (1, 88.0, dataclasses.replace(uncompensated(same), momentum=0.95, partition="none")),
    )
    for number, (seed, accuracy, config) in enumerate(runs):
        name = f"run{number}"
        outcome = dataclasses.replace(trial.outcome, test_accuracy=accuracy, converged=seed != 1)
        Trials(tmp_path / name).add(Trial(name, seed, "virtual", dataclasses.replace(config, seed=seed), outcome))
    header, *rows = (ROOT / "summaries/published.csv").read_text().splitlines()
    rows = [row for row in rows if row.startswith("IV,") and ",6,split_labels,30," in row]
    (tmp_path / "published.csv").write_text("\n".join([header, *rows]) + "\n")
    command = [sys.executable, "-m", "analysis.study", tmp_path, "--plot_dir", tmp_path / "plots"]
    done = subprocess.run(command, cwd=ROOT, check=True, timeout=300, capture_output=True, text=True)
    assert f"{tmp_path / 'published.md'} is not written: " in done.stderr and "Traceback" not in done.stderr
    found = {row["lambda"]: row for row in rows_of(tmp_path / "comparison.csv")}
    assert set(found) == {"2", "5"} and found["5"]["measured, %"] == ""
    assert (found["2"]["measured, %"], found["2"]["runs"], found["2"]["converged"]) == ("62.00 ± 2.83", "2", "1")
    assert float(found["2"]["difference"]) == pytest.approx(62 - float(found["2"]["published, %"]))
    table = TABLES["compensation of a slow worker"](Results.read(tmp_path))
    assert f"62.0 ± 2.8 ({float(found['2']['published, %']):.1f})" in table
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"{name}{suffix}" for name in FIGURES for suffix in (".png", ".pdf")
    }


def test_the_speed_table_counts_the_gradients_of_all_workers_and_leaves_delayed_runs_out(swept, tmp_path):
    trial = next(iter(Trials(swept / "runs").rows.values()))
    where = {"dataset": "fashion_mnist", "epochs": 6, "momentum": 0.9, "lr": 0.005, "clock": "virtual", "seed": 1}
    for name, mode, world_size, more in (
        ("a", "sync", 6, {}),
        ("b", "async", 6, {}),
        ("c", "async", 11, {"delay": True}),
        ("d", "async", 11, {"compute_ms": 15.0}),
        ("e", "sync", 3, {"partition": "split_labels", "train_split": 0.2}),
    ):
        settings = {"partition": "split_dataset", **where, **more}
        config = RunConfig(mode=mode, world_size=world_size, **settings)
        outcome = dataclasses.replace(trial.outcome, updates=100, seconds=10.0, test_accuracy=80.0)
        Trials(tmp_path / "runs").add(Trial(name, 1, "virtual", config, outcome))
    (tmp_path / "published.csv").write_text((ROOT / "summaries/published.csv").read_text().split("\n")[0] + "\n")
    assert TABLES["speed, virtual clock"](Results.read(tmp_path)).splitlines()[2:] == [
        "| LeNet5, samples split, synchronous |  | 50/s, 80.0 % |  |",
        "| LeNet5, samples split, asynchronous |  | 10/s, 80.0 % |  |",
        "| LeNet5, labels split, synchronous | 20/s, 80.0 % (20 % of the samples) |  |  |",
    ]


def test_several_processes_add_trials_at_once(swept, tmp_path):
    trial = next(iter(Trials(swept / "runs").rows.values()))
    context, count = multiprocessing.get_context("fork"), 60

    def add_some(process: int) -> None:
        trials = Trials(tmp_path)
        for number in range(count):
            trials.add(dataclasses.replace(trial, name=f"{process}-{number}"))

    processes = [context.Process(target=add_some, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert len(Trials(tmp_path).rows) == 4 * count


def test_what_is_done_is_skipped_though_its_model_is_gone(swept):
    before = (swept / "runs/trials.jsonl").read_bytes()
    (removed := min((swept / "runs").glob("*_model.pt"))).unlink()
    removed.with_name(removed.name.replace("_model.pt", "_log.log")).unlink()
    words = drive(*SWEEP, cwd=swept)
    assert "8 runs, 8 already done" in words
    assert (swept / "runs/trials.jsonl").read_bytes() == before
    assert not removed.exists()


def test_files_of_runs_are_needed_until_what_is_drawn_from_them_is_here(tmp_path):
    driver = ("run_distances", *QUICK, "--momentums", 0, "--saves_per_epoch", 45, "--results", "runs")
    drive(*driver, "--world_sizes", 3, cwd=tmp_path)
    figure = tmp_path / "runs/distances.png"
    drawn = figure.stat().st_mtime_ns
    for kind in ("log.log", "model.pt", "weights.npy"):
        (path,) = (tmp_path / "runs").glob(f"*_{kind}")
        path.rename(tmp_path / kind)
        assert "1 run: 1 done, 0 to do" in drive(*driver, "--world_sizes", 3, "--dry_run", cwd=tmp_path)
        figure.rename(tmp_path / "figure")
        words = drive(*driver, "--world_sizes", 3, "--dry_run", cwd=tmp_path)
        assert "1 run: 0 done, 1 to do (1 again, for files that are not here)" in words
        (tmp_path / "figure").rename(figure)
        if kind != "weights.npy":
            (tmp_path / kind).rename(path)
    words = drive(*driver, "--world_sizes", 3, cwd=tmp_path)
    assert "runs/distances.png is already drawn, from files that are gone: remove it" in words
    assert "Summary of 1 run" in words and figure.stat().st_mtime_ns == drawn and not path.exists()
    more = drive(*driver, "--world_sizes", 3, 6, "--dry_run", cwd=tmp_path)
    assert "2 runs: 0 done, 2 to do (1 again, for files that are not here)" in more, "a figure of both needs both"
    figure.unlink()
    drive(*driver, "--world_sizes", 3, cwd=tmp_path)
    assert path.read_bytes() == (tmp_path / "weights.npy").read_bytes() and figure.exists()


def test_a_failed_run_does_not_keep_the_others_and_is_told_at_the_end(tmp_path):
    (tmp_path / "runs").mkdir()
    blocked = "digits_async_6_100_0005_09_32_1_SGD_labels_delay_slow_worker_1_small_constant_comp_virtual_log.log"
    (tmp_path / "runs" / blocked).mkdir()
    words = drive("run_delay_exps", *QUICK, "--parts", "b", "--world_sizes", 3, 6, "--delays", "small", "medium",
                  "--results", "runs", cwd=tmp_path, code=1)  # fmt: skip
    assert len(trials_of(tmp_path / "runs")) == 3
    failures = words[words.index("1 of 4 runs failed:") :]
    assert "python3 dist_async.py" in failures and blocked in failures
    assert [int(match) for match in re.findall(r"^(\d)/4  .* left  digits", words, re.MULTILINE)] == [1, 2, 3, 4]
    assert (tmp_path / "runs/summary.md").exists()


def wait_for_trials(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "trials.jsonl").exists() or len(trials_of(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descendants(pid: int) -> set[int]:
    children = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):  # one per thread
        with contextlib.suppress(OSError):  # it has just ended
            children |= set(map(int, path.read_text().split()))
    return children.union(*map(descendants, children))


def wait_until_gone(processes: set[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_driver_leaves_no_process_and_resumes(number, tmp_path):
    sweep = command("run_delay_exps", *QUICK, "--parts", "c", "--world_sizes", 3, "--epochs", 8, "--results", "runs",
                    "--jobs", 2)  # fmt: skip
    process = subprocess.Popen(sweep, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        wait_for_trials(tmp_path / "runs", 2)
        left = descendants(process.pid)
        os.killpg(process.pid, number)
        code = process.wait(timeout=30)
        assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
        wait_until_gone(left)
    finally:
        process.kill()
    done = trials_of(tmp_path / "runs")
    assert 2 <= len(done) < 9
    words = drive(*("run_delay_exps", *QUICK, "--parts", "c", "--world_sizes", 3, "--epochs", 8, "--results", "runs",
                    "--jobs", 2), cwd=tmp_path)  # fmt: skip
    assert f"9 runs, {len(done)} already done" in words
    rows = trials_of(tmp_path / "runs")
    assert rows[: len(done)] == done and len({row.name for row in rows}) == 9


def terminate_with_descendants(process: subprocess.Popen) -> None:
    """Send SIGTERM to this process alone, and wait until all that it had started are gone, too."""
    left = descendants(process.pid)
    assert left
    process.terminate()
    process.wait(timeout=30)
    wait_until_gone(left)


@pytest.mark.parametrize("driver", ["run_delay_exps", "compare"])
def test_a_driver_that_is_terminated_takes_its_runs_along(driver, tmp_path):
    """The driver alone gets the signal, as from a supervisor."""
    flags = {"run_delay_exps": (*QUICK, "--parts", "c"), "compare": ("--modes", "async", "--clock", "virtual")}[driver]
    sweep = command(driver, *flags, "--epochs", 10, "--results", "runs")
    process = subprocess.Popen(sweep, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        wait_for_trials(tmp_path / "runs", 1)
        terminate_with_descendants(process)
    finally:
        process.kill()


# The program itself says that it has started: until the shell's child executes it, a signal can be lost.
SAYS_STARTED = f"{sys.executable} -c 'import time; print(\"started\", flush=True); time.sleep(60)'"


def start_study(folder: Path, driver: str) -> subprocess.Popen:
    """A study of two drivers, of which the first is this text and has printed "started"."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "scripts/run_stopping.sh").write_text(driver)
    (folder / "scripts/run_distances.sh").write_text("echo the next one\n")
    study = ["bash", folder / "scripts/run_study.sh", "--experiments", "stopping", "distances"]
    process = subprocess.Popen(study, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True)
    while process.stdout.readline() != "started\n":
        assert process.poll() is None
    return process


@pytest.mark.parametrize(
    "driver",
    [
        f'trap "exit 130" INT\n{SAYS_STARTED}\n',  # as drivers end: the sweep has seen the Ctrl-C
        'set -euo pipefail\nsource "$(dirname "$0")/lib.sh"\n'
        f'summarise() (trap "exit 130" INT; {SAYS_STARTED})\ntrap : INT\nfinish summarise\n',
    ],
    ids=["while it sweeps", "while it summarises"],
)
def test_an_interrupted_study_ends(driver, tmp_path):
    process = start_study(tmp_path, driver)
    try:
        os.killpg(process.pid, signal.SIGINT)
        words, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "the next one" not in words


def test_a_study_that_is_terminated_takes_its_driver_along(tmp_path):
    process = start_study(tmp_path, f"exec {SAYS_STARTED}\n")
    try:
        terminate_with_descendants(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_names_of_logs_have_the_folder_as_it_is():
    code = f'source "{ROOT}/scripts/lib.sh"; results="R&D\\1"; logs_of a b; printf "%s\\n" "${{logs[@]}}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "R&D\\1/a_log.log\nR&D\\1/b_log.log\n"


def test_names_of_runs_are_those_that_can_be_known(tmp_path):
    """Without learning rates, the runs that are compared have no names yet."""
    for driver, chosen_by in (("run_algorithms", 75), ("run_experiment", 90)):
        arguments = ["partitions"] if driver == "run_experiment" else []
        names = drive(driver, *arguments, "--names", "--summary_dir", "none", cwd=tmp_path).split()
        assert len(names) == chosen_by and all("_val_" in name for name in names)
    assert "about" in drive("run_stopping", "--clock", "wall", "--dry_run", cwd=tmp_path)


def test_a_sweep_that_cannot_work_ends_its_driver(tmp_path):
    (tmp_path / "runs").mkdir()
    lock = os.open(tmp_path / "runs", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    words = drive("run_async_momentums", *QUICK, "--results", "runs", cwd=tmp_path, code=1)
    os.close(lock)
    assert words.count("error: ") == words.count("another sweep is at work in this folder") == 1
    (tmp_path / "file").touch()
    for flag in ("--results", "--summary_dir"):
        words = drive("run_stopping", *QUICK, flag, "file", cwd=tmp_path, code=2)
        assert f"{flag} file is not valid: a file is in its place" in words


def test_momentums_are_trained_tested_and_drawn_together_and_each(tmp_path):
    drive("run_async_momentums", *QUICK, "--epochs", 2, "--momentums", 0.5, 0, "--grid_size", 4, "--jobs", 2,
          "--results", "runs", cwd=tmp_path)  # fmt: skip
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert sum(name.endswith("_test_performance.txt") for name in names) == 2
    assert {
        f"async_momentums_loss_landscape_multi_{end}" for end in ("contour.html", "surface.html", "contour.png")
    } < names
    assert "plotly.min.js" in names
    drive("loss_landscape", "runs", "--grid_size", 3, "--test_samples", 50, "--results", "figures", cwd=tmp_path)
    assert len(list((tmp_path / "figures").glob("*_loss_landscape_contour.html"))) == 2


def test_close_ups_are_trained_tested_and_drawn_with_their_staleness(tmp_path):
    drive("run_close_ups", *QUICK, "--world_sizes", 3, "--jobs", 2, "--results", "runs", "--plot_dir", "plots",
          cwd=tmp_path)  # fmt: skip
    assert len(trials_of(tmp_path / "runs")) == 4
    names = [path.name for path in (tmp_path / "plots").iterdir()]
    for end in ("_test_performance.txt", "_training_plots.png", "_validation_plots.png"):
        assert sum(name.endswith(end) for name in names) == 4
    assert "staleness_distributions.png" in names


def test_tests_are_made_again_only_if_what_is_drawn_with_them_is_not_all_here(tmp_path):
    driver = ("run_close_ups", *QUICK, "--world_sizes", 3, "--jobs", 2, "--results", "runs", "--plot_dir", "plots")
    drive(*driver, cwd=tmp_path)
    for path in (*(tmp_path / "runs").glob("*.pt"), *(tmp_path / "runs").glob("*.log")):
        path.unlink()
    for path in (tmp_path / "plots").glob(".*.origin"):  # a clone has none
        path.unlink()
    words = drive(*driver, "--dry_run", cwd=tmp_path)
    assert words.count("4 runs: 4 done, 0 to do") == 2
    words = drive(*driver, cwd=tmp_path)
    assert words.count("4 runs, 4 already done") == 2 and words.count("already drawn") == 1
    assert not list((tmp_path / "runs").glob("*.pt"))
    for gone in ("staleness_distributions.png", min((tmp_path / "plots").glob("*_test_performance.txt")).name):
        (tmp_path / "plots" / gone).rename(tmp_path / gone)
        words = drive(*driver, "--dry_run", cwd=tmp_path)
        assert re.findall("4 runs: .* to do", words) == ["4 runs: 0 done, 4 to do"] * 2
        (tmp_path / gone).rename(tmp_path / "plots" / gone)
    rows = tmp_path / "runs/trials.jsonl"
    _, *others = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(others))
    words = drive(*driver, "--dry_run", cwd=tmp_path)
    assert re.findall("4 runs: .* to do", words) == ["4 runs: 0 done, 4 to do"] * 2
    assert "(3 again, for files that are not here)" in words


def test_stopping_rules_are_compared(tmp_path):
    driver = ("run_stopping", *QUICK, "--world_sizes", 3, "--seeds", 1, 2, "--evals_per_epoch", 2, "--jobs", 2)
    drive(*driver, "--results", "runs", cwd=tmp_path)
    assert (tmp_path / "runs/stopping_rules.png").stat().st_size > 0
    rows = re.findall(
        r"^\| 2 \| (\w+) \| 2 \| (\d+\.\d ± \d+\.\d) \| ", (tmp_path / "runs/stopping.md").read_text(), re.M
    )
    assert [rule for rule, _ in rows] == ["epochs", "first", "total"]
    assert rows[0][1] == rows[1][1], "until the first worker finishes, these two rules are the same"


def test_algorithms_are_tuned_and_then_compared_on_new_seeds(tmp_path):
    driver = ("run_algorithms", *QUICK, "--world_size", 6, "--worker_speeds", 0.25, 1, 1, 1, 1,
              "--algorithms", "asgd+compensation", "ringmaster", "backup", "--rates", 1e-6, 0.02, "--seeds", 2, 3,
              "--evals_per_epoch", 2, "--jobs", 2)  # fmt: skip
    drive(*driver, "--results", "runs", cwd=tmp_path)
    tuning, trials = trials_of(tmp_path / "runs/tuning"), trials_of(tmp_path / "runs")
    assert sorted((trial.config.lr, trial.seed) for trial in tuning) == [(1e-6, 1)] * 3 + [(0.02, 1)] * 3
    assert all(trial.outcome.validation_accuracy is not None for trial in tuning)
    assert [trial.seed for trial in trials].count(3) == 3 and not any(trial.config.val for trial in trials)
    best = {}
    for trial in tuning:
        best.setdefault(trial.config.algorithm, []).append((trial.outcome.validation_accuracy, -trial.config.lr))
    assert {trial.config.algorithm: trial.config.lr for trial in trials} == {
        algorithm: -max(found)[1] for algorithm, found in best.items()
    }
    assert all(len(trial.outcome.label_accuracies) == 10 for trial in trials)
    table = (tmp_path / "runs/algorithms.md").read_text()
    assert re.search(r"^\| ringmaster \| .*lost: its gradients are dropped \| [1-9]", table, re.MULTILINE)
    assert re.findall(r"\d+ done, (\d+) to do", drive(*driver, "--results", "runs", "--dry_run", cwd=tmp_path)) == [
        "0",
        "0",
    ]
    assert "| asgd+compensation |" in table and "**" in (tmp_path / "runs/tuning/tuning.md").read_text()
    drive(*driver, "--rates", 1e-6, "--results", "runs", cwd=tmp_path)  # beside runs with other rates
    assert "| asgd+compensation | 1e-06 | 2 |" in (tmp_path / "runs/algorithms.md").read_text()
    assert (tmp_path / "runs/algorithms.png").stat().st_size > 0


def test_rates_cannot_be_chosen_by_runs_that_end_before_they_are_validated(tmp_path):
    driver = ("run_algorithms", *QUICK, "--max_seconds", 0.01, "--world_size", 3, "--worker_speeds", 0.5, 1,
              "--algorithms", "asgd", "--rates", 0.02, "--results", "runs")  # fmt: skip
    words = drive(*driver, cwd=tmp_path, code=1)
    assert "it has no run with --val that reached the end of an epoch" in words and "Traceback" not in words
    drive(*driver, "--dry_run", cwd=tmp_path)


def test_the_study_is_made_of_the_drivers(tmp_path):
    some = ("undelayed_published", "delays_published", "kfold")
    words = drive("run_study", "--dry_run", "--experiments", *some, "--summary_dir", tmp_path / "rows", cwd=tmp_path)
    counts = [int(count) for count in re.findall(r"^(\d+) runs:", words, re.MULTILINE)]
    assert counts == [3 + 36, 3 * (36 + 2 * 9 + 27), 4]
    assert "--experiments sleep" in drive("run_study", "--experiments", "sleep", cwd=tmp_path, code=2)
    assert list(tmp_path.iterdir()) == []


def test_grid_searches_end_in_a_table_of_the_best(tmp_path):
    grid = ("--epochs", 1, 2, "--learning_rates", 0.01, 0.05, "--batch_sizes", 32, "--momentums", 0.5)
    arguments = ("--dataset", "digits", "--k_splits", 2, *grid, "--max_samples", 400, "--results", "kfold")
    drive("run_kfold_full", *arguments, "--networks", "default", cwd=tmp_path)
    again = ("run_kfold_full", *arguments, "--networks", "default", "--dry_run")
    assert "2 runs: 2 done, 0 to do" in drive(*again, cwd=tmp_path)
    assert "2 runs: 1 done, 1 to do" in drive(*again, "--momentums", 0.5, 0.9, cwd=tmp_path), "Adam has none"
    best = rows_of(tmp_path / "kfold/best.csv")
    assert [(row["optimizer"], row["network"]) for row in best] == [("ADAM", "LeNet5"), ("SGD", "LeNet5")]
    for row in best:
        rows = rows_of(next((tmp_path / "kfold").glob(f"kfold_digits_{row['optimizer']}_*.csv")))
        assert float(row["accuracy, %"].split()[0]) == pytest.approx(
            max(float(r["accuracy_mean"]) for r in rows), abs=0.005
        )


def test_a_whole_driver_runs(tmp_path):
    """All 37 trainings of the comparison, but for the slow network."""
    drive("run_speed_comp", *QUICK, "--networks", "LeNet5", "--train_split", 0.5, "--jobs", 2, "--results", "runs",
          cwd=tmp_path)  # fmt: skip
    trials = trials_of(tmp_path / "runs")
    assert Counter(trial.config.mode for trial in trials) == {"classic": 1, "sync": 9, "async": 9}
    assert len(rows_of(tmp_path / "runs/summary.csv")) == 19
