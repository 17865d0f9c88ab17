"""What there is to choose from: data sets, networks, partitions. One row per entry, with all that is known of it.

The keys are the choices of the command line. A row names its implementation, "module:function", which is imported
when it is needed: so `--help` and mistakes on a command line are answered without loading torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

DEFAULT_SEED = 42


@dataclass(frozen=True)
class DatasetRow:
    """What is known of a data set before it is read.

    image_shape: (H, W, C); network, alt_network: keys of NETWORKS, trained by default and with --alt_model;
    torchvision: the class of torchvision.datasets that reads it; reader: a function that reads it instead.
    """

    title: str
    image_shape: tuple[int, int, int]
    labels: int
    network: str
    alt_network: str
    torchvision: str | None = None
    reader: str = "common:read_torchvision"


DATASETS = {
    "mnist": DatasetRow("MNIST", (28, 28, 1), 10, "LeNet5", "CNN1", torchvision="MNIST"),
    "fashion_mnist": DatasetRow(
        "Fashion-MNIST", (28, 28, 1), 10, "LeNet5", "CNN1", "FashionMNIST", reader="common:read_fashion_mnist"
    ),
    "cifar10": DatasetRow("CIFAR-10", (32, 32, 3), 10, "ResNet18", "CNN2", torchvision="CIFAR10"),
    "cifar100": DatasetRow("CIFAR-100", (32, 32, 3), 100, "ResNet18", "CNN2", torchvision="CIFAR100"),
    "digits": DatasetRow("digits", (28, 28, 1), 10, "LeNet5", "CNN1", reader="common:read_digits"),
}


@dataclass(frozen=True)
class NetworkRow:
    """What is known of a network: the images (H, W, C) that it takes, and its class, called with a number of labels."""

    image_shape: tuple[int, int, int]
    implementation: str


NETWORKS = {
    "LeNet5": NetworkRow((28, 28, 1), "common:LeNet5"),
    "CNN1": NetworkRow((28, 28, 1), "common:CNN1"),
    "ResNet18": NetworkRow((32, 32, 3), "common:ResNet18"),
    "CNN2": NetworkRow((32, 32, 3), "common:CNN2"),
}


@dataclass(frozen=True)
class PartitionRow:
    """One way of partitioning the training set among workers; its flag is its key.

    title: in a figure's title; short_title: in a legend; marker: matplotlib's; suffix: in the name of a run;
    by_label: whether each worker owns labels, so that their number must divide among the workers; modes: who offers it.
    """

    title: str
    short_title: str
    help: str
    suffix: str
    marker: str
    implementation: str
    by_label: bool = False
    modes: tuple[str, ...] = ("sync", "async")


PARTITIONS = {
    "none": PartitionRow(
        "every worker on all samples", "no split", "every worker: everything, in its own order", "", "s",
        "common:share_everything",
    ),
    "split_dataset": PartitionRow(
        "samples split among workers", "samples split", "each worker trains on its own distinct samples",
        "_split_dataset", "o", "common:split_dataset",
    ),
    "split_labels": PartitionRow(
        "labels split among workers", "labels split",
        "each worker owns a distinct set of labels; all get equally many samples", "_labels", "^",
        "common:split_labels", by_label=True,
    ),
    "split_labels_unscaled": PartitionRow(
        "labels split among workers, every sample kept", "labels split, unscaled",
        "as --split_labels, but each worker keeps every sample of its labels", "_labels_unscaled", "v",
        "common:split_labels_unscaled", by_label=True, modes=("async",),
    ),
}  # fmt: skip


def implementation(table: Mapping[str, Any], name: str) -> Any:
    """The function or class that the row of a network or a partition names."""
    return resolve_name(table[name].implementation)


def network_name(dataset: str, alt_model: bool) -> str:
    """The key of NETWORKS that a data set trains by default, or with --alt_model."""
    return DATASETS[dataset].alt_network if alt_model else DATASETS[dataset].network


def networks_for(dataset: str) -> list[str]:
    """The keys of NETWORKS that take the images of a data set."""
    return [name for name, row in NETWORKS.items() if row.image_shape == DATASETS[dataset].image_shape]
