"""Processes that a script forks: they leave Ctrl-C to it, and end when it ends, however it ends."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def obey(parent: int) -> None:
    """Called first in a forked process: from now on the process `parent` alone decides when this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this process could ask to be told
        os._exit(1)
