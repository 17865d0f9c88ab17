"""Execute runs in processes that are forked from one that has imported everything and read the data sets: the nursery.

A process that forks must not have threads, and a sweep and a worker of a cluster do. So the nursery is a process of its
own, and any thread may have it execute an order. Each order has a connection; the run ends when the other end closes
it, and all runs end with the process that started the nursery, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

from analysis.reports.trials import Trial
from interface.errors import DataError
from interface.processes import FORK, available_cores, end_with_parent
from training.command_line import ENVIRONMENT
from training.config import RunConfig
from training.names import ARTIFACTS, run_name

ROOT = Path(__file__).resolve().parent.parent
# Modules that the scripts import after reading their flags.
IMPORTED_ONCE = ("kfold", "loss_landscape_multi", "test_model", "common", "evaluation", "training.engines.replay",
                 "training.engines.rpc.launch", "training.engines.virtual", "training.record.writer")  # fmt: skip
START = f"import sys; sys.path[:] = [{str(ROOT)!r}, *filter(None, sys.path)]; import scripts.nursery as n; n.serve()"
GRACE_SECONDS = 5  # for a run that is abandoned, to save what it has, and for the end of a nursery that was killed
WATCH_SECONDS = 0.5  # between checks whether a run is still wanted


@dataclass(frozen=True)
class Order:
    """A run to execute.

    words: its script and arguments; config: of a training run, which is then measured; trained: whether it only has to
    be measured, because its log is there; files: relative path → content, of what the run reads, if it is executed in
    an empty folder; None if it is executed in the working directory; returned: whether its files come back; cores: on
    which a run on the virtual clock computes, to the same bits; None for all.
    """

    words: tuple[str, ...]
    config: RunConfig | None = None
    trained: bool = False
    files: dict[str, bytes] | None = None
    returned: bool = False
    cores: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Report:
    """What came of an order. said: its error, or the last line that it printed; trial: of a training run;
    files: name → content, of those that come back.
    """

    code: int
    said: str
    trial: Trial | None = None
    files: dict[str, bytes] = field(default_factory=dict)


# ----------------------------------------------------------------------------------------------------
# For those who give orders
# ----------------------------------------------------------------------------------------------------


class Nursery:
    """The nursery of this process, which starts with the first order. parallel: whether it gets several at a time."""

    def __init__(self, parallel: bool, environment: dict[str, str] | None = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        # Read when torch is imported, which happens before the scripts could set it: see dist_async.py.
        self._environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        for name in ENVIRONMENT:  # set by torchrun and in some containers: runs of a sweep are local
            self._environment.pop(name, None)
        if parallel:  # threads that spin while they wait would take cores from the other runs
            self._environment.setdefault("GOMP_SPINCOUNT", "0")
        self._lock = threading.Lock()
        self._closed = False
        self._control: socket.socket | None = None
        self._process: subprocess.Popen | None = None

    def execute(self, order: Order, wanted: Callable[[], bool] = lambda: True) -> Report | None:
        """Execute an order; blocks until it is done, or until it is no longer `wanted`: None."""
        connection, process = self._connect()
        with connection:
            try:
                connection.send_bytes(pickle.dumps(order))
                while not connection.poll(WATCH_SECONDS):
                    if not wanted():
                        return None
                return pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                if process:  # which the next order replaces once it has ended
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(GRACE_SECONDS)
                return Report(-signal.SIGKILL, "the process that executes runs was killed")

    def close(self) -> None:
        """End all runs, wait until they have ended, and take no more orders."""
        with self._lock:
            self._closed = True
            if self._process:
                self._control.close()
                try:
                    self._process.wait(2 * GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    pass  # it reads a data set, or downloads one
                finally:
                    self._process.kill()
                    self._process.wait()

    def _connect(self) -> tuple[Connection, subprocess.Popen | None]:
        """A connection for an order, and the process that reads it; nobody does if there is no nursery any more.

        The lock also keeps its other end from a nursery that is started meanwhile.
        """
        ours, theirs = socket.socketpair()
        with self._lock, theirs, contextlib.suppress(OSError):
            if not self._closed:
                if not self._process or self._process.poll() is not None:
                    self._start()
                socket.send_fds(self._control, [b"."], [theirs.fileno()])
        return Connection(ours.detach()), self._process

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=self._environment, start_new_session=True,
            )  # fmt: skip


# ----------------------------------------------------------------------------------------------------
# The process
# ----------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A run that was forked.

    output: of the run; folder: where it is executed, if that is an empty one; deadline: for its end, if nobody waits
    for it any more, in seconds of the monotonic clock.
    """

    process: BaseProcess
    connection: Connection
    output: TextIO
    folder: tempfile.TemporaryDirectory | None
    deadline: float = math.inf

    def abandon(self) -> None:
        """End a run that nobody waits for."""
        self.connection.close()
        self.process.terminate()
        self.deadline = time.monotonic() + GRACE_SECONDS

    def kill_if_late(self) -> None:
        """Kill a run that SIGTERM did not end: it came where Python loses what a signal handler raises."""
        if time.monotonic() > self.deadline:
            self.process.kill()
            self.deadline = math.inf

    def end(self) -> None:
        """Report a failure, and remove the folder; a success, the run has reported itself."""
        self.process.join()
        if code := self.process.exitcode:
            said = signal.Signals(-code).name if code < 0 else last_line(self.output, marked=": error: ")
            answer(self.connection, Report(code, said))
        self.connection.close()
        self.output.close()
        if self.folder:
            self.folder.cleanup()


