"""The summary of a sweep: the trials of a folder, and a table of their means over the seeds.

python3 -m analysis.reports.summary runs

Complete runs without a line in trials.jsonl are measured and added. The tables are made of the trials only:
summary.md for readers, summary.csv for programs.
"""

import dataclasses
import math
import statistics
from collections.abc import Collection, Sequence
from pathlib import Path

from analysis.flags import add_data_dir, add_summary_dir
from analysis.reports import differences
from analysis.reports.settings import settings_of, shared_in_words, varying_and_shared
from analysis.reports.trials import Group, Trial, Trials, group, time_to
from analysis.spread import Spread
from analysis.tables import csv_text, markdown_table, write_text
from catalogue import BETTER_THAN_CHANCE
from interface.command_line import ArgumentParser, Interval, count, run_script
from interface.errors import DataError
from training.words import plain_values, table_columns

MEASURES = {  # outcome → title, digits
    "test_accuracy": ("test accuracy, %", 2),
    "test_loss": ("test loss", 4),
    "train_accuracy": ("train accuracy, %", 2),
    "seconds": ("time, s", 1),
    "mean_staleness": ("mean staleness", 2),
}
TARGETS = (80.0, 85.0)  # test accuracy, percent


def time_cell(group: Group, target: float) -> str:
    """When the runs of a group first reached a test accuracy, and how many did: the others are censored.

    Empty if none of them was evaluated on the way.
    """
    evaluated = [outcome for outcome in group.outcomes if outcome.evaluations]
    reached = [found[0] for outcome in evaluated if (found := time_to(target, outcome))]
    if not reached:
        return "never" if evaluated else ""
    count = "" if len(reached) == len(evaluated) else f" ({len(reached)} of {len(evaluated)})"
    return f"{Spread.of(reached):.1f}{count}"


def markdown(groups: list[Group], targets: Sequence[float] = ()) -> str:
    """The table for readers: what all groups share in a line above it, then one row per group."""
    settings = [settings_of(one) for one in groups]
    varying, shared_names = varying_and_shared(groups)
    shared = shared_in_words(groups[0], shared_names)
    headings = [(table_columns() | {"remark": "remark"})[name] for name in varying]
    targets = [target for target in targets if any(outcome.evaluations for one in groups for outcome in one.outcomes)]
    times = [f"time to {target:g} %, s" for target in targets]
    titles = [*headings, "runs", *(title for title, _ in MEASURES.values()), "largest staleness", *times, "converged"]
    rows = [
        [
            *(values[name] for name in varying),
            str(len(one.outcomes)),
            *(f"{one.spread(measure):.{digits}f}" for measure, (_, digits) in MEASURES.items()),
            str(one.max_staleness),
            *(time_cell(one, target) for target in targets),
            str(one.converged),
        ]
        for values, one in zip(settings, groups, strict=True)
    ]
    about_times = (
        " Time to an accuracy: until an evaluation first found it; of the runs that reached it." if times else ""
    )
    return (
        f"Shared by all runs: {shared}.\n\n"
        "Mean ± sample standard deviation over the seeds, one run per seed. Accuracy and loss: of the final model, on "
        "the whole test or training set; time: of training, on the run's clock; staleness: in updates. A run converged "
        "if its weights and test loss are finite and its test accuracy is more than "
        f"{BETTER_THAN_CHANCE} times that of a guess.{about_times}\n\n{markdown_table(titles, rows)}"
    )


def numbers(groups: list[Group], targets: Sequence[float] = ()) -> list[Sequence[object]]:
    """The same for programs: every setting; mean and deviation in columns of their own, empty where there is none."""
    spreads = [f"{measure}_{statistic}" for measure in MEASURES for statistic in ("mean", "std")]
    settings = [plain_values(one.config) | {"clock": one.clock, "remark": one.remark} for one in groups]
    times = [f"{what}_to_{target:g}" for target in targets for what in ("seconds", "updates", "reached")]
    rows: list[Sequence[object]] = [[*settings[0], "runs", *spreads, "max_staleness", *times, "converged"]]
    for values, one in zip(settings, groups, strict=True):
        means = (value for measure in MEASURES for value in dataclasses.astuple(one.spread(measure)))
        texts = [f"{value:.6g}" if math.isfinite(value) else "" for value in means]
        reached = [value for target in targets for value in times_to(target, one)]
        rows.append([*values.values(), len(one.outcomes), *texts, one.max_staleness, *reached, one.converged])
    return rows


def times_to(target: float, group: Group) -> tuple[object, object, int]:
    """Mean seconds and updates to a test accuracy, of the runs that reached it (empty for none), and their number."""
    found = [time for outcome in group.outcomes if (time := time_to(target, outcome))]
    if not found:
        return "", "", 0
    return *(f"{statistics.fmean(column):.6g}" for column in zip(*found, strict=True)), len(found)


def tables(trials: Collection[Trial], targets: Sequence[float] = TARGETS) -> dict[str, str]:
    """File → its text: the summary for readers, with the differences, and that for programs."""
    groups = group(trials)
    return {
        "summary.md": markdown(groups, targets) + differences.markdown(trials),
        "summary.csv": csv_text(numbers(groups, targets)),
    }


def make_parser(doc: str) -> ArgumentParser:
    """The command line of a program that summarises a folder."""
    parser = ArgumentParser(doc)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where logs and models are")
    add_summary_dir(parser)
    add_data_dir(parser)
    parser.add_argument(
        "--targets", metavar="F", type=Interval(float, "(0,100]"), nargs="+", default=TARGETS,
        help="test accuracies, %%, to report the time to, of runs with --evals_per_epoch (default 80 85)",
    )  # fmt: skip
    return parser


def summarise(folder: Path, summary_dir: Path, data_dir: str, targets: Sequence[float]) -> list[Trial]:
    """Measure the runs of a folder that have no trial, write the tables of all trials, and return these."""
    trials = Trials(summary_dir)
    failures = trials.add_missing(folder, data_dir)
    if not trials.rows:
        raise DataError(f"{folder}: no complete run to summarise")
    settings = count(len(group(trials.rows.values())), "setting")
    print(f"Summary of {count(len(trials.rows), 'run')} of {settings}:")
    for name, text in tables(trials.rows.values(), targets).items():
        write_text(summary_dir / name, text)
        print(f"  {summary_dir / name}")
    print(f"  {trials.path}")
    if failures:
        raise DataError(f"{folder}: {failures} of its runs could not be measured")
    return list(trials.rows.values())


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    summary_dir = arguments.summary_dir or arguments.folder
    differences.show(summarise(arguments.folder, summary_dir, arguments.data_dir, arguments.targets))


if __name__ == "__main__":
    run_script(main)
