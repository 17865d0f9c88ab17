"""The configuration of a training run: RunConfig, with one field per setting (settings.py). Does not import torch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from catalogue import DATASETS, PARTITIONS, network_name, networks_for
from interface.command_line import Interval, ValueType
from interface.errors import NoEffectError, UsageError
from training.algorithms import ALGORITHMS, Algorithm
from training.flags import DISTRIBUTED, MODES, Flag, Scope, filled
from training.settings import DELAY_INTENSITIES, GROUPS, MODE_TITLES, OWNERS, ROWS
from training.timing import listed_speeds

INFINITY = "inf"  # in JSON, as on the command line


@dataclass(frozen=True, kw_only=True)
class RunConfig(*GROUPS):
    """All settings of a run, checked on construction: raises a UsageError that names the flag.

    Settings left at None are filled in if they have an effect (such as the intensity of a delay, if there is one)
    and stay None otherwise.
    """

    mode: str

    def __post_init__(self) -> None:
        self._check_values()
        self._normalise_network()
        self._check_algorithm()
        self._normalise_partition()
        self._fill_in()
        self._check_combinations()

    def _check_values(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"mode {self.mode!r} is not valid: give one of {', '.join(MODES)}")
        for name, row in ROWS.items():
            value, default = getattr(self, name), default_of(name)
            if value == default:
                continue
            if self.mode not in row.modes:
                self._refuse(name, True, f"on {MODE_TITLES[self.mode]} runs")
            if not is_valid(value, row, default):
                raise UsageError(f"--{name} {str(value)[:80]} is not valid: give {what_is_valid(row, default)}")

    def _normalise_network(self) -> None:
        """Give each network a single configuration, whether it was chosen by --network or --alt_model."""
        if self.network is None:
            return
        self._refuse("network", self.alt_model, "with --alt_model: give one of the two")
        fitting = networks_for(self.dataset)
        if self.network not in fitting:
            raise UsageError(
                f"--network {self.network} is not valid with --dataset {self.dataset}: give one of {', '.join(fitting)}"
            )
        for alt_model in (False, True):
            if self.network == network_name(self.dataset, alt_model):
                self._set("alt_model", alt_model)
                self._set("network", None)
                return

    def _normalise_partition(self) -> None:
        """Let --split_dirichlet name the partition, and check that its workers and labels fit."""
        if self.split_dirichlet is not None:
            if self.partition not in ("none", "split_dirichlet"):
                raise UsageError(f"--split_dirichlet {self.split_dirichlet} is not valid with --{self.partition}: "
                                 "give one of the two")  # fmt: skip
            self._set("partition", "split_dirichlet")
        elif self.partition == "split_dirichlet":
            raise UsageError("--split_dirichlet needs a number in (0,inf)")
        partition = PARTITIONS[self.partition]
        if self.mode in DISTRIBUTED and self.mode not in partition.modes:
            raise UsageError(f"--{self.partition} is not valid for {MODE_TITLES[self.mode]} runs, whose workers must "
                             "train equally long")  # fmt: skip
        if partition.by_label:
            labels = DATASETS[self.dataset].labels
            sizes = [workers + 1 for workers in range(2, labels + 1) if labels % workers == 0]
            if self.world_size not in sizes:
                raise UsageError(
                    f"--world_size {self.world_size} is not valid with --{self.partition} on the {labels} labels of "
                    f"{self.dataset}: give one of --world_size {', '.join(map(str, sizes))}"
                )

    def _fill_in(self) -> None:
        """Give settings that were left out, and have an effect, the value that they then have."""
        self._refuse("delay_intensity", self.delay_ms is not None, "with --delay_ms: give one of the two")
        for name, row in ROWS.items():
            if not row.needs.met(self):
                self._refuse(name, True, row.needs.otherwise)
            elif name == "delay_intensity" and self.delay_ms is not None:
                continue
            elif getattr(self, name) is None and applies(self, name):
                self._set(name, filled(row, self))

    def _check_combinations(self) -> None:
        self._refuse("rank", self.clock == "virtual", "with --clock virtual, which runs on one machine")
        self._refuse("replay", self.clock == "virtual", "with --clock virtual: a replay takes all times from the log")
        for name in ("resume", "checkpoint_every"):
            self._refuse(name, self.replay is not None, "with --replay, which starts at the beginning of the log")
        self._refuse("threads", self.replay is not None, "with --replay, which takes the threads from the log")
        self._refuse("replay", self.rank is not None, "with --rank: a replay runs on one machine")
        speeds = None if self.worker_speeds is None else listed_speeds(self.worker_speeds)
        if speeds is not None and len(speeds) != self.workers:
            raise UsageError(f"--worker_speeds {self.worker_speeds} is not valid: give {self.workers} numbers, one per "
                             "worker, or spread:CV")  # fmt: skip
        self._refuse("local_steps", self.alr, "with --alr: local steps are steps of SGD")
        if self.rank is not None and self.seed is None:
            raise UsageError(f"--rank {self.rank} needs --seed: all machines must compute the same partition")
        if self.rank is not None and self.rank >= self.world_size:
            raise UsageError(
                f"--rank {self.rank} is not valid: give an integer in [0,{self.world_size - 1}] "
                f"with --world_size {self.world_size}"
            )

    def _check_algorithm(self) -> None:
        if self.mode not in DISTRIBUTED:
            return
        offered = algorithms_of(self.mode)
        if self.algorithm is None:
            self._set("algorithm", offered[0])
        if self.algorithm not in offered:
            raise UsageError(f"--algorithm {self.algorithm} is not valid for {MODE_TITLES[self.mode]} runs: "
                             f"give one of {', '.join(offered)}")  # fmt: skip
        for name in ROWS:
            self._refuse(name, not applies(self, name), f"with --algorithm {self.algorithm}")
        self._refuse("alr", self.rule.own_momentum, f"with --algorithm {self.algorithm}, which makes steps of SGD")
        if (self.backup_workers or 0) >= self.workers:
            raise UsageError(f"--backup_workers {self.backup_workers} is not valid: give an integer in "
                             f"[0,{self.workers - 1}] with {self.workers} workers")  # fmt: skip

    def _refuse(self, name: str, when: bool, why: str) -> None:
        if when and getattr(self, name) != default_of(name):
            raise NoEffectError(name, f"{flag_of(self, name)} has no effect {why}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """All settings by name, in the order of the flags; RunConfig(**…) restores the configuration."""
        return {"mode": self.mode} | {name: getattr(self, name) for name in ROWS}

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON values, with a text for infinity, which JSON does not have."""
        return {name: INFINITY if value == math.inf else value for name, value in self.as_dict().items()}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "RunConfig":
        """The configuration of which `to_json` made this, also in an earlier version of the suite."""
        numbers = {name for name, row in ROWS.items() if isinstance(row.valid, Interval)}
        infinite = {name: math.inf for name, value in settings.items() if name in numbers and value == INFINITY}
        return cls(**settings | infinite)

    @property
    def rule(self) -> type[Algorithm]:
        """The algorithm of a distributed run."""
        return ALGORITHMS[self.algorithm]

    @property
    def network_name(self) -> str:
        """The network to train, a key of NETWORKS."""
        return self.network or network_name(self.dataset, self.alt_model)

    @property
    def distributed(self) -> bool:
        """Whether the run has a server and workers."""
        return self.mode in DISTRIBUTED

    @property
    def depends_on_arrival(self) -> bool:
        """Whether every gradient counts when it arrives; only such runs can be replayed."""
        return self.mode == "async"

    @property
    def epoch_title(self) -> str:
        """Asynchronous runs have pseudo epochs, which end after as many gradients as all workers push in an epoch."""
        return "pseudo epoch" if self.mode == "async" else "epoch"

    @property
    def delayed(self) -> bool:
        """Whether any worker sleeps."""
        return self.delay or self.slow_worker_1

    @property
    def delay_mean_ms(self) -> float:
        """Mean delay of a worker that is not slowed down, ms; only defined for runs with delays."""
        return self.delay_ms if self.delay_ms is not None else DELAY_INTENSITIES[self.delay_intensity]

    @property
    def workers(self) -> int:
        """The number of workers: all processes except the server; 1 for a non-distributed run."""
        return self.world_size - 1 if self.distributed else 1


