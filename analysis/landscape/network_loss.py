"""The loss of a network on test images, as a function of its parameters: fast, and the same in any thread."""

import os
import threading

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.landscape.survey import Evaluation, Line, SurveySettings
from common import (
    DEFAULT_SEED,
    Dataset,
    FlatModel,
    Samples,
    build_model,
    make_generator,
    take_subset,
)
from interface.errors import UsageError

STATISTICS_BATCHES, STATISTICS_BATCH_SIZE = 4, 100  # training images that BatchNorm's statistics are estimated from


class PrecomputedLayer(nn.Module):
    """Stands in for a layer whose output is known: `output`, whatever the input."""

    output: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.output


class NetworkLoss:
    """The mean negative log-likelihood of a network on `images`, as a function of its parameters.

    The first layer is linear in its parameters, so that along a line of them its output moves on a line, too: two
    evaluations of that layer serve all points of a line. Running statistics of BatchNorm are
    estimated anew for each point from batches of training images, `statistics`.
    Always evaluated in the same batches and by one thread, so that a loss never depends on what is evaluated beside
    its line.
    """

    def __init__(
        self,
        model: FlatModel,
        images: Samples,
        statistics: tuple[Tensor, ...],
        batch_size: int,
        interrupted: threading.Event,
    ) -> None:
        self.model = model
        self.images = images
        self.statistics = statistics
        self.batch_size = batch_size
        self.interrupted = interrupted
        self.first_layer, self.given = model.network.conv1, PrecomputedLayer()
        model.network.conv1 = self.given

    def __call__(self, line: Line) -> np.ndarray:
        """The losses (n,) at the points of a line; NaN once the survey is interrupted."""
        places = line.places.tolist()
        origin, direction = torch.from_numpy(line.origin), torch.from_numpy(line.direction)
        totals = np.zeros(len(places))
        with torch.inference_mode():
            buffers = [self._estimate_statistics(torch.add(origin, direction, alpha=place)) for place in places]
            for start in range(0, len(self.images), self.batch_size):
                if self.interrupted.is_set():
                    return np.full(len(places), np.nan)
                images, labels = self.images.batch(slice(start, start + self.batch_size))
                at_origin = self._first_layer_of(origin, images)
                along = self._first_layer_of(direction, images) if any(places) else None  # of a lone point: not needed
                for number, place in enumerate(places):
                    torch.add(origin, direction, alpha=place, out=self.model.parameters)
                    self.model.buffers.copy_(buffers[number])
                    self.given.output = torch.add(at_origin, along, alpha=place) if place else at_origin
                    totals[number] += F.nll_loss(self.model.network(images), labels, reduction="sum").item()
        return totals / len(self.images)

    def _first_layer_of(self, parameters: Tensor, images: Tensor) -> Tensor:
        self.model.parameters.copy_(parameters)
        return self.first_layer(images)

    def _estimate_statistics(self, parameters: Tensor) -> Tensor:
        self.model.network.eval()
        normalisations = batch_norms(self.model)
        for normalisation in normalisations:
            normalisation.train()
            normalisation.momentum = None  # the plain mean over batches
            normalisation.reset_running_stats()
        if normalisations:
            for images in self.statistics:
                self.given.output = self._first_layer_of(parameters, images)
                self.model.network(images)
        self.model.network.eval()
        return self.model.buffers.clone()


def batch_norms(model: FlatModel) -> list[nn.BatchNorm2d]:
    """The layers of a network that keep running statistics."""
    return [module for module in model.network.modules() if isinstance(module, nn.BatchNorm2d)]


def evaluation_of(dataset: Dataset, network: str, settings: SurveySettings) -> Evaluation:
    """The loss of a data set's network on its test images, or on `test_samples` of them, for every core.

    Raises UsageError, naming the flag, where there are fewer test images than asked for.
    """
    total = len(dataset.test)
    count = settings.test_samples or total
    if count > total:
        raise UsageError(f"--test_samples {count} is not valid: {dataset.name} has {total} test images")
    images = choose(dataset.test, count, "landscape test images")
    statistics = choose(dataset.train, STATISTICS_BATCHES * STATISTICS_BATCH_SIZE, "landscape statistics")
    batches = tuple(statistics.batch(slice(None))[0].split(STATISTICS_BATCH_SIZE))
    interrupted = threading.Event()
    losses = tuple(
        NetworkLoss(build_model(dataset.name, network), images, batches, settings.batch_size, interrupted)
        for _ in range(len(os.sched_getaffinity(0)))
    )
    about = {
        "network": network,
        "data": f"{f'{count:,} of the' if count < total else 'all'} {total:,} test images of {dataset.name}",
        "fingerprint of the data": images.fingerprint(),
    }
    if batch_norms(losses[0].model):
        about["running statistics"] = (
            f"estimated anew from {len(batches)} batches of training images ({statistics.fingerprint()})"
        )
    return Evaluation(losses, about, interrupted)


def choose(samples: Samples, count: int, purpose: str) -> Samples:
    """`count` samples at random (all where there are fewer), always the same ones for a purpose."""
    generator = make_generator(DEFAULT_SEED, purpose)
    indices = take_subset(len(samples), min(1.0, count / len(samples)), generator)
    return Samples(samples.images[indices], samples.labels[indices])
