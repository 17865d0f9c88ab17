"""Sweeps on a cluster: a scheduler and workers of Dask's, in processes of their own, some of which are killed.

CLUSTER_RUNS=40 python3 -m pytest tests/test_cluster.py    # the runs of the sweep that loses a worker; 12 by default
"""

import contextlib
import dataclasses
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from analysis.reports.trials import Trial
from conftest import ROOT, weights_of
from interface.processes import available_cores
from live_run import listening_addresses
from test_drivers import command, descendants, drive, environment, trials_of, wait_for_trials
from test_machines import Hosts

pytest.importorskip("distributed", reason="distributed is not installed: pip install -r requirements-cluster.txt")

RUNS = int(os.environ.get("CLUSTER_RUNS", 12))
SCHEDULER = ("distributed.cli.dask_scheduler", "--port", 0, "--dashboard-address", "127.0.0.1:0")
WORKER = ("distributed.cli.dask_worker", "--no-dashboard", "--nthreads", 1, "--resources", "machine=1")
QUICK = ("--dataset", "digits", "--epochs", 1, "--clock", "virtual", "--lr", 0.05, "--workers", 2)
LONG = ("--dataset", "digits", "--epochs", 200, "--clock", "virtual", "--lr", 0.01, "--workers", 2)
DEAD_LINK_SECONDS = 11  # the least that distributed takes


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> object:
    """The first value of a condition that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_nursery(pid: int) -> bool:
    return b"scripts.nursery" in Path(f"/proc/{pid}/cmdline").read_bytes()


def runs_of(worker: subprocess.Popen) -> set[int]:
    """The processes that the nursery of a worker has forked."""
    with contextlib.suppress(OSError):  # one of them has just ended
        nurseries = [pid for pid in descendants(worker.pid) if is_nursery(pid)]
        return set().union(*map(descendants, nurseries))
    return set()


class Cluster:
    """A scheduler and workers on loopback, or on hosts of their own. address: of the scheduler."""

    def __init__(self, folder: Path, hosts: Hosts | None = None) -> None:
        self.folder, self.hosts = folder, hosts
        self.processes: list[subprocess.Popen] = []
        folder.mkdir()
        host = hosts.address(0) if hosts else "127.0.0.1"
        self.scheduler = self.start(SCHEDULER, "--host", host)
        self.address = wait_for(lambda: self.found_in_log(0, r"Scheduler at: +(\S+)"), "scheduler")

    def start(self, module: tuple, *arguments: object, on: int = 0, **variables: str) -> subprocess.Popen:
        """Start a command of Dask's."""
        entered = ["ip", "netns", "exec", self.hosts.namespace(on)] if self.hosts else []
        words = [*entered, sys.executable, "-m", *module, *arguments]
        timeouts = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{DEAD_LINK_SECONDS}s"}
        place = {"PYTHONPATH": str(ROOT), "DASK_TEMPORARY_DIRECTORY": str(self.folder)}
        with self.log(len(self.processes)).open("w") as log:
            process = subprocess.Popen(
                list(map(str, words)), cwd=self.folder, env=environment() | timeouts | place | variables, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def add_worker(self, *flags: object, on: int = 0, **variables: str) -> subprocess.Popen:
        """Start a worker, and wait until it is registered."""
        number = len(self.processes)
        host = self.hosts.address(on) if self.hosts else "127.0.0.1"
        worker = self.start((*WORKER, self.address), "--host", host, *flags, on=on, **variables)
        wait_for(lambda: self.found_in_log(number, r"(Registered) to:"), "worker")
        return worker

    def log(self, number: int) -> Path:
        return self.folder / f"{number}.log"

    def found_in_log(self, number: int, pattern: str) -> str | None:
        found = re.search(pattern, self.log(number).read_text())
        return found and found[1]

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            kill(process)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and all others of its session: for a worker of Dask's, not those that execute runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:
        try:
            hosts = stack.enter_context(Hosts())
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("network namespaces are not allowed here")
        yield hosts


def start_driver(folder: Path, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        command("compare", *arguments, "--results", "runs"), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def ended(driver: subprocess.Popen, timeout: float = 240) -> tuple[int, str]:
    try:
        words, _ = driver.communicate(timeout=timeout)
    finally:
        kill(driver)
    return driver.returncode, words


def comparable(folder: Path) -> dict[str, Trial]:
    """The rows of a sweep, without the time of each run and the state of the checkout at that time."""
    trials = trials_of(folder)
    assert len((folder / "trials.jsonl").read_text().splitlines()) == len(trials), "a row is doubled"
    return {
        trial.name: dataclasses.replace(
            trial, outcome=dataclasses.replace(trial.outcome, real_seconds=None, started="", revision="")
        )
        for trial in trials
    }


def sweep_of(count: int) -> tuple:
    return (*QUICK, "--modes", "async", "--seeds", *range(count))


def test_a_sweep_that_loses_a_worker_has_the_rows_of_a_local_one(cluster, tmp_path):
    workers = [cluster.add_worker() for _ in range(3)]
    driver = start_driver(tmp_path, *sweep_of(RUNS), "--scheduler", cluster.address)
    wait_for_trials(tmp_path / "runs", RUNS // 4)
    executing = wait_for(lambda: [worker for worker in workers if runs_of(worker)], "run")
    left = descendants(executing[0].pid)
    kill(executing[0])
    wait_for(lambda: not any(map(is_alive, left)), "end of what the worker had started", 20)
    code, words = ended(driver)
    assert code == 0, words
    assert not list((tmp_path / "runs").glob("*.log")), "only the rows come back"
    drive("compare", *sweep_of(RUNS), "--results", "local", "--jobs", available_cores(), cwd=tmp_path)
    found, expected = comparable(tmp_path / "runs"), comparable(tmp_path / "local")
    assert len(found) == RUNS and found == expected


def test_a_killed_driver_leaves_nothing_running_and_resumes(cluster, tmp_path):
    worker = cluster.add_worker()
    sweep = (*QUICK, "--epochs", 8, "--modes", "async", "--seeds", 1, 2, 3, "--scheduler", cluster.address)
    driver = start_driver(tmp_path, *sweep)
    wait_for_trials(tmp_path / "runs", 1)
    running = wait_for(lambda: runs_of(worker), "run")
    kill(driver)
    done = len(trials_of(tmp_path / "runs"))
    assert 1 <= done < 3
    wait_for(lambda: not any(map(is_alive, running)), "end of the run", 20)
    code, words = ended(start_driver(tmp_path, *sweep))
    assert code == 0 and f"3 runs, {done} already done" in words, words
    assert len(comparable(tmp_path / "runs")) == 3


def test_a_killed_scheduler_ends_the_sweep_and_another_one_resumes_it(cluster, tmp_path):
    worker = cluster.add_worker()
    driver = start_driver(tmp_path, *sweep_of(4), "--scheduler", cluster.address)
    wait_for_trials(tmp_path / "runs", 1)
    started = descendants(worker.pid)
    kill(cluster.scheduler)
    code, words = ended(driver, 60)
    assert code == 1, words
    assert words.splitlines()[-1].endswith("was lost; the same command resumes") and cluster.address in words
    assert "Traceback" not in words
    wait_for(lambda: not any(map(is_alive, started)), "end of the worker")
    done = len(trials_of(tmp_path / "runs"))
    with Cluster(tmp_path / "another") as another:
        another.add_worker()
        code, words = ended(start_driver(tmp_path, *sweep_of(4), "--scheduler", another.address))
    assert code == 0 and f"4 runs, {done} already done" in words, words
    assert len(comparable(tmp_path / "runs")) == 4


def test_an_interrupted_driver_ends_at_once(cluster, tmp_path):
    worker = cluster.add_worker()
    driver = start_driver(tmp_path, *LONG, "--modes", "async", "--seeds", 1, 2, "--scheduler", cluster.address)
    running = wait_for(lambda: runs_of(worker), "run")
    os.killpg(driver.pid, signal.SIGINT)
    code, words = ended(driver, 20)
    assert code == 130 and "interrupted" in words and "Traceback" not in words
    wait_for(lambda: not any(map(is_alive, running)), "end of the run", 20)


def test_a_worker_whose_link_goes_down_is_replaced(hosts, tmp_path):
    with Cluster(tmp_path / "cluster", hosts) as cluster:
        workers = [cluster.add_worker(on=number) for number in (1, 2)]
        inside = ["ip", "netns", "exec", hosts.namespace(0)]
        driver = subprocess.Popen(
            [*inside, *command("compare", *sweep_of(4), "--results", "runs", "--scheduler", cluster.address)],
            cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        wait_for_trials(tmp_path / "runs", 1)
        started = wait_for(lambda: runs_of(workers[0]), "run")
        hosts.cut(1)
        code, words = ended(driver)
        assert code == 0, words
        wait_for(lambda: not any(map(is_alive, started)), "end of the run that nobody waits for")
    assert len(comparable(tmp_path / "runs")) == 4


def test_files_come_back_and_travel_to_what_reads_them(cluster, tmp_path):
    """Training, tests and a landscape on a cluster leave what they leave on one machine."""
    cluster.add_worker()
    driver = ("run_async_momentums", "--dataset", "digits", "--epochs", 2, "--clock", "virtual", "--momentums", 0.5, 0)
    for folder, flags in (("here", ()), ("there", ("--scheduler", cluster.address))):
        drive(*driver, "--grid_size", 4, "--results", folder, *flags, cwd=tmp_path)
    here, there = tmp_path / "here", tmp_path / "there"
    assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()}
    for path in here.glob("*_weights.npy"):
        assert path.read_bytes() == (there / path.name).read_bytes()
    assert comparable(here) == comparable(there)
    words = drive(*driver, "--grid_size", 4, "--results", "there", "--scheduler", cluster.address, cwd=tmp_path)
    assert re.findall(r"^(\d runs?, \d) already done", words, re.MULTILINE) == [
        "2 runs, 2",
        "2 runs, 2",
        "1 run, 1",
    ]


def test_keep_files(cluster, tmp_path):
    cluster.add_worker()
    drive("compare", *sweep_of(1), "--results", "runs", "--scheduler", cluster.address, "--keep", "files", cwd=tmp_path)
    kinds = {path.stem.rpartition("_")[2]: path for path in (tmp_path / "runs").glob("digits_*")}
    assert set(kinds) == {"log", "model"}
    drive("compare", *sweep_of(1), "--results", "local", cwd=tmp_path)
    (model,) = (tmp_path / "local").glob("*_model.pt")
    assert weights_of(kinds) == weights_of({"model": model})


def test_grid_searches_resume_from_their_tables(cluster, tmp_path):
    cluster.add_worker()
    search = ("run_kfold", "--dataset", "digits", "--k_splits", 2, "--epochs", 1, "--learning_rates", 0.05,
              "--batch_sizes", 32, "--max_samples", 200, "--jobs", 1)  # fmt: skip
    drive(*search, "--momentums", 0.5, "--results", "there", "--scheduler", cluster.address, cwd=tmp_path)
    (table,) = (tmp_path / "there").glob("kfold_*.csv")
    first = table.read_text()
    drive(*search, "--momentums", 0.5, 0.9, "--results", "there", "--scheduler", cluster.address, cwd=tmp_path)
    assert table.read_text().startswith(first) and table.read_text().count("\n") == first.count("\n") + 1


def test_wall_clock_runs_have_a_machine_for_themselves(cluster, tmp_path):
    """The worker has two threads, on which runs on the virtual clock could overlap."""
    cluster.add_worker("--nthreads", 2)
    flags = ("--dataset", "digits", "--epochs", 1, "--modes", "async", "--workers", 1, "--clock", "wall", "virtual")
    drive("compare", *flags, "--seeds", 1, 2, "--results", "runs", "--scheduler", cluster.address, cwd=tmp_path)
    spans = {}
    for trial in trials_of(tmp_path / "runs"):
        start = datetime.fromisoformat(trial.outcome.started)
        spans[trial] = start, start + timedelta(seconds=trial.outcome.real_seconds)
    assert len(spans) == 4
    for one, other in itertools.combinations(spans, 2):
        (start, end), (other_start, other_end) = spans[one], spans[other]
        if "wall" in (one.config.clock, other.config.clock):
            assert end <= other_start or other_end <= start


@pytest.fixture
def old_torch(tmp_path) -> dict[str, str]:
    """The environment of a worker with another version of torch."""
    metadata = tmp_path / "old/torch-1.2.3.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    return {"PYTHONPATH": f"{tmp_path / 'old'}:{ROOT}"}


OTHER_TORCH = r"error: worker tcp://127.0.0.1:\d+ has version 1.2.3 of torch, the driver has 2\."


def test_another_version_of_torch_is_refused_by_name(cluster, old_torch, tmp_path):
    cluster.add_worker(**old_torch)
    words = drive("compare", *sweep_of(1), "--results", "runs", "--scheduler", cluster.address, cwd=tmp_path, code=1)
    assert re.search(OTHER_TORCH, words)


def test_another_version_of_torch_on_a_worker_that_joins_later_ends_the_sweep(cluster, old_torch, tmp_path):
    worker = cluster.add_worker()
    driver = start_driver(tmp_path, *LONG, "--modes", "async", "--seeds", 1, "--scheduler", cluster.address)
    wait_for(lambda: runs_of(worker), "run")
    cluster.add_worker(**old_torch)
    kill(worker)  # the run is done again on the other one
    code, words = ended(driver)
    assert code == 1 and re.search(OTHER_TORCH, words), words


def test_another_version_of_the_suite_is_refused(cluster, tmp_path):
    ignored = shutil.ignore_patterns(".*", "__pycache__", "results", "plots", "summaries", "tests", "benchmarks")
    other = shutil.copytree(ROOT, tmp_path / "other", ignore=ignored)
    with (other / "common.py").open("a") as file:
        file.write("# changed\n")
    cluster.add_worker(PYTHONPATH=str(other))
    words = drive("compare", *sweep_of(1), "--results", "runs", "--scheduler", cluster.address, cwd=tmp_path, code=1)
    assert re.search(r"error: worker \S+ has version \w+ of the suite, the driver has \w+", words)


@pytest.mark.parametrize(
    ("flags", "variables", "named"),
    [
        (("--resources", "GPU=1"), {}, "offers no machine.*--resources machine=1"),
        ((), {"PYTHONPATH": ""}, "cannot import the suite.*PYTHONPATH="),
    ],
    ids=["without the resource", "without the suite"],
)
def test_a_worker_that_cannot_execute_runs_is_refused(flags, variables, named, cluster, tmp_path):
    cluster.add_worker(*flags, **variables)
    words = drive("compare", *sweep_of(1), "--results", "runs", "--scheduler", cluster.address, cwd=tmp_path, code=1)
    assert re.search(f"error: worker tcp://.* {named}", words.splitlines()[-1]), words


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (("--scheduler", "127.0.0.1:1"), 2, "--scheduler 127.0.0.1:1 is not valid: no scheduler answers there"),
        (("--scheduler", "nonsense://x"), 2, "--scheduler nonsense://x is not valid"),
        (("--scheduler", "127.0.0.1:1", "--jobs", 2), 2, "--jobs 2 has no effect with --scheduler 127.0.0.1:1"),
        (("--keep", "files"), 2, "--keep files has no effect without --scheduler"),
        (("--scheduler", "local", "--keep", "all"), 2, "--keep"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_command_line_that_cannot_be_is_refused_in_one_line(flags, code, named, tmp_path):
    for driver in (("compare", *sweep_of(1)), ("run_delay_exps", "--dataset", "digits", "--clock", "virtual")):
        words = drive(*driver, "--results", "runs", *flags, cwd=tmp_path, code=code, timeout=60)
        assert named in words.splitlines()[-1] and "Traceback" not in words


def test_a_machine_without_the_package_is_told_how_to_install_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['dask'] = sys.modules['distributed'] = None\n")
    driver = command("compare", *sweep_of(1), "--scheduler", "local")
    done = subprocess.run(driver, cwd=tmp_path, env=environment() | {"PYTHONPATH": str(tmp_path)}, text=True,
                          capture_output=True, timeout=60)  # fmt: skip
    assert done.returncode == 2 and "pip install -r" in done.stderr and "requirements-cluster.txt" in done.stderr


def test_a_local_cluster_cannot_be_reached_from_outside(tmp_path):
    driver = start_driver(tmp_path, *LONG, "--modes", "async", "--seeds", 1, "--scheduler", "local")
    try:
        wait_for(lambda: runs_of(driver), "run")
        started = descendants(driver.pid)
        assert listening_addresses([driver.pid, *started]) == {"0100007F"}
        os.killpg(driver.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, started)), "end of all processes", 30)
    finally:
        kill(driver)
