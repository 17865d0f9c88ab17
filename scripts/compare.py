"""Compare anything: train every combination of the given values with every seed, then tabulate and report them.

bash scripts/compare.sh --modes sync async --workers 5 --partitions split_labels --slow_worker_1

The flags of the training scripts take one value or several; a flag that is on or off takes yes, no, or both. A
setting is ignored in combinations on which it has no effect, and combinations that are not valid are skipped; both are
reported before anything runs. The same command, run again, does only what is missing: after a change of the code of an
algorithm, a network or a partition, give another --results.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from analysis.reports.trials import Trials
from catalogue import PARTITIONS
from interface.command_line import ArgumentParser, Interval, Joined, run_script
from interface.command_line import count as number_of
from interface.errors import NoEffectError, UsageError
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
from training.algorithms import ALGORITHMS
from training.config import RunConfig, default_of
from training.flags import DISTRIBUTED, MODES
from training.settings import GROUPS, MODE_TITLES, ROWS

# Setting → its flag, where that is not its name.
NAMES = {"mode": "modes", "world_size": "workers", "partition": "partitions", "algorithm": "algorithms",
         "stop": "stops", "seed": "seeds"}  # fmt: skip
NOT_COMPARED = {"replay", "rank", "master_addr", "master_port", "peer_timeout", "subfolder", "no_save_model"}
DEFAULTS: dict[str, list] = {
    "mode": ["sync", "async"], "world_size": [6], "seed": [1, 2, 3], "dataset": ["digits"], "lr": [0.02],
    "epochs": [20], "clock": ["virtual"], "evals_per_epoch": [2],
}  # fmt: skip

HINTS = {"--world_size": "give --workers, which does not count the server"} | {
    f"--{name}": f"give --partitions {name}" for name in PARTITIONS if name not in ROWS
}
DIRICHLET = "split_dirichlet"

# ----------------------------------------------------------------------------------------------------
# The command line
# ----------------------------------------------------------------------------------------------------


def make_parser() -> ArgumentParser:
    """A flag for each setting of a run, with one value or several, and those of every driver."""
    usage = "bash scripts/compare.sh [--FLAG VALUE [VALUE ...]] ..."
    parser = ArgumentParser(__doc__, HINTS, argument_default=argparse.SUPPRESS, usage=usage)
    driver = parser.add_argument_group("The comparison").add_argument
    driver("--modes", nargs="+", choices=MODES, metavar="MODE", help="classic sync async (default sync async)")
    add_pool_flags(driver)
    driver("--results", type=Path, default=Path("results/comparison"), metavar="DIR",
           help="folder for all outputs (default results/comparison)")  # fmt: skip
    add_question_flags(driver)
    for group in GROUPS:
        names = [name for name in group.__dataclass_fields__ if name not in NOT_COMPARED]
        if names:
            section = parser.add_argument_group(group.__doc__)
            for name in names:
                section.add_argument(*flags_of(name), dest=name, help=help_of(name), **options(name))
    return parser


def flags_of(name: str) -> list[str]:
    """The plural of a setting, and its name, unless that is a flag without values or counts something else."""
    if name not in NAMES:
        return [f"--{name}"]
    return [f"--{NAMES[name]}"] if name in ("world_size", "partition") else [f"--{NAMES[name]}", f"--{name}"]


def help_of(name: str) -> str:
    """The help of a setting, with its choices and the values that it has here if it is not given."""
    about = "number of workers" if name == "world_size" else ROWS[name].help
    choices = partition_choices() if name == "partition" else options(name).get("choices", ())
    if choices and not isinstance(default_of(name), bool):
        about += f": {', '.join(choices)}"
    return about + (f" (default {' '.join(map(str, shown(name, DEFAULTS[name])))})" if name in DEFAULTS else "")


def shown(name: str, values: Iterable) -> Iterator:
    """Values of a setting as they stand on the command line."""
    if name == "world_size":
        return (value - 1 for value in values)
    return ({True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value for value in values)


def options(name: str) -> dict[str, Any]:
    """The arguments of add_argument for a setting with several values."""
    row = ROWS[name]
    if name == "world_size":
        return {"nargs": "+", "type": Interval(int, "[1,inf)"), "metavar": "N"}
    if name == "partition":
        return {"nargs": "+", "type": partition, "metavar": "PARTITION"}
    if isinstance(default_of(name), bool):
        return {"nargs": "*", "choices": ("yes", "no"), "metavar": "yes|no"}
    if row.argparse.get("nargs") == "+":
        return {"action": Several, "joined": row.valid, "metavar": row.valid.metavar, "nargs": "+"}
    if hasattr(row.valid, "metavar"):
        return {"nargs": "+", "type": row.valid, "metavar": row.valid.metavar}
    if row.valid is not None:
        return {"nargs": "+", "choices": list(row.valid), "metavar": name.upper()}
    return {"nargs": "+", "type": os.path.expanduser, **row.argparse}


def partition(text: str) -> str:
    """One of the PARTITIONS, the label skew with its α: split_dirichlet:0.1."""
    name, _, alpha = text.partition(":")
    if name == DIRICHLET and alpha:
        return f"{name}:{ROWS[DIRICHLET].valid(alpha):.15g}"
    if text not in PARTITIONS or text == DIRICHLET:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: give one of {', '.join(partition_choices())}")
    return text


def partition_choices() -> list[str]:
    """The values of --partitions."""
    return [f"{name}:F" if name == DIRICHLET else name for name in PARTITIONS]


class Several(Joined):
    """Values that are texts of several words: `1 0.5 1` is one value, "1 0.5 1" "1 1 1" are two."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        texts = values if any(" " in text or ":" in text for text in values) else [" ".join(values)]
        found = []
        for text in texts:
            super().__call__(parser, namespace, [text], option_string)
            found.append(getattr(namespace, self.dest))
        setattr(namespace, self.dest, found)


