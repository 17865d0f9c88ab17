#!/usr/bin/env python3
"""Draw the test loss around a run's training trajectory, in the plane of its first two principal components.

python3 loss_landscape.py runs/{base}_model.pt runs/{base}_weights.npy --subfolder plots
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from analysis.landscape.inputs import Files, Source, SurveySettings, add_flags
from interface.command_line import ArgumentParser, run_script
from training.names import base_of


def main() -> None:
    parser = ArgumentParser(__doc__)
    add_flags(parser, grid_size=25)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="saved weights of the run, {base}_weights.npy")
    arguments = parser.parse_args()

    model, weights = Source.of(arguments.model), Source.of(arguments.weights)
    base = base_of(arguments.weights)

    # Slow imports, after all that --help and a wrong command line need.
    from analysis.landscape.plots import draw
    from analysis.landscape.sources import prepare

    prepared = prepare(model, [weights], ["trajectory"], SurveySettings.of(arguments))
    if prepared is None:
        return
    survey, evaluation = prepared

    files = Files.within(arguments.subfolder, f"{base}_loss_landscape")
    landscape = survey.measure(evaluation, files.unfinished)
    landscape.save(files.numbers)
    print(landscape.report())

    for path in (files.numbers, *draw(landscape, files.stem, shared_plotly=arguments.shared_plotly)):
        print(f"  {path}")
    files.unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    run_script(main)
