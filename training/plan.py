"""A configuration applied to a data set: which samples each worker trains on, and for how long."""

import dataclasses
import math
import os
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from common import FlatModel, Samples, hold_out, make_generator, partition_samples, take_subset
from interface.errors import UsageError
from interface.processes import available_cores
from training.algorithms import Algorithm
from training.config import RunConfig
from training.optimizers import SGD, Adam
from training.positions import Points, eval_points, pushes_of, save_points
from training.server import ParameterServer
from training.timing import (
    DELAY_TYPES,
    Draws,
    Times,
    compute_times,
    delays,
    drawn_speed,
    listed_speeds,
    no_delays,
)
from training.worker import Worker

VALIDATION_FRACTION = 0.1


@dataclass(frozen=True)
class Plan:
    """The partition of the training set, and everything derived from it.

    train (T,), validation (V,): sorted indices of the training samples and of the held-out samples;
    shards: the training indices of each worker; worker m has `shards[m - 1]`.
    threads_per_gradient: determines the order of summation, and so the last bits of the result.
    fingerprint: of the training set; equal data have equal fingerprints.

    A position in the run is a number of updates, or of gradients if the number of updates is not known in advance.
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
    def pushes_per_epoch(self) -> tuple[int, ...]:
        """Gradients that each worker pushes in one epoch: one per mini-batch, or per group of local steps."""
        return pushes_of(self.batches_per_epoch, self.config.local_steps)

    @cached_property
    def steps(self) -> dict[int, int]:
        """Worker → number of gradients that it pushes in its epochs."""
        return {worker: pushes * self.config.epochs for worker, pushes in enumerate(self.pushes_per_epoch, start=1)}

    @cached_property
    def updates_per_epoch(self) -> int | None:
        """Updates in one (pseudo) epoch; None if not known in advance."""
        if not self.config.distributed:
            return self.pushes_per_epoch[0]
        return self.config.rule.updates_per_epoch(self.pushes_per_epoch, self.config)

    @property
    def updates(self) -> int | None:
        """Updates in the whole run; None if not known in advance."""
        return None if self.updates_per_epoch is None else self.updates_per_epoch * self.config.epochs

    @cached_property
    def epoch_length(self) -> int:
        """Positions in one (pseudo) epoch."""
        return sum(self.pushes_per_epoch) if self.updates_per_epoch is None else self.updates_per_epoch

    @property
    def length(self) -> int:
        """Positions in the whole run."""
        return self.epoch_length * self.config.epochs

    @property
    def left_out(self) -> str:
        """A sentence about samples that no worker has; empty if there are none."""
        kept = sum(map(len, self.shards))
        if self.config.partition == "none" or kept == len(self.train):
            return ""
        sizes = sorted({len(shard) for shard in self.shards})
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        return (f"--{self.config.partition}: each worker keeps {each} samples; {len(self.train) - kept} of "
                f"{len(self.train)} are left out")  # fmt: skip

    def position(self, updates: int, gradients: int) -> int:
        """The position of a run after the given numbers of updates and gradients."""
        return gradients if self.updates_per_epoch is None else updates

    @cached_property
    def save_points(self) -> Points:
        """The positions at which the weights are saved."""
        return save_points(self.config, self.length)

    @cached_property
    def eval_points(self) -> Points:
        """The positions at which the model is evaluated on the test set."""
        return eval_points(self.config, self.length)

    def learning_rate(self, updates: int, gradients: int) -> float:
        """The learning rate of the next update, given the numbers of updates and gradients so far."""
        position = min(self.position(updates, gradients), self.length - 1)  # an update may follow the last gradient
        if self.config.lrs == "exponential":
            return self.config.lr * 0.9 ** (position // self.epoch_length)
        if self.config.lrs == "cosine_annealing":
            return self.config.lr * (1 + math.cos(math.pi * position / self.length)) / 2
        return self.config.lr

    def optimizer(self, model: FlatModel) -> SGD | Adam:
        """SGD or Adam over the flat parameters of a model."""
        if self.config.alr:
            return Adam(model.parameters)
        own_momentum = self.config.distributed and self.config.rule.own_momentum
        return SGD(model.parameters, 0.0 if own_momentum else self.config.momentum)

    def algorithm(self, model: FlatModel) -> Algorithm:
        """The algorithm of a distributed run, with a server for `model`."""
        server = ParameterServer(model.parameters, model.buffers, self.optimizer(model), self.learning_rate)
        return self.config.rule(server, self.config, list(self.steps))

    def worker(self, number: int) -> Worker:
        """Worker 1…N with its shard and its own random streams."""
        return Worker(
            number,
            self.shards[number - 1],
            self.config.batch_size,
            shuffle=make_generator(self.seed, "shuffle", number),
            dropout=make_generator(self.seed, "dropout", number, self.config.device),
            local_steps=self.config.local_steps,
        )

    def delays(self, number: int) -> Times:
        """The delays of worker 1…N before each push, ms."""
        slow = self.config.slow_worker_1 and number == 1
        if not (self.config.delay or slow):
            return no_delays()
        slowdown = 2 if slow else 1
        draws = Draws(make_generator(self.seed, "delay", number))
        return delays(DELAY_TYPES[self.config.delay_type], slowdown * self.config.delay_mean_ms, slowdown, draws)

    def speed(self, number: int) -> float:
        """The relative speed of worker 1…N on the virtual clock."""
        if self.config.worker_speeds is None:
            return 1.0
        speeds = listed_speeds(self.config.worker_speeds)
        draws = Draws(make_generator(self.seed, "speed", number))
        return drawn_speed(self.config.worker_speeds, draws) if speeds is None else speeds[number - 1]

    def push_times(self, number: int) -> Times:
        """On the virtual clock, the times from a fetch of worker 1…N to its push, ms: messages, computation, delay."""
        compute = compute_times(
            self.config.compute_time, self.config.compute_ms, Draws(make_generator(self.seed, "compute", number))
        )
        delay, speed, messages = self.delays(number), self.speed(number), 2 * self.config.communication_ms
        while True:
            for start in range(0, self.batches_per_epoch[number - 1], self.config.local_steps):
                batches = min(self.config.local_steps, self.batches_per_epoch[number - 1] - start)
                yield sum(next(compute) for _ in range(batches)) / speed + next(delay) + messages

    def with_threads(self, threads_per_gradient: int) -> "Plan":
        """The same plan with another number of threads per gradient."""
        return dataclasses.replace(self, threads_per_gradient=threads_per_gradient)


def threads_of(config: RunConfig) -> tuple[int, str]:
    """Threads per gradient, and what determines them.

    One on the virtual clock, so that results do not depend on the number of cores.
    """
    if config.clock == "virtual":
        return 1, "virtual clock"
    if config.threads is not None:
        return config.threads, "--threads"
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(asked) > 0:
        return int(asked), "OMP_NUM_THREADS"
    return max(1, available_cores() // config.workers), "cores"


def make_plan(config: RunConfig, seed: int, samples: Samples) -> Plan:
    """Choose the training subset, hold out the validation samples, and partition the rest.

    Raises a UsageError that names the flag if a setting does not fit the size of the data set.
    """
    train = take_subset(len(samples), config.train_split, make_generator(seed, "subset"))
    validation = train[:0]
    if config.val:
        train, validation = hold_out(train, VALIDATION_FRACTION, make_generator(seed, "validation"))
        if len(validation) == 0:
            raise UsageError(f"--val needs more samples to hold out 10 %: the training subset has only {len(train)}")
    if config.batch_size > len(train):
        raise UsageError(f"--batch_size {config.batch_size} is not valid: give an integer in [1,{len(train)}], "
                         f"the size of the training set")  # fmt: skip
    if config.workers > len(train):
        raise UsageError(
            f"--world_size {config.world_size} is not valid: give at most {len(train) + 1}, for {len(train)} samples"
        )
    parameters = {}
    if config.split_dirichlet is not None:
        parameters = {"alpha": config.split_dirichlet, "least": config.batch_size}
        if config.workers * config.batch_size > len(train):
            raise UsageError(f"--split_dirichlet needs a mini-batch for each worker, and {len(train)} samples are not "
                             f"{config.workers} times {config.batch_size}: use a smaller --batch_size, fewer workers "
                             f"or a larger --train_split")  # fmt: skip
    generator = make_generator(seed, "partition")
    shards = tuple(partition_samples(config.partition, train, samples.labels, config.workers, generator, **parameters))
    for worker, shard in enumerate(shards, start=1):
        if len(shard) == 0:
            raise UsageError(
                f"--world_size {config.world_size} with --{config.partition} leaves Worker_{worker} without a sample "
                f"of its labels: use a larger --train_split or fewer workers"
            )
    plan = Plan(config, seed, threads_of(config)[0], samples.fingerprint(), train, validation, shards)
    what = "gradients" if plan.updates is None else "updates"
    for name in ("saves_per_epoch", "evals_per_epoch"):
        if (number := getattr(config, name)) and number > plan.epoch_length:
            raise UsageError(f"--{name} {number} is not valid: an epoch has {plan.epoch_length} {what}")
    return plan
