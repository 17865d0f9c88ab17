"""The start-up time of a run."""

import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.measure import MeasurementFailedError, Sample, Stopwatch, Task
from benchmarks.processes import cpu_seconds, running
from benchmarks.suite import running_script

LOOK_INTERVAL = 0.005  # seconds


def first_update(task: Task, script: str, flags: Sequence[str] = ()) -> Sample:
    """Seconds from launching a command until the first update in its log; the run is then killed."""
    start = time.perf_counter()
    with running_script(task, script, flags) as run:
        while not run.has_begun():
            if run.process.poll() is not None:
                run.check()
                raise MeasurementFailedError("the run ended before its first update was seen")
            time.sleep(LOOK_INTERVAL)
        seconds, cpu = time.perf_counter() - start, cpu_seconds(run.process.pid)
    return Sample(seconds, 1000 * seconds, 1000 * cpu)


def import_torch(task: Task) -> Sample:
    """Seconds taken by a process that only imports torch and torchvision."""
    stopwatch = Stopwatch()
    with running([sys.executable, "-c", "import torch, torchvision"], stderr=subprocess.DEVNULL) as process:
        if process.wait():
            raise MeasurementFailedError(f"exit code {process.returncode}")
    seconds, cpu = stopwatch.read()
    return Sample(seconds, 1000 * seconds, 1000 * cpu)
