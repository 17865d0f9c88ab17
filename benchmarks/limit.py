"""The minimal non-distributed training loop in plain PyTorch."""

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.data import batches, tensors
from benchmarks.measure import BATCH_SIZE, LEARNING_RATE, MOMENTUM, Sample, Stopwatch, Task
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
