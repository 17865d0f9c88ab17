"""The learning rate of each algorithm with the highest validation accuracy, from the trials of a folder.

python3 -m analysis.reports.tuning summaries/algorithms/tuning

Prints a line per algorithm: its name, with + before the flags that belong to it, and the rate; writes all
validation accuracies to tuning.md beside the trials.
"""

import statistics
from collections import defaultdict
from pathlib import Path

from analysis.reports.trials import Trials, distinct
from analysis.tables import markdown_table, write_text
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from training.algorithms import ALGORITHMS
from training.config import RunConfig

Tuning = dict[str, dict[float, float]]  # algorithm → learning rate → mean validation accuracy, percent


def label_of(config: RunConfig) -> str:
    """An algorithm with its compensation and momentum, as the drivers write them: asgd+compensation."""
    momentum = f"+momentum={config.momentum}" if config.momentum else ""
    return f"{config.algorithm}{'+compensation' * config.compensation}{momentum}"


def position(label: str) -> tuple[int, str]:
    """Labels in the order of ALGORITHMS."""
    return list(ALGORITHMS).index(label.partition("+")[0]), label


def read_tuning(folder: Path) -> Tuning:
    """The validation accuracies of a folder. Raises DataError if it has none."""
    found = defaultdict(lambda: defaultdict(list))
    for trial in distinct(Trials(folder).rows.values()):
        if trial.outcome.validation_accuracy is not None:
            found[label_of(trial.config)][trial.config.lr].append(trial.outcome.validation_accuracy)
    if not found:
        raise DataError(f"{folder}: it has no run with --val")
    return {
        label: {rate: statistics.fmean(accuracies) for rate, accuracies in sorted(found[label].items())}
        for label in sorted(found, key=position)
    }


def best_rate(accuracies: dict[float, float]) -> float:
    """The rate with the highest accuracy; of equal ones the lowest."""
    return max(accuracies, key=lambda rate: (accuracies[rate], -rate))


def markdown(tuning: Tuning) -> str:
    """One row per algorithm, one column per rate, the best in bold."""
    rates = sorted({rate for accuracies in tuning.values() for rate in accuracies})
    rows = []
    for label, accuracies in tuning.items():
        best = best_rate(accuracies)
        cells = {rate: f"{accuracy:.1f}" for rate, accuracy in accuracies.items()}
        cells[best] = f"**{cells[best]}**"
        rows.append([label, *(cells.get(rate, "") for rate in rates)])
    return (
        "Validation accuracy at the end, %, by learning rate; the best in bold.\n\n"
        f"{markdown_table(['algorithm', *(f'{rate:g}' for rate in rates)], rows)}"
    )


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where trials.jsonl is")
    parser.add_argument("--print_only", action="store_true", help="do not write tuning.md")
    arguments = parser.parse_args()
    folder = arguments.folder
    tuning = read_tuning(folder)
    if not arguments.print_only:
        write_text(folder / "tuning.md", markdown(tuning))
    for label, accuracies in tuning.items():
        print(label, best_rate(accuracies))


if __name__ == "__main__":
    run_script(main)
