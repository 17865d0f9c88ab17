"""Engine 2: the same server and workers in one process, as discrete events in virtual time.

Which worker fetches and pushes when follows from the seeded compute times and delays alone, never from how
long anything took; ties go to the lower worker number. A gradient is known from the snapshot it was asked
for, so those in flight are computed by threads in whatever order, and applied in virtual time's.
"""

import heapq
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from common import Samples, build_model
from training.observer import Observer
from training.plan import Plan, available_cores
from training.protocol import Push, Snapshot
from training.record import RunLog
from training.server import AsyncServer, SyncServer
from training.worker import Worker


class GradientPool:
    """Threads that compute gradients in flight, each on a model of its own. A context."""

    def __init__(self, plan: Plan, samples: Samples, threads: int | None = None) -> None:
        self.samples = samples
        self._workers = {number: plan.worker(number) for number in plan.steps}
        self._in_flight: dict[int, Future[Push]] = {}
        self._own = threading.local()

        def prepare_thread() -> None:
            torch.set_num_threads(plan.threads_per_gradient)
            self._own.model = build_model(plan.config.dataset, plan.config.alt_model)

        threads = threads or max(1, available_cores() // plan.threads_per_gradient)
        self._executor = ThreadPoolExecutor(threads, initializer=prepare_thread)

    def __enter__(self) -> "GradientPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def start(self, worker: int, snapshot: Snapshot) -> None:
        """Begin the next gradient of `worker`, at `snapshot`."""
        self._in_flight[worker] = self._executor.submit(self._compute, self._workers[worker], snapshot)

    def take(self, worker: int) -> Push:
        """The gradient that `worker` has in flight; waits for it."""
        return self._in_flight.pop(worker).result()

    def _compute(self, worker: Worker, snapshot: Snapshot) -> Push:
        return worker.compute(snapshot, self._own.model, self.samples)


def train(plan: Plan, samples: Samples, server: AsyncServer | SyncServer, observer: Observer) -> None:
    """Train to the end in virtual time."""
    times = {number: (plan.compute_times(number), plan.delays(number)) for number in plan.steps}

    def next_ms(worker: int) -> float:
        compute, delay = times[worker]
        return compute.next_ms() + delay.next_ms()

    with GradientPool(plan, samples) as pool:
        run_events(plan.steps, next_ms, server, observer, pool)


def run_events(
    steps: Mapping[int, int],
    next_ms: Callable[[int], float],
    server: AsyncServer | SyncServer,
    observer: Observer,
    pool: GradientPool,
) -> None:
    """Let every worker fetch, compute and push `steps[worker]` times; its next push comes after `next_ms(worker)`."""
    pushes: list[tuple[float, int]] = []  # virtual ms, worker

    def fetch(worker: int, now: float) -> None:
        pool.start(worker, server.fetch(worker))
        heapq.heappush(pushes, (now + next_ms(worker), worker))

    for worker in steps:
        fetch(worker, 0.0)
    while pushes:
        now, worker = heapq.heappop(pushes)
        push = pool.take(worker)
        update = server.push(push)
        observer.push(now / 1000, push)
        if update is not None:
            observer.update(now / 1000, update)
            for part in update.pushes:
                if part.step < steps[part.worker]:
                    fetch(part.worker, now)


def replay(plan: Plan, samples: Samples, log: RunLog, server: AsyncServer, observer: Observer) -> None:
    """Repeat the asynchronous run of a log: the same gradients at the same versions in the same order.

    Warns at the first gradient whose loss is not the log's to the bit, as on another kind of machine.
    """
    fetches = defaultdict(list)  # version → the workers that fetched it
    for worker, version in zip(log.updates.worker, log.updates.fetched, strict=True):
        fetches[int(version)].append(int(worker))
    same = True
    with GradientPool(plan, samples) as pool:
        for worker in fetches[0]:
            pool.start(worker, server.fetch(worker))
        for seconds, worker, loss in zip(log.updates.seconds, log.updates.worker, log.updates.loss, strict=True):
            update = server.push(pool.take(int(worker)))
            observer.update(float(seconds), update)
            if same and update.loss != loss and update.loss == update.loss:
                same = False
                observer.warn(float(seconds), f"update {update.version} has loss {update.loss}, in the log {loss}")
            for fetcher in fetches[server.version]:
                pool.start(fetcher, server.fetch(fetcher))
