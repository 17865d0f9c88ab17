"""Engine 2: the same server and workers in one process, as discrete events in virtual time.

Which worker fetches and pushes when follows from the seeded compute times and delays alone, never from how
long anything took; ties go to the lower worker number. A gradient is known from the snapshot it was asked
for, so those in flight are computed by threads in whatever order, and applied in virtual time's.
"""

import heapq
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping

import torch

from common import Samples, build_model
from training.observer import Observer
from training.plan import Plan, available_cores
from training.protocol import Push, Snapshot
from training.record import RunLog
from training.server import AsyncServer, SyncServer

Schedule = Generator[int, Push, None]  # yields the worker whose gradient it wants next, and gets it


class GradientPool:
    """Threads that compute the gradients in flight, each on a model of its own, and carry on the schedule.

    No thread is there for the schedule alone: the one that comes by when the wanted gradient is
    ready carries it on, and mostly goes on itself with the gradient that follows from it.
    """

    def __init__(self, plan: Plan, samples: Samples, threads: int | None = None) -> None:
        self.plan = plan
        self.samples = samples
        self.threads = threads or max(1, available_cores() // plan.threads_per_gradient)
        self._workers = {number: plan.worker(number) for number in plan.steps}
        self._pending: deque[tuple[int, Snapshot]] = deque()
        self._ready: dict[int, Push] = {}
        self._changed = threading.Condition()  # held while the schedule goes on
        self._over = False
        self._done = threading.Event()  # set with `_over`
        self._error: BaseException | None = None

    def start(self, worker: int, snapshot: Snapshot) -> None:
        """Begin the next gradient of `worker`, at `snapshot`; for a schedule to call."""
        self._pending.append((worker, snapshot))

    def run(self, schedule: Schedule) -> None:
        """Play a schedule to its end, in some threads; this one waits for them, and for Ctrl-C."""
        self._schedule = schedule
        self._wanted = next(schedule)
        threads = [threading.Thread(target=self._live) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        try:
            self._done.wait()  # a join that Ctrl-C interrupts would take its thread for ended
        finally:
            self._end()
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _live(self) -> None:
        try:
            self._take_part()
        except BaseException as error:  # a full disk, say; the thread that started the run raises it
            self._error = self._error or error
            self._end()

    def _take_part(self) -> None:
        torch.set_num_threads(self.plan.threads_per_gradient)
        model = build_model(self.plan.config.dataset, self.plan.config.alt_model)
        with self._changed:
            while not self._over:
                self._carry_on()
                if self._pending:
                    worker, snapshot = self._pending.popleft()
                    self._changed.release()
                    try:
                        push = self._workers[worker].compute(snapshot, model, self.samples)
                    finally:
                        self._changed.acquire()
                    self._ready[worker] = push
                elif not self._over:
                    self._changed.wait()

    def _carry_on(self) -> None:
        while self._wanted in self._ready:
            try:
                self._wanted = self._schedule.send(self._ready.pop(self._wanted))
            except StopIteration:
                self._end()
                return
            self._changed.notify(len(self._pending) - 1)  # this thread takes one

    def _end(self) -> None:
        with self._changed:
            self._over = True
            self._done.set()
            self._changed.notify_all()


def train(plan: Plan, samples: Samples, server: AsyncServer | SyncServer, observer: Observer) -> None:
    """Train to the end in virtual time."""
    times = {number: (plan.compute_times(number), plan.delays(number)) for number in plan.steps}

    def next_ms(worker: int) -> float:
        compute, delay = times[worker]
        return compute.next_ms() + delay.next_ms()

    pool = GradientPool(plan, samples)
    pool.run(events(plan.steps, next_ms, server, observer, pool))


def events(
    steps: Mapping[int, int],
    next_ms: Callable[[int], float],
    server: AsyncServer | SyncServer,
    observer: Observer,
    pool: GradientPool,
) -> Schedule:
    """Let every worker fetch, compute and push `steps[worker]` times; its next push comes after `next_ms(worker)`."""
    pushes: list[tuple[float, int]] = []  # virtual ms, worker

    def fetch(worker: int, now: float) -> None:
        pool.start(worker, server.fetch(worker))
        heapq.heappush(pushes, (now + next_ms(worker), worker))

    for worker in steps:
        fetch(worker, 0.0)
    while pushes:
        now, worker = heapq.heappop(pushes)
        push = yield worker
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
    pool = GradientPool(plan, samples)
    pool.run(events_of(log, server, observer, pool))


def events_of(log: RunLog, server: AsyncServer, observer: Observer, pool: GradientPool) -> Schedule:
    """The fetches and pushes of a log, in its order."""
    fetches = defaultdict(list)  # version → the workers that fetched it
    for worker, version in zip(log.updates.worker, log.updates.fetched, strict=True):
        fetches[int(version)].append(int(worker))
    same = True
    for worker in fetches[0]:
        pool.start(worker, server.fetch(worker))
    for seconds, worker, loss in zip(log.updates.seconds, log.updates.worker, log.updates.loss, strict=True):
        update = server.push((yield int(worker)))
        observer.update(float(seconds), update)
        if same and update.loss != loss and update.loss == update.loss:
            same = False
            observer.warn(float(seconds), f"update {update.version} has loss {update.loss}, in the log {loss}")
        for fetcher in fetches[server.version]:
            pool.start(fetcher, server.fetch(fetcher))
