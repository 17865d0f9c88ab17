"""Faults: full disks, read-only folders, divergence, killed workers, and memory growth."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from live_run import LiveRun
from nursery import Ended, Nursery
from test_bad_files import contents
from test_drivers import QUICK, drive
from test_processes import LONG, wait_until_gone
from training.names import ARTIFACTS
from training.record.reader import read_log

TRAINING = {
    "nonDistributed": "nonDistributed.py",
    "dist_sync wall": "dist_sync.py",
    "dist_sync virtual": "dist_sync.py --clock virtual",
    "dist_async wall": "dist_async.py",
    "dist_async virtual": "dist_async.py --clock virtual",
}
SMALL = "--dataset digits --train_split 0.1 --epochs 2 --val --seed 1"
BASE = "digits_async_3_10_001_00_32_2_SGD_spe2_val_seed1_virtual"
KFOLD = "kfold_digits_SGD_LeNet5_samples60_folds2_seed1"
READING = {
    "test_model": f"test_model.py {BASE}_model.pt {BASE}_log.log --training_time --pics",
    "loss_landscape": f"loss_landscape.py {BASE}_model.pt {BASE}_weights.npy --grid_size 2 --test_samples 20",
    "loss_landscape_multi": f"loss_landscape_multi.py {BASE}_model.pt {BASE}_weights.npy --grid_size 2 "
    "--test_samples 20",
    "replay": f"dist_async.py --dataset digits --replay {BASE}_log.log",
    "kfold": "kfold.py --dataset digits --max_samples 60 --k_splits 2 --epochs 1 --learning_rates 0.01 0.05 0.1 "
    "--batch_sizes 16 --jobs 2 --seed 1",
}
WRITING = {name: f"{script} {SMALL}" for name, script in TRAINING.items()} | READING
SAVING = "--saves_per_epoch 2"


@pytest.fixture(scope="module")
def inputs(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that the scripts in READING read."""
    folder = tmp_path_factory.mktemp("inputs")
    nursery.run(f"{WRITING['dist_async virtual']} {SAVING}", folder=folder).went_well()
    return folder


def error_line(ended: Ended) -> str:
    """The single line of an error, after any warnings and names of partial files; asserts that nothing else follows."""
    assert ended.code in (1, 2), (ended.code, ended.errors)
    *others, error = ended.errors.splitlines()
    assert re.match(r"\S+\.py: error: ", error), ended.errors
    assert all(": warning: " in line or line.startswith("  partial: ") for line in others), ended.errors
    return error


def whole_files(folder: Path) -> dict[str, bytes]:
    """The contents of the files in a folder, except those whose names mark them as incomplete."""
    parts = ("_partial", "_unfinished.npz")
    return {name: content for name, content in contents(folder).items() if not any(part in name for part in parts)}


# ----------------------------------------------------------------------------------------------------
# Full disks
# ----------------------------------------------------------------------------------------------------

# Kind of file → additional flags, and the limit on its size as a fraction of the complete file.
LIMITS = {"log": ("", 0.8), "weights": (SAVING, 0.5), "model": ("", 0.5)}


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("name", TRAINING)
def test_a_run_whose_file_cannot_grow_names_it_and_keeps_earlier_results(name, kind, nursery, tmp_path):
    flags, fraction = LIMITS[kind]
    command = f"{WRITING[name]} {flags} --subfolder {tmp_path}"
    nursery.run(command).went_well()
    before = contents(tmp_path)
    ending = ARTIFACTS[kind]
    (limit,) = (int(fraction * len(content)) for file, content in before.items() if file.endswith(ending))
    ended = nursery.run(command, file_size=limit, output=os.devnull)
    error = error_line(ended)
    assert ended.code == 1 and re.search(rf"{tmp_path}/\S+_partial\d+{ending}: File too large$", error), error
    assert whole_files(tmp_path) == before
    partial = {path.name.rpartition("_")[2]: path for path in tmp_path.glob("*_partial*")}
    log = read_log(partial.pop("log.log"))
    assert log.result is None or log.result["status"] == "partial"
    assert 0 < len(log.updates) <= log.header["updates"]
    if "weights.npy" in partial:  # partial files are readable
        assert np.load(partial["weights.npy"]).shape == (2, 61706)
    if "model.pt" in partial:
        assert len(torch.load(partial["model.pt"], weights_only=True)) == 10


