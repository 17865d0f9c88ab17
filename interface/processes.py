"""Processes: the cores that they may use, and forked ones that end when their parent ends, however it ends."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int, signal_number: int) -> None:
    """Called first in a forked process: it gets this signal when the process `parent` is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it died before this process could ask to be told
        os._exit(1)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def detach_from_terminal(parent: int) -> None:
    """Called first in a forked process: Ctrl-C no longer reaches it; it ends when `parent` ends it, or ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent, signal.SIGKILL)
