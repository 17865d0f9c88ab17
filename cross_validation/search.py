"""k-fold cross-validated grid search: the grid, the folds, one training, the search, and the file of its results.

A search over a grid trains every configuration once a fold, to the longest number of epochs, and scores it on
the held-out samples on the way. Trainings run in worker processes of one thread each, so that their results
do not depend on how many run at once.
"""

import dataclasses
import fcntl
import itertools
import math
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from analysis.spread import Spread
from common import Samples, build_model, make_generator
from evaluation import Score, evaluate
from interface.errors import DataError
from interface.files import make_folder, with_filename
from interface.processes import obey
from training.optimizers import SGD, Adam

# ----------------------------------------------------------------------------------------------------
# What is searched, and on what
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchSettings:
    """What all results of one search share; results of different settings do not compare.

    optimizer: SGD or ADAM; samples: how many of the training set the folds divide; data: its fingerprint.
    """

    dataset: str
    network: str
    optimizer: str
    samples: int
    folds: int
    seed: int
    data: str

    @property
    def name(self) -> str:
        """The base of the names of a search's files; they tell settings apart, though not data of one name."""
        return (
            f"kfold_{self.dataset}_{self.optimizer}_{self.network}"
            f"_samples{self.samples}_folds{self.folds}_seed{self.seed}"
        )


@dataclass(frozen=True, order=True)
class Configuration:
    """One point of the grid, but for the epochs. The momentum is SGD's; Adam leaves it at 0."""

    learning_rate: float
    momentum: float
    batch_size: int


@dataclass(frozen=True)
class SearchGrid:
    """The values to try, each ascending and without repetition."""

    learning_rates: tuple[float, ...]
    momentums: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    epochs: tuple[int, ...]

    @property
    def configurations(self) -> list[Configuration]:
        """Every configuration; small batches, the slowest, first, which keeps all cores busy to the end."""
        points = itertools.product(self.batch_sizes, self.momentums, self.learning_rates)
        return [Configuration(learning_rate, momentum, size) for size, momentum, learning_rate in points]


@dataclass(frozen=True)
class Fold:
    """One division of the samples: indices to train on (T,) and held out (V,), and the seed of its trainings."""

    train: Tensor
    held_out: Tensor
    seed: int


def make_folds(indices: Tensor, count: int, seed: int) -> tuple[Fold, ...]:
    """Divide `indices` (N,) at random into `count` held-out parts: disjoint, complete, sizes differ by one at most."""
    from sklearn.model_selection import KFold

    random_state = make_generator(seed, "folds").initial_seed() % 2**32  # all that numpy takes
    return tuple(
        Fold(
            indices[torch.from_numpy(train)],
            indices[torch.from_numpy(held_out)],
            make_generator(seed, "fold", number).initial_seed(),
        )
        for number, (train, held_out) in enumerate(KFold(count, shuffle=True, random_state=random_state).split(indices))
    )


@dataclass(frozen=True)
class SearchData:
    """Everything that trainings share: worker processes inherit it when they are forked."""

    settings: SearchSettings
    samples: Samples
    folds: tuple[Fold, ...]


# ----------------------------------------------------------------------------------------------------
# One training
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One configuration on one fold (0, 1, …), to be scored behind each of `epochs` (ascending)."""

    configuration: Configuration
    epochs: tuple[int, ...]
    fold: int


class FoldScore(NamedTuple):
    """The score on the held-out samples, and the seconds of training up to there."""

    score: Score
    seconds: float


def train(data: SearchData, training: Training) -> tuple[FoldScore, ...]:
    """Train from the start to the last of the epochs, exactly as a non-distributed run with the fold's seed does."""
    settings, fold = data.settings, data.folds[training.fold]
    model = build_model(settings.dataset, settings.network, fold.seed)
    model.use_generator(make_generator(fold.seed, "dropout", worker=1))
    shuffle = make_generator(fold.seed, "shuffle", worker=1)
    optimizer = (
        Adam(model.parameters)
        if settings.optimizer == "ADAM"
        else SGD(model.parameters, training.configuration.momentum)
    )

    scores, seconds = [], 0.0
    for epoch in range(1, training.epochs[-1] + 1):
        start = time.perf_counter()
        model.network.train()
        order = fold.train[torch.randperm(len(fold.train), generator=shuffle)]
        for batch in order.split(training.configuration.batch_size):
            images, labels = data.samples.batch(batch)
            loss = F.nll_loss(model.network(images), labels)
            model.gradients.zero_()
            loss.backward()
            optimizer.step(model.gradients, training.configuration.learning_rate)
        seconds += time.perf_counter() - start
        if epoch in training.epochs:
            scores.append(FoldScore(evaluate(data.samples, model, fold.held_out), seconds))
    return tuple(scores)


