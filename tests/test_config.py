"""Every flag refuses what it cannot use: exit code 2, one line that names the flag, the value and what is valid."""

import argparse
import importlib
import re
import sys

import pytest

from catalogue import PARTITIONS
from conftest import ROOT, run
from interface.command_line import Interval, run_script
from interface.errors import DataError, UsageError
from training.command_line import make_parser
from training.config import RunConfig
from training.settings import ROWS

SCRIPTS = {"classic": "nonDistributed", "sync": "dist_sync", "async": "dist_async"}
EVERYWHERE, DISTRIBUTED, ASYNC = tuple(SCRIPTS), ("sync", "async"), ("async",)

BAD_VALUES = {
    "dataset": (EVERYWHERE, ["imagenet", "", "MNIST"]),
    "train_split": (EVERYWHERE, ["0", "1.1", "-0.5", "nan", "inf", "x"]),
    "lr": (EVERYWHERE, ["0", "-1", "nan", "inf", "fast"]),
    "momentum": (EVERYWHERE, ["-0.1", "nan", "inf", "x"]),
    "batch_size": (EVERYWHERE, ["0", "-1", "1.5", "x"]),
    "epochs": (EVERYWHERE, ["0", "-1", "2.5", "x", "nan"]),
    "seed": (EVERYWHERE, ["-1", "1.5", "x"]),
    "saves_per_epoch": (EVERYWHERE, ["0", "-1", "0.5"]),
    "lrs": (EVERYWHERE, ["linear", ""]),
    "world_size": (DISTRIBUTED, ["1", "0", "-3", "2.0", "x"]),
    "master_port": (DISTRIBUTED, ["0", "65536", "-1", "x"]),
    "rank": (DISTRIBUTED, ["-1", "x", "3 --seed 1", "99 --seed 1"]),
    "delay_intensity": (DISTRIBUTED, ["tiny", ""]),
    "delay_type": (DISTRIBUTED, ["uniform"]),
    "stop": (DISTRIBUTED, ["never", ""]),
    "max_seconds": (DISTRIBUTED, ["0", "-1", "nan", "soon"]),
    "split_dirichlet": (DISTRIBUTED, ["0", "-1", "nan", "inf"]),
    "local_steps": (DISTRIBUTED, ["0", "-1", "1.5"]),
    "compute_time": (DISTRIBUTED, ["uniform", "normal", "pareto:1", "exponential:2", "lognormal:x", "normal:1e9"]),
    "worker_speeds": (DISTRIBUTED, ["0", "-1 1", "fast", "spread", "spread:0", "1 1 x1", "1e-308 1", "spread:1e200"]),
    "communication_ms": (DISTRIBUTED, ["-1", "nan", "1e308"]),
    "evals_per_epoch": (EVERYWHERE, ["0", "-1", "0.5"]),
    "delay_ms": (DISTRIBUTED, ["0", "-10", "nan", "inf", "1e13"]),
    "clock": (DISTRIBUTED, ["cpu"]),
    "compute_ms": (DISTRIBUTED, ["0", "-1", "nan", "1e308"]),
    "master_addr": (DISTRIBUTED, ["a..b", ""]),
    "peer_timeout": (DISTRIBUTED, ["0", "1e10"]),
    "compensation_mode": (ASYNC, ["linear"]),
    "compensation_lambda": (ASYNC, ["-1", "nan", "inf"]),
}

