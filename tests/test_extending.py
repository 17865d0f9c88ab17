"""An entry is one row and what it names: every script then trains, tests, draws and summarises with it."""

import re
import subprocess
import sys
from pkgutil import resolve_name

import pytest

from catalogue import DATASETS, NETWORKS, PARTITIONS, implementation, networks_for
from conftest import ROOT
from training.algorithms import ALGORITHMS
from training.flags import MODES, Scope, Title
from training.settings import ROWS
from training.stopping import STOPPING_RULES
from training.timing import COMPUTE_TIMES, DELAY_TYPES

NAME = "noise_async_3_100_001_00_32_1_SGD_spe4_evens_delay_small_alternating_Perceptron_pairs_virtual"
COMMANDS = f"""\
dist_async.py --dataset noise --network Perceptron --split_evens --algorithm pairs --delay --delay_type alternating \
--clock virtual --saves_per_epoch 4 --seed
test_model.py {NAME}_model.pt {NAME}_log.log --training_time --pics
loss_landscape.py {NAME}_model.pt {NAME}_weights.npy --grid_size 3
analysis/reports/summary.py .
kfold.py --dataset noise --network Perceptron --k_splits 2 --epochs 1 --learning_rates 0.1 --batch_sizes 32 --jobs 1
nb_params.py
analysis/reports/partition_plots.py --dataset digits --output partitions.png
"""


def test_new_entries_are_trained_tested_drawn_and_summarised(tmp_path):
    (tmp_path / "commands").write_text(COMMANDS)
    done = subprocess.run(
        [sys.executable, ROOT / "tests/additions.py", "commands"], cwd=tmp_path, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    output = done.stdout
    assert "Perceptron on Noise, paired SGD, 2 workers\n" in output
    assert "every n-th sample to each worker, every worker delayed, small delays, alternating delays" in output
    assert "Perceptron on all 50 test images of noise\nrun: paired SGD, 2 workers, learning rate " in output
    summary = (tmp_path / "summary.md").read_text()
    assert "asynchronous, Noise, " in summary and "Perceptron, " in summary and "paired SGD" in summary
    assert "nonDistributed.py --dataset noise" in output and "--network Perceptron --seed 42" in output
    assert re.search(r"Perceptron \(--network Perceptron\) +mnist, fashion_mnist, digits +12,730", output)
    assert re.search(r"LeNet5 +noise +61,281", output)
    assert (tmp_path / "partitions.png").exists()


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
