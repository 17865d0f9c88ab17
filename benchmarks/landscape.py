"""Loss landscapes: the suite's survey compared with a loop over state dicts and a DataLoader."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, Subset

from analysis.landscape.inputs import BATCH_SIZE, MARGIN, SurveySettings
from analysis.landscape.network_loss import evaluation_of
from analysis.landscape.survey import SavedRun, Survey
from benchmarks.data_loader import decoded
from benchmarks.limit import make_network
from benchmarks.measure import Sample, Stopwatch, Task
from common import load_dataset

SAVED_ROWS = 3


def trajectory(network: nn.Module) -> np.ndarray:
    """Saved weights (rows, parameters) that resemble a training run: a random walk with a fixed seed."""
    start = parameters_to_vector(network.parameters()).detach().numpy()
    walk = 0.003 * np.random.default_rng(0).standard_normal((SAVED_ROWS, len(start)), dtype=np.float32)
    return start + walk.cumsum(axis=0)


def survey(task: Task, grid_size: int) -> Sample:
    """Points/s of the survey in loss_landscape.py, with the default batch size."""
    weights = trajectory(make_network(task.network))
    settings = SurveySettings(grid_size, BATCH_SIZE, MARGIN, test_samples=task.amount, data_dir=Path(task.data_dir))
    dataset = load_dataset("fashion_mnist", task.data_dir)
    evaluation = evaluation_of(dataset, task.network, settings)
    run = SavedRun("random walk", weights, np.arange(SAVED_ROWS))
    full_survey = Survey.around([run], None, settings, evaluation.about)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        stopwatch = Stopwatch()
        full_survey.measure(evaluation, Path(folder) / "unfinished.npz")
        return stopwatch.rate(len(full_survey))


def plain_loop(task: Task, loader_workers: int, points: int) -> Sample:
    """Points/s of a loop that loads the weights of each point and evaluates them with a DataLoader."""
    network = make_network(task.network)
    origin, first, second = (state_of(row, network) for row in trajectory(network))
    data = Subset(decoded(task, train=False), range(task.amount))
    loader = DataLoader(data, batch_size=BATCH_SIZE, num_workers=loader_workers)
    network(next(iter(loader))[0])  # warm-up

    stopwatch = Stopwatch()
    for x in np.linspace(0, 1, points).tolist():
        network.load_state_dict(
            {name: value + x * (first[name] - value) + x * (second[name] - value) for name, value in origin.items()}
        )
        mean_loss(network, loader)
    return stopwatch.rate(points)


def state_of(row: np.ndarray, network: nn.Module) -> dict[str, Tensor]:
    """The state dict for one row (P,) of saved weights of a network without buffers."""
    state = network.state_dict()
    parts = torch.from_numpy(row).split([value.numel() for value in state.values()])
    return {name: part.view_as(value) for (name, value), part in zip(state.items(), parts, strict=True)}


def mean_loss(network: nn.Module, loader: DataLoader) -> float:
    """The mean negative log-likelihood over a data set."""
    network.eval()
    total = 0.0
    with torch.no_grad():
        for images, labels in loader:
            total += F.nll_loss(network(images), labels, reduction="sum").item()
    return total / len(loader.dataset)
