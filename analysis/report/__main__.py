"""A report of all runs in some folders: one HTML page that works without a network, and figures for a paper.

python3 -m analysis.report runs --output runs/report.html

Runs that no one has measured yet are tested first, as in a summary. Beside the page: report_curves and
report_differences, each as PNG and PDF.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.report.figures import FIGURES
from analysis.report.page import page
from analysis.report.runs import compare, read_folder
from analysis.tables import write_text
from interface.command_line import ArgumentParser, count, run_script
from interface.errors import DataError, UsageError
from interface.files import atomic_write, make_folder


def main(words: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("folders", metavar="FOLDER", type=Path, nargs="+", help="where logs and models, or trials.jsonl, are")
    add("--output", metavar="FILE", type=Path, help="the page (default report.html in the first folder)")
    add("--summary_dir", metavar="DIR", type=Path, help="where trials.jsonl is (default FOLDER)")
    add("--data_dir", metavar="DIR", default="data", help="where data sets lie or are downloaded to (default data)")
    arguments = parser.parse_args(words)
    for folder in arguments.folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
    runs = [
        run
        for folder in arguments.folders
        for run in read_folder(folder, arguments.summary_dir or folder, arguments.data_dir)
    ]
    if not runs:
        raise DataError(f"{' '.join(map(str, arguments.folders))}: no complete run to report")
    comparison = compare(runs)
    output = arguments.output or arguments.folders[0] / "report.html"
    make_folder(output.parent, "--output")
    title = ", ".join(dict.fromkeys(folder.resolve().name for folder in arguments.folders))
    write_text(output, page(comparison, title, output.parent))
    written = [output]
    for name, draw in FIGURES.items():
        figure = draw(comparison)
        for suffix in (".png", ".pdf") if figure else ():
            written.append(output.with_name(f"{output.stem}_{name}{suffix}"))
            with atomic_write(written[-1]) as unfinished:
                figure.savefig(unfinished)
    runs, settings = count(len(comparison.runs), "run"), count(len(comparison.settings), "setting")
    print(f"Report of {runs} of {settings}; open the first in a browser:")
    for path in written:
        print(f"  {path}")


if __name__ == "__main__":
    run_script(main)