def read_values(given: dict[str, Any]) -> dict[str, list]:
    """Setting → its values, those of the command line or of DEFAULTS."""
    if "modes" in given:
        given["mode"] = given.pop("modes")
    for name, values in given.items():
        if name in ROWS and isinstance(default_of(name), bool):
            given[name] = [value == "yes" for value in values or ["yes"]]
    if "world_size" in given:
        given["world_size"] = [workers + 1 for workers in given["world_size"]]
    if "partition" in given and "split_dirichlet" in given:
        raise UsageError("--partitions and --split_dirichlet: give one of the two, such as --partitions none "
                         "split_dirichlet:0.1")  # fmt: skip
    return DEFAULTS | {name: list(dict.fromkeys(values)) for name, values in given.items()}


# ----------------------------------------------------------------------------------------------------
# The combinations
# ----------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """The runs of all combinations, and what was left out: reason → number of combinations."""

    configs: dict[RunConfig, None] = field(default_factory=dict)  # an ordered set
    left_out: Counter[str] = field(default_factory=Counter)
    without_effect: Counter[str] = field(default_factory=Counter)
    unused: dict[str, str] = field(default_factory=dict)  # setting that had no effect so far → why


def combine(values: dict[str, list], given: set[str], place: dict[str, Any]) -> Comparison:
    """Every combination of the values; given: the settings of which to report that they have no effect.

    place: settings of all runs that say where they run. Raises UsageError for a given setting that no run has.
    """
    found = Comparison()
    for name in values.get("algorithm", ()):
        if ALGORITHMS[name].mode not in values["mode"]:
            raise UsageError(f"--algorithms {name} has no effect without --modes {ALGORITHMS[name].mode}")
    names = [name for name in values if name not in ("mode", "algorithm", "seed")]
    for mode in values["mode"]:
        algorithms = offered(values.get("algorithm"), mode, found)
        for algorithm, *others in itertools.product(algorithms, *(values[name] for name in names)):
            settings = dict(zip(names, others, strict=True)) | ({"algorithm": algorithm} if algorithm else {})
            try:
                config = without_idle(mode, settings_of(settings) | place, given, found)
            except UsageError as error:
                found.left_out[str(error)] += 1
                continue
            found.configs[config] = None
    used = {name for config in found.configs for name in found.unused if getattr(config, name) != default_of(name)}
    for name, reason in found.unused.items():
        if found.configs and name not in used:
            reason = next((other for other in found.left_out if f"--{name} " in other), reason)
            raise UsageError(in_own_flags(reason))
    seeds = itertools.product(values["seed"], found.configs)  # an interrupted comparison has whole seeds
    found.configs = {dataclasses.replace(config, seed=seed): None for seed, config in seeds}
    return found


