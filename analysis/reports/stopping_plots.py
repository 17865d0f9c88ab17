"""Draw test accuracy over time under each stopping rule; report it when the first worker finished and at the end.

python3 -m analysis.reports.stopping_plots summaries/stopping --plot_dir plots

Reads the trials of a folder, all or those that are named: runs with --evals_per_epoch that differ in the number of
workers, the rule and the seed. Writes stopping.md beside them and the figure stopping_rules, as PNG and PDF.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import OKABE_ITO, Figure, new_figure, set_titles, write_key, write_title
from analysis.flags import report_trials
from analysis.reports.curves import accuracy_over_time, draw_curves, frame, meaning
from analysis.reports.trials import Trial, Trials, alike_but_for
from analysis.spread import counted, interval
from analysis.tables import markdown_table
from interface.command_line import run_script
from interface.errors import DataError
from training.stopping import STOPPING_RULES
from training.words import in_common

Runs = dict[tuple[int, str], list[Trial]]  # (workers, rule) → its runs


def read_runs(folder: Path, names: Sequence[str]) -> Runs:
    """The runs with these names, or all of a folder.

    Raises DataError where there are none, or they differ in more than workers and rule.
    """
    trials = [trial for trial in Trials(folder).named(names) if trial.outcome.evaluations]
    if not trials:
        raise DataError(f"{folder}: it has no run with --evals_per_epoch")
    if unended := [trial.name for trial in trials if trial.outcome.first_left_accuracy is None]:
        raise DataError(f"{folder}: {unended[0]} has no accuracy of the moment at which a worker first finished")
    if idle := [trial.name for trial in trials if not trial.outcome.updates]:
        raise DataError(f"{folder}: {idle[0]}: the run made no update")
    alike = [(trial.clock, alike_but_for(trial.config, "world_size", "stop")) for trial in trials]
    if any(one != alike[0] for one in alike):
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
    return in_common(next(iter(runs.values()))[0].config, "stop")


def stopping_figure(runs: Runs) -> Figure:
    """One panel per number of workers: mean test accuracy under each rule, each seed faint."""
    counts = sorted({workers for workers, _ in runs})
    figure = new_figure(3.1)
    panels = figure.subplots(1, len(counts), squeeze=False, sharey=True)[0]
    color_of = dict(zip(STOPPING_RULES, OKABE_ITO, strict=False))
    everything = [curve for trials in runs.values() for curve in accuracy_over_time(trials)]
    for axes, workers in zip(panels, counts, strict=True):
        for number, (rule, color) in enumerate(color_of.items()):
            if (workers, rule) in runs:
                draw_rule(axes, runs[workers, rule], color, 1.1 + 0.8 * (len(color_of) - 1 - number))
        axes.set(xlabel=f"{next(iter(runs.values()))[0].clock}-clock time (s)", xlim=(0, None))
        set_titles(axes, f"{workers} worker{'s' if workers > 1 else ''}")
    frame(panels[0], everything)
    panels[0].set_ylabel("test accuracy (%)")
    key = [Line2D([], [], color=color, label=f"--stop {rule}") for rule, color in color_of.items()]
    write_key(figure, [*key, Line2D([], [], color="0.3", marker="o", linestyle="", label="end of a run")])
    seeds = [len(trials) for trials in runs.values()]
    about = f"{counted(seeds)}; {meaning(seeds)}"
    write_title(figure, f"Test accuracy under each stopping rule\n{describe(runs)}\n{about}")
    return figure


def draw_rule(axes: Axes, trials: Sequence[Trial], color: str, width: float) -> None:
    """The curves of all seeds, and the accuracy at the end of each. Rules that agree show as lines in lines."""
    draw_curves(axes, accuracy_over_time(trials), color, width=width)
    for trial in trials:
        axes.plot(trial.outcome.seconds, trial.outcome.test_accuracy, "o", color=color, alpha=0.6, markersize=2.5)


def report(folder: Path, names: Sequence[str] = ()) -> tuple[str, Figure]:
    """The table, and the figure. names: of the runs; all of the folder without them."""
    runs = read_runs(folder, names)
    return markdown(runs), stopping_figure(runs)


if __name__ == "__main__":
    run_script(lambda: report_trials(__doc__, "stopping.md", "stopping_rules", report))
