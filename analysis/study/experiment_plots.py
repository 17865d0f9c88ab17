"""Figures of the designed experiments, from their rows: accuracy over time, and over two factors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_key, write_title
from analysis.reports.curves import Curve, accuracy_over_time, draw_curves, frame, meaning
from analysis.reports.trials import Trial, TrialOutcome, time_to, training_loss_curve
from analysis.spread import counted, half_width
from analysis.study.design import Experiment, Runs, diverged
from catalogue import DATASETS

TARGET = 85.0  # percent
LEFT_OUT = "× n: runs that diverged, left out"


def setup(runs: Runs) -> str:
    """Network, data set and epochs; several, if runs differ in them."""
    configs = [trial.config for by_seed in runs.values() for trial in by_seed.values()]
    return " or ".join(dict.fromkeys(
        f"{config.network_name} on {DATASETS[config.dataset].title}, {config.epochs} epochs"
        for config in configs
    ))  # fmt: skip


def about(experiment: Experiment, runs: Runs) -> str:
    """What all runs have in common, how their learning rates were found, and the number of seeds."""
    seeds = counted(seeds_of(runs))
    rates = "" if "rate" in experiment.factors else ", tuned rates"
    return f"{setup(runs)}{rates}; {seeds}"


def seeds_of(runs: Runs) -> list[int]:
    """How many each cell has."""
    return [len(by_seed) for by_seed in runs.values()]


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
                    drawn.append(tuple(np.array(firsts).T))
                    axes.plot(*drawn[-1], "o", color=color, markersize=2.5, alpha=0.6)
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
    write_title(figure, f"One worker at half speed\n{about(experiment, runs)}\n{meaning(seeds_of(runs))}")
    return figure


def momentum_figure(experiment: Experiment, runs: Runs) -> Figure:
    """Accuracy by the number of workers and momentum, at the tuned rate and at the matched one."""
    workers, momentums, rates = (list(experiment.factors[name]) for name in ("workers", "momentum", "rate"))
    figure = new_figure(1.2 + 0.42 * len(workers))
    panels = figure.subplots(1, len(rates), sharey=True)
    means = {cell: mean_accuracy(by_seed) for cell, by_seed in runs.items()}
    finite = [mean for mean in means.values() if math.isfinite(mean)]
    low, high = min(finite), max(finite)
    for axes, rate in zip(panels, rates, strict=True):
        grid = np.array([[means[count, momentum, rate] for momentum in momentums] for count in workers])
        image = axes.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for (row, column), mean in np.ndenumerate(grid):
            text = in_cell(runs[workers[row], momentums[column], rate])
            color = "white" if mean < (low + high) / 2 else "black"
            axes.text(column, row, text, ha="center", va="center", linespacing=1.1, color=color)
        axes.set_xticks(range(len(momentums)), momentums)
        axes.set_yticks(range(len(workers)), workers)
        axes.set_xlabel("momentum")
        axes.set_title(f"{rate} rate", loc="left", fontweight="bold")
    panels[0].set_ylabel("workers")
    figure.colorbar(image, ax=panels, label="test accuracy (%)", fraction=0.04)
    write_title(figure, f"{experiment.title}\n{about(experiment, runs)}\nmean and 95 % interval; {LEFT_OUT}")
    return figure


def gap_figure(experiment: Experiment, runs: Runs) -> Figure:
    """Test loss less training loss against training loss, at the tuned rates: one panel per kind of training."""
    kinds, momentums = (list(experiment.factors[name]) for name in ("training", "momentum"))
    figure = new_figure(2.9)
    panels = figure.subplots(1, len(kinds), sharex=True, sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        for momentum, color in zip(momentums, OKABE_ITO, strict=False):
            curves = [gap(trial.outcome) for trial in runs[kind, momentum, "tuned", "the end"].values()
                      if not diverged(trial)]  # fmt: skip
            if curves:
                draw_curves(axes, curves, color, limits=(-math.inf, math.inf))
        axes.set_xlabel("training loss")
        axes.xaxis.set_major_formatter(lambda negative, _: f"{abs(negative):g}")
        set_titles(axes, kind)
    panels[0].set_ylabel("test loss − training loss")
    write_key(figure, [Line2D([], [], color=color, label=f"momentum {momentum}")
                       for momentum, color in zip(momentums, OKABE_ITO, strict=False)])  # fmt: skip
    write_title(
        figure, f"The generalisation gap against training loss\n{about(experiment, runs)}\n{meaning(seeds_of(runs))}"
    )
    return figure


def gap(outcome: TrialOutcome) -> Curve:
    """At each evaluation that finds it lower than before: minus the training loss, and what the test loss is more."""
    updates, losses = training_loss_curve(outcome)
    at = [update for _, update, _ in outcome.evaluations]
    training = np.minimum.accumulate(np.interp(at, updates, losses))
    first = np.concatenate([[True], np.diff(training) < 0])
    return -training[first], (np.array(outcome.test_losses) - training)[first]


def algorithms_figure(experiment: Experiment, runs: Runs) -> Figure:
    """Accuracy of each algorithm at the end, and the time to the TARGET, by partition and speeds."""
    names, partitions, speeds = (list(experiment.factors[name]) for name in ("algorithm", "partition", "speeds"))
    figure = new_figure(1.3 + 0.17 * len(names) * len(partitions))
    panels = figure.subplots(len(partitions), 2 * len(speeds), sharex="col", sharey=True)
    for row, partition in zip(panels, partitions, strict=True):
        for (left, right), speed in zip(row.reshape(-1, 2), speeds, strict=True):
            for place, name in enumerate(names):
                trials = list(runs[name, partition, speed].values())
                values = accuracies(runs[name, partition, speed])
                if values:
                    half = half_width(values) if len(values) > 1 else None
                    left.errorbar(statistics.fmean(values), place, xerr=half, fmt="o", color=OKABE_ITO[0], markersize=3)
                if lost := len(trials) - len(values):
                    left.annotate(f"× {lost}", (0, place), xycoords=("axes fraction", "data"), xytext=(2, 0),
                                  textcoords="offset points", va="center", color=OKABE_ITO[5])  # fmt: skip
                draw_times(right, trials, place)
            set_titles(left, f"{partition}, {speed}")
            set_titles(right, "")
        row[0].set_yticks(range(len(names)), names)
    for left, right in panels[-1].reshape(-1, 2):
        low, high = left.get_xlim()
        left.set_xlim(low - 0.3 * (high - low), high)  # so that no interval reaches the × n at its left
        left.set_xlabel("accuracy (%)")
        right.set_xlabel(f"time to {TARGET:g} % (s)")
    panels[0, 0].invert_yaxis()
    write_key(figure, [
        Line2D([], [], color=OKABE_ITO[0], marker="o", markersize=3, label="mean and 95 % interval"),
        Line2D([], [], color=OKABE_ITO[1], marker="|", linestyle="", label="a run that reached it"),
        Line2D([], [], color="0.5", marker=">", linestyle="", markersize=3, label="one that ended before (censored)"),
    ])  # fmt: skip
    write_title(figure, f"{experiment.title}\n{about(experiment, runs)}; {LEFT_OUT}")
    return figure


def draw_times(axes: Axes, trials: Sequence[Trial], place: int) -> None:
    """When each run reached the target; a run that did not, at its end."""
    for trial in trials:
        reached = time_to(TARGET, trial.outcome)
        if reached:
            axes.plot(reached[0], place, "|", color=OKABE_ITO[1], markersize=5)
        else:
            axes.plot(trial.outcome.seconds, place, ">", color="0.5", markersize=2.5)


def mean_accuracy(by_seed: Mapping[int, Trial]) -> float:
    """Mean accuracy of the runs that did not diverge, percent; NaN if all did."""
    values = accuracies(by_seed)
    return statistics.fmean(values) if values else math.nan


def accuracies(by_seed: Mapping[int, Trial]) -> list[float]:
    """Test accuracy of each run that did not diverge."""
    return [trial.outcome.test_accuracy for trial in by_seed.values() if not diverged(trial)]


def in_cell(by_seed: Mapping[int, Trial]) -> str:
    """Mean, interval and diverged runs."""
    values = accuracies(by_seed)
    lost = len(by_seed) - len(values)
    lines = [f"{statistics.fmean(values):.1f}"] if values else ["–"]
    lines += [f"± {half_width(values):.1f}"] * (len(values) > 1)
    return "\n".join(lines + [f"× {lost}"] * bool(lost))


FIGURES: dict[str, Callable[[Experiment, Runs], Figure]] = {
    "partitions": stopping_figure,
    "momentum": momentum_figure,
    "regulariser": gap_figure,
    "remedies": algorithms_figure,
}  # experiment → a figure of its own, beside the forest plot of its contrasts
