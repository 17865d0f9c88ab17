"""CPU time, memory and termination of processes with all their descendants, from proc(5)."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def family(pid: int) -> list[int]:
    """A process and its living descendants."""
    found = [pid]
    for member in found:  # the list grows during the loop
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with suppress(OSError):  # the thread may have ended just now
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its descendants, including those that have ended and been waited for."""
    ticks = 0
    for member in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICKS_PER_SECOND


def pss_mib(pid: int) -> float:
    """Proportional set size of a process and its descendants, MiB: a page shared by n processes counts 1/n in each."""
    kib = 0
    for member in family(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def adopt_orphans() -> None:
    """Make this process the new parent of all its descendants whose parents end."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(pid: int) -> None:
    """Kill all descendants of a process."""
    for member in family(pid)[1:]:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


@contextmanager
def running(command: Sequence[object], **options: object) -> Iterator[subprocess.Popen]:
    """Run a process; it and its descendants are killed on exit from the context."""
    process = subprocess.Popen([*map(str, command)], **{"stdin": subprocess.DEVNULL} | options)
    try:
        yield process
    finally:
        end_descendants(process.pid)
        process.kill()
        process.wait()
