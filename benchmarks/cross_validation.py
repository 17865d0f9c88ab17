"""Grid search with k-fold cross-validation: the suite's search compared with a loop over DataLoaders."""

import statistics
import tempfile
from itertools import islice
from pathlib import Path

import torch
from sklearn.model_selection import KFold
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler

from benchmarks.data_loader import decoded
from benchmarks.limit import make_network, make_optimizer, train
from benchmarks.measure import BATCH_SIZE, LEARNING_RATE, MOMENTUM, Sample, Stopwatch, Task, cores
from common import load_dataset
from cross_validation.grid import SearchGrid, SearchSettings
from cross_validation.results import ResultsFile
from cross_validation.search import SearchData, make_folds, search

FOLDS = 5
EPOCHS = (2, 4, 6)  # the defaults of kfold.py
WARM_UP = 5  # mini-batches of the plain loop before the measurement
HOUR = 3600


def suite_search(task: Task) -> Sample:
    """Configurations/h of the search in kfold.py, with two learning rates and the default numbers of epochs."""
    torch.set_num_threads(1)  # as in kfold.py, which forks
    samples = load_dataset("fashion_mnist", task.data_dir).train
    settings = SearchSettings("fashion_mnist", task.network, "SGD", task.amount, FOLDS, 1, samples.fingerprint())
    data = SearchData(settings, samples, make_folds(torch.arange(task.amount), FOLDS, seed=1))
    grid = SearchGrid((LEARNING_RATE, 2 * LEARNING_RATE), (MOMENTUM,), (BATCH_SIZE,), EPOCHS)
    configurations = len(grid.configurations) * len(EPOCHS)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        stopwatch = Stopwatch()
        with ResultsFile(Path(folder) / "results.csv", settings) as file:
            search(data, grid, file, jobs=cores())
        return stopwatch.rate(configurations, per_piece=HOUR)


def plain_loop(task: Task, loader_workers: int) -> Sample:
    """Configurations/h of a loop over folds that trains each configuration separately.

    Measures one training epoch and one evaluation of one fold, and scales them to all folds and to the mean number of
    epochs per configuration.
    """
    data = decoded(task, train=True)
    folds = KFold(FOLDS, shuffle=True, random_state=0).split(range(task.amount))
    train_indices, held_out = next(folds)
    options = {"batch_size": BATCH_SIZE, "num_workers": loader_workers}
    train_loader = DataLoader(data, sampler=SubsetRandomSampler(train_indices), **options)
    test_loader = DataLoader(data, sampler=SubsetRandomSampler(held_out), **options)
    network = make_network(task.network)
    optimizer = make_optimizer(network)
    train(network, optimizer, islice(train_loader, WARM_UP))

    stopwatch = Stopwatch()
    train(network, optimizer, train_loader)
    training = stopwatch.read()
    stopwatch = Stopwatch()
    accuracy(network, test_loader)
    evaluation = stopwatch.read()
    times = zip(training, evaluation, strict=True)
    seconds, cpu = (FOLDS * (statistics.mean(EPOCHS) * epoch + test) for epoch, test in times)
    return Sample.rate(1, seconds, cpu, per_piece=HOUR)


def accuracy(network: nn.Module, loader: DataLoader) -> float:
    """The percentage of samples of a loader that are classified correctly."""
    network.eval()
    correct = total = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (network(images).argmax(dim=1) == labels).sum().item()
            total += len(labels)
    return 100 * correct / total
