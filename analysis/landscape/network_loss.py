"""The loss of a network on test images as a function of its parameters: fast, and independent of the thread."""

import os
import threading
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.landscape.inputs import SurveySettings
from analysis.landscape.plane import Line
from analysis.landscape.survey import Evaluation
from common import (
    DEFAULT_SEED,
    Dataset,
    FlatModel,
    Samples,
    build_model,
    make_generator,
    take_subset,
)
from interface.device import prepare_device
from interface.errors import UsageError

STATISTICS_BATCHES, STATISTICS_BATCH_SIZE = 4, 100  # training images from which BatchNorm's statistics are estimated
PROBE_SIZE = 2  # images


class PrecomputedLayer(nn.Module):
    """Replaces a layer whose output is already known: returns `output`, whatever the input."""

    output: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output


@dataclass(frozen=True)
class FirstLayer:
    """The layer of a network that receives the images, as they are or flattened.

    name: dotted, as in `network.named_modules()`.
    """

    name: str
    layer: nn.Conv2d | nn.Linear
    flattened: bool

    def __call__(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1) if self.flattened else images)

    def replace(self, network: nn.Module, layer: nn.Module) -> None:
        """Put another layer in its place."""
        parent, _, attribute = self.name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, layer)


def find_first_layer(network: nn.Module, images: Tensor) -> FirstLayer | None:
    """The first layer with parameters that a network in evaluation mode calls on images like these (n, C, H, W).

    None unless it is a convolution or a linear layer that receives the images, as they are or flattened, and is called
    once: only then is its output linear in its parameters and known without the rest of the network.
    """
    # Random numbers, which no step before the layer (clamping, scaling, normalising) leaves as they are by chance.
    generator = make_generator(DEFAULT_SEED, "landscape probe", device=images.device)
    probe = torch.empty_like(images).normal_(generator=generator)
    calls: list[tuple[nn.Module, list[Tensor]]] = []

    def record(module: nn.Module, inputs: tuple) -> None:
        calls.append((module, [value.clone() for value in inputs if isinstance(value, Tensor)]))

    names = {module: name for name, module in network.named_modules() if list(module.parameters(recurse=False))}
    hooks = [module.register_forward_pre_hook(record) for module in names]
    with torch.inference_mode():
        network(probe.clone())
    for hook in hooks:
        hook.remove()
    if not calls:
        return None

    layer, inputs = calls[0]
    is_linear = type(layer) in (nn.Conv2d, nn.Linear)  # a subclass may compute anything
    is_linear &= {name for name, _ in layer.named_parameters()} <= {"weight", "bias"}  # no weight normalisation
    called_once = [module for module, _ in calls].count(layer) == 1
    if not (is_linear and called_once and names[layer] and len(inputs) == 1):
        return None
    for flattened, expected in ((False, probe), (True, probe.flatten(1))):
        if torch.equal(inputs[0], expected):
            return FirstLayer(names[layer], layer, flattened)
    return None


