"""The settings of a training run: one row per flag, in the groups that --help shows with their docstrings as headings.

A row is a flag() of flags.py. From the rows come the configuration of a run (config.py), the names of runs (names.py),
the command line (command_line.py), and titles and tables (words.py). Does not import torch, to keep --help fast.
"""

import dataclasses
import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass

from catalogue import DATASETS, DEFAULT_SEED, NETWORKS, PARTITIONS, checked_datasets
from interface.command_line import Interval, ValueType
from training.algorithms import ALGORITHMS
from training.flags import DISTRIBUTED, Flag, Needs, Scope, Title, flag, row_of
from training.stopping import STOPPING_RULES
from training.timing import DELAY_TYPES, ComputeTimeText, WorkerSpeedsText

LEARNING_RATE_SCHEDULES = {"exponential": "×0.9 per epoch", "cosine_annealing": "cosine to 0"}
DELAY_INTENSITIES = {"small": 10.0, "medium": 20.0, "long": 30.0}  # mean delay, ms
CLOCKS = ("wall", "virtual")
DEVICES = ("cpu", "cuda")
RUN_CLOCKS = (*CLOCKS, "replay")  # whose times a log has
MODE_TITLES = {"classic": "non-distributed", "sync": "synchronous", "async": "asynchronous"}

DELAYED = Needs(lambda config: config.delayed, "without --delay or --slow_worker_1")
VIRTUAL = Needs(lambda config: config.clock == "virtual", "without --clock virtual")
CHECKED = Needs(
    lambda config: config.dataset in checked_datasets(), f"without --dataset {' or '.join(checked_datasets())}"
)
RANKED = Needs(lambda config: config.rank is not None, "without --rank")


class LogPath(ValueType):
    """The path of a log. Names of runs contain a checksum of it as it was given."""

    what, text, metavar, pattern = "the path of a log", "", "LOG", r"|[0-9a-f]{8}"

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(value)

    def parse(self, text: str) -> str:
        return os.path.expanduser(text) or "unknown"  # in the names of earlier versions

    def in_name(self, value: str) -> str:
        if value == "unknown":
            return ""
        return value if re.fullmatch(r"[0-9a-f]{8}", value) else f"{zlib.crc32(value.encode()):08x}"


