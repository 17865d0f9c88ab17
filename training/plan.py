"""Who trains on what and for how long: a configuration applied to a data set."""

import math
import os
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from common import PARTITIONS, FlatModel, Samples, hold_out, make_generator, take_subset
from training.optimizers import SGD, Adam
from training.options import RunConfig
from training.timing import ComputeTimes, Delays
from training.worker import Worker

VALIDATION_FRACTION = 0.1


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def save_points(config: RunConfig, updates: int) -> list[int]:
    """The versions whose weights a run saves: evenly spread, from the initialisation (0) to the end (`updates`)."""
    saves = (config.saves_per_epoch or 0) * config.epochs
    return [round(save * updates / saves) for save in range(saves + 1)] if saves else []


@dataclass(frozen=True)
class Plan:
    """The partition of the training set, and all that follows from it.

    train (T,), validation (V,): sorted indices of the training subset without and of the held-out part;
    shards: those of each worker, of which worker m's is `shards[m - 1]`.
    threads_per_gradient: they decide the order of sums, and so the last bits of a run.
    fingerprint: of the training set, equal where the data are.
    """

    config: RunConfig
    seed: int
    threads_per_gradient: int
    fingerprint: str
    train: Tensor
    validation: Tensor
    shards: tuple[Tensor, ...]

    @cached_property
    def batches_per_epoch(self) -> tuple[int, ...]:
        """Mini-batches of each worker in one epoch."""
        return tuple(math.ceil(len(shard) / self.config.batch_size) for shard in self.shards)

    @cached_property
    def steps(self) -> dict[int, int]:
        """Worker → its mini-batches over the whole run."""
        return {worker: batches * self.config.epochs for worker, batches in enumerate(self.batches_per_epoch, start=1)}

    @cached_property
    def updates_per_epoch(self) -> int:
        """Updates of one epoch; asynchronous: of one pseudo epoch, the batches of all workers."""
        return sum(self.batches_per_epoch) if self.config.mode == "async" else max(self.batches_per_epoch)

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.updates_per_epoch * self.config.epochs

    @cached_property
    def save_points(self) -> frozenset[int]:
        """The versions whose weights are saved."""
        return frozenset(save_points(self.config, self.updates))

    def learning_rate(self, update: int) -> float:
        """The learning rate of update number 0, 1, …."""
        if self.config.lrs == "exponential":
            return self.config.lr * 0.9 ** (update // self.updates_per_epoch)
        if self.config.lrs == "cosine_annealing":
            return self.config.lr * (1 + math.cos(math.pi * update / self.updates)) / 2
        return self.config.lr

    def optimizer(self, model: FlatModel) -> SGD | Adam:
        """SGD or Adam over the flat parameters of a model."""
        return Adam(model.parameters) if self.config.alr else SGD(model.parameters, self.config.momentum)

    def worker(self, number: int) -> Worker:
        """Worker 1…N with its shard and its own random streams."""
        return Worker(
            number,
            self.shards[number - 1],
            self.config.batch_size,
            shuffle=make_generator(self.seed, "shuffle", number),
            dropout=make_generator(self.seed, "dropout", number),
        )

    def delays(self, number: int) -> Delays:
        """The delays of worker 1…N."""
        return Delays(self.config, number, make_generator(self.seed, "delay", number))

    def compute_times(self, number: int) -> ComputeTimes:
        """How long the gradients of worker 1…N take on the virtual clock."""
        return ComputeTimes(self.config.compute_ms, make_generator(self.seed, "compute", number))


def make_plan(config: RunConfig, seed: int, samples: Samples) -> Plan:
    """Choose the training subset, hold out the validation part, and partition the rest.

    Raises ValueError, naming the flag, for what does not fit the size of the data set.
    """
    train = take_subset(len(samples), config.train_split, make_generator(seed, "subset"))
    validation = train[:0]
    if config.val:
        train, validation = hold_out(train, VALIDATION_FRACTION, make_generator(seed, "validation"))
        if len(validation) == 0:
            raise ValueError(f"--val leaves nothing to validate on: the training subset has {len(train)} samples")
    if config.batch_size > len(train):
        raise ValueError(f"--batch_size {config.batch_size} is not valid: give an integer in [1,{len(train)}], "
                         f"the size of the training set")  # fmt: skip
    if config.workers > len(train):
        raise ValueError(
            f"--world_size {config.world_size} is not valid: {config.workers} workers for {len(train)} samples"
        )
    generator = make_generator(seed, "partition")
    shards = tuple(PARTITIONS[config.partition](train, samples.labels, config.workers, generator))
    for worker, shard in enumerate(shards, start=1):
        if len(shard) == 0:
            raise ValueError(
                f"--world_size {config.world_size} with --{config.partition} leaves Worker_{worker} without a sample "
                f"of its labels: use a larger --train_split or fewer workers"
            )
    threads_per_gradient = max(1, available_cores() // config.workers)
    plan = Plan(config, seed, threads_per_gradient, samples.fingerprint(), train, validation, shards)
    if config.saves_per_epoch and config.saves_per_epoch > plan.updates_per_epoch:
        raise ValueError(
            f"--saves_per_epoch {config.saves_per_epoch} is not valid: an epoch has {plan.updates_per_epoch} updates"
        )
    return plan