@pytest.mark.parametrize(
    "name, limit, ending",
    [
        ("test_model", 20_000, "_plots.png"),
        ("loss_landscape", 100_000, ".npz"),
        ("loss_landscape_multi", 1_500_000, ".html"),
        ("kfold", 600, ".csv"),
        ("kfold", 5_000, ".png"),
        ("replay", 100_000, "_weights.npy"),
    ],
)
def test_an_output_that_cannot_be_written_is_named_and_removed(name, limit, ending, nursery, inputs, tmp_path):
    command, folder = READING[name], tmp_path / "out"
    error = error_line(nursery.run(command, "--subfolder", folder, folder=inputs, file_size=limit, output=os.devnull))
    assert re.search(rf"{folder}/\S+{re.escape(ending)}: File too large$", error), error
    nursery.run(command, "--subfolder", folder, folder=inputs).went_well()  # it can resume or start again
    first = whole_files(folder)
    command = command.replace("0.01 0.05 0.1", "0.01 0.02 0.05 0.1")  # a search with a new configuration
    error_line(nursery.run(command, "--subfolder", folder, folder=inputs, file_size=limit, output=os.devnull))
    after = whole_files(folder)
    assert after.keys() == first.keys()
    for file, content in first.items():  # a table may only have gained lines
        assert after[file].startswith(content) if file.endswith(".csv") else after[file] == content


@pytest.mark.parametrize("name", [*WRITING, "nb_params"])
def test_an_unwritable_standard_output_is_an_error(name, nursery, inputs, tmp_path):
    command = f"{WRITING[name]} --subfolder {tmp_path}" if name in WRITING else "nb_params.py"
    ended = nursery.run(command, folder=inputs, output="/dev/full")
    assert ended.code == 1 and error_line(ended).endswith("error: standard output: No space left on device")


class Disk:
    """A small file system, mounted for one test."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        ).returncode:
            pytest.skip("mounting is not allowed here")

    def make_read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk with enough space for a landscape."""
    disk = Disk(tmp_path / "disk", "32m")
    yield disk
    disk.unmount()


def fill(folder: Path, leave: int) -> None:
    """Fill the disk until at most `leave` bytes are free."""
    system = os.statvfs(folder)
    (folder / "ballast").write_bytes(bytes(system.f_bavail * system.f_bsize - leave))


@pytest.mark.parametrize("name", ["nonDistributed", "dist_sync wall", "dist_async wall"])
def test_a_disk_that_becomes_full_during_a_run(name, nursery, disk):
    command = f"{WRITING[name]} {SAVING} --subfolder {disk.folder}"
    nursery.run(command).went_well()
    fill(disk.folder, leave=600_000)
    before = contents(disk.folder)
    error = error_line(nursery.run(command))
    assert re.search(rf"{disk.folder}/\S+_partial\d+_weights\.npy: No space left on device$", error), error
    assert whole_files(disk.folder) == before


@pytest.mark.parametrize("name", READING)
def test_a_disk_that_is_full_from_the_start(name, nursery, inputs, disk):
    fill(disk.folder, leave=0)
    before = contents(disk.folder)
    error = error_line(nursery.run(f"{READING[name]} --subfolder {disk.folder}", folder=inputs))
    assert re.search(rf"{disk.folder}/\S+: No space left on device$", error), error
    left = contents(disk.folder)
    assert {file: left[file] for file in before} == before
    assert all(not content for file, content in left.items() if file not in before)


# ----------------------------------------------------------------------------------------------------
# Folders that cannot be written to
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITING)
def test_a_folder_that_is_read_only(name, nursery, inputs, disk):
    command = f"{WRITING[name]} --subfolder {disk.folder}"
    nursery.run(command, folder=inputs).went_well()
    before = contents(disk.folder)
    disk.make_read_only()
    ended = nursery.run(command, folder=inputs)
    ended.refused(disk.folder, "Read-only file system")
    assert contents(disk.folder) == before


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_driver_whose_results_cannot_be_written(state, disk):
    fill(disk.folder, leave=0) if state == "full" else disk.make_read_only()
    before = contents(disk.folder)
    words = drive("run_delay_exps", *QUICK, "--parts", "b", "--world_sizes", 3, "--delays", 30,
                  "--results", disk.folder, cwd=disk.folder.parent, code=1)  # fmt: skip
    assert "Traceback" not in words and {"full": "No space left", "read-only": "Read-only"}[state] in words
    assert {name: content for name, content in contents(disk.folder).items() if content} == before


@pytest.mark.parametrize("folder", ["/proc", "/sys/none"])
@pytest.mark.parametrize("name", WRITING)
def test_a_folder_that_cannot_be_created(name, folder, nursery, inputs):
    nursery.run(WRITING[name], "--subfolder", folder, folder=inputs).refused(folder)


