"""The virtual clock: the same algorithms and workers in one process, as discrete events in virtual time.

Which worker fetches and pushes when follows from the seeded compute times and delays only, never from how
long anything took; ties go to the lower worker number. A gradient is known from the snapshot it was asked
for, so those in flight are computed in whatever order, and applied in virtual time's.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Protocol

from common import Samples
from training.algorithms import Algorithm
from training.engines.dispatcher import Dispatcher, Observer
from training.engines.gradients import GradientPool, Schedule
from training.plan import Plan
from training.protocol import Snapshot


class Pool(Protocol):
    """Whoever computes gradients."""

    def start(self, worker: int, snapshot: Snapshot) -> None: ...


def train(plan: Plan, samples: Samples, algorithm: Algorithm, observer: Observer) -> None:
    """Train to the end in virtual time."""
    times = {number: (plan.compute_times(number), plan.delays(number)) for number in plan.steps}

    def next_ms(worker: int) -> float:
        compute, delay = times[worker]
        return compute.next_ms() + delay.next_ms()

    pool = GradientPool(plan, samples)
    pool.run(events(plan.config.algorithm, algorithm, observer, plan.steps, next_ms, pool))


def events(
    name: str,
    algorithm: Algorithm,
    observer: Observer,
    steps: Mapping[int, int],
    next_ms: Callable[[int], float],
    pool: Pool,
) -> Schedule:
    """Let every worker fetch, compute and push `steps[worker]` times; its next push comes after `next_ms(worker)`."""
    pushes: list[tuple[float, int]] = []  # virtual ms, worker
    now = 0.0

    def compute(worker: int, snapshot: Snapshot) -> None:
        pool.start(worker, snapshot)
        heapq.heappush(pushes, (now + next_ms(worker), worker))

    dispatcher = Dispatcher(name, algorithm, observer, steps, compute)
    dispatcher.start()
    while pushes:
        now, worker = heapq.heappop(pushes)
        dispatcher.push(now / 1000, (yield worker))
    dispatcher.check_complete()
