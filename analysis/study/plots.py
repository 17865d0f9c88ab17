"""Figures of the study: what was measured, with the published single runs beside it. Reads rows, never trains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import chain, cycle, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import Figure
from analysis.reports.training_plots import DPI, OKABE_ITO, annotate, set_titles
from analysis.study import speed
from analysis.study.published import (
    NOT_DISTRIBUTED,
    Results,
    delayed,
    studied,
    uncompensated,
)
from catalogue import PARTITIONS
from training.config import MODE_TITLES, RunConfig

WORKERS = (2, 5, 10)
DELAYS_MS = (0.0, 30.0, 60.0, 90.0)
MOMENTUM_VALUES = (0.0, 0.5, 0.9, 0.99)
SPLITS = ("split_dataset", "split_labels")
ACCURACY = "test accuracy (%)"
DODGE = 0.09  # between the series at one place, in places


# ----------------------------------------------------------------------------------------------------
# The figures, one per question
# ----------------------------------------------------------------------------------------------------


def workers_figure(results: Results) -> Figure:
    """Accuracy against the number of workers, synchronous and asynchronous, nobody delayed."""
    figure, axes = accuracy_panels(1, len(SPLITS))
    for panel, partition in zip(axes[0], SPLITS, strict=True):
        for place, mode in enumerate(speed.COMPARED_MODES):
            settings = [studied(mode, workers, partition) for workers in WORKERS]
            draw_series(panel, settings, results, MODE_TITLES[mode], place, 2)
        draw_control(panel, results)
        set_places(panel, WORKERS, "workers")
        set_titles(panel, PARTITIONS[partition].short_title)
    return with_key(figure, *series_key(axes[0, 0]), control_key())


def delays_figure(results: Results) -> Figure:
    """Accuracy against a constant delay, for each number of workers; asynchronous."""
    figure, axes = accuracy_panels(1, len(WORKERS))
    for panel, workers in zip(axes[0], WORKERS, strict=True):
        series = [(slow, partition) for slow in (False, True) for partition in SPLITS]
        for place, (slow, partition) in enumerate(series):
            settings = [constantly_delayed(workers, partition, delay, slow) for delay in DELAYS_MS]
            name = PARTITIONS[partition].short_title + (", worker 1 slow" if slow else "")
            draw_series(panel, settings, results, name, place, len(series), "--" if slow else "-")
        draw_control(panel, results)
        set_places(panel, DELAYS_MS, "delay (ms)")
        set_titles(panel, f"{workers} workers")
    return with_key(figure, *series_key(axes[0, 0]), control_key())


def constantly_delayed(workers: int, partition: str, delay_ms: float, slow: bool) -> RunConfig | None:
    """An asynchronous setting with a constant delay; None for a slow worker 1 that has nothing to double."""
    setting = studied("async", workers, partition)
    if delay_ms == 0:
        return None if slow else setting
    return delayed(setting, delay_ms, "constant", slow)


def momentum_figure(results: Results) -> Figure:
    """Accuracy against momentum, for each number of workers and kind of delay; asynchronous."""
    kinds = {
        "labels split, worker 1 slow": ("split_labels", True, "constant"),
        "labels split, gaussian delays": ("split_labels", False, "gaussian"),
        "samples split, gaussian delays": ("split_dataset", False, "gaussian"),
    }
    figure, axes = accuracy_panels(len(kinds), len(WORKERS))
    for row, (title, (partition, slow, kind)) in zip(axes, kinds.items(), strict=True):
        for panel, workers in zip(row, WORKERS, strict=True):
            for place, delay in enumerate(DELAYS_MS[1:]):
                setting = delayed(studied("async", workers, partition), delay, kind, slow)
                settings = [replace(setting, momentum=momentum) for momentum in MOMENTUM_VALUES]
                draw_series(panel, settings, results, f"{delay:g} ms", place, len(DELAYS_MS) - 1)
            draw_control(panel, results)
            set_places(panel, MOMENTUM_VALUES, "momentum")
            set_titles(panel, title, f"{workers} workers")
    return with_key(figure, *series_key(axes[0, 0]), control_key())


def staleness_figure(results: Results) -> Figure:
    """Accuracy against mean staleness of every asynchronous setting without compensation."""
    figure, axes = accuracy_panels(1, 2)
    panel_of = {"equally fast workers": axes[0, 0], "worker 1 slow": axes[0, 1]}
    drawn = {
        setting: group
        for setting, group in results.measured.items()
        if setting.depends_on_arrival and not setting.compensation
    }
    colors = momentum_colors(drawn)
    for setting, group in drawn.items():
        accuracy, staleness = group.spread("test_accuracy"), group.spread("mean_staleness").mean
        panel_of["worker 1 slow" if setting.slow_worker_1 else "equally fast workers"].errorbar(
            staleness, accuracy.mean, np.nan_to_num(accuracy.deviation),
            color=colors[setting.momentum], alpha=0.8, **marker(setting.partition),
        )  # fmt: skip
    for title, panel in panel_of.items():
        draw_control(panel, results)
        panel.set_xlabel("mean staleness (updates)")
        set_titles(panel, title)
    return with_key(figure, *momentum_key(colors), *partition_key(partitions_of(drawn)), control_key())


def compensation_figure(results: Results) -> Figure:
    """Accuracy with delay compensation against accuracy without it, of runs alike in all else, the seed included."""
    figure, axes = accuracy_panels(1, 2)
    published = {(setting, 0): accuracy for setting, accuracy in results.published.items()}
    titles = {"measured, same seed": results.by_seed, "published: without effect, so noise alone": published}
    drawn = [setting for accuracies in titles.values() for setting, _ in accuracies if setting.compensation]
    colors = momentum_colors(drawn)
    for panel, (title, accuracies) in zip(axes[0], titles.items(), strict=True):
        panel.axline((50, 50), slope=1, color="0.6", linewidth=0.8, zorder=0)
        for (setting, seed), accuracy in accuracies.items():
            without = accuracies.get((uncompensated(setting), seed))
            if setting.compensation and without is not None:
                color = colors[setting.momentum]
                panel.errorbar(without, accuracy, color=color, alpha=0.8, **marker(setting.partition))
        panel.set_xlabel(f"{ACCURACY}, no compensation")
        panel.set_xlim(0, 100)
        set_titles(panel, title)
    axes[0, 0].set_ylabel("with compensation")
    return with_key(figure, *momentum_key(colors), *partition_key(partitions_of(drawn)))


def speed_figure(results: Results) -> Figure:
    """Gradients/s against the number of workers, for each clock and network of the speed comparison."""
    comparison = speed.Comparison(results)
    figure, axes = panels(len(speed.CLOCKS), len(speed.NETWORKS), sharey="row")
    for panel, (clock, network) in zip(axes.flat, product(speed.CLOCKS, speed.NETWORKS), strict=True):
        for partition, (color, mode) in product(
            speed.COMPARED_PARTITIONS, zip(OKABE_ITO, speed.COMPARED_MODES, strict=False)
        ):
            found = comparison.by_workers(clock, network, partition, mode)
            if found:
                rates = np.array([astuple(speed.gradients_per_second(runs)) for runs in found.values()])
                panel.errorbar(
                    list(found), rates[:, 0], np.nan_to_num(rates[:, 1]), color=color, alpha=0.8, **marker(partition)
                )
        if not panel.containers:
            annotate(panel, "not measured yet")
        panel.set_xticks(sorted(chain.from_iterable(speed.WORKERS.values())))
        panel.set_xlabel("workers")
        panel.set(xlim=(0, 10.5), ylim=(0, None))
        set_titles(panel, network, f"{clock} clock")
    for panel in axes[:, 0]:
        panel.set_ylabel("gradients / s")
    modes = [
        Line2D([], [], color=color, label=MODE_TITLES[mode])
        for color, mode in zip(OKABE_ITO, speed.COMPARED_MODES, strict=False)
    ]
    return with_key(figure, *modes, *partition_key(speed.COMPARED_PARTITIONS))


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "accuracy_by_workers": workers_figure,
    "accuracy_by_delay": delays_figure,
    "accuracy_by_momentum": momentum_figure,
    "accuracy_by_staleness": staleness_figure,
    "accuracy_by_compensation": compensation_figure,
    "speed_by_workers": speed_figure,
}

# ----------------------------------------------------------------------------------------------------
# What they share
# ----------------------------------------------------------------------------------------------------


def panels(rows: int, columns: int, sharey: str) -> tuple[Figure, np.ndarray]:
    """A figure and its (rows, columns) panels."""
    figure = Figure(figsize=(1 + 3.7 * columns, 0.8 + 3 * rows), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def accuracy_panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure and its (rows, columns) panels, which share the axis of the accuracy."""
    figure, axes = panels(rows, columns, sharey="all")
    for panel in axes[:, 0]:
        panel.set_ylabel(ACCURACY)
    axes[0, 0].set_ylim(0, 100)
    return figure, axes


