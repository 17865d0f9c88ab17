"""The loss along the straight lines between the ends of runs: do they lie in one valley?

The barrier between two models is the largest rise of the loss above the straight line between its values at both
(Frankle et al. 2020, arXiv 1912.05671; Entezari et al. 2022, arXiv 2110.06296).
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from analysis.figures import OKABE_ITO, Figure, new_figure, save, set_titles, write_key, write_title
from analysis.landscape.plane import Line
from analysis.spread import in_digits
from analysis.tables import write_rows

STEPS = 21  # points on a line, both ends included
Scores = Callable[[Line], tuple[np.ndarray, np.ndarray]]  # n points → losses (n,) and accuracies (n,), percent


@dataclass(frozen=True)
class Barrier:
    """Two models and what lies between them.

    shares (n,): of the second model, from 0 to 1; losses (n,) and accuracies (n,), percent, at these points.
    """

    first: str
    second: str
    shares: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray

    @property
    def height(self) -> float:
        """The largest rise of the loss above the straight line between both ends; 0 if there is none, and not finite if
        some loss on the way is not.
        """
        straight = (1 - self.shares) * self.losses[0] + self.shares * self.losses[-1]
        return float(np.max(self.losses - straight))

    @property
    def height_in_words(self) -> str:
        """The height, if it is known."""
        missing = int((~np.isfinite(self.losses)).sum())
        return f"unknown ({missing} of {len(self.losses)} losses not finite)" if missing else in_digits(self.height)

    def __str__(self) -> str:
        ends = f"{in_digits(self.losses[0])} and {in_digits(self.losses[-1])}"
        return (
            f"{self.first} – {self.second}: barrier {self.height_in_words}, between losses of {ends}; "
            f"lowest accuracy {self.accuracies.min():.2f} %"
        )


def barriers(
    ends: Sequence[tuple[str, np.ndarray]], scores: Sequence[Scores], interrupted: threading.Event
) -> list[Barrier]:
    """Between every two models, given by label and parameters (P,).

    scores: one function per thread; interrupted: set if an exception, such as Ctrl-C, ends this, so that they return.
    """
    pairs = list(itertools.combinations(ends, 2))
    free: queue.SimpleQueue[Scores] = queue.SimpleQueue()
    for one in scores:
        free.put(one)

    def measure(pair: tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]) -> Barrier:
        (first, start), (second, end) = pair
        shares = np.linspace(0, 1, STEPS)
        one = free.get()
        try:
            return Barrier(first, second, shares, *one(Line(start, end - start, shares)))
        finally:
            free.put(one)

    with ThreadPoolExecutor(len(scores), initializer=torch.set_num_threads, initargs=(1,)) as executor:
        lines = [executor.submit(measure, pair) for pair in pairs]
        try:
            for line in tqdm(as_completed(lines), total=len(lines), unit=" lines", dynamic_ncols=True, disable=None):
                line.result()
        except BaseException:
            interrupted.set()
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return [line.result() for line in lines]


def draw(found: Sequence[Barrier], about: dict[str, str], stem: Path) -> list[Path]:
    """Write {stem}_barriers.csv, and the figure as PNG and PDF; return their paths."""
    table = stem.with_name(f"{stem.name}_barriers.csv")
    rows = (
        (one.first, one.second, f"{share:.4g}", f"{loss:.6g}", f"{accuracy:.4f}")
        for one in found
        for share, loss, accuracy in zip(one.shares, one.losses, one.accuracies, strict=True)
    )
    write_rows(table, [("first", "second", "share of the second", "loss", "accuracy, %"), *rows])
    return [table, *save(barrier_figure(found, about), stem.with_name(f"{stem.name}_barriers"))]


def barrier_figure(found: Sequence[Barrier], about: dict[str, str]) -> Figure:
    """Loss and accuracy along each line; the height of its barrier in the key."""
    figure = new_figure(3.0 + 0.16 * len(found))
    loss, accuracy = figure.subplots(1, 2)
    for number, one in enumerate(found):
        style = {"color": OKABE_ITO[number % len(OKABE_ITO)], "linestyle": ("-", "--", ":")[number // 6 % 3]}
        label = f"{one.first} – {one.second}: barrier {one.height_in_words}".replace("$", r"\$")
        loss.plot(one.shares, np.where(np.isfinite(one.losses), one.losses, np.nan), label=label, **style)
        accuracy.plot(one.shares, one.accuracies, **style)
    for axes, name in ((loss, "loss"), (accuracy, "accuracy (%)")):
        axes.set_xlabel("share of the second model")
        axes.set_ylabel(name)
        axes.set_xlim(0, 1)
        set_titles(axes, "")
    write_key(figure, loss.get_legend_handles_labels()[0], columns=1)
    write_title(figure, f"Between the ends of runs: {about['network']} on {about['data']}")
    return figure
