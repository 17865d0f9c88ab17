"""How long a worker takes: injected delays, messages, and on the virtual clock the computation itself. Loads no torch.

A distribution is one row; it turns draws of a worker's own generator into milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interface.command_line import Interval, ValueType

if TYPE_CHECKING:
    import torch


class Draws:
    """Random numbers for one purpose of one worker, from its own generator."""

    BLOCK = 15  # drawn at once; from 16 normal numbers on, torch draws others than one by one

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._blocks: dict[str, list[float]] = {"randn": [], "rand": []}  # the next draws, the last one first

    def _next(self, kind: str) -> float:
        block = self._blocks[kind]
        if not block:
            import torch

            draw = getattr(torch, kind)
            block += draw(self.BLOCK, generator=self._generator, dtype=torch.float64).tolist()[::-1]
        return block.pop()

    def normal(self) -> float:
        """The next draw from the standard normal distribution."""
        return self._next("randn")

    def uniform(self) -> float:
        """The next draw from the uniform distribution on [0, 1)."""
        return self._next("rand")

    def exponential(self) -> float:
        """The next draw from the exponential distribution with mean 1."""
        return -math.log1p(-self.uniform())


# ----------------------------------------------------------------------------------------------------
# Shapes of distributions: (draws, mean, parameter) → a value that is never negative
# ----------------------------------------------------------------------------------------------------


def constant(draws: Draws, mean: float, parameter: float) -> float:
    """Always the mean."""
    return mean


def normal(draws: Draws, mean: float, deviation: float) -> float:
    """Normal with this standard deviation, cut at 0."""
    return max(0.0, mean + deviation * draws.normal())


def lognormal(draws: Draws, mean: float, variation: float) -> float:
    """Lognormal with this coefficient of variation."""
    variance = math.log1p(variation**2)  # of the logarithm
    return mean * math.exp(math.sqrt(variance) * draws.normal() - variance / 2)


def exponential(draws: Draws, mean: float, parameter: float) -> float:
    """Exponential: memoryless, with a coefficient of variation of 1."""
    return mean * draws.exponential()


def pareto(draws: Draws, mean: float, shape: float) -> float:
    """Pareto with this shape, above 1: P(X > x) = (x_m / x)^shape for x above x_m = mean · (shape - 1) / shape."""
    return mean * (shape - 1) / shape * math.exp(draws.exponential() / shape)


# ----------------------------------------------------------------------------------------------------
# Injected delays
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DelayType:
    """How delays spread around their mean.

    draw: (draws, mean in ms, slowdown) → ms; slowdown: the factor by which the worker is slower, which the mean already
    includes. title: what figures call it.
    """

    title: str
    draw: Callable[[Draws, float, float], float]


GAUSSIAN_DEVIATION_MS = 5.0  # doubled, like the mean, for a slow worker 1

DELAY_TYPES = {
    "constant": DelayType("constant", lambda draws, mean, slowdown: mean),
    "gaussian": DelayType(
        "gaussian", lambda draws, mean, slowdown: normal(draws, mean, slowdown * GAUSSIAN_DEVIATION_MS)
    ),
    "lognormal": DelayType("lognormal", lambda draws, mean, slowdown: lognormal(draws, mean, 0.5)),
    "exponential": DelayType("exponential", lambda draws, mean, slowdown: exponential(draws, mean, 0)),
    "pareto": DelayType("Pareto", lambda draws, mean, slowdown: pareto(draws, mean, 2.5)),
}


# ----------------------------------------------------------------------------------------------------
# Compute times
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComputeTime:
    """How the times of gradients spread around their mean.

    parameter: what stands after the colon, and what is valid for it; None where there is none.
    draw: (draws, mean in ms, parameter) → ms.
    """

    draw: Callable[[Draws, float, float], float]
    parameter: tuple[str, Interval] | None = None


VARIATION = Interval(float, "(0,1000]")
COMPUTE_TIMES = {
    "constant": ComputeTime(constant),
    "normal": ComputeTime(lambda draws, mean, cv: max(0.0, mean * (1 + cv * draws.normal())), ("CV", VARIATION)),
    "lognormal": ComputeTime(lognormal, ("CV", VARIATION)),
    "exponential": ComputeTime(exponential),
    "pareto": ComputeTime(pareto, ("SHAPE", Interval(float, "(1,inf)"))),
}


class ComputeTimeText(ValueType):
    """What --compute_time takes: the name of a distribution, and its parameter after a colon."""

    metavar = "DIST"
    pattern = r"[a-z]+[-+.\de]*"

    @property
    def what(self) -> str:
        return "one of " + ", ".join(
            f"{name}:{row.parameter[0]} in {row.parameter[1].text}" if row.parameter else name
            for name, row in COMPUTE_TIMES.items()
        )

    @property
    def text(self) -> str:
        return self.what

    def __contains__(self, value: object) -> bool:
        with suppress(ValueError):
            return isinstance(value, str) and self.parse(value) == value
        return False

    def parse(self, text: str) -> str:
        name, parameter = re.fullmatch(r"([a-z]*):?(.*)", text, re.DOTALL).groups()
        row = COMPUTE_TIMES.get(name)
        if row is None or bool(parameter) != (row.parameter is not None):
            raise ValueError(text)
        return f"{name}:{row.parameter[1].parse(parameter)!r}" if parameter else name

    def in_name(self, value: str) -> str:
        return value.replace(":", "")


# ----------------------------------------------------------------------------------------------------
# Speeds of workers
# ----------------------------------------------------------------------------------------------------

MAX_LISTED = 20  # speeds that a name holds, or stretches of equal ones if there are more
LONGEST = 120  # characters of them
CHECKSUM = re.compile("list[0-9a-f]{8}")  # stands for others in a name; the header of the log has them
SPEED = Interval(float, "[1e-20,1e20]")
TIMES = Interval(int, "[1,100000]")


class WorkerSpeedsText(ValueType):
    """What --worker_speeds takes: the speed of each worker, or spread:CV, which the seed draws."""

    what = f"numbers in {SPEED.text}, one per worker, or spread:CV with CV in {VARIATION.text}"
    text = "1 is the speed of --compute_ms, 0.5 half of it"
    metavar = "S"
    pattern = rf"(?:spread)?[-+.\denx]+|{CHECKSUM.pattern}"

    def __call__(self, text: str) -> str:
        if CHECKSUM.fullmatch(text):  # of a name, not of a command line
            raise argparse.ArgumentTypeError(f"{text!r} is not valid: give {self.what}")
        return super().__call__(text)

    def __contains__(self, value: object) -> bool:
        with suppress(ValueError):
            return isinstance(value, str) and self.parse(value) == value
        return False

    def parse(self, text: str) -> str:
        if CHECKSUM.fullmatch(text):
            return text
        if text.startswith("spread"):
            return f"spread:{VARIATION.parse(text.removeprefix('spread').removeprefix(':'))!r}"
        speeds: list[float] = []
        for part in text.replace("x", " ").split():
            times, several, speed = part.rpartition("n")
            speeds += [SPEED.parse(speed)] * (TIMES.parse(times) if several else 1)
        if not speeds:
            raise ValueError(text)
        return " ".join(f"{speed!r}" for speed in speeds)

    def in_name(self, value: str) -> str:
        """Speeds with x between them; of more than MAX_LISTED, 99n1.0 stands for 99 equal ones. Else a checksum."""
        speeds = value.replace(":", "").split()
        if len(speeds) > MAX_LISTED:
            speeds = [f"{times}n{speed}" if times > 1 else speed for speed, times in stretches(speeds)]
        text = "x".join(speeds)
        short = len(speeds) <= MAX_LISTED and len(text) <= LONGEST
        return text if short else f"list{zlib.crc32(value.encode()):08x}"


def stretches(values: Iterable[Any]) -> list[tuple[Any, int]]:
    """Each value that differs from the one before it, and how often it follows itself."""
    return [(value, len(list(equal))) for value, equal in itertools.groupby(values)]


def listed_speeds(text: str) -> list[float] | None:
    """The speed of each worker; None where the seed draws them, or the text is the checksum in a name."""
    drawn = text.startswith("spread") or CHECKSUM.fullmatch(text)
    return None if drawn else [float(part) for part in text.split()]


def drawn_speed(text: str, draws: Draws) -> float:
    """The speed of one worker under spread:CV: lognormal around 1 with that coefficient of variation."""
    return lognormal(draws, 1.0, float(text.removeprefix("spread:")))


# ----------------------------------------------------------------------------------------------------
# The times of one worker
# ----------------------------------------------------------------------------------------------------

Times = Iterator[float]  # ms, one after the other, without end


def delays(row: DelayType, mean_ms: float, slowdown: float, draws: Draws) -> Times:
    """The delays of a worker."""
    while True:
        yield row.draw(draws, mean_ms, slowdown)


def no_delays() -> Times:
    """The delays of a worker that never sleeps: 0 ms, without end."""
    while True:
        yield 0.0


def compute_times(text: str, mean_ms: float, draws: Draws) -> Times:
    """The times of a worker's mini-batches, at speed 1; text: a value of ComputeTimeText."""
    name, _, parameter = text.partition(":")
    draw, number = COMPUTE_TIMES[name].draw, float(parameter or 0)
    while True:
        yield draw(draws, mean_ms, number)
