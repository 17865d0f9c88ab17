"""The settings of a training run: each flag once, with its default, its check and its help.

`RunConfig` is the frozen result; the flags of the three training scripts are made from its fields.
"""

import argparse
import dataclasses
import logging
import os
import secrets
import sys
from dataclasses import dataclass
from typing import Any

from common import DATASETS, DEFAULT_SEED, PARTITIONS
from interface.command_line import ArgumentParser, Interval

MODES = ("classic", "sync", "async")
DISTRIBUTED = ("sync", "async")
LEARNING_RATE_SCHEDULES = ("exponential", "cosine_annealing")
DELAY_INTENSITIES = {"small": 10.0, "medium": 20.0, "long": 30.0}  # mean delay, ms
DELAY_TYPES = ("constant", "gaussian")
COMPENSATION_MODES = ("constant", "adaptive")
CLOCKS = ("wall", "virtual")
DEFAULT_MASTER_ADDR, DEFAULT_MASTER_PORT = "localhost", 29500

# What may differ between the machines of one run.
LOCAL_SETTINGS = frozenset(
    [
        "data_dir",
        "subfolder",
        "rank",
        "master_addr",
        "master_port",
        "model_accuracy",
        "no_save_model",
        "saves_per_epoch",
    ]
)
# As torchrun sets them: variable → flag.
ENVIRONMENT = {"RANK": "rank", "WORLD_SIZE": "world_size", "MASTER_ADDR": "master_addr", "MASTER_PORT": "master_port"}


