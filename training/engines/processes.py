"""Gradients computed by forked processes, as many as there are cores; weights and gradients are in shared memory.

A task lies in a slot. Its number goes to the processes through one pipe, from which whoever is idle reads, and comes
back through another one when the slot holds the result. Tasks are submitted in the order in which the schedule will
take them. All state of the workers stays in this process.
"""

import heapq
import os
import select
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from common import FlatModel, Samples, build_model
from interface.errors import DataError
from interface.processes import FORK, exit_reason, yield_to_parent
from training.engines.shared_memory import SharedRows, shared_tensor
from training.plan import Plan
from training.protocol import Push, Snapshot
from training.server import ParameterServer
from training.worker import Result, Task, Worker, compute

QUEUED_PER_PROCESS = 2  # tasks submitted and not computed, so that nobody waits for this process
RESULT_BYTES = 32 * 2**20  # for results that the schedule takes later; beyond, tasks wait for their turn
MESSAGE_BYTES = 4  # one slot number; much fewer than a pipe transfers at once


class ProcessLostError(DataError):
    """A process that computes gradients was killed."""


class Slots:
    """Tasks and their results, in shared memory."""

    def __init__(self, count: int, plan: Plan, model: FlatModel, rows: SharedRows) -> None:
        length, config = len(model.parameters), plan.config
        batches = min(config.local_steps, max(plan.batches_per_epoch))  # no task goes beyond its epoch
        self._rows = rows
        self._model = model
        self._row = shared_tensor(count, dtype=torch.int64).numpy()  # of the snapshot; -1: it is in `parameters`
        self._rate = shared_tensor(count, dtype=torch.float64).numpy()
        self._loss = shared_tensor(count, dtype=torch.float64).numpy()
        self._sizes = shared_tensor(count, batches, dtype=torch.int64).numpy()  # 0: no such mini-batch
        self._indices = shared_tensor(count, batches * config.batch_size, dtype=torch.int64)
        self._parameters = shared_tensor(count, length).unbind()
        self._gradients = shared_tensor(count, length).unbind()
        self._buffers = shared_tensor(count, len(model.buffers)).unbind()
        generator = torch.Generator()
        self._dropout = shared_tensor(count, len(generator.get_state()), dtype=torch.uint8).unbind()
        self._generator = generator  # of the computing process

    def put_task(self, slot: int, task: Task) -> None:
        """Store a task."""
        row = self._rows.row_of(task.snapshot.parameters)
        if row is None:
            self._parameters[slot].copy_(task.snapshot.parameters)
        self._row[slot] = -1 if row is None else row
        self._rate[slot] = task.snapshot.learning_rate
        self._sizes[slot] = 0
        self._sizes[slot, : len(task.batches)] = [len(batch) for batch in task.batches]
        indices = task.batches[0] if len(task.batches) == 1 else torch.cat(task.batches)
        self._indices[slot, : len(indices)].copy_(indices)
        if len(task.buffers):
            self._buffers[slot].copy_(task.buffers)
        if self._model.has_dropout:
            self._dropout[slot].copy_(task.dropout.get_state())

    def compute(self, slot: int, samples: Samples) -> None:
        """Replace a task by its result."""
        row, sizes = int(self._row[slot]), [size for size in self._sizes[slot].tolist() if size]
        parameters = self._parameters[slot] if row < 0 else self._rows[row]
        buffers = self._buffers[slot]
        if self._model.has_dropout:
            self._generator.set_state(self._dropout[slot].clone())  # set_state misreads a view
        snapshot = Snapshot(0, parameters, buffers, float(self._rate[slot]))
        batches = self._indices[slot, : sum(sizes)].split(sizes)
        result = compute(Task(snapshot, batches, self._generator, buffers), self._model, samples)
        self._loss[slot] = result.loss
        self._gradients[slot].copy_(result.gradient)
        buffers.copy_(result.buffers)
        if self._model.has_dropout:
            self._dropout[slot].copy_(self._generator.get_state())

    def take_result(self, slot: int, task: Task, keep: bool) -> Result:
        """The result of a task; without `keep`, its gradient remains in the slot."""
        gradient, buffers = self._gradients[slot], self._buffers[slot]
        if self._model.has_dropout:
            task.dropout.set_state(self._dropout[slot].clone())
        return Result(
            float(self._loss[slot]),
            gradient.clone() if keep else gradient,
            buffers.clone() if len(buffers) else buffers,
        )


@dataclass(slots=True)
class InFlight:
    """The state of one worker in this process: its snapshot, and its task once that was submitted."""

    worker: Worker
    snapshot: Snapshot | None = None
    task: Task | None = None


