"""k-fold cross-validated grid search: the folds, a single training, and the search.

A search trains every configuration of the grid once per fold, for the largest number of epochs, and scores it on the
held-out samples along the way. Trainings run in single-threaded processes, so that their results do not depend on how
many run at once.
"""

import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common import Samples, build_model, make_generator
from cross_validation.grid import Configuration, SearchGrid, SearchSettings
from cross_validation.results import Result, ResultsFile
from evaluation import Score, evaluate
from interface.device import prepare_device
from interface.errors import DataError
from interface.processes import FORK
from training.optimizers import SGD, Adam

# ----------------------------------------------------------------------------------------------------
# Folds
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """One split of the samples: indices to train on (T,), held-out indices (V,), and the seed of its trainings."""

    train: Tensor
    held_out: Tensor
    seed: int


def make_folds(indices: Tensor, count: int, seed: int) -> tuple[Fold, ...]:
    """Split `indices` (N,) randomly into `count` held-out parts: disjoint, complete, sizes differ by at most one."""
    from sklearn.model_selection import KFold

    random_state = make_generator(seed, "folds").initial_seed() % 2**32  # numpy accepts no more
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
    """Everything that trainings share; their processes inherit it when they are forked."""

    settings: SearchSettings
    samples: Samples
    folds: tuple[Fold, ...]
    device: str = "cpu"
    tf32: bool = False


# ----------------------------------------------------------------------------------------------------
# One training
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One configuration on one fold (0, 1, …), scored after each of `epochs` (ascending)."""

    configuration: Configuration
    epochs: tuple[int, ...]
    fold: int


class FoldScore(NamedTuple):
    """The score on the held-out samples, and the seconds of training until then."""

    score: Score
    seconds: float


def train(data: SearchData, training: Training) -> tuple[FoldScore, ...]:
    """Train for the largest number of epochs, exactly as a non-distributed run with the fold's seed does."""
    settings, fold = data.settings, data.folds[training.fold]
    model = build_model(settings.dataset, settings.network, fold.seed, data.device)
    model.use_generator(make_generator(fold.seed, "dropout", 1, data.device))
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
# The search: parallel trainings
# ----------------------------------------------------------------------------------------------------


class TrainingProcessLost(DataError):
    """A training process died, which ends the search."""


def search(data: SearchData, grid: SearchGrid, file: ResultsFile, jobs: int) -> None:
    """Add every missing result of the grid to `file`, with `jobs` trainings at a time.

    Raises TrainingProcessLost if a process dies. However the search ends, its processes end with it.
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
    tqdm.monitor_interval = 0  # no tqdm thread, because the pool forks
    bar = tqdm(total=total, initial=total - len(trainings), unit=" trainings", dynamic_ncols=True, disable=None)
    with bar, training_pool(data, min(jobs, len(trainings))) as pool:
        # Unlike concurrent.futures.wait, a queue holds no lock of the pool when Ctrl-C arrives.
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
            bar.refresh()  # keeps the clock running while no training ends


def outcome(future: Future, file: ResultsFile) -> tuple[FoldScore, ...]:
    """What a training returned. Raises TrainingProcessLost if its process died."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise TrainingProcessLost(
            f"a training process was lost (killed, or out of memory); the results so far are in {file.path}: "
            f"repeat the command to resume"
        ) from error


def gather(training: Training, folds: list[tuple[FoldScore, ...]]) -> Iterator[Result]:
    """The results of a configuration, one per number of epochs, from the scores of all its trainings."""
    for epochs, scores in zip(training.epochs, zip(*folds, strict=True), strict=True):
        yield Result(
            training.configuration,
            epochs,
            losses=tuple(fold.score.loss for fold in scores),
            accuracies=tuple(fold.score.accuracy for fold in scores),
            seconds=statistics.fmean(fold.seconds for fold in scores),
        )


@contextmanager
def training_pool(data: SearchData, count: int) -> Iterator[ProcessPoolExecutor]:
    """Training processes, forked from this one; an exception kills them immediately."""
    pool = ProcessPoolExecutor(count, FORK, initializer=_initialise, initargs=(data,))
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


# Set in training processes, which inherit the data when forked: only the trainings pass through the pool's queue.
_data: SearchData


def _initialise(data: SearchData) -> None:
    global _data
    torch.set_num_threads(1)
    prepare_device(data.device, data.tf32)
    _data = replace(data, samples=data.samples.to(data.device))


def _train(training: Training) -> tuple[FoldScore, ...]:
    return train(_data, training)