def flag(
    default: Any,
    help: str,
    valid: Interval | tuple[str, ...] | None = None,
    modes: tuple[str, ...] = MODES,
    **argparse_options: Any,
) -> Any:
    """A field of RunConfig that is a flag of the scripts of `modes`; without `valid` it holds any text."""
    metadata = {"help": help, "valid": valid, "modes": modes, "argparse": argparse_options}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that was asked of a run. Checks itself: raises ValueError that names the flag.

    Settings left at None are filled in where they act (a delay's intensity once there is a delay)
    and stay None where they do not.
    """

    mode: str

    dataset: str = flag("mnist", "data to train on; digits is embedded and needs no file", tuple(DATASETS))
    data_dir: str = flag("data", "where data sets lie or are downloaded to", metavar="DIR")
    train_split: float = flag(1.0, "fraction of the training set that is used", Interval(float, "(0,1]"))
    lr: float = flag(0.01, "learning rate", Interval(float, "(0,inf)"))
    momentum: float = flag(0.0, "momentum of SGD; not used with Adam", Interval(float, "[0,inf)"))
    batch_size: int = flag(32, "mini-batch size, at most the size of the training set", Interval(int, "[1,inf)"))
    epochs: int = flag(1, "epochs", Interval(int, "[1,inf)"))
    model_accuracy: bool = flag(False, "compute the train accuracy of the global model after training")
    no_save_model: bool = flag(False, "do not save the trained model")
    seed: int | None = flag(
        None,
        f"seed everything; alone: {DEFAULT_SEED}; without the flag a fresh seed, which the log records",
        Interval(int, "[0,inf)"),
        nargs="?",
        const=DEFAULT_SEED,
    )
    subfolder: str = flag(".", "where all outputs of the run go", metavar="DIR")
    saves_per_epoch: int | None = flag(
        None, "save the weights N times an epoch, the first ones after initialisation", Interval(int, "[1,inf)")
    )
    alr: bool = flag(False, "Adam instead of SGD")
    lrs: str | None = flag(
        None, "learning rate schedule: x0.9 an epoch, or cosine to 0 over the whole run", LEARNING_RATE_SCHEDULES
    )
    alt_model: bool = flag(False, "CNN1 / CNN2 instead of LeNet5 / ResNet18")
    val: bool = flag(False, "hold out 10 %% of the training subset and validate at the end of each epoch")

    world_size: int = flag(3, "processes, parameter server included", Interval(int, "[2,inf)"), DISTRIBUTED)
    master_addr: str = flag(
        DEFAULT_MASTER_ADDR, "address of rank 0 in a run that spans machines", modes=DISTRIBUTED, metavar="A"
    )
    master_port: int = flag(
        DEFAULT_MASTER_PORT, "port of rank 0 in a run that spans machines", Interval(int, "[1,65535]"), DISTRIBUTED
    )
    rank: int | None = flag(
        None, "run this rank alone and meet the others at the master's address", Interval(int, "[0,inf)"), DISTRIBUTED
    )
    peer_timeout: float | None = flag(
        None,
        "with --rank: seconds of silence after which another machine counts as lost (default 8)",
        Interval(float, "(0,inf)"),
        DISTRIBUTED,
    )
    delay: bool = flag(False, "every worker sleeps at each mini-batch, before it pushes", modes=DISTRIBUTED)
    slow_worker_1: bool = flag(False, "worker 1 sleeps twice as long; alone, only worker 1 sleeps", modes=DISTRIBUTED)
    delay_intensity: str | None = flag(
        None,
        f"mean delay: {', '.join(f'{name} {ms:g} ms' for name, ms in DELAY_INTENSITIES.items())} (default small)",
        tuple(DELAY_INTENSITIES),
        DISTRIBUTED,
    )
    delay_type: str | None = flag(
        None,
        "gaussian: standard deviation 5 ms, 10 ms for a slow worker 1, cut at 0 (default gaussian)",
        DELAY_TYPES,
        DISTRIBUTED,
    )
    delay_ms: float | None = flag(
        None, "any mean delay instead of an intensity, ms", Interval(float, "(0,inf)"), DISTRIBUTED
    )
    partition: str = "none"
    clock: str = flag("wall", "wall: real processes; virtual: discrete events in one process", CLOCKS, DISTRIBUTED)
    compute_ms: float | None = flag(
        None,
        "virtual clock: mean time of one gradient, ms (default 10)",
        Interval(float, "(0,inf)"),
        DISTRIBUTED,
    )

    compensation: bool = flag(False, "delay compensation (DC-ASGD, arXiv 1609.08326)", modes=("async",))
    compensation_mode: str | None = flag(
        None, "DC-ASGD-c or DC-ASGD-a (default constant)", COMPENSATION_MODES, ("async",)
    )
    compensation_lambda: float | None = flag(
        None, "strength of the compensation (default 2)", Interval(float, "[0,inf)"), ("async",)
    )
    replay: str | None = flag(
        None, "repeat the run of this log, update for update, in one process", modes=("async",), metavar="LOG"
    )

    def __post_init__(self) -> None:
        self._check_values()
        self._check_combinations()
        self._fill_in("delay_intensity", "small", self.delayed and self.delay_ms is None)
        self._fill_in("delay_type", "gaussian", self.delayed)
        self._fill_in("compensation_mode", "constant", self.compensation)
        self._fill_in("compensation_lambda", 2.0, self.compensation)
        self._fill_in("compute_ms", 10.0, self.clock == "virtual")
        self._fill_in("peer_timeout", 8.0, self.rank is not None)

    def _check_values(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is not valid: one of {', '.join(MODES)}")
        for field in dataclasses.fields(self):
            valid, value = field.metadata.get("valid"), getattr(self, field.name)
            if field.metadata and value != field.default and self.mode not in field.metadata["modes"]:
                raise ValueError(f"--{field.name} has no effect on a {self.mode} run")
            if valid is None or (value is None and field.default is None):
                continue
            if value not in valid:
                what = valid.what if isinstance(valid, Interval) else f"one of {', '.join(valid)}"
                raise ValueError(f"--{field.name} {value} is not valid: give {what}")
        if self.partition not in PARTITIONS:
            raise ValueError(f"partition {self.partition!r} is not valid: one of {', '.join(PARTITIONS)}")

    def _check_combinations(self) -> None:
        if self.partition != "none" and self.mode == "classic":
            raise ValueError(f"--{self.partition} has no effect on a classic run")
        if self.partition == "split_labels_unscaled" and self.mode == "sync":
            raise ValueError("--split_labels_unscaled is for asynchronous runs: synchronous workers train equally long")
        if self.partition.startswith("split_labels"):
            labels = DATASETS[self.dataset].labels
            sizes = [workers + 1 for workers in range(2, labels + 1) if labels % workers == 0]
            if self.world_size not in sizes:
                raise ValueError(
                    f"--world_size {self.world_size} is not valid with --{self.partition} on the {labels} labels of "
                    f"{self.dataset}: give one of {', '.join(map(str, sizes))}"
                )
        for name in ("delay_intensity", "delay_type", "delay_ms"):
            self._refuse(name, not self.delayed, "without --delay or --slow_worker_1")
        self._refuse("delay_intensity", self.delay_ms is not None, "with --delay_ms: give one of the two")
        for name in ("compensation_mode", "compensation_lambda"):
            self._refuse(name, not self.compensation, "without --compensation")
        self._refuse("compute_ms", self.clock != "virtual", "without --clock virtual")
        self._refuse("peer_timeout", self.rank is None, "without --rank")
        self._refuse("rank", self.clock == "virtual", "with --clock virtual, which runs in one process")
        self._refuse("replay", self.clock == "virtual", "with --clock virtual: a replay takes its times from the log")
        self._refuse("replay", self.rank is not None, "with --rank: a replay runs in one process")
        if self.rank is not None and self.seed is None:
            raise ValueError(f"--rank {self.rank} needs --seed: all machines must arrive at the same partition")
        if self.rank is not None and self.rank >= self.world_size:
            raise ValueError(
                f"--rank {self.rank} is not valid: give an integer in [0,{self.world_size - 1}] "
                f"with --world_size {self.world_size}"
            )

    def _refuse(self, name: str, when: bool, why: str) -> None:
        value = getattr(self, name)
        if when and value is not None:
            raise ValueError(f"--{name} {value} has no effect {why}")

    def _fill_in(self, name: str, value: Any, when: bool) -> None:
        if when and getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def delayed(self) -> bool:
        """Whether any worker sleeps."""
        return self.delay or self.slow_worker_1

    @property
    def delay_mean_ms(self) -> float:
        """Mean delay of a worker that is not slowed down, ms; of a run with delays only."""
        return self.delay_ms if self.delay_ms is not None else DELAY_INTENSITIES[self.delay_intensity]

    @property
    def workers(self) -> int:
        """Training nodes: all processes but the server; one without distribution."""
        return 1 if self.mode == "classic" else self.world_size - 1


PARTITION_HELP = {
    "split_dataset": "each worker trains on its own distinct samples",
    "split_labels": "each worker owns a distinct set of labels; all get equally many samples",
    "split_labels_unscaled": "as --split_labels, but each worker keeps every sample of its labels",
}


def make_parser(mode: str, description: str) -> ArgumentParser:
    """The parser of one training script, made from the fields of RunConfig; it yields only what was given."""
    parser = ArgumentParser(description, argument_default=argparse.SUPPRESS)
    for field in dataclasses.fields(RunConfig):
        if field.name == "partition" and mode in DISTRIBUTED:
            group = parser.add_mutually_exclusive_group()
            for name, help in PARTITION_HELP.items():
                if name != "split_labels_unscaled" or mode == "async":
                    group.add_argument(f"--{name}", dest="partition", action="store_const", const=name, help=help)
        if mode in field.metadata.get("modes", ()):
            add_flag(parser, field)
    return parser


def add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    """Add the flag that a field of RunConfig describes."""
    valid, help = field.metadata["valid"], field.metadata["help"]
    options = dict(field.metadata["argparse"])
    if isinstance(field.default, bool):
        options["action"] = "store_true"
    elif field.default is not None:
        help += f" (default {field.default})"
    if isinstance(valid, Interval):
        options |= {"type": valid, "metavar": "N" if valid.kind is int else "F"}
        help += f"; {valid.text}"
    elif valid is not None:
        options["choices"] = valid
    parser.add_argument(f"--{field.name}", help=help, **options)


def parse_flags(mode: str, description: str) -> dict[str, Any]:
    """The settings that the command line gives, for RunConfig; exit code 2 if one is not valid.

    Under torchrun its environment variables give what the command line leaves open.
    """
    parser = make_parser(mode, description)
    flags = vars(parser.parse_args())
    one_process = mode not in DISTRIBUTED or flags.get("clock") == "virtual" or "replay" in flags
    return flags if one_process or "RANK" not in os.environ else flags_of_environment(parser) | flags


def flags_of_environment(parser: ArgumentParser) -> dict[str, Any]:
    """The settings that torchrun's environment variables give."""
    given = {name: os.environ[variable] for variable, name in ENVIRONMENT.items() if variable in os.environ}
    parser.prog += f" ({', '.join(ENVIRONMENT)} of the environment)"
    return vars(parser.parse_args([f"--{name}={value}" for name, value in given.items()]))


def choose_seed(config: RunConfig) -> int:
    """The seed that was asked for, or a fresh one."""
    return secrets.randbelow(2**31) if config.seed is None else config.seed


def announce(kind: str, config: RunConfig, seed: int) -> None:
    """Print what is about to run and every setting that it uses; what was left at its default is marked so."""
    print(f"{kind} with seed {seed} and")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        modes = DISTRIBUTED if field.name == "partition" else field.metadata.get("modes", ())
        if config.mode in modes and value is not None:
            print(f"  {field.name:<20} {value}{' (default)' if value == field.default else ''}")
    if config.alr and config.momentum:
        logging.warning("--momentum %s is not used with --alr: Adam has its own", config.momentum)
    sys.stdout.flush()  # before any process is forked
