"""Who is forgotten when a slow worker is left alone: recall of each label around the moment the first worker finishes.

python3 -m analysis.reports.class_recall runs/*_log.log --summary_dir summaries/recall --plot_dir plots
python3 -m analysis.reports.class_recall summaries/recall/recall.csv --plot_dir plots

For asynchronous runs with labels split, which saved their weights during training (--saves_per_epoch) and differ in the
number of workers and the seed. Tests the weights from then to the end, and as long before. Writes recall.csv and a
figure, as PNG and PDF. The second command redraws the figure from the numbers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_key, write_title
from analysis.flags import add_data_dir
from analysis.reports.saved_weights import Measurement, first_finished, left_after, read_saved
from analysis.reports.trials import run_of
from analysis.spread import counted
from catalogue import PARTITIONS
from common import Samples, build_model, load_dataset
from evaluation import label_accuracies, predict
from interface.command_line import run_script
from interface.errors import UsageError
from training.plan import make_plan
from training.record.run_log import RunLog

POINTS = 60  # saved weights that are tested, of each run


@dataclass(frozen=True)
class Recall:
    """The share of the test images of a label that are classified correctly, percent, with some saved weights.

    owner: the worker that owns the label; last: the worker that finishes last; since: updates since the first worker
    finished, negative before.
    """

    name: str
    seed: int
    workers: int
    last: int
    label: int
    owner: int
    since: int
    recall: float


def measure(log: RunLog, arguments: argparse.Namespace) -> list[Recall]:
    """Test the weights that a run saved around the moment at which its first worker finished.

    Raises UsageError, which names the log, unless its workers own labels.
    """
    config = log.config
    if not PARTITIONS[config.partition].by_label:
        raise UsageError(f"{log.path} is not valid: its workers own no labels; give runs with --split_labels")
    dataset = load_dataset(config.dataset, arguments.data_dir, config.changed_data)
    owner = owners(log, dataset.train)
    model = build_model(config.dataset, config.network_name)
    weights, left = read_saved(log, len(model.state_vector()))
    left_last = left_after(log)
    finished, last = first_finished(log), max(left_last, key=left_last.get)
    numbers = []
    for row in chosen(left, finished):
        model.load_state_vector(torch.from_numpy(weights[row]))
        recalls = label_accuracies(predict(dataset.test, model), dataset.test.labels)
        numbers += [
            Recall(run_of(log.path), log.seed, config.workers, last, label, owner[label],
                   finished - int(left[row]), recall)
            for label, recall in enumerate(recalls)
        ]  # fmt: skip
    return numbers


def owners(log: RunLog, train: Samples) -> dict[int, int]:
    """Label → the worker that owns it."""
    shards = make_plan(log.config, log.seed, train).shards
    return {
        label: worker for worker, shard in enumerate(shards, start=1) for label in train.labels[shard].unique().tolist()
    }


def chosen(left: np.ndarray, finished: int) -> np.ndarray:
    """Up to POINTS rows, evenly, from as long before the first worker finished as the run went on afterwards.

    left (n,): updates between some saved weights and the end; finished: the same of the first worker's last update.
    """
    near = np.flatnonzero(left <= 2 * max(finished, 1))
    return near[np.unique(np.linspace(0, len(near) - 1, min(POINTS, len(near))).round().astype(int))]


def recall_figure(numbers: Sequence[Recall], about: str) -> Figure:
    """A panel for each number of workers: recall of every label, those of the last worker in another colour.

    about: what the runs have in common.
    """
    workers = sorted({one.workers for one in numbers})
    figure = new_figure(3.1)
    panels = figure.subplots(1, len(workers), squeeze=False, sharey=True)[0]
    for axes, count in zip(panels, workers, strict=True):
        here = [one for one in numbers if one.workers == count]
        for own in (False, True):
            draw_labels(axes, [one for one in here if (one.owner == one.last) == own], color_of(own))
        axes.axvline(0, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xlabel("updates after the first finish")
        set_titles(axes, f"{count} worker{'s' if count > 1 else ''}")
    panels[0].set_ylabel("recall (%)")
    panels[0].set_ylim(-3, 103)
    write_key(figure, [
        Line2D([], [], color=color_of(True), label="labels of the worker that finishes last"),
        Line2D([], [], color=color_of(False), label="the other labels"),
    ])  # fmt: skip
    seeds = counted([len({one.seed for one in numbers if one.workers == count}) for count in workers])
    meaning = f"thin: a label, thick: mean over them; {seeds}"
    write_title(figure, f"Recall of each label when one worker is left alone\n{about}\n{meaning}")
    return figure


def draw_labels(axes: Axes, numbers: Sequence[Recall], color: str) -> None:
    """Recall of each label of each run, and their mean over labels, run by run."""
    for name in dict.fromkeys(one.name for one in numbers):
        run = [one for one in numbers if one.name == name]
        for label in {one.label for one in run}:
            course = [(one.since, one.recall) for one in run if one.label == label]
            axes.plot(*zip(*course, strict=True), color=color, linewidth=0.5, alpha=0.4)
        moments = sorted({one.since for one in run})
        means = [statistics.fmean(one.recall for one in run if one.since == moment) for moment in moments]
        axes.plot(moments, means, color=color, linewidth=1.6)


def color_of(own: bool) -> str:
    """The colour of labels, by whether the worker that finishes last owns them."""
    return OKABE_ITO[1] if own else OKABE_ITO[0]


RECALL = Measurement(__doc__, "recall", Recall, measure, recall_figure, add_flags=add_data_dir)

if __name__ == "__main__":
    run_script(RECALL.main)
