"""Run a designed experiment of the study: tune the learning rates, train with new seeds, answer its contrasts.

bash scripts/run_experiment.sh partitions --data_dir data --jobs 2

What it varies is in analysis/study/design.py, what it asks in summaries/contrasts.json. The same command, run again,
does only what is missing. Other data, fewer epochs or other seeds make a smaller experiment of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from analysis.flags import add_data_dir
from analysis.reports.trials import Trials
from analysis.study.design import EXPERIMENTS
from catalogue import DATASETS
from interface.command_line import ArgumentParser, Interval, run_script
from interface.errors import DataError
from scripts.plan import PlannedRun, without_duplicates
from scripts.sweep import (
    add_pool_flags,
    add_question_flags,
    check_pool_flags,
    check_question_flags,
    execute_all,
    print_names,
    print_plan,
    tell_others,
)
from training.config import RunConfig


def make_parser() -> ArgumentParser:
    """The name of the experiment, and the settings of a smaller one."""
    usage = "bash scripts/run_experiment.sh NAME [--FLAG VALUE ...]"
    parser = ArgumentParser(__doc__, usage=usage, argument_default=argparse.SUPPRESS)
    add, seeds = parser.add_argument, Interval(int, "[0,inf)")
    add("name", metavar="NAME", choices=EXPERIMENTS, help=", ".join(EXPERIMENTS))
    add_pool_flags(add)
    add_data_dir(parser)
    add("--results", type=Path, default=None, metavar="DIR", help="folder for all outputs (default results/NAME)")
    add("--summary_dir", type=Path, default=None, metavar="DIR", help="folder for the rows (default the results)")
    add("--plot_dir", type=Path, default=None, metavar="DIR", help="folder for the figures (default the results)")
    add_question_flags(add)
    add("--dataset", choices=list(DATASETS), help="data set of all runs, except where a level names its own")
    add(
        "--epochs",
        type=Interval(int, "[1,inf)"),
        metavar="N",
        help="epochs per run, except where a level names its own",
    )
    add("--train_split", type=Interval(float, "(0,1]"), metavar="F", help="fraction of the training set")
    add("--seeds", type=seeds, nargs="+", metavar="N", help="seeds of the runs that are compared")
    add(
        "--tuning_seeds",
        type=seeds,
        nargs="+",
        metavar="N",
        help="seeds of the runs that choose the rates",
    )
    return parser


def stages(runs: list[PlannedRun], where: dict[str, Any]) -> Iterator[tuple[list[PlannedRun], dict[str, Any]]]:
    """The runs on the virtual clock, then those on the wall clock, and where each are executed.

    On this machine the latter go one at a time: in parallel, they would slow each other down.
    """
    alone = where if where["scheduler"] else where | {"jobs": 1}
    for clock, place in ("virtual", where), ("wall", alone):
        if on_it := [run for run in runs if run.config.clock == clock]:
            yield on_it, place


def main() -> None:
    given = vars(make_parser().parse_args())
    where = {name: given.pop(name) for name in ("jobs", "scheduler", "keep")}
    check_pool_flags(**where)
    name, dry_run, verbose, names_only = (given.pop(flag) for flag in ("name", "dry_run", "verbose", "names"))
    check_question_flags(dry_run, verbose)
    results = given.pop("results") or Path("results") / name
    summary_dir, plot_dir = (given.pop(folder) or results for folder in ("summary_dir", "plot_dir"))
    data_dir = given.pop("data_dir")
    experiment = EXPERIMENTS[name].replaced(**given)

    def execute(configs: Iterable[RunConfig], folder: Path) -> int:
        failures = 0
        for runs, place in stages(without_duplicates(map(PlannedRun.of, configs)), where):
            if names_only:
                print_names(runs)
            elif dry_run:
                print_plan(runs, Trials(folder), place["jobs"], place["scheduler"], verbose)
            else:
                failures += execute_all(runs, folder, **place)
        return failures

    tuning = [config for _, config in experiment.tuning(data_dir=data_dir, subfolder=str(results / "tuning"))]
    failures = execute(tuning, summary_dir / "tuning")
    try:
        best = experiment.best_rates(Trials(summary_dir / "tuning"))
    except DataError:
        if not (dry_run or names_only):
            raise
        cells = dict.fromkeys(cell for cell, _ in experiment.tuning())
        best = {cell: number / 1000 for number, cell in enumerate(cells, start=1)}  # no two equal: the most runs
        if names_only:
            return
        if verbose:
            print("With rates that stand in for those to be chosen:")
    compared = list(experiment.runs(best, data_dir=data_dir, subfolder=str(results)))
    failures += execute(compared, summary_dir)
    if not (dry_run or names_only):
        tell_others(list(map(PlannedRun.of, compared)), summary_dir)
        resolve_name("analysis.conclude:conclude")(results, summary_dir, results, data_dir)
        resolve_name("analysis.study.contrasts:write_answers")(name, experiment, summary_dir, plot_dir)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