BAD_COMBINATIONS = [
    (DISTRIBUTED, "--split_dataset --split_labels", "--split_labels"),
    (ASYNC, "--split_labels --split_labels_unscaled", "--split_labels_unscaled"),
    (DISTRIBUTED, "--split_labels --world_size 2", "--world_size 2"),
    (DISTRIBUTED, "--split_labels --world_size 4", "--world_size 4"),
    (ASYNC, "--split_labels_unscaled --world_size 8", "--world_size 8"),
    (DISTRIBUTED, "--split_labels --world_size 11 --dataset cifar100 --train_split 2", "--train_split"),
    (DISTRIBUTED, "--split_labels --world_size 4 --dataset cifar100", "--world_size 4"),
    (DISTRIBUTED, "--delay_intensity long", "--delay_intensity"),
    (DISTRIBUTED, "--delay_type constant", "--delay_type"),
    (DISTRIBUTED, "--delay_ms 30", "--delay_ms"),
    (DISTRIBUTED, "--delay --delay_ms 30 --delay_intensity long", "--delay_intensity"),
    (DISTRIBUTED, "--compute_ms 10", "--compute_ms"),
    (DISTRIBUTED, "--compute_time constant", "--compute_time"),
    (DISTRIBUTED, "--worker_speeds 1 2", "--worker_speeds"),
    (DISTRIBUTED, "--clock virtual --worker_speeds 1 2 3", "--worker_speeds 1.0 2.0 3.0"),
    (DISTRIBUTED, "--communication_ms 3", "--communication_ms"),
    (DISTRIBUTED, "--split_dirichlet 0.1 --split_labels", "--split_dirichlet"),
    (DISTRIBUTED, "--local_steps 2 --alr", "--local_steps"),
    (DISTRIBUTED, "--dataset digits --split_dirichlet 0.1 --world_size 100", "--split_dirichlet"),
    (EVERYWHERE, "--dataset digits --evals_per_epoch 1000000", "--evals_per_epoch 1000000"),
    (EVERYWHERE, "--dataset digits --changed_data", "--changed_data"),
    (("classic",), "--stop first", "--stop"),
    (DISTRIBUTED, "--clock virtual --rank 0", "--rank"),
    (DISTRIBUTED, "--rank 1", "--seed"),
    (ASYNC, "--compensation_lambda 2", "--compensation_lambda"),
    (ASYNC, "--compensation_mode constant", "--compensation_mode"),
    (ASYNC, "--replay x.log --clock virtual", "x.log"),
    # what a script does not know
    (("classic",), "--world_size 3", "--world_size"),
    (("classic",), "--split_dataset", "--split_dataset"),
    (("classic",), "--clock virtual", "--clock"),
    (("sync",), "--compensation", "--compensation"),
    (("sync",), "--split_labels_unscaled", "--split_labels_unscaled"),
    (("sync",), "--replay x.log", "--replay"),
    (EVERYWHERE, "--epoch 3", "--epoch"),
    (EVERYWHERE, "extra", "extra"),
    # what only the data can tell
    (EVERYWHERE, "--dataset digits --batch_size 1438", "[1,1437]"),
    (EVERYWHERE, "--dataset digits --train_split 0.1 --batch_size 145", "[1,144]"),
    (EVERYWHERE, "--dataset digits --saves_per_epoch 1000000", "--saves_per_epoch 1000000"),
    (EVERYWHERE, "--dataset digits --train_split 0.001 --batch_size 1 --val", "--val"),
    (DISTRIBUTED, "--dataset digits --split_dataset --world_size 1439", "--world_size 1439"),
    (ASYNC, "--dataset digits --train_split 0.003 --batch_size 1 --split_labels --world_size 11", "--world_size 11"),
]

CASES = [(mode, f"--{flag} {value}", f"--{flag}") for flag, (modes, values) in BAD_VALUES.items()
         for value in values for mode in modes]  # fmt: skip
CASES += [(mode, line, named) for modes, line, named in BAD_COMBINATIONS for mode in modes]


