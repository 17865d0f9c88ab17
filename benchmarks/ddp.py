"""DistributedDataParallel on Gloo, as in PyTorch's tutorial "Getting Started with Distributed Data Parallel"."""

import os
import socket
from itertools import islice
from threading import Barrier

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.data import batches, tensors
from benchmarks.limit import make_network, make_optimizer, train
from benchmarks.measure import Sample, Stopwatch, Task, threads_of


def gradients(task: Task) -> Sample:
    """Total gradients/s of processes that average their gradients at each step."""
    torch.set_num_threads(1)  # this process will fork: it must not have a thread pool
    gate = multiprocessing.get_context("fork").Barrier(task.workers + 1)
    arguments = (task, free_port(), *tensors(task.data_dir), gate)
    processes = multiprocessing.start_processes(work, arguments, task.workers, join=False, start_method="fork")
    gate.wait()
    stopwatch = Stopwatch()
    gate.wait()
    sample = stopwatch.rate(task.measured)
    while not processes.join():
        pass
    return sample


def free_port() -> int:
    """An unused port on this machine."""
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def work(rank: int, task: Task, port: int, images: Tensor, labels: Tensor, gate: Barrier) -> None:
    """The main function of one process."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=task.workers)
    torch.set_num_threads(threads_of(task.workers))
    network = DistributedDataParallel(make_network(task.network))
    torch.manual_seed(rank)
    optimizer, steps = make_optimizer(network), batches(images, labels)
    train(network, optimizer, islice(steps, task.warm_up // task.workers))
    gate.wait()
    train(network, optimizer, islice(steps, task.measured // task.workers))
    gate.wait()
    distributed.destroy_process_group()