class Address(ValueType):
    """The name or address of a machine."""

    what, text, metavar, pattern = "the name or the address of a machine", "", "A", r".+"

    def __contains__(self, value: object) -> bool:
        with suppress(UnicodeError):  # an empty label, or one that is too long
            return isinstance(value, str) and bool(value.encode("idna"))
        return False

    def parse(self, text: str) -> str:
        if text not in self:
            raise ValueError(text)
        return text


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Data"""

    dataset: str = flag(
        "mnist", "data set to train on; digits is bundled and needs no files", DATASETS, label="data set",
        phrase=lambda config: DATASETS[config.dataset].title, title=Title.HEADLINE,
    )  # fmt: skip
    data_dir: str = flag(
        "data", "folder of the data sets, or to download to", argparse={"metavar": "DIR"}, scope=Scope.PLACE, local=True
    )
    changed_data: bool = flag(
        False, "accept files of a known data set that do not have their published content", suffix="changed_data",
        label="data", phrase="changed data", off="published data",
        needs=CHECKED,
    )  # fmt: skip
    train_split: float = flag(
        1.0, "fraction of the training set to use", Interval(float, "(0,1]"), suffix="split",
        label="training set", phrase=lambda config: f"{100 * config.train_split:g} % of the training set",
    )  # fmt: skip
    val: bool = flag(
        False, "hold out 10 %% of the training subset and validate after each epoch", label="validation",
        phrase="10 % held out", off="nothing held out",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """Network and optimiser"""

    alt_model: bool = flag(
        False, "use CNN1 / CNN2 instead of LeNet5 / ResNet18",
        phrase=lambda config: config.network_name, title=Title.HEADLINE,
    )  # fmt: skip
    network: str | None = flag(
        None, "any network that accepts the images of the data set", NETWORKS, suffix="", label="network",
        phrase=lambda config: config.network_name, title=Title.HEADLINE,
    )  # fmt: skip
    lr: float = flag(
        0.01, "learning rate", Interval(float, "(0,inf)"), suffix="lr", label="learning rate",
        phrase="learning rate {:g}", title=Title.ALWAYS,
    )  # fmt: skip
    momentum: float = flag(
        0.0, "SGD momentum; not used with Adam", Interval(float, "[0,inf)"), suffix="momentum", label="momentum",
        phrase=lambda config: "" if config.alr else f"momentum {config.momentum:g}", title=Title.ALWAYS,
    )  # fmt: skip
    batch_size: int = flag(
        32, "mini-batch size, at most the size of the training set", Interval(int, "[1,inf)"), label="batch size",
        phrase="batch size {}", title=Title.ALWAYS,
    )  # fmt: skip
    epochs: int = flag(
        1, "number of epochs", Interval(int, "[1,inf)"), label="epochs", title=Title.ALWAYS,
        phrase=lambda config: f"{config.epochs} epoch{'' if config.epochs == 1 else 's'}",
    )  # fmt: skip
    alr: bool = flag(
        False, "use Adam instead of SGD", label="optimizer", phrase="Adam", off="SGD", title=Title.HEADLINE,
    )  # fmt: skip
    lrs: str | None = flag(
        None, "learning rate schedule: x0.9 per epoch, or cosine decay to 0 over the whole run",
        LEARNING_RATE_SCHEDULES, label="learning rate schedule", off="constant learning rate",
        phrase=lambda config: f"learning rate {LEARNING_RATE_SCHEDULES[config.lrs]}",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WorkerFlags:
    """Workers and their data"""

    world_size: int = flag(
        3, "number of processes: the parameter server and world_size - 1 workers", Interval(int, "[2,inf)"),
        modes=DISTRIBUTED, label="workers", title=Title.HEADLINE,
        phrase=lambda config: f"{config.workers} worker{'' if config.workers == 1 else 's'}",
    )  # fmt: skip
    partition: str = flag(
        "none", "how the training set is split among workers", PARTITIONS, modes=DISTRIBUTED, label="partition",
        phrase=lambda config: PARTITIONS[config.partition].title if config.workers > 1 else "",
        off=PARTITIONS["none"].title, title=Title.ALWAYS,
    )  # fmt: skip
    split_dirichlet: float | None = flag(
        None, PARTITIONS["split_dirichlet"].help, Interval(float, "(0,inf)"), modes=DISTRIBUTED, suffix="alpha",
        label="α", phrase="α {:g}", argparse={"metavar": "ALPHA"},
    )  # fmt: skip
    local_steps: int = flag(
        1, "local SGD steps of a worker before it pushes the sum of their gradients", Interval(int, "[1,inf)"),
        modes=DISTRIBUTED, suffix="local", label="local steps",
        phrase=lambda config: f"{config.local_steps} local step{'' if config.local_steps == 1 else 's'}",
        argparse={"metavar": "H"},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AlgorithmFlags:
    """Algorithm"""

    algorithm: str | None = flag(
        None, "what the server does with gradients", ALGORITHMS, modes=DISTRIBUTED, suffix="",
        label="algorithm", phrase=lambda config: ALGORITHMS[config.algorithm].title, title=Title.HEADLINE,
        argparse={"metavar": "NAME"},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StoppingFlags:
    """When a run ends"""

    stop: str = flag(
        "epochs", "epochs: each worker leaves after its own epochs; first: the run ends when the first worker has done "
        "its epochs; total: after as many gradients as all epochs of all workers have, whoever computes them",
        STOPPING_RULES, modes=DISTRIBUTED, suffix="stop", label="ends when",
        phrase=lambda config: f"ends when {STOPPING_RULES[config.stop].title}",
    )  # fmt: skip
    max_seconds: float | None = flag(
        None, "end the run after this time on its clock, s", Interval(float, "(0,inf)"), modes=DISTRIBUTED,
        suffix="max", label="time limit, s", phrase="ends after {:g} s at most",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DelayFlags:
    """Injected delays"""

    delay: bool = flag(
        False, "every worker sleeps before each push", modes=DISTRIBUTED, label="delay",
        phrase="every worker delayed", off="no delay",
    )  # fmt: skip
    slow_worker_1: bool = flag(
        False, "worker 1 sleeps twice the mean delay; without --delay, the others do not sleep", modes=DISTRIBUTED,
        label="slow worker 1", off="no slow worker",
        phrase=lambda config: "worker 1 twice as long" if config.delay else "only worker 1 delayed",
    )  # fmt: skip
    delay_intensity: str | None = flag(
        None, f"mean delay: {', '.join(f'{name} {ms:g} ms' for name, ms in DELAY_INTENSITIES.items())}",
        DELAY_INTENSITIES, modes=DISTRIBUTED, needs=DELAYED, fills="small", phrase="{} delays",
    )  # fmt: skip
    delay_type: str | None = flag(
        None, "gaussian: standard deviation 5 ms (10 ms for a slow worker 1), clipped at 0; heavy tails: lognormal "
        "with coefficient of variation 0.5, exponential, pareto with shape 2.5", DELAY_TYPES,
        modes=DISTRIBUTED, needs=DELAYED, fills="gaussian", label="type of delay",
        phrase=lambda config: f"{DELAY_TYPES[config.delay_type].title} delays",
    )  # fmt: skip
    delay_ms: float | None = flag(
        None, "mean delay in ms, instead of an intensity", Interval(float, "(0,1e9]"), modes=DISTRIBUTED,
        needs=DELAYED, suffix="ms", label="mean delay, ms", phrase="mean delay {:g} ms",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClockFlags:
    """Clock"""

    clock: str = flag(
        "wall", "wall: real processes; virtual: discrete-event simulation, which computes the gradients on all cores",
        CLOCKS, modes=DISTRIBUTED, suffix="", label="clock", phrase="{} clock", off="wall clock", title=Title.HEADLINE,
    )  # fmt: skip
    compute_ms: float | None = flag(
        None, "virtual clock: mean time per gradient, ms", Interval(float, "(0,1e9]"), modes=DISTRIBUTED,
        needs=VIRTUAL, fills=10.0, suffix="compute", label="time of a gradient, ms", phrase="{:g} ms per gradient",
    )  # fmt: skip
    compute_time: str | None = flag(
        None, "virtual clock: distribution of the time per gradient around --compute_ms", ComputeTimeText(),
        modes=DISTRIBUTED, needs=VIRTUAL, fills="normal:0.1", suffix="time", label="compute time",
        phrase="compute time {}",
    )  # fmt: skip
    worker_speeds: str | None = flag(
        None, "virtual clock: relative speed of each worker, or spread:CV, drawn by the seed", WorkerSpeedsText(),
        modes=DISTRIBUTED, needs=VIRTUAL, suffix="speeds", label="worker speeds", phrase="worker speeds {}",
        off="equally fast workers", argparse={"nargs": "+"},
    )  # fmt: skip
    communication_ms: float | None = flag(
        None, "virtual clock: time of one message, ms; two lie between two gradients of a worker",
        Interval(float, "[0,1e9]"), modes=DISTRIBUTED, needs=VIRTUAL, fills=0.0, suffix="message",
        label="time of a message, ms", phrase="{:g} ms per message",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RepetitionFlags:
    """Reproducibility"""

    seed: int | None = flag(
        None, f"seed of all random numbers; without a value: {DEFAULT_SEED}; without the flag: a random one, which is "
        "written to the log", Interval(int, "[0,inf)"), suffix="seed", unnamed=DEFAULT_SEED, label="seed",
        phrase="seed {}", off=f"seed {DEFAULT_SEED}", title=Title.HEADLINE,
        argparse={"nargs": "?", "const": DEFAULT_SEED},
    )  # fmt: skip
    replay: str | None = flag(
        None, "repeat the run in this log, update by update", LogPath(), modes=("async",),
        suffix="replay", label="replay", phrase="replay", title=Title.HEADLINE, scope=Scope.PLACE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ResultFlags:
    """Results"""

    subfolder: str = flag(
        ".", "folder for all outputs of the run", argparse={"metavar": "DIR"}, scope=Scope.KEPT, local=True
    )
    saves_per_epoch: int | None = flag(
        None, "save the weights N times per epoch, and once after initialisation", Interval(int, "[1,inf)"),
        scope=Scope.KEPT, local=True, label="saves per epoch", phrase="{} saves per epoch", title=Title.HEADLINE,
    )  # fmt: skip
    evals_per_epoch: int | None = flag(
        None, "evaluate the global model on the test set N times per (pseudo) epoch, off the run's clock",
        Interval(int, "[1,inf)"), scope=Scope.KEPT, local=True, suffix="evals", label="evaluations per epoch",
        phrase="{} evaluations per epoch", title=Title.HEADLINE,
    )  # fmt: skip
    model_accuracy: bool = flag(
        False, "report the training accuracy of the global model after training", scope=Scope.KEPT, local=True
    )
    no_save_model: bool = flag(False, "do not save the trained model", scope=Scope.KEPT, local=True)


@dataclass(frozen=True, kw_only=True)
class InterruptionFlags:
    """Interruptions"""

    resume: bool = flag(
        False, "continue the interrupted run of these settings in the folder, if there is one", scope=Scope.PLACE,
        local=True,
    )  # fmt: skip
    checkpoint_every: int | None = flag(
        None, "write a checkpoint, from which --resume continues, every N updates; without the flag, once a minute",
        Interval(int, "[1,inf)"), scope=Scope.PLACE, local=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HardwareFlags:
    """Hardware"""

    device: str = flag(
        "cpu", "where gradients are computed; cuda: on one NVIDIA GPU, with --clock virtual those in flight together",
        DEVICES, scope=Scope.PLACE, local=True,
        needs=Needs(lambda config: config.clock == "virtual" or not config.distributed or config.replay is not None,
                    "without --clock virtual: RPC workers compute on the CPU"),
    )  # fmt: skip
    tf32: bool = flag(
        False, "use TF32 for products of matrices on the GPU, which is faster and less precise", scope=Scope.PLACE,
        local=True,
        needs=Needs(lambda config: config.device == "cuda", "without --device cuda"),
    )  # fmt: skip
    threads: int | None = flag(
        None, "threads of one gradient, which determine its last bits; without the flag OMP_NUM_THREADS, or the cores "
        "shared among the workers", Interval(int, "[1,1024]"), scope=Scope.PLACE, local=True,
        needs=Needs(lambda config: config.clock == "wall" and config.device == "cpu",
                    "with --clock virtual, where a gradient has one thread, and with --device cuda"),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MachineFlags:
    """Multiple machines"""

    master_addr: str = flag(
        "localhost", "with --rank: address of rank 0", Address(), modes=DISTRIBUTED, scope=Scope.PLACE, local=True,
        needs=RANKED,
    )  # fmt: skip
    master_port: int = flag(
        29500, "with --rank: port of rank 0", Interval(int, "[1,65535]"), modes=DISTRIBUTED, scope=Scope.PLACE,
        local=True, needs=RANKED,
    )  # fmt: skip
    rank: int | None = flag(
        None, "run only this rank here; the others join at the master address", Interval(int, "[0,inf)"),
        modes=DISTRIBUTED, scope=Scope.PLACE, local=True,
    )  # fmt: skip
    peer_timeout: float | None = flag(
        None, "with --rank: seconds without a message after which another machine counts as lost",
        Interval(float, "(0,1e6]"), modes=DISTRIBUTED, scope=Scope.PLACE, needs=RANKED, fills=8.0,
    )  # fmt: skip


ALGORITHM_GROUPS = tuple(dict.fromkeys(group for algorithm in ALGORITHMS.values() for group in algorithm.flags))
# This is also the order of the suffixes in the name of a run: inserting a group before others renames runs.
GROUPS = (
    *(DataFlags, NetworkFlags, WorkerFlags, AlgorithmFlags, StoppingFlags, DelayFlags),
    *ALGORITHM_GROUPS,
    *(ClockFlags, RepetitionFlags, ResultFlags, InterruptionFlags, HardwareFlags, MachineFlags),
)
ROWS: dict[str, Flag] = {field.name: row_of(field) for group in GROUPS for field in dataclasses.fields(group)}
# The settings that belong to algorithms → their group.
OWNERS = {field.name: group for group in ALGORITHM_GROUPS for field in dataclasses.fields(group)}
