"""How runs end: test accuracy at each saved row of their weights, over the last updates.

python3 -m analysis.reports.last_updates runs/*_log.log --plot_dir plots
python3 -m analysis.reports.last_updates summaries/last_updates/last_updates.csv --plot_dir plots

For runs of one setting, but for the number of workers, momentum and seed, trained with --saves_per_epoch. Writes
last_updates.csv, one row for each of those weights; last_updates.md, the accuracy when the first worker finished and at
the end; and a figure of its course, as PNG and PDF. The second command redraws the figure from the numbers.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from tqdm import tqdm

from analysis.figures import OKABE_ITO, Figure, new_figure, save, set_titles, write_key, write_title
from analysis.flags import add_data_dir, add_plot_dir
from analysis.reports.saved_weights import (
    check_alike,
    first_finished,
    read_asynchronous,
    read_numbers,
    read_saved,
    write_numbers,
)
from analysis.reports.trials import LOG_ENDING, Trials, run_of
from analysis.spread import Spread, counted
from analysis.tables import markdown_table, write_text
from common import build_model, load_dataset
from evaluation import evaluate
from interface.command_line import ArgumentParser, Interval, run_script
from interface.files import make_folder
from training.record.run_log import RunLog
from training.words import in_common

LAST = 300  # updates
FIGURE = "last_updates"

# ----------------------------------------------------------------------------------------------------
# What is measured
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedAccuracy:
    """Accuracy of saved weights on the whole test set, percent, and the updates between them and the end.

    first_finished: updates between the last one of the first worker to finish and the end.
    """

    name: str
    seed: int
    workers: int
    momentum: float
    first_finished: int
    updates_left: int
    test_accuracy: float


@dataclass(frozen=True)
class Ending:
    """The last updates of a run.

    left (n,): updates between some saved weights and the end; accuracy (n,): of these weights, on the whole test set,
    in percent. first_finished: updates between the last one of the first worker to finish and the end.
    """

    name: str
    seed: int
    workers: int
    momentum: float
    first_finished: int
    left: np.ndarray
    accuracy: np.ndarray

    @property
    def place_when_finished(self) -> int:
        """Where in `left` the last weights before the first worker finished are."""
        return int(np.flatnonzero(self.left >= self.first_finished)[-1])

    @property
    def accuracy_when_finished(self) -> float:
        """Test accuracy of those weights, percent."""
        return float(self.accuracy[self.place_when_finished])

    @property
    def numbers(self) -> list[SavedAccuracy]:
        """One for each of the weights."""
        return [
            SavedAccuracy(self.name, self.seed, self.workers, self.momentum, self.first_finished, left, accuracy)
            for left, accuracy in zip(self.left.tolist(), self.accuracy.tolist(), strict=True)
        ]


def measure(logs: Sequence[RunLog], last: int, data_dir: str) -> list[Ending]:
    """Test the weights that runs saved over the last updates, or since just before the first worker finished.

    Raises DataError, which names the file, for a run whose weights cannot be used.
    """
    config = logs[0].config
    test = load_dataset(config.dataset, data_dir, config.changed_data).test
    model = build_model(config.dataset, config.network_name)
    endings = []
    for log in tqdm(logs, unit=" runs", leave=False, dynamic_ncols=True, disable=None):
        weights, left = read_saved(log, len(model.state_vector()))
        finished = first_finished(log)
        chosen = left <= max(last, left[left >= finished].min())
        accuracy = []
        for row in weights[chosen]:
            model.load_state_vector(torch.from_numpy(row))
            accuracy.append(evaluate(test, model).accuracy)
        endings.append(
            Ending(run_of(log.path), log.seed, log.config.workers, log.config.momentum, finished,
                   left[chosen], np.array(accuracy))
        )  # fmt: skip
    return endings


# ----------------------------------------------------------------------------------------------------
# What is reported
# ----------------------------------------------------------------------------------------------------


def markdown(endings: Sequence[Ending]) -> str:
    """A row for each number of workers and momentum."""
    rows = []
    for (workers, momentum), runs in by_setting(endings).items():
        before = Spread.of([one.accuracy_when_finished for one in runs])
        end = Spread.of([one.accuracy[-1] for one in runs])
        finished = Spread.of([one.first_finished for one in runs])
        lost = Spread.of([one.accuracy_when_finished - one.accuracy[-1] for one in runs])
        rows.append([str(workers), f"{momentum:g}", str(len(runs)), f"{finished:.0f}", f"{before:.1f}", f"{end:.1f}",
                     f"{lost:.1f}"])  # fmt: skip
    titles = ("workers", "momentum", "runs", "first worker finishes, updates before the end",
              "test accuracy then, %", "at the end, %", "lost")  # fmt: skip
    about = (
        "Mean ± sample standard deviation over the seeds. Then: with the last weights saved before the first worker "
        "had no mini-batch left."
    )
    return f"{about}\n\n{markdown_table(titles, rows)}"


def by_setting(endings: Sequence[Ending]) -> dict[tuple[int, float], list[Ending]]:
    """(workers, momentum) → its runs, sorted."""
    runs = defaultdict(list)
    for ending in sorted(endings, key=lambda one: (one.workers, one.momentum, one.seed)):
        runs[ending.workers, ending.momentum].append(ending)
    return dict(runs)


def last_updates_figure(endings: Sequence[Ending], about: str) -> Figure:
    """A panel for each number of workers: accuracy of every run against the updates that are left.

    about: what the runs have in common, in words.
    """
    workers = sorted({one.workers for one in endings})
    color_of = dict(zip(sorted({one.momentum for one in endings}), cycle(OKABE_ITO), strict=False))
    figure = new_figure(2.9)
    panels = figure.subplots(1, len(workers), squeeze=False, sharex=True, sharey=True)[0]
    for axes, number in zip(panels, workers, strict=True):
        for ending in endings:
            if ending.workers == number:
                draw_course(axes, ending, color_of[ending.momentum])
        axes.set_xlabel("updates to the end")
        set_titles(axes, f"{number} worker{'s' if number > 1 else ''}")
    panels[0].invert_xaxis()
    panels[0].set_ylabel("test accuracy (%)")
    key = [Line2D([], [], color=color, label=f"momentum {momentum:g}") for momentum, color in color_of.items()]
    finished = Line2D([], [], color="0.3", marker="o", linestyle="", label="the first worker finishes")
    write_key(figure, [*key, finished])
    seeds = counted([len(runs) for runs in by_setting(endings).values()])
    write_title(figure, f"Test accuracy over the last updates\n{about}\neach line: one run, {seeds} per setting")
    return figure


def draw_course(axes: Axes, ending: Ending, color: str) -> None:
    """The course of one run, with a point at the last weights before the first worker finished."""
    axes.plot(ending.left, ending.accuracy, color=color, linewidth=0.8, alpha=0.8)
    left = ending.left[ending.place_when_finished]
    axes.plot(left, ending.accuracy_when_finished, "o", color=color, markersize=3.5)


def endings_of(numbers: Sequence[SavedAccuracy]) -> list[Ending]:
    """The endings that these numbers are of."""
    runs = defaultdict(list)
    for number in numbers:
        runs[number.name].append(number)
    return [
        Ending(name, rows[0].seed, rows[0].workers, rows[0].momentum, rows[0].first_finished,
               np.array([row.updates_left for row in rows]), np.array([row.test_accuracy for row in rows]))
        for name, rows in runs.items()
    ]  # fmt: skip


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("inputs", metavar="FILE", type=Path, nargs="+",
        help=f"logs of runs, {{base}}{LOG_ENDING}, with their weights beside, or one last_updates.csv")  # fmt: skip
    add("--last", metavar="N", type=Interval(int, "[1,inf)"), default=LAST, help=f"updates (default {LAST}); [1,inf)")
    add("--summary_dir", metavar="DIR", type=Path, default=".", help="where the numbers go (default .)")
    add_plot_dir(parser)
    add_data_dir(parser)
    arguments = parser.parse_args()
    if arguments.inputs[0].suffix == ".csv":
        written = redraw(arguments.inputs[0], arguments.plot_dir)
    else:
        written = measure_and_draw(arguments)
    print(*(f"  {path}" for path in written), sep="\n")


def redraw(path: Path, plot_dir: Path) -> list[Path]:
    """The figure of numbers that were measured before."""
    endings = endings_of(read_numbers(path, SavedAccuracy))
    trials = Trials(path.parent).rows
    configs = [trials[one.name].config for one in endings if one.name in trials]
    about = in_common(configs[0], "momentum") if configs else ""
    return save(last_updates_figure(endings, about), make_folder(plot_dir, "--plot_dir") / FIGURE)


def measure_and_draw(arguments: argparse.Namespace) -> list[Path]:
    """The numbers, the table and the figure of logs."""
    logs = [read_asynchronous(path) for path in arguments.inputs]
    check_alike(logs, "world_size", "momentum")
    numbers_dir = make_folder(arguments.summary_dir, "--summary_dir")
    figure = make_folder(arguments.plot_dir, "--plot_dir") / FIGURE
    endings = measure(logs, arguments.last, arguments.data_dir)
    for_programs, table = numbers_dir / "last_updates.csv", numbers_dir / "last_updates.md"
    write_numbers(for_programs, [number for ending in endings for number in ending.numbers])
    write_text(table, markdown(endings))
    return [table, for_programs, *save(last_updates_figure(endings, in_common(logs[0].config, "momentum")), figure)]


if __name__ == "__main__":
    run_script(main)
