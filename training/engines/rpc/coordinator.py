"""The server side of RPC: admits workers, takes one push at a time, and replies to the released workers."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interface.errors import DataError
from interface.processes import interruptions_to
from training.algorithms import Algorithm
from training.checkpoints import Checkpoints
from training.engines.dispatcher import Dispatcher, RunShape
from training.engines.rpc.mailbox import OnTheWire
from training.observer import Observer
from training.plan import Plan
from training.protocol import Push, Snapshot
from training.settings import ROWS


@dataclass(frozen=True)
class Refusal:
    """The server's answer to a worker that may not take part, or no longer.

    is_twin: whether another process of that rank takes part, which the server waits for.
    """

    reason: str
    is_twin: bool = False


@dataclass(frozen=True)
class Terms:
    """The terms on which a worker joins, which it asks of the server.

    threads: per gradient, which determine its last bits; pushed: gradients that the worker pushed before a resumed run
    was interrupted; buffers (B,): its running statistics at that point, or None.
    """

    threads: int
    pushed: int
    buffers: Tensor | None


Answer = Snapshot | Refusal | None  # None: no mini-batches left


def shared_settings(plan: Plan) -> dict[str, object]:
    """The settings that must be the same in all processes of a run."""
    settings = {f"--{name}": getattr(plan.config, name) for name, row in ROWS.items() if not row.local}
    return settings | {"--seed": plan.seed, "data of fingerprint": plan.fingerprint}


class Coordinator:
    """Starts training once all surviving workers have joined, and answers their calls with futures.

    done: file descriptor that becomes readable when the run has ended; error: why it failed, if it did.
    heard: worker → time of its last heartbeat, from `time.monotonic`;
    taking_part: the workers that have something to do: in a resumed run, those that had neither left nor been lost.
    """

    def __init__(
        self,
        plan: Plan,
        algorithm: Algorithm,
        observer: Observer,
        checkpoints: Checkpoints,
        mailboxes: Mapping[int, OnTheWire],
    ) -> None:
        self.plan = plan
        self.checkpoints = checkpoints
        self.mailboxes = mailboxes
        self.observer = observer
        self.dispatcher = Dispatcher(RunShape.of(plan), algorithm, observer, self._send_model, self._dismiss)
        self.error: BaseException | None = None
        self.done = os.eventfd(0)
        self.heard: dict[int, float] = {}
        self._pushed_buffers: dict[int, Tensor] = {}  # the running statistics (B,) of each worker's last push
        if checkpoints.engine is not None:
            self.dispatcher.restore(checkpoints.engine)
            self._pushed_buffers = checkpoints.engine["pushed_buffers"]
        self.taking_part = self._unfinished_workers()
        self.awaited = set(self.taking_part)  # workers that have not joined yet
        self._training = set(self.taking_part)
        self._here: set[int] = set()  # workers that have joined and not said goodbye
        self._goodbyes = threading.Condition()
        self._replies: dict[int, torch.futures.Future[Answer]] = {}
        self._start: float | None = None  # None until all have joined
        self._lock = threading.Lock()
        self._closed = False

    @property
    def _seconds(self) -> float:
        if self._start is None:
            return self.observer.seconds
        return time.perf_counter() - self._start - self.observer.paused_seconds

    def _unfinished_workers(self) -> set[int]:
        here = self.dispatcher.computing | self.dispatcher.waiting
        return here if self.dispatcher.started else set(self.plan.steps)

    def terms(self, worker: int) -> Terms:
        """The terms on which a worker joins."""
        pushed = self.dispatcher.progress.pushed.get(worker, 0)
        return Terms(self.plan.threads_per_gradient, pushed, self._pushed_buffers.get(worker))

    def _state(self) -> dict[str, Any]:
        return self.dispatcher.state() | {"pushed_buffers": self._pushed_buffers}

    def join(self, worker: int, settings: dict[str, object]) -> torch.futures.Future[Answer]:
        """Admit a worker; the future resolves to its first model. A worker with other settings aborts the run."""
        reply = torch.futures.Future()
        self._here.add(worker)
        with self._lock:
            for name, value in shared_settings(self.plan).items():
                if settings.get(name) != value:
                    reason = f"Worker_{worker} was started with {name} {settings.get(name)}, the server with {value}"
                    if self.awaited and not self._closed:
                        self._fail(DataError(reason))
                    reply.set_result(Refusal(reason))
                    return reply
            if worker not in self.taking_part and not self._closed:
                reply.set_result(None)  # it had left before the run was interrupted
                return reply
            if worker in self.dispatcher.lost and not self._closed:
                reply.set_result(Refusal("the run continues without this worker"))
                return reply
            if worker not in self.awaited or self._closed:
                reply.set_result(Refusal(f"Worker_{worker} has already joined", is_twin=True))
                return reply
            self.heartbeat(worker)
            self._replies[worker] = reply
            self.awaited.remove(worker)
            if self.plan.config.rank is not None:
                print(f"Worker_{worker} has joined", flush=True)
            with self._errors_fail_the_run():
                self._start_when_all_are_there()
        return reply

    def _start_when_all_are_there(self) -> None:
        if not self.awaited and self._start is None:
            self._start = time.perf_counter() - self.observer.seconds - self.observer.paused_seconds
            self.dispatcher.start()

    @property
    def is_over(self) -> bool:
        """Whether the run has ended as it should."""
        return self.error is None and self.dispatcher.ended_by is not None

    def heartbeat(self, worker: int) -> bool:
        """Record a sign of life from a worker; returns whether the run is over."""
        self.heard[worker] = time.monotonic()
        return self.is_over

    def exchange(self, push: Push) -> torch.futures.Future[Answer]:
        """Take one gradient; the future resolves to the next model, or None after the worker's last gradient."""
        self.heartbeat(push.worker)
        reply = torch.futures.Future()
        with self._lock:
            over = self._closed or self.error is not None or self.dispatcher.ended_by is not None
            if over or push.worker not in self._training:
                reply.set_result(self._last_answer() if over else Refusal("the run continues without this worker"))
                return reply
            self._replies[push.worker] = reply
            with self._errors_fail_the_run():
                opened = self.mailboxes[push.worker].open_push(push)
                if len(opened.buffers):
                    self._pushed_buffers[push.worker] = opened.buffers
                self.dispatcher.push(self._seconds, opened)
                if self.dispatcher.ended_by is None:
                    self.checkpoints.offer(self._state)
        return reply

    def _send_model(self, worker: int, snapshot: Snapshot) -> None:
        if self._start is not None:  # else a loss released it, and it fetches when all have joined
            self._replies.pop(worker).set_result(self.mailboxes[worker].post_snapshot(snapshot))

    def _dismiss(self, worker: int) -> None:
        """A worker that still computes when the run ends has no reply to wait for: its next push gets this answer."""
        if reply := self._replies.pop(worker, None):
            reply.set_result(None)
        elif worker in self.awaited:  # a loss released it, and it has nothing left to do when it joins
            self.awaited.remove(worker)
            self.taking_part.remove(worker)
        self._leave(worker)

    def _leave(self, worker: int) -> None:
        self._training.discard(worker)
        if not self._training:
            os.eventfd_write(self.done, 1)

    @contextmanager
    def _errors_fail_the_run(self) -> Iterator[None]:
        """An error in a worker's call, such as a full disk, ends the run; `close` reports it to those that wait."""
        try:
            yield
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        os.eventfd_write(self.done, 1)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP make `done` readable, and raise KeyboardInterrupt only at the end of the context.

        They strike between the steps of the main thread, so that what `interrupt` saves is consistent.
        """
        received: list[int] = []

        def interrupt(number: int, frame: Any) -> None:
            received.append(number)
            os.eventfd_write(self.done, 1)

        with interruptions_to(interrupt):
            yield
        if received:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """End the run with a checkpoint, so that nothing is lost, if training has begun."""
        with self._lock:
            try:
                if self._start is not None and self.error is None and self.dispatcher.ended_by is None:
                    self.checkpoints.write(self._state())
            finally:
                self.error = self.error or DataError("the server was interrupted")

    def check_time(self) -> None:
        """End the run if its time is over."""
        with self._lock:
            if self._start is not None and not self._closed and self.error is None and self._training:
                self.dispatcher.check_time(self._seconds)

    def warn(self, text: str) -> None:
        """Print a warning and write it to the log."""
        with self._lock:
            self.observer.warn(self._seconds, text)

    def lose(self, worker: int, how: str) -> None:
        """Handle the loss of a worker. Raises WorkerLostError if the run needs it, StalledError if all others wait."""
        with self._lock:
            if worker not in self._training:
                return
            self.say_goodbye(worker)
            self._replies.pop(worker, None)
            self.dispatcher.lose(self._seconds, worker, how)
            self._leave(worker)
            self.awaited.discard(worker)
            self._start_when_all_are_there()

    def silent(self, seconds: float) -> list[int]:
        """The workers in training whose last heartbeat is older than this."""
        with self._lock:  # behind any pushes that are waiting for the lock
            now = time.monotonic()
            return [worker for worker, heard in list(self.heard.items())
                    if worker in self._training and now - heard > seconds]  # fmt: skip

    def say_goodbye(self, worker: int) -> None:
        """A worker has received its last answer, or is lost."""
        with self._goodbyes:
            self._here.discard(worker)
            self._goodbyes.notify()

    def wait_for_goodbyes(self, seconds: float) -> None:
        """Wait until all workers that joined have said goodbye, or until the timeout."""
        with self._goodbyes:
            self._goodbyes.wait_for(lambda: not self._here, seconds)

    def close(self) -> None:
        """Accept no more calls, so that the model no longer changes, and answer waiting workers with the reason."""
        with self._lock:  # released afterwards: a push waiting for it would keep RPC from shutting down
            self._closed = True
            for reply in self._replies.values():
                reply.set_result(self._last_answer())
            self._replies.clear()
            os.close(self.done)

    def _last_answer(self) -> Answer:
        return None if self.is_over else Refusal(f"the run was aborted: {self.error}")