class ProcessGradients:
    """Forked processes that compute. A context manager: they end with it, and with this process.

    count: of processes; server: whose snapshots are copied into shared memory from now on;
    keeps_gradients: whether the algorithm may still read a gradient when it has answered the push.
    """

    def __init__(
        self, plan: Plan, samples: Samples, server: ParameterServer, keeps_gradients: bool, count: int
    ) -> None:
        model = build_model(plan.config.dataset, plan.config.network_name)
        rows = SharedRows(2 * len(plan.steps) + 8, len(model.parameters))  # a few more than there are snapshots
        server.copy = rows.copy
        self._workers = {number: InFlight(plan.worker(number)) for number in plan.steps}
        self._pending: list[tuple[float, int]] = []  # due, worker; a heap
        self._keeps_gradients = keeps_gradients
        self._depth = QUEUED_PER_PROCESS * count
        slots = min(len(plan.steps), self._depth + RESULT_BYTES // model.parameters.nbytes) + 1
        self._slots = Slots(slots, plan, model, rows)
        self._messages = [slot.to_bytes(MESSAGE_BYTES, "little") for slot in range(slots)]
        self._free = list(range(slots))
        self._submitted: dict[int, int] = {}  # slot → worker
        self._results: dict[int, int] = {}  # worker → slot
        self._taken: int | None = None  # the slot whose gradient the algorithm may still use
        self._tasks, self._done = os.pipe(), os.pipe()
        self._processes = self._fork(plan, samples, count)
        self._poll = select.poll()
        for descriptor in (self._done[0], *(process.sentinel for process in self._processes)):
            self._poll.register(descriptor, select.POLLIN)

    def __enter__(self) -> "ProcessGradients":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for descriptor in (*self._tasks, *self._done):
            os.close(descriptor)

    def _fork(self, plan: Plan, samples: Samples, count: int) -> list[BaseProcess]:
        sys.stdout.flush()
        sys.stderr.flush()
        arguments = (samples, plan.threads_per_gradient)
        processes = [FORK.Process(target=self._serve, args=arguments, daemon=True) for _ in range(count)]
        for process in processes:
            process.start()
        return processes

    def _serve(self, samples: Samples, threads: int) -> None:
        """The main function of a computing process."""
        yield_to_parent()
        torch.set_num_threads(threads)
        while True:  # until it is killed
            slot = self._await_task()
            self._slots.compute(slot, samples)
            os.write(self._done[1], self._messages[slot])

    def _await_task(self) -> int:
        """The next task's slot."""
        return int.from_bytes(os.read(self._tasks[0], MESSAGE_BYTES), "little")

    def start(self, worker: int, snapshot: Snapshot, due: float) -> None:
        """The worker has fetched a model."""
        self._workers[worker].snapshot = snapshot
        heapq.heappush(self._pending, (due, worker))

    def take(self, worker: int) -> Push:
        """The gradient of a worker; its memory is used again after the next call, unless gradients are kept."""
        if self._taken is not None:
            self._free.append(self._taken)
            self._taken = None
        self._submit(worker)
        while worker not in self._results:
            self._receive()
            self._submit(worker)
        slot, flight = self._results.pop(worker), self._workers[worker]
        result = self._slots.take_result(slot, flight.task, self._keeps_gradients)
        push = flight.worker.finish(flight.task, result)
        flight.snapshot = flight.task = None
        self._taken = slot
        return push

    def state(self) -> dict[str, Any]:
        """The workers, and the models that they have fetched."""
        flights = self._workers.items()
        return {
            "workers": {number: flight.worker.state() for number, flight in flights},
            "snapshots": {number: flight.snapshot for number, flight in flights if flight.snapshot is not None},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        for number, worker in state["workers"].items():
            self._workers[number].worker.restore(worker)

    def _submit(self, wanted: int) -> None:
        """Submit as many tasks as are needed to keep the processes busy; the last free slot is for the wanted one."""
        while self._pending and len(self._submitted) < self._depth and len(self._free) > 1:
            self._submit_one(heapq.heappop(self._pending)[1])
        self._submit_one(wanted)

    def _submit_one(self, worker: int) -> None:
        flight = self._workers[worker]
        if flight.task is not None or flight.snapshot is None:
            return  # it was the wanted one before its turn
        slot = self._free.pop()
        flight.task = flight.worker.start(flight.snapshot)
        self._slots.put_task(slot, flight.task)
        self._submitted[slot] = worker
        os.write(self._tasks[1], self._messages[slot])

    def _receive(self) -> None:
        """Wait for results. Raises ProcessLostError if a process was killed, RuntimeError if it failed."""
        ready = {descriptor for descriptor, _ in self._poll.poll()}
        if ready != {self._done[0]}:
            lost = next(process for process in self._processes if process.sentinel in ready)
            how = f"a process that computes gradients ended: {exit_reason(lost)}"
            raise ProcessLostError(how) if lost.exitcode < 0 else RuntimeError(how)
        messages = os.read(self._done[0], MESSAGE_BYTES * len(self._messages))
        for start in range(0, len(messages), MESSAGE_BYTES):
            slot = int.from_bytes(messages[start : start + MESSAGE_BYTES], "little")
            self._results[self._submitted.pop(slot)] = slot
