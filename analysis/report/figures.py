"""The main curves of a report as figures for a paper, at the width of a page or a column."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import COLUMN, OKABE_ITO, PAGE, Figure, new_figure, set_titles, write_key, write_title
from analysis.report.runs import Comparison, Setting
from analysis.reports.curves import MEANING, Curve, draw_curves, frame
from analysis.reports.trials import TrialOutcome
from analysis.spread import counted, half_width
from training.config import RunConfig

DRAWN = len(OKABE_ITO)  # settings; more could not be distinguished
LABEL = 28  # characters of a line beside a panel of a column's width


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
    more = len(comparison.settings) - len(settings)
    what = [counted(seeds), *[MEANING] * (max(seeds) > 1), *["dashed: a single seed"] * (min(seeds) == 1),
            "circles: the first worker finished", *[f"{more} more settings are not drawn"] * (more > 0)]  # fmt: skip
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
    wide = max(len(one.label) for one in (baseline, *(setting for setting, _ in rows))) > 2 * LABEL
    width = (2 if wide else 1) * LABEL
    labels = [wrapped(f"{setting.label} (n\xa0=\xa0{len(found)})", width) for setting, found in rows]
    lines = max(label.count("\n") + 1 for label in labels)
    reference = wrapped(f"test accuracy minus that of {baseline.label} (points)", width + 4)
    height = 1.2 + (0.14 * lines + 0.14) * len(rows) + 0.14 * reference.count("\n")
    figure = new_figure(height, PAGE if wide else COLUMN)
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    for place, (_, found) in enumerate(reversed(rows)):
        axes.plot(found, [place] * len(found), ".", color=OKABE_ITO[0], alpha=0.4, markersize=3)
        draw_interval(axes, place, found)
    axes.set_yticks(range(len(rows)), reversed(labels))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(reference)
    set_titles(axes, "")
    counts = counted([len(found) for _, found in rows], "pair")
    others = len(comparison.settings) - 1
    shown = f"; the first {len(rows)} of {others} settings" if others > len(rows) else ""
    about = f"{counts} with the same seed; mean, its 95 % confidence interval, faint: each pair{shown}"
    write_title(figure, f"Paired differences in test accuracy\n{about}")
    return figure


def draw_interval(axes: Axes, place: int, found: Sequence[float]) -> None:
    """The mean of some differences and its 95 % interval; a single difference hollow."""
    if len(found) == 1:
        axes.plot(found, [place], "o", color=OKABE_ITO[0], markerfacecolor="white")
    else:
        style = {"color": OKABE_ITO[0], "capsize": 2, "linewidth": 1}
        axes.errorbar(np.mean(found), place, xerr=half_width(found), fmt="o", **style)


def paired(setting: Setting, baseline: Setting) -> list[float]:
    """Differences in test accuracy of runs with the same seed, points."""
    reference = {run.trial.repetition: run.outcome.test_accuracy for run in baseline.runs}
    found = [run.outcome.test_accuracy - reference.get(run.trial.repetition, math.nan) for run in setting.runs]
    return [value for value in found if math.isfinite(value)]


def wrapped(label: str, width: int) -> str:
    """A label on several lines."""
    return "\n".join(textwrap.wrap(label, width))


FIGURES: dict[str, Callable[[Comparison], Figure | None]] = {
    "curves": curves_figure,
    "differences": differences_figure,
}
