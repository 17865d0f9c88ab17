"""The main curves of a report as figures for a paper, at the width of a page or a column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_key, write_title
from analysis.forest import Row, forest, scale_of
from analysis.report.runs import Comparison, Setting
from analysis.reports.curves import Curve, draw_curves, frame, meaning
from analysis.reports.differences import differences
from analysis.reports.trials import TrialOutcome
from analysis.spread import counted
from training.config import RunConfig

DRAWN = len(OKABE_ITO)  # settings; more could not be distinguished
ROWS = 20  # differences in a figure of a page's height


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
    what = [counted(seeds), meaning(seeds), "circles: the first worker finished"]
    if more:
        what.append(f"{more} more settings are not drawn")
    write_title(figure, f"Test accuracy over time and epochs\n{comparison.shared}\n{'; '.join(what)}")
    return figure


def draw_setting(
    axes: Axes, setting: Setting, color: str, place: Callable[[RunConfig, TrialOutcome, np.ndarray], np.ndarray]
) -> list[Curve]:
    """One setting; place: what each point of a run's (n, 3) evaluations is drawn against.

    Returns the curves, and the points at which a first worker finished.
    """
    curves, firsts = [], []
    for run in setting.runs:
        outcome, config = run.outcome, run.trial.config
        curve = np.array(outcome.evaluations)
        curves.append((place(config, outcome, curve), curve[:, 2]))
        if outcome.first_left_update is not None and outcome.first_left_accuracy is not None:
            first = np.array([[outcome.first_left_seconds, outcome.first_left_update, outcome.first_left_accuracy]])
            firsts.append((place(config, outcome, first), first[:, 2]))
            axes.plot(*firsts[-1], "o", color=color, markersize=3, fillstyle="none", markeredgewidth=0.6)
    draw_curves(axes, curves, color, setting.label)
    return [*curves, *firsts]


def differences_figure(comparison: Comparison) -> Figure | None:
    """What each setting changes in test accuracy, paired by seed, with 95 % intervals; None if nothing is compared."""
    found = differences([run.trial for run in comparison.runs])
    if not found:
        return None
    shown = found[:ROWS]
    figure, panels = forest([Row(one.title, one.place, one.values) for one in shown], pairs=True)
    counts = counted([len(one.points) for one in shown], "pair")
    more = f"; the first {len(shown)} of {len(found)} differences" if len(found) > len(shown) else ""
    about = f"{counts} with the same seed; mean, its 95 % confidence interval, faint: each pair{more}{scale_of(panels)}"
    write_title(figure, f"Differences in test accuracy\n{comparison.shared}\n{about}")
    return figure


FIGURES: dict[str, Callable[[Comparison], Figure | None]] = {
    "curves": curves_figure,
    "differences": differences_figure,
}
