"""A report of all runs in some folders: one HTML page that works without a network, and figures for a paper.

python3 -m analysis.report runs --output runs/report.html

Runs that no one has measured yet are tested first, as in a summary. Beside the page: report_curves and
report_differences, each as PNG and PDF.
"""

from pathlib import Path

from analysis.flags import add_data_dir, add_summary_dir
from analysis.report.write import write_report
from interface.command_line import ArgumentParser, run_script
from interface.errors import UsageError


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


if __name__ == "__main__":
    run_script(main)