class NetworkLoss:
    """The mean negative log-likelihood of a network on `images`, as a function of its parameters.

    Where the first layer is linear in its parameters, its output moves along a line when the parameters do: two
    evaluations of that layer serve all points of a line (see `find_first_layer`). BatchNorm's running statistics are
    re-estimated at each point from `statistics`, batches of training images.
    Each line is evaluated by one thread and always in the same batches, so that a loss does not depend on what else is
    being evaluated.
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
        self.device = model.parameters.device
        self.images = images.to(self.device)
        self.statistics = tuple(batch.to(self.device) for batch in statistics)
        self.batch_size = batch_size
        self.interrupted = interrupted
        self.precomputed = PrecomputedLayer()
        model.network.eval()
        self.first_layer = find_first_layer(model.network, self.images.batch(slice(PROBE_SIZE))[0])
        if self.first_layer is not None:
            self.first_layer.replace(model.network, self.precomputed)

    def __call__(self, line: Line) -> np.ndarray:
        """The losses (n,) at the points of a line; NaN once the survey has been interrupted."""
        return self.scores(line)[0]

    def scores(self, line: Line) -> tuple[np.ndarray, np.ndarray]:
        """Losses (n,) and accuracies (n,), percent, at the points of a line."""
        offsets = line.offsets.tolist()
        origin, direction = (torch.from_numpy(vector).to(self.device) for vector in (line.origin, line.direction))
        totals = torch.zeros(2, len(offsets), dtype=torch.float64, device=self.device)  # loss, correct
        with torch.inference_mode():
            buffers = [self._estimate_statistics(torch.add(origin, direction, alpha=offset)) for offset in offsets]
            for start in range(0, len(self.images), self.batch_size):
                if self.interrupted.is_set():
                    return np.full(len(offsets), np.nan), np.full(len(offsets), np.nan)
                images, labels = self.images.batch(slice(start, start + self.batch_size))
                if self.first_layer is not None:
                    at_origin = self._first_output(origin, images)
                    along = self._first_output(direction, images) if any(offsets) else None  # only the origin: unused
                for number, offset in enumerate(offsets):
                    torch.add(origin, direction, alpha=offset, out=self.model.parameters)
                    self.model.buffers.copy_(buffers[number])
                    if self.first_layer is not None:
                        # A new tensor for each point: the next layer may work in place.
                        self.precomputed.output = (
                            torch.add(at_origin, along, alpha=offset) if offset else at_origin.clone()
                        )
                    output = self.model.network(images)
                    totals[0, number] += F.nll_loss(output, labels, reduction="sum")
                    totals[1, number] += (output.argmax(dim=1) == labels).sum()
        losses, accuracies = (totals / len(self.images)).cpu().numpy()
        return losses, 100 * accuracies

    def _first_output(self, parameters: Tensor, images: Tensor) -> Tensor:
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
            self.model.parameters.copy_(parameters)
            for images in self.statistics:
                if self.first_layer is not None:
                    self.precomputed.output = self.first_layer(images)
                self.model.network(images)
        self.model.network.eval()
        return self.model.buffers.clone()


def batch_norms(model: FlatModel) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """The layers of a network that keep running statistics."""
    return [module for module in model.network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]


def evaluation_of(dataset: Dataset, network: str, settings: SurveySettings) -> Evaluation:
    """The loss of a network on all test images of a data set, or on `test_samples` of them: once per core, or on a GPU.

    Raises UsageError, naming the flag, where there are fewer test images than requested.
    """
    total = len(dataset.test)
    images = images_of(dataset, "test", settings.test_samples)
    count = len(images)
    statistics = choose(dataset.train, STATISTICS_BATCHES * STATISTICS_BATCH_SIZE, "landscape statistics")
    batches = tuple(statistics.batch(slice(None))[0].split(STATISTICS_BATCH_SIZE))
    interrupted = threading.Event()
    prepare_device(settings.device, settings.tf32)
    threads = len(os.sched_getaffinity(0)) if settings.device == "cpu" else 1
    models = [build_model(dataset.name, network, device=settings.device) for _ in range(threads)]
    losses = tuple(NetworkLoss(model, images, batches, settings.batch_size, interrupted) for model in models)
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


def images_of(dataset: Dataset, part: str, count: int | None) -> Samples:
    """All test images of a data set, or `count` of them, or (part "train") as many training images.

    Raises UsageError, naming the flag, where there are fewer test images.
    """
    total = len(dataset.test)
    count = count or total
    if count > total:
        raise UsageError(f"--test_samples {count} is not valid: {dataset.name} has {total} test images")
    return choose(dataset.test if part == "test" else dataset.train, count, f"landscape {part} images")


def choose(samples: Samples, count: int, purpose: str) -> Samples:
    """`count` random samples, or all if there are fewer; always the same ones for a purpose."""
    generator = make_generator(DEFAULT_SEED, purpose)
    indices = take_subset(len(samples), min(1.0, count / len(samples)), generator)
    return Samples(samples.images[indices], samples.labels[indices])
