"""From measurements to Markdown: the goals first, then every number, then the machine."""

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
from pathlib import Path

from benchmarks.experiments import Experiment, Goal
from benchmarks.measure import ROOT, Sample, cores

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "ray")


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    samples: contestant → one a repeat; missing: contestant → why there are none.
    """

    experiment: Experiment
    samples: dict[str, list[Sample]]
    missing: dict[str, str]

    def median(self, name: str) -> float:
        """Of a contestant's values."""
        return statistics.median(sample.value for sample in self.samples[name])

    def verdicts(self) -> "list[Verdict]":
        """One a goal."""
        return [Verdict.on(goal, self) for goal in self.experiment.goals]


@dataclass(frozen=True)
class Verdict:
    """A goal and what was measured.

    peer: the best of those that the goal names; comparisons: one a repeat, of subject and peer measured one after the
    other; empty, with a reason, where one of them is missing.
    """

    goal: Goal
    peer: str
    comparisons: tuple[float, ...]
    reason: str = ""

    @classmethod
    def on(cls, goal: Goal, outcome: Outcome) -> "Verdict":
        """The verdict on one goal."""
        peers = [name for name in goal.against if name in outcome.samples]
        if not peers or goal.subject not in outcome.samples:
            absent = goal.against[0] if not peers else goal.subject
            return cls(goal, " or ".join(goal.against), (), outcome.missing[absent])
        peer = (max if "≥" in goal.sign else min)(peers, key=outcome.median)
        pairs = zip(outcome.samples[goal.subject], outcome.samples[peer], strict=True)
        return cls(goal, peer, tuple(goal.compare(subject.value, other.value) for subject, other in pairs))

    @property
    def reached(self) -> bool | None:
        """Whether the median comparison is enough; None where there is none."""
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
    """Columns of numbers, which are all but the first, to the right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Four significant digits, or a dash for what could not be measured."""
    if math.isnan(value):
        return "–"
    return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def sections(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What was measured, row by row of the table of goals, and every number of it."""
    for row, experiments in itertools.groupby(outcomes, key=lambda outcome: outcome.experiment.row):
        same_row = list(experiments)
        yield f"## {row}\n\n{same_row[0].experiment.about}"
        yield from map(section, same_row)


def section(outcome: Outcome) -> str:
    """Every number of one experiment."""
    experiment = outcome.experiment
    titles = ["", f"{experiment.unit}, median", "min", "max", f"wall, ms a {experiment.piece}",
              f"CPU, ms a {experiment.piece}", "all repeats"]  # fmt: skip
    rows = []
    for contestant in experiment.contestants:
        if contestant.name in outcome.missing:
            rows.append([contestant.name, *[""] * 5, f"not measured: {outcome.missing[contestant.name]}"])
            continue
        samples = outcome.samples[contestant.name]
        values = [sample.value for sample in samples]
        wall = statistics.median(sample.wall_ms for sample in samples)
        cpu = statistics.median(sample.cpu_ms for sample in samples)
        rows.append([contestant.name, *map(number, (*spread(values), wall, cpu)), " ".join(map(number, values))])
    return f"### {experiment.title}\n\n{markdown_table(titles, rows)}"


def report(outcomes: Sequence[Outcome], settings: Sequence[str]) -> str:
    """The whole page; `settings` tell how it was measured, a line each."""
    verdicts = [(outcome, verdict) for outcome in outcomes for verdict in outcome.verdicts()]
    reached = [verdict.reached for _, verdict in verdicts if verdict.reached is not None]
    goals = markdown_table(
        ["what", "against", "goal", "measured: median (min to max)", ""],
        [verdict.row(outcome.experiment.title) for outcome, verdict in verdicts],
    )
    parts = [
        "# Benchmarks",
        f"{sum(reached)} of {len(reached)} goals reached.",
        goals,
        "A comparison pairs the values of one repeat, which were measured one after the other: × is the subject's "
        "divided by the peer's, + the difference. Of several peers, it is the one with the best median.",
        *sections(outcomes),
        "## How it was measured",
        "\n".join(f"- {line}" for line in settings),
    ]
    return "\n\n".join(parts) + "\n"


# ----------------------------------------------------------------------------------------------------
# The machine
# ----------------------------------------------------------------------------------------------------


def describe_machine() -> list[str]:
    """Time, revision, machine and versions, a line each."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "KMP_", "MKL_"))}
    return [
        f"started {datetime.now().astimezone():%Y-%m-%d %H:%M %z}, load average before {os.getloadavg()[0]:.2f}",
        f"revision {revision()}",
        f"{cpu_model()}, {cores()} cores for these processes, {memory_gib():.0f} GiB of memory",
        f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        ", ".join(f"{package} {installed(package)}" for package in PACKAGES),
        "variables of OpenMP and MKL: " + (", ".join(f"{name}={value}" for name, value in variables.items()) or "none"),
    ]


def revision() -> str:
    """As the logs of the suite have it, found by a process of its own: its module imports torch."""
    command = [sys.executable, "-c", "from training.record.writer import revision; print(revision())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or "unknown"


def cpu_model() -> str:
    """What the kernel calls the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def memory_gib() -> float:
    """Physical memory, GiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def installed(package: str) -> str:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
