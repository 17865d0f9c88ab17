"""The grid search: folds, a training against an independent implementation, the results file, interruptions, usage."""

import csv
import itertools
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import kfold
from common import LeNet5, build_model, load_dataset, make_generator
from cross_validation.command_line import LEARNING_RATES, MOMENTUMS, make_grid, parse_arguments
from cross_validation.grid import Configuration, SearchGrid, SearchSettings
from cross_validation.plots import draw_grid
from cross_validation.results import Result, ResultsFile, rank, read_results
from cross_validation.search import SearchData, Training, make_folds, train
from evaluation import evaluate
from interface.command_line import run_script
from interface.errors import DataError
from training.config import RunConfig
from training.plan import make_plan
from training.protocol import Snapshot

REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT = 120  # seconds of one command line, on a busy machine
SEED = 7
GRID = "--learning_rates 0.01 0.05 1000 --batch_sizes 8 16 --momentum 0.5 --epochs 1 2 --k_splits 4 --max_samples 400"
SETTINGS = SearchSettings("digits", "LeNet5", "SGD", samples=400, folds=4, seed=SEED, data="0" * 16)


def command(folder: Path, flags: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "kfold.py"), "--dataset", "digits", "--seed", str(SEED),
            "--subfolder", str(folder), *flags.split()]  # fmt: skip


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows in a fixed order, without the time, which differs between any two searches."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row.pop("seconds")) >= 0
    return sorted(rows, key=lambda row: tuple(row.values()))


