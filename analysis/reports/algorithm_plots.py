"""Compare algorithms when workers own labels and one of them is slow: a table beside theory, and accuracy over time.

python3 -m analysis.reports.algorithm_plots summaries/algorithms --plot_dir plots --data_dir data

Reads the trials of a folder: runs with --evals_per_epoch and --worker_speeds that differ in the algorithm, its learning
rate and the seed. Writes algorithms.md beside them and the figure algorithms.png.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import Figure
from analysis.reports.training_plots import DPI, OKABE_ITO, set_titles, write_title
from analysis.reports.trials import Trial, Trials, distinct, time_to
from analysis.reports.tuning import label_of, position
from analysis.spread import interval
from analysis.tables import markdown_table, write_text
from catalogue import DATASETS
from common import load_dataset
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from interface.files import atomic_write, make_folder
from training.config import OWNERS, RunConfig, settings_in_words
from training.plan import make_plan

COLUMNS = 5  # of panels
TARGET = 80.0  # percent
POINTS = 200  # of a mean curve
BASELINE = "asgd"

# What theory says of the labels of a slow worker.
KEEPS, FADES, LOSES = "kept: all data count alike", "counts for less", "lost: its gradients are dropped"
THEORY = {
    "average": KEEPS, "malenia": KEEPS, "ssp": KEEPS, "dude": KEEPS, "ringleader": KEEPS, "rescaled": KEEPS,
    "asgd": FADES, "staleness_aware": FADES, "delay_adaptive": FADES, "fedbuff": FADES, "dana": FADES,
    "backup": LOSES, "ringmaster": LOSES, "rennala": LOSES,
}  # fmt: skip

Runs = dict[str, list[Trial]]  # algorithm → its runs


def read_runs(folder: Path) -> Runs:
    """The runs of a folder. Raises DataError where there are none that can be compared."""
    trials = [trial for trial in distinct(Trials(folder).rows.values()) if trial.outcome.evaluations]
    if not trials or any(trial.config.worker_speeds is None for trial in trials):
        raise DataError(f"{folder}: give runs with --evals_per_epoch and --worker_speeds")
    if len({described(trial.config) for trial in trials}) > 1:
        raise DataError(f"{folder}: its runs differ in more than the algorithm, its learning rate and the seed")
    runs: Runs = defaultdict(list)
    for trial in sorted(trials, key=lambda one: position(label_of(one.config))):
        runs[label_of(trial.config)].append(trial)
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
    names = ("mode", "dataset", "changed_data", "train_split", "val", "batch_size", "world_size", "partition", "clock",
             "worker_speeds")  # fmt: skip
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
            THEORY[trials[0].config.algorithm], f"{dropped:.0f}", interval([one.seconds for one in outcomes]),
        ])  # fmt: skip
    titles = ["algorithm", "learning rate", "runs", "test accuracy, %", f"time to {TARGET:g} %, s",
              "accuracy on the slow worker's labels, %", "these labels in theory", "dropped gradients, %",
              "time, s"]  # fmt: skip
    config = next(iter(runs.values()))[0].config
    return (
        f"{described(config)}. Mean and 95 % confidence interval (Student's t) over the seeds; virtual time.\n\n"
        f"{markdown_table(titles, rows)}"
    )


def draw(runs: Runs) -> Figure:
    """One panel per algorithm: mean test accuracy over virtual time, each seed faint, and the baseline in grey."""
    count = math.ceil(len(runs) / COLUMNS)
    figure = Figure(figsize=(15, 0.8 + 2.7 * count), dpi=DPI, layout="constrained")
    panels = figure.subplots(count, COLUMNS, squeeze=False, sharex=True, sharey=True).flat
    for axes, (label, trials) in zip(panels, runs.items(), strict=False):
        if label != BASELINE and BASELINE in runs:
            axes.plot(*mean_curve(runs[BASELINE]), color="0.6", linewidth=1.4)
        for trial in trials:
            seconds, _, accuracy = np.array(trial.outcome.evaluations).T
            axes.plot(seconds, accuracy, color=OKABE_ITO[0], alpha=0.25, linewidth=0.7)
        axes.plot(*mean_curve(trials), color=OKABE_ITO[0], linewidth=1.8)
        show_panel(axes, label, trials)
    for axes in list(panels):
        axes.set_axis_off()
    figure.supxlabel("virtual-clock time (s)")
    figure.supylabel("test accuracy (%)")
    seeds = max(len(trials) for trials in runs.values())
    config = next(iter(runs.values()))[0].config
    write_title(
        figure,
        f"Algorithms with a slow worker that owns labels, mean of {seeds} seeds (each faint); asynchronous SGD in grey"
        f"\n{described(config)}",
    )
    return figure


def show_panel(axes: Axes, label: str, trials: Sequence[Trial]) -> None:
    """The scales and the title of one panel."""
    axes.set(xscale="log", ylim=(0, 100))
    axes.grid(alpha=0.3)
    set_titles(axes, label, f"rate {trials[0].config.lr:g}")


def mean_curve(trials: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and mean accuracy, as far as all runs go."""
    curves = [np.array(trial.outcome.evaluations) for trial in trials]
    start, end = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    at = np.geomspace(start, end, POINTS)
    return at, np.mean([np.interp(at, curve[:, 0], curve[:, 2]) for curve in curves], axis=0)


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="where trials.jsonl is")
    add("--plot_dir", metavar="DIR", type=Path, default=Path("."), help="where the figure goes (default .)")
    add("--data_dir", metavar="DIR", default="data", help="where data sets lie or are downloaded to (default data)")
    arguments = parser.parse_args()
    runs = read_runs(arguments.folder)
    table = arguments.folder / "algorithms.md"
    figure = make_folder(arguments.plot_dir, "--plot_dir") / "algorithms.png"
    write_text(table, markdown(runs, arguments.data_dir))
    with atomic_write(figure) as unfinished:
        draw(runs).savefig(unfinished)
    for path in (table, figure):
        print(f"  {path}")


if __name__ == "__main__":
    run_script(main)
