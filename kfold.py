#!/usr/bin/env python3
"""Grid search with k-fold cross-validation: train every configuration k times, each time scored on another fold.

python3 kfold.py --dataset fashion_mnist --momentum --learning_rates 0.001 0.005 0.01 --batch_sizes 32 64

One training for the largest number of epochs covers all smaller numbers. Results are appended to a CSV file as
each configuration finishes; the same command resumes an interrupted search, and a larger grid extends it.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from analysis.spread import Spread, in_digits
from catalogue import DATASETS, DEFAULT_SEED, NETWORKS, checked_datasets, network_name, networks_for
from cross_validation.grid import SearchGrid, SearchSettings
from cross_validation.results import Result, ResultsFile, rank, recorded
from interface.command_line import ArgumentParser, Interval, add_device_flags, run_script
from interface.errors import UsageError
from interface.processes import available_cores

if TYPE_CHECKING:
    from common import Samples
    from cross_validation.search import SearchData

LEARNING_RATES = {"SGD": (0.001, 0.005, 0.01, 0.05, 0.1), "ADAM": (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05)}
BATCH_SIZES = (32, 64, 128)
MOMENTUMS = (0.9, 0.95, 0.99)
EPOCHS = (2, 4, 6)


def main() -> None:
    arguments = parse_arguments()
    grid = make_grid(arguments)
    check_changed_data(arguments)
    check_network(arguments)

    # Slow imports, after all that --help and a wrong command line need.
    import torch

    from common import load_dataset
    from cross_validation.plots import draw_grid
    from cross_validation.search import search
    from interface.device import prepare_device

    prepare_device(arguments.device, arguments.tf32)
    torch.set_num_threads(1)  # no thread pool, because this process will be forked
    dataset = load_dataset(arguments.dataset, arguments.data_dir, arguments.changed_data)
    data = make_search_data(arguments, dataset.train)
    check_batch_sizes(grid, data)
    print(f"Grid search by k-fold cross-validation with\n{describe(arguments, grid, data.settings)}")

    results, figure = outputs(arguments, data.settings)
    with ResultsFile(results, data.settings) as file:
        search(data, grid, file, arguments.jobs)
        ranking = rank(file.of(grid))
    print(f"\n{table(ranking)}\n\n{describe_best(ranking[0], arguments)}\n  {results}")

    print(*(f"  {path}" for path in draw_grid(figure, data.settings, grid, ranking)), sep="\n")


def is_finished(words: Sequence[str]) -> bool:
    """Whether the search with these arguments has all its results, and its figure, which it draws last.

    Reads no data set, so it asks neither whether it has changed nor whether it has as many samples as it should.
    """
    arguments = parse_arguments(words)
    grid = make_grid(arguments)
    size = min(DATASETS[arguments.dataset].samples or math.inf, vars(arguments).get("max_samples", math.inf))
    results, figure = outputs(arguments, make_settings(arguments, size, data=""))
    return figure.exists() and recorded(results) >= set(itertools.product(grid.configurations, grid.epochs))


def outputs(arguments: argparse.Namespace, settings: SearchSettings) -> tuple[Path, Path]:
    """The paths of the results file and of the figure."""
    base = arguments.subfolder / settings.name
    return Path(f"{base}.csv"), Path(f"{base}.png")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags, by default of this process; those without a default are absent unless given."""
    rate, momentum = Interval(float, "(0,inf)"), Interval(float, "[0,inf)")
    count, splits, seed = Interval(int, "[1,inf)"), Interval(int, "[2,inf)"), Interval(int, "[0,inf)")
    rates = "; ".join(f"{texts(values)} for {optimizer}" for optimizer, values in LEARNING_RATES.items())
    cores = available_cores()

    parser = ArgumentParser(__doc__, argument_default=argparse.SUPPRESS)
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
    return parser.parse_args(words)


def texts(values: Iterable[object]) -> str:
    """Values as on a command line."""
    return " ".join(map(str, values))


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


def make_search_data(arguments: argparse.Namespace, samples: Samples) -> SearchData:
    """The samples and their folds. Raises UsageError if there are more folds than samples."""
    from common import make_generator, take_subset
    from cross_validation.search import SearchData, make_folds

    size = min(len(samples), vars(arguments).get("max_samples", math.inf))
    if arguments.k_splits > size:
        raise UsageError(
            f"--k_splits {arguments.k_splits} is not valid: give an integer from 2 to the number of samples, {size}"
        )
    subset = take_subset(len(samples), size / len(samples), make_generator(arguments.seed, "subset"))
    settings = make_settings(arguments, size, samples.fingerprint())
    folds = make_folds(subset, arguments.k_splits, arguments.seed)
    return SearchData(settings, samples, folds, arguments.device, arguments.tf32)


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


def check_batch_sizes(grid: SearchGrid, data: SearchData) -> None:
    """Raises UsageError if a mini-batch would be larger than a fold's training set."""
    size = min(len(fold.train) for fold in data.folds)
    if grid.batch_sizes[-1] > size:
        raise UsageError(
            f"--batch_sizes {grid.batch_sizes[-1]} is not valid: give integers in [1,{size}], "
            f"the number of samples that remain when a fold is held out"
        )


def describe(arguments: argparse.Namespace, grid: SearchGrid, settings: SearchSettings) -> str:
    """The settings of the search, one per line."""
    used = {**vars(settings), **vars(grid), "jobs": arguments.jobs, "data_dir": arguments.data_dir}
    return "\n".join(
        f"  {name:<20} {texts(value) if isinstance(value, tuple) else value}" for name, value in used.items()
    )


def table(ranking: list[Result]) -> str:
    """The results, best first: mean ± standard deviation over the folds, and the mean time of one training."""
    titles = ["", "accuracy, %", "loss", "lr", "momentum", "batch size", "epochs", "seconds"]
    rows = [titles] + [
        [
            f"{place}.",
            f"{result.accuracy:.2f}",
            format_loss(result.loss) if result.converged else "diverged",
            str(result.configuration.learning_rate),
            str(result.configuration.momentum),
            str(result.configuration.batch_size),
            str(result.epochs),
            f"{result.seconds:.1f}",
        ]
        for place, result in enumerate(ranking, start=1)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def format_loss(loss: Spread) -> str:
    """Mean ± standard deviation."""
    return f"{in_digits(loss.mean)} ± {in_digits(loss.deviation)}"


def describe_best(best: Result, arguments: argparse.Namespace) -> str:
    """One line with the best result and the command that trains it on the whole training set."""
    if not best.converged:
        return "Best: none, every configuration diverged"
    configuration = best.configuration
    command = ["python3", "nonDistributed.py", "--dataset", arguments.dataset]
    command += ["--lr", configuration.learning_rate, "--batch_size", configuration.batch_size, "--epochs", best.epochs]
    command += ["--alr"] if arguments.alr else ["--momentum", configuration.momentum]
    command += ["--alt_model"] if arguments.alt_model else []
    command += ["--network", arguments.network] if "network" in arguments else []
    command += ["--data_dir", arguments.data_dir] if arguments.data_dir != "data" else []
    command += ["--changed_data"] if arguments.changed_data else []
    command += ["--seed", arguments.seed]
    return f"Best: accuracy {best.accuracy:.2f} %, loss {format_loss(best.loss)}: {shlex.join(map(str, command))}"


if __name__ == "__main__":
    run_script(main)
