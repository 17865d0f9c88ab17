"""Data sets are complete, standardised with the statistics of the training set, and in channels-last memory."""

import gzip

import numpy as np
import pytest
import torch

import common
from catalogue import DATASETS
from common import load_dataset
from conftest import DATA, needs_data, run
from interface.errors import DataError
from training.record.reader import read_log

SIZES = {"mnist": (60000, 10000), "fashion_mnist": (60000, 10000), "cifar10": (10000, 2000), "cifar100": (5000, 1000)}


@pytest.fixture
def partial_cifar(monkeypatch):
    """torchvision accepts only the original CIFAR files; those of the tests contain a part of them."""
    from torchvision.datasets import CIFAR10, cifar

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5: True)


def check(dataset, sizes):
    spec = DATASETS[dataset.name]
    for part, size in zip((dataset.train, dataset.test), sizes, strict=True):
        assert part.images.shape == (size, *spec.image_shape) and part.images.dtype == torch.float32
        assert sorted(part.labels.unique().tolist()) == list(range(spec.labels))
    assert len(dataset.classes) == spec.labels
    assert dataset.train.images.mean().item() == pytest.approx(0, abs=1e-4)
    assert dataset.train.images.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    # standardised with the training set's statistics: its own would give exactly 0 and 1
    assert dataset.test.images.mean().item() == pytest.approx(0, abs=0.1)
    assert dataset.test.images.mean().item() != pytest.approx(0, abs=1e-5)


def test_digits_need_no_files():
    digits = load_dataset("digits", "nowhere")
    check(digits, (1437, 360))
    counts = digits.test.labels.bincount() / digits.train.labels.bincount()
    assert counts.min() > 0.23 and counts.max() < 0.27  # stratified: for each digit, a quarter of the training samples


@needs_data
@pytest.mark.parametrize("name", SIZES)
def test_real_data(name, partial_cifar):
    check(load_dataset(name, DATA), SIZES[name])


def test_batches_are_channels_last_without_a_copy():
    digits = load_dataset("digits", "nowhere").train
    images, labels = digits.batch(slice(0, 8))
    assert images.shape == (8, 1, 28, 28) and images.data_ptr() == digits.images.data_ptr()
    assert images.stride()[1] == 1
    chosen, chosen_labels = digits.batch(torch.arange(8))
    assert torch.equal(chosen, images) and torch.equal(chosen_labels, labels)


def test_fingerprints_of_different_data_differ():
    digits = load_dataset("digits", "nowhere")
    assert digits.train.fingerprint() == load_dataset("digits", "nowhere").train.fingerprint()
    assert digits.train.fingerprint() != digits.test.fingerprint()


RAW = DATA / "MNIST" / "raw"


@pytest.fixture
def own_mnist(tmp_path):
    """A copy of MNIST whose files a test can replace; unchanged ones are links."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in RAW.glob("*-ubyte"):
        (folder / path.name).symlink_to(path)
    return folder


@needs_data
def test_damage_inside_a_known_data_set_is_found(own_mnist):
    images = own_mnist / "train-images-idx3-ubyte"
    content = bytearray(images.read_bytes())
    content[10_000_000:30_000_000] = bytes(20_000_000)
    images.unlink()
    images.write_bytes(content)
    with pytest.raises(DataError, match=rf"{images} does not have its published content .*--changed_data"):
        load_dataset.__wrapped__("mnist", own_mnist.parent.parent)
    changed = load_dataset.__wrapped__("mnist", own_mnist.parent.parent, changed=True)
    assert changed.train.fingerprint() != load_dataset("mnist", DATA).train.fingerprint()


@needs_data
@pytest.mark.parametrize("file", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
def test_the_files_of_another_data_set_are_found(file, own_mnist):
    (own_mnist / file).unlink()
    (own_mnist / file).symlink_to(DATA / "FashionMNIST" / "raw" / file)
    with pytest.raises(DataError, match=rf"{own_mnist / file} does not have its published content"):
        load_dataset.__wrapped__("mnist", own_mnist.parent.parent)


@needs_data
def test_a_run_on_changed_data_says_so(own_mnist, tmp_path):
    (own_mnist / "train-labels-idx1-ubyte").unlink()
    (own_mnist / "train-labels-idx1-ubyte").symlink_to(DATA / "FashionMNIST/raw/train-labels-idx1-ubyte")
    flags = ("--dataset", "mnist", "--data_dir", tmp_path, "--train_split", 0.001, "--seed", "--subfolder", tmp_path)
    refused = run("nonDistributed.py", *flags, check=False)
    assert refused.returncode == 1 and "train-labels-idx1-ubyte does not have" in refused.stderr
    run("nonDistributed.py", *flags, "--changed_data")
    (log,) = tmp_path.glob("*_changed_data_log.log")
    assert read_log(log).config.changed_data
    model = log.with_name(log.name.replace("_log.log", "_model.pt"))
    report = run("test_model.py", model, log, "--data_dir", tmp_path, "--subfolder", tmp_path)
    assert "changed data" in report.stdout


def test_a_failed_download_does_not_hide_the_copy_of_the_distribution(tmp_path, monkeypatch):
    debian = tmp_path / "debian"
    debian.mkdir()
    for name, header in (("train-images-idx3", (2051, 2, 28, 28)), ("train-labels-idx1", (2049, 2)),
                         ("t10k-images-idx3", (2051, 2, 28, 28)), ("t10k-labels-idx1", (2049, 2))):  # fmt: skip
        size = 2 * (28 * 28 if "images" in name else 1)
        content = np.array(header, ">u4").tobytes() + bytes(i % 2 for i in range(size))
        with gzip.open(debian / f"{name}-ubyte.gz", "wb") as file:
            file.write(content)
    monkeypatch.setattr(common, "DEBIAN_FASHION_MNIST", debian)
    raw = tmp_path / "data/FashionMNIST/raw"
    raw.mkdir(parents=True)
    assert len(load_dataset.__wrapped__("fashion_mnist", tmp_path / "data").train) == 2
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"cut")
    assert len(load_dataset.__wrapped__("fashion_mnist", tmp_path / "data").train) == 2
