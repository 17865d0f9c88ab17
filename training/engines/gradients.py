"""Compute the gradients in flight of a schedule. The order of computation does not affect the result."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress

import torch
from torch import Tensor

from common import Samples, build_model
from interface.processes import available_cores
from training.plan import Plan
from training.protocol import Push, Snapshot

Schedule = Generator[int, Push, None]  # yields the worker whose gradient it needs next, and is sent that gradient


class FunctionPool:
    """Gradients of a function that is not a network, such as a quadratic, computed when they are needed.

    gradient: (worker, parameters (P,)) → gradient (P,) of the worker's next mini-batch.
    """

    def __init__(self, gradient: Callable[[int, Tensor], Tensor]) -> None:
        self.gradient = gradient
        self._snapshots: dict[int, Snapshot] = {}
        self._steps: dict[int, int] = {}

    def start(self, worker: int, snapshot: Snapshot) -> None:
        """Start the next gradient of `worker`, at `snapshot`; called by the schedule."""
        self._snapshots[worker] = snapshot

    def run(self, schedule: Schedule) -> None:
        """Run a schedule to its end."""
        with suppress(StopIteration):
            worker = next(schedule)
            while True:
                worker = schedule.send(self._compute(worker))

    def _compute(self, worker: int) -> Push:
        snapshot = self._snapshots.pop(worker)
        self._steps[worker] = self._steps.get(worker, 0) + 1
        gradient = self.gradient(worker, snapshot.parameters)
        return Push(worker, self._steps[worker], snapshot.version, 0.0, gradient, gradient.new_empty(0))


class GradientPool:
    """Threads that compute the gradients in flight, each with its own model, and advance the schedule.

    No thread is reserved for the schedule: any thread that finds the needed gradient ready advances it, and then
    usually computes the gradient that follows from it.
    """

    def __init__(self, plan: Plan, samples: Samples, threads: int | None = None) -> None:
        self.plan = plan
        self.samples = samples
        self.threads = threads or max(1, available_cores() // plan.threads_per_gradient)
        self._workers = {number: plan.worker(number) for number in plan.steps}
        self._pending: deque[tuple[int, Snapshot]] = deque()
        self._ready: dict[int, Push] = {}
        self._changed = threading.Condition()  # held while the schedule advances
        self._over = False
        self._done = threading.Event()  # set with `_over`
        self._error: BaseException | None = None

    def start(self, worker: int, snapshot: Snapshot) -> None:
        """Start the next gradient of `worker`, at `snapshot`; called by the schedule."""
        self._pending.append((worker, snapshot))

    def run(self, schedule: Schedule) -> None:
        """Run a schedule to its end in threads; the calling thread waits for them, and for Ctrl-C."""
        self._schedule = schedule
        self._wanted = next(schedule)
        threads = [threading.Thread(target=self._run_thread) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        try:
            self._done.wait()  # if Ctrl-C interrupts a join, Python takes the thread for ended
        finally:
            self._end()
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _run_thread(self) -> None:
        try:
            self._compute_gradients()
        except BaseException as error:  # such as a full disk; the thread that called `run` raises it
            self._error = self._error or error
            self._end()

    def _compute_gradients(self) -> None:
        torch.set_num_threads(self.plan.threads_per_gradient)
        model = build_model(self.plan.config.dataset, self.plan.config.network_name)
        with self._changed:
            while not self._over:
                self._advance()
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

    def _advance(self) -> None:
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
