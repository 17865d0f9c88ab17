"""Hogwild (Recht, Ré, Wright and Niu 2011, arXiv 1106.5730), as in PyTorch's mnist_hogwild: no server, no lock."""

from itertools import islice
from threading import Barrier

import torch
from torch import Tensor, nn

from benchmarks.data import batches, tensors
from benchmarks.limit import make_network, make_optimizer, train
from benchmarks.measure import Sample, Task, threads_of
from benchmarks.workers import time_workers


def gradients(task: Task) -> Sample:
    """Total gradients/s of processes that train one model in shared memory."""

    def inputs() -> tuple[nn.Module, Tensor, Tensor]:
        network = make_network(task.network)
        network.share_memory()
        return network, *tensors(task.data_dir)

    return time_workers(task, work, inputs)


def work(rank: int, task: Task, gate: Barrier, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The main function of one process."""
    torch.set_num_threads(threads_of(task.workers))
    torch.manual_seed(rank)
    optimizer, steps = make_optimizer(network), batches(images, labels)
    train(network, optimizer, islice(steps, task.warm_up // task.workers))
    gate.wait()
    train(network, optimizer, islice(steps, task.measured // task.workers))
    gate.wait()
