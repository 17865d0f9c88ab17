"""The minimal non-distributed training loop in plain PyTorch, and the network's passes alone."""

from collections.abc import Iterable
from itertools import islice
from threading import Barrier

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.data import batches, tensors
from benchmarks.measure import BATCH_SIZE, LEARNING_RATE, MOMENTUM, Sample, Stopwatch, Task, threads_of
from benchmarks.workers import time_workers
from catalogue import NETWORKS, implementation


def make_network(name: str) -> nn.Module:
    """One of the suite's networks, as a plain module."""
    torch.manual_seed(0)
    return implementation(NETWORKS, name)(10)


def make_optimizer(network: nn.Module) -> torch.optim.SGD:
    """torch.optim.SGD with the default options."""
    return torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Take one step per mini-batch."""
    for images, labels in steps:
        optimizer.zero_grad()
        loss = F.nll_loss(network(images), labels)
        loss.backward()
        optimizer.step()


def bare_loop(task: Task, threads: int) -> Sample:
    """Samples/s of a loop over tensors in memory that only trains."""
    torch.set_num_threads(threads)
    return timed(task, batches(*tensors(task.data_dir)))


def timed(task: Task, steps: Iterable[tuple[Tensor, Tensor]]) -> Sample:
    """Samples/s of training a new network, after the warm-up."""
    network = make_network(task.network)
    optimizer = make_optimizer(network)
    steps = iter(steps)
    train(network, optimizer, islice(steps, task.warm_up))
    stopwatch = Stopwatch()
    train(network, optimizer, islice(steps, task.measured))
    return stopwatch.rate(task.measured, per_piece=BATCH_SIZE)


def passes(task: Task, per_piece: float = 1.0) -> Sample:
    """Gradients/s of forward and backward passes alone, in one process per worker; or `per_piece` times as many."""
    return time_workers(task, pass_through, lambda: tensors(task.data_dir), per_piece)


def pass_through(rank: int, task: Task, gate: Barrier, images: Tensor, labels: Tensor) -> None:
    """The main function of one process: always the same mini-batch, in the memory layout of the suite."""
    torch.set_num_threads(threads_of(task.workers))
    network = make_network(task.network).to(memory_format=torch.channels_last)
    images, labels = images[:BATCH_SIZE].to(memory_format=torch.channels_last), labels[:BATCH_SIZE]

    def compute(gradients: int) -> None:
        for _ in range(gradients):
            F.nll_loss(network(images), labels).backward()

    compute(task.warm_up // task.workers)
    gate.wait()
    compute(task.measured // task.workers)
    gate.wait()


@torch.no_grad()
def forward_passes(task: Task, batch_size: int, points: int) -> Sample:
    """Points/s of a landscape's forward passes alone, over the same images in the memory layout of the suite."""
    torch.set_num_threads(threads_of(1))
    network = make_network(task.network).to(memory_format=torch.channels_last).eval()
    images = tensors(task.data_dir)[0][:batch_size].to(memory_format=torch.channels_last)
    passes = task.amount // batch_size  # per point
    for _ in range(passes):
        network(images)
    stopwatch = Stopwatch()
    for _ in range(points * passes):
        network(images)
    return stopwatch.rate(points)