def applies(config: RunConfig, name: str) -> bool:
    """Whether a run has a setting at all: that of its mode, and of its algorithm."""
    if config.mode not in ROWS[name].modes:
        return False
    return name not in OWNERS or OWNERS[name] in config.rule.flags


def default_of(name: str) -> Any:
    """The value of a setting whose flag is not given."""
    return RunConfig.__dataclass_fields__[name].default


def is_valid(value: Any, row: Flag, default: Any) -> bool:
    """Whether a flag takes a value, other than its default."""
    if isinstance(row.valid, ValueType):
        return value in row.valid
    if isinstance(default, bool):
        return isinstance(value, bool)
    return isinstance(value, str) and bool(value) and (row.valid is None or value in row.valid)


def what_is_valid(row: Flag, default: Any) -> str:
    """The values that a flag takes, in words."""
    if isinstance(row.valid, ValueType):
        return row.valid.what
    if row.valid is not None:
        return f"one of {', '.join(row.valid)}"
    return "true or false" if isinstance(default, bool) else "a non-empty text"


def words_of(config: RunConfig, name: str) -> list[str]:
    """A setting as the words of a command line: the flag and its value, if it takes one."""
    value = getattr(config, name)
    if name == "partition":
        return [f"--{value}"]
    if isinstance(value, bool):
        return [f"--{name}"]
    return [f"--{name}", *(str(value).split() if ROWS[name].argparse.get("nargs") == "+" else [str(value)])]


def flag_of(config: RunConfig, name: str) -> str:
    """A setting as it is given on the command line, for messages."""
    return " ".join(words_of(config, name))


def algorithms_of(mode: str) -> list[str]:
    """The algorithms available in a mode, the default first. Raises UsageError for one that says too little."""
    for name, rule in ALGORITHMS.items():
        missing = [attribute for attribute in ("title", "mode", "purpose") if not hasattr(rule, attribute)]
        if missing:
            raise UsageError(f"algorithm {name}: its class {rule.__name__} does not define {' and '.join(missing)}")
    return [name for name, rule in ALGORITHMS.items() if rule.mode == mode]


def experiment_of(config: RunConfig) -> RunConfig:
    """The configuration without its seed and without the settings that do not change training.

    Equal for repetitions of the same experiment. The intensity of a delay is replaced by its mean in ms.
    """
    changes = {name: default_of(name) for name, row in ROWS.items() if row.scope is not Scope.TRAINING}
    changes["seed"] = None
    if config.delayed:
        changes |= {"delay_intensity": None, "delay_ms": config.delay_mean_ms}
    return dataclasses.replace(config, **changes)
