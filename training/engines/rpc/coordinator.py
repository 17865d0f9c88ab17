"""The server's end of the wire: lets workers in, takes one push at a time, and answers those who are released."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from interface.errors import DataError
from training.algorithms import Algorithm
from training.config import ROWS
from training.engines.dispatcher import Dispatcher
from training.engines.rpc.mailbox import OnTheWire
from training.observer import Observer
from training.plan import Plan
from training.protocol import Push, Snapshot


@dataclass(frozen=True)
class Refusal:
    """The server's answer to a worker that it will not have."""

    reason: str


Answer = Snapshot | Refusal | None  # None: there is nothing more to do


def shared_settings(plan: Plan) -> dict[str, object]:
    """What all processes of a run must agree on."""
    settings = {f"--{name}": getattr(plan.config, name) for name, row in ROWS.items() if not row.local}
    return settings | {"--seed": plan.seed, "data of fingerprint": plan.fingerprint}


class Coordinator:
    """Training starts once every worker that lives has joined; all futures are answers to a worker.

    done: becomes readable when the run is over, well or not; `error` tells why not.
    heard: worker → the time of its last heartbeat, by `time.monotonic`.
    """

    def __init__(
        self, plan: Plan, algorithm: Algorithm, observer: Observer, mailboxes: Mapping[int, OnTheWire]
    ) -> None:
        self.plan = plan
        self.mailboxes = mailboxes
        self.observer = observer
        self.dispatcher = Dispatcher(
            plan.config.algorithm, algorithm, observer, plan.steps, self._send_model, self._dismiss
        )
        self.error: BaseException | None = None
        self.done = os.eventfd(0)
        self.heard: dict[int, float] = {}
        self.awaited = set(plan.steps)  # who has not joined yet
        self._training = set(plan.steps)
        self._here: set[int] = set()  # who came, and did not say goodbye
        self._goodbyes = threading.Condition()
        self._replies: dict[int, torch.futures.Future[Answer]] = {}
        self._start = time.perf_counter()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._start

    def join(self, worker: int, settings: dict[str, object]) -> torch.futures.Future[Answer]:
        """Let a worker in; the future is the model to start from. A worker of another run aborts this one."""
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
            if worker not in self.awaited or self._closed:
                reply.set_result(Refusal(f"Worker_{worker} has already joined"))
                return reply
            self.heartbeat(worker)
            self._replies[worker] = reply
            self.awaited.remove(worker)
            self._start_when_all_are_there()
        return reply

    def _start_when_all_are_there(self) -> None:
        if not self.awaited:
            self._start = time.perf_counter()
            self.dispatcher.start()

    def heartbeat(self, worker: int) -> None:
        """A worker is alive."""
        self.heard[worker] = time.monotonic()

    def exchange(self, push: Push) -> torch.futures.Future[Answer]:
        """Take one gradient; the future is the model to go on with, or None after the worker's last gradient."""
        self.heartbeat(push.worker)
        reply = torch.futures.Future()
        with self._lock:
            if self._closed or push.worker not in self._training:
                reply.set_result(
                    self._abort_reason() if self._closed else Refusal("the run goes on without this worker")
                )
                return reply
            self._replies[push.worker] = reply
            try:
                self.dispatcher.push(self._seconds, self.mailboxes[push.worker].open_push(push))
            except BaseException as error:  # of the observer's: a full disk, say
                self._fail(error)  # those who wait for an answer learn it from `close`
        return reply

    def _send_model(self, worker: int, snapshot: Snapshot) -> None:
        self._replies.pop(worker).set_result(self.mailboxes[worker].post_snapshot(snapshot))

    def _dismiss(self, worker: int) -> None:
        self._replies.pop(worker).set_result(None)
        self._leave(worker)

    def _leave(self, worker: int) -> None:
        self._training.discard(worker)
        if not self._training:
            os.eventfd_write(self.done, 1)

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        os.eventfd_write(self.done, 1)

    def warn(self, text: str) -> None:
        """Tell the user and the log."""
        with self._lock:
            self.observer.warn(self._seconds, text)

    def lose(self, worker: int, how: str) -> None:
        """A worker is gone. Raises WorkerLostError if the run needs it, StalledError if everybody waits for it."""
        with self._lock:
            if worker not in self._training:
                return
            self.say_goodbye(worker)
            self._replies.pop(worker, None)
            self.dispatcher.lose(self._seconds, worker, how)
            self._leave(worker)
            if worker in self.awaited:
                self.awaited.remove(worker)
                self._start_when_all_are_there()

    def silent(self, seconds: float) -> list[int]:
        """The workers in training whose last heartbeat is longer ago than that."""
        with self._lock:  # after those whose push waits for its turn
            now = time.monotonic()
            return [worker for worker, heard in self.heard.items()
                    if worker in self._training and now - heard > seconds]  # fmt: skip

    def say_goodbye(self, worker: int) -> None:
        """A worker knows that there is nothing more to do, or never will."""
        with self._goodbyes:
            self._here.discard(worker)
            self._goodbyes.notify()

    def wait_for_goodbyes(self, seconds: float) -> None:
        """Return when all workers that came have said goodbye, or after some seconds."""
        with self._goodbyes:
            self._goodbyes.wait_for(lambda: not self._here, seconds)

    def close(self) -> None:
        """Let nothing more in; afterwards the model changes no more. Who still waits learns why."""
        with self._lock:  # not held beyond: a push that waited for it would keep RPC from shutting down
            self._closed = True
            for reply in self._replies.values():
                reply.set_result(self._abort_reason())
            self._replies.clear()
            os.close(self.done)

    def _abort_reason(self) -> Refusal:
        return Refusal(f"the run was aborted: {self.error}")