def settings_of(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run: a partition may have a number."""
    _, _, alpha = values.get("partition", "none").partition(":")
    return values | {"partition": "none", DIRICHLET: float(alpha)} if alpha else values


def offered(algorithms: list[str] | None, mode: str, found: Comparison) -> list[str | None]:
    """Those of the algorithms that a mode has; None stands for its usual one, if it has none of them."""
    if algorithms is None or mode not in DISTRIBUTED:
        return [None]
    fitting = [name for name in algorithms if ALGORITHMS[name].mode == mode]
    if not fitting:
        found.without_effect[f"no --algorithms is for {MODE_TITLES[mode]} runs: they have their usual one"] += 1
    return fitting or [None]


def without_idle(mode: str, settings: dict[str, Any], given: set[str], found: Comparison) -> RunConfig:
    """The configuration without the settings that have no effect on it. Raises UsageError if no run can have it."""
    while True:
        try:
            return RunConfig(mode=mode, **settings)
        except NoEffectError as error:
            if error.setting not in settings:
                raise
            asked = "partition" if error.setting == DIRICHLET else error.setting  # as split_dirichlet:F
            if asked in given:
                found.without_effect[str(error)] += 1
                found.unused[error.setting] = str(error)
            del settings[error.setting]


# ----------------------------------------------------------------------------------------------------


def explain(found: Comparison, values: dict[str, list]) -> None:
    """What is compared, and what was left out."""
    print("Comparing")
    for name, compared in values.items():
        print(f"  {NAMES.get(name, name):<18} {', '.join(map(str, shown(name, compared)))}")
    for reason, count in found.without_effect.items():
        print(f"Ignored in {number_of(count, 'combination')}: {in_own_flags(reason)}")
    for reason, count in found.left_out.items():
        print(f"Not run ({number_of(count, 'combination')}): {in_own_flags(reason)}")


def in_own_flags(reason: str) -> str:
    """What a training script says of its flags, with --workers in place of --world_size, which counts the server."""

    def workers(found: re.Match) -> str:
        return "--workers " + ", ".join(str(int(size) - 1) for size in found[1].split(", "))

    return re.sub(r"--world_size (\d+(?:, \d+)*)", workers, reason)


def main() -> None:
    given = vars(make_parser().parse_args())
    where = {name: given.pop(name) for name in ("jobs", "scheduler", "keep")}
    check_pool_flags(**where)
    folder, dry_run, verbose, names_only = (given.pop(name) for name in ("results", "dry_run", "verbose", "names"))
    check_question_flags(dry_run, verbose)
    names, values = set(given) | {"mode"}, read_values(given)
    found = combine(values, names, {"subfolder": str(folder)})
    runs = without_duplicates(map(PlannedRun.of, found.configs))
    if names_only:
        print_names(runs)
        return
    explain(found, values)
    if not runs:
        raise UsageError("no run is left: see above")
    if dry_run:
        print_plan(runs, Trials(folder), where["jobs"], where["scheduler"], verbose)
        return
    failures = execute_all(runs, folder, **where)
    tell_others(runs, folder)
    resolve_name("analysis.conclude:conclude")(folder, folder, folder, values.get("data_dir", ["data"])[0])
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
