"""Staleness in updates, and how far the model moved meanwhile: the distance between fetch and push.

python3 -m analysis.reports.distance_plots runs/*_log.log --summary_dir summaries/distances --plot_dir plots
python3 -m analysis.reports.distance_plots summaries/distances/distances.csv --plot_dir plots

For asynchronous runs that saved their weights after nearly every update (--saves_per_epoch) and differ in the number of
workers, momentum, learning rate and seed. Writes distances.csv, means over parts of each run, and a figure, as PNG and
PDF. The second command redraws the figure from the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.lines import Line2D

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_key, write_title
from analysis.reports.saved_weights import Measurement, read_saved
from analysis.reports.trials import run_of
from analysis.spread import counted
from common import build_model
from interface.command_line import run_script
from interface.errors import DataError
from training.record.run_log import RunLog

PARTS = 40  # of a run


@dataclass(frozen=True)
class Part:
    """Means over consecutive updates of a run, of which `update` is the last one.

    staleness: updates; distance: ‖w − w_fetched‖ / ‖w‖ in percent, with w the model that the gradient is applied to.
    """

    name: str
    seed: int
    workers: int
    momentum: float
    learning_rate: float
    update: int
    staleness: float
    distance: float


def measure(log: RunLog, _: argparse.Namespace) -> list[Part]:
    """The parts of a run. Raises DataError, which names the log, if it saved its weights too rarely."""
    config = log.config
    model = build_model(config.dataset, config.network_name)
    weights, left = read_saved(log, len(model.state_vector()))
    weights = weights[:, model.is_parameter()]
    row_of = {len(log.updates) - int(updates): row for row, updates in enumerate(left)}
    moved = np.array([
        distance(weights, row_of, version - 1, fetched)
        for version, fetched in zip(log.updates.version.tolist(), log.updates.fetched.tolist(), strict=True)
    ])  # fmt: skip
    if np.isnan(moved).mean() > 0.5:
        raise DataError(f"{log.path}: the run saved its weights too rarely: train with a larger --saves_per_epoch")
    parts = np.array_split(np.arange(len(moved)), min(PARTS, len(moved)))
    return [
        Part(run_of(log.path), log.seed, config.workers, config.momentum, config.lr, int(part[-1]) + 1,
             float(log.updates.staleness[part].mean()), float(np.nanmean(moved[part])))
        for part in parts
        if not np.isnan(moved[part]).all()
    ]  # fmt: skip


def distance(weights: np.ndarray, row_of: dict[int, int], version: int, fetched: int) -> float:
    """Between two versions, in percent of the norm of the first; NaN if one of them was not saved."""
    if version not in row_of or fetched not in row_of:
        return np.nan
    now = weights[row_of[version]]
    return 100 * float(np.linalg.norm(now - weights[row_of[fetched]]) / np.linalg.norm(now))


def distance_figure(parts: Sequence[Part], about: str) -> Figure:
    """Staleness above, distance below, against the updates: a column per number of workers, a line per run.

    about: what the runs have in common.
    """
    workers, momentums = (sorted({getattr(part, name) for part in parts}) for name in ("workers", "momentum"))
    color_of = dict(zip(momentums, cycle(OKABE_ITO), strict=False))
    figure = new_figure(4.1)
    panels = figure.subplots(2, len(workers), squeeze=False, sharex=True, sharey="row")
    for (top, bottom), count in zip(panels.T, workers, strict=True):
        here = [part for part in parts if part.workers == count]
        for name in dict.fromkeys(part.name for part in here):
            run = [part for part in here if part.name == name]
            updates, look = [part.update for part in run], {"color": color_of[run[0].momentum], "linewidth": 1}
            top.plot(updates, [part.staleness for part in run], **look)
            bottom.plot(updates, [part.distance for part in run], **look)
        set_titles(top, f"{count} worker{'s' if count > 1 else ''}")
        set_titles(bottom, "")
        bottom.set_xlabel("updates")
    panels[0, 0].set_ylabel("staleness (updates)")
    panels[1, 0].set_ylabel("distance (% of ‖w‖)")
    for axes in panels[:, 0]:
        axes.set_ylim(bottom=0)
    rates = {
        momentum: {f"{part.learning_rate:g}" for part in parts if part.momentum == momentum} for momentum in momentums
    }
    write_key(figure, [
        Line2D([], [], color=color, label=f"momentum {momentum:g}, rate {', '.join(sorted(rates[momentum]))}")
        for momentum, color in color_of.items()
    ])  # fmt: skip
    seeds = counted([len({part.seed for part in parts})])
    title = "Staleness, and how far the model moved meanwhile"
    write_title(figure, f"{title}\n{about}\neach line: one run, {seeds} per setting")
    return figure


DISTANCES = Measurement(__doc__, "distances", Part, measure, distance_figure, ("momentum", "lr"))

if __name__ == "__main__":
    run_script(DISTANCES.main)
