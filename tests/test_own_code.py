"""Code that a user adds: what it may rely on, and what its mistakes lead to."""

import math

import pytest
import torch
from torch import nn

import toys
from catalogue import NETWORKS, PARTITIONS, NetworkRow, PartitionRow
from common import build_model, make_generator, partition_samples
from conftest import shared_nursery
from interface.errors import DataError, UsageError
from training.algorithms import ALGORITHMS
from training.config import algorithms_of
from training.protocol import Outcome
from training.timing import Draws

DIGITS = ("--dataset", "digits", "--world_size", 4, "--split_dataset", "--epochs", 1, "--seed", 1)

# ----------------------------------------------------------------------------------------------------
# An algorithm
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_an_algorithm_may_keep_gradients(clock, tmp_path):
    flags = (*DIGITS, "--clock", clock, "--subfolder", tmp_path)
    ended = shared_nursery().run("tests/toys.py", "hoarder", *flags, timeout=60)
    assert ended.code == 0, ended.errors


def test_an_algorithm_without_an_answer_is_named_with_its_line(tmp_path):
    ended = shared_nursery().run(
        "tests/toys.py", "mute", *DIGITS, "--clock", "virtual", "--subfolder", tmp_path, timeout=60
    )
    message = ended.errors.strip().splitlines()[-1]
    assert (
        ended.code == 70
        and "Mute.push returned None, which is not an Outcome; training/engines/dispatcher.py, line" in message
    )
    assert "or in code that was added to it; please report it" in message


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_an_algorithm_that_fails_before_the_first_gradient_ends_the_run(clock, tmp_path):
    ended = shared_nursery().run("tests/toys.py", "shy", *DIGITS, "--clock", clock, "--subfolder", tmp_path, timeout=60)
    assert ended.code == 70 and "no model yet" in ended.errors


def test_a_state_that_no_checkpoint_could_return_is_told_at_the_first_one(tmp_path):
    flags = (*DIGITS, "--clock", "virtual", "--checkpoint_every", 10, "--subfolder", tmp_path)
    ended = shared_nursery().run("tests/toys.py", "diary", *flags, timeout=60)
    assert ended.code == 0 and not list(tmp_path.glob("*checkpoint*"))
    (warning,) = ended.errors.strip().splitlines()
    assert (
        "no checkpoints are written" in warning
        and "contains fractions.Fraction, which the algorithm does not name" in warning
    )


def test_an_outcome_releases_a_tuple():
    with pytest.raises(TypeError, match=r"releases a tuple of workers, such as \(push.worker,\), not 2"):
        Outcome(released=2)


def test_an_algorithm_without_a_purpose_is_named(monkeypatch):
    nameless = type("Nameless", (toys.Algorithm,), {"mode": "async"})
    monkeypatch.setitem(ALGORITHMS, "nameless", nameless)
    with pytest.raises(UsageError, match="algorithm nameless: its class Nameless does not define title and purpose"):
        algorithms_of("async")


# ----------------------------------------------------------------------------------------------------
# A network, a partition, a distribution
# ----------------------------------------------------------------------------------------------------


def make_logits(labels):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, labels))


def make_narrow(labels):
    return nn.Sequential(nn.Flatten(), nn.Linear(100, labels), nn.LogSoftmax(dim=1))


def make_few(labels):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, labels - 1), nn.LogSoftmax(dim=1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("make_logits", "network mine does not end in log-softmax"),
        ("make_narrow", r"network mine does not take images \(2, 1, 28, 28\): "),
        ("make_few", r"network mine makes \(2, 9\) of images \(2, 1, 28, 28\), not \(2, 10\)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(network, message, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", NetworkRow((28, 28, 1), f"test_own_code:{network}"))
    with pytest.raises(DataError, match=message):
        build_model("digits", "mine")


def share_with_one(indices, labels, workers, generator):
    return [indices]


def test_a_partition_has_a_share_for_each_worker(monkeypatch):
    row = PartitionRow("", "", "", "_mine", "P", "test_own_code:share_with_one")
    monkeypatch.setitem(PARTITIONS, "mine", row)
    labels = torch.zeros(6, dtype=torch.long)
    with pytest.raises(DataError, match="partition mine: number of shares 1, number of workers 3"):
        partition_samples("mine", torch.arange(6), labels, 3, make_generator(1, "partition"))


def test_a_distribution_may_mix_kinds_of_draws():
    draws = Draws(make_generator(1, "compute"))
    mixed = [(draws.exponential(), draws.normal(), draws.uniform()) for _ in range(2000)]
    exponential, normal, uniform = torch.tensor(mixed).T
    assert exponential.min() >= 0 and exponential.mean() == pytest.approx(1, abs=0.1)
    assert normal.mean() == pytest.approx(0, abs=0.1) and normal.std() == pytest.approx(1, abs=0.1)
    assert uniform.min() >= 0 and uniform.max() < 1 and uniform.std() == pytest.approx(1 / math.sqrt(12), abs=0.02)
