"""The main curves of a report as figures for a paper, at the width of a page or a column."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import COLUMN, OKABE_ITO, Figure, counted, new_figure, set_titles, write_key, write_title
from analysis.report.runs import Comparison, Setting
from analysis.reports.curves import MEANING, Curve, draw_curves, frame
from analysis.reports.trials import TrialOutcome
from analysis.spread import half_width
from training.config import RunConfig

DRAWN = len(OKABE_ITO)  # settings; more could not be distinguished


def curves_figure(comparison: Comparison) -> Figure | None:
    """Test accuracy against time and against epochs: means over seeds, 95 % bands, each seed faint.

    None without evaluations. At most DRAWN settings, the first ones.
    """
    settings = [one for one in comparison.settings if all(run.outcome.evaluations for run in one.runs)][:DRAWN]
    if not settings:
        return None
    figure = new_figure(2.9 + 0.16 * len(settings))
    time, epochs = figure.subplots(1, 2, sharey=True)
    curves = []
    for setting, color in zip(settings, OKABE_ITO, strict=False):
        curves += draw_setting(time, setting, color, lambda config, outcome, curve: curve[:, 0])
        draw_setting(epochs, setting, color, lambda config, outcome, curve: (
            curve[:, 1] / outcome.updates * (outcome.epochs_done or config.epochs)))  # fmt: skip
    clocks = dict.fromkeys(run.trial.clock for setting in settings for run in setting.runs)
    for axes, label in ((time, f"{' or '.join(clocks)}-clock time (s)"), (epochs, "epochs")):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        set_titles(axes, "")
    time.set_ylabel("test accuracy (%)")
    frame(time, curves)
    write_key(figure, time.get_legend_handles_labels()[0], columns=1)
    seeds = [len(setting.runs) for setting in settings]
    what = [counted(seeds), *[MEANING] * (max(seeds) > 1), *["dashed: a single seed"] * (min(seeds) == 1),
            "circles: the first worker finished"]  # fmt: skip
    write_title(figure, f"Test accuracy over time and epochs\n{comparison.shared}\n{'; '.join(what)}")
    return figure


def draw_setting(
    axes: Axes, setting: Setting, color: str, place: Callable[[RunConfig, TrialOutcome, np.ndarray], np.ndarray]
) -> list[Curve]:
    """One setting; place: what each point of a run's (n, 3) evaluations is drawn against. Returns the curves."""
    curves = []
    for run in setting.runs:
        outcome, config = run.outcome, run.trial.config
        curve = np.array(outcome.evaluations)
        curves.append((place(config, outcome, curve), curve[:, 2]))
        if outcome.first_left_update is not None and outcome.first_left_accuracy is not None:
            first = np.array([[outcome.first_left_seconds, outcome.first_left_update, outcome.first_left_accuracy]])
            axes.plot(place(config, outcome, first), first[:, 2], "o", color=color, markersize=3, fillstyle="none",
                      markeredgewidth=0.6)  # fmt: skip
    draw_curves(axes, curves, color, setting.label)
    return curves


def differences_figure(comparison: Comparison) -> Figure | None:
    """Differences in test accuracy to the first setting, paired by seed, with 95 % intervals; None for one setting."""
    baseline, *others = comparison.settings[: DRAWN + 1]
    rows = [(setting, found) for setting in others if len(found := paired(setting, baseline))]
    if not rows:
        return None
    figure = new_figure(1.6 + 0.42 * len(rows), COLUMN)
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    for height, (_, found) in enumerate(reversed(rows)):
        axes.plot(found, [height] * len(found), ".", color=OKABE_ITO[0], alpha=0.4, markersize=3)
        if len(found) == 1:
            axes.plot(found, [height], "o", color=OKABE_ITO[0], markerfacecolor="white")
        else:
            axes.errorbar(np.mean(found), height, xerr=half_width(found), fmt="o", color=OKABE_ITO[0], capsize=2,
                          linewidth=1)  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{wrapped(one.label)}\n(n = {len(found)})" for one, found in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"test accuracy minus that of\n{wrapped(baseline.label, 44)} (points)")
    set_titles(axes, "")
    counts = counted([len(found) for _, found in rows], "pair")
    write_title(figure, f"Paired differences in test accuracy\n{counts} with the same seed; mean and its 95 % "
                "confidence interval, faint: each pair")  # fmt: skip
    return figure


def paired(setting: Setting, baseline: Setting) -> list[float]:
    """Differences in test accuracy of runs with the same seed, points."""
    reference = {run.trial.repetition: run.outcome.test_accuracy for run in baseline.runs}
    found = [run.outcome.test_accuracy - reference.get(run.trial.repetition, math.nan) for run in setting.runs]
    return [value for value in found if math.isfinite(value)]


def wrapped(label: str, width: int = 26) -> str:
    """A label on several lines."""
    return "\n".join(textwrap.wrap(label, width))


FIGURES: dict[str, Callable[[Comparison], Figure | None]] = {
    "curves": curves_figure,
    "differences": differences_figure,
}
