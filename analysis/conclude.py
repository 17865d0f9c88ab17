"""The end of every sweep: its summary, then its report.

python3 -m analysis.conclude runs --summary_dir summaries/mine
"""

from collections.abc import Sequence
from pathlib import Path

import analysis.report.__main__ as report
import analysis.reports.summary as summary
from interface.command_line import ArgumentParser, run_script


def main(words: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="where logs and models are")
    add("--summary_dir", metavar="DIR", type=Path, help="where trials.jsonl and the tables are (default FOLDER)")
    add("--data_dir", metavar="DIR", default="data", help="where data sets lie or are downloaded to (default data)")
    arguments = parser.parse_args(words)
    places = [str(arguments.folder), "--summary_dir", str(arguments.summary_dir or arguments.folder)]
    for conclusion in (summary, report):
        conclusion.main([*places, "--data_dir", arguments.data_dir])


if __name__ == "__main__":
    run_script(main)
