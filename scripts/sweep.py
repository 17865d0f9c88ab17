"""Execute the runs planned by a driver, several in parallel; called by scripts/lib.sh.

Reads one command of this suite per line from stdin. The first word is the proof that the run is done. Training runs:
"row" (a row in trials.jsonl) or "files" (log, model and saved weights as well); a grid search: "-", because it has a
file of its own; other scripts: the last file that they write. A file is a proof only for the flags and the content of
the files that it was made from, which a hidden file beside it holds. Runs that are done are skipped; if a run fails,
the others continue.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fcntl
import itertools
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from analysis.reports.trials import Trials
from interface.command_line import ArgumentParser, Interval, complain, count, run_script
from interface.errors import DataError, UsageError
from interface.files import atomic_write, make_folder
from interface.processes import interruptions_to, signal_at_parents_end
from scripts.estimate import in_words, total_seconds
from scripts.nursery import ROOT, Nursery, Order, Report
from scripts.plan import PlannedRun, mark_drawn, parse_plan

WATCH_SECONDS = 0.3  # between checks for a signal
# Exit codes; as in lib.sh.
RUNS_FAILED = 3  # some runs did, and the others are done
FILES_GONE = 4  # all runs are done, and what is drawn from their files is here, but not all of the files are


class Pool(Protocol):
    """Where runs are executed. outstanding: how many runs it takes at a time, those that wait their turn included."""

    outstanding: int

    def submit(self, run: PlannedRun) -> Future[Report]:
        """Have a run executed."""

    def result(self, future: Future[Report]) -> Report:
        """What came of a run. Raises DataError if none of them can go on."""

    def close(self) -> None:
        """End all runs."""


class LocalPool:
    """This machine: runs are forked from a nursery of this process, `jobs` at a time, each with its share of cores."""

    def __init__(self, jobs: int) -> None:
        self.outstanding = jobs
        self._shares: SimpleQueue[tuple[int, ...]] = SimpleQueue()
        for share in shares(sorted(os.sched_getaffinity(0)), jobs):
            self._shares.put(share)
        self._nursery = Nursery(parallel=jobs > 1)
        self._threads = ThreadPoolExecutor(jobs)

    def submit(self, run: PlannedRun) -> Future[Report]:
        order = Order(run.words_to_execute, run.config, trained=run.config is not None and run.has_files())
        return self._threads.submit(self._execute, order)

    def _execute(self, order: Order) -> Report:
        share = self._shares.get()
        try:
            return self._nursery.execute(replace(order, cores=share))
        finally:
            self._shares.put(share)

    def result(self, future: Future[Report]) -> Report:
        return future.result()

    def close(self) -> None:
        self._nursery.close()
        self._threads.shutdown()


def shares(cores: Sequence[int], jobs: int) -> list[tuple[int, ...]]:
    """The cores of each of `jobs` runs: as many for each as there are, or all for each of more jobs than cores."""
    return [tuple(cores[job::jobs] if jobs <= len(cores) else cores) for job in range(jobs)]


@dataclass(frozen=True)
class Started:
    """A run under way. fingerprint: of what it was about to read; made: `run.made()` before it."""

    run: PlannedRun
    fingerprint: str
    made: tuple[int, int] | None

    def has_written(self) -> bool:
        """Whether its proof is there, and not that of an earlier run."""
        return self.run.made() not in (None, self.made)


class Sweep:
    """Executes runs in parallel and collects the failures."""

    def __init__(self, runs: list[PlannedRun], trials: Trials) -> None:
        self.trials = trials
        self.waiting = [run for run in runs if not run.is_done(trials)]
        self.total, self.skipped = len(runs), len(runs) - len(self.waiting)
        self.failures: list[str] = []
        self.ended = 0
        self._interrupted = False
        self._running: dict[Future[Report], Started] = {}
        self._started = time.monotonic()

    def finish(self, pool: Pool) -> None:
        """Execute all waiting runs."""
        from tqdm import tqdm

        with (
            interruptions_to(self._interrupt),  # what a handler raises in a finaliser would be lost
            tqdm(total=self.total, initial=self.skipped, unit=" runs", dynamic_ncols=True, disable=None) as bar,
        ):
            while self.waiting or self._running:
                while self.waiting and len(self._running) < pool.outstanding:
                    self._start(self.waiting.pop(0), pool)
                done, _ = concurrent.futures.wait(
                    self._running, timeout=WATCH_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
                )
                if self._interrupted:
                    raise KeyboardInterrupt
                for future in sorted(done, key=Future.cancelled):  # a lost connection cancels all that are not done
                    bar.write(self._end(future, pool.result(future)), file=sys.stdout)
                    sys.stdout.flush()
                    bar.update()
                bar.refresh()

    def _interrupt(self, signal_number: int, frame: object) -> None:
        self._interrupted = True

    def _start(self, run: PlannedRun, pool: Pool) -> None:
        before = Started(run, run.fingerprint(), run.made())
        self._running[pool.submit(run)] = before

    def _end(self, future: Future[Report], report: Report) -> str:
        started = self._running.pop(future)
        run = started.run
        self.ended += 1
        place = self.skipped + self.ended
        left = (time.monotonic() - self._started) / self.ended * (self.total - place)
        verdict = ""
        if report.code:
            self.failures.append(f"{run.command}\n    exit code {report.code}: {report.said}")
            verdict = f"  FAILED: {report.said}"
        else:
            self._record(started, report)
            if not run.config and run.proof != "-" and not started.has_written():
                verdict = f"  nothing written: {report.said}"
        return f"{place}/{self.total}  {time_left(left)} left  {run.name}{verdict}"

    def _record(self, started: Started, report: Report) -> None:
        """Write what came back, the proof that the run is done last."""
        run = started.run
        for name in sorted(report.files, key=run.is_proof):
            with atomic_write(make_folder(run.folder) / name) as unfinished:
                unfinished.write_bytes(report.files[name])
        if report.trial:
            self.trials.add(report.trial)
        elif run.proof != "-" and started.has_written():
            run.origin.write_text(started.fingerprint)


def time_left(seconds: float) -> str:
    """A duration in the format of tqdm: 01:23, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


