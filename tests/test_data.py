"""Data sets are complete, standardised with the statistics of the training set, and in channels-last memory."""

import pytest
import torch

from catalogue import DATASETS
from common import load_dataset
from conftest import DATA, needs_data

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
