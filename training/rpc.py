"""Engine 1: one process a rank over PyTorch RPC, on the wall clock.

Of a local run, the launching process is the parameter server, rank 0. It forks the workers before it does
any threaded tensor work, so that they share its code and its data without a copy; they meet over a temporary
file, talk over the loopback interface alone, and leave the tensors of their messages in shared memory. With
--rank, each process is started by hand, on any machine, and all meet at the master's address.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed.rpc as rpc

from common import DataError, Samples, build_model
from interface.processes import obey
from training.mailbox import Mailbox, OnTheWire
from training.names import run_name
from training.observer import Observer
from training.plan import Plan, available_cores
from training.protocol import Push, Snapshot
from training.server import AsyncServer, SyncServer

SERVER = "server"
TIMEOUT_SECONDS = 20 * 24 * 3600  # of any call; torch counts it in 31 bits of milliseconds
SERVER_THREADS = 4  # that take pushes; they only wait for one another
EXIT_SECONDS = 10  # how long a process may take to end once the run is over


Mailboxes = Mapping[int, OnTheWire]  # worker → how its tensors travel


class WorkerLost(DataError):
    """A worker died, and the run cannot go on without it."""


class Coordinator:
    """The server's end of the wire: takes pushes one at a time and answers each with the next model."""

    def __init__(self, plan: Plan, server: AsyncServer | SyncServer, observer: Observer, mailboxes: Mailboxes) -> None:
        self.plan = plan
        self.mailboxes = mailboxes
        self.server = server
        self.observer = observer
        self.start = time.perf_counter()
        self.error: BaseException | None = None
        self.done = os.eventfd(0)
        self._lock = threading.Lock()
        self._closed = False
        self._training = set(plan.steps)
        self._replies: dict[int, torch.futures.Future] = {}

    @property
    def seconds(self) -> float:
        """Since training started."""
        return time.perf_counter() - self.start

    def join(self, worker: int, plan: dict[str, object]) -> Snapshot:
        """The model that `worker` starts from. Raises ValueError, by name, if it was started for another run."""
        for name, value in _essence(self.plan).items():
            if plan[name] != value:
                raise ValueError(f"Worker_{worker} was started with {name} {plan[name]}, the server with {value}")
        with self._lock:
            return self._snapshot_for(worker)

    def _snapshot_for(self, worker: int) -> Snapshot:
        return self.mailboxes[worker].post_snapshot(self.server.fetch(worker))

    def exchange(self, push: Push) -> torch.futures.Future:
        """Take one gradient; the future is the model to go on with, or None behind the worker's last gradient."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the run is over")
            self._replies[push.worker] = reply = torch.futures.Future()
            try:
                self._take(self.mailboxes[push.worker].open_push(push))
            except BaseException as error:  # of the observer's: a full disk, say; it must reach the main thread
                self.error = self.error or error
                os.eventfd_write(self.done, 1)
                raise
            return reply

    def _take(self, push: Push) -> None:
        update = self.server.push(push)
        self.observer.push(self.seconds, push)
        if update is None:
            return
        self.observer.update(self.seconds, update)
        for part in update.pushes:
            if part.step < self.plan.steps[part.worker]:
                self._replies.pop(part.worker).set_result(self._snapshot_for(part.worker))
            else:
                self._leave(part.worker)
                self._replies.pop(part.worker).set_result(None)

    def _leave(self, worker: int) -> None:
        self._training.discard(worker)
        if not self._training:
            os.eventfd_write(self.done, 1)

    def lose(self, worker: int, how: str) -> None:
        """A worker's process ended. Raises WorkerLost if the run needs it."""
        with self._lock:
            if worker not in self._training:
                return
            message = f"Worker_{worker} was lost ({how})"
            if self.plan.config.mode == "sync":
                raise WorkerLost(f"{message}: a synchronous run cannot go on")
            self.observer.lost.append(worker)
            self.observer.warn(self.seconds, f"{message}: going on without it")
            self._leave(worker)
            if not self._training and len(self.observer.lost) == len(self.plan.steps):
                raise WorkerLost(f"{message}, the last one")

    def close(self) -> None:
        """Let nothing more in; afterwards the model changes no more."""
        with self._lock:  # not held beyond: a push that waited for it would keep RPC from shutting down
            self._closed = True
            os.close(self.done)


# The object that remote calls reach: RPC addresses functions of a module, not objects.
_coordinator: Coordinator


def _join(worker: int, plan: dict[str, object]) -> Snapshot:
    return _coordinator.join(worker, plan)


@rpc.functions.async_execution
def _exchange(push: Push) -> torch.futures.Future:
    return _coordinator.exchange(push)


def train(plan: Plan, samples: Samples, server: AsyncServer | SyncServer, observer: Observer) -> None:
    """Train to the end, as the server; of a local run, start and end the workers as well.

    Raises WorkerLost, with the name of the worker, if the run cannot be completed.
    """
    if plan.config.rank is not None:
        mailboxes = dict.fromkeys(plan.steps, OnTheWire())
        _serve(Coordinator(plan, server, observer, mailboxes), _master(plan), {})
        return
    mailboxes = {worker: Mailbox(server.parameters, server.buffers) for worker in plan.steps}
    with tempfile.TemporaryDirectory(prefix="rendezvous-") as folder:
        rendezvous = f"file://{Path(folder) / 'store'}"
        workers = _start_workers(plan, samples, rendezvous, mailboxes)
        try:
            _serve(Coordinator(plan, server, observer, mailboxes), rendezvous, workers)
        finally:
            for process in workers.values():
                process.kill()
            for process in workers.values():
                process.join()


