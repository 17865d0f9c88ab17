"""The study beside the published one: a table of every accuracy, a table for each question, and the figures.

python3 -m analysis.study summaries --plot_dir plots

Reads published.csv and the trials of each folder in there; writes comparison.md and comparison.csv, the tables in
README.md between the lines that name them, and one figure per question.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from analysis.figures import save
from analysis.flags import add_plot_dir
from analysis.study.plots import FIGURES
from analysis.study.published import COMPUTE_MS, SAME_FOR_ALL, VIRTUAL, Results, setting_of
from analysis.study.speed import CLOCKS, speed_table
from analysis.tables import markdown_table, write_rows, write_text
from catalogue import PARTITIONS
from interface.command_line import ArgumentParser, run_script
from interface.errors import UsageError
from interface.files import make_folder, with_filename
from training.config import RunConfig

# ----------------------------------------------------------------------------------------------------
# Every published accuracy, one row each
# ----------------------------------------------------------------------------------------------------

COLUMNS = ("table", "mode", "workers", "partition", "delay", "momentum", "lambda")
TITLES = (*COLUMNS, "published, %", "measured, %", "runs", "converged", "difference")


def compare(row: dict[str, str], results: Results) -> list[str]:
    """A row of the table; what was not measured yet stays empty."""
    delay = "none" if row["delayed"] == "none" else f"{row['delay_type']} {row['delay_ms']} ms"
    delay += ", worker 1 twice" if row["delayed"] == "worker 1" else ""
    setting = setting_of(row)
    published = results.published[setting]
    settings = [row["table"], row["script"], str(setting.workers), row["partition"], delay, row["momentum"],
            row["compensation_lambda"], f"{published:.2f}"]  # fmt: skip
    group = results.measured.get(setting)
    if group is None:
        return [*settings, "", "0", "", ""]
    accuracy = group.spread("test_accuracy")
    outcome = [f"{accuracy:.2f}", str(len(group.outcomes)), str(group.converged)]
    return [*settings, *outcome, f"{accuracy.mean - published:+.2f}"]


def write_comparison(results: Results, folder: Path) -> None:
    """comparison.md and comparison.csv."""
    rows = [compare(row, results) for row in results.rows]
    done = sum(row[-1] != "" for row in rows)
    about = (
        "Test accuracy on Fashion-MNIST. Published: one run each; 10.00 stands for no convergence. Measured: mean ± "
        f"sample standard deviation over the seeds, on the virtual clock with {COMPUTE_MS:g} ms a gradient. Lambda is "
        "that of the delay compensation, which had no effect in the published code. "
        f"{done} of {len(rows)} settings are measured."
    )
    write_text(folder / "comparison.md", f"# Published and measured\n\n{about}\n\n{markdown_table(TITLES, rows)}")
    write_rows(folder / "comparison.csv", [TITLES, *rows])
    print(f"{done} of {len(rows)} published settings measured:")
    for name in ("comparison.md", "comparison.csv"):
        print(f"  {folder / name}")


# ----------------------------------------------------------------------------------------------------
# The questions' tables
# ----------------------------------------------------------------------------------------------------

SHARED = {"mode": "async", **SAME_FOR_ALL, **VIRTUAL}  # by the settings of a table; its rows and columns say the rest
WORKERS = {f"{workers} workers": {"world_size": workers + 1} for workers in (2, 5, 10)}
SPLITS = {PARTITIONS[name].short_title: {"partition": name} for name in ("split_dataset", "split_labels")}
CONSTANT = {"delay": True, "delay_type": "constant"}
GAUSSIAN = {"delay": True, "delay_type": "gaussian"}
SLOW = {**CONSTANT, "slow_worker_1": True}
DELAYS = {
    "no delay": {},
    **{f"{ms} ms": {**CONSTANT, "delay_ms": float(ms)} for ms in (30, 60, 90)},
    **{f"{ms} ms, worker 1 twice": {**SLOW, "delay_ms": float(ms)} for ms in (30, 60, 90)},
}
MOMENTUM_VALUES = {f"momentum {momentum:g}": {"momentum": momentum} for momentum in (0.0, 0.5, 0.9, 0.99)}
MODES = {"synchronous": {"mode": "sync"}, "asynchronous": {"mode": "async"}}
COMPENSATIONS = {
    "none": {},
    "λ 2": {"compensation": True, "compensation_lambda": 2.0},
    "λ 5": {"compensation": True, "compensation_lambda": 5.0},
}
MEAN_DELAYS = {f"{ms} ms": {"delay_ms": float(ms)} for ms in (30, 60, 90)}

Part = dict[str, dict[str, object]]  # heading → the settings that it stands for


def product(first: Part, second: Part) -> Part:
    """Every part of one with every part of the other."""
    return {f"{one}, {other}": {**first[one], **second[other]} for one in first for other in second}


ACCURACIES: dict[str, tuple[dict[str, object], Part, Part]] = {  # name → shared, rows, columns
    "workers": ({}, product(MODES, SPLITS), WORKERS),
    "delays": ({}, DELAYS, product(SPLITS, WORKERS)),
    "momentum of a slow worker": (
        {"partition": "split_labels", **SLOW}, MOMENTUM_VALUES, product(WORKERS, MEAN_DELAYS),
    ),
    "compensation of a slow worker": (
        {"partition": "split_labels", **SLOW}, COMPENSATIONS, product(WORKERS, MEAN_DELAYS),
    ),
    "momentum": (GAUSSIAN, product(SPLITS, MOMENTUM_VALUES), product(WORKERS, MEAN_DELAYS)),
    "compensation": (
        {**COMPENSATIONS["λ 2"], **GAUSSIAN}, product(SPLITS, MOMENTUM_VALUES), product(WORKERS, MEAN_DELAYS),
    ),
}  # fmt: skip


def describe(setting: RunConfig, results: Results) -> str:
    """Mean ± deviation of what was measured, and in brackets what was published."""
    group, published = results.measured.get(setting), results.published.get(setting)
    measured = "" if group is None else f"{group.spread('test_accuracy'):.1f}"
    return measured if published is None else f"{measured} ({published:.1f})".strip()


def accuracy_table(name: str, results: Results) -> str:
    """One of the ACCURACIES, in Markdown."""
    shared, rows, columns = ACCURACIES[name]
    lines = [
        [title, *(describe(RunConfig(**{**SHARED, **shared, **row, **column}), results) for column in columns.values())]
        for title, row in rows.items()
    ]
    return markdown_table(["", *columns], lines)


TABLES: dict[str, Callable[[Results], str]] = {
    **{name: partial(accuracy_table, name) for name in ACCURACIES},
    **{f"speed, {clock} clock": partial(speed_table, clock=clock) for clock in CLOCKS},
}


def fill_in(page: str, results: Results) -> str:
    """The page with its tables made anew: each stands between `<!-- table: NAME -->` and `<!-- end -->`.

    Raises UsageError for a name that is none of the TABLES.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise UsageError(f"table {name!r} is not valid: one of {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n{TABLES[name](results)}<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[^>]*) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)


# ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with published.csv and one folder per experiment")
    add_plot_dir(parser, "plots")
    arguments = parser.parse_args()
    folder, plot_dir = arguments.folder, make_folder(arguments.plot_dir, "--plot_dir")
    results = Results.read(folder)
    write_comparison(results, folder)
    page = folder / "README.md"
    if page.exists():
        with with_filename(page):
            text = page.read_text(encoding="utf-8")
        write_text(page, fill_in(text, results))
        print(f"  {page}")
    for name, draw in FIGURES.items():
        print(*(f"  {path}" for path in save(draw(results), plot_dir / name)), sep="\n")


if __name__ == "__main__":
    run_script(main)
