"""How much memory a run takes."""

import math
import time
from collections.abc import Sequence

from benchmarks.measure import Sample, Task
from benchmarks.processes import pss_mib
from benchmarks.suite import running_script

LOOK_INTERVAL = 0.02  # seconds


def peak(task: Task, script: str, flags: Sequence[str] = ()) -> Sample:
    """The largest PSS, MiB, that all processes of a run had together, from its start to its end."""
    largest = 0.0
    start = time.perf_counter()
    with running_script(task, script, flags) as run:
        while run.process.poll() is None:
            largest = max(largest, pss_mib(run.process.pid))
            time.sleep(LOOK_INTERVAL)
        run.check()
    return Sample(largest, 1000 * (time.perf_counter() - start), math.nan)
