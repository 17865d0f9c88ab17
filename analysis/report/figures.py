"""The main curves of a report as figures for a paper, at the width of a page or a column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_key, write_title
from analysis.forest import Row, forest, scale_of
from analysis.report.runs import Comparison, Run, Setting
from analysis.reports.curves import Curve, draw_curves, frame, meaning
from analysis.reports.differences import differences
from analysis.spread import counted

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
        curves += draw_setting(time, setting, color, in_seconds)
        draw_setting(epochs, setting, color, in_epochs)
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


def in_seconds(run: Run) -> tuple[np.ndarray, float | None]:
    """When a run was evaluated (n,), and when its first worker finished."""
    return np.array(run.outcome.evaluations)[:, 0], run.outcome.first_left_seconds


def in_epochs(run: Run) -> tuple[np.ndarray, float | None]:
    """The same in epochs, over which evaluations are evenly spaced; updates need not be."""
    updates, first = np.array(run.outcome.evaluations)[:, 1], run.outcome.first_left_update
    epochs = np.arange(1, len(updates) + 1) / run.trial.config.evals_per_epoch
    return epochs, None if first is None else float(np.interp(first, [0, *updates], [0, *epochs]))


def draw_setting(
    axes: Axes, setting: Setting, color: str, places: Callable[[Run], tuple[np.ndarray, float | None]]
) -> list[Curve]:
    """One setting; places: where the evaluations of a run are drawn, and the moment when its first worker finished.

    Returns the curves, and the points at which a first worker finished.
    """
    curves, firsts = [], []
    for run in setting.runs:
        outcome = run.outcome
        evaluated, first = places(run)
        curves.append((evaluated, np.array(outcome.evaluations)[:, 2]))
        if first is not None and outcome.first_left_accuracy is not None:
            firsts.append((np.array([first]), np.array([outcome.first_left_accuracy])))
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
