"""The virtual clock: the same algorithms and workers in one process, as a discrete-event simulation.

The times at which workers fetch and push depend only on the seeded compute times and delays, never on real time; ties
go to the lower worker number. A gradient is determined by its snapshot, so the gradients in flight can be computed in
any order, as long as they are applied in the order of virtual time.
"""

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

from common import Samples
from training.algorithms import Algorithm
from training.checkpoints import Checkpoints
from training.engines.dispatcher import Dispatcher, Listener, RunShape
from training.engines.gradients import Gradients, gradients_of
from training.plan import Plan
from training.protocol import Snapshot


def train(plan: Plan, samples: Samples, algorithm: Algorithm, listener: Listener, checkpoints: Checkpoints) -> None:
    """Train to the end in virtual time."""
    times = {number: plan.push_times(number) for number in plan.steps}
    with gradients_of(plan, samples, algorithm) as gradients, checkpoints.interruptible():
        simulate(RunShape.of(plan), algorithm, listener, times, gradients, checkpoints)


def simulate(
    shape: RunShape,
    algorithm: Algorithm,
    listener: Listener,
    times: Mapping[int, Iterator[float]],
    gradients: Gradients,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Each worker fetches, computes and pushes until it leaves; its next push comes after the next of its times, ms.

    checkpoints: of a run that can be resumed; its gradients are NetworkGradients.
    """
    pushes: list[tuple[float, int]] = []  # virtual ms, worker
    now = 0.0

    def compute(worker: int, snapshot: Snapshot) -> None:
        due = now + next(times[worker])
        gradients.start(worker, snapshot, due)
        heapq.heappush(pushes, (due, worker))

    def state() -> dict[str, Any]:
        return {"dispatcher": dispatcher.state(), "now": now, "pushes": pushes, "gradients": gradients.state()}

    dispatcher = Dispatcher(shape, algorithm, listener, compute)
    if checkpoints is None or checkpoints.engine is None:
        dispatcher.start()
    else:
        interrupted = checkpoints.engine
        dispatcher.restore(interrupted["dispatcher"])
        gradients.restore(interrupted["gradients"])
        now, pushes = interrupted["now"], interrupted["pushes"]
        for due, worker in pushes:
            gradients.start(worker, interrupted["gradients"]["snapshots"][worker], due)
        for worker, drawn in times.items():
            in_flight = worker in dispatcher.computing
            for _ in range(dispatcher.progress.pushed[worker] + in_flight):
                next(drawn)
    while pushes and dispatcher.ended_by is None:
        now, worker = heapq.heappop(pushes)
        if not dispatcher.check_time(now / 1000):
            dispatcher.push(now / 1000, gradients.take(worker))
            if checkpoints is not None and dispatcher.ended_by is None:
                checkpoints.offer(state)
    dispatcher.check_complete()