@contextmanager
def alone_in(folders: Mapping[Path, str]) -> Iterator[None]:
    """Keep other sweeps out of these folders: folder → its flag. Raises DataError if one is at work in any of them."""
    with ExitStack() as stack:
        for folder in dict.fromkeys(make_folder(folder, flag).resolve() for folder, flag in folders.items()):
            lock = os.open(folder, os.O_RDONLY)  # the folder itself, so that no file is left behind
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"{folder}: another sweep is at work in this folder; wait for its end") from error
            except OSError:  # a file system that cannot lock folders
                logging.warning("%s cannot be locked: start no other sweep there", folder)
        yield


def print_plan(
    runs: list[PlannedRun], trials: Trials, jobs: int | None, scheduler: str | None, verbose: bool
) -> None:  # fmt: skip
    """How many runs a plan has, how many are done, and how long the rest takes; verbose: the commands as well."""
    waiting = [run for run in runs if not run.is_done(trials)]
    again = sum(run.config is not None and run.has_row(trials) for run in waiting)
    if verbose:
        for run in runs:
            print(f"{run.command}{'' if run in waiting else '  # done'}")
    configs = [run.config for run in waiting if run.config]
    known = waiting and len(configs) == len(waiting) and scheduler is None
    duration = total_seconds(configs, jobs or 1) if known else None
    estimate = f", {in_words(duration)} with --jobs {jobs or 1}" if duration else ""
    reason = f" ({again} again, for files that are not here)" if again else ""
    print(f"{count(len(runs), 'run')}: {len(runs) - len(waiting)} done, {len(waiting)} to do{reason}{estimate}")


def tell_others(runs: list[PlannedRun], summary_dir: Path) -> None:
    """Say how many runs of a folder are none of these."""
    others = len(Trials(summary_dir).rows.keys() - {run.name for run in runs})
    if others:
        print(f"{summary_dir} has {count(others, 'run')} more, in the tables as well: --results DIR keeps them apart")


def print_names(runs: list[PlannedRun]) -> None:
    """One line per run."""
    print(*(run.name for run in runs), sep="\n")


def open_pool(jobs: int | None, scheduler: str | None, keep: str | None) -> Pool:
    """Where a sweep has its runs executed. Raises UsageError or DataError if that cannot be there."""
    if scheduler is None:
        return LocalPool(jobs or 1)
    try:
        from scripts.cluster import Cluster
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--scheduler {scheduler} needs what is not installed ({error.name}): python3 -m pip install -r "
            f"{ROOT / 'requirements-cluster.txt'}"
        ) from error
    return Cluster(scheduler, jobs or 1, keep == "files")


def execute_all(
    runs: list[PlannedRun], summary_dir: Path, jobs: int | None, scheduler: str | None, keep: str | None
) -> int:
    """Execute the runs that are not done, and print what failed; returns how many did."""
    with alone_in({summary_dir: "--summary_dir"} | {run.folder: "--results" for run in runs if run.config}):
        sweep = Sweep(runs, Trials(summary_dir))
        print(f"{count(sweep.total, 'run')}, {sweep.skipped} already done", flush=True)
        if sweep.waiting:
            with closing(open_pool(jobs, scheduler, keep)) as pool:
                sweep.finish(pool)
    if sweep.failures:
        print(f"{len(sweep.failures)} of {count(sweep.total, 'run')} failed:", *sweep.failures, sep="\n  ")
    return len(sweep.failures)


