"""Tabulate the best result of every grid search in a folder.

python3 -m cross_validation.summary results/kfold

A search without a result, such as one that was interrupted at its first configuration, is left out with a warning.
"""

import csv
import dataclasses
import logging
from pathlib import Path

from analysis.tables import markdown_table, write_rows, write_text
from cross_validation.grid import SearchSettings
from cross_validation.results import Result, rank, read_results
from interface.command_line import ArgumentParser, run_script
from interface.errors import DataError

Best = tuple[SearchSettings, Result]


def read_best(path: Path) -> Best:
    """The settings of a search and its best result. Raises DataError if the file contains none."""
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")  # the last row may be incomplete
        first = next(csv.DictReader(lines))
        settings = SearchSettings(
            **{field.name: field.type(first[field.name]) for field in dataclasses.fields(SearchSettings)}
        )
    except (StopIteration, KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: contains no result of a search") from error
    return settings, rank(read_results(path, settings))[0]


def row_of(best: Best) -> dict[str, object]:
    """A row of the table: title → value."""
    settings, result = best
    configuration = result.configuration
    return {
        "data set": settings.dataset,
        "network": settings.network,
        "optimizer": settings.optimizer,
        "lr": configuration.learning_rate,
        "momentum": configuration.momentum if settings.optimizer == "SGD" else "",
        "batch size": configuration.batch_size,
        "epochs": result.epochs,
        "accuracy, %": f"{result.accuracy:.2f}",
        "loss": f"{result.loss:.4f}" if result.converged else "diverged",
        "folds": settings.folds,
        "samples": settings.samples,
        "seed": settings.seed,
    }


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with the results of kfold.py")
    folder = parser.parse_args().folder
    rows = []
    for path in sorted(folder.glob("kfold_*.csv")):
        if path.read_bytes().count(b"\n") <= 1:  # its titles at most
            logging.warning("%s: contains no result yet", path)
        else:
            rows.append(row_of(read_best(path)))
    if not rows:
        raise DataError(f"{folder}: contains no kfold_*.csv with results to summarise")
    titles, values = list(rows[0]), [list(map(str, row.values())) for row in rows]
    table, numbers = folder / "best.md", folder / "best.csv"
    about = "Accuracy and loss: mean ± standard deviation over the folds."
    write_text(table, f"{about}\n\n{markdown_table(titles, values)}")
    write_rows(numbers, [titles, *values])
    print(f"Best result of each search ({len(rows)}):\n  {table}\n  {numbers}")


if __name__ == "__main__":
    run_script(main)
