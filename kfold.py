#!/usr/bin/env python3
"""Grid search with k-fold cross-validation: train every configuration k times, each time scored on another fold.

python3 kfold.py --dataset fashion_mnist --momentum --learning_rates 0.001 0.005 0.01 --batch_sizes 32 64

One training for the largest number of epochs covers all smaller numbers. Results are appended to a CSV file as
each configuration finishes; the same command resumes an interrupted search, and a larger grid extends it.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from analysis.spread import Spread, in_digits
from cross_validation.command_line import make_grid, make_settings, outputs, parse_arguments, texts
from cross_validation.grid import SearchGrid, SearchSettings
from cross_validation.results import Result, ResultsFile, rank
from interface.command_line import run_script
from interface.errors import UsageError

if TYPE_CHECKING:
    from common import Samples
    from cross_validation.search import SearchData


def main() -> None:
    arguments = parse_arguments(doc=__doc__)
    grid = make_grid(arguments)

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
