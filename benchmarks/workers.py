"""Time what several processes do at once."""

from collections.abc import Callable
from threading import Barrier
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from benchmarks.measure import Sample, Stopwatch, Task


def time_workers(
    task: Task, work: Callable[..., None], inputs: Callable[[], tuple[Any, ...]], per_piece: float = 1.0
) -> Sample:
    """Pieces of work a second of one process per worker, until the last one ends.

    work: called in each process with its number, the task, the barrier and what `inputs` returns; it waits at the
    barrier after its warm-up and at its end.
    """
    torch.set_num_threads(1)  # this process will fork: it must not have a thread pool
    arguments = inputs()
    context = multiprocessing.get_context("fork")
    gate: Barrier = context.Barrier(task.workers + 1)
    processes = [context.Process(target=work, args=(rank, task, gate, *arguments)) for rank in range(task.workers)]
    for process in processes:
        process.start()
    gate.wait()
    stopwatch = Stopwatch()
    gate.wait()
    sample = stopwatch.rate(task.measured, per_piece)
    for process in processes:
        process.join()
    return sample
