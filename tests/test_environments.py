"""Nothing that a user's environment contains changes or breaks what a script does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, train
from live_run import LiveRun
from nursery import Nursery
from training.record.reader import read_log

RUN = ("--epochs", 2, "--clock", "virtual", "--saves_per_epoch", 2, "--seed", 1, "--momentum", 0)
ENVIRONMENTS = {
    "a notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONIOENCODING": "ascii"},
    "a cluster": {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "1"},
    "an old system": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "MPLBACKEND": "nonsense"},
    "a strict shell": {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "latin-1", "SHELLOPTS": "nounset", "CDPATH": "/"},
    "modules of the same names": {"PYTHONPATH": ".", "PYTHONSTARTUP": "common.py", "BASH_ENV": "/nowhere"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    return train("dist_async.py", tmp_path_factory.mktemp("trained"), *RUN)


@pytest.fixture
def strange_folder(tmp_path) -> Path:
    """A working directory with modules that have the names of the suite's, and settings of matplotlib."""
    folder = tmp_path / "my experiments, été"
    for name in ("common", "catalogue", "evaluation", "training/__init__", "analysis/__init__", "scripts/__init__"):
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('imported from the working directory')\n")
    (folder / "matplotlibrc").write_text("savefig.dpi: 7\nfigure.figsize: 1, 1\naxes.titlesize: 1\n")
    return folder


