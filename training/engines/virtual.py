"""The virtual clock: the same algorithms and workers in one process, as a discrete-event simulation.

The times at which workers fetch and push depend only on the seeded compute times and delays, never on real time; ties
go to the lower worker number. A gradient is determined by its snapshot, so the gradients in flight can be computed in
any order, as long as they are applied in the order of virtual time.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Protocol

from common import Samples
from training.algorithms import Algorithm
from training.engines.dispatcher import Dispatcher, Listener
from training.engines.gradients import GradientPool, Schedule
from training.plan import Plan
from training.protocol import Snapshot


class Pool(Protocol):
    """Computes gradients."""

    def start(self, worker: int, snapshot: Snapshot) -> None: ...


def train(plan: Plan, samples: Samples, algorithm: Algorithm, listener: Listener) -> None:
    """Train to the end in virtual time."""
    times = {number: (plan.compute_times(number), plan.delays(number)) for number in plan.steps}

    def next_ms(worker: int) -> float:
        compute, delay = times[worker]
        return compute.next_ms() + delay.next_ms()

    pool = GradientPool(plan, samples)
    pool.run(events(plan.config.algorithm, algorithm, listener, plan.steps, next_ms, pool))


def events(
    name: str,
    algorithm: Algorithm,
    listener: Listener,
    steps: Mapping[int, int],
    next_ms: Callable[[int], float],
    pool: Pool,
) -> Schedule:
    """Each worker fetches, computes and pushes `steps[worker]` times, each time taking `next_ms(worker)` ms."""
    pushes: list[tuple[float, int]] = []  # virtual ms, worker
    now = 0.0

    def compute(worker: int, snapshot: Snapshot) -> None:
        pool.start(worker, snapshot)
        heapq.heappush(pushes, (now + next_ms(worker), worker))

    dispatcher = Dispatcher(name, algorithm, listener, steps, compute)
    dispatcher.start()
    while pushes:
        now, worker = heapq.heappop(pushes)
        dispatcher.push(now / 1000, (yield worker))
    dispatcher.check_complete()
