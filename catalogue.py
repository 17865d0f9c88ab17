"""Tables of the available data sets, networks and partitions, one row per entry.

The keys are the choices on the command line. A row names its implementation as "module:function", which is imported
only when needed: `--help` and usage errors do not have to wait for torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

DEFAULT_SEED = 42
BETTER_THAN_CHANCE = 2  # times the accuracy of a guess: what a run that converged exceeds


@dataclass(frozen=True)
class DatasetRow:
    """Properties of a data set that are known before it is read.

    image_shape: (H, W, C); samples: of the training set;
    network, alt_network: keys of NETWORKS, trained by default and with --alt_model;
    torchvision: its class in torchvision.datasets, if any; reader: the function that reads it;
    checksums: CRC-32 of the published pixels and labels: training images, training labels, test images, test labels.
    CIFAR has none: torchvision checks its files.
    """

    title: str
    image_shape: tuple[int, int, int]
    labels: int
    network: str
    alt_network: str
    torchvision: str | None = None
    reader: str = "common:read_torchvision"
    checksums: tuple[str, ...] = ()
    samples: int | None = None

    @property
    def chance(self) -> float:
        """Accuracy of a guess, percent."""
        return 100 / self.labels

    def was_learned(self, accuracy: float) -> bool:
        """Whether an accuracy, percent, is better than BETTER_THAN_CHANCE times that of a guess."""
        return accuracy > BETTER_THAN_CHANCE * self.chance


DATASETS = {
    "mnist": DatasetRow(
        "MNIST",
        (28, 28, 1),
        10,
        "LeNet5",
        "CNN1",
        torchvision="MNIST",
        checksums=("f3639b56", "ba07e8ef", "e4ca5f57", "ee8604d9"),
        samples=60_000,
    ),
    "fashion_mnist": DatasetRow(
        "Fashion-MNIST",
        (28, 28, 1),
        10,
        "LeNet5",
        "CNN1",
        "FashionMNIST",
        reader="common:read_fashion_mnist",
        checksums=("ae65dccd", "2ed6e46a", "12728439", "242bc73f"),
        samples=60_000,
    ),
    "cifar10": DatasetRow("CIFAR-10", (32, 32, 3), 10, "ResNet18", "CNN2", torchvision="CIFAR10", samples=50_000),
    "cifar100": DatasetRow("CIFAR-100", (32, 32, 3), 100, "ResNet18", "CNN2", torchvision="CIFAR100", samples=50_000),
    "digits": DatasetRow("digits", (28, 28, 1), 10, "LeNet5", "CNN1", reader="common:read_digits", samples=1437),
}


@dataclass(frozen=True)
class NetworkRow:
    """A network: the shape (H, W, C) of its input images, and its class, called with the number of labels.

    sample_ms: what one sample of a gradient takes on one core, roughly, for estimates; None if it was not measured;
    batched: whether a GPU computes the gradients in flight faster in one batch than one by one.
    """

    image_shape: tuple[int, int, int]
    implementation: str
    sample_ms: float | None = None
    batched: bool = True


NETWORKS = {
    "LeNet5": NetworkRow((28, 28, 1), "common:LeNet5", 0.1),
    "CNN1": NetworkRow((28, 28, 1), "common:CNN1", 0.8),
    "ResNet18": NetworkRow((32, 32, 3), "common:ResNet18", 25, batched=False),
    "CNN2": NetworkRow((32, 32, 3), "common:CNN2", 0.5),
}


@dataclass(frozen=True)
class PartitionRow:
    """One way of partitioning the training set among workers; its key is also its flag.

    title: for figure titles; short_title: for legends; marker: for matplotlib; suffix: in the name of a run;
    by_label: whether each worker owns labels, whose number must then be a multiple of the number of workers;
    modes: the training modes that offer it.
    """

    title: str
    short_title: str
    help: str
    suffix: str
    marker: str
    implementation: str
    by_label: bool = False
    example: Mapping[str, float] = field(default_factory=dict)
    modes: tuple[str, ...] = ("sync", "async")


PARTITIONS = {
    "none": PartitionRow(
        "every worker on all samples", "no split", "each worker trains on all samples, in its own order", "", "s",
        "common:share_everything",
    ),
    "split_dataset": PartitionRow(
        "samples split among workers", "samples split", "each worker trains on its own disjoint subset",
        "_split_dataset", "o", "common:split_dataset",
    ),
    "split_labels": PartitionRow(
        "labels split among workers", "labels split",
        "each worker owns a distinct set of labels; all have the same number of samples", "_labels", "^",
        "common:split_labels", by_label=True,
    ),
    "split_labels_unscaled": PartitionRow(
        "labels split among workers, every sample kept", "labels split, unscaled",
        "like --split_labels, but each worker keeps all samples of its labels", "_labels_unscaled", "v",
        "common:split_labels_unscaled", by_label=True, modes=("async",),
    ),
    "split_dirichlet": PartitionRow(
        "labels skewed among workers", "label skew",
        "label skew: how the workers share each label is drawn from a Dirichlet distribution with this α "
        "(Hsu et al., arXiv 1909.06335)", "_dirichlet", "D", "common:split_dirichlet",
        example={"alpha": 0.5, "least": 1},
    ),
}  # fmt: skip


def implementation(table: Mapping[str, Any], name: str) -> Any:
    """The function or class named by the row of a network or a partition."""
    return resolve_name(table[name].implementation)


def network_name(dataset: str, alt_model: bool) -> str:
    """The key of the default network for a data set, or of the one that --alt_model selects."""
    return DATASETS[dataset].alt_network if alt_model else DATASETS[dataset].network


def checked_datasets() -> list[str]:
    """The data sets whose published content is known."""
    return [name for name, row in DATASETS.items() if row.checksums]


def networks_for(dataset: str) -> list[str]:
    """The keys of NETWORKS that accept the images of a data set."""
    return [name for name, row in NETWORKS.items() if row.image_shape == DATASETS[dataset].image_shape]
