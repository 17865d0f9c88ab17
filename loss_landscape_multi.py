#!/usr/bin/env python3
"""Draw the test loss around several training trajectories, in the plane of their first two principal components.

python3 loss_landscape_multi.py runs/{base}_model.pt runs/*_weights.npy --subfolder plots
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from analysis.landscape.inputs import Files, Source, SurveySettings, add_flags
from interface.command_line import ArgumentParser, run_script
from interface.errors import UsageError
from training.names import base_of
from training.words import differences_in_words, shared_in_words

if TYPE_CHECKING:
    from analysis.landscape.survey import Evaluation, Survey


def main() -> None:
    arguments = parse_arguments()
    model, weights = Source.of(arguments.model), [Source.of(path) for path in arguments.weights]
    bases = [base_of(path) for path in arguments.weights]
    labels = arguments.labels or default_labels(weights)
    if len(labels) != len(weights):
        raise UsageError(
            f"--labels has {len(labels)} labels, but there are {len(weights)} runs: give one label per run"
        )

    # Slow imports, after all that --help and a wrong command line need.
    from analysis.landscape.plots import draw
    from analysis.landscape.sources import prepare

    if arguments.barrier and len(weights) < 2:
        raise UsageError("--barrier needs the weights of at least two runs")
    prepared = prepare(model, weights, labels, SurveySettings.of(arguments))
    if prepared is None:
        return
    survey, evaluation = prepared

    files = Files.within(arguments.subfolder, f"{arguments.name or shared_name(bases)}_loss_landscape_multi")
    if arguments.grid_losses:
        landscape = survey.read(arguments.grid_losses)
    else:
        landscape = survey.measure(evaluation, files.unfinished)
    landscape = replace(landscape, settings=shared_in_words([source.config for source in weights]))
    if not arguments.no_grid_save:
        landscape.save(files.numbers)
        print(f"  {files.numbers}")
    print(landscape.report())
    if arguments.barrier:
        report_barriers(survey, evaluation, files)

    for path in draw(landscape, files.stem, shared_plotly=arguments.shared_plotly):
        print(f"  {path}")
    if not arguments.grid_losses:
        files.unfinished.unlink(missing_ok=True)


def parse_arguments() -> argparse.Namespace:
    """The command line; exits with code 2 if it is not valid."""
    parser = ArgumentParser(__doc__)
    add_flags(parser, grid_size=50)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, nargs="+", help="saved weights, {base}_weights.npy")
    parser.add_argument(
        "--labels", metavar="L", nargs="+", help="names of the runs; default: the settings in which they differ"
    )
    parser.add_argument("--name", help="prefix of the output files; default: what the runs' names have in common")
    parser.add_argument(
        "--grid_losses", metavar="FILE", type=Path, help="read all losses from this ..._numbers.npz of the same runs"
    )
    parser.add_argument(
        "--barrier", action="store_true",
        help="also measure loss and accuracy along the straight lines between the ends of the runs",
    )  # fmt: skip
    parser.add_argument("--no_grid_save", action="store_true", help="do not write the ..._numbers.npz")
    arguments = parser.parse_args()
    if arguments.grid_losses and not arguments.grid_losses.is_file():
        parser.error(f"--grid_losses {arguments.grid_losses}: no such file")
    if arguments.name is not None and arguments.name != Path(arguments.name).name:
        parser.error(
            f"--name {arguments.name!r} is not valid: give a file name prefix without a folder, which is --subfolder"
        )
    return arguments


def report_barriers(survey: Survey, evaluation: Evaluation, files: Files) -> None:
    """Measure, print and draw what lies between the ends of the runs, two by two."""
    from analysis.landscape.barrier import barriers, draw

    ends = [(run.label, run.parameters[-1]) for run in survey.runs]
    found = barriers(ends, [loss.scores for loss in evaluation.losses], evaluation.interrupted)
    print(*found, sep="\n")
    for path in draw(found, evaluation.about, files.stem):
        print(f"  {path}")


def shared_name(bases: Sequence[str]) -> str:
    """The parts that the names of all runs have in common, in order."""
    shared = bases[0].split("_")
    for base in bases[1:]:
        matches = SequenceMatcher(None, shared, base.split("_"), autojunk=False).get_matching_blocks()
        shared = [part for match in matches for part in shared[match.a : match.a + match.size]]
    return "_".join(shared)


def default_labels(weights: Sequence[Source]) -> list[str]:
    """One label per run: the settings in which the names differ, plus the folder where these are not unique."""
    labels = [", ".join(words) for words in differences_in_words([source.config for source in weights])]
    folders = [source.path.resolve().parent for source in weights]
    shared = Path(os.path.commonpath(folders))
    places = [folder.relative_to(shared) if folder != shared else Path(folder.name) for folder in folders]
    return [
        label if labels.count(label) == 1 and label else f"{label or 'run'} in {place}"
        for label, place in zip(labels, places, strict=True)
    ]


if __name__ == "__main__":
    run_script(main)
