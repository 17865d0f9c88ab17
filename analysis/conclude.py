"""The end of every sweep: its summary, then its report.

python3 -m analysis.conclude runs --summary_dir summaries/mine
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from analysis.report.__main__ import write_report
from analysis.reports.summary import TARGETS, parse_arguments, summarise
from interface.command_line import run_script
from interface.errors import DataError


def conclude(folder: Path, summary_dir: Path, data_dir: str, targets: Sequence[float] = TARGETS) -> None:
    """Summarise and report the runs of a folder. targets: test accuracies, percent, to report the time to.

    Raises DataError for runs that cannot be measured, once the others are reported.
    """
    page = folder / "report.html"
    try:
        summarise(folder, summary_dir, data_dir, targets)
    except DataError:
        with suppress(DataError):
            write_report([folder], page, summary_dir, data_dir)
        raise
    write_report([folder], page, summary_dir, data_dir)


def main() -> None:
    arguments = parse_arguments(__doc__)
    conclude(arguments.folder, arguments.summary_dir or arguments.folder, arguments.data_dir, arguments.targets)


if __name__ == "__main__":
    run_script(main)
