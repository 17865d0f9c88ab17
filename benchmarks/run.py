"""Compare the speed of the suite with its peers, and write a report.

python3 -m benchmarks.run
python3 -m benchmarks.run --rows async sync --repeats 7 --data_dir data
"""

import argparse
import importlib.util
import sys
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from benchmarks.data import write_stand_in
from benchmarks.experiments import FULL, QUICK, Experiment, all_experiments
from benchmarks.measure import MeasurementFailedError, Sample, nursery
from benchmarks.report import ExperimentResult, describe_machine, report, section

ROWS = ("nondistributed", "async", "sync", "virtual", "startup", "memory", "landscape", "kfold")
REPEATS = 5


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as folder:
        data = "Fashion-MNIST"
        if arguments.data_dir is None:
            data = "random images, as many and of the same shape as in Fashion-MNIST"
            arguments.data_dir = Path(folder)
            write_stand_in(arguments.data_dir)
        effort = QUICK if arguments.quick else FULL
        experiments = [
            experiment
            for experiment in all_experiments(str(arguments.data_dir.resolve()), effort)
            if experiment.row in arguments.rows
        ]
        settings = [*describe_machine(), data, describe_measuring(arguments)]
        sys.exit(run(experiments, arguments, settings))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "benchmarks.run", description=__doc__, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=f"some of {', '.join(ROWS)} (default all)")
    add("--repeats", type=int, default=None, metavar="N", help=f"repeats of each measurement (default {REPEATS})")
    add("--data_dir", type=Path, metavar="DIR",
        help="folder with Fashion-MNIST in torchvision's layout (default: random images of its shape)")  # fmt: skip
    add("--quick", action="store_true", help="measure once and as little as possible, only to check that it works")
    add("--output", type=Path, default=Path("benchmarks/results"), metavar="DIR",
        help="folder for the report (default benchmarks/results)")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.repeats is None:
        arguments.repeats = 1 if arguments.quick else REPEATS
    if arguments.repeats < 1:
        parser.error(f"argument --repeats: {arguments.repeats} is not valid: give an integer in [1,inf)")
    if arguments.data_dir and not (arguments.data_dir / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        parser.error(f"argument --data_dir: no unpacked Fashion-MNIST in torchvision's layout in {arguments.data_dir}")
    return arguments


def describe_measuring(arguments: argparse.Namespace) -> str:
    """The repeats and their order, in one line."""
    quick = "; --quick: too little work for meaningful speeds" if arguments.quick else ""
    return (
        f"repeats: {arguments.repeats}; each repeat runs every contestant once, in a new process, in an order that "
        f"rotates by one from repeat to repeat{quick}"
    )


def run(experiments: list[Experiment], arguments: argparse.Namespace, settings: list[str]) -> int:
    """Run all experiments; after each, print it and write the page. Returns the exit code: 1 if something failed."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    page = arguments.output / f"{datetime.now():%Y-%m-%d_%H%M%S}.md"
    results: list[ExperimentResult] = []
    failed = False
    total = arguments.repeats * sum(len(experiment.contestants) for experiment in experiments)
    with tqdm(total=total, unit=" measurements", dynamic_ncols=True, disable=None) as bar:
        for experiment in experiments:
            result = conduct(experiment, arguments.repeats, bar)
            results.append(result)
            unfinished = page.with_suffix(".partial")
            unfinished.write_text(report(results, settings), encoding="utf-8")
            unfinished.replace(page)
            tqdm.write(f"\n{section(result)}\n")
            failed |= any("failed" in reason for reason in result.missing.values())
    print(f"  {page}")
    return int(failed)


def conduct(experiment: Experiment, repeats: int, bar: tqdm) -> ExperimentResult:
    """Measure all contestants in turn, in each repeat; a contestant that fails is not measured again."""
    missing = {
        contestant.name: f"{contestant.needs} is not installed"
        for contestant in experiment.contestants
        if contestant.needs and importlib.util.find_spec(contestant.needs) is None
    }
    present = [contestant for contestant in experiment.contestants if contestant.name not in missing]
    samples: dict[str, list[Sample]] = defaultdict(list)
    with nursery(present) as measure:
        for repeat in range(repeats):
            first = repeat % len(present)
            for contestant in (*present[first:], *present[:first]):
                bar.set_postfix_str(f"{experiment.title}: {contestant.name}", refresh=True)
                if contestant.name not in missing:
                    try:
                        samples[contestant.name].append(measure(contestant))
                    except MeasurementFailedError as error:
                        missing[contestant.name] = f"failed: {error}"
                        samples.pop(contestant.name, None)
                bar.update()
    return ExperimentResult(experiment, dict(samples), missing)


if __name__ == "__main__":
    main()