def draw_series(
    axes: Axes, settings: Sequence[RunConfig | None], results: Results, name: str, place: int, of: int, line: str = "-"
) -> None:
    """One series: mean ± deviation filled, each run a faint dot, the published run hollow. Settings may be missing.

    place, of: its number among the series of the panel, which stand beside one another at each place.
    """
    color = OKABE_ITO[place]
    at = np.arange(len(settings)) + (place - (of - 1) / 2) * DODGE
    measured = [(x, results.measured[one]) for x, one in zip(at, settings, strict=True) if one in results.measured]
    for x, group in measured:
        accuracies = [outcome.test_accuracy for outcome in group.outcomes]
        axes.plot([x] * len(accuracies), accuracies, ".", color=color, alpha=0.35, markersize=4)
    spreads = np.array([astuple(group.spread("test_accuracy")) for _, group in measured]).reshape(-1, 2)
    axes.errorbar(
        [x for x, _ in measured], spreads[:, 0], np.nan_to_num(spreads[:, 1]),
        color=color, linestyle=line, marker="o", markersize=5, capsize=2, linewidth=1.2, label=name,
    )  # fmt: skip
    published = [(x, results.published[one]) for x, one in zip(at, settings, strict=True) if one in results.published]
    if published:
        axes.plot(*zip(*published, strict=True), "D", color=color, markerfacecolor="none", markersize=5, alpha=0.8)