# ----------------------------------------------------------------------------------------------------
# Results, and the file that holds them
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a configuration reaches after some epochs.

    losses, accuracies (percent): one a fold; seconds: mean time of one training so far, without the scoring.
    """

    configuration: Configuration
    epochs: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def loss(self) -> Spread:
        """Mean negative log-likelihood of the held-out samples."""
        return Spread.of(self.losses)

    @property
    def accuracy(self) -> Spread:
        """Percent of the held-out samples."""
        return Spread.of(self.accuracies)

    @property
    def converged(self) -> bool:
        """Whether the loss is finite on every fold."""
        return all(map(math.isfinite, self.losses))


def rank(results: list[Result]) -> list[Result]:
    """Best first: by mean accuracy, then mean loss, then the shorter training; what diverged comes last."""

    def merit(result: Result) -> tuple:
        loss = result.loss.mean if result.converged else math.inf
        return not result.converged, -result.accuracy.mean, loss, result.epochs, result.configuration

    return sorted(results, key=merit)


COLUMNS = (
    *(field.name for field in dataclasses.fields(SearchSettings)),
    *(field.name for field in dataclasses.fields(Configuration)),
    *("epochs", "accuracy_mean", "accuracy_std", "loss_mean", "loss_std", "seconds", "accuracies", "losses"),
)


class ResultsFile:
    """The results of a search, a row of a CSV file each, written as they come. Use it as a context.

    A row carries the settings of its search and the values of every fold (`accuracies` and `losses`, with
    spaces between them), of which mean and deviation are a summary: it stands for itself, and one that
    belongs elsewhere or contradicts itself is found. A last line that was cut off is dropped.

    results: (configuration, epochs) → Result. Raises OSError where the file cannot be opened, and DataError,
    which names file and line, if it is in use, damaged, or that of another search.
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
            with suppress(OSError):  # of what could not be written, which is told already
                self._file.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # of a row that could not be written, which is told already
            self._file.close()

    def of(self, grid: SearchGrid) -> list[Result]:
        """The results of a grid, all of which must be there."""
        points = itertools.product(grid.configurations, grid.epochs)
        return [self.results[point] for point in points]

    def add(self, result: Result) -> None:
        """Append one row."""
        self.results[result.configuration, result.epochs] = result
        self._write(",".join(self._row(result)))

    def _write(self, line: str) -> None:
        with with_filename(self.path):
            self._file.write(f"{line}\n".encode())
            self._file.flush()

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends
        except BlockingIOError as error:
            raise DataError(f"{self.path}: another search is writing it") from error

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        header = ",".join(COLUMNS)
        *lines, torn = content.decode(errors="replace").split("\n")
        if lines[:1] != [header] and (lines or not header.startswith(torn)):
            raise DataError(f"{self.path}, line 1: not the columns of a search's results; move the file away")
        for number, line in enumerate(lines[1:], start=2):
            result = self._parse(number, line.split(","))
            self.results[result.configuration, result.epochs] = result
        self._file.truncate(content.rfind(b"\n") + 1)
        if not lines:
            self._write(header)

    def _row(self, result: Result) -> list[str]:
        spreads = (result.accuracy, result.loss)
        return [
            *map(str, dataclasses.astuple(self.settings)),
            *map(str, dataclasses.astuple(result.configuration)),
            str(result.epochs),
            *(f"{value:.8g}" for spread in spreads for value in dataclasses.astuple(spread)),
            f"{result.seconds:.3f}",
            *(" ".join(map(str, values)) for values in (result.accuracies, result.losses)),
        ]

    def _parse(self, number: int, row: list[str]) -> Result:
        for column, found, setting in zip(COLUMNS, row, dataclasses.astuple(self.settings), strict=False):
            if found != str(setting):
                raise DataError(
                    f"{self.path}, line {number}: of another search: its {column} is {found[:80]!r}, "
                    f"here it is {setting}; move the file away"
                )
        try:
            value = dict(zip(COLUMNS, row, strict=True))
            accuracies, losses = (tuple(map(float, value[name].split())) for name in ("accuracies", "losses"))
            configuration = Configuration(
                float(value["learning_rate"]), float(value["momentum"]), int(value["batch_size"])
            )
            result = Result(configuration, int(value["epochs"]), losses, accuracies, float(value["seconds"]))
            possible = min(configuration.learning_rate, configuration.batch_size, result.epochs) > 0
            possible = possible and configuration.momentum >= 0 and all(0 <= value <= 100 for value in accuracies)
            if len(losses) == len(accuracies) == self.settings.folds and possible and self._row(result) == row:
                return result
        except (ValueError, OverflowError):
            pass
        raise DataError(f"{self.path}, line {number}: damaged; remove the line, and its configuration is trained again")


