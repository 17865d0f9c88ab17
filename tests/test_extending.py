"""An entry is one row and what it names: every script then trains, tests, draws and summarises with it."""

import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from catalogue import DATASETS, NETWORKS, PARTITIONS, implementation, networks_for
from conftest import ROOT
from training.algorithms import ALGORITHMS
from training.config import ROWS
from training.flags import MODES, Scope, Title
from training.stopping import STOPPING_RULES
from training.timing import COMPUTE_TIMES, DELAY_TYPES

EVERYTHING = ("--dataset", "noise", "--network", "Perceptron", "--split_evens", "--algorithm", "pairs", "--delay",
              "--delay_type", "alternating")  # fmt: skip
NAME = "noise_async_3_100_001_00_32_1_SGD_spe4_evens_delay_small_alternating_Perceptron_pairs_virtual"


def run(folder: Path, *command: object) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "tests/additions.py", *map(str, command)], cwd=folder, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_new_entries_are_trained_tested_drawn_and_summarised(tmp_path):
    run(tmp_path, "dist_async.py", *EVERYTHING, "--clock", "virtual", "--saves_per_epoch", 4, "--seed")
    files = [f"{NAME}_{end}" for end in ("model.pt", "weights.npy", "log.log")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    model, weights, log = files
    report = run(tmp_path, "test_model.py", model, log, "--training_time", "--pics")
    assert report.startswith("Perceptron on Noise, paired SGD, 2 workers\n")
    assert "every n-th sample to each worker, every worker delayed, small delays, alternating delays" in report
    assert "Perceptron on all 50 test images of noise" in run(
        tmp_path, "loss_landscape.py", model, weights, "--grid_size", 3
    )
    run(tmp_path, "analysis/reports/summary.py", ".")
    summary = (tmp_path / "summary.md").read_text()
    assert "asynchronous, Noise, " in summary and "Perceptron, " in summary and "paired SGD" in summary
    search = ("--k_splits", 2, "--epochs", 1, "--learning_rates", 0.1, "--batch_sizes", 32, "--jobs", 1)
    best = run(tmp_path, "kfold.py", "--dataset", "noise", "--network", "Perceptron", *search)
    assert "nonDistributed.py --dataset noise" in best and "--network Perceptron" in best
    table = run(tmp_path, "nb_params.py")
    assert re.search(r"Perceptron \(--network Perceptron\) +mnist, fashion_mnist, digits +12,730", table)
    assert re.search(r"LeNet5 +noise +61,281", table)
    run(tmp_path, "analysis/reports/partition_plots.py", "--dataset", "digits", "--output", "partitions.png")


def test_a_network_that_does_not_take_the_images_is_refused(tmp_path):
    command = [sys.executable, str(ROOT / "dist_sync.py"), "--dataset", "digits", "--network", "ResNet18"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--network ResNet18 is not valid with --dataset digits: give one of LeNet5, CNN1" in done.stderr


def test_every_entry_has_all_that_is_to_know():
    for name, row in DATASETS.items():
        assert (row.title and row.labels > 1 and row.torchvision) or row.reader != "common:read_torchvision", name
        assert {row.network, row.alt_network} <= set(networks_for(name)), name
        assert callable(resolve_name(row.reader)), name
    for table in (NETWORKS, PARTITIONS):
        assert all(callable(implementation(table, name)) for name in table)
    for facts in (["title", "short_title", "marker", "suffix", "help"],):
        for fact in facts:
            values = [getattr(row, fact) for row in PARTITIONS.values()]
            assert len(set(values)) == len(values), fact
    assert [name for name, row in PARTITIONS.items() if not row.suffix] == ["none"]
    assert all(row.title and callable(row.draw) for row in DELAY_TYPES.values())
    assert all(callable(row.draw) for row in COMPUTE_TIMES.values())
    assert all(rule.title for rule in STOPPING_RULES.values())
    assert len({rule.title for rule in ALGORITHMS.values()}) == len(ALGORITHMS)


@pytest.mark.parametrize("name", ROWS)
def test_every_flag_has_all_that_is_to_know(name):
    row = ROWS[name]
    assert row.help and set(row.modes) <= set(MODES)
    if row.scope is Scope.TRAINING:
        assert row.phrase, "a title must be able to name it"
        assert row.label or name in ("alt_model", "delay_intensity"), "a table must be able to show it"
        assert row.suffix is not None or row.title in Title
    if row.needs.otherwise:
        assert row.needs.otherwise.startswith(("without --", "with --"))
