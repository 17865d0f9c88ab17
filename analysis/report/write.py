"""Write the report of some folders: the page, the figures, and the differences in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.figures import save
from analysis.report.figures import FIGURES
from analysis.report.page import page
from analysis.report.runs import compare, read_folder
from analysis.reports.differences import show
from analysis.tables import write_text
from interface.command_line import count
from interface.errors import DataError
from interface.files import make_folder


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
