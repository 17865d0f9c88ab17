"""Figures of the second edition's experiments, from their rows: accuracy over time, and over two factors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.lines import Line2D

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_key, write_title
from analysis.reports.curves import MEANING, accuracy_over_time, draw_curves, frame
from analysis.reports.trials import Trial
from analysis.spread import counted, half_width
from analysis.study.design import Cell, Experiment, diverged
from catalogue import DATASETS
from training.config import RunConfig

Runs = Mapping[Cell, Mapping[int, Trial]]  # cell → seed → run


def about(experiment: Experiment, runs: Runs) -> str:
    """Network, data set and seeds."""
    config: RunConfig = next(trial for by_seed in runs.values() for trial in by_seed.values()).config
    seeds = counted([len(by_seed) for by_seed in runs.values()])
    return f"{config.network_name} on {DATASETS[config.dataset].title}, {config.epochs} epochs, tuned rates; {seeds}"


def stopping_figure(experiment: Experiment, runs: Runs) -> Figure:
    """Accuracy over virtual time with a slow worker, by partition and workers, if all or each do their epochs."""
    partitions, workers = (list(experiment.factors[name]) for name in ("partition", "workers"))
    figure = new_figure(1.4 + 1.5 * len(partitions))
    panels = figure.subplots(len(partitions), len(workers), squeeze=False, sharex="col", sharey="row")
    colors = {"epochs": OKABE_ITO[0], "total": OKABE_ITO[1]}
    for row, partition in zip(panels, partitions, strict=True):
        drawn = []
        for axes, count in zip(row, workers, strict=True):
            for stop, color in colors.items():
                trials = list(runs[partition, count, "one slow", stop].values())
                if not trials:
                    continue
                drawn += accuracy_over_time(trials)
                draw_curves(axes, accuracy_over_time(trials), color)
                if stop == "epochs":
                    firsts = [(trial.outcome.first_left_seconds, trial.outcome.first_left_accuracy) for trial in trials]
                    axes.plot(*zip(*firsts, strict=True), "o", color=color, markersize=2.5, alpha=0.6)
            set_titles(axes, f"{partition}, {count} workers" if axes is row[0] else f"{count} workers")
        if drawn:
            frame(row[0], drawn)
        row[0].set_ylabel("test accuracy (%)")
    for axes in panels[-1]:
        axes.set_xlabel("virtual-clock time (s)")
    write_key(figure, [
        *(Line2D([], [], color=color, label=f"--stop {stop}") for stop, color in colors.items()),
        Line2D([], [], color=colors["epochs"], marker="o", linestyle="", markersize=3, label="first worker finishes"),
    ])  # fmt: skip
    write_title(figure, f"One worker at half speed\n{about(experiment, runs)}\n{MEANING}")
    return figure


def momentum_figure(experiment: Experiment, runs: Runs) -> Figure:
    """Accuracy by the number of workers and momentum, at the tuned rate and at the matched one."""
    workers, momenta, rates = (list(experiment.factors[name]) for name in ("workers", "momentum", "rate"))
    figure = new_figure(1.2 + 0.42 * len(workers))
    panels = figure.subplots(1, len(rates), sharey=True)
    means = {cell: mean_accuracy(by_seed) for cell, by_seed in runs.items()}
    finite = [mean for mean in means.values() if math.isfinite(mean)]
    low, high = min(finite), max(finite)
    for axes, rate in zip(panels, rates, strict=True):
        grid = np.array([[means[count, momentum, rate] for momentum in momenta] for count in workers])
        image = axes.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for (row, column), mean in np.ndenumerate(grid):
            text = in_cell(runs[workers[row], momenta[column], rate])
            color = "white" if mean < (low + high) / 2 else "black"
            axes.text(column, row, text, ha="center", va="center", linespacing=1.1, color=color)
        axes.set_xticks(range(len(momenta)), momenta)
        axes.set_yticks(range(len(workers)), workers)
        axes.set_xlabel("momentum")
        axes.set_title(f"{rate} rate", loc="left", fontweight="bold")
    panels[0].set_ylabel("workers")
    figure.colorbar(image, ax=panels, label="test accuracy (%)", fraction=0.04)
    meaning = "mean and 95 % interval; × n: runs that diverged, left out"
    write_title(figure, f"{experiment.title}\n{about(experiment, runs)}\n{meaning}")
    return figure


def mean_accuracy(by_seed: Mapping[int, Trial]) -> float:
    """Of the runs that did not diverge, percent; NaN if all did."""
    values = accuracies(by_seed)
    return statistics.fmean(values) if values else math.nan


def accuracies(by_seed: Mapping[int, Trial]) -> list[float]:
    """Test accuracy of each run that did not diverge."""
    return [trial.outcome.test_accuracy for trial in by_seed.values() if not diverged(trial)]


def in_cell(by_seed: Mapping[int, Trial]) -> str:
    """Mean, interval and diverged runs."""
    values = accuracies(by_seed)
    lost = len(by_seed) - len(values)
    lines = [f"{statistics.fmean(values):.1f}", f"± {half_width(values):.1f}"] if len(values) > 1 else ["–"]
    return "\n".join(lines + [f"× {lost}"] * bool(lost))


FIGURES: dict[str, Callable[[Experiment, Runs], Figure]] = {
    "partitions": stopping_figure,
    "momentum": momentum_figure,
}  # experiment → a figure of its own, beside the forest plot of its contrasts