# ----------------------------------------------------------------------------------------------------
# The search: trainings on all cores
# ----------------------------------------------------------------------------------------------------


class TrainingProcessLost(DataError):
    """A process that trained has died, and the search with it."""


def search(data: SearchData, grid: SearchGrid, file: ResultsFile, jobs: int) -> None:
    """Add to `file` every result of the grid that it lacks, with `jobs` trainings at a time.

    Raises TrainingProcessLost if a process dies. Whatever ends the search ends its processes.
    """
    trainings = [
        Training(configuration, missing, fold)
        for configuration in grid.configurations
        if (missing := tuple(epochs for epochs in grid.epochs if (configuration, epochs) not in file.results))
        for fold in range(len(data.folds))
    ]
    if not trainings:
        return
    total = len(grid.configurations) * len(data.folds)
    tqdm.monitor_interval = 0  # no thread of tqdm's: the pool forks
    bar = tqdm(total=total, initial=total - len(trainings), unit=" trainings", dynamic_ncols=True, disable=None)
    with bar, worker_pool(data, min(jobs, len(trainings))) as pool:
        # A queue, unlike concurrent.futures.wait, holds no lock of the pool's when Ctrl-C comes.
        finished: SimpleQueue[Future] = SimpleQueue()
        running = {pool.submit(_train, training): training for training in trainings}
        for future in running:
            future.add_done_callback(finished.put)
        scores: dict[Configuration, dict[int, tuple[FoldScore, ...]]] = defaultdict(dict)
        while running:
            with suppress(Empty):
                future = finished.get(timeout=1)
                training = running.pop(future)
                folds = scores[training.configuration]
                folds[training.fold] = outcome(future, file)
                if len(folds) == len(data.folds):
                    for result in gather(training, [folds[fold] for fold in sorted(folds)]):
                        file.add(result)
                bar.update()
            bar.refresh()  # its clock goes on while nothing ends


def outcome(future: Future, file: ResultsFile) -> tuple[FoldScore, ...]:
    """What a training returned."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise TrainingProcessLost(
            f"a worker process was lost (killed, or out of memory); the results so far are safe in {file.path}, "
            f"and the same command goes on from there"
        ) from error


def gather(training: Training, folds: list[tuple[FoldScore, ...]]) -> Iterator[Result]:
    """The results of a configuration, one a number of epochs, from the scores of all its trainings."""
    for epochs, scores in zip(training.epochs, zip(*folds, strict=True), strict=True):
        yield Result(
            training.configuration,
            epochs,
            losses=tuple(fold.score.loss for fold in scores),
            accuracies=tuple(fold.score.accuracy for fold in scores),
            seconds=statistics.fmean(fold.seconds for fold in scores),
        )


@contextmanager
def worker_pool(data: SearchData, count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that train, forked from this one; an exception kills them in the middle of their work."""
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(data, os.getpid()))
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


# Of a worker process, inherited when it was forked: trainings come through a queue, the data does not.
_data: SearchData


def _start_worker(data: SearchData, parent: int) -> None:
    global _data
    obey(parent)
    torch.set_num_threads(1)
    _data = data


def _train(training: Training) -> tuple[FoldScore, ...]:
    return train(_data, training)
