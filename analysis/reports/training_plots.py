"""Figures of one run from its log: training curves, and validation curves. Neither trains nor evaluates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import (
    BLUE,
    OKABE_ITO,
    VERMILLION,
    Figure,
    annotate,
    new_figure,
    set_titles,
    write_key,
    write_title,
)
from catalogue import DATASETS

if TYPE_CHECKING:
    from training.record.run_log import Events, RunLog

LONGEST_MEAN = 1000  # mini-batches
CROWD = 2000  # more events than this are drawn as lines: their points would merge into bars
PARTS = 150  # of such a line
MERGED = 200  # points along one curve
EXPLODED = 100  # times its first value: a curve that grows beyond that gets a logarithmic axis


def training_figure(log: RunLog, title: str) -> Figure:
    """Loss, weight norm, cumulative updates and staleness of a run against time, one colour per worker.

    Of a synchronous run, whose staleness is 0, the time for which each worker waited in place of the staleness.
    title: lines of text; the first is the headline.
    """
    figure = new_figure(5.6)
    axes = figure.subplot_mosaic(
        [["loss", "norm", "norm"], ["updates", "staleness", "distribution"]], width_ratios=(10, 7.5, 2.5)
    )
    colors = worker_colors(log.config.workers)
    draw_loss(axes["loss"], log, colors)
    draw_weight_norm(axes["norm"], log, colors)
    draw_cumulative_updates(axes["updates"], log, colors)
    if waits_for_all(log):
        draw_waiting_times(axes["staleness"], axes["distribution"], log, colors)
    else:
        draw_staleness(axes["staleness"], log, colors)
        draw_staleness_distribution(axes["distribution"], axes["staleness"], log.updates, colors)
    diverged = first_non_finite(log.updates)
    for panel in ("loss", "norm", "updates", "staleness"):
        axes[panel].set_xlabel(f"{log.clock}-clock time (s)")
        axes[panel].set_xlim(0, 1.02 * log.seconds or 1)
        if diverged is not None:
            axes[panel].axvline(log.updates.seconds[diverged], color="black", linestyle=":", linewidth=1, zorder=0)
    write_worker_key(figure, list(axes.values()), colors)
    write_title(figure, f"{title}\n{divergence(log)}{'' if diverged is None else ' (dotted line)'}")
    return figure


def validation_figure(log: RunLog, title: str) -> Figure:
    """Training and validation loss and accuracy after each epoch, against epochs and against time.

    The early-stopping epoch, the one with the lowest validation loss, is marked. title: as in `training_figure`.
    """
    figure = new_figure(5.6)
    panels = figure.subplots(2, 2, sharey="col")
    best = early_stopping(log)
    abscissas = (
        (log.config.epoch_title, [validation.epoch for validation in log.validations]),
        (f"{log.clock}-clock time (s)", [validation.seconds for validation in log.validations]),
    )
    for row, (label, places) in zip(panels, abscissas, strict=True):
        for axes, quantity in zip(row, ("loss", "accuracy"), strict=True):
            for part, name, style in (("train", "training", {"color": BLUE, "marker": "o"}),
                                      ("val", "validation", {"color": VERMILLION, "marker": "s"})):  # fmt: skip
                values = np.array([getattr(validation, f"{part}_{quantity}") for validation in log.validations])
                axes.plot(places, np.where(np.isfinite(values), values, np.nan), label=name, **style)
            if best is not None:
                style = {"color": "black", "linestyle": "--", "linewidth": 0.8, "zorder": 1}
                axes.axvline(places[best], label=describe_best(log, best), **style)
            axes.set_xlabel(label)
    for loss, accuracy in panels:
        loss.set_ylabel("negative log-likelihood")
        accuracy.set_ylabel("accuracy (%)")
        loss.set_xlim(left=0)
        accuracy.set_xlim(left=0)
    for axes in panels[0]:
        axes.set_xlim(0.7, log.validations[-1].epoch + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes, quantity in zip(panels[0], ("Loss", "Accuracy"), strict=True):
        set_titles(axes, quantity)
    for axes in panels[1]:
        set_titles(axes, "")
    accuracies = [value for one in log.validations for value in (one.train_accuracy, one.val_accuracy)]
    frame_accuracy(panels[0, 1], accuracies, log)
    scale_to(
        panels[0, 0], np.array([[validation.train_loss, validation.val_loss] for validation in log.validations]).ravel()
    )
    write_key(figure, panels[0, 0].get_legend_handles_labels()[0], columns=3)
    write_title(figure, f"{title}\n{divergence(log)}")
    return figure


def frame_accuracy(axes: Axes, accuracies: Sequence[float], log: RunLog) -> None:
    """Show the whole axis, and say so, where no accuracy (percent) is better than twice that of a guess."""
    row = DATASETS[log.config.dataset]
    if not row.was_learned(max(accuracies, default=0)):
        axes.set_ylim(0, 100)
        annotate(axes, f"no convergence: a guess has {row.chance:g} %")


def accuracy_figure(log: RunLog, title: str) -> Figure:
    """Test accuracy against time and against updates, for a log with evaluations. title: as in `training_figure`.

    A dotted line marks the moment at which the first worker finished.
    """
    figure = new_figure(3.1)
    panels = figure.subplots(1, 2, sharey=True)
    curve = [one for one in log.evaluations if not one.first_left]
    first = next((one for one in log.evaluations if one.first_left), None)
    for axes, quantity, label in zip(panels, ("seconds", "update"), (f"{log.clock}-clock time (s)", "updates"),
                                     strict=True):  # fmt: skip
        values = [getattr(one, quantity) for one in curve]
        axes.plot(values, [one.test_accuracy for one in curve], color=BLUE, marker="o", markersize=2.5, linewidth=1)
        if first is not None:
            text = f"first worker finished: {first.test_accuracy:.2f} %"
            axes.axvline(getattr(first, quantity), color="black", linestyle=":", linewidth=1, label=text)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
    panels[0].set_ylabel("test accuracy (%)")
    frame_accuracy(panels[0], [one.test_accuracy for one in curve], log)
    set_titles(panels[0], "Test accuracy", f"{len(curve)} evaluations, off the run's clock")
    set_titles(panels[1], "", f"{curve[-1].test_accuracy:.2f} % at the last one")
    write_key(figure, panels[0].get_legend_handles_labels()[0])
    write_title(figure, title)
    return figure


def describe_best(log: RunLog, best: int) -> str:
    """The epoch after which early stopping would have ended training, with its scores."""
    at = log.validations[best]
    scores = f"validation loss {at.val_loss:.4f}, accuracy {at.val_accuracy:.2f} %"
    return f"early stopping: after epoch {at.epoch} ({scores})"


def early_stopping(log: RunLog) -> int | None:
    """The index in `log.validations` of the lowest validation loss; None if no loss is finite."""
    losses = np.array([validation.val_loss for validation in log.validations])
    finite = np.isfinite(losses)
    return int(np.where(finite, losses, np.inf).argmin()) if finite.any() else None


def divergence(log: RunLog) -> str:
    """A line saying where a run diverged; empty if it did not."""
    position = first_non_finite(log.updates)
    return "" if position is None else f"no convergence: loss or weights not finite from update {position + 1} on"


def first_non_finite(updates: Events) -> int | None:
    """The index of the first update whose loss or weight norm is NaN or infinite."""
    (positions,) = np.nonzero(~(np.isfinite(updates.loss) & np.isfinite(updates.weight_norm)))
    return int(positions[0]) if len(positions) else None


# ----------------------------------------------------------------------------------------------------
# Panels
# ----------------------------------------------------------------------------------------------------


def draw_loss(axes: Axes, log: RunLog, colors: np.ndarray) -> None:
    """Every mini-batch faint, a running mean on top; of many workers or joint updates, also the mean over workers."""
    workers = log.config.workers
    window = min(max(1, len(log.gradients) // (25 * workers)), LONGEST_MEAN)
    for events, color in by_worker(log.gradients, colors):
        curve(axes, events, events.loss, color=color, alpha=2 / (4 + workers), linewidth=0.6)
    for events, color in by_worker(log.gradients, colors):
        mean = running_mean(events.loss, window)
        curve(axes, events, mean, color=color, linewidth=0.9 if many(colors) else 1.4)
    if np.isnan(log.gradients.loss).all():  # the published study logged only the mean of each synchronous update
        curve(axes, log.updates, log.updates.loss, color="black", alpha=0.4, linewidth=0.6)
    if log.gathers or many(colors):
        mean = running_mean(log.updates.loss, window if log.gathers else min(window * workers, LONGEST_MEAN))
        curve(axes, log.updates, mean, color="black", linewidth=1.2, label="mean over workers")
        axes.legend(frameon=False)
    axes.set_ylabel("negative log-likelihood")
    scale_to(axes, log.updates.loss)
    set_titles(axes, "Training loss", f"mean of {window}, faint: each" if window > 1 else "")


def draw_weight_norm(axes: Axes, log: RunLog, colors: np.ndarray) -> None:
    """The norm of the global model, each value in the colour of the worker whose update led to it."""
    updates = log.updates
    if len(updates) > MERGED:
        curve(axes, updates, updates.weight_norm, color=BLUE, linewidth=1.5)
    else:
        curve(axes, updates, updates.weight_norm, color="0.7", linewidth=0.6)
        scatter(axes, updates, updates.weight_norm, colors)
    axes.set_ylabel("Euclidean norm of the weights")
    scale_to(axes, updates.weight_norm)
    by_sender = len(updates) <= MERGED and not log.gathers and len(colors) > 1
    set_titles(axes, "Weight norm", "colour: who sent the update" if by_sender else "")


def draw_cumulative_updates(axes: Axes, log: RunLog, colors: np.ndarray) -> None:
    """The number of gradients that the server has received from each worker."""
    widths = np.full(len(colors), 1.2) if many(colors) else np.linspace(1.2, 2.6, len(colors))[::-1]
    for width, (events, color) in zip(widths, by_worker(log.gradients, colors), strict=False):
        # Ever thinner, so that the curves of workers in lockstep all remain visible.
        curve(axes, events, np.arange(1, len(events) + 1), color=color, linewidth=width)
    every_gradient_updates = len(log.updates) == len(log.gradients)
    axes.set_ylabel("updates by the worker" if every_gradient_updates else "gradients by the worker")
    axes.set_ylim(bottom=0)
    received = len(log.gradients)
    rate = f", {received / log.seconds:,.0f}/s" if log.seconds > 0 else ""
    title = "Cumulative updates" if every_gradient_updates else "Cumulative gradients"
    dropped = f", {log.dropped} dropped" if log.dropped else ""
    set_titles(axes, title, f"{received:,}{rate}{dropped}")


def draw_staleness(axes: Axes, log: RunLog, colors: np.ndarray) -> None:
    """The staleness of every update, in the colour of its worker; of dropped gradients as well, as crosses."""
    scatter_or_lines(axes, log.updates, log.updates.staleness, colors)
    dropped = log.gradients.where(log.gradients.dropped)
    axes.scatter(
        dropped.seconds, dropped.staleness, s=10, c=color_of(dropped.worker, colors), marker="x", linewidths=0.6
    )
    axes.set_ylabel("updates since the fetch")
    top = max(4, log.updates.staleness.max(initial=0), dropped.staleness.max(initial=0))
    axes.set_ylim(-0.5 - 0.02 * top, 0.5 + 1.04 * top)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    inferred = log.header is None and log.config.depends_on_arrival
    summary = "mean and range" if len(log.updates) > CROWD else ""
    remark = "inferred" if inferred else "×: dropped" if log.dropped else summary
    set_titles(axes, "Staleness", remark)


def draw_staleness_distribution(axes: Axes, beside: Axes, updates: Events, colors: np.ndarray) -> None:
    """The frequency of each staleness value in percent, stacked by worker; shares the y axis of `beside`."""
    axes.sharey(beside)
    axes.tick_params(labelleft=False)
    axes.set_xlabel("updates (%)")
    set_titles(axes, "", f"mean {updates.staleness.mean():.2f}" if len(updates) else "")
    width = 1 + updates.staleness.max(initial=0) // 60  # values per bar: at most about 60 bars
    left = np.zeros(updates.staleness.max(initial=0) // width + 1)
    centers = np.arange(len(left)) * width + (width - 1) / 2
    for events, color in by_worker(updates, colors):
        share = 100 * np.bincount(events.staleness // width, minlength=len(left)) / len(updates)
        axes.barh(centers, share, 0.8 * width, left, color=color)
        left += share


def waits_for_all(log: RunLog) -> bool:
    """Whether a log shows how long each worker waited in the rounds of a synchronous run."""
    in_rounds = log.config.distributed and not log.config.depends_on_arrival
    return in_rounds and log.config.rule.waits and log.config.workers > 1 and len(log.gradients) > len(log.updates)


def waiting_times(log: RunLog) -> tuple[Events, np.ndarray]:
    """The gradients that were applied, and for how long, ms (n,), each waited for the update that applied it."""
    applied = log.gradients.where(~log.gradients.dropped & (log.gradients.fetched < len(log.updates)))
    return applied, 1000 * (log.updates.seconds[applied.fetched] - applied.seconds)


def draw_waiting_times(axes: Axes, beside: Axes, log: RunLog, colors: np.ndarray) -> None:
    """For how long each worker waited for the others in each round; beside: how these times are distributed."""
    applied, waited = waiting_times(log)
    scatter_or_lines(axes, applied, waited, colors)
    axes.set_ylabel("wait for the round's end (ms)")
    top = max(float(waited.max(initial=0)), 1e-3)
    axes.set_ylim(-0.02 * top, 1.04 * top)
    set_titles(axes, "Waiting times", f"mean {waited.mean():.3g} ms" if len(waited) else "")
    beside.sharey(axes)
    beside.tick_params(labelleft=False)
    beside.set_xlabel("gradients (%)")
    set_titles(beside, "")
    edges = np.linspace(0, top, 41)
    parts = [waited[applied.worker == worker] for worker in np.unique(applied.worker)]
    if not parts:
        return
    beside.hist(
        parts, edges, weights=[np.full(len(part), 100 / max(1, len(waited))) for part in parts], stacked=True,
        orientation="horizontal", color=[color_of(worker, colors) for worker in np.unique(applied.worker)],
    )  # fmt: skip


FIXED_ACCURACY = (0, 100)


def fix_axes(figure: Figure, log: RunLog) -> None:
    """Give losses, accuracies and epochs limits that do not depend on the run: figures can be laid side by side.

    A loss may be 1.3 times that of a guess.
    """
    losses = (0, max(3.0, 1.3 * math.log(DATASETS[log.config.dataset].labels)))
    for axes in figure.axes:
        label = axes.get_ylabel()
        if "negative log-likelihood" in label:
            axes.set_yscale("linear")
            axes.set_ylim(losses)
        elif "accuracy" in label:
            axes.set_ylim(FIXED_ACCURACY)
        if axes.get_xlabel() == log.config.epoch_title:
            axes.set_xlim(0, log.config.epochs + 0.3)


# ----------------------------------------------------------------------------------------------------
# Shared by the panels
# ----------------------------------------------------------------------------------------------------


def worker_colors(workers: int) -> np.ndarray:
    """(workers, 4) RGBA: the Okabe-Ito palette for a few workers, viridis without its palest end for many."""
    if workers <= len(OKABE_ITO):
        return ListedColormap(OKABE_ITO)(range(workers))
    return colormaps["viridis"](np.linspace(0, 0.93, workers))


def many(colors: np.ndarray) -> bool:
    """Whether there are too many workers for a legend with their names."""
    return len(colors) > len(OKABE_ITO)


def color_of(worker: np.ndarray | int, colors: np.ndarray) -> np.ndarray:
    """The colours of workers 1…N; black for 0, which stands for all of them."""
    return np.vstack(([0, 0, 0, 1], colors))[worker]


def by_worker(events: Events, colors: np.ndarray) -> list[tuple[Events, np.ndarray]]:
    """The events of each worker that has any, with its colour."""
    return [(events.of_worker(worker), color_of(worker, colors)) for worker in np.unique(events.worker)]


def curve(axes: Axes, events: Events, values: np.ndarray, **style: Any) -> None:
    """A line through the events; a point if there is only one."""
    axes.plot(events.seconds, values, marker="." if len(events) == 1 else "", **style)


def scatter(axes: Axes, events: Events, values: np.ndarray, colors: np.ndarray) -> None:
    """One point per event, in chronological order, so that no worker hides the others."""
    axes.scatter(events.seconds, values, s=4, c=color_of(events.worker, colors), linewidths=0, alpha=0.8, zorder=3)


def scatter_or_lines(axes: Axes, events: Events, values: np.ndarray, colors: np.ndarray) -> None:
    """Points; for a crowd of events, the mean of each worker as a line in a band from its lowest to its highest value.

    Both are of PARTS equal parts of the worker's events.
    """
    if len(events) <= CROWD:
        scatter(axes, events, values, colors)
        return
    for worker in np.unique(events.worker):
        mine = events.worker == worker
        seconds, parts = (np.array_split(column[mine], PARTS) for column in (events.seconds, values))
        at, mean, low, high = (
            [summary(part) for part in columns if len(part)]
            for columns, summary in ((seconds, np.mean), (parts, np.mean), (parts, np.min), (parts, np.max))
        )
        color = color_of(worker, colors)
        axes.fill_between(at, low, high, color=color, alpha=0.12 if many(colors) else 0.2, linewidth=0)
        axes.plot(at, mean, color=color, linewidth=1 if many(colors) else 1.6)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """(n,): centred means over the finite ones among `window` values; NaN where the value itself is not finite."""
    if len(values) == 0:
        return values
    finite = np.isfinite(values)
    kernel = np.ones(min(window, len(values)))  # no cumulative sums: after a spike they would lose precision
    sums, counts = (np.convolve(part, kernel, "same") for part in (np.where(finite, values, 0), finite))
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def scale_to(axes: Axes, values: np.ndarray) -> None:
    """Use a logarithmic axis for exploding values; annotate the panel if it has no finite ones."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        axes.set_yticks([])
        annotate(axes, "no finite values" if len(values) else "no updates")
    elif finite.max() > EXPLODED * finite[0] > 0:
        axes.set_yscale("log")


def write_worker_key(figure: Figure, axes: Sequence[Axes], colors: np.ndarray) -> None:
    """Show which colour is which worker: a legend for a few workers, a colour bar for many, nothing for one."""
    if many(colors):
        bounds = np.arange(len(colors) + 1) + 0.5
        mappable = ScalarMappable(BoundaryNorm(bounds, len(colors)), ListedColormap(colors))
        bar = figure.colorbar(mappable, ax=axes, location="right", aspect=50, pad=0.02, label="worker")
        bar.ax.yaxis.set_major_locator(MaxNLocator(11, integer=True))
        bar.ax.minorticks_off()
    elif len(colors) > 1:
        handles = [Line2D([], [], color=color, linewidth=3, label=f"Worker {worker}")
                   for worker, color in enumerate(colors, start=1)]  # fmt: skip
        write_key(figure, handles, columns=len(handles))
