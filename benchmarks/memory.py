"""The memory use of a run."""

import math
import time
from collections.abc import Sequence

from benchmarks.measure import Sample, Task
from benchmarks.processes import pss_mib
from benchmarks.suite import running_script

LOOK_INTERVAL = 0.02  # seconds


def peak(task: Task, script: str, flags: Sequence[str] = ()) -> Sample:
    """The peak total PSS, MiB, of all processes of a run."""
    largest = 0.0
    start = time.perf_counter()
    with running_script(task, script, flags) as run:
        while run.process.poll() is None:
            largest = max(largest, pss_mib(run.process.pid))
            time.sleep(LOOK_INTERVAL)
        run.check()
    return Sample(largest, 1000 * (time.perf_counter() - start), math.nan)
