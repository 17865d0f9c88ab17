"""What came of the contrasts of an experiment, as a table and a forest plot.

python3 -m analysis.study.contrasts partitions summaries/partitions --plot_dir plots

Reads summaries/contrasts.json and the trials of an experiment; writes contrasts.md beside the trials, with the runs
that diverged and the learning rates that were tried, and figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import OKABE_ITO, Figure, save, write_key, write_title
from analysis.flags import add_plot_dir
from analysis.forest import Row, forest, scale_of
from analysis.reports.trials import Trials
from analysis.spread import counted, rate_interval
from analysis.study.design import EXPERIMENTS, Experiment, Runs, diverged
from analysis.study.effects import CONTRASTS, FEWEST, POWER, Answer, answer, p_in_words, read_contrasts
from analysis.study.experiment_plots import FIGURES, about, setup
from analysis.tables import markdown_table, write_text
from interface.command_line import ArgumentParser, count, run_script
from interface.errors import DataError
from interface.files import make_folder

MEANING = f"""\
- difference: of the test accuracies of two runs with the same seed; mean and 95 % confidence interval (Student's t)
  over the seeds, not adjusted
- lost: pairs that are left out because one of their runs diverged, or never got where accuracy is read; nothing with
  such a pair is called equal
- p, different: of the hypothesis of no difference; p, equal: of a difference of the margin or more. Those of the
  primary contrasts are adjusted (Holm), each of the two over all that ask it; those of the others are not, and their
  answers stand in brackets: by chance alone, one of twenty is "different"
- seeds needed: for "equal" with a probability of about {100 * POWER:g} %, not adjusted, if there is no difference and
  runs scatter as they do here

Where the settings of two cells coincide, as those at the tuned and the matched rate may, they are the same runs, and a
contrast of each is counted: the adjustment is then stricter than it need be.

To ask contrasts with a margin for a difference, too, was decided when the runs of partitions and momentum were known.
Until then their answer could only be "equal", or "more than 1 apart" where the interval lay beyond the margin."""


def markdown(answers: Sequence[Answer]) -> str:
    """One row per contrast."""
    rows = []
    for one in answers:
        effect, contrast = one.effect, one.effect.contrast
        tested = len(effect.differences) >= FEWEST
        rows.append([
            contrast.claim, contrast.where, "primary" if contrast.primary else "", str(len(effect.differences)),
            effect.in_words, p_in_words(one.p_different) if tested else "",
            p_in_words(one.p_equal) if tested and contrast.margin is not None else "", str(effect.seeds_needed or ""),
            one.verdict if contrast.primary else f"({one.verdict})",
        ])  # fmt: skip
    titles = ("contrast", "where", "", "pairs", "difference, points", "p, different", "p, equal", "seeds needed",
              "answer")  # fmt: skip
    return f"{MEANING}\n\n{markdown_table(titles, rows)}"


def tuning_table(experiment: Experiment, trials: Trials) -> str:
    """Mean validation accuracy with each learning rate that was tried, the best in bold."""
    tried, best = experiment.tried(trials), experiment.best_rates(trials)
    rates = sorted({rate for by_rate in tried.values() for rate in by_rate})
    tuned = [place for place, factor in enumerate(experiment.factors) if factor in experiment.tuned]
    rows = [
        [", ".join(cell[place] for place in tuned)]
        + [f"**{by_rate[rate]:.1f}**" if rate == best[cell] else f"{by_rate[rate]:.1f}" if rate in by_rate else ""
           for rate in rates]
        for cell, by_rate in tried.items()
    ]  # fmt: skip
    titles = (", ".join(experiment.tuned), *(f"{rate:g}" for rate in rates))
    return (
        f"## Learning rates\n\nValidation accuracy at the end, %, by learning rate; mean over "
        f"{count(len(experiment.tuning_seeds), 'seed')}.\n\n{markdown_table(titles, rows)}"
    )


def divergence(experiment: Experiment, runs: Runs) -> str:
    """How many runs of each cell diverged, with the interval of the rate."""
    found: dict[tuple[int, int], list[str]] = {}  # how many diverged, of how many → the cells
    trials = {trial.name: trial for by_seed in runs.values() for trial in by_seed.values()}  # cells may share some
    for cell, by_seed in runs.items():
        if by_seed:
            found.setdefault((sum(map(diverged, by_seed.values())), len(by_seed)), []).append(", ".join(cell))
    rows = []
    for (lost, total), cells in sorted(found.items(), reverse=True):
        names = cells if lost else [count(len(cells), "cell")]
        rows += [[name, f"{lost} of {total}", rate_interval(lost, total)] for name in names]
    titles = (", ".join(experiment.factors), "runs", "95 % interval of the rate")
    lost = sum(map(diverged, trials.values()))
    return f"## Runs that diverged\n\n{lost} of {count(len(trials), 'run')}.\n\n{markdown_table(titles, rows)}"


def draw(title: str, answers: Sequence[Answer]) -> Figure:
    """The difference and interval of each contrast, below its claim; those that are settled filled."""
    shown = [one for one in answers if one.effect.pairs]
    figure, panels = forest([row_of(one) for one in shown])
    margins = {one.effect.contrast.margin for one in shown if one.effect.contrast.margin is not None}
    for axes, margin in itertools.product(panels, margins):
        axes.axvspan(-margin, margin, color="0.93", zorder=-1)
    present = {one.effect.contrast.primary for one in shown}
    kinds = {kind: name for kind, name in {True: "primary contrast", False: "other"}.items() if kind in present}
    write_key(figure, [
        *(Line2D([], [], color=color_of(kind), marker="o", linewidth=1, label=name) for kind, name in kinds.items()),
        Line2D([], [], color="0.3", marker="o", linestyle="", markerfacecolor="white", label="not settled"),
        *(Patch(color="0.93", label=f"within {margin:g} point{'' if margin == 1 else 's'}") for margin in margins),
    ])  # fmt: skip
    seeds = counted([one.effect.pairs for one in shown], "pair")
    write_title(figure, f"{title}\nmean and 95 % interval over the seeds, {seeds}{scale_of(panels)}")
    return figure


def row_of(one: Answer) -> Row:
    """A contrast in the figure."""
    effect, contrast = one.effect, one.effect.contrast
    lost = f" ({effect.lost}\xa0lost)" if effect.lost else ""
    color = color_of(contrast.primary)
    return Row(contrast.claim, f"{contrast.where}{lost}", effect.differences, color, filled=one.settled)


def color_of(primary: bool) -> str:
    """The colour of a contrast."""
    return OKABE_ITO[0] if primary else OKABE_ITO[1]


def read_answers(name: str, experiment: Experiment, folder: Path) -> tuple[Runs, list[Answer]]:
    """The runs of an experiment, and what came of its contrasts. Raises DataError before the first pair."""
    runs = experiment.read(folder)
    answers = answer(experiment, runs, read_contrasts(CONTRASTS, name))
    if not any(one.effect.pairs for one in answers):
        raise DataError(f"{folder}: no seed has run in both cells of any contrast")
    return runs, answers


def page_of(experiment: Experiment, folder: Path, runs: Runs, answers: Sequence[Answer]) -> str:
    """The text of contrasts.md."""
    tuning = Trials(folder / "tuning")
    head = f"# {experiment.title}\n\n{about(experiment, runs)}.\n"
    return "\n".join([head, markdown(answers), divergence(experiment, runs), tuning_table(experiment, tuning)])


def write_answers(name: str, experiment: Experiment, folder: Path, plot_dir: Path) -> None:
    """contrasts.md beside the trials of an experiment, and its figure."""
    runs, answers = read_answers(name, experiment, folder)
    write_text(folder / "contrasts.md", page_of(experiment, folder, runs, answers))
    written = save(draw(f"{experiment.title}\n{setup(runs)}", answers), make_folder(plot_dir, "--plot_dir") / name)
    if name in FIGURES:
        written += save(FIGURES[name](experiment, runs), plot_dir / f"{name}_runs")
    print(*(f"  {path}" for path in (folder / "contrasts.md", *written)), sep="\n")


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("experiment", metavar="NAME", choices=EXPERIMENTS, help=", ".join(EXPERIMENTS))
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where trials.jsonl is")
    add_plot_dir(parser, "plots")
    arguments = parser.parse_args()
    name = arguments.experiment
    write_answers(name, EXPERIMENTS[name], arguments.folder, arguments.plot_dir)


if __name__ == "__main__":
    run_script(main)
