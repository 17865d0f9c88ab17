"""The command line of the training scripts, built from the rows of the flags. Does not import torch."""

import argparse
import dataclasses
import logging
import os
import secrets
import sys
import textwrap
from typing import Any

from catalogue import PARTITIONS
from interface.command_line import ArgumentParser, Joined, ValueType
from training.algorithms import ALGORITHMS
from training.config import RunConfig, algorithms_of
from training.flags import DISTRIBUTED, row_of
from training.settings import GROUPS, MODE_TITLES, ROWS, AlgorithmFlags
from training.words import is_usual

# Set by torchrun: environment variable → flag.
ENVIRONMENT = {"RANK": "rank", "WORLD_SIZE": "world_size", "MASTER_ADDR": "master_addr", "MASTER_PORT": "master_port"}


def make_parser(mode: str, description: str) -> ArgumentParser:
    """The parser of one training script, built from the rows; its result has only the flags that were given."""
    parser = ArgumentParser(description, hints_of(mode), argument_default=argparse.SUPPRESS)
    for group in GROUPS:
        flags = [field for field in dataclasses.fields(group) if mode in row_of(field).modes]
        if flags:
            purposes = algorithms_in_words(mode) if group is AlgorithmFlags else None
            section = parser.add_argument_group(group.__doc__, purposes)
            for field in flags:
                add_flag(section, field, mode)
    return parser


def hints_of(mode: str) -> dict[str, str]:
    """What to give in place of a flag of another script."""
    hints = {
        f"--{name}": f"--{name} is for {' and '.join(MODE_TITLES[other] for other in row.modes)} runs"
        for name, row in ROWS.items()
        if mode not in row.modes
    }
    if mode in DISTRIBUTED:
        hints["--workers"] = "give --world_size, the number of workers + 1 for the server"
    return hints


def algorithms_in_words(mode: str) -> str:
    """The algorithms of a mode and what each is for, for --help."""
    return "\n".join(textwrap.indent(ALGORITHMS[name].purpose, " " * 18).replace(" " * 16, f"{name:16}", 1)
                     for name in algorithms_of(mode))  # fmt: skip


def add_flag(section: argparse._ArgumentGroup, field: dataclasses.Field, mode: str) -> None:
    """Add the flag for a field of RunConfig; for the field `partition`, add one flag per partition."""
    if field.name == "partition":
        exclusive = section.add_mutually_exclusive_group()
        for name, partition in PARTITIONS.items():
            if name != field.default and name not in ROWS and mode in partition.modes:
                exclusive.add_argument(
                    f"--{name}", dest="partition", action="store_const", const=name, help=partition.help
                )
        return
    section.add_argument(f"--{field.name}", help=help_of(field, mode), **argparse_options(field, mode))


def help_of(field: dataclasses.Field, mode: str) -> str:
    """The help text of a flag, with its default and its valid interval."""
    row = row_of(field)
    used = None if callable(row.fills) else row.fills if field.default is None else field.default
    if field.name == "algorithm":
        used = algorithms_of(mode)[0]
    default = "" if used is None or isinstance(used, bool) else f" (default {used})"
    return row.help + default + (f"; {row.valid.text}" if isinstance(row.valid, ValueType) and row.valid.text else "")


def argparse_options(field: dataclasses.Field, mode: str) -> dict[str, Any]:
    """The arguments of add_argument for a flag, except its help."""
    row = row_of(field)
    if isinstance(field.default, bool):
        return {"action": "store_true", **row.argparse}
    if row.argparse.get("nargs") == "+":
        return {"action": Joined, "joined": row.valid, "metavar": row.valid.metavar, **row.argparse}
    if isinstance(row.valid, ValueType):
        return {"type": row.valid, "metavar": row.valid.metavar, **row.argparse}
    if row.valid is not None:
        return {"choices": algorithms_of(mode) if field.name == "algorithm" else row.valid, **row.argparse}
    return {"type": os.path.expanduser, **row.argparse}


def parse_flags(mode: str, description: str) -> dict[str, Any]:
    """The settings given on the command line, for RunConfig; exits with code 2 if one is not valid.

    Under torchrun, its environment variables fill in what the command line does not give.
    """
    parser = make_parser(mode, description)
    flags = vars(parser.parse_args())
    one_process = mode not in DISTRIBUTED or flags.get("clock") == "virtual" or "replay" in flags
    return flags if one_process or "RANK" not in os.environ else flags_of_environment(parser) | flags


def flags_of_environment(parser: ArgumentParser) -> dict[str, Any]:
    """The settings given by torchrun's environment variables."""
    given = {name: os.environ[variable] for variable, name in ENVIRONMENT.items() if variable in os.environ}
    print("Taken from the environment, which torchrun sets:", *(f"--{name} {text}" for name, text in given.items()))
    parser.prog += f" ({', '.join(ENVIRONMENT)} in the environment)"
    return vars(parser.parse_args([f"--{name}={value}" for name, value in given.items()]))


def choose_seed(config: RunConfig) -> int:
    """The given seed, or a random one."""
    return secrets.randbelow(2**31) if config.seed is None else config.seed


def announce(kind: str, config: RunConfig, seed: int) -> None:
    """Print the kind of run and all its settings; defaults are marked. A worker started by --rank prints one line."""
    if config.rank:
        print(f"Worker_{config.rank} of a run with seed {seed}", flush=True)
        return
    print(f"{kind} with seed {seed} and")
    for name, row in ROWS.items():
        value = getattr(config, name)
        if config.mode in row.modes and value is not None:
            print(f"  {name:<20} {value}{' (default)' if is_usual(config, name) else ''}")
    if config.alr and config.momentum:
        logging.warning("--momentum %s is not used with --alr: Adam has no such setting", config.momentum)
    elif config.momentum >= 1:
        logging.warning("--momentum %s: with 1 or more, steps never fade, and training diverges", config.momentum)
    sys.stdout.flush()  # before any process is forked