@pytest.fixture(autouse=True)
def one_thread():
    """Train with one thread, as the order of sums depends on it; restore the SIGTERM handler that scripts replace."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def samples():
    return load_dataset("digits", "").train


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Path, str]:
    """A complete search with two trainings at a time: its folder and its output."""
    folder = tmp_path_factory.mktemp("searched")
    done = subprocess.run(command(folder, f"{GRID} --jobs 2"), capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


# ----------------------------------------------------------------------------------------------------
# Folds and trainings
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [(10, 2), (103, 5), (7, 7)])
def test_folds_are_disjoint_complete_and_seeded(size, count):
    indices = torch.arange(size) * 3
    folds = make_folds(indices, count, SEED)
    assert torch.equal(torch.cat([fold.held_out for fold in folds]).sort().values, indices)
    for fold in folds:
        assert torch.equal(torch.cat([fold.train, fold.held_out]).sort().values, indices)
        assert size // count <= len(fold.held_out) <= -(-size // count)
    assert len({fold.seed for fold in folds}) == count
    again, other = make_folds(indices, count, SEED), make_folds(indices, count, SEED + 1)
    assert all(
        torch.equal(one.train, two.train) and one.seed == two.seed for one, two in zip(folds, again, strict=True)
    )
    assert size < 10 or not torch.equal(folds[0].held_out, other[0].held_out)


def test_a_csv_row_matches_plain_pytorch(searched, samples):
    """One fold trained again: the network without flat vectors, unfused SGD, a separate loop."""
    folder, _ = searched
    generator = make_generator(SEED, "subset")
    subset = torch.randperm(len(samples), generator=generator)[:400].sort().values
    fold = make_folds(subset, 4, SEED)[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_generator(fold.seed, "initialisation").initial_seed())
        network = LeNet5(10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.5, fused=False, foreach=False)
    shuffle = make_generator(fold.seed, "shuffle", worker=1)
    images, labels = samples.images.permute(0, 3, 1, 2), samples.labels
    for _ in range(2):
        order = fold.train[torch.randperm(len(fold.train), generator=shuffle)]
        for start in range(0, len(order), 16):
            batch = order[start : start + 16]
            optimizer.zero_grad()
            F.nll_loss(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        output = network(images[fold.held_out])
    accuracy = 100 * (output.argmax(dim=1) == labels[fold.held_out]).float().mean().item()

    [row] = [
        row
        for row in read_rows(folder / f"{SETTINGS.name}.csv")
        if (row["learning_rate"], row["batch_size"], row["epochs"]) == ("0.05", "16", "2")
    ]
    losses, accuracies = (
        torch.tensor([float(value) for value in row[name].split()]) for name in ("losses", "accuracies")
    )
    assert losses[2].item() == pytest.approx(F.nll_loss(output, labels[fold.held_out]).item(), rel=1e-3)
    assert accuracies[2].item() == pytest.approx(accuracy, rel=1e-6)
    for values, name in ((losses, "loss"), (accuracies, "accuracy")):
        assert float(row[f"{name}_mean"]) == pytest.approx(values.mean().item(), rel=1e-5)
        assert float(row[f"{name}_std"]) == pytest.approx(values.std(correction=1).item(), rel=1e-3)


@pytest.mark.parametrize("alr", [False, True])
def test_a_training_equals_a_non_distributed_run_to_the_bit(samples, alr):
    """The same mini-batches, dropout and updates, using the components of the training scripts."""
    fold = make_folds(torch.arange(60), 3, SEED)[1]
    data = SearchData(SearchSettings("digits", "CNN1", "ADAM" if alr else "SGD", 60, 3, SEED, ""), samples, (fold,))
    configuration = Configuration(0.01, 0.0 if alr else 0.9, 16)
    ((score, _),) = train(data, Training(configuration, (2,), 0))

    config = RunConfig(mode="classic", dataset="digits", lr=0.01, momentum=configuration.momentum, batch_size=16,
                       epochs=2, alr=alr, alt_model=True)  # fmt: skip
    plan = replace(make_plan(config, fold.seed, samples), train=fold.train, shards=(fold.train,))
    model, borrowed = (build_model("digits", "CNN1", fold.seed) for _ in range(2))
    worker, optimizer = plan.worker(1), plan.optimizer(model)
    for step in range(plan.updates):
        push = worker.compute(Snapshot(step, model.parameters, model.buffers), borrowed, samples)
        optimizer.step(push.gradient, plan.learning_rate(step, step))
    assert score == evaluate(samples, model, fold.held_out)


def test_a_shorter_training_is_a_prefix_of_a_longer_one(samples):
    data = SearchData(SETTINGS, samples, make_folds(torch.arange(80), 2, SEED))
    configuration = Configuration(0.05, 0.9, 16)
    longer = train(data, Training(configuration, (1, 3), 0))
    assert longer[0].score == train(data, Training(configuration, (1,), 0))[0].score != longer[1].score
    assert 0 < longer[0].seconds < longer[1].seconds


# ----------------------------------------------------------------------------------------------------
# The search, complete and interrupted
# ----------------------------------------------------------------------------------------------------


def test_a_search_without_a_result_is_left_out_of_the_summary(nursery, searched, tmp_path):
    (path,) = searched[0].glob("kfold_*.csv")
    shutil.copy(path, tmp_path)
    titles = path.read_text().splitlines()[0]
    for name, text in {"interrupted": f"{titles}\n", "torn": titles[:9], "empty": ""}.items():
        (tmp_path / f"kfold_{name}.csv").write_text(text)
    ended = nursery.run("cross_validation/summary.py", tmp_path).went_well()
    for name in ("interrupted", "torn", "empty"):
        assert f"kfold_{name}.csv: contains no result yet" in ended.errors
    assert len((tmp_path / "best.csv").read_text().splitlines()) == 2
    (tmp_path / path.name).unlink()
    ended = nursery.run("cross_validation/summary.py", tmp_path)
    assert ended.code == 1 and "no kfold_*.csv with results" in ended.errors


def test_a_search_prints_its_results_best_first(searched):
    folder, printed = searched
    rows = read_rows(folder / f"{SETTINGS.name}.csv")
    points = itertools.product(["0.01", "0.05", "1000.0"], ["8", "16"], ["1", "2"])
    assert {(row["learning_rate"], row["batch_size"], row["epochs"]) for row in rows} == set(points)
    assert len(rows) == 12

    table = [line.split() for line in printed.splitlines() if line.strip()[:2].rstrip(".").isdigit()]
    assert [line[0] for line in table] == [f"{place}." for place in range(1, 13)]
    assert ["diverged" in line for line in table] == [False] * 8 + [True] * 4
    best = max(rows, key=lambda row: (math.isfinite(float(row["loss_mean"])), float(row["accuracy_mean"])))
    assert (
        f"python3 nonDistributed.py --dataset digits --lr {best['learning_rate']} --batch_size {best['batch_size']} "
        f"--epochs {best['epochs']} --momentum 0.5 --seed {SEED}\n"
    ) in printed
    assert (folder / f"{SETTINGS.name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*partial*"))


@pytest.fixture
def start():
    """Starts a search in its own process group, as a shell does; none outlives its test."""
    processes = []

    def start_search(folder: Path, grid: str) -> subprocess.Popen:
        process = subprocess.Popen(
            command(folder, f"{grid} --jobs 2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start_search
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_rows(path: Path, rows: int, process: subprocess.Popen) -> list[int]:
    """Wait until the file has this many rows; return the training processes."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") <= rows:
        assert time.monotonic() < deadline
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the search ended first: {process.stderr.read()}")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    return [int(child) for child in children]


