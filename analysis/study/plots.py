"""Figures of the study: what was measured, with the published single runs beside it. Reads rows, never trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle, product

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import OKABE_ITO, new_figure, set_titles, write_key, write_title
from analysis.reports.sweep_plots import (
    ACCURACY,
    FAILED,
    Point,
    Sweep,
    describe,
    draw_failures,
    draw_mean,
    single_key,
    sweep_figure,
)
from analysis.reports.trials import Group
from analysis.study import speed
from analysis.study.published import NOT_DISTRIBUTED, SAME_FOR_ALL, Results, uncompensated
from catalogue import PARTITIONS
from training.config import RunConfig
from training.settings import MODE_TITLES

# ----------------------------------------------------------------------------------------------------
# Accuracy against what the study varies
# ----------------------------------------------------------------------------------------------------


def workers(config: RunConfig) -> tuple[int, str]:
    """Aspect of a setting, as the next ones: a value to sort by, and its name."""
    return config.workers, f"{config.workers} worker{'s' if config.workers > 1 else ''}"


def workers_number(config: RunConfig) -> tuple[int, str]:
    return config.workers, str(config.workers)


def mode(config: RunConfig) -> tuple[bool, str]:
    return config.depends_on_arrival, MODE_TITLES[config.mode]


def partition(config: RunConfig) -> tuple[int, str]:
    return list(PARTITIONS).index(config.partition), PARTITIONS[config.partition].short_title


def delay(config: RunConfig) -> tuple[float, str]:
    mean = config.delay_mean_ms if config.delayed else 0.0
    return mean, f"{mean:g}"


def delay_in_words(config: RunConfig) -> tuple[float, str]:
    mean, text = delay(config)
    return mean, f"delay {text} ms"


def slow_worker(config: RunConfig) -> tuple[bool, str]:
    return config.slow_worker_1, "worker 1 delayed twice as long" if config.slow_worker_1 else "equally fast workers"


def momentum(config: RunConfig) -> tuple[float, str]:
    return config.momentum, f"{config.momentum:g}"


def kind_of_delay(config: RunConfig) -> tuple[tuple, str]:
    slow = ", worker 1 twice as long" if config.slow_worker_1 else ""
    place, split = partition(config)
    return (place, config.slow_worker_1), f"{split}, {config.delay_type} delays{slow}"


def points(results: Results, included: Callable[[RunConfig], bool]) -> list[Point]:
    """What is known of each distributed setting without compensation, of these."""
    settings = [*results.measured, *(one for one in results.published if one not in results.measured)]
    return [
        point_of(setting, results)
        for setting in settings
        if setting.distributed and not setting.compensation and included(setting)
    ]


def point_of(setting: RunConfig, results: Results) -> Point:
    """A setting as published and, where it was, as measured."""
    published, group = results.published.get(setting), results.measured.get(setting)
    return Point(setting, published=published) if group is None else point_of_group(group, published)


def point_of_group(group: Group, published: float | None = None) -> Point:
    """A setting that was measured, and its published accuracy if there is one."""
    accuracies = tuple(outcome.test_accuracy for outcome in group.outcomes)
    return Point(group.config, accuracies, group.converged, published)


def workers_figure(results: Results) -> Figure:
    """Accuracy against the number of workers, synchronous and asynchronous, nobody delayed."""
    sweep = Sweep("Test accuracy by the number of workers, no delays", "workers", workers_number, mode, partition)
    return sweep_figure(sweep, points(results, lambda one: not one.delayed and as_recommended(one)), control(results))


def delays_figure(results: Results) -> Figure:
    """Accuracy against a constant delay, for each number of workers; asynchronous."""
    sweep = Sweep("Test accuracy by a constant delay, asynchronous SGD", "delay (ms)", delay, slow_worker, workers,
                  partition)  # fmt: skip

    def included(config: RunConfig) -> bool:
        constant = not config.delayed or config.delay_type == "constant"
        return config.depends_on_arrival and constant and as_recommended(config)

    return sweep_figure(sweep, points(results, included), control(results))


def momentum_figure(results: Results) -> Figure:
    """Accuracy against momentum, for each number of workers and kind of delay; asynchronous."""
    sweep = Sweep("Test accuracy by momentum, asynchronous SGD", "momentum", momentum, delay_in_words, workers,
                  kind_of_delay)  # fmt: skip
    return sweep_figure(sweep, points(results, lambda one: one.depends_on_arrival and one.delayed), control(results))


def as_recommended(config: RunConfig) -> bool:
    """Whether a setting has the momentum that the study has where it does not vary it."""
    return config.momentum == SAME_FOR_ALL["momentum"]


def control(results: Results) -> Point:
    """The training without distribution, with which all settings are compared."""
    return point_of(NOT_DISTRIBUTED, results)


# ----------------------------------------------------------------------------------------------------
# Scatter plots, and speed
# ----------------------------------------------------------------------------------------------------


def staleness_figure(results: Results) -> Figure:
    """Accuracy against mean staleness of every asynchronous setting without compensation."""
    drawn = {
        setting: group
        for setting, group in results.measured.items()
        if setting.depends_on_arrival and not setting.compensation
    }
    described = [point_of_group(group) for group in drawn.values()]
    look, kinds = Look.of(drawn), sorted({slow_worker(setting) for setting in drawn}) or [(False, "")]
    figure = new_figure(3.0)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    failures = []
    for axes, kind in zip(panels, kinds, strict=True):
        here = {setting: group for setting, group in drawn.items() if slow_worker(setting) == kind}
        for setting, group in here.items():
            if group.converged:
                draw_mean(axes, staleness(group), group.spread("test_accuracy"), **look.of_point(setting))
        failures.append([(staleness(group), FAILED | {"color": look.colors[setting.momentum]})
                         for setting, group in here.items() if not group.converged])  # fmt: skip
        axes.axhline(np.mean(control(results).accuracies or np.nan), color="0.5", linestyle=":", linewidth=0.8)
        axes.set_xlabel("mean staleness (updates)")
        set_titles(axes, kind[1])
    draw_failures(panels, failures)
    panels[0].set_ylabel(ACCURACY)
    failed = Line2D([], [], color="0.3", **FAILED, label="no convergence")
    write_key(figure, [*look.key(), *single_key(described), *[failed] * any(failures),
                       Line2D([], [], color="0.5", linestyle=":", linewidth=0.8, label="not distributed")])  # fmt: skip
    write_title(figure, f"Test accuracy by mean staleness, asynchronous SGD\n{describe(described)}")
    return figure


def staleness(group: Group) -> float:
    """Mean over all updates and seeds of a setting."""
    return group.spread("mean_staleness").mean


def compensation_figure(results: Results) -> Figure:
    """Accuracy with delay compensation against accuracy without it, of runs alike in all else, the seed included."""
    published = {(setting, 0): accuracy for setting, accuracy in results.published.items()}
    pairs = {"measured, same seed": paired(results.by_seed),
             "published: noise alone": paired(published)}  # fmt: skip
    look = Look.of(setting for found in pairs.values() for setting, _, _ in found)
    figure = new_figure(4.75)
    panels = figure.subplots(1, len(pairs), sharex=True, sharey=True)
    for axes, (title, found) in zip(panels, pairs.items(), strict=True):
        axes.axline((50, 50), slope=1, color="0.6", linewidth=0.8, zorder=0)
        for setting, without, accuracy in found:
            axes.plot(without, accuracy, linestyle="", alpha=0.7, **look.of_point(setting))
        axes.set(xlabel=f"{ACCURACY}, no compensation", box_aspect=1)
        set_titles(axes, title, f"{len(found)} pairs")
    panels[0].set_ylabel(f"{ACCURACY}, compensation")
    write_key(figure, look.key())
    network = describe([point_of_group(group) for group in results.measured.values()]).partition(",")[0]
    write_title(
        figure,
        "Test accuracy with and without delay compensation, asynchronous SGD\n"
        f"{network}; each point: a run with and a run without; above the line, compensation is better",
    )
    return figure


def paired(accuracies: Mapping[tuple[RunConfig, int], float]) -> list[tuple[RunConfig, float, float]]:
    """Compensated settings, with the accuracies of the same run without compensation and with it."""
    return [
        (setting, without, accuracy)
        for (setting, seed), accuracy in accuracies.items()
        if setting.compensation and (without := accuracies.get((uncompensated(setting), seed))) is not None
    ]


def speed_figure(results: Results) -> Figure:
    """Gradients/s against the number of workers, for each clock and network of the speed comparison."""
    comparison = speed.Comparison(results)
    places = comparison.places()
    clocks, networks = (list(dict.fromkeys(place[axis] for place in places)) for axis in (0, 1))
    colors = dict(zip(speed.COMPARED_MODES, OKABE_ITO, strict=False))
    figure = new_figure(1.3 + 1.7 * max(1, len(clocks)))
    panels = figure.subplots(max(1, len(clocks)), max(1, len(networks)), squeeze=False, sharex=True)
    drawn: list[Point] = []
    for axes, (clock, network) in zip(panels.flat, product(clocks or [""], networks or [""]), strict=True):
        for split, name in product(speed.COMPARED_PARTITIONS, speed.COMPARED_MODES):
            found = comparison.by_workers(clock, network, split, name)
            look = {"color": colors[name], "marker": PARTITIONS[split].marker}
            rates = [speed.gradients_per_second(runs).mean for runs in found.values()]
            axes.plot(list(found), rates, color=look["color"], linewidth=0.8, alpha=0.7)
            for count, runs in found.items():
                draw_mean(axes, count, speed.gradients_per_second(runs), **look)
                drawn.append(point_of_group(runs))
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        set_titles(axes, network, f"{clock} clock" if clock else "")
    for axes in panels[-1]:
        axes.set_xticks(sorted({point.config.workers for point in drawn}))
        axes.set_xlabel("workers")
    for axes in panels[:, 0]:
        axes.set_ylabel("gradients / s")
    lines = [Line2D([], [], color=color, label=MODE_TITLES[name]) for name, color in colors.items()]
    write_key(figure, [*lines, *partition_key([point.config for point in drawn]), *single_key(drawn)])
    write_title(figure, f"Gradients per second, of all workers together, no delays\n{describe(drawn)}")
    return figure


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


@dataclass(frozen=True)
class Look:
    """A colour for each momentum value that occurs, and the key of the partitions that do."""

    colors: dict[float, str]
    partitions: list[Line2D]

    @classmethod
    def of(cls, settings: Iterable[RunConfig]) -> Look:
        """The colours and markers that tell these settings apart."""
        settings = list(settings)
        values = sorted({setting.momentum for setting in settings})
        return cls(dict(zip(values, cycle(OKABE_ITO), strict=False)), partition_key(settings))

    def of_point(self, setting: RunConfig) -> dict[str, str]:
        """Colour and marker of a setting."""
        return {"color": self.colors[setting.momentum], "marker": PARTITIONS[setting.partition].marker}

    def key(self) -> list[Line2D]:
        """The key of the colours and markers."""
        return [
            *(Line2D([], [], color=color, linewidth=3, label=f"momentum {value:g}")
              for value, color in self.colors.items()),
            *self.partitions,
        ]  # fmt: skip


def partition_key(settings: Iterable[RunConfig]) -> list[Line2D]:
    """Which marker is which of the partitions that occur."""
    found = {setting.partition for setting in settings}
    return [Line2D([], [], color="0.3", linestyle="", marker=row.marker, label=row.short_title)
            for name, row in PARTITIONS.items() if name in found]  # fmt: skip