def serve() -> None:
    """Main function of the nursery. Its argument is the number of the socket for orders, which is closed to end it."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    import torch

    torch.set_num_threads(1)  # a process that forks must not have a thread pool
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    runs: list[Running] = []
    controls = [control]  # until it is closed
    while controls or runs:
        connections = [run.connection for run in runs if not run.connection.closed]
        sentinels = [run.process.sentinel for run in runs]
        ready = wait([*controls, *connections, *sentinels], seconds_until([run.deadline for run in runs]))
        for run in list(runs):
            if run.process.sentinel in ready:
                runs.remove(run)
                run.end()
            elif run.connection in ready:  # it was closed
                run.abandon()
            else:
                run.kill_if_late()
        if control not in ready:
            continue
        if connection := accept(control):
            if run := begin(connection):
                runs.append(run)
        else:
            controls.clear()
            for run in runs:
                if not run.connection.closed:
                    run.abandon()


def seconds_until(deadlines: list[float]) -> float | None:
    """Until the first of these times of the monotonic clock; None if there is none."""
    first = min(deadlines, default=math.inf)
    return None if first == math.inf else max(0.0, first - time.monotonic())


def accept(control: socket.socket) -> Connection | None:
    """The connection of an order; None if there will be no more."""
    message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    return Connection(descriptors[0]) if message else None


def begin(connection: Connection) -> Running | None:
    """Read an order and start its run. None if its sender was killed, or if the run cannot be started."""
    try:
        order = pickle.loads(connection.recv_bytes())
    except (EOFError, OSError):
        connection.close()
        return None
    try:
        return start(order, connection)
    except OSError as error:  # a full disk, or too many processes or open files
        answer(connection, Report(1, str(error)))
        connection.close()
        return None


def start(order: Order, connection: Connection) -> Running:
    """Read the data set that an order needs, and fork its run."""
    from common import load_dataset

    if order.config:
        with contextlib.suppress(DataError):  # which the run will report
            load_dataset(order.config.dataset, order.config.data_dir, order.config.changed_data)
    output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - `Running.end` closes it
    folder = None if order.files is None else tempfile.TemporaryDirectory(prefix="optml-")
    process = FORK.Process(target=execute, args=(order, connection, output, folder and folder.name))
    process.start()
    return Running(process, connection, output, folder)


def execute(order: Order, connection: Connection, output: TextIO, folder: str | None) -> None:
    """Main function of a run's process: execute the script, measure the trained model, and report."""
    os.setpgrp()
    end_with_parent(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    if folder:
        os.chdir(folder)
        for name, content in order.files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)
    before = {path: modified(path) for path in Path().iterdir()} if order.returned else {}
    sys.argv = [str(ROOT / order.words[0]), *order.words[1:]]
    if not order.trained:
        on_share = order.cores and order.config and order.config.clock == "virtual"
        all_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, order.cores if on_share else all_cores)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        os.sched_setaffinity(0, all_cores)
    files = {}
    if order.returned:
        made = [path for path in Path().iterdir() if path.is_file() and modified(path) != before.get(path)]
        files = {path.name: path.read_bytes() for path in made}
    answer(connection, Report(0, last_line(output), measure(order.config) if order.config else None, files))


def modified(path: Path) -> tuple[int, int]:
    """Inode and time of modification of a file, of which one changes when it is written."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def measure(config: RunConfig) -> Trial:
    """The outcome of a run, with its model tested on all cores."""
    import torch

    torch.set_num_threads(available_cores())
    return Trial.of(Path(config.subfolder) / f"{run_name(config)}{ARTIFACTS['log']}", config.data_dir)


def answer(connection: Connection, report: Report) -> None:
    """Send a report, unless nobody waits for it any more."""
    with contextlib.suppress(OSError):
        connection.send_bytes(pickle.dumps(report))


def last_line(output: TextIO, marked: str = "") -> str:
    """The last line of an output that contains a mark, or if none does, the last one."""
    output.seek(0)
    lines = [line for line in output.read().split("\n") if line.strip()]
    return ([line for line in lines if marked in line] or lines or ["without a message"])[-1]
