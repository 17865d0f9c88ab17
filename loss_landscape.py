#!/usr/bin/env python3
"""Draw the test loss around a run's training trajectory, in the plane of its first two principal components.

python3 loss_landscape.py runs/{base}_model.pt runs/{base}_weights.npy --subfolder plots

With --plane random, in a plane of two random, filter-normalised directions around the end of the run (Li et al. 2018,
arXiv 1712.09913). --hessian K prints the K largest eigenvalues of the Hessian of the loss at the given model.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from analysis.landscape.inputs import Files, Source, SurveySettings, add_flags
from catalogue import DEFAULT_SEED
from interface.command_line import ArgumentParser, Interval, run_script
from interface.errors import UsageError
from training.names import base_of
from training.words import shared_in_words


def main() -> None:
    parser = ArgumentParser(__doc__)
    add_flags(parser, grid_size=25)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="saved weights of the run, {base}_weights.npy")
    add = parser.add_argument
    add("--plane", choices=("pca", "random"), default="pca", help="what spans the plane (default pca)")
    add("--plane_seed", metavar="N", type=Interval(int, "[0,inf)"),
        help=f"seed of a random plane (default {DEFAULT_SEED})")  # fmt: skip
    add("--hessian", metavar="K", type=Interval(int, "[1,100]"),
        help="print the K largest eigenvalues of the Hessian at the end; [1,100]")  # fmt: skip
    add("--hessian_of", choices=("test", "train"),
        help="whose loss it is of: as many test or training images as the landscape has (default test)")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.plane_seed is not None and arguments.plane != "random":
        raise UsageError(f"--plane_seed {arguments.plane_seed} has no effect without --plane random")
    if arguments.hessian_of is not None and arguments.hessian is None:
        raise UsageError(f"--hessian_of {arguments.hessian_of} has no effect without --hessian")
    arguments.plane_seed = DEFAULT_SEED if arguments.plane_seed is None else arguments.plane_seed
    arguments.hessian_of = arguments.hessian_of or "test"

    model, weights = Source.of(arguments.model), Source.of(arguments.weights)
    base = base_of(arguments.weights)

    # Slow imports, after all that --help and a wrong command line need.
    from analysis.landscape.plots import draw
    from analysis.landscape.sources import prepare

    prepared = prepare(model, [weights], ["trajectory"], SurveySettings.of(arguments))
    if prepared is None:
        return
    survey, evaluation = prepared

    random = f"_random{arguments.plane_seed}" if arguments.plane == "random" else ""
    files = Files.within(arguments.subfolder, f"{base}_loss_landscape{random}")
    landscape = replace(survey.measure(evaluation, files.unfinished), settings=shared_in_words([weights.config]))
    landscape.save(files.numbers)
    print(landscape.report())
    paths = files.numbers, *draw(landscape, files.stem, shared_plotly=arguments.shared_plotly)
    print(*(f"  {path}" for path in paths), sep="\n")
    if arguments.hessian:
        print(hessian_in_words(model, arguments))
    files.unfinished.unlink(missing_ok=True)  # last: until here, the same command does not evaluate the grid again


def hessian_in_words(model: Source, arguments: argparse.Namespace) -> str:
    """The largest eigenvalues at the given model, in a line."""
    import torch
    from tqdm import tqdm

    from analysis.landscape.hessian import HessianProduct, largest_eigenvalues
    from analysis.landscape.network_loss import images_of
    from common import build_model, load_dataset
    from interface.processes import available_cores
    from training.record.models import read_model

    torch.set_num_threads(available_cores())
    network = build_model(model.config.dataset, model.config.network_name, device=arguments.device)
    read_model(model.path, network)
    if not torch.isfinite(network.parameters).all():
        return "the Hessian at the end has no eigenvalues: the model is not finite"
    dataset = load_dataset(model.config.dataset, arguments.data_dir, model.config.changed_data)
    images = images_of(dataset, arguments.hessian_of, arguments.test_samples).to(arguments.device)
    with tqdm(unit=" products", desc="Hessian", disable=None) as bar:
        product = HessianProduct(network, images, arguments.batch_size, bar.update)
        found = largest_eigenvalues(product, len(network.parameters), arguments.hessian)
    values = ", ".join(f"{value:.4g}" for value in found)
    total = len(dataset.train if arguments.hessian_of == "train" else dataset.test)
    part = f"{'all' if len(images) == total else f'{len(images):,} of the'} {total:,}"
    kind = "training" if arguments.hessian_of == "train" else "test"
    return f"largest eigenvalues of the Hessian of the loss on {part} {kind} images at the end: {values}"


if __name__ == "__main__":
    run_script(main)
