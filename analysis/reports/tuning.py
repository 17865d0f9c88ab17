"""The learning rate of each algorithm with the highest validation accuracy, from the trials of a folder.

python3 -m analysis.reports.tuning summaries/algorithms/tuning

Prints a line per algorithm: its name, with + before the flags that belong to it, and the rate; writes all validation
accuracies to tuning.md beside the trials. Reads all runs of the folder that have --val, or those that are named.
"""

import logging
import statistics
from collections.abc import Iterable
from pathlib import Path

from analysis.reports.trials import Trials
from analysis.tables import markdown_table, write_text
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from training.algorithms import ALGORITHMS
from training.config import RunConfig, words_of
from training.names import parse_run_name
from training.settings import OWNERS
from training.words import is_usual

Tuning = dict[str, dict[float, list[float]]]  # algorithm → learning rate → validation accuracies so far, percent


def label_of(config: RunConfig) -> str:
    """An algorithm with its flags and momentum, as the drivers write them: asgd+compensation, dana+momentum=0.9."""
    flags = ["=".join(words_of(config, name)) for name in ("momentum", *OWNERS) if not is_usual(config, name)]
    return "+".join([config.algorithm, *(flag.removeprefix("--") for flag in flags)])


def position(label: str) -> tuple[int, str]:
    """Labels in the order of ALGORITHMS."""
    return list(ALGORITHMS).index(label.partition("+")[0]), label


def read_tuning(trials: Trials, names: Iterable[str]) -> Tuning:
    """The validation accuracies of distributed runs; those that are not there yet, or lost a worker, have none."""
    found: Tuning = {}
    there = {name: one.outcome.validation_accuracy for name, one in trials.rows.items() if not one.remark}
    for name in names:
        config = parse_run_name(name)
        if not config.distributed:
            continue
        accuracies = found.setdefault(label_of(config), {}).setdefault(config.lr, [])
        if there.get(name) is not None:  # as it is in a run that ended before its first epoch
            accuracies.append(there[name])
    return {label: found[label] for label in sorted(found, key=position)}


def best_rate(accuracies: dict[float, list[float]]) -> float:
    """The rate with the highest mean accuracy; of equal ones the lowest. Any, if none was tried."""
    tried = [rate for rate in sorted(accuracies) if accuracies[rate]]
    return max(tried, key=lambda rate: statistics.fmean(accuracies[rate])) if tried else min(accuracies)


def markdown(tuning: Tuning) -> str:
    """One row per algorithm, one column per rate, the best in bold."""
    rates = sorted({rate for accuracies in tuning.values() for rate in accuracies})
    rows = []
    for label, accuracies in tuning.items():
        best = best_rate(accuracies)
        cells = {rate: f"{statistics.fmean(found):.1f}" for rate, found in accuracies.items() if found}
        rows.append([label, *(f"**{cells[rate]}**" if rate == best else cells.get(rate, "") for rate in rates)])
    return (
        "Validation accuracy at the end, %, by learning rate; the best in bold.\n\n"
        f"{markdown_table(['algorithm', *(f'{rate:g}' for rate in rates)], rows)}"
    )


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where trials.jsonl is")
    parser.add_argument("names", metavar="NAME", nargs="*", help="of a run (default: all that have --val)")
    parser.add_argument(
        "--dry_run", action="store_true", help="write nothing; without runs, any rate is the best, and untried"
    )
    arguments = parser.parse_args()
    folder = arguments.folder
    trials = Trials(folder)
    names = [name for name, trial in trials.rows.items() if trial.outcome.validation_accuracy is not None]
    tuning = read_tuning(trials, arguments.names or names)
    tried = {label: accuracies for label, accuracies in tuning.items() if any(accuracies.values())}
    if not arguments.dry_run:
        if not tried:
            raise DataError(f"{folder}: it has no run with --val that reached the end of an epoch")
        for label in tuning.keys() - tried.keys():
            logging.warning("%s: none of the runs that choose its learning rate was validated; it is left out", label)
        write_text(folder / "tuning.md", markdown(tried))
    for label, accuracies in (tuning if arguments.dry_run else tried).items():
        print(label, best_rate(accuracies), *([] if label in tried else ["untried"]))


if __name__ == "__main__":
    run_script(main)
