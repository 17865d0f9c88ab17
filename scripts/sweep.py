"""Execute the runs planned by a driver, several in parallel; called by scripts/lib.sh.

Reads one command of this suite per line from stdin. The first word is the proof that the run is done. Training runs:
"row" (a row in trials.jsonl) or "files" (the log as well); other scripts: the last file that they write, or "-" to
always run them. Each run is forked from this process, which has already imported torch. Runs that are done are skipped;
if a run fails, the others continue.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import runpy
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from analysis.reports.trials import Trial, Trials
from interface.command_line import ArgumentParser, Interval, run_script
from interface.errors import DataError
from interface.processes import available_cores, end_with
from training.config import RunConfig, make_parser
from training.names import run_name

# Read when torch is imported, which happens here before the scripts: see dist_async.py.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

# Modules that the scripts import after reading their flags.
IMPORTED_ONCE = ("kfold", "loss_landscape_multi", "test_model", "evaluation", "training.engines.replay",
                 "training.engines.rpc.launch", "training.engines.virtual", "training.record.writer")  # fmt: skip
WATCH_SECONDS = 0.3  # between checks for a signal

ROOT = Path(__file__).resolve().parent.parent
MODE_OF = {"nonDistributed.py": "classic", "dist_sync.py": "sync", "dist_async.py": "async"}


@dataclass(frozen=True)
class PlannedRun:
    """One command: its script and arguments, the proof that it is done, and the settings of a training run."""

    words: tuple[str, ...]
    proof: str
    config: RunConfig | None = None

    @classmethod
    def parse(cls, line: str) -> PlannedRun:
        """Parse a line of a plan. Raises UsageError if the flags of a training run are not valid."""
        proof, *words = shlex.split(line)
        mode = MODE_OF.get(words[0])
        config = RunConfig(mode=mode, **vars(make_parser(mode, "").parse_args(words[1:]))) if mode else None
        return cls(tuple(words), proof, config)

    @property
    def name(self) -> str:
        """The name of a training run; otherwise the script and its output."""
        if self.config:
            return run_name(self.config)
        return " ".join(self.words) if self.proof == "-" else f"{self.words[0]} → {Path(self.proof).name}"

    @property
    def log(self) -> Path:
        """The path of the log of a complete training run."""
        return Path(self.config.subfolder) / f"{self.name}_log.log"

    @property
    def command(self) -> str:
        """The command line of the run."""
        return shlex.join(["python3", *self.words])

    def is_done(self, trials: Trials) -> bool:
        """Whether the run can be skipped."""
        if self.config:
            return self.name in trials.rows and (self.proof == "row" or self.log.exists())
        return Path(self.proof).exists()


def execute(run: PlannedRun, trials: Trials, output: int, parent: int) -> None:
    """Execute a run in a forked process and measure the trained model; `output`: file descriptor for its output."""
    os.setpgrp()  # Ctrl-C reaches only the sweep, which terminates its runs
    end_with(parent, signal.SIGTERM)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.getLogger().handlers.clear()  # the script adds its own
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.argv = [str(ROOT / run.words[0]), *run.words[1:]]
    if not run.config or not run.log.exists():
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    if run.config:
        import torch

        torch.set_num_threads(available_cores())
        trials.add(Trial.of(run.log, run.config.data_dir))


def warm_up(runs: list[PlannedRun]) -> None:
    """Import the modules and read the data sets that the runs need, once for all of them."""
    import torch

    from common import load_dataset

    torch.set_num_threads(1)  # a process that forks must not have a thread pool
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    for dataset, data_dir in {(run.config.dataset, run.config.data_dir) for run in runs if run.config}:
        with suppress(DataError):  # each run will report it
            load_dataset(dataset, data_dir)


class Sweep:
    """Executes runs in parallel and collects the failures."""

    def __init__(self, runs: list[PlannedRun], trials: Trials) -> None:
        self.trials = trials
        self.waiting = [run for run in runs if not run.is_done(trials)]
        self.total, self.skipped = len(runs), len(runs) - len(self.waiting)
        self.failures: list[str] = []
        self.ended = 0
        self._interrupted = False
        self._running: dict[multiprocessing.Process, tuple[PlannedRun, object]] = {}
        self._started = time.monotonic()

    def finish(self, jobs: int) -> None:
        """Execute all waiting runs, `jobs` at a time."""
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no monitor thread: this process forks
        warm_up(self.waiting)
        for number in (signal.SIGINT, signal.SIGTERM):  # a KeyboardInterrupt raised in a finaliser would be lost
            signal.signal(number, self._interrupt)
        with tqdm(total=self.total, initial=self.skipped, unit=" runs", dynamic_ncols=True, disable=None) as bar:
            try:
                while self.waiting or self._running:
                    while self.waiting and len(self._running) < jobs:
                        self._start(self.waiting.pop(0))
                    wait([process.sentinel for process in self._running], timeout=WATCH_SECONDS)
                    if self._interrupted:
                        raise KeyboardInterrupt
                    for process in [process for process in self._running if process.exitcode is not None]:
                        bar.write(self._end(process), file=sys.stdout)
                        sys.stdout.flush()
                        bar.update()
                    bar.refresh()
            except BaseException:
                self._stop()
                raise

    def _interrupt(self, signal_number: int, frame: object) -> None:
        self._interrupted = True

    def _start(self, run: PlannedRun) -> None:
        output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - `_end` closes it
        arguments = (run, self.trials, output.fileno(), os.getpid())
        process = multiprocessing.get_context("fork").Process(target=execute, args=arguments)
        process.start()
        self._running[process] = run, output

    def _end(self, process: multiprocessing.Process) -> str:
        run, output = self._running.pop(process)
        process.join()
        self.ended += 1
        place = self.skipped + self.ended
        left = (time.monotonic() - self._started) / self.ended * (self.total - place)
        verdict = "" if process.exitcode == 0 else f"  FAILED: {self._fail(run, process.exitcode, output)}"
        output.close()
        return f"{place}/{self.total}  {time_left(left)} left  {run.name}{verdict}"

    def _fail(self, run: PlannedRun, code: int, output: object) -> str:
        output.seek(0)
        lines = [line for line in output.read().split("\n") if line.strip()]
        errors = [line for line in lines if ": error: " in line]
        reason = signal.Signals(-code).name if code < 0 else (errors or lines or ["without an error message"])[-1]
        self.failures.append(f"{run.command}\n    exit code {code}: {reason}")
        return reason

    def _stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.join()


def time_left(seconds: float) -> str:
    """A duration in the format of tqdm: 01:23, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def parse_plan(lines: Iterable[str]) -> list[PlannedRun]:
    """The runs of a plan, without duplicates."""
    runs = (PlannedRun.parse(line) for line in lines if line.strip())
    return list({run.name: run for run in runs}.values())


