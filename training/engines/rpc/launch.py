"""The wall clock: one process per rank over PyTorch RPC.

In a local run, the launching process is the parameter server, rank 0. It forks the workers before any multi-threaded
tensor work, so that they share its code and data without a copy. They rendezvous through a temporary file, communicate
only over the loopback interface, and pass tensors through shared memory. With --rank, each process is started
separately, on any machine, and all rendezvous at the master address.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed.rpc.functions import async_execution

from common import Samples, build_model
from interface.errors import DataError
from interface.processes import FORK, allow_open_files, available_cores, exit_reason, yield_to_parent
from training.algorithms import Algorithm
from training.checkpoints import Checkpoints
from training.config import RunConfig
from training.engines.rpc.agents import (
    RENDEZVOUS_SECONDS,
    SERVER,
    DistantServer,
    ask,
    check_loopback,
    check_own_address,
    join_star,
    leave,
    url_of,
    use_interface_towards,
    wait_for_server,
)
from training.engines.rpc.coordinator import Answer, Coordinator, Refusal, Terms, shared_settings
from training.engines.rpc.mailbox import Mailbox, OnTheWire
from training.observer import Observer
from training.plan import Plan
from training.protocol import Push, Snapshot

SERVER_THREADS = 1  # for the pushes in a local run; more would wait for each other
OPEN_FILES, OPEN_FILES_PER_WORKER = 64, 6  # of the server: connections, and one per process
WATCH_SECONDS = 1  # between checks of the workers
EXIT_SECONDS = 10  # how long a process may take to exit after the run


# The target of remote calls: RPC can only call module-level functions.
_coordinator: Coordinator


@async_execution
def _join(worker: int, settings: dict[str, object]) -> torch.futures.Future[Answer]:
    return _coordinator.join(worker, settings)


@async_execution
def _exchange(push: Push) -> torch.futures.Future[Answer]:
    return _coordinator.exchange(push)


def _terms(worker: int) -> Terms:
    return _coordinator.terms(worker)


def _heartbeat(worker: int) -> bool:
    return _coordinator.heartbeat(worker)


def _say_goodbye(worker: int) -> None:
    _coordinator.say_goodbye(worker)


# ----------------------------------------------------------------------------------------------------
# The server, rank 0
# ----------------------------------------------------------------------------------------------------


def check_machine(config: RunConfig) -> None:
    """Raise UsageError or DataError if this machine cannot run the server: open files, loopback interface, address."""
    needed = OPEN_FILES + OPEN_FILES_PER_WORKER * config.workers
    allow_open_files(needed, f"--world_size {config.world_size}")
    if config.rank is None:
        check_loopback()
    else:
        check_own_address(config.master_addr)


def train(plan: Plan, samples: Samples, algorithm: Algorithm, observer: Observer, checkpoints: Checkpoints) -> None:
    """Train to the end as the server; in a local run, also start and stop the workers.

    Raises WorkerLostError, which names the worker, or StalledError if the run cannot be completed.
    """
    if plan.config.rank is not None:
        mailboxes = dict.fromkeys(plan.steps, OnTheWire())
        _train_with_distant_workers(Coordinator(plan, algorithm, observer, checkpoints, mailboxes))
        return
    server = algorithm.server
    mailboxes = {worker: Mailbox(server.parameters, server.buffers, algorithm.keeps_gradients) for worker in plan.steps}
    os.environ["TP_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory(prefix="rendezvous-") as folder:
        rendezvous = f"file://{Path(folder) / 'store'}"
        coordinator = Coordinator(plan, algorithm, observer, checkpoints, mailboxes)
        workers = _start_workers(coordinator, samples, rendezvous)
        try:
            _train_with_own_workers(coordinator, rendezvous, workers)
        finally:
            for process in workers.values():
                process.kill()
            for process in workers.values():
                process.join()
            torch.set_num_threads(available_cores())


def _start_workers(coordinator: Coordinator, samples: Samples, rendezvous: str) -> dict[int, BaseProcess]:
    sys.stdout.flush()
    sys.stderr.flush()
    workers = {
        number: FORK.Process(
            target=_worker_main,
            args=(coordinator.plan, samples, number, rendezvous, coordinator.mailboxes[number]),
            name=f"Worker_{number}",
            daemon=True,
        )
        for number in sorted(coordinator.taking_part)
    }
    for process in workers.values():
        process.start()
    return workers


def _train_with_own_workers(coordinator: Coordinator, rendezvous: str, workers: dict[int, BaseProcess]) -> None:
    global _coordinator
    _coordinator = coordinator
    running = {process.sentinel: worker for worker, process in workers.items()}
    stopped: set[int] = set()
    join_star(SERVER, 0, rendezvous, SERVER_THREADS)
    try:
        interval = watch_interval(coordinator.plan)
        with coordinator.interruptible():
            while coordinator.done not in (ready := wait_for_any([coordinator.done, *running], interval)):
                coordinator.check_time()
                for sentinel in ready:
                    worker = running.pop(sentinel)
                    coordinator.lose(worker, exit_reason(workers[worker]))
                now_stopped = {worker for worker in running.values() if _is_stopped(workers[worker])}
                for worker in sorted(now_stopped - stopped):
                    coordinator.warn(f"Worker_{worker} is stopped (SIGSTOP): waiting for it")
                stopped = now_stopped
        if coordinator.error is not None:
            raise coordinator.error
        coordinator.dispatcher.check_complete()
        wait_until = time.monotonic() + EXIT_SECONDS
        for process in workers.values():  # they still have to receive their last answer
            process.join(max(0.0, wait_until - time.monotonic()))
    except KeyboardInterrupt:
        coordinator.interrupt()
        raise
    finally:
        coordinator.close()
        leave()


def watch_interval(plan: Plan) -> float:
    """Seconds between two checks of the workers and the clock."""
    return WATCH_SECONDS if plan.config.max_seconds is None else WATCH_SECONDS / 10


def _is_stopped(process: BaseProcess) -> bool:
    with suppress(OSError):  # it may have ended just now
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _train_with_distant_workers(coordinator: Coordinator) -> None:
    global _coordinator
    _coordinator = coordinator
    plan = coordinator.plan
    print(f"Waiting for {plan.config.workers} workers at {_master(plan)}", flush=True)
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    use_interface_towards(plan.config.master_addr)
    # One thread per worker for pushes, and one that is always free for heartbeats.
    join_star(SERVER, 0, _master(plan), len(plan.steps) + 1)
    try:
        interval = min(watch_interval(plan), plan.config.peer_timeout / 4)
        with coordinator.interruptible():
            while coordinator.done not in wait_for_any([coordinator.done], interval):
                coordinator.check_time()
                for worker in coordinator.silent(plan.config.peer_timeout):
                    coordinator.lose(worker, f"silent for {plan.config.peer_timeout:g} s")
                if coordinator.awaited and time.monotonic() > deadline:
                    for worker in sorted(coordinator.awaited):
                        coordinator.lose(worker, f"did not join within {RENDEZVOUS_SECONDS} s")
        if coordinator.error is not None:
            raise coordinator.error
        coordinator.dispatcher.check_complete()
    except KeyboardInterrupt:
        coordinator.interrupt()
        raise
    except BaseException as error:
        coordinator.error = error  # the reason that the workers report
        raise
    finally:
        coordinator.close()
        coordinator.wait_for_goodbyes(plan.config.peer_timeout)  # their last answers are still on the way
        leave()
        torch.set_num_threads(available_cores())


# ----------------------------------------------------------------------------------------------------
# A worker, rank 1…N
# ----------------------------------------------------------------------------------------------------


def _worker_main(plan: Plan, samples: Samples, number: int, rendezvous: str, mailbox: Mailbox) -> None:
    """The main function of a worker process forked by the server."""
    yield_to_parent()
    join_star(f"Worker_{number}", number, rendezvous, threads=1)
    try:
        _raise_if_refused(_work(plan, samples, number, mailbox, ask))
    except DataError:  # the server reports why the run ended, or is gone
        sys.exit(1)
    leave()


def work(plan: Plan, samples: Samples) -> None:
    """Run the worker given by --rank, for a server on any machine.

    Raises DataError if the server is lost or refuses this worker.
    """
    number, address, port = plan.config.rank, plan.config.master_addr, plan.config.master_port
    print(f"Waiting for the server at {_master(plan)}", flush=True)
    wait_for_server(address, port)
    use_interface_towards(address)
    join_star(f"Worker_{number}", number, _master(plan), threads=1)
    server = DistantServer(number, _heartbeat, plan.config.peer_timeout)
    try:
        refusal = _work(plan, samples, number, OnTheWire(), server.ask)
        if refusal is None or not refusal.is_twin:
            with suppress(DataError):  # the server may already have left
                server.ask(_say_goodbye, number)
    except DataError:
        if not server.run_is_over:
            raise
        refusal = None  # it did not wait for a gradient that takes longer than its patience
    finally:
        server.leave()
        leave()
    _raise_if_refused(refusal)


def _master(plan: Plan) -> str:
    return url_of(plan.config.master_addr, plan.config.master_port)


def _raise_if_refused(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise DataError(refusal.reason)


def _work(
    plan: Plan, samples: Samples, number: int, mailbox: OnTheWire, ask_server: Callable[..., Any]
) -> Refusal | None:
    terms = ask_server(_terms, number)
    torch.set_num_threads(terms.threads)
    worker, delays = plan.worker(number), plan.delays(number)
    model = build_model(plan.config.dataset, plan.config.network_name)
    if terms.pushed:
        worker.skip(terms.pushed, terms.buffers, model, samples)
        for _ in range(terms.pushed):
            next(delays)
    answer = ask_server(_join, number, shared_settings(plan))
    while isinstance(answer, Snapshot):
        push = worker.compute(mailbox.open_snapshot(answer), model, samples)
        time.sleep(next(delays) / 1000)
        answer = ask_server(_exchange, mailbox.post_push(push))
    return answer
