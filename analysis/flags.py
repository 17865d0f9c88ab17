"""Flags and files that several programs of this package share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.tables import write_text
from interface.command_line import ArgumentParser
from interface.files import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_data_dir(parser: ArgumentParser) -> None:
    """Where data sets are."""
    parser.add_argument(
        "--data_dir", type=os.path.expanduser, metavar="DIR", default="data",
        help="where data sets lie or are downloaded to (default data)",
    )  # fmt: skip


def add_summary_dir(parser: ArgumentParser) -> None:
    """Where the trials are."""
    parser.add_argument(
        "--summary_dir", metavar="DIR", type=Path, help="where trials.jsonl and the tables are (default FOLDER)"
    )


def add_plot_dir(parser: ArgumentParser, default: str = ".") -> None:
    """Where figures go."""
    parser.add_argument(
        "--plot_dir", metavar="DIR", type=Path, default=Path(default), help=f"where figures go (default {default})"
    )


def report_trials(
    doc: str, table: str, name: str, report: Callable[..., tuple[str, Figure]], *, needs_data: bool = False
) -> None:
    """The program of a report on the trials of a folder: a table beside them, and a figure.

    table: name of its file; name: of the figure's; report: from the folder, the names of runs, of which none stands for
    all, and with needs_data the folder of the data sets, to the text of the table and the figure.
    """
    parser = ArgumentParser(doc)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where trials.jsonl is")
    parser.add_argument("names", metavar="NAME", nargs="*", help="of a run (default: all of the folder)")
    add_plot_dir(parser)
    if needs_data:
        add_data_dir(parser)
    arguments = parser.parse_args()
    inputs: list[Any] = [arguments.folder, arguments.names, *([arguments.data_dir] if needs_data else [])]
    text, figure = report(*inputs)
    write_text(arguments.folder / table, text)
    from analysis.figures import save

    written = save(figure, make_folder(arguments.plot_dir, "--plot_dir") / name)
    print(*(f"  {path}" for path in (arguments.folder / table, *written)), sep="\n")