def draw_control(axes: Axes, results: Results) -> None:
    """A line at what the same training reaches without distribution."""
    if control := results.measured.get(NOT_DISTRIBUTED):
        axes.axhline(control.spread("test_accuracy").mean, color="0.5", linestyle=":", linewidth=1, zorder=0)


def set_places(axes: Axes, values: Sequence[float], label: str) -> None:
    """Equally far apart, whatever the values."""
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.set_xlim(-0.4, len(values) - 0.6)
    axes.set_xlabel(label)


def marker(partition: str) -> dict[str, object]:
    """How a point of a setting with this partition looks."""
    return {"marker": PARTITIONS[partition].marker, "markersize": 5, "linewidth": 0.8, "capsize": 2}


def momentum_colors(settings: Iterable[RunConfig]) -> dict[float, str]:
    """A colour for each of the studied momentum values, and for every other one that the settings have."""
    values = sorted({*MOMENTUM_VALUES, *(setting.momentum for setting in settings)})
    return dict(zip(values, cycle(OKABE_ITO), strict=False))


def momentum_key(colors: Mapping[float, str]) -> list[Line2D]:
    """Which colour is which momentum."""
    return [Line2D([], [], color=color, linewidth=3, label=f"momentum {momentum:g}")
            for momentum, color in colors.items()]  # fmt: skip


def partitions_of(settings: Iterable[RunConfig]) -> list[str]:
    """The studied partitions, and every other one that the settings have."""
    return list(dict.fromkeys([*SPLITS, *(setting.partition for setting in settings)]))


def partition_key(partitions: Sequence[str]) -> list[Line2D]:
    """Which marker is which partition."""
    return [Line2D([], [], color="0.3", linestyle="", marker=marker(partition)["marker"],
                   label=PARTITIONS[partition].short_title) for partition in partitions]  # fmt: skip


def series_key(axes: Axes) -> list[Line2D]:
    """Which colour is which series of a panel, and how published runs are drawn."""
    published = Line2D(
        [], [], color="0.3", marker="D", linestyle="", markerfacecolor="none", label="published, one run"
    )
    return [*axes.get_legend_handles_labels()[0], published]


def control_key() -> Line2D:
    """What the line of `draw_control` is."""
    return Line2D([], [], color="0.5", linestyle=":", label="not distributed")


def with_key(figure: Figure, *key: Line2D) -> Figure:
    """The figure with a key below its panels."""
    figure.legend(handles=key, loc="outside lower center", ncols=min(4, -(-len(key) // 2)), frameon=False)
    return figure
