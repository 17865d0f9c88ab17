#!/usr/bin/env python3
"""CPU time of the serial part of an update: what bounds the updates per second on any number of cores.

Virtual clock: the process that owns the schedule, while its computing processes answer at once with a constant
gradient: shared memory, optimiser step, norm and log line included. Wall clock: the server of a run over RPC, whose
workers compute real gradients; exchange: the part of it that PyTorch's RPC does not spend. Empty: a server whose
workers call a function that does nothing; empty, busy: they also pass through the network between two calls.

    python3 benchmarks/serial.py --data_dir data
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported

import torch
from torch.distributed.rpc.functions import async_execution

from benchmarks.inside import Undisturbed, observe
from benchmarks.limit import make_network
from training.engines import processes
from training.engines.rpc import launch
from training.engines.rpc.agents import SERVER, ask, join_star, leave
from training.engines.rpc.coordinator import Coordinator
from training.protocol import Push, Update
from training.worker import Result

WHATS = ("wall", "exchange", "empty", "empty, busy")
ROWS = (("virtual", 10), ("virtual", 1000), *((what, workers) for workers in (2, 10) for what in WHATS))
CONTEXT = multiprocessing.get_context("fork")


class Meter(Undisturbed):
    """Measures the CPU time from half to nine tenths of the updates.

    clock: seconds of CPU so far.
    """

    clock: Callable[[], float] = staticmethod(time.process_time)

    def update(self, seconds: float, update: Update) -> None:
        super().update(seconds, update)
        first, last = self.plan.updates // 2, self.plan.updates * 9 // 10
        if update.version == first:
            self.start = self.clock()
        elif update.version == last:
            self.microseconds = 1e6 * (self.clock() - self.start) / (last - first)


def constant_gradient(task: object, model: object, samples: object) -> Result:
    """A stub of training.worker.compute."""
    return Result(2.3, model.gradients, model.buffers)


def clock_of_exchanges() -> Callable[[], float]:
    """A clock of the CPU time that the server has spent on pushes, inside the function that RPC calls."""
    seconds, exchange = 0.0, Coordinator.exchange

    def timed_exchange(self: Coordinator, push: Push) -> torch.futures.Future:
        nonlocal seconds
        before = time.thread_time()
        reply = exchange(self, push)
        seconds += time.thread_time() - before
        return reply

    Coordinator.exchange = timed_exchange
    return lambda: seconds


def measure(what: str, workers: int, data_dir: str, updates: int) -> float:
    """Microseconds of CPU per update."""
    if what == "exchange":
        Meter.clock = staticmethod(clock_of_exchanges())
    clock = "virtual" if what == "virtual" else "wall"
    return observe(clock, workers, data_dir, updates, Meter).microseconds


@async_execution
def nothing() -> torch.futures.Future[None]:
    """What an empty call asks of the server, which answers as it does a push."""
    reply = torch.futures.Future()
    reply.set_result(None)
    return reply


def call_repeatedly(number: int, rendezvous: str, calls: int, computes: bool) -> None:
    """The main function of a worker that only calls the server, or also passes through LeNet5 before each call."""
    torch.set_num_threads(1)
    network, images = make_network("LeNet5"), torch.zeros(32, 1, 28, 28)
    join_star(f"Worker_{number}", number, rendezvous, threads=1)
    for _ in range(calls):
        if computes:
            network(images).sum().backward()
        ask(nothing)
    leave()


def measure_empty_calls(what: str, workers: int, calls: int) -> float:
    """Microseconds of the server's CPU per call; calls: of all workers together."""
    os.environ["TP_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/store"
        order = (rendezvous, calls // workers, what == "empty, busy")
        callers = [CONTEXT.Process(target=call_repeatedly, args=(number, *order)) for number in range(1, workers + 1)]
        for caller in callers:
            caller.start()
        join_star(SERVER, 0, rendezvous, launch.SERVER_THREADS)
        start = time.process_time()
        for caller in callers:
            caller.join()
        microseconds = 1e6 * (time.process_time() - start) / (calls // workers * workers)
        leave()
    return microseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data", help="folder of Fashion-MNIST, in torchvision's layout")
    parser.add_argument("--updates", type=int, default=4000, help="of each measurement (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default %(default)s)")
    arguments = parser.parse_args()
    print("| what | workers | CPU per update, µs: median (all) | limit, updates/s |\n|---|---|---|---|")
    processes.compute = constant_gradient
    for what, workers in ROWS:
        job = (measure, what, workers, arguments.data_dir, arguments.updates)
        if what.startswith("empty"):
            job = (measure_empty_calls, what, workers, arguments.updates)
        times = []
        for _ in range(arguments.repeats):
            with ProcessPoolExecutor(1, CONTEXT) as pool:  # a process can join RPC only once
                times.append(pool.submit(*job).result())
        all_of_them = ", ".join(f"{value:.0f}" for value in times)
        print(f"| {what} | {workers} | {median(times):.0f} ({all_of_them}) | {1e6 / median(times):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
