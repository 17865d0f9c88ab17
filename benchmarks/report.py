"""Write results as Markdown: the goals, then all numbers, then the machine."""

import itertools
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from benchmarks.experiments import Experiment, Goal
from benchmarks.measure import ROOT, Sample, cores
from interface.processes import cpu_model

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "ray")


@dataclass(frozen=True)
class ExperimentResult:
    """The results of one experiment.

    samples: contestant → one sample per repeat; missing: contestant → why it has no samples.
    """

    experiment: Experiment
    samples: dict[str, list[Sample]]
    missing: dict[str, str]

    def median(self, name: str) -> float:
        """The median value of a contestant."""
        return statistics.median(sample.value for sample in self.samples[name])

    def verdicts(self) -> "list[Verdict]":
        """One verdict per goal."""
        return [Verdict.on(goal, self) for goal in self.experiment.goals]


@dataclass(frozen=True)
class Verdict:
    """A goal and its result.

    peer: the best of the goal's peers; comparisons: one per repeat, between subject and peer; empty, with a reason, if
    one of them is missing.
    """

    goal: Goal
    peer: str
    comparisons: tuple[float, ...]
    reason: str = ""

    @classmethod
    def on(cls, goal: Goal, result: ExperimentResult) -> "Verdict":
        """The verdict on one goal."""
        peers = [name for name in goal.against if name in result.samples]
        if not peers or goal.subject not in result.samples:
            absent = goal.against[0] if not peers else goal.subject
            return cls(goal, " or ".join(goal.against), (), result.missing[absent])
        peer = (max if "≥" in goal.sign else min)(peers, key=result.median)
        pairs = zip(result.samples[goal.subject], result.samples[peer], strict=True)
        return cls(goal, peer, tuple(goal.compare(subject.value, other.value) for subject, other in pairs))

    @property
    def reached(self) -> bool | None:
        """Whether the median comparison meets the goal; None if there is none."""
        return self.goal.is_reached(statistics.median(self.comparisons)) if self.comparisons else None

    def row(self, title: str) -> list[str]:
        """A row of the table of goals."""
        measured, answer = "", f"not measured: {self.reason}"
        if self.comparisons:
            numbers = map(self.goal.text, spread(self.comparisons))
            measured = "**{}** ({} to {})".format(*numbers)
            answer = "reached" if self.reached else "**not reached**"
        subject = title if self.goal.subject in title else f"{title}: {self.goal.subject}"
        return [subject, self.peer, str(self.goal), measured, answer]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    return statistics.median(values), min(values), max(values)


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns except the first are right-aligned."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """A number with four significant digits, or a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def sections(results: Sequence[ExperimentResult]) -> Iterator[str]:
    """The sections of the page: for each row of experiments, its description and all its numbers."""
    for row, experiments in itertools.groupby(results, key=lambda result: result.experiment.row):
        same_row = list(experiments)
        yield f"## {row}\n\n{same_row[0].experiment.about}"
        yield from map(section, same_row)


def section(result: ExperimentResult) -> str:
    """All numbers of one experiment."""
    experiment = result.experiment
    titles = ["", f"{experiment.unit}, median", "min", "max", f"wall, ms per {experiment.piece}",
              f"CPU, ms per {experiment.piece}", "all repeats"]  # fmt: skip
    rows = []
    for contestant in experiment.contestants:
        if contestant.name in result.missing:
            rows.append([contestant.name, *[""] * 5, f"not measured: {result.missing[contestant.name]}"])
            continue
        samples = result.samples[contestant.name]
        values = [sample.value for sample in samples]
        wall = statistics.median(sample.wall_ms for sample in samples)
        cpu = statistics.median(sample.cpu_ms for sample in samples)
        rows.append([contestant.name, *map(number, (*spread(values), wall, cpu)), " ".join(map(number, values))])
    return f"### {experiment.title}\n\n{markdown_table(titles, rows)}"


def report(results: Sequence[ExperimentResult], settings: Sequence[str]) -> str:
    """The whole page; settings: how it was measured, one line each."""
    verdicts = [(result, verdict) for result in results for verdict in result.verdicts()]
    reached = [verdict.reached for _, verdict in verdicts if verdict.reached is not None]
    goals = markdown_table(
        ["what", "against", "goal", "measured: median (min to max)", ""],
        [verdict.row(result.experiment.title) for result, verdict in verdicts],
    )
    parts = [
        "# Benchmarks",
        f"{sum(reached)} of {len(reached)} goals reached.",
        goals,
        "A comparison is between two values of the same repeat: × is the subject's value divided by the peer's, + is "
        "the difference. With several peers, it uses the one with the best median.",
        *sections(results),
        "## How it was measured",
        "\n".join(f"- {line}" for line in settings),
    ]
    return "\n\n".join(parts) + "\n"


# ----------------------------------------------------------------------------------------------------
# The machine
# ----------------------------------------------------------------------------------------------------


def describe_machine() -> list[str]:
    """Time, revision, machine and versions, one line each."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "KMP_", "MKL_"))}
    return [
        f"started {datetime.now().astimezone():%Y-%m-%d %H:%M %z}, load average before {os.getloadavg()[0]:.2f}",
        f"revision {revision()}",
        f"{cpu_model()}, {cores()} cores for these processes, {memory_gib():.0f} GiB of memory",
        f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        ", ".join(f"{package} {installed(package)}" for package in PACKAGES),
        "OpenMP and MKL variables: " + (", ".join(f"{name}={value}" for name, value in variables.items()) or "none"),
    ]


def revision() -> str:
    """The revision as in the suite's logs, read in a separate process because its module imports torch."""
    command = [sys.executable, "-c", "from training.record.writer import revision; print(revision())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or "unknown"


def memory_gib() -> float:
    """Physical memory, GiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def installed(package: str) -> str:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
