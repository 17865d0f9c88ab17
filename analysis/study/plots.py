"""Figures of the study: what was measured, with the published single runs beside it. Reads rows, never trains."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from itertools import chain, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.reports.training_plots import DPI, OKABE_ITO, annotate, set_titles
from analysis.study import speed
from analysis.study.published import NOT_DISTRIBUTED, Cell, Results

WORKERS = (2, 5, 10)
DELAYS_MS = (0.0, 30.0, 60.0, 90.0)
MOMENTA = (0.0, 0.5, 0.9, 0.99)
PARTITIONS = {name: title for name, title in speed.PARTITIONS.items() if name != "none"}
MARKERS = {"none": "s", "split_dataset": "o", "split_labels": "^"}
SLOW = "all, worker 1 twice"
ACCURACY = "test accuracy (%)"
DODGE = 0.09  # between the series at one place, in places


# ----------------------------------------------------------------------------------------------------
# The figures, one a question
# ----------------------------------------------------------------------------------------------------


def workers_figure(results: Results) -> Figure:
    """Accuracy against the number of workers, synchronous and asynchronous, nobody delayed."""
    figure, axes = accuracy_panels(1, len(PARTITIONS))
    for panel, (partition, title) in zip(axes[0], PARTITIONS.items(), strict=True):
        for place, (mode, name) in enumerate(speed.MODES.items()):
            cells = [Cell(mode, workers + 1, partition) for workers in WORKERS]
            draw_series(panel, cells, results, name, place, 2)
        draw_control(panel, results)
        set_places(panel, WORKERS, "workers")
        set_titles(panel, title)
    return with_key(figure, *series_key(axes[0, 0]), control_key())


def delays_figure(results: Results) -> Figure:
    """Accuracy against a constant delay, for each number of workers; asynchronous."""
    figure, axes = accuracy_panels(1, len(WORKERS))
    for panel, workers in zip(axes[0], WORKERS, strict=True):
        series = [(slow, partition) for slow in (False, True) for partition in PARTITIONS]
        for place, (slow, partition) in enumerate(series):
            cells = [delayed(workers, partition, delay, slow) for delay in DELAYS_MS]
            name = PARTITIONS[partition] + (", worker 1 slow" if slow else "")
            draw_series(panel, cells, results, name, place, len(series), "--" if slow else "-")
        draw_control(panel, results)
        set_places(panel, DELAYS_MS, "delay (ms)")
        set_titles(panel, f"{workers} workers")
    return with_key(figure, *series_key(axes[0, 0]), control_key())


def delayed(workers: int, partition: str, delay_ms: float, slow: bool) -> Cell | None:
    """An asynchronous setting with a constant delay; None for a slow worker 1 that has nothing to double."""
    cell = Cell("async", workers + 1, partition)
    if delay_ms == 0:
        return None if slow else cell
    return replace(cell, delayed=SLOW if slow else "all", delay_ms=delay_ms, delay_type="constant")


def momentum_figure(results: Results) -> Figure:
    """Accuracy against momentum, for each number of workers and kind of delay; asynchronous."""
    kinds = {
        "labels split, worker 1 slow": ("split_labels", SLOW, "constant"),
        "labels split, gaussian delays": ("split_labels", "all", "gaussian"),
        "samples split, gaussian delays": ("split_dataset", "all", "gaussian"),
    }
    figure, axes = accuracy_panels(len(kinds), len(WORKERS))
    for row, (title, (partition, who, kind)) in zip(axes, kinds.items(), strict=True):
        for panel, workers in zip(row, WORKERS, strict=True):
            for place, delay in enumerate(DELAYS_MS[1:]):
                cells = [Cell("async", workers + 1, partition, who, delay, kind, momentum) for momentum in MOMENTA]
                draw_series(panel, cells, results, f"{delay:g} ms", place, len(DELAYS_MS) - 1)
            draw_control(panel, results)
            set_places(panel, MOMENTA, "momentum")
            set_titles(panel, title, f"{workers} workers")
    return with_key(figure, *series_key(axes[0, 0]), control_key())


def staleness_figure(results: Results) -> Figure:
    """Accuracy against mean staleness of every asynchronous setting without compensation."""
    figure, axes = accuracy_panels(1, 2)
    panel_of = {"equally fast workers": axes[0, 0], "worker 1 slow": axes[0, 1]}
    for cell, group in results.measured.items():
        if cell.mode == "async" and cell.compensation == "none":
            slow = cell.delayed == SLOW
            accuracy, staleness = group.spread("test_accuracy"), group.spread("mean_staleness").mean
            panel_of["worker 1 slow" if slow else "equally fast workers"].errorbar(
                staleness + (MOMENTA.index(cell.momentum) - 1.5) * DODGE,
                accuracy.mean, np.nan_to_num(accuracy.deviation),
                color=OKABE_ITO[MOMENTA.index(cell.momentum)], alpha=0.8, **marker(cell.partition),
            )  # fmt: skip
    for title, panel in panel_of.items():
        draw_control(panel, results)
        panel.set_xlabel("mean staleness (updates)")
        set_titles(panel, title)
    return with_key(figure, *momentum_key(), *partition_key(PARTITIONS), control_key())


def compensation_figure(results: Results) -> Figure:
    """Accuracy with delay compensation against accuracy without it, of runs alike in all else, the seed included."""
    figure, axes = accuracy_panels(1, 2)
    published = {(cell, ""): accuracy for cell, accuracy in results.published.items()}
    titles = {"measured, same seed": results.by_seed, "published: without effect, so noise alone": published}
    for panel, (title, accuracies) in zip(axes[0], titles.items(), strict=True):
        panel.axline((50, 50), slope=1, color="0.6", linewidth=0.8, zorder=0)
        for (cell, seed), accuracy in accuracies.items():
            without = accuracies.get((replace(cell, compensation="none"), seed))
            if cell.compensation != "none" and without is not None:
                color = OKABE_ITO[MOMENTA.index(cell.momentum)]
                panel.errorbar(without, accuracy, color=color, alpha=0.8, **marker(cell.partition))
        panel.set_xlabel(f"{ACCURACY}, no compensation")
        panel.set_xlim(0, 100)
        set_titles(panel, title)
    axes[0, 0].set_ylabel("with compensation")
    return with_key(figure, *momentum_key(), *partition_key(PARTITIONS))


def speed_figure(results: Results) -> Figure:
    """Gradients/s against the number of workers, for each clock and network of the speed comparison."""
    comparison = speed.Comparison(results)
    figure, axes = panels(len(speed.CLOCKS), len(speed.NETWORKS), sharey="row")
    for panel, (clock, network) in zip(axes.flat, product(speed.CLOCKS, speed.NETWORKS), strict=True):
        for partition, (color, mode) in product(speed.PARTITIONS, zip(OKABE_ITO, speed.MODES, strict=False)):
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
        Line2D([], [], color=color, label=name) for color, name in zip(OKABE_ITO, speed.MODES.values(), strict=False)
    ]
    return with_key(figure, *modes, *partition_key(speed.PARTITIONS))


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
    axes: Axes, cells: Sequence[Cell | None], results: Results, name: str, place: int, of: int, line: str = "-"
) -> None:
    """One series: mean ± deviation filled, each run a faint dot, the published run hollow. Cells may be missing.

    place, of: its number among the series of the panel, which stand beside one another at each place.
    """
    color = OKABE_ITO[place]
    at = np.arange(len(cells)) + (place - (of - 1) / 2) * DODGE
    measured = [(x, results.measured[cell]) for x, cell in zip(at, cells, strict=True) if cell in results.measured]
    for x, group in measured:
        accuracies = [outcome.test_accuracy for outcome in group.outcomes]
        axes.plot([x] * len(accuracies), accuracies, ".", color=color, alpha=0.35, markersize=4)
    spreads = np.array([astuple(group.spread("test_accuracy")) for _, group in measured]).reshape(-1, 2)
    axes.errorbar(
        [x for x, _ in measured], spreads[:, 0], np.nan_to_num(spreads[:, 1]),
        color=color, linestyle=line, marker="o", markersize=5, capsize=2, linewidth=1.2, label=name,
    )  # fmt: skip
    published = [(x, results.published[cell]) for x, cell in zip(at, cells, strict=True) if cell in results.published]
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
    return {"marker": MARKERS[partition], "markersize": 5, "linewidth": 0.8, "capsize": 2}


def momentum_key() -> list[Line2D]:
    """Which colour is which momentum."""
    return [Line2D([], [], color=color, linewidth=3, label=f"momentum {momentum:g}")
            for color, momentum in zip(OKABE_ITO, MOMENTA, strict=False)]  # fmt: skip


def partition_key(partitions: dict[str, str]) -> list[Line2D]:
    """Which marker is which partition."""
    return [Line2D([], [], color="0.3", linestyle="", marker=marker(partition)["marker"], label=title)
            for partition, title in partitions.items()]  # fmt: skip


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
