"""The main curves of a report as figures for a paper, at the width of a page or a column."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import Figure
from analysis.report.runs import Comparison, Setting
from analysis.reports.training_plots import OKABE_ITO
from analysis.spread import half_width, t_quantiles
from training.config import RunConfig

PAGE, COLUMN = 6.8, 3.3  # inches
DPI = 300
POINTS = 200  # of a mean curve
DRAWN = 8  # settings; more could not be distinguished
SMALL = {"fontsize": 8}


def curves_figure(comparison: Comparison) -> Figure | None:
    """Test accuracy against time and against epochs: means over seeds, 95 % bands, each seed faint.

    None without evaluations. At most DRAWN settings, the first ones.
    """
    settings = [one for one in comparison.settings if all(run.outcome.evaluations for run in one.runs)][:DRAWN]
    if not settings:
        return None
    figure = Figure(figsize=(PAGE, 3.0 + 0.18 * len(settings)), dpi=DPI, layout="constrained")
    time, epochs = figure.subplots(1, 2, sharey=True)
    for setting, color in zip(settings, cycle(OKABE_ITO)):
        draw_setting(time, setting, color, lambda config, outcome, curve: curve[:, 0])
        draw_setting(epochs, setting, color, lambda config, outcome, curve: (
            curve[:, 1] / outcome.updates * (outcome.epochs_done or config.epochs)))  # fmt: skip
    clocks = dict.fromkeys(run.trial.clock for setting in settings for run in setting.runs)
    for axes, label in ((time, f"{' or '.join(clocks)}-clock time (s)"), (epochs, "epochs")):
        axes.set_xlabel(label, **SMALL)
        axes.set_xlim(left=0)
        style(axes)
    time.set_ylabel("test accuracy (%)", **SMALL)
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", frameon=False, **SMALL)
    seeds = {len(setting.runs) for setting in settings}
    count = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"{min(seeds)}"
    figure.suptitle(f"Mean of {count} seeds, 95 % confidence bands, each seed faint; circles: first worker finished",
                    **SMALL)  # fmt: skip
    return figure


def draw_setting(
    axes: Axes, setting: Setting, color: str, place: Callable[[RunConfig, object, np.ndarray], np.ndarray]
) -> None:
    """One setting; place: what each point of a run's (n, 3) evaluations is drawn against."""
    curves = []
    for run in setting.runs:
        outcome, config = run.outcome, run.trial.config
        curve = np.array(outcome.evaluations)
        curves.append((place(config, outcome, curve), curve[:, 2]))
        axes.plot(*curves[-1], color=color, alpha=0.25, linewidth=0.5)
        if outcome.first_left_update is not None and outcome.first_left_accuracy is not None:
            first = np.array([[outcome.first_left_seconds, outcome.first_left_update, outcome.first_left_accuracy]])
            axes.plot(place(config, outcome, first), first[:, 2], "o", color=color, markersize=3, fillstyle="none",
                      markeredgewidth=0.6)  # fmt: skip
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    at = np.linspace(start, end, POINTS)
    values = np.array([np.interp(at, x, y) for x, y in curves])
    mean = values.mean(axis=0)
    axes.plot(at, mean, color=color, linewidth=1.3, label=setting.label)
    if len(curves) > 1:
        half = t_quantiles(len(curves))[-1] * values.std(axis=0, ddof=1) / math.sqrt(len(curves))
        low, high = np.clip([mean - half, mean + half], 0, 100)
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def differences_figure(comparison: Comparison) -> Figure | None:
    """Differences in test accuracy to the first setting, paired by seed, with 95 % intervals; None for one setting."""
    baseline, *others = comparison.settings[: DRAWN + 1]
    rows = [(setting, found) for setting in others if len(found := paired(setting, baseline))]
    if not rows:
        return None
    figure = Figure(figsize=(COLUMN, 0.9 + 0.42 * len(rows)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    for height, (_, found) in enumerate(reversed(rows)):
        axes.errorbar(np.mean(found), height, xerr=np.nan_to_num(half_width(found)), fmt="o", markersize=4,
                      color=OKABE_ITO[0], capsize=2, linewidth=1)  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{wrapped(one.label)}\n({len(found)} seeds)" for one, found in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"test accuracy minus that of\n{wrapped(baseline.label, 44)} (points)", **SMALL)
    style(axes)
    return figure


def paired(setting: Setting, baseline: Setting) -> list[float]:
    """Differences in test accuracy of runs with the same seed, points."""
    reference = {run.trial.repetition: run.outcome.test_accuracy for run in baseline.runs}
    found = [run.outcome.test_accuracy - reference.get(run.trial.repetition, math.nan) for run in setting.runs]
    return [value for value in found if math.isfinite(value)]


def wrapped(label: str, width: int = 26) -> str:
    """A label on several lines."""
    import textwrap

    return "\n".join(textwrap.wrap(label, width))


def style(axes: Axes) -> None:
    """Small text, and no frame."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)


FIGURES: dict[str, Callable[[Comparison], Figure | None]] = {
    "curves": curves_figure,
    "differences": differences_figure,
}
