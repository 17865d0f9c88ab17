"""Compare algorithms when workers own labels and one of them is slow: a table beside theory, and accuracy over time.

python3 -m analysis.reports.algorithm_plots summaries/algorithms --plot_dir plots --data_dir data

Reads the trials of a folder, all or those that are named: runs with --evals_per_epoch and --worker_speeds that differ
in the algorithm, its learning rate and the seed. Writes algorithms.md beside them and the figure algorithms, as PNG
and PDF.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_title
from analysis.flags import report_trials
from analysis.reports.curves import accuracy_over_time, draw_curves, frame, meaning, resample
from analysis.reports.trials import Trial, Trials, time_to
from analysis.reports.tuning import label_of, position
from analysis.spread import counted, interval
from analysis.tables import markdown_table
from catalogue import DATASETS
from common import load_dataset
from interface.command_line import run_script
from interface.errors import DataError
from training.config import RunConfig
from training.plan import make_plan
from training.settings import OWNERS
from training.words import settings_in_words

COLUMNS = 5  # of panels
TARGET = 80.0  # percent
BASELINE = "asgd"

# What theory says of the labels of a slow worker.
KEEPS, FADES, LOSES = "kept: all data count alike", "counts for less", "lost: its gradients are dropped"
THEORY = {
    "average": KEEPS, "malenia": KEEPS, "ssp": KEEPS, "dude": KEEPS, "ringleader": KEEPS, "rescaled": KEEPS,
    "asgd": FADES, "staleness_aware": FADES, "delay_adaptive": FADES, "fedbuff": FADES, "dana": FADES,
    "backup": LOSES, "ringmaster": LOSES, "rennala": LOSES,
}  # fmt: skip

Runs = dict[str, list[Trial]]  # algorithm → its runs


def read_runs(folder: Path, names: Sequence[str]) -> Runs:
    """The runs with these names, or all of a folder. Raises DataError where there are none that can be compared."""
    trials = [trial for trial in Trials(folder).named(names) if trial.outcome.evaluations]
    if not trials or any(trial.config.worker_speeds is None for trial in trials):
        raise DataError(f"{folder}: give runs with --evals_per_epoch and --worker_speeds")
    if old := [trial.name for trial in trials if not trial.outcome.label_accuracies]:
        raise DataError(f"{folder}: the row of {old[0]} lacks the accuracy of each label: remove it, and run it again")
    if len({described(trial.config) for trial in trials}) > 1:
        raise DataError(f"{folder}: its runs differ in more than the algorithm, its learning rate and the seed")
    runs: Runs = defaultdict(list)
    for trial in sorted(trials, key=lambda one: position(label_of(one.config))):
        runs[label_of(trial.config)].append(trial)
    for label, trials in runs.items():
        if len(rates := sorted({trial.config.lr for trial in trials})) > 1:
            raise DataError(f"{folder}: its runs of {label} have the learning rates {', '.join(map(str, rates))}: give "
                            f"the names of those with one")  # fmt: skip
    return dict(runs)


def described(config: RunConfig) -> str:
    """What the runs have in common."""
    words = settings_in_words(replace(config, evals_per_epoch=None), without=("lr", "momentum", *OWNERS))
    return ", ".join(
        [f"{config.network_name} on {DATASETS[config.dataset].title}", f"{config.workers} workers", *words]
    )


@functools.cache
def slow_labels(config: RunConfig, seed: int, data_dir: str) -> tuple[int, ...]:
    """The labels of the slowest worker."""
    samples = load_dataset(config.dataset, data_dir, config.changed_data).train
    plan = make_plan(config, seed, samples)
    slowest = min(plan.steps, key=plan.speed)
    return tuple(samples.labels[plan.shards[slowest - 1]].unique().tolist())


def slow_accuracy(trial: Trial, data_dir: str) -> float:
    """Test accuracy on the labels of the slowest worker, percent."""
    names = ("mode", "dataset", "changed_data", "train_split", "val", "batch_size", "world_size", "partition",
             "split_dirichlet", "clock", "worker_speeds")  # fmt: skip
    partition = RunConfig(**{name: getattr(trial.config, name) for name in names})
    return float(np.mean([trial.outcome.label_accuracies[label]
                          for label in slow_labels(partition, trial.seed, data_dir)]))  # fmt: skip


def time_cell(trials: Sequence[Trial]) -> str:
    """When the runs first reached the target, and how many did: the others are censored."""
    reached = [found[0] for trial in trials if (found := time_to(TARGET, trial.outcome))]
    if not reached:
        return "never"
    return interval(reached) + ("" if len(reached) == len(trials) else f" ({len(reached)} of {len(trials)})")


def markdown(runs: Runs, data_dir: str) -> str:
    """One row per algorithm, in the order of the accuracy at the end."""
    rows = []
    for label in sorted(runs, key=lambda name: -np.mean([trial.outcome.test_accuracy for trial in runs[name]])):
        trials = runs[label]
        outcomes = [trial.outcome for trial in trials]
        dropped = np.mean([100 * one.dropped_gradients / one.gradients for one in outcomes])
        rows.append([
            label, f"{trials[0].config.lr:g}", str(len(trials)), interval([one.test_accuracy for one in outcomes]),
            time_cell(trials), interval([slow_accuracy(trial, data_dir) for trial in trials]),
            THEORY.get(trials[0].config.algorithm, ""), f"{dropped:.0f}", interval([one.seconds for one in outcomes]),
        ])  # fmt: skip
    titles = ["algorithm", "learning rate", "runs", "test accuracy, %", f"time to {TARGET:g} %, s",
              "accuracy on the slow worker's labels, %", "these labels in theory", "dropped gradients, %",
              "time, s"]  # fmt: skip
    config = next(iter(runs.values()))[0].config
    return (
        f"{described(config)}. Mean and 95 % confidence interval (Student's t) over the seeds; virtual time.\n\n"
        f"{markdown_table(titles, rows)}"
    )


def algorithms_figure(runs: Runs) -> Figure:
    """One panel per algorithm: mean test accuracy over virtual time, each seed faint, and the baseline in grey."""
    columns = min(COLUMNS, len(runs))
    rows = math.ceil(len(runs) / columns)
    figure = new_figure(1.1 + 1.25 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, (label, trials) in zip(panels, runs.items(), strict=False):
        if label != BASELINE and BASELINE in runs:
            at, values = resample(accuracy_over_time(runs[BASELINE]), logarithmic=True)
            axes.plot(at, values.mean(axis=0), color="0.6", linewidth=1)
        draw_curves(axes, accuracy_over_time(trials), OKABE_ITO[0], logarithmic=True)
        axes.set(xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        set_titles(axes, label.replace("+", " +\n", 1).replace("momentum=", "momentum "))
        axes.text(0.97, 0.06, f"rate {trials[0].config.lr:g}", transform=axes.transAxes, ha="right", color="0.35")
    for axes in panels[len(runs) :]:
        axes.set_axis_off()
    frame(figure.axes[0], [curve for trials in runs.values() for curve in accuracy_over_time(trials)])
    figure.supxlabel("virtual-clock time (s)")
    figure.supylabel("test accuracy (%)")
    seeds = [len(trials) for trials in runs.values()]
    config = next(iter(runs.values()))[0].config
    grey = f"; grey: mean of {BASELINE}" if BASELINE in runs else ""
    write_title(figure, f"Algorithms with a slow worker\n{described(config)}\n{counted(seeds)}; {meaning(seeds)}{grey}")
    return figure


def report(folder: Path, names: Sequence[str], data_dir: str) -> tuple[str, Figure]:
    """The table, and the figure. names: of the runs; all of the folder without them."""
    runs = read_runs(folder, names)
    return markdown(runs, data_dir), algorithms_figure(runs)


if __name__ == "__main__":
    run_script(lambda: report_trials(__doc__, "algorithms.md", "algorithms", report, needs_data=True))