@pytest.mark.parametrize("below", ["", "/below"])
@pytest.mark.parametrize("name", WRITING)
def test_a_folder_that_is_a_file(name, below, nursery, inputs, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    ended = nursery.run(WRITING[name], "--subfolder", f"{file}{below}", folder=inputs)
    ended.refused("--subfolder", file)
    assert ended.code == 2 and contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize(
    "command, flag, written",
    [
        ("analysis/reports/summary.py . --summary_dir", "--summary_dir", "trials.jsonl"),
        ("analysis/reports/partition_plots.py --dataset digits --output", "--output", "plot.png"),
    ],
)
def test_unwritable_outputs_of_summaries_and_figures(command, flag, written, nursery, inputs, tmp_path):
    def run(folder: Path | str, **options: object) -> Ended:
        place = f"{folder}/{written}" if flag == "--output" else folder
        return nursery.run(command, place, folder=inputs, **options)

    file = tmp_path / "file"
    file.write_text("mine")
    run(file).refused(flag, file)
    run("/proc").refused("/proc/")
    run("/sys/none").refused("/sys/none")
    run(tmp_path, file_size=500, output=os.devnull).refused(tmp_path, written.partition(".")[0], "File too large")
    assert file.read_text() == "mine"


# ----------------------------------------------------------------------------------------------------
# Divergence
# ----------------------------------------------------------------------------------------------------

SPLIT = "--momentum 0.99 --train_split 1 --split_dataset"
DIVERGING = {
    "nonDistributed": "--lr 10 --momentum 0.99",
    "dist_sync wall": f"--lr 10 {SPLIT}",
    "dist_sync virtual": f"--lr 10 {SPLIT}",
    "dist_async wall": f"--lr 1e6 {SPLIT}",  # diverges for any order of arrival
    "dist_async virtual": f"--lr 10 {SPLIT}",
}


@pytest.fixture(scope="module")
def diverged(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ended, Path]]:
    """The result and the folder of each diverging training."""
    folders = {name: tmp_path_factory.mktemp("diverged") for name in TRAINING}
    return {name: (nursery.run(f"{WRITING[name]} {SAVING} {DIVERGING[name]}", folder=folder), folder)
            for name, folder in folders.items()}  # fmt: skip


@pytest.mark.parametrize("name", TRAINING)
def test_a_diverging_training_completes_with_one_warning(name, diverged):
    ended, folder = diverged[name]
    (warning,) = ended.went_well().warnings
    (path,) = folder.glob("*_log.log")
    log = read_log(path)
    at = log.result["diverged_at"]
    assert warning.endswith(f"warning: no convergence: the loss is no longer finite at update {at}")
    assert log.warnings == (f"no convergence: the loss is no longer finite at update {at}",)
    sums = log.updates.loss + log.updates.weight_norm
    assert not np.isfinite(sums[at - 1]) and np.isfinite(sums[: at - 1]).all()
    assert log.result["status"] == "complete" and len(log.updates) == log.header["updates"]
    assert [validation.epoch for validation in log.validations] == [1, 2]
    (weights,) = folder.glob("*_weights.npy")
    assert len(np.load(weights)) == 5


@pytest.mark.parametrize("name", TRAINING)
def test_a_diverged_run_can_be_tested_and_drawn(name, diverged, nursery):
    _, folder = diverged[name]
    (model,), (log,) = folder.glob("*_model.pt"), folder.glob("*_log.log")
    ended = nursery.run("test_model.py", model, log, "--training_time", "--pics", "--classification_report",
                        "--subfolder", folder / "out")  # fmt: skip
    assert not ended.went_well().errors
    assert "Run: complete; " in ended.output and "Warning in the log: no convergence" in ended.output
    for kind in ("training", "validation"):
        (picture,) = (folder / "out").glob(f"*_{kind}_plots.png")
        assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("name", TRAINING)
def test_the_landscape_of_a_diverged_run(name, diverged, nursery, inputs):
    """It uses the rows before the divergence, and needs three; together with another run, that one is drawn."""
    _, folder = diverged[name]
    (model,), (weights,) = folder.glob("*_model.pt"), folder.glob("*_weights.npy")
    with np.errstate(all="ignore"):
        usable = (np.linalg.norm(np.load(weights), axis=1) < 1e6).sum()
    assert usable < 5
    suffixes = {".html", ".npz", ".png", ".pdf"}
    flags = ("--grid_size", 2, "--test_samples", 20, "--subfolder")
    for script in ("loss_landscape.py", "loss_landscape_multi.py"):
        out = folder / script
        warnings = nursery.run(script, model, weights, *flags, out).went_well().warnings
        assert f"{weights}: {5 - usable} of 5 saved rows have no norm below 8.4e+06 (no convergence)" in warnings[0]
        assert ("nothing to draw" in warnings[-1]) == (usable < 3) == (not out.exists())
        assert usable < 3 or {path.suffix for path in out.iterdir()} == suffixes
    other, out = inputs / f"{BASE}_weights.npy", folder / "both"
    warnings = nursery.run("loss_landscape_multi.py", inputs / f"{BASE}_model.pt", weights, other,
                           *flags, out).went_well().warnings  # fmt: skip
    assert len(warnings) == 1 and weights.name in warnings[0]
    assert {path.suffix for path in out.iterdir()} == suffixes


