"""The study: its pages of text, a table of every published accuracy beside the measured one, and its figures.

python3 -m analysis.study summaries --plot_dir plots
python3 -m analysis.study summaries --check

Reads published.csv and the trials of each folder in there; writes comparison.md and comparison.csv, the pages made from
the templates in analysis/study/pages/, the findings in the README beside the folder, and one figure per question. With
--check it writes nothing, and ends with exit code 1 if a page, the findings, the comparison, or the contrasts or the
summary of an experiment say anything that the rows do not.
"""

import logging
from itertools import zip_longest
from pathlib import Path

from analysis.figures import save
from analysis.flags import add_plot_dir
from analysis.reports.summary import tables
from analysis.reports.trials import Trials
from analysis.study.contrasts import page_of, read_answers
from analysis.study.design import EXPERIMENTS
from analysis.study.pages import FINDINGS, PAGES, Lookup, page
from analysis.study.plots import FIGURES
from analysis.study.published import COMPUTE_MS, Results, setting_of
from analysis.tables import csv_text, markdown_table, write_text
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


def comparison(results: Results) -> tuple[str, dict[str, str]]:
    """How many settings are measured, and the text of comparison.md and comparison.csv."""
    rows = [compare(row, results) for row in results.rows]
    done = sum(row[-1] != "" for row in rows)
    about = (
        "Test accuracy on Fashion-MNIST. Published: one run each; 10.00 stands for no convergence. Measured: mean ± "
        f"sample standard deviation over the seeds, on the virtual clock with {COMPUTE_MS:g} ms per gradient. Lambda "
        "is that of the delay compensation, which had no effect in the published code. "
        f"{done} of {len(rows)} settings are measured."
    )
    return f"{done} of {len(rows)} published settings measured", {
        "comparison.md": f"# Published and measured\n\n{about}\n\n{markdown_table(TITLES, rows)}",
        "comparison.csv": csv_text([TITLES, *rows]),
    }


def write_comparison(results: Results, folder: Path) -> None:
    """comparison.md and comparison.csv."""
    done, texts = comparison(results)
    print(f"{done}:")
    for name, text in texts.items():
        write_text(folder / name, text)
        print(f"  {folder / name}")


# ----------------------------------------------------------------------------------------------------
# Pages of text
# ----------------------------------------------------------------------------------------------------

HEADING = "## What it finds\n\n"  # of the findings in the README


def files_of(folder: Path) -> dict[str, Path]:
    """Template → the file that it is for: a page in the folder, or the README beside it, if that has findings."""
    files = {name: folder / name for name in PAGES} | {FINDINGS: folder.parent / "README.md"}
    readme = files[FINDINGS]
    if not (readme.is_file() and HEADING in readme.read_text(encoding="utf-8")):
        del files[FINDINGS]
    return files


def text_of(template: str, study: Lookup, path: Path) -> str:
    """What a file must say, by the rows: the whole page, or the README with the findings under their heading."""
    text = page(template, study)
    if template != FINDINGS:
        return text
    before, heading, rest = path.read_text(encoding="utf-8").partition(HEADING)
    _, *after = rest.partition("\n## ")
    return "".join([before, heading, text, *after])


def write_pages(study: Lookup, folder: Path) -> None:
    """The pages of text. One that asks for runs that are not there, or says what they do not, is left as it is."""
    for template, path in files_of(folder).items():
        try:
            write_text(path, text_of(template, study, path))
        except DataError as error:
            logging.warning("%s is not written: %s", path, error)
        else:
            print(f"  {path}")


def texts_of(folder: Path) -> dict[Path, str]:
    """File → what the pages, the comparison, and the contrasts and summaries of experiments must say, by the rows."""
    study = Lookup(folder)
    _, compared = comparison(Results.read(folder))
    texts = {folder / name: text for name, text in compared.items()}
    texts |= {path: text_of(template, study, path) for template, path in files_of(folder).items()}
    for name, experiment in EXPERIMENTS.items():
        if (folder / name / "contrasts.md").exists():
            runs, answers = read_answers(name, experiment, folder / name)
            texts[folder / name / "contrasts.md"] = page_of(experiment, folder / name, runs, answers)
    for summary in sorted(folder.rglob("summary.md")):
        written = tables(Trials(summary.parent).rows.values())
        texts |= {summary.with_name(name): text for name, text in written.items()}
    return texts


def check_texts(texts: dict[Path, str]) -> None:
    """Raise DataError unless the files say this."""
    for path, text in texts.items():
        with with_filename(path):
            written = path.read_text(encoding="utf-8").splitlines()
        for number, (line, expected) in enumerate(zip_longest(written, text.splitlines()), start=1):
            if line != expected:
                raise DataError(f"{path}, line {number}: the rows say {expected!r}, not {line!r}")
    print("Every number is that of the rows, in", *texts, sep="\n  ")


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with published.csv and one folder per experiment")
    add_plot_dir(parser, "plots")
    parser.add_argument("--check", action="store_true", help="only compare what is written with the rows")
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.check:
        check_texts(texts_of(folder))
        return
    results = Results.read(folder)
    write_comparison(results, folder)
    write_pages(Lookup(folder), folder)
    plot_dir = make_folder(arguments.plot_dir, "--plot_dir")
    for name, draw in FIGURES.items():
        print(*(f"  {path}" for path in save(draw(results), plot_dir / name)), sep="\n")


if __name__ == "__main__":
    run_script(main)
