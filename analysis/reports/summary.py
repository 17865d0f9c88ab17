"""The summary of a sweep: the trials of a folder, and a table of their means over the seeds.

python3 -m analysis.reports.summary runs

Complete runs without a line in trials.jsonl are measured and added. The tables are made of the trials only:
summary.md for readers, summary.csv for programs.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from analysis.reports.trials import BETTER_THAN_CHANCE, Group, Trials, group
from analysis.tables import markdown_table, write_rows, write_text
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from training.config import MODE_TITLES, phrase_of, plain_values, table_cell, table_columns

MEASURES = {  # outcome → title, digits
    "test_accuracy": ("test accuracy, %", 2),
    "test_loss": ("test loss", 4),
    "train_accuracy": ("train accuracy, %", 2),
    "seconds": ("time, s", 1),
    "mean_staleness": ("mean staleness", 2),
}


def settings_of(group: Group) -> dict[str, str]:
    """Setting → its value in a table, of all that shape training, and of the clock."""
    return {name: table_cell(group.config, name) for name in table_columns()} | {"clock": group.clock}


def shared_in_words(group: Group, names: Sequence[str]) -> str:
    """What all runs have in common."""
    phrases = (MODE_TITLES[group.config.mode] if name == "mode" else phrase_of(group.config, name) for name in names)
    return ", ".join(phrase for phrase in phrases if phrase)


def markdown(groups: list[Group]) -> str:
    """The table for readers: what all groups share in a line above it, then one row per group."""
    settings = [settings_of(one) for one in groups]
    varying = [name for name in settings[0] if len({one[name] for one in settings}) > 1]
    shared = shared_in_words(groups[0], [name for name in settings[0] if name not in varying])
    headings = [table_columns()[name] for name in varying]
    titles = [*headings, "runs", *(title for title, _ in MEASURES.values()), "largest staleness", "converged"]
    rows = [
        [
            *(values[name] for name in varying),
            str(len(one.outcomes)),
            *(f"{one.spread(measure):.{digits}f}" for measure, (_, digits) in MEASURES.items()),
            str(one.max_staleness),
            str(one.converged),
        ]
        for values, one in zip(settings, groups, strict=True)
    ]
    return (
        f"Shared by all runs: {shared}.\n\n"
        "Mean ± sample standard deviation over the seeds, one run per seed. Accuracy and loss: of the final model, on "
        "the whole test or training set; time: of training, on the run's clock; staleness: in updates. A run converged "
        "if its weights and test loss are finite and its test accuracy is more than "
        f"{BETTER_THAN_CHANCE} times that of a guess.\n\n{markdown_table(titles, rows)}"
    )


def numbers(groups: list[Group]) -> list[Sequence[object]]:
    """The same for programs: every setting; mean and deviation in columns of their own, empty where there is none."""
    spreads = [f"{measure}_{statistic}" for measure in MEASURES for statistic in ("mean", "std")]
    settings = [plain_values(one.config) | {"clock": one.clock} for one in groups]
    rows: list[Sequence[object]] = [[*settings[0], "runs", *spreads, "max_staleness", "converged"]]
    for values, one in zip(settings, groups, strict=True):
        means = (value for measure in MEASURES for value in dataclasses.astuple(one.spread(measure)))
        texts = [f"{value:.6g}" if math.isfinite(value) else "" for value in means]
        rows.append([*values.values(), len(one.outcomes), *texts, one.max_staleness, one.converged])
    return rows


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="where logs and models are")
    add("--summary_dir", metavar="DIR", type=Path, help="where trials.jsonl and the tables are (default FOLDER)")
    add("--data_dir", metavar="DIR", default="data", help="where data sets lie or are downloaded to (default data)")
    arguments = parser.parse_args()
    folder = arguments.summary_dir or arguments.folder

    trials = Trials(folder)
    failures = trials.add_missing(arguments.folder, arguments.data_dir)
    if not trials.rows:
        raise DataError(f"{arguments.folder}: no complete run to summarise")
    groups = group(trials.rows.values())
    table, for_programs = folder / "summary.md", folder / "summary.csv"
    write_text(table, markdown(groups))
    write_rows(for_programs, numbers(groups))
    print(f"Summary of {len(trials.rows)} runs of {len(groups)} settings:")
    for path in (table, for_programs, trials.path):
        print(f"  {path}")
    if failures:
        raise DataError(f"{arguments.folder}: {failures} of its runs could not be measured")


if __name__ == "__main__":
    run_script(main)