def alive(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_and_a_lost_process_end_a_search_with_one_line(start, tmp_path):
    folders = tmp_path / "interrupted", tmp_path / "lost"
    endless = GRID.replace("1000", " ".join(str(0.001 * step) for step in range(1, 200)))
    processes = [start(folder, endless) for folder in folders]
    workers = [
        wait_for_rows(folder / f"{SETTINGS.name}.csv", 2, process)
        for folder, process in zip(folders, processes, strict=True)
    ]
    os.killpg(processes[0].pid, signal.SIGINT)
    os.kill(workers[1][0], signal.SIGKILL)
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 1]
    assert errors[0] == "kfold.py: error: interrupted\n"
    assert errors[1].startswith("kfold.py: error: a training process was lost") and errors[1].count("\n") == 1
    assert not any(map(alive, workers[0] + workers[1]))
    for folder in folders:
        assert len(read_rows(folder / f"{SETTINGS.name}.csv")) >= 2


def test_a_killed_search_resumes_to_the_same_results(start, searched, tmp_path):
    """Killed with two jobs and its last line truncated, completed with one job."""
    path = tmp_path / f"{SETTINGS.name}.csv"
    process = start(tmp_path, GRID)
    workers = wait_for_rows(path, 2, process)
    process.kill()
    process.communicate(timeout=30)
    for worker in workers:
        wait_until_gone(worker)
    kept = path.read_bytes()
    path.write_bytes(kept + kept.splitlines(keepends=True)[-1][:60])

    flags = f"{GRID} --jobs 1"
    done = subprocess.run(command(tmp_path, flags), capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes().startswith(kept)
    assert read_rows(path) == read_rows(searched[0] / path.name)


def wait_until_gone(process: int) -> None:
    """Wait for a child of a killed search: the kernel kills it some time later."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 10)[0], f"process {process} outlives its search"
    os.close(descriptor)


# ----------------------------------------------------------------------------------------------------
# The results file
# ----------------------------------------------------------------------------------------------------

RESULT = Result(Configuration(0.01, 0.9, 32), 2, (0.1, 0.25, 1 / 3, 0.2), (97.5, 200 / 3, 90.0, 1e2), 1.5)


@pytest.fixture
def results(tmp_path) -> Path:
    """A file with two results."""
    path = tmp_path / "results.csv"
    with ResultsFile(path, SETTINGS) as file:
        file.add(RESULT)
        file.add(replace(RESULT, epochs=4, losses=(0.1, math.nan, math.inf, 0.2)))
    return path


def test_results_survive_a_round_trip(results):
    with ResultsFile(results, SETTINGS) as file:
        assert list(file.results) == [(RESULT.configuration, 2), (RESULT.configuration, 4)]
        assert file.results[RESULT.configuration, 2] == RESULT
        assert not file.results[RESULT.configuration, 4].converged


@pytest.mark.parametrize("keep", [0, 1, 30, 300, -1, -40])
def test_an_incomplete_line_is_dropped_and_complete_ones_stay(results, keep):
    content = results.read_bytes()
    results.write_bytes(content[:keep])
    with ResultsFile(results, SETTINGS) as file:
        missing = [epochs for epochs in (2, 4) if (RESULT.configuration, epochs) not in file.results]
        assert 4 in missing
        for epochs in missing:
            file.add(replace(RESULT, epochs=epochs))
    with ResultsFile(results, SETTINGS) as file:
        assert len(file.results) == 2
    assert results.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"dataset,", b"data,", "line 1"),
        (b"\ndigits", b"\nmnist", "line 2: belongs to another search: its dataset is 'mnist', not digits"),
        (b",4,7,", b",4,8,", "line 2: belongs to another search: its seed is '8', not 7"),
        (b",32,2,", b",32,2.5,", "line 2: damaged"),
        (b"97.5", b"9.75", "line 2: damaged"),
        (b" nan inf ", b" nan ", "line 3: damaged"),
        (b"\ndigits", b"\n\xff\x00gits", "line 2: belongs to another search"),
        (b"\ndigits", b"\n\ndigits", "line 2"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_left_unchanged(results, old, new, message):
    content = results.read_bytes().replace(old, new, 1)
    assert content != results.read_bytes()
    results.write_bytes(content)
    with pytest.raises(DataError) as error, ResultsFile(results, SETTINGS):
        pass
    assert f"{results}, {message}" in str(error.value) and "\n" not in str(error.value)
    assert results.read_bytes() == content


def test_only_one_search_at_a_time_writes_to_a_file(results):
    script = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    holder = [sys.executable, "-c", script, str(results)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(DataError, match="another search is writing to it"), ResultsFile(results, SETTINGS):
            pass
        assert [result.epochs for result in read_results(results, SETTINGS)] == [2, 4], "which can be read meanwhile"
        other.communicate(b"\n", timeout=10)


def test_diverged_results_rank_last_however_accurate():
    good, better, lucky = (
        replace(RESULT, losses=losses, accuracies=accuracies)
        for losses, accuracies in [
            ((0.2,) * 4, (80.0,) * 4),
            ((0.1,) * 4, (80.0,) * 4),
            ((0.1, 0.1, 0.1, math.nan), (99.0,) * 4),
        ]
    )
    assert rank([lucky, good, better]) == [better, good, lucky]
    assert rank([good, better, lucky]) == [better, good, lucky]


@pytest.mark.parametrize("diverged", [False, True])
def test_any_grid_can_be_drawn(tmp_path, diverged):
    """A single cell, converged or diverged."""
    grid = SearchGrid((0.01,), (0.9,), (32,), (2,))
    losses = (math.nan,) * 4 if diverged else RESULT.losses
    draw_grid(tmp_path / "grid.png", SETTINGS, grid, [replace(RESULT, losses=losses)])
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "grid.pdf"}


# ----------------------------------------------------------------------------------------------------
# Usage
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--k_splits 1", "--k_splits"),
        ("--k_splits 101 --max_samples 100", "from 2 to the number of samples, 100"),
        ("--batch_sizes 32 81 --max_samples 100", "[1,80]"),
        ("--batch_sizes 0", "--batch_sizes"),
        ("--batch_sizes", "--batch_sizes"),
        ("--learning_rates -0.1", "--learning_rates"),
        ("--learning_rates nan", "--learning_rates"),
        ("--learning_rates 0.1 inf", "--learning_rates"),
        ("--learning_rates", "--learning_rates"),
        ("--momentums", "--momentums"),
        ("--momentum -1", "--momentum"),
        ("--momentum 0.5 --momentums 0.9", "--momentums"),
        ("--epochs 0", "--epochs"),
        ("--epochs 1.5", "--epochs"),
        ("--max_samples 0", "--max_samples"),
        ("--jobs 0", "--jobs"),
        ("--seed -1", "--seed"),
        ("--dataset letters", "--dataset"),
        ("--lr 0.1", "--lr"),
        ("--dataset digits --changed_data", "--changed_data"),
    ],
)
def test_wrong_usage_ends_with_one_line(flags, named, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", command(tmp_path, flags)[1:])
    with pytest.raises(SystemExit) as end:
        run_script(kfold.main)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("kfold.py: error: ") and error.count("\n") == 1 and named in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "momentums"),
    [
        ("", (0.0,)),
        ("--momentum", MOMENTUMS),
        ("--momentum 0.5", (0.5,)),
        ("--momentum --momentums 0.9 0.3 0.9", (0.3, 0.9)),
        ("--momentums 0 0.3", (0.0, 0.3)),
        ("--alr", (0.0,)),
        ("--alr --momentum 0.9", (0.0,)),
    ],
)
def test_momentum_flags(flags, momentums, monkeypatch, caplog):
    monkeypatch.setattr(sys, "argv", ["kfold.py", "--dataset", "digits", *flags.split()])
    grid = make_grid(parse_arguments())
    assert grid.momentums == momentums
    assert grid.learning_rates == LEARNING_RATES["ADAM" if "--alr" in flags else "SGD"]
    assert ("not used with --alr" in caplog.text) == (flags == "--alr --momentum 0.9")
