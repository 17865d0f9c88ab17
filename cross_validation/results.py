"""The results of a grid search, and the CSV file that holds them. Loads no torch, so that a dry run is quick."""

import csv
import dataclasses
import fcntl
import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from analysis.spread import Spread
from cross_validation.grid import Configuration, SearchGrid, SearchSettings
from interface.errors import DataError
from interface.files import make_folder, with_filename


@dataclass(frozen=True)
class Result:
    """The scores of a configuration after some number of epochs.

    losses, accuracies (percent): one per fold; seconds: mean time of one training until then, without scoring.
    """

    configuration: Configuration
    epochs: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def loss(self) -> Spread:
        """The mean negative log-likelihood of the held-out samples."""
        return Spread.of(self.losses)

    @property
    def accuracy(self) -> Spread:
        """The percentage of held-out samples classified correctly."""
        return Spread.of(self.accuracies)

    @property
    def converged(self) -> bool:
        """Whether the loss is finite for every fold."""
        return all(map(math.isfinite, self.losses))


def rank(results: list[Result]) -> list[Result]:
    """Best first: by mean accuracy, then mean loss, then fewer epochs; diverged results come last."""

    def merit(result: Result) -> tuple:
        loss = result.loss.mean if result.converged else math.inf
        return not result.converged, -result.accuracy.mean, loss, result.epochs, result.configuration

    return sorted(results, key=merit)


COLUMNS = (
    *(field.name for field in dataclasses.fields(SearchSettings)),
    *(field.name for field in dataclasses.fields(Configuration)),
    *("epochs", "accuracy_mean", "accuracy_std", "loss_mean", "loss_std", "seconds", "accuracies", "losses"),
)


def recorded(path: Path) -> set[tuple[Configuration, int]]:
    """The configurations and epochs that a results file has a row of; none if it is missing or damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                (
                    Configuration(float(row["learning_rate"]), float(row["momentum"]), int(row["batch_size"])),
                    int(row["epochs"]),
                )
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return set()


def read_results(path: Path, settings: SearchSettings) -> list[Result]:
    """Those of a results file, complete lines only, which a search may still be writing.

    Raises DataError, with file name and line, if it is damaged, or belongs to another search.
    """
    with with_filename(path):
        return [*_parse(path, settings, path.read_bytes())]


class ResultsFile:
    """The results of a search in a CSV file, one row per result, written as they arrive. A context manager.

    Each row contains the settings of its search and the values of every fold (space-separated `accuracies` and
    `losses`), in addition to their mean and deviation. So every row is self-contained, and rows that belong to another
    search or are inconsistent are detected. An incomplete last line is dropped.

    results: (configuration, epochs) → Result. Raises OSError if the file cannot be opened, and DataError, with file
    name and line, if it is in use, damaged, or belongs to another search.
    """

    def __init__(self, path: Path, settings: SearchSettings) -> None:
        self.path = path
        self.settings = settings
        self.results: dict[tuple[Configuration, int], Result] = {}
        make_folder(path.parent)
        self._file = path.open("a+b")

    def __enter__(self) -> "ResultsFile":
        try:
            self._lock()
            self._read()
        except BaseException:
            with suppress(OSError):  # unwritten data, already reported
                self._file.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # unwritten data, already reported
            self._file.close()

    def of(self, grid: SearchGrid) -> list[Result]:
        """The results of a grid; all of them must exist."""
        points = itertools.product(grid.configurations, grid.epochs)
        return [self.results[point] for point in points]

    def add(self, result: Result) -> None:
        """Append one row."""
        self.results[result.configuration, result.epochs] = result
        self._write(",".join(_row(self.settings, result)))

    def _write(self, line: str) -> None:
        with with_filename(self.path):
            self._file.write(f"{line}\n".encode())
            self._file.flush()

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when this process ends, however it ends
        except BlockingIOError as error:
            raise DataError(f"{self.path}: another search is writing to it") from error

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        for result in _parse(self.path, self.settings, content):
            self.results[result.configuration, result.epochs] = result
        complete = content.rfind(b"\n") + 1
        self._file.truncate(complete)
        if not complete:
            self._write(",".join(COLUMNS))


# ----------------------------------------------------------------------------------------------------
# The rows of the file
# ----------------------------------------------------------------------------------------------------


def _parse(path: Path, settings: SearchSettings, content: bytes) -> Iterator[Result]:
    """The results in its complete lines."""
    header = ",".join(COLUMNS)
    *lines, torn = content.decode(errors="replace").split("\n")
    if lines[:1] != [header] and (lines or not header.startswith(torn)):
        raise DataError(f"{path}, line 1: not the header of a results file of kfold.py; move the file away")
    for number, line in enumerate(lines[1:], start=2):
        yield _parse_row(f"{path}, line {number}", settings, line.split(","))


def _row(settings: SearchSettings, result: Result) -> list[str]:
    spreads = (result.accuracy, result.loss)
    return [
        *map(str, dataclasses.astuple(settings)),
        *map(str, dataclasses.astuple(result.configuration)),
        str(result.epochs),
        *(f"{value:.8g}" for spread in spreads for value in dataclasses.astuple(spread)),
        f"{result.seconds:.3f}",
        *(" ".join(map(str, values)) for values in (result.accuracies, result.losses)),
    ]


def _parse_row(place: str, settings: SearchSettings, row: list[str]) -> Result:
    for column, found, setting in zip(COLUMNS, row, dataclasses.astuple(settings), strict=False):
        if found != str(setting):
            raise DataError(f"{place}: belongs to another search: its {column} is {found[:80]!r}, "
                            f"not {setting}; move the file away")  # fmt: skip
    try:
        value = dict(zip(COLUMNS, row, strict=True))
        accuracies, losses = (tuple(map(float, value[name].split())) for name in ("accuracies", "losses"))
        configuration = Configuration(float(value["learning_rate"]), float(value["momentum"]), int(value["batch_size"]))
        result = Result(configuration, int(value["epochs"]), losses, accuracies, float(value["seconds"]))
        possible = min(configuration.learning_rate, configuration.batch_size, result.epochs) > 0
        possible = possible and configuration.momentum >= 0 and all(0 <= value <= 100 for value in accuracies)
        if len(losses) == len(accuracies) == settings.folds and possible and _row(settings, result) == row:
            return result
    except (ValueError, OverflowError):
        pass
    raise DataError(f"{place}: damaged; delete the line, and its configuration is trained again")
