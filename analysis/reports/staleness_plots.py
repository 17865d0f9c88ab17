"""Draw the distribution of gradient staleness of several runs side by side, with worker 1 highlighted.

python3 -m analysis.reports.staleness_plots runs/*_log.log --output plots/staleness_distributions.png

A PDF is written beside the PNG.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.figures import (
    BLUE,
    VERMILLION,
    Figure,
    new_figure,
    save,
    set_titles,
    write_key,
    write_title,
)
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from interface.files import make_folder
from training.record.reader import read_log
from training.record.run_log import RunLog
from training.words import headline

COLUMNS = 3


def staleness_figure(logs: Sequence[RunLog]) -> Figure:
    """One panel per run: the frequency of each staleness value, in percent of all gradients that were applied."""
    columns = min(COLUMNS, len(logs))
    rows = math.ceil(len(logs) / columns)
    figure = new_figure(1.1 + 1.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, log in zip(panels.flat, logs, strict=False):
        draw_distribution(axes, log)
    for axes in panels.flat[len(logs) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("gradients (%)")
    for axes in panels[-1]:
        axes.set_xlabel("staleness (updates)")
    mean = Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="mean")
    write_key(figure, [Patch(color=VERMILLION, label="worker 1"), Patch(color=BLUE, label="all other workers"), mean])
    headlines = {headline(log.config).rpartition(",")[0] if log.config.distributed else headline(log.config)
                 for log in logs}  # fmt: skip
    write_title(figure, f"Distribution of staleness, one run per panel\n{'; '.join(sorted(headlines))}")
    return figure


def draw_distribution(axes: Axes, log: RunLog) -> None:
    """One stacked bar per staleness value, worker 1 at the bottom; a dashed line at the mean."""
    applied = log.gradients.where(~log.gradients.dropped)
    staleness, first = applied.staleness, applied.worker == 1
    bottom = np.zeros(staleness.max() + 1)
    for part, color in ((staleness[first], VERMILLION), (staleness[~first], BLUE)):
        share = 100 * np.bincount(part, minlength=len(bottom)) / len(staleness)
        axes.bar(range(len(bottom)), share, 0.8, bottom, color=color)
        bottom += share
    axes.axvline(staleness.mean(), color="black", linestyle="--", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    set_titles(axes, describe(log), f"mean {staleness.mean():.2f}")


def describe(log: RunLog) -> str:
    """What determines the staleness of a run: the number of workers, and whether worker 1 is slow."""
    workers = f"{log.config.workers} worker{'s' if log.config.workers > 1 else ''}"
    return f"{workers},\nworker 1 slow" if log.config.slow_worker_1 else workers


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("logs", metavar="LOG", type=Path, nargs="+", help="logs of runs, {base}_log.log")
    add("--output", type=Path, default=Path("staleness_distributions.png"), metavar="FILE",
        help="the figure (default staleness_distributions.png)")  # fmt: skip
    arguments = parser.parse_args()
    logs = [read_log(path) for path in arguments.logs]
    for log in logs:
        if not len(log.updates):
            raise DataError(f"{log.path}: contains no updates, so there is no staleness to draw")
    make_folder(arguments.output.parent, "--output")
    print(*(f"  {path}" for path in save(staleness_figure(logs), arguments.output)), sep="\n")


if __name__ == "__main__":
    run_script(main)
