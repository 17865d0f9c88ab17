"""The command line of kfold.py: its flags, and the search that they describe. Does not import torch."""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from catalogue import DATASETS, DEFAULT_SEED, NETWORKS, checked_datasets, network_name, networks_for
from cross_validation.grid import SearchGrid, SearchSettings
from cross_validation.results import recorded
from interface.command_line import ArgumentParser, Interval, add_device_flags
from interface.errors import UsageError
from interface.processes import available_cores

LEARNING_RATES = {"SGD": (0.001, 0.005, 0.01, 0.05, 0.1), "ADAM": (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05)}
BATCH_SIZES = (32, 64, 128)
MOMENTUMS = (0.9, 0.95, 0.99)
EPOCHS = (2, 4, 6)


def parse_arguments(words: Sequence[str] | None = None, doc: str = "") -> argparse.Namespace:
    """The flags, by default of this process; those without a default are absent unless given. doc: of the script.

    Raises UsageError for a flag that has no effect, or a network that does not take the images of the data set.
    """
    rate, momentum = Interval(float, "(0,inf)"), Interval(float, "[0,inf)")
    count, splits, seed = Interval(int, "[1,inf)"), Interval(int, "[2,inf)"), Interval(int, "[0,inf)")
    rates = "; ".join(f"{texts(values)} for {optimizer}" for optimizer, values in LEARNING_RATES.items())
    cores = available_cores()

    parser = ArgumentParser(doc, argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("--dataset", required=True, choices=DATASETS, help="data set to train on; digits is bundled and needs no files")
    add(
        "--data_dir",
        type=os.path.expanduser,
        default="data",
        metavar="DIR",
        help="folder of the data sets; missing ones are downloaded to it (default data)",
    )
    add("--changed_data", action="store_true", default=False,
        help="accept files of a known data set that do not have their published content")  # fmt: skip
    add("--k_splits", type=splits, default=5, metavar="N", help="number of folds (default 5); [2,samples]")
    add("--alr", action="store_true", default=False, help="Adam instead of SGD")
    add("--momentum", type=momentum, nargs="?", metavar="M",
        help="one value; without a value: try the --momentums; with neither flag: 0; not with Adam")  # fmt: skip
    network = parser.add_mutually_exclusive_group().add_argument
    network("--alt_model", action="store_true", default=False, help="CNN1 / CNN2 instead of LeNet5 / ResNet18")
    network("--network", choices=NETWORKS, help="any network that takes the images of the data set")
    add(
        "--epochs",
        type=count,
        nargs="+",
        default=EPOCHS,
        metavar="N",
        help=f"numbers of epochs to try (default {texts(EPOCHS)})",
    )
    add("--learning_rates", type=rate, nargs="+", metavar="F", help=f"learning rates to try (default {rates})")
    add("--batch_sizes", type=count, nargs="+", default=BATCH_SIZES, metavar="N",
        help=f"batch sizes to try (default {texts(BATCH_SIZES)})")  # fmt: skip
    add("--momentums", type=momentum, nargs="+", metavar="M",
        help=f"momentum values to try, with or without --momentum (default {texts(MOMENTUMS)})")  # fmt: skip
    add("--max_samples", type=count, metavar="N", help="use N random samples of the training set (default all)")
    add(
        "--jobs",
        type=count,
        default=cores,
        metavar="N",
        help=f"trainings that run at once, one core each (default {cores})",
    )
    add("--seed", type=seed, nargs="?", const=DEFAULT_SEED, default=DEFAULT_SEED, metavar="N",
        help=f"random seed (default {DEFAULT_SEED}, so that the same command resumes a search)")  # fmt: skip
    add("--subfolder", type=Path, default=".", metavar="DIR", help="output folder (default .)")
    add_device_flags(add)
    arguments = parser.parse_args(words)
    check_changed_data(arguments)
    check_network(arguments)
    return arguments


def texts(values: Iterable[object]) -> str:
    """Values as on a command line."""
    return " ".join(map(str, values))


def check_changed_data(arguments: argparse.Namespace) -> None:
    """Raises UsageError for --changed_data where the published content is not known."""
    if arguments.changed_data and arguments.dataset not in checked_datasets():
        raise UsageError(f"--changed_data has no effect without --dataset {' or '.join(checked_datasets())}")


def check_network(arguments: argparse.Namespace) -> None:
    """Raises UsageError for a network that does not take the images of the data set."""
    fitting = networks_for(arguments.dataset)
    if chosen_network(arguments) not in fitting:
        raise UsageError(
            f"--network {arguments.network} is not valid with --dataset {arguments.dataset}: "
            f"give one of {', '.join(fitting)}"
        )


def chosen_network(arguments: argparse.Namespace) -> str:
    """The key of NETWORKS that --network or --alt_model names."""
    return vars(arguments).get("network", network_name(arguments.dataset, arguments.alt_model))


def make_grid(arguments: argparse.Namespace) -> SearchGrid:
    """The requested grid. Raises UsageError for flags that exclude each other."""
    learning_rates = vars(arguments).get("learning_rates", LEARNING_RATES[optimizer_name(arguments)])
    values = (learning_rates, choose_momentums(arguments), arguments.batch_sizes, arguments.epochs)
    return SearchGrid(*(tuple(sorted(set(axis))) for axis in values))


def optimizer_name(arguments: argparse.Namespace) -> str:
    """SGD or ADAM."""
    return "ADAM" if arguments.alr else "SGD"


def choose_momentums(arguments: argparse.Namespace) -> tuple[float, ...] | list[float]:
    """The momentum values that --momentum and --momentums request."""
    if "momentum" not in arguments and "momentums" not in arguments:
        return (0.0,)
    if arguments.alr:
        logging.warning("momentum is not used with --alr: Adam has its own")
        return (0.0,)
    momentum = vars(arguments).get("momentum")
    if momentum is None:
        return vars(arguments).get("momentums", MOMENTUMS)
    if "momentums" in arguments:
        raise UsageError(f"--momentums has no effect with --momentum {momentum}: give only one of the two")
    return (momentum,)


def make_settings(arguments: argparse.Namespace, samples: int, data: str) -> SearchSettings:
    """The settings of a search on so many samples of a data set with this fingerprint."""
    return SearchSettings(
        dataset=arguments.dataset,
        network=chosen_network(arguments),
        optimizer=optimizer_name(arguments),
        samples=samples,
        folds=arguments.k_splits,
        seed=arguments.seed,
        data=data,
    )


def outputs(arguments: argparse.Namespace, settings: SearchSettings) -> tuple[Path, Path]:
    """The paths of the results file and of the figure."""
    base = arguments.subfolder / settings.name
    return Path(f"{base}.csv"), Path(f"{base}.png")


def is_finished(words: Sequence[str]) -> bool:
    """Whether the search with these arguments has all its results, and its figure, which it draws last.

    Reads no data set, so it asks neither whether it has changed nor whether it has as many samples as it should.
    """
    arguments = parse_arguments(words)
    grid = make_grid(arguments)
    size = min(DATASETS[arguments.dataset].samples or math.inf, vars(arguments).get("max_samples", math.inf))
    results, figure = outputs(arguments, make_settings(arguments, size, data=""))
    return figure.exists() and recorded(results) >= set(itertools.product(grid.configurations, grid.epochs))
