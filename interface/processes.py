"""Processes that a script forks: they end when it ends, however it ends."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int, signal_number: int) -> None:
    """Called first in a forked process: it gets this signal when the process `parent` is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it died before this process could ask to be told
        os._exit(1)


def obey(parent: int) -> None:
    """Called first in a forked process: `parent` alone, not Ctrl-C, decides from now on when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent, signal.SIGKILL)
