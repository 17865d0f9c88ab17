"""A report of all runs in some folders: one HTML page that works without a network, and figures for a paper.

python3 -m analysis.report runs --output runs/report.html

Runs that no one has measured yet are tested first, as in a summary. Beside the page: report_curves and
report_differences, each as PNG and PDF.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.figures import save
from analysis.flags import add_data_dir, add_summary_dir
from analysis.report.figures import FIGURES
from analysis.report.page import page
from analysis.report.runs import compare, read_folder
from analysis.reports.differences import show
from analysis.tables import write_text
from interface.command_line import ArgumentParser, count, run_script
from interface.errors import DataError, UsageError
from interface.files import make_folder


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("folders", metavar="FOLDER", type=Path, nargs="+", help="where logs and models, or trials.jsonl, are")
    add("--output", metavar="FILE", type=Path, help="the page (default report.html in the first folder)")
    add_summary_dir(parser)
    add_data_dir(parser)
    arguments = parser.parse_args()
    for folder in arguments.folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
    output = arguments.output or arguments.folders[0] / "report.html"
    write_report(arguments.folders, output, arguments.summary_dir, arguments.data_dir)


def write_report(folders: Sequence[Path], output: Path, summary_dir: Path | None, data_dir: str) -> None:
    """The page and the figures of all runs in some folders, and the differences in words.

    summary_dir: of their trials; None: each folder itself.
    """
    runs = [run for folder in folders for run in read_folder(folder, summary_dir or folder, data_dir)]
    if not runs:
        raise DataError(f"{' '.join(map(str, folders))}: no complete run to report")
    comparison = compare(runs)
    make_folder(output.parent, "--output")
    title = ", ".join(dict.fromkeys(folder.resolve().name for folder in folders))
    write_text(output, page(comparison, title, output.parent))
    written = [output]
    for name, draw in FIGURES.items():
        if figure := draw(comparison):
            written += save(figure, output.with_name(f"{output.stem}_{name}"))
    runs, settings = count(len(comparison.runs), "run"), count(len(comparison.settings), "setting")
    print(f"Report of {runs} of {settings}; open the first in a browser:")
    for path in written:
        print(f"  {path}")
    show([run.trial for run in comparison.runs])


if __name__ == "__main__":
    run_script(main)
