#!/usr/bin/env python3
"""Where the real time of a run on the virtual clock goes: computing, waiting, and the schedule's beginning.

Computing and waiting: of a computing process, for each gradient; it waits while no gradient in flight is left to
compute. First update: after the log was created, and all the CPU time of the process that owns the schedule until
then; it has as many first gradients as there are workers, whose models go into memory that was never used.

    python3 benchmarks/waiting.py --data_dir data
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported

from benchmarks.inside import Undisturbed, observe
from training.engines.processes import ProcessGradients, Slots
from training.protocol import Update

WORKERS = (2, 10, 1000)
FIRST = 1000  # updates
CONTEXT = multiprocessing.get_context("fork")
TITLES = ("workers", "computing, ms", "its CPU, ms", "waiting, ms", "first update after, s",
          f"CPU of the schedule per update, µs: the first {FIRST:,}", "all others")  # fmt: skip


class Milestones(Undisturbed):
    """Notes the real time and the CPU time of this process, s, when the run begins and at some updates."""

    def __enter__(self) -> "Milestones":
        self.seen = {0: (time.perf_counter(), time.process_time())}
        return super().__enter__()

    def update(self, seconds: float, update: Update) -> None:
        super().update(seconds, update)
        if update.version in (1, FIRST, self.plan.updates * 9 // 10):
            self.seen[update.version] = time.perf_counter(), time.process_time()


def measure_processes() -> "multiprocessing.Array":
    """From now on, all of them add up in it: seconds computing, of CPU time meanwhile, and waiting; and gradients."""
    sums = CONTEXT.Array("d", 4)
    await_task, compute = ProcessGradients._await_task, Slots.compute

    def timed(work: Callable[..., Any], real: int, cpu: int | None) -> Callable[..., Any]:
        def measured(*arguments: object) -> object:
            began, before = time.perf_counter(), time.process_time()
            result = work(*arguments)
            with sums:
                sums[real] += time.perf_counter() - began
                if cpu is not None:
                    sums[cpu] += time.process_time() - before
                    sums[-1] += 1
            return result

        return measured

    Slots.compute = timed(compute, 0, 1)
    ProcessGradients._await_task = timed(await_task, 2, None)
    return sums


def measure(workers: int, data_dir: str, updates: int) -> tuple[float, ...]:
    """One value for each title."""
    sums = measure_processes()
    seen = observe("virtual", workers, data_dir, updates, Milestones).seen
    computing, cpu, waiting, gradients = sums
    versions = sorted(seen)

    def cpu_per_update(first: int, last: int) -> float:
        return 1e6 * (seen[last][1] - seen[first][1]) / (last - first)

    of_gradient = (1000 * seconds / gradients for seconds in (computing, cpu, waiting))
    return (workers, *of_gradient, seen[1][0] - seen[0][0], cpu_per_update(1, FIRST), cpu_per_update(*versions[-2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data", help="folder of Fashion-MNIST, in torchvision's layout")
    parser.add_argument("--updates", type=int, default=6000, help="of each measurement (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default %(default)s)")
    arguments = parser.parse_args()
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}")
    for workers in WORKERS:
        rows = []
        for _ in range(arguments.repeats):
            with ProcessPoolExecutor(1, CONTEXT) as pool:  # whose functions the measurement replaces
                rows.append(pool.submit(measure, workers, arguments.data_dir, arguments.updates).result())
        medians = [median(values) for values in zip(*rows, strict=True)]
        shown = (f"{medians[0]:,}", *(f"{value:.3f}" for value in medians[1:4]), f"{medians[4]:.2f}",
                 *(f"{value:.0f}" for value in medians[5:]))  # fmt: skip
        print(f"| {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
