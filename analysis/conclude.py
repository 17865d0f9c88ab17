"""The end of every sweep: its summary, then its report.

python3 -m analysis.conclude runs --summary_dir summaries/mine
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from analysis.report.write import write_report
from analysis.reports.summary import TARGETS, make_parser, summarise
from interface.command_line import run_script
from interface.errors import DataError


def conclude(
    folder: Path, summary_dir: Path, report_dir: Path, data_dir: str, targets: Sequence[float] = TARGETS
) -> None:
    """Summarise and report the runs of a folder. targets: test accuracies, percent, to report the time to.

    Raises DataError for runs that cannot be measured, once the others are reported.
    """
    report = partial(write_report, [folder], report_dir / "report.html", summary_dir, data_dir)
    try:
        summarise(folder, summary_dir, data_dir, targets)
    except DataError:
        with suppress(DataError):
            report()
        raise
    report()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--report_dir", metavar="DIR", type=Path, help="where the report goes (default FOLDER)")
    arguments = parser.parse_args()
    folder = arguments.folder
    summary_dir, report_dir = arguments.summary_dir or folder, arguments.report_dir or folder
    conclude(folder, summary_dir, report_dir, arguments.data_dir, arguments.targets)


if __name__ == "__main__":
    run_script(main)