def test_a_replay_of_a_diverged_run_diverges_identically(diverged, nursery, tmp_path):
    _, folder = diverged["dist_async wall"]
    (log,) = folder.glob("*_log.log")
    ended = nursery.run("dist_async.py --dataset digits --replay", log, "--subfolder", tmp_path).went_well()
    assert ended.warnings == diverged["dist_async wall"][0].warnings
    first, second = (np.load(next(where.glob("*_weights.npy"))) for where in (folder, tmp_path))
    np.testing.assert_array_equal(first, second)


def test_a_grid_search_ranks_and_draws_diverging_configurations(nursery, tmp_path):
    command = READING["kfold"].replace("0.01 0.05 0.1", "0.05 1e6") + " --momentum 0.99 --subfolder"
    ended = nursery.run(command, tmp_path).went_well()
    assert not ended.errors and re.search(r"^ *2\. .* diverged .* 1000000\.0 ", ended.output, re.MULTILINE)
    assert (tmp_path / f"{KFOLD}.png").stat().st_size > 10_000
    ended = nursery.run(command.replace("0.05 1e6", "1e6"), tmp_path / "alone").went_well()
    assert "Best: none, every configuration diverged" in ended.output


# ----------------------------------------------------------------------------------------------------
# Many workers, many updates, workers killed
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["dist_async.py", "dist_sync.py"])
def test_a_hundred_virtual_workers(script, nursery, tmp_path):
    nursery.run(f"{script} --dataset digits --clock virtual --world_size 101 --split_dataset --batch_size 5 --seed 1 "
                "--subfolder", tmp_path).went_well()  # fmt: skip
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert log.result["status"] == "complete" and log.result["lost_workers"] == []
    counts = np.bincount(log.gradients.worker, minlength=101)[1:]
    assert counts.tolist() == [3] * 100  # 1,437 samples in shards of 14 and 15
    assert log.result["max_staleness"] > 90 if script == "dist_async.py" else log.result["max_staleness"] == 0


@pytest.mark.parametrize("clock, epochs", [("virtual", 5), ("wall", 4)])
def test_memory_does_not_grow_with_the_number_of_updates(clock, epochs, nursery, tmp_path):
    """At most 1 KiB per update, beside 4 MiB by which two runs may differ; a gradient has 241 KiB."""
    command = (
        f"dist_async.py --dataset digits --train_split 0.5 --split_dataset --batch_size 1 --seed 1 --clock {clock}"
    )
    peaks = [
        nursery.run(command, "--epochs", number, "--subfolder", tmp_path).went_well().peak for number in (1, epochs)
    ]
    updates = sorted(len(read_log(path).updates) for path in tmp_path.glob("*_log.log"))
    assert updates == [718, epochs * 718]
    assert peaks[1] - peaks[0] < 4096 + (epochs - 1) * 718, peaks


def test_async_continues_when_two_of_five_workers_are_killed(tmp_path):
    run = LiveRun(tmp_path, "dist_async.py", *LONG, "--world_size", 6, "--epochs", 15, "--split_dataset")
    try:
        workers = run.wait_until_training()
        assert len(workers) == 5
        for victim in (1, 4):
            os.kill(workers[victim], signal.SIGKILL)
        code, _, error = run.end()
    finally:
        run.kill()
    assert code == 0, error
    assert sorted(error.splitlines()) == [
        f"dist_async.py: warning: Worker_{number} was lost (killed by SIGKILL): continuing without it"
        for number in (2, 5)
    ]
    log = read_log(next(tmp_path.glob("*_log.log")))
    assert log.result["status"] == "complete" and sorted(log.result["lost_workers"]) == ["Worker_2", "Worker_5"]
    whole = 15 * 9  # 1,437 samples in shards of 287 and 288, in batches of 32
    counts = [len(log.updates.of_worker(number)) for number in range(1, 6)]
    assert [count == whole for count in counts] == [True, False, True, True, False]
    wait_until_gone(workers)


@pytest.mark.parametrize("flags", [("--master_addr", "127.0.0.1"), ("--subfolder", "")], ids=lambda flags: flags[0])
def test_a_flag_without_effect_or_text_is_refused(flags, nursery, tmp_path):
    nursery.run("dist_async.py", *SMALL.split(), *flags, folder=tmp_path).refused(flags[0])
    assert list(tmp_path.iterdir()) == []