def add_pool_flags(add: Callable[..., Any]) -> None:
    """The flags that say where runs are executed."""
    jobs, several = "runs in parallel on this machine (default 1)", Interval(int, "[1,inf)")
    scheduler = "address of a Dask cluster that executes the runs; local: one here, of --jobs workers"
    keep = (
        "what comes back from a cluster: the rows of trials.jsonl, or logs, models and weights as well (default rows)"
    )
    add("--jobs", type=several, default=None, metavar="N", help=jobs)
    add("--scheduler", default=None, metavar="ADDRESS", help=scheduler)
    add("--keep", default=None, choices=("rows", "files"), help=keep)


def add_question_flags(add: Callable[..., Any]) -> None:
    """The flags that ask what would be done; then nothing is."""
    add("--dry_run", action="store_true", default=False,
        help="only report how many runs there are, and how long they take")  # fmt: skip
    add("--verbose", action="store_true", default=False, help="with --dry_run: the commands as well")
    add("--names", action="store_true", default=False, help="only print the names of the runs")


def check_pool_flags(jobs: int | None, scheduler: str | None, keep: str | None) -> None:
    """Raise UsageError if they do not fit together."""
    if keep and not scheduler:
        raise UsageError(f"--keep {keep} has no effect without --scheduler: on this machine, all files are kept")
    if jobs and scheduler not in (None, "local"):
        raise UsageError(
            f"--jobs {jobs} has no effect with --scheduler {scheduler}: its workers' threads are the limit"
        )


def check_question_flags(dry_run: bool, verbose: bool) -> None:
    """Raise UsageError if they do not fit together."""
    if verbose and not dry_run:
        raise UsageError("--verbose has no effect without --dry_run")


def make_sweep_parser() -> ArgumentParser:
    """The flags of a sweep."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add_pool_flags(add)
    add_question_flags(add)
    add("--summary_dir", type=Path, required=True, metavar="DIR", help="folder of trials.jsonl")
    add("--drawn", type=Path, default=[], nargs="+", metavar="FILE",
        help="all that is drawn from the files of runs with rows: while it is here, they may be gone")  # fmt: skip
    return parser


def sweep(arguments: argparse.Namespace, lines: Iterable[str]) -> int:
    """Do with a plan what the flags say; returns the exit code."""
    where = {"jobs": arguments.jobs, "scheduler": arguments.scheduler, "keep": arguments.keep}
    check_pool_flags(**where)
    check_question_flags(arguments.dry_run, arguments.verbose)
    runs = parse_plan(lines)
    if arguments.names:
        print_names(runs)
        return 0
    trials = Trials(arguments.summary_dir)
    runs = mark_drawn(runs, trials, arguments.drawn)
    if arguments.dry_run:
        print_plan(runs, trials, arguments.jobs, arguments.scheduler, arguments.verbose)
        return 0
    if execute_all(runs, arguments.summary_dir, **where):
        return RUNS_FAILED
    return FILES_GONE if any(run.drawn for run in runs) else 0


def serve() -> None:
    """Answer one plan after the other, for drivers that are only asked what they would do: see scripts/lib.sh.

    Each starts with a line of flags, and ends with a line "end". So does its answer, with the exit code. A first line
    of "module", a name and arguments asks for what that module would say.
    """
    for flags in sys.stdin:
        lines = list(itertools.takewhile(lambda line: line != "end\n", sys.stdin))
        words = shlex.split(flags)
        code = 0
        try:
            if words[0] == "module":
                sys.argv = words[1:]
                import_module(words[1]).main()
            else:
                sweep(make_sweep_parser().parse_args(words), lines)
        except (UsageError, DataError, OSError) as error:
            code = complain("sweep.py", error, 2 if isinstance(error, UsageError) else 1)
        except SystemExit as refused:  # of an argument parser, which has said why
            code = refused.code
        print(f"end {code}", flush=True)


def main() -> None:
    sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")  # as paths are
    if sys.argv[1:] == ["--serve"]:
        serve()
        return
    arguments = make_sweep_parser().parse_args()
    signal_at_parents_end(signal.SIGTERM)  # that of a driver
    sys.exit(sweep(arguments, sys.stdin))


if __name__ == "__main__":
    run_script(main)
