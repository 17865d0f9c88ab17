"""The study beside the published one: every accuracy in a table, the questions' tables in the page, the figures.

python3 -m analysis.study summaries --plot_dir plots

Reads published.csv and the trials.csv of each folder in there; writes comparison.md and comparison.csv, the tables in
README.md between the lines that name them, and one figure a question.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from analysis.study.plots import FIGURES
from analysis.study.published import COMPUTE_MS, Cell, Results
from analysis.study.speed import CLOCKS, speed_table
from analysis.tables import markdown_table, write_rows, write_text
from interface.command_line import ArgumentParser, run_script
from interface.files import atomic_write, make_folder, with_filename

# ----------------------------------------------------------------------------------------------------
# Every published accuracy, a row each
# ----------------------------------------------------------------------------------------------------

COLUMNS = ("table", "mode", "world_size", "partition", "delay", "momentum", "lambda")
TITLES = (*COLUMNS, "published, %", "measured, %", "runs", "converged", "difference")


def compare(row: dict[str, str], results: Results) -> list[str]:
    """A row of the table; what was not measured yet stays empty."""
    delay = "none" if row["delayed"] == "none" else f"{row['delay_type']} {row['delay_ms']} ms"
    delay += ", worker 1 twice" if row["delayed"] == "worker 1" else ""
    cell = Cell.of_published(row)
    published = results.published[cell]
    told = [row["table"], row["script"], row["world_size"], row["partition"], delay, row["momentum"],
            row["compensation_lambda"], f"{published:.2f}"]  # fmt: skip
    group = results.measured.get(cell)
    if group is None:
        return [*told, "", "0", "", ""]
    accuracy = group.spread("test_accuracy")
    outcome = [f"{accuracy:.2f}", str(len(group.outcomes)), str(group.converged)]
    return [*told, *outcome, f"{accuracy.mean - published:+.2f}"]


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

ASYNC = Cell("async", 0, "none")  # what the cells of a table share; its rows and columns say the rest
SLOW = {"delayed": "all, worker 1 twice", "delay_type": "constant"}
WORKERS = {f"{workers} workers": {"world_size": workers + 1} for workers in (2, 5, 10)}
PARTITIONS = {"samples split": {"partition": "split_dataset"}, "labels split": {"partition": "split_labels"}}
DELAYS = {
    "no delay": {},
    **{f"{ms} ms": {"delayed": "all", "delay_type": "constant", "delay_ms": float(ms)} for ms in (30, 60, 90)},
    **{f"{ms} ms, worker 1 twice": {**SLOW, "delay_ms": float(ms)} for ms in (30, 60, 90)},
}
MOMENTA = {f"momentum {momentum:g}": {"momentum": momentum} for momentum in (0.0, 0.5, 0.9, 0.99)}
MODES = {"synchronous": {"mode": "sync"}, "asynchronous": {"mode": "async"}}
COMPENSATIONS = {
    "none": {},
    "λ 2": {"compensation": "constant 2"},
    "λ 5": {"compensation": "constant 5"},
}
GAUSSIAN = {"delayed": "all", "delay_type": "gaussian"}
MEAN_DELAYS = {f"{ms} ms": {"delay_ms": float(ms)} for ms in (30, 60, 90)}

Part = dict[str, dict[str, object]]  # what is told → what it sets


def product(first: Part, second: Part) -> Part:
    """Every part of one with every part of the other."""
    return {f"{one}, {other}": {**first[one], **second[other]} for one in first for other in second}


ACCURACIES: dict[str, tuple[Cell, Part, Part]] = {  # name → shared, rows, columns
    "workers": (ASYNC, product(MODES, PARTITIONS), WORKERS),
    "delays": (ASYNC, DELAYS, product(PARTITIONS, WORKERS)),
    "momentum of a slow worker": (
        replace(ASYNC, partition="split_labels", **SLOW), MOMENTA, product(WORKERS, MEAN_DELAYS),
    ),
    "compensation of a slow worker": (
        replace(ASYNC, partition="split_labels", **SLOW), COMPENSATIONS, product(WORKERS, MEAN_DELAYS),
    ),
    "momentum": (
        replace(ASYNC, **GAUSSIAN), product(PARTITIONS, MOMENTA), product(WORKERS, MEAN_DELAYS),
    ),
    "compensation": (
        replace(ASYNC, compensation="constant 2", **GAUSSIAN),
        product(PARTITIONS, MOMENTA), product(WORKERS, MEAN_DELAYS),
    ),
}  # fmt: skip


def tell(cell: Cell, results: Results) -> str:
    """Mean ± deviation of what was measured, and in brackets what was published."""
    group, published = results.measured.get(cell), results.published.get(cell)
    measured = "" if group is None else f"{group.spread('test_accuracy'):.1f}"
    return measured if published is None else f"{measured} ({published:.1f})".strip()


def accuracy_table(name: str, results: Results) -> str:
    """One of the ACCURACIES, in Markdown."""
    shared, rows, columns = ACCURACIES[name]
    lines = [
        [title, *(tell(replace(shared, **row, **column), results) for column in columns.values())]
        for title, row in rows.items()
    ]
    return markdown_table(["", *columns], lines)


TABLES: dict[str, Callable[[Results], str]] = {
    **{name: partial(accuracy_table, name) for name in ACCURACIES},
    **{f"speed, {clock} clock": partial(speed_table, clock=clock) for clock in CLOCKS},
}


def fill_in(page: str, results: Results) -> str:
    """The page with its tables made anew: each stands between `<!-- table: NAME -->` and `<!-- end -->`.

    Raises ValueError for a name that is none of the TABLES.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"table {name!r} is not valid: one of {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n{TABLES[name](results)}<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[^>]*) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)


# ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with published.csv and a folder an experiment")
    parser.add_argument("--plot_dir", metavar="DIR", type=Path, default=Path("plots"), help="(default plots)")
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
        path = plot_dir / f"{name}.png"
        with atomic_write(path) as unfinished:
            draw(results).savefig(unfinished)
        print(f"  {path}")


if __name__ == "__main__":
    run_script(main)
