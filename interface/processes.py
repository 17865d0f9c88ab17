"""The processor, available cores, and forked processes that end whenever their parent does."""

import ctypes
import gc
import multiprocessing
import os
import platform
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from interface.errors import UsageError

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextmanager
def interruptions_to(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have this called at Ctrl-C, SIGTERM and SIGHUP, unless they are ignored, as under nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers
              if signal.getsignal(number) is not signal.SIG_IGN}  # fmt: skip
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def _interruptions_held() -> Iterator[list[int]]:
    """Collect the numbers of signals, and have their handlers called at the end.

    What a handler raises in a hook of os.fork, Python ignores. Blocking the signals would not help: a thread of some
    library would receive them instead, and the handler is called all the same.
    """
    held: list[int] = []
    try:
        with interruptions_to(lambda number, frame: held.append(number)):
            yield held
    finally:
        for number in held:
            signal.raise_signal(number)


class _Process(ForkProcess):
    """A forked process, which ends whenever its parent does, and leaves Ctrl-C and hang-ups to it."""

    def start(self) -> None:
        """Fork the process.

        Garbage collection writes to every object that it examines, which copies it; from now on it examines new ones
        only.
        """
        gc.freeze()
        with _interruptions_held() as self._held:
            super().start()

    def run(self) -> None:
        """The main function of the new process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent(signal.SIGKILL)
        for number in self._held:
            signal.raise_signal(number)
        super().run()


class _Context(ForkContext):
    Process = _Process


FORK = _Context()  # for processes that share the objects of this one in memory


def end_with_parent(signal_number: int) -> None:
    """Have the kernel send this signal to the calling process, which was forked, when its parent ends."""
    signal_at_parents_end(signal_number)
    if os.getppid() != multiprocessing.parent_process().pid:  # it died before this process could request the signal
        os._exit(1)


def signal_at_parents_end(signal_number: int) -> None:
    """Have the kernel send this signal to the calling process when its parent, whatever process that is, ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)


def allow_open_files(needed: int, what: str) -> None:
    """Raise the soft limit of open files to the hard one if more are needed.

    Raises UsageError if that is not enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) or soft >= needed:
        return
    if hard < needed:
        raise UsageError(
            f"{what} needs about {needed} open files, and the limit is {hard}: raise it (ulimit -Hn {needed}), or use "
            f"--clock virtual, which has no processes of workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_model() -> str:
    """The kernel's name for the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def yield_to_parent() -> None:
    """Let the short bursts of the process that forked this one come first; where that is not allowed, it waits more."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def exit_reason(process: BaseProcess) -> str:
    """How a process that has ended did so."""
    process.join()
    code = process.exitcode
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
