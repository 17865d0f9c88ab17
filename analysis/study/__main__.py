"""The study: its pages of text, a table of every published accuracy beside the measured one, and its figures.

python3 -m analysis.study summaries --plot_dir plots
python3 -m analysis.study summaries --check

Reads published.csv and the trials of each folder in there; writes comparison.md and comparison.csv, the pages made from
the templates in analysis/study/pages/, and one figure per question. With --check it writes nothing, and ends with exit
code 1 if a page says anything that the rows do not.
"""

import logging
from itertools import zip_longest
from pathlib import Path

from analysis.figures import save
from analysis.flags import add_plot_dir
from analysis.study.pages import PAGES, Lookup, page
from analysis.study.plots import FIGURES
from analysis.study.published import COMPUTE_MS, Results, setting_of
from analysis.tables import markdown_table, write_rows, write_text
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError
from interface.files import make_folder, with_filename

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
        f"sample standard deviation over the seeds, on the virtual clock with {COMPUTE_MS:g} ms per gradient. Lambda "
        "is that of the delay compensation, which had no effect in the published code. "
        f"{done} of {len(rows)} settings are measured."
    )
    write_text(folder / "comparison.md", f"# Published and measured\n\n{about}\n\n{markdown_table(TITLES, rows)}")
    write_rows(folder / "comparison.csv", [TITLES, *rows])
    print(f"{done} of {len(rows)} published settings measured:")
    for name in ("comparison.md", "comparison.csv"):
        print(f"  {folder / name}")


# ----------------------------------------------------------------------------------------------------


def write_pages(study: Lookup, folder: Path) -> None:
    """The pages of text. One that asks for runs that are not there, or says what they do not, is left as it is."""
    for name in PAGES:
        try:
            write_text(folder / name, page(name, study))
        except DataError as error:
            logging.warning("%s is not written: %s", folder / name, error)
        else:
            print(f"  {folder / name}")


def check_pages(study: Lookup, folder: Path) -> None:
    """Raise DataError unless the pages say what the rows say."""
    for name in PAGES:
        path, text = folder / name, page(name, study)
        with with_filename(path):
            written = path.read_text(encoding="utf-8").splitlines()
        for number, (line, expected) in enumerate(zip_longest(written, text.splitlines()), start=1):
            if line != expected:
                raise DataError(f"{path}, line {number}: the rows say {expected!r}, not {line!r}")
    print(f"Every number on {', '.join(PAGES)} is that of the rows.")


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with published.csv and one folder per experiment")
    add_plot_dir(parser, "plots")
    parser.add_argument("--check", action="store_true", help="only compare the pages with the rows")
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.check:
        check_pages(Lookup(folder), folder)
        return
    results = Results.read(folder)
    write_comparison(results, folder)
    write_pages(Lookup(folder), folder)
    plot_dir = make_folder(arguments.plot_dir, "--plot_dir")
    for name, draw in FIGURES.items():
        print(*(f"  {path}" for path in save(draw(results), plot_dir / name)), sep="\n")


if __name__ == "__main__":
    run_script(main)
