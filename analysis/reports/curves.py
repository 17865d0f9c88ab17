"""Curves of several seeds: each faint, their mean, and its 95 % confidence band."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis.reports.trials import Trial
from analysis.spread import t_quantiles

POINTS = 200  # of a mean curve

Curve = tuple[np.ndarray, np.ndarray]  # what it is drawn against, and test accuracy in percent


def meaning(seeds: Sequence[int]) -> str:
    """What the lines of a figure mean. seeds: how many runs each of its settings has."""
    several = ["mean over seeds, band: its 95 % confidence interval, faint: each seed"] * (max(seeds) > 1)
    return "; ".join([*several, *["dashed: a single seed"] * (min(seeds) == 1)])


def accuracy_over_time(trials: Sequence[Trial]) -> list[Curve]:
    """Seconds and test accuracy of each run with evaluations."""
    found = (np.array(trial.outcome.evaluations) for trial in trials)
    return [(curve[:, 0], curve[:, 2]) for curve in found]


def draw_curves(
    axes: Axes,
    curves: Sequence[Curve],
    color: str,
    label: str = "",
    *,
    width: float = 1.3,
    logarithmic: bool = False,
    limits: tuple[float, float] = (0, 100),
) -> None:
    """All of it; a single curve has neither mean nor band, and is drawn dashed.

    width: of the mean; limits: of what is drawn, which a band does not leave.
    """
    if len(curves) == 1:
        axes.plot(*curves[0], color=color, linewidth=1, linestyle=(0, (4, 1.5)), label=label)
        return
    for curve in curves:
        axes.plot(*curve, color=color, alpha=0.3, linewidth=0.4)
    at, values = resample(curves, logarithmic=logarithmic)
    mean = values.mean(axis=0)
    half = t_quantiles(len(curves))[-1] * values.std(axis=0, ddof=1) / math.sqrt(len(curves))
    axes.plot(at, mean, color=color, linewidth=width, label=label)
    low, high = np.clip([mean - half, mean + half], *limits)
    axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def resample(curves: Sequence[Curve], *, logarithmic: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Places (POINTS,) as far as all curves go, and the value of each curve there (curves, POINTS)."""
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    at = (np.geomspace if logarithmic else np.linspace)(start, end, POINTS)
    return at, np.array([np.interp(at, x, y) for x, y in curves])


def frame(axes: Axes, curves: Sequence[Curve]) -> None:
    """Scale the axis to the curves, whatever their bands cover: with few seeds these are wide."""
    values = np.concatenate([y for _, y in curves])
    margin = 0.05 * max(np.ptp(values), 1)
    axes.set_ylim(max(0, values.min() - margin), min(100, values.max()) + margin)
