#!/usr/bin/env python3
"""Search a grid of settings by k-fold cross-validation: train each k times, score it on what was held out.

python3 kfold.py --dataset fashion_mnist --momentum --learning_rates 0.001 0.005 0.01 --batch_sizes 32 64

A training to the most epochs serves all smaller numbers. Results go to a CSV file as each configuration
ends; after an interruption the same command goes on from there, and a larger grid adds to what is there.
"""

import argparse
import logging
import math
import shlex
from collections.abc import Iterable
from pathlib import Path

import torch

from analysis.spread import Spread
from common import DATASETS, DEFAULT_SEED, Samples, load_dataset, make_generator, network_name, take_subset
from cross_validation.search import (
    Result,
    ResultsFile,
    SearchData,
    SearchGrid,
    SearchSettings,
    make_folds,
    rank,
    search,
)
from evaluation import in_digits
from interface.command_line import ArgumentParser, Interval, run_script
from interface.errors import UsageError
from interface.processes import available_cores

LEARNING_RATES = {"SGD": (0.001, 0.005, 0.01, 0.05, 0.1), "ADAM": (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05)}
BATCH_SIZES = (32, 64, 128)
MOMENTUMS = (0.9, 0.95, 0.99)
EPOCHS = (2, 4, 6)


def main() -> None:
    arguments = parse_arguments()
    grid = make_grid(arguments)
    torch.set_num_threads(1)  # this process is to be forked: it must have no pool of threads
    data = make_search_data(arguments, load_dataset(arguments.dataset, arguments.data_dir).train)
    check_batch_sizes(grid, data)
    print(f"Grid search by k-fold cross-validation with\n{describe(arguments, grid, data.settings)}")

    base = Path(arguments.subfolder) / data.settings.name
    with ResultsFile(Path(f"{base}.csv"), data.settings) as file:
        search(data, grid, file, arguments.jobs)
        ranking = rank(file.of(grid))
    print(f"\n{table(ranking)}\n\n{tell_best(ranking[0], arguments)}\n  {base}.csv")

    from cross_validation.plots import draw_grid

    draw_grid(Path(f"{base}.png"), data.settings, grid, ranking)
    print(f"  {base}.png")