def _essence(plan: Plan) -> dict[str, object]:
    """What all processes of a run must agree on."""
    return {"settings": run_name(plan.config), "seed": plan.seed, "data": plan.fingerprint}


def _master(plan: Plan) -> str:
    return f"tcp://{plan.config.master_addr}:{plan.config.master_port}"


def _start_workers(plan: Plan, samples: Samples, rendezvous: str, mailboxes: Mailboxes) -> dict[int, BaseProcess]:
    context = multiprocessing.get_context("fork")
    sys.stdout.flush()
    sys.stderr.flush()
    workers = {
        number: context.Process(
            target=_live,
            args=(plan, samples, number, rendezvous, mailboxes[number], os.getpid()),
            name=f"Worker_{number}",
        )
        for number in plan.steps
    }
    for process in workers.values():
        process.start()
    return workers


def _serve(coordinator: Coordinator, rendezvous: str, workers: dict[int, BaseProcess]) -> None:
    global _coordinator
    _coordinator, plan = coordinator, coordinator.plan
    # Meeting blocks until everyone is there, and so happens aside: somebody may die on the way.
    met = os.eventfd(0)
    meeting = threading.Thread(target=lambda: (_meet(SERVER, 0, plan, rendezvous), os.eventfd_write(met, 1)))
    meeting.daemon = True
    meeting.start()
    running = {process.sentinel: worker for worker, process in workers.items()}
    while met not in (ready := wait_for_any([met, *running])):
        worker = running[ready[0]]
        raise WorkerLost(f"Worker_{worker} was lost ({_how(workers[worker])}) before training started")
    meeting.join()
    os.close(met)
    coordinator.start = time.perf_counter()
    together = False
    try:
        while coordinator.done not in (ready := wait_for_any([coordinator.done, *running])):
            for sentinel in ready:
                worker = running.pop(sentinel)
                coordinator.lose(worker, _how(workers[worker]))
        if coordinator.error is not None:
            raise coordinator.error
        wait_until = time.monotonic() + EXIT_SECONDS
        for process in workers.values():  # they still have to hear that they are through
            process.join(max(0.0, wait_until - time.monotonic()))
        together = plan.config.rank is not None
    finally:
        coordinator.close()
        rpc.shutdown(graceful=together)
        torch.set_num_threads(available_cores())


def _how(process: BaseProcess) -> str:
    process.join()
    code = process.exitcode
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _meet(name: str, rank: int, plan: Plan, rendezvous: str) -> None:
    """Join the group of processes; returns when all are there."""
    if plan.config.rank is None:
        os.environ["TP_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=SERVER_THREADS if rank == 0 else 1,
        init_method=rendezvous,
        rpc_timeout=TIMEOUT_SECONDS,
        # With more processes than cores, polling shared memory takes the time of those who compute.
        _transports=["uv"],
        _channels=["basic"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own use of its deprecated API
        rpc.init_rpc(name, rank=rank, world_size=plan.config.world_size, rpc_backend_options=options)


def _live(plan: Plan, samples: Samples, number: int, rendezvous: str, mailbox: Mailbox, parent: int) -> None:
    """The life of a worker's process that the server forked."""
    obey(parent)
    with suppress(OSError):  # where it is not allowed, an exchange takes longer
        # Those who compute all the time leave the cores to the short turns of the server.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    _work(plan, samples, number, rendezvous, mailbox)


def work(plan: Plan, samples: Samples) -> None:
    """Be the one worker that --rank names, for a server on some machine."""
    _work(plan, samples, plan.config.rank, _master(plan), OnTheWire())


def _work(plan: Plan, samples: Samples, number: int, rendezvous: str, mailbox: OnTheWire) -> None:
    torch.set_num_threads(plan.threads_per_gradient)
    _meet(f"Worker_{number}", number, plan, rendezvous)
    together = False
    try:
        worker, delays = plan.worker(number), plan.delays(number)
        model = build_model(plan.config.dataset, plan.config.alt_model)
        snapshot = _ask(_join, number, _essence(plan))
        while snapshot is not None:
            push = worker.compute(mailbox.open_snapshot(snapshot), model, samples)
            time.sleep(delays.next_ms() / 1000)
            snapshot = _ask(_exchange, mailbox.post_push(push))
        together = plan.config.rank is not None
    finally:
        rpc.shutdown(graceful=together)


def _ask(function: Callable[..., Any], *arguments: object) -> Snapshot | None:
    """The server's answer."""
    try:
        return rpc.rpc_sync(SERVER, function, args=arguments)
    except RuntimeError as error:  # torch's word for a connection that broke
        raise DataError(f"the server was lost ({str(error).splitlines()[0]})") from error
