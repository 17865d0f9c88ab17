"""Partitions are disjoint, complete, and balanced as documented."""

import pytest
import torch

import common
from catalogue import PARTITIONS
from common import hold_out, make_generator, partition_samples, take_subset
from training.config import RunConfig
from training.plan import make_plan
from training.positions import Points


@pytest.fixture(scope="module")
def digits():
    return common.load_dataset("digits", "unused").train


def shards_of(digits, partition, workers, seed=7):
    indices = torch.arange(len(digits))
    return partition_samples(partition, indices, digits.labels, workers, make_generator(seed, "partition"))


def test_without_a_split_every_worker_has_all_samples(digits):
    assert all(torch.equal(shard, torch.arange(len(digits))) for shard in shards_of(digits, "none", 4))


@pytest.mark.parametrize(("partition", "workers"), [("split_dataset", n) for n in (1, 2, 3, 10, 40)]
                         + [("split_labels_unscaled", n) for n in (2, 5, 10)])  # fmt: skip
def test_complete_and_disjoint(digits, partition, workers):
    shards = shards_of(digits, partition, workers)
    assert torch.equal(torch.cat(shards).sort().values, torch.arange(len(digits)))
    assert all(torch.equal(shard, shard.sort().values) for shard in shards)


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
def test_split_dataset_is_even(digits, workers):
    sizes = [len(shard) for shard in shards_of(digits, "split_dataset", workers)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("partition", ["split_labels", "split_labels_unscaled"])
@pytest.mark.parametrize("workers", [2, 5, 10])
def test_labels_are_distinct(digits, partition, workers):
    owned = [set(digits.labels[shard].tolist()) for shard in shards_of(digits, partition, workers)]
    assert [len(labels) for labels in owned] == [10 // workers] * workers
    assert set.union(*owned) == set(range(10))


@pytest.mark.parametrize("workers", [2, 5, 10])
def test_split_labels_is_equal_and_disjoint(digits, workers):
    shards = shards_of(digits, "split_labels", workers)
    unscaled = shards_of(digits, "split_labels_unscaled", workers)
    assert {len(shard) for shard in shards} == {min(len(shard) for shard in unscaled)}
    everything = torch.cat(shards)
    assert len(everything.unique()) == len(everything)


@pytest.mark.parametrize("workers", [1, 2, 7, 30])
@pytest.mark.parametrize("alpha", [1e-6, 0.1, 1.0, 1e6])
def test_label_skew_is_disjoint_complete_and_leaves_nobody_without_a_batch(digits, workers, alpha):
    indices, generator = torch.arange(len(digits)), make_generator(1, "partition")
    parameters = {"alpha": alpha, "least": 32}
    shards = partition_samples("split_dirichlet", indices, digits.labels, workers, generator, **parameters)
    assert torch.equal(torch.cat(shards).sort().values, indices)
    assert min(map(len, shards)) >= 32


def test_label_skew_grows_as_alpha_falls(digits):
    def skew(alpha: float) -> float:
        """The mean distance of the workers' shares of labels from those of the data set."""
        distances = []
        for seed in range(5):
            shards = partition_samples("split_dirichlet", torch.arange(len(digits)), digits.labels, 5,
                                       make_generator(seed, "partition"), alpha=alpha, least=1)  # fmt: skip
            shares = [digits.labels[shard].bincount(minlength=10) / len(shard) for shard in shards]
            distances += [(share - digits.labels.bincount() / len(digits)).abs().sum().item() for share in shares]
        return sum(distances) / len(distances)

    assert skew(0.05) > 1.2 > skew(0.5) > 0.4 > skew(100.0)


@pytest.mark.parametrize("partition", ["split_dataset", "split_labels", "split_labels_unscaled"])
def test_partitions_depend_on_the_seed(digits, partition):
    first, again, other = (shards_of(digits, partition, 5, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not all(len(a) == len(b) and torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_subset_and_held_out_part():
    subset = take_subset(1000, 0.25, make_generator(3, "subset"))
    assert len(subset.unique()) == 250
    rest, held_out = hold_out(subset, 0.1, make_generator(3, "validation"))
    assert len(held_out) == 25
    assert torch.equal(torch.cat([rest, held_out]).sort().values, subset)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_validation_is_held_out_before_partitioning(digits, partition):
    alpha = 0.3 if partition == "split_dirichlet" else None
    config = RunConfig(mode="async", dataset="digits", val=True, partition=partition, split_dirichlet=alpha)
    plan = make_plan(config, 1, digits)
    trained_on = torch.cat(plan.shards)
    assert len(plan.validation) == round(0.1 * len(digits))
    assert not torch.isin(plan.validation, trained_on).any()
    assert torch.isin(trained_on, plan.train).all()


def test_random_streams_of_purposes_and_workers_are_independent():
    streams = [
        torch.rand(4, generator=make_generator(*key)).tolist()
        for key in ((1, "shuffle"), (1, "shuffle", 1), (1, "dropout", 1), (2, "shuffle", 1))
    ]
    assert len({tuple(stream) for stream in streams}) == 4


def test_updates_save_points_and_learning_rates_of_a_run(digits):
    config = RunConfig(mode="async", dataset="digits", epochs=3, saves_per_epoch=2, lrs="cosine_annealing",
                       partition="split_dataset", world_size=4)  # fmt: skip
    plan = make_plan(config, 1, digits)
    assert plan.batches_per_epoch == (15, 15, 15)
    assert (plan.updates_per_epoch, plan.updates) == (45, 135)
    assert plan.save_points.up_to(135) == [0, 22, 45, 68, 90, 112, 135]
    assert plan.learning_rate(0, 0) == config.lr
    last = plan.learning_rate(plan.updates - 1, 0)
    assert 0 < last < 1e-3 * config.lr
    assert plan.learning_rate(plan.updates, 0) == last, "of an update that follows the last gradient"
    sync = make_plan(RunConfig(mode="sync", dataset="digits", partition="split_dataset", lrs="exponential",
                               world_size=4, epochs=2), 1, digits)  # fmt: skip
    assert sync.updates_per_epoch == 15
    assert [sync.learning_rate(update, 0) / sync.config.lr for update in (0, 14, 15)] == pytest.approx([1, 1, 0.9])


@pytest.mark.parametrize(("count", "length", "first"), [(6, 135, 0), (6, 135, 1), (7, 7, 0), (3, 1000, 1), (0, 50, 0)])
def test_points_of_a_run_are_found_without_listing_them(count, length, first):
    points = Points(count, length, first)
    listed = [round(k * length / count) for k in range(first, count + 1)] if count else []
    assert points.up_to(length) == listed
    assert [position for position in range(length + 1) if points.number(position) is not None] == listed
    assert [points.number(position) for position in listed] == list(range(first, count + 1))[: len(listed)]


def test_any_number_of_saves_takes_no_memory():
    points = Points(10**12, 45 * 10**12, 0)
    assert points.number(45 * 10**11) == 10**11 and points.number(46) is None
    assert points.up_to(100) == [0, 45, 90]