def execute(command: list, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"VENV": "/dev/null/venv", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment | variables, capture_output=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_scripts_and_drivers_in_a_strange_environment(name, trained, strange_folder):
    variables, results = ENVIRONMENTS[name], strange_folder / "résultats"
    plots = [ROOT / "test_model.py", trained["model"], trained["log"], "--training_time", "--pics"]
    if "PYTHONPATH" in variables or "MPLBACKEND" in variables:  # which concern figures and imports
        execute([sys.executable, *plots, "--subfolder", results], strange_folder, **variables)
        assert list(results.glob("*_training_plots.png"))
    driver = ["bash", ROOT / "scripts/run_delay_exps.sh", "--dataset", "digits", "--epochs", 1, "--clock", "virtual",
              "--parts", "b", "--world_sizes", 3, "--delays", 30, "--results", results]  # fmt: skip
    execute(driver, strange_folder, **variables)
    assert "Shared by all runs" in (results / "summary.md").read_text(encoding="utf-8")


HOSTILE = ENVIRONMENTS["an old system"] | ENVIRONMENTS["a strict shell"] | {
    "HOME": "/nonexistent", "TERM": "", "DISPLAY": ":99", "COLUMNS": "7", "PYTHONOPTIMIZE": "2",
}  # fmt: skip
# A user without a name, who may read what root may: the interpreter can lie in root's home.
UNKNOWN_USER, READING = 54321, "-all,+dac_read_search"
AS_UNKNOWN_USER = ["setpriv", f"--reuid={UNKNOWN_USER}", f"--regid={UNKNOWN_USER}", "--clear-groups",
                   *(f"--{kind}={READING}" for kind in ("inh-caps", "ambient-caps", "bounding-set"))]  # fmt: skip
TINY = "--dataset digits --train_split 0.2 --seed 1"
SCRIPTS = {
    "nonDistributed.py": TINY,
    "dist_sync.py": f"{TINY} --clock virtual",
    "dist_async.py": TINY,
    "test_model.py": "{model} {log} --classification_report",
    "loss_landscape.py": "{model} {weights} --grid_size 3",
    "loss_landscape_multi.py": "{model} {weights} {weights} --grid_size 3 --no_grid_save",
    "kfold.py": "--dataset digits --epochs 1 --k_splits 2 --learning_rates 0.1 --batch_sizes 128 --seed 1",
    "nb_params.py": "",
}


@pytest.fixture
def hostile_folder(strange_folder) -> tuple[list[str], Path]:
    """What to put before a command so that another user executes it, where that is possible, and a folder of theirs."""
    if os.geteuid() != 0:
        return [], strange_folder
    os.chown(strange_folder, UNKNOWN_USER, UNKNOWN_USER)
    return AS_UNKNOWN_USER, strange_folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_in_a_hostile_environment(script, trained, hostile_folder):
    as_user, strange_folder = hostile_folder
    flags = SCRIPTS[script].format(**trained).split()
    outputs = [] if script == "nb_params.py" else ["--subfolder", strange_folder / "résultats"]
    execute([*as_user, sys.executable, ROOT / script, *flags, *outputs], strange_folder, **HOSTILE)
    assert not outputs or list((strange_folder / "résultats").iterdir())


NAMED = {"run_experiment.sh": ["partitions"]}  # arguments that a driver needs


@pytest.mark.parametrize("driver", sorted(path.name for path in (ROOT / "scripts").glob("run_*.sh")))
def test_every_driver_in_a_hostile_environment(driver, hostile_folder):
    as_user, strange_folder = hostile_folder
    if driver == "run_tests.sh":
        return
    before = sorted(strange_folder.rglob("*"))
    arguments = [*NAMED.get(driver, []), "--dry_run", "--results", "résultats"]
    command = [*as_user, "bash", ROOT / "scripts" / driver, *arguments]
    output = execute(command, strange_folder, **HOSTILE).stdout.decode(errors="replace")
    assert "to do" in output and sorted(strange_folder.rglob("*")) == before


@pytest.mark.parametrize(
    "command", [f"{ROOT}/dist_async.py {TINY} --clock virtual --subfolder runs", f"{ROOT}/nb_params.py"]
)
def test_an_output_that_nobody_reads(command, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *command.split()], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE,
                          text=True, timeout=60)  # fmt: skip
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == f"{Path(command.split()[0]).name}: error: standard output: Broken pipe\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_checkout_of_another_user(tmp_path):
    """It can be read only: nothing is written into it, and the log has its revision."""
    subprocess.run(["git", "-c", "safe.directory=*", "clone", "-q", ROOT, tmp_path / "suite"], check=True, timeout=60)
    for path in [tmp_path / "suite", *(tmp_path / "suite").rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    before = sorted((tmp_path / "suite").rglob("*"))
    no_privileges = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    flags = [*TINY.split(), "--clock", "virtual", "--subfolder", "runs"]
    execute([*no_privileges, sys.executable, tmp_path / "suite/dist_async.py", *flags], tmp_path)
    (log,) = (tmp_path / "runs").glob("*_log.log")
    assert len(read_log(log).header["revision"]) == 12
    assert sorted((tmp_path / "suite").rglob("*")) == before
    os.chown(tmp_path / "runs", 65534, 65534)
    command = [*no_privileges, sys.executable, ROOT / "dist_async.py", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.endswith("Permission denied\n") and done.stderr.count("\n") == 1


def test_figures_have_their_own_settings(trained, strange_folder, nursery: Nursery, tmp_path):
    """A matplotlibrc in the working directory would make them tiny."""
    arguments = (trained["model"], trained["log"], "--training_time", "--pics", "--subfolder", ".")
    execute([sys.executable, ROOT / "test_model.py", *arguments], strange_folder)
    (tmp_path / "plain").mkdir()
    nursery.run("test_model.py", *arguments, folder=tmp_path / "plain").went_well()
    (strange,), (plain,) = (list(folder.glob("*.png")) for folder in (strange_folder, tmp_path / "plain"))
    assert strange.read_bytes() == plain.read_bytes()


def test_a_driver_behind_a_link(tmp_path):
    (tmp_path / "sweep").symlink_to(ROOT / "scripts/run_speed_comp.sh")
    assert b"37 runs: 0 done" in execute(["bash", "sweep", "--dry_run"], tmp_path).stdout


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams(closing, tmp_path):
    flags = "--dataset digits --clock virtual --train_split 0.1 --seed 1 --subfolder runs"
    execute(["sh", "-c", f"exec {sys.executable} {ROOT}/dist_async.py {flags} {closing}"], tmp_path)
    (log,) = (tmp_path / "runs").glob("*_log.log")
    assert read_log(log).status == "complete"


def test_the_home_folder_in_a_flag(tmp_path):
    flags = ("--dataset", "digits", "--clock", "virtual", "--train_split", 0.1, "--subfolder=~/runs")
    command = [sys.executable, ROOT / "dist_async.py", *flags]
    (tmp_path / "cwd").mkdir()
    execute(command, tmp_path / "cwd", HOME=str(tmp_path))
    assert list((tmp_path / "runs").glob("*_log.log")) and not list((tmp_path / "cwd").iterdir())


def test_a_hang_up_leaves_a_partial_run(tmp_path):
    flags = ("--dataset", "digits", "--seed", 1, "--epochs", 60)
    with LiveRun(tmp_path, "dist_async.py", *flags) as live:
        live.wait_until_training()
        live.process.send_signal(signal.SIGHUP)
        assert live.end()[0] == 130
    left = {path.name.rpartition("_")[2] for path in tmp_path.glob("*_partial*")}
    assert left == {"log.log", "model.pt", "checkpoint.pt"}


def test_a_low_limit_of_open_files_is_raised_or_named(tmp_path):
    script = f"exec {sys.executable} {ROOT}/dist_async.py --dataset digits --seed 1 --subfolder runs --world_size 11"
    execute(["sh", "-c", f"ulimit -Sn 48; {script}"], tmp_path)
    done = subprocess.run(["sh", "-c", f"ulimit -n 100; {script}"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--world_size 11 needs about 124 open files, and the limit is 100" in done.stderr
    assert not list((tmp_path / "runs").glob("*_partial*"))


def test_positionals_behind_a_greedy_flag(nursery: Nursery):
    ended = nursery.run("loss_landscape_multi.py", "--labels", "a", "b", "x_model.pt", "x_weights.npy")
    assert "give them before --labels, which takes all values up to the next flag" in ended.errors


@pytest.mark.parametrize("script", ["test_model.py", "loss_landscape.py", "loss_landscape_multi.py"])
def test_a_file_that_is_not_there(script, nursery: Nursery, tmp_path):
    nursery.run(script, "nope", "nope_log.log", folder=tmp_path).refused("nope: no such file")


def test_samples_that_nobody_has_are_counted(tmp_path):
    flags = ("--split_labels", "--world_size", 11, "--train_split", 0.05, "--batch_size", 2, "--subfolder", tmp_path)
    command = [sys.executable, ROOT / "dist_sync.py", "--dataset", "digits", "--clock", "virtual", "--seed", 1, *flags]
    output = execute(command, tmp_path).stdout.decode()
    assert "--split_labels: each worker keeps 4 samples; 32 of 72 are left out" in output
