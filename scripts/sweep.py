"""Execute the runs planned by a driver, several in parallel; called by scripts/lib.sh.

Reads one command of this suite per line from stdin. The first word is the proof that the run is done. Training runs:
"row" (a row in trials.jsonl) or "files" (the log as well); other scripts: the last file that they write, or "-" to
always run them. A file is a proof only for the flags and the content of the files that it was made from, which a hidden
file beside it holds. Each run is forked from this process, which has already imported torch. Runs that are done are
skipped; if a run fails, the others continue.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
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
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TextIO

from analysis.reports.trials import Trial, Trials, header_of
from interface.command_line import ArgumentParser, Interval, count, run_script
from interface.errors import DataError
from interface.files import make_folder
from interface.processes import available_cores, end_with
from scripts.estimate import in_words, total_seconds
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


@functools.cache
def parser_of(mode: str) -> ArgumentParser:
    """The parser of a training script."""
    return make_parser(mode, "")


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
        config = RunConfig(mode=mode, **vars(parser_of(mode).parse_args(words[1:]))) if mode else None
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
            return self._has_row(trials) and (self.proof == "row" or self.has_log())
        try:
            return Path(self.proof).exists() and self.origin.read_text() == self.fingerprint()
        except OSError:
            return False

    def _has_row(self, trials: Trials) -> bool:
        """Whether there is a row, of a run with this seed, and of the run that wrote the log, if there is one."""
        trial = trials.rows.get(self.name)
        return trial is not None and trial.config.seed == self.config.seed and not trials.is_outdated(self.log)

    def has_log(self) -> bool:
        """Whether there is the log of a run with this seed: one without a seed has the name of the default seed."""
        return self.log.exists() and header_of(self.log).get("config", {}).get("seed") == self.config.seed

    @property
    def origin(self) -> Path:
        """The file that holds the fingerprint of what the proof was made from."""
        proof = Path(self.proof)
        return proof.with_name(f".{proof.name}.origin")

    def fingerprint(self) -> str:
        """A digest of the command and the content of its input files."""
        digest = hashlib.sha256(self.command.encode())
        for word in self.words[1:]:
            if Path(word).is_file():
                with Path(word).open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return digest.hexdigest()


def execute(run: PlannedRun, trials: Trials, output: int, parent: int) -> None:
    """Execute a run in a forked process and measure the trained model; `output`: file descriptor for its output."""
    os.setpgrp()  # Ctrl-C reaches only the sweep, which terminates its runs
    end_with(parent, signal.SIGTERM)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.getLogger().handlers.clear()  # the script adds its own
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    sys.argv = [str(ROOT / run.words[0]), *run.words[1:]]
    fingerprint = "" if run.config or run.proof == "-" else run.fingerprint()
    if not run.config or not run.has_log():
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    if run.config:
        import torch

        torch.set_num_threads(available_cores())
        trials.add(Trial.of(run.log, run.config.data_dir))
    elif fingerprint and Path(run.proof).exists():
        run.origin.write_text(fingerprint)


def warm_up(runs: list[PlannedRun]) -> None:
    """Import the modules and read the data sets that the runs need, once for all of them."""
    import torch

    from common import load_dataset

    torch.set_num_threads(1)  # a process that forks must not have a thread pool
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    configs = [run.config for run in runs if run.config]
    for data in {(config.dataset, config.data_dir, config.changed_data) for config in configs}:
        with suppress(DataError):  # each run will report it
            load_dataset(*data)


class Sweep:
    """Executes runs in parallel and collects the failures."""

    def __init__(self, runs: list[PlannedRun], trials: Trials) -> None:
        self.trials = trials
        self.waiting = [run for run in runs if not run.is_done(trials)]
        self.total, self.skipped = len(runs), len(runs) - len(self.waiting)
        self.failures: list[str] = []
        self.ended = 0
        self._interrupted = False
        self._running: dict[multiprocessing.Process, tuple[PlannedRun, TextIO]] = {}
        self._started = time.monotonic()

    def finish(self, jobs: int) -> None:
        """Execute all waiting runs, `jobs` at a time."""
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no monitor thread: this process forks
        warm_up(self.waiting)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # one raised in a finaliser would be lost
            if signal.getsignal(number) is not signal.SIG_IGN:
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
        verdict = ""
        if process.exitcode:
            verdict = f"  FAILED: {self._fail(run, process.exitcode, output)}"
        elif not run.config and run.proof != "-" and not Path(run.proof).exists():
            verdict = f"  nothing written: {last_line(output)}"
        output.close()
        return f"{place}/{self.total}  {time_left(left)} left  {run.name}{verdict}"

    def _fail(self, run: PlannedRun, code: int, output: TextIO) -> str:
        reason = signal.Signals(-code).name if code < 0 else last_line(output, marked=": error: ")
        self.failures.append(f"{run.command}\n    exit code {code}: {reason}")
        return reason

    def _stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.join()


def last_line(output: TextIO, marked: str = "") -> str:
    """The last line of an output that contains a mark, or if none does, the last one."""
    output.seek(0)
    lines = [line for line in output.read().split("\n") if line.strip()]
    return ([line for line in lines if marked in line] or lines or ["without a message"])[-1]


def time_left(seconds: float) -> str:
    """A duration in the format of tqdm: 01:23, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


