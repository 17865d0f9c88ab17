"""The virtual clock: the same algorithms and workers in one process, as a discrete-event simulation.

The times at which workers fetch and push depend only on the seeded compute times and delays, never on real time; ties
go to the lower worker number. A gradient is determined by its snapshot, so the gradients in flight can be computed in
any order, as long as they are applied in the order of virtual time.
"""

import heapq
from collections.abc import Iterator, Mapping

from common import Samples
from training.algorithms import Algorithm
from training.engines.dispatcher import Dispatcher, Listener, RunShape
from training.engines.gradients import Gradients, gradients_of
from training.plan import Plan
from training.protocol import Snapshot


def train(plan: Plan, samples: Samples, algorithm: Algorithm, listener: Listener) -> None:
    """Train to the end in virtual time."""
    times = {number: plan.push_times(number) for number in plan.steps}
    with gradients_of(plan, samples, algorithm) as gradients:
        simulate(RunShape.of(plan), algorithm, listener, times, gradients)


def simulate(
    shape: RunShape,
    algorithm: Algorithm,
    listener: Listener,
    times: Mapping[int, Iterator[float]],
    gradients: Gradients,
) -> None:
    """Each worker fetches, computes and pushes until it leaves; its next push comes after the next of its times, ms."""
    pushes: list[tuple[float, int]] = []  # virtual ms, worker
    now = 0.0

    def compute(worker: int, snapshot: Snapshot) -> None:
        due = now + next(times[worker])
        gradients.start(worker, snapshot, due)
        heapq.heappush(pushes, (due, worker))

    dispatcher = Dispatcher(shape, algorithm, listener, compute)
    dispatcher.start()
    while pushes and dispatcher.ended_by is None:
        now, worker = heapq.heappop(pushes)
        if not dispatcher.check_time(now / 1000):
            dispatcher.push(now / 1000, gradients.take(worker))
    dispatcher.check_complete()
