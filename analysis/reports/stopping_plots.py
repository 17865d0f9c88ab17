"""Draw test accuracy over time under each stopping rule; report it when the first worker finished and at the end.

python3 -m analysis.reports.stopping_plots summaries/stopping --plot_dir plots

Reads the trials of a folder: runs with --evals_per_epoch that differ in the number of workers, the rule and the seed.
Writes stopping.md beside them and the figure stopping_rules.png.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import Figure
from analysis.reports.training_plots import DPI, OKABE_ITO, set_titles, write_title
from analysis.reports.trials import Trial, Trials, distinct
from analysis.spread import interval
from analysis.tables import markdown_table, write_text
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from interface.files import atomic_write, make_folder
from training.config import headline, settings_in_words
from training.stopping import STOPPING_RULES

Runs = dict[tuple[int, str], list[Trial]]  # (workers, rule) → its runs
POINTS = 200  # of a mean curve


def read_runs(folder: Path) -> Runs:
    """The runs of a folder. Raises DataError where there are none, or they differ in more than workers and rule."""
    trials = [trial for trial in distinct(Trials(folder).rows.values()) if trial.outcome.evaluations]
    if not trials:
        raise DataError(f"{folder}: it has no run with --evals_per_epoch")
    alike = {replace(trial.experiment[0], world_size=11, stop="epochs") for trial in trials}
    if len(alike) > 1:
        raise DataError(f"{folder}: its runs differ in more than the number of workers, the stopping rule and the seed")
    runs: Runs = defaultdict(list)
    for trial in sorted(trials, key=lambda one: (one.config.workers, list(STOPPING_RULES).index(one.config.stop))):
        runs[trial.config.workers, trial.config.stop].append(trial)
    return dict(runs)


def markdown(runs: Runs) -> str:
    """One row per number of workers and rule."""
    rows = []
    for (workers, rule), trials in runs.items():
        outcomes = [trial.outcome for trial in trials]
        alone = [100 * (one.updates - one.first_left_update) / one.updates for one in outcomes]
        rows.append([
            str(workers), rule, str(len(outcomes)), interval([one.first_left_accuracy for one in outcomes]),
            interval([one.test_accuracy for one in outcomes]), interval(alone),
            interval([one.seconds for one in outcomes]),
        ])  # fmt: skip
    titles = ["workers", "--stop", "runs", "test accuracy when the first worker finished, %", "at the end, %",
              "updates after that, % of all", "time, s"]  # fmt: skip
    about = f"{describe(runs)}. Mean and 95 % confidence interval (Student's t) over the seeds."
    return f"{about}\n\n{markdown_table(titles, rows)}"


def describe(runs: Runs) -> str:
    """What all runs have in common."""
    config = replace(next(iter(runs.values()))[0].experiment[0], stop="epochs")
    network, _, _ = headline(config).rpartition(", ")
    return f"{network}, {', '.join(settings_in_words(config))}"


def stopping_figure(runs: Runs) -> Figure:
    """One panel per number of workers: mean test accuracy under each rule, each seed faint."""
    counts = sorted({workers for workers, _ in runs})
    figure = Figure(figsize=(1 + 3.9 * len(counts), 5), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False, sharey=True)[0]
    color_of = dict(zip(STOPPING_RULES, OKABE_ITO, strict=False))
    for axes, workers in zip(panels, counts, strict=True):
        for rule, color in color_of.items():
            if (workers, rule) in runs:
                draw_rule(axes, runs[workers, rule], color)
        axes.set(xlabel="virtual-clock time (s)", ylim=(0, 100), xlim=(0, None))
        set_titles(axes, f"{workers} worker{'s' if workers > 1 else ''}")
    panels[0].set_ylabel("test accuracy (%)")
    key = [Line2D([], [], color=color, label=f"--stop {rule}") for rule, color in color_of.items()]
    end = Line2D([], [], color="0.3", marker="o", linestyle="", label="end of a run")
    figure.legend(handles=[*key, end], loc="outside lower center", ncols=4, frameon=False)
    seeds = max(len(trials) for trials in runs.values())
    write_title(figure, f"Test accuracy under each stopping rule, mean of {seeds} seeds (each faint)\n{describe(runs)}")
    return figure


def draw_rule(axes: Axes, trials: Sequence[Trial], color: str) -> None:
    """The curves of all seeds, their mean as far as all of them go, and the accuracy at the end of each."""
    curves = [np.array(trial.outcome.evaluations) for trial in trials]
    for trial, curve in zip(trials, curves, strict=True):
        axes.plot(curve[:, 0], curve[:, 2], color=color, alpha=0.15, linewidth=0.7)
        axes.plot(trial.outcome.seconds, trial.outcome.test_accuracy, "o", color=color, alpha=0.45, markersize=3.5)
    start, end = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    at = np.linspace(start, end, POINTS)
    mean = np.mean([np.interp(at, curve[:, 0], curve[:, 2]) for curve in curves], axis=0)
    axes.plot(at, mean, color=color, linewidth=1.8)


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where trials.jsonl is")
    parser.add_argument(
        "--plot_dir", metavar="DIR", type=Path, default=Path("."), help="where the figure goes (default .)"
    )
    arguments = parser.parse_args()
    runs = read_runs(arguments.folder)
    table = arguments.folder / "stopping.md"
    figure = make_folder(arguments.plot_dir, "--plot_dir") / "stopping_rules.png"
    write_text(table, markdown(runs))
    with atomic_write(figure) as unfinished:
        stopping_figure(runs).savefig(unfinished)
    for path in (table, figure):
        print(f"  {path}")


if __name__ == "__main__":
    run_script(main)