@pytest.mark.parametrize(("mode", "line", "named"), CASES, ids=[f"{mode} {line}" for mode, line, _ in CASES])
def test_bad_flags(mode, line, named, monkeypatch, capsys, tmp_path):
    script = importlib.import_module(SCRIPTS[mode])
    arguments = [*line.split(" "), "--subfolder", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [f"{SCRIPTS[mode]}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_script(script.main)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(error.splitlines()) == 1 and error.startswith(f"{SCRIPTS[mode]}.py: error: ")
    assert named in error
    assert not (tmp_path / "out").exists(), "nothing may be written for a run that cannot be"


def test_as_a_process():
    done = run("dist_async.py", "--lr", "0", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dist_async.py: error: argument --lr: '0' is not valid: give a number in (0,inf)\n"


@pytest.mark.parametrize(("seed", "valid"), [("-1", "[0,inf)"), (str(2**63), "below 2^63"), ("9" * 5000, "below 2^63")])
def test_an_integer_that_files_cannot_hold_is_refused_as_that(seed, valid):
    with pytest.raises(argparse.ArgumentTypeError, match=rf"is not valid: give an integer (in )?{re.escape(valid)}"):
        ROWS["seed"].valid(seed)
    assert ROWS["seed"].valid(str(2**63 - 1)) == 2**63 - 1


def flags_of(mode: str) -> set[str]:
    """Every flag of a script."""
    partitions = {name for name, row in PARTITIONS.items() if name != "none" and mode in row.modes}
    return {name for name, row in ROWS.items() if mode in row.modes and name != "partition"} | partitions


@pytest.mark.parametrize("mode", SCRIPTS)
def test_help_names_every_flag_once_in_groups(mode):
    text = make_parser(mode, "about").format_help()
    assert sorted(re.findall(r"^  --(\w+)", text, re.MULTILINE)) == sorted(flags_of(mode))
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings[:3] == ["options", "Data", "Network and optimiser"] and headings[-1] != "options"


@pytest.mark.parametrize(
    ("mistyped", "meant"), [("--epoch", "--epochs"), ("--learning_rat", None), ("--worldsize=4", "--world_size"),
                            ("--momentun", "--momentum")]
)  # fmt: skip
def test_a_mistyped_flag_is_answered_with_the_one_that_was_meant(mistyped, meant, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["dist_sync.py", mistyped, "3"])
    with pytest.raises(SystemExit):
        make_parser("sync", "about").parse_args()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"unrecognized arguments: {mistyped}" in error
    assert error.rstrip().endswith(f"; did you mean {meant}?") if meant else "did you mean" not in error


@pytest.mark.parametrize(
    "error", [ValueError("a number is odd"), KeyError("x"), AssertionError(), RuntimeError("torch")]
)
def test_a_bug_keeps_its_traceback_and_says_that_it_is_one(error, capsys, monkeypatch):
    def main() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["dist_sync.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 70
    *trace, last = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback") and "raise error" in "\n".join(trace)
    assert last.startswith(f"dist_sync.py: error: this is a bug in the suite ({type(error).__name__}")


@pytest.mark.parametrize("package", ["torch", "training.missing", "torch.missing"])
def test_a_package_that_is_not_installed_is_no_bug_but_a_module_of_ours_is(package, capsys, monkeypatch):
    def main() -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr("sys.argv", ["dist_sync.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    words = capsys.readouterr().err
    assert ended.value.code == (1 if package == "torch" else 70)
    assert ("Traceback" in words) == (package != "torch")
    assert (f"the package torch is not installed for {sys.executable}" in words) == (package == "torch")


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("--lr"), 2), (DataError("a.log"), 1), (OSError(28, "full", "a"), 1)]
)
def test_what_is_no_bug_is_one_line(error, code, capsys, monkeypatch):
    def main() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["dist_sync.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == code and capsys.readouterr().err.count("\n") == 1


def test_a_network_has_one_configuration_however_it_is_asked_for():
    assert RunConfig(mode="sync", network="CNN1") == RunConfig(mode="sync", alt_model=True)
    assert RunConfig(mode="sync", network="LeNet5") == RunConfig(mode="sync")
    with pytest.raises(UsageError, match="--network CNN1 has no effect with --alt_model"):
        RunConfig(mode="sync", network="CNN1", alt_model=True)


def test_momentum_with_adam_warns_and_goes_on(tmp_path):
    done = run("nonDistributed.py", "--dataset", "digits", "--alr", "--momentum", 0.9, "--subfolder", tmp_path)
    assert "--momentum 0.9 is not used with --alr" in done.stderr
    assert list(tmp_path.glob("*_ADAM_model.pt"))


def test_defaults_are_used_and_printed(tmp_path):
    done = run("nonDistributed.py", "--dataset", "digits", "--subfolder", tmp_path)
    for setting, value in (("lr", "0.01 (default)"), ("epochs", "1 (default)"), ("dataset", "digits")):
        assert f"  {setting:<20} {value}\n" in done.stdout


@pytest.mark.parametrize("name", ["world_size", "delay", "clock", "compensation"])
def test_a_classic_run_has_no_distributed_settings(name):
    value = {"world_size": 4, "clock": "virtual"}.get(name, True)
    with pytest.raises(UsageError, match=f"--{name}"):
        RunConfig(mode="classic", **{name: value})


def test_filled_in_where_they_act():
    assert RunConfig(mode="async", delay=True).delay_intensity == "small"
    assert RunConfig(mode="async", delay=True, delay_ms=60.0).delay_intensity is None
    assert RunConfig(mode="async").compensation_lambda is None
    assert RunConfig(mode="async", compensation=True).compensation_lambda == 2.0
    assert RunConfig(mode="async", clock="virtual").compute_ms == 10.0


@pytest.mark.parametrize(("text", "inside", "outside"), [("(0,1]", [1e-9, 1], [0, 1.1]), ("[0,inf)", [0, 1e308], [-1]),
                                                         ("[1,65535]", [1, 65535], [0, 65536])])  # fmt: skip
def test_intervals(text, inside, outside):
    interval = Interval(float, text)
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in [*outside, float("nan"), float("inf"), True, None, "1"])


def test_scripts_run_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("nonDistributed.py", "--dataset", "digits")
    assert {path.suffix for path in tmp_path.iterdir()} == {".log", ".pt"}
    assert not list(ROOT.glob("digits_*"))


def test_a_momentum_that_never_fades_is_warned_of(nursery, tmp_path):
    flags = ("--dataset", "digits", "--train_split", 0.1, "--seed", 1)
    ended = nursery.run("nonDistributed.py", *flags, "--momentum", 1.2, folder=tmp_path, timeout=120).went_well()
    assert ended.warnings[0].endswith("--momentum 1.2: with 1 or more, steps never fade, and training diverges")
    assert not nursery.run("nonDistributed.py", *flags, "--momentum", 0.9, folder=tmp_path, timeout=120).warnings


def test_a_log_to_replay_that_is_not_there(nursery, tmp_path):
    nursery.run("dist_async.py", "--replay", "nope", folder=tmp_path).refused("--replay nope: no such file")