def parse_arguments() -> argparse.Namespace:
    """The flags; those without a default of their own are absent unless given."""
    rate, momentum = Interval(float, "(0,inf)"), Interval(float, "[0,inf)")
    count, splits, seed = Interval(int, "[1,inf)"), Interval(int, "[2,inf)"), Interval(int, "[0,inf)")
    rates = "; ".join(f"{texts(values)} for {optimizer}" for optimizer, values in LEARNING_RATES.items())
    cores = available_cores()

    parser = ArgumentParser(__doc__, argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("--dataset", required=True, choices=DATASETS, help="data to search on; digits is embedded and needs no file")
    add("--data_dir", default="data", metavar="DIR", help="where data sets lie or are downloaded to (default data)")
    add("--k_splits", type=splits, default=5, metavar="N", help="folds (default 5); [2,samples]")
    add("--alr", action="store_true", default=False, help="Adam instead of SGD")
    add("--momentum", type=momentum, nargs="?", metavar="M",
        help="alone: try the --momentums; with a value: that one; without the flag: 0; not used with Adam")  # fmt: skip
    add("--alt_model", action="store_true", default=False, help="CNN1 / CNN2 instead of LeNet5 / ResNet18")
    add("--epochs", type=count, nargs="+", default=EPOCHS, metavar="N", help=f"to try (default {texts(EPOCHS)})")
    add("--learning_rates", type=rate, nargs="+", metavar="F", help=f"to try (default {rates})")
    add("--batch_sizes", type=count, nargs="+", default=BATCH_SIZES, metavar="N",
        help=f"to try (default {texts(BATCH_SIZES)})")  # fmt: skip
    add("--momentums", type=momentum, nargs="+", metavar="M",
        help=f"to try, with --momentum or by itself (default {texts(MOMENTUMS)})")  # fmt: skip
    add("--max_samples", type=count, metavar="N", help="search on N random samples of the training set (default all)")
    add("--jobs", type=count, default=cores, metavar="N", help=f"trainings at a time, a core each (default {cores})")
    add("--seed", type=seed, nargs="?", const=DEFAULT_SEED, default=DEFAULT_SEED, metavar="N",
        help=f"of everything random (default {DEFAULT_SEED}, so that the same command resumes a search)")  # fmt: skip
    add("--subfolder", default=".", metavar="DIR", help="where the results go (default .)")
    return parser.parse_args()


def texts(values: Iterable[object]) -> str:
    """Values as a command line has them."""
    return " ".join(map(str, values))


def make_grid(arguments: argparse.Namespace) -> SearchGrid:
    """The grid that was asked for. Raises UsageError for flags that exclude each other."""
    learning_rates = vars(arguments).get("learning_rates", LEARNING_RATES[optimizer_name(arguments)])
    values = (learning_rates, choose_momentums(arguments), arguments.batch_sizes, arguments.epochs)
    return SearchGrid(*(tuple(sorted(set(axis))) for axis in values))


def optimizer_name(arguments: argparse.Namespace) -> str:
    """SGD or ADAM."""
    return "ADAM" if arguments.alr else "SGD"


def choose_momentums(arguments: argparse.Namespace) -> tuple[float, ...] | list[float]:
    """What --momentum and --momentums mean together."""
    if "momentum" not in arguments and "momentums" not in arguments:
        return (0.0,)
    if arguments.alr:
        logging.warning("momentum is not used with --alr: Adam has its own")
        return (0.0,)
    momentum = vars(arguments).get("momentum")
    if momentum is None:
        return vars(arguments).get("momentums", MOMENTUMS)
    if "momentums" in arguments:
        raise UsageError(f"--momentums has no effect with --momentum {momentum}: give one of the two")
    return (momentum,)


def make_search_data(arguments: argparse.Namespace, samples: Samples) -> SearchData:
    """The samples to use and their folds. Raises UsageError for more folds than samples."""
    size = min(len(samples), vars(arguments).get("max_samples", math.inf))
    if arguments.k_splits > size:
        raise UsageError(
            f"--k_splits {arguments.k_splits} is not valid: give an integer from 2 to the number of samples, {size}"
        )
    subset = take_subset(len(samples), size / len(samples), make_generator(arguments.seed, "subset"))
    settings = SearchSettings(
        dataset=arguments.dataset,
        network=network_name(arguments.dataset, arguments.alt_model),
        optimizer=optimizer_name(arguments),
        samples=size,
        folds=arguments.k_splits,
        seed=arguments.seed,
        data=samples.fingerprint(),
    )
    return SearchData(settings, samples, make_folds(subset, arguments.k_splits, arguments.seed))


def check_batch_sizes(grid: SearchGrid, data: SearchData) -> None:
    """Raises UsageError for a mini-batch larger than what is trained on."""
    size = min(len(fold.train) for fold in data.folds)
    if grid.batch_sizes[-1] > size:
        raise UsageError(
            f"--batch_sizes {grid.batch_sizes[-1]} is not valid: give integers in [1,{size}], "
            f"the samples that are trained on while a fold is held out"
        )


def describe(arguments: argparse.Namespace, grid: SearchGrid, settings: SearchSettings) -> str:
    """What the search uses, one setting a line."""
    used = {**vars(settings), **vars(grid), "jobs": arguments.jobs, "data_dir": arguments.data_dir}
    return "\n".join(
        f"  {name:<20} {texts(value) if isinstance(value, tuple) else value}" for name, value in used.items()
    )


def table(ranking: list[Result]) -> str:
    """The results, best first: mean ± standard deviation over the folds, and the time of one training."""
    titles = ["", "accuracy, %", "loss", "lr", "momentum", "batch size", "epochs", "seconds"]
    rows = [titles] + [
        [
            f"{place}.",
            f"{result.accuracy:.2f}",
            tell_loss(result.loss) if result.converged else "diverged",
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


def tell_loss(loss: Spread) -> str:
    """Mean ± standard deviation."""
    return f"{in_digits(loss.mean)} ± {in_digits(loss.deviation)}"


def tell_best(best: Result, arguments: argparse.Namespace) -> str:
    """The best result and the command line that trains it on the whole training set, in one line."""
    if not best.converged:
        return "Best: none, every configuration diverged"
    configuration = best.configuration
    command = ["python3", "nonDistributed.py", "--dataset", arguments.dataset]
    command += ["--lr", configuration.learning_rate, "--batch_size", configuration.batch_size, "--epochs", best.epochs]
    command += ["--alr"] if arguments.alr else ["--momentum", configuration.momentum]
    command += ["--alt_model"] if arguments.alt_model else []
    command += ["--data_dir", arguments.data_dir] if arguments.data_dir != "data" else []
    command += ["--seed", arguments.seed]
    return f"Best: accuracy {best.accuracy:.2f} %, loss {tell_loss(best.loss)}: {shlex.join(map(str, command))}"


if __name__ == "__main__":
    run_script(main)
