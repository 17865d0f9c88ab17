"""Hogwild (Niu et al. 2011, arXiv 1106.5730), as in PyTorch's example mnist_hogwild: no server, no lock."""

from itertools import islice
from threading import Barrier

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from benchmarks.data import batches, tensors
from benchmarks.limit import make_network, make_optimizer, train
from benchmarks.measure import Sample, Stopwatch, Task, threads_of


def gradients(task: Task) -> Sample:
    """Total gradients/s of processes that train one model in shared memory, until the last process ends."""
    torch.set_num_threads(1)  # this process will fork: it must not have a thread pool
    context = multiprocessing.get_context("fork")
    network = make_network(task.network)
    network.share_memory()
    gate = context.Barrier(task.workers + 1)
    arguments = (task, network, *tensors(task.data_dir), gate)
    processes = [context.Process(target=work, args=(rank, *arguments)) for rank in range(task.workers)]
    for process in processes:
        process.start()
    gate.wait()
    stopwatch = Stopwatch()
    gate.wait()
    sample = stopwatch.rate(task.measured)
    for process in processes:
        process.join()
    return sample


def work(rank: int, task: Task, network: nn.Module, images: Tensor, labels: Tensor, gate: Barrier) -> None:
    """The main function of one process."""
    torch.set_num_threads(threads_of(task.workers))
    torch.manual_seed(rank)
    optimizer, steps = make_optimizer(network), batches(images, labels)
    train(network, optimizer, islice(steps, task.warm_up // task.workers))
    gate.wait()
    train(network, optimizer, islice(steps, task.measured // task.workers))
    gate.wait()