def print_plan(runs: list[PlannedRun], trials: Trials) -> None:
    """Print the commands of a plan, one per line, and mark those that are done."""
    done = [run.is_done(trials) for run in runs]
    for run, is_done in zip(runs, done, strict=True):
        print(f"{run.command}{'  # done' if is_done else ''}")
    print(f"{len(runs)} runs: {sum(done)} done, {len(runs) - sum(done)} to do")


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--jobs", type=Interval(int, "[1,inf)"), default=1, metavar="N", help="runs in parallel (default 1)")
    add("--dry_run", action="store_true", help="only print the commands")
    add("--names", action="store_true", help="only print the names of the runs")
    add("--summary_dir", type=Path, required=True, metavar="DIR", help="folder of trials.jsonl")
    arguments = parser.parse_args()
    trials = Trials(arguments.summary_dir)
    runs = parse_plan(sys.stdin)
    if arguments.names:
        print(*(run.name for run in runs), sep="\n")
        return
    if arguments.dry_run:
        print_plan(runs, trials)
        return
    sweep = Sweep(runs, trials)
    print(f"{sweep.total} runs, {sweep.skipped} of them already done", flush=True)
    sweep.finish(arguments.jobs)
    if sweep.failures:
        print(f"{len(sweep.failures)} of {sweep.total} runs failed:", *sweep.failures, sep="\n  ")
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