@contextmanager
def alone_in(folders: Iterable[Path]) -> Iterator[None]:
    """Keep other sweeps out of these folders. Raises DataError if one is at work in any of them."""
    with ExitStack() as stack:
        for folder in dict.fromkeys(make_folder(folder).resolve() for folder in folders):
            lock = os.open(folder, os.O_RDONLY)  # the folder itself, so that no file is left behind
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"{folder}: another sweep is at work in this folder; wait for its end") from error
            except OSError:  # a file system that cannot lock folders
                logging.warning("%s cannot be locked: start no other sweep there", folder)
        yield


def parse_plan(lines: Iterable[str]) -> list[PlannedRun]:
    """The runs of a plan, without duplicates."""
    runs = (PlannedRun.parse(line) for line in lines if line.strip())
    return list({run.name: run for run in runs}.values())


def print_plan(runs: list[PlannedRun], trials: Trials, jobs: int, verbose: bool) -> None:
    """How many runs a plan has, how many are done, and how long the rest takes; verbose: the commands as well."""
    waiting = [run for run in runs if not run.is_done(trials)]
    if verbose:
        for run in runs:
            print(f"{run.command}{'' if run in waiting else '  # done'}")
    duration = total_seconds([run.config for run in waiting if run.config], jobs) if waiting else None
    estimate = f", {in_words(duration)} with --jobs {jobs}" if duration and all(run.config for run in waiting) else ""
    print(f"{count(len(runs), 'run')}: {len(runs) - len(waiting)} done, {len(waiting)} to do{estimate}")


def execute_all(runs: list[PlannedRun], summary_dir: Path, jobs: int) -> int:
    """Execute the runs that are not done, and print what failed; returns how many did."""
    with alone_in([summary_dir, *(Path(run.config.subfolder) for run in runs if run.config)]):
        sweep = Sweep(runs, Trials(summary_dir))
        print(f"{count(sweep.total, 'run')}, {sweep.skipped} already done", flush=True)
        sweep.finish(jobs)
    if sweep.failures:
        print(f"{len(sweep.failures)} of {count(sweep.total, 'run')} failed:", *sweep.failures, sep="\n  ")
    return len(sweep.failures)


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--jobs", type=Interval(int, "[1,inf)"), default=1, metavar="N", help="runs in parallel (default 1)")
    add("--dry_run", action="store_true", help="only tell how many runs there are, and how long they take")
    add("--verbose", action="store_true", help="with --dry_run: print the commands as well")
    add("--names", action="store_true", help="only print the names of the runs")
    add("--summary_dir", type=Path, required=True, metavar="DIR", help="folder of trials.jsonl")
    arguments = parser.parse_args()
    sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")  # as paths are
    runs = parse_plan(sys.stdin)
    if arguments.names:
        print(*(run.name for run in runs), sep="\n")
    elif arguments.dry_run:
        print_plan(runs, Trials(arguments.summary_dir), arguments.jobs, arguments.verbose)
    elif execute_all(runs, arguments.summary_dir, arguments.jobs):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
