"""Available cores, and forked processes that end whenever their parent does."""

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
from contextlib import suppress
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess

from interface.errors import UsageError

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int, signal_number: int) -> None:
    """Have the kernel send this signal when the process `parent` ends; to be called first in a forked process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it died before this process could request the signal
        os._exit(1)


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
            f"--clock virtual, which runs in one process"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def fork_context() -> ForkContext:
    """For processes that share the objects of this one in memory; to be called right before they are forked.

    Garbage collection writes to every object that it examines, which copies it; from now on it examines new ones only.
    """
    gc.freeze()
    return multiprocessing.get_context("fork")


def detach_from_terminal(parent: int) -> None:
    """Ignore Ctrl-C and hang-ups, and end with the process `parent`; to be called first in a forked process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent, signal.SIGKILL)


def yield_to_parent() -> None:
    """Let the short bursts of the process that forked this one come first; where that is not allowed, it waits more."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def exit_reason(process: BaseProcess) -> str:
    """How a process that has ended did so."""
    process.join()
    code = process.exitcode
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
