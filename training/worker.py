"""One worker: its samples, random streams and running statistics; computes one gradient at a time."""

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.protocol import Push, Snapshot


class Model(Protocol):
    """A network over flat vectors, such as common.FlatModel."""

    network: nn.Module
    parameters: Tensor
    gradients: Tensor
    buffers: Tensor

    def use_generator(self, generator: torch.Generator) -> None: ...


class IndexedSamples(Protocol):
    """A data set that returns images (n, C, H, W) and labels (n,) for indices (n,)."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]: ...


def mini_batches(shard: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless index tensors of at most `batch_size` samples; the shard is reshuffled each epoch."""
    return (batch for (batch,) in local_batches(shard, batch_size, 1, generator))


def local_batches(
    shard: Tensor, batch_size: int, local_steps: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """The same in groups of `local_steps` mini-batches; the last group of an epoch may be smaller."""
    while True:
        batches = shard[torch.randperm(len(shard), generator=generator)].split(batch_size)
        for start in range(0, len(batches), local_steps):
            yield batches[start : start + local_steps]


class Worker:
    """Computes the gradients of its own mini-batches, one after another.

    shuffle, dropout: the worker's own generators. The model passed to `compute` holds no state of the worker, so that
    several workers can share one model; running statistics are kept in the worker.
    """

    def __init__(
        self,
        number: int,
        shard: Tensor,
        batch_size: int,
        shuffle: torch.Generator,
        dropout: torch.Generator,
        local_steps: int = 1,
    ) -> None:
        self.number = number
        self.step = 0
        self._batches = local_batches(shard, batch_size, local_steps, shuffle)
        self._dropout = dropout
        self._buffers: Tensor | None = None

    def compute(self, snapshot: Snapshot, model: Model, samples: IndexedSamples) -> Push:
        """The gradient of the worker's next mini-batch at the weights of `snapshot`.

        With local steps, the sum of the gradients along as many steps of SGD from there.
        """
        model.parameters.copy_(snapshot.parameters)
        model.buffers.copy_(snapshot.buffers if self._buffers is None else self._buffers)
        model.use_generator(self._dropout)
        model.network.train()
        batches = next(self._batches)
        losses, gradient = [], None
        for batch in batches:
            if gradient is not None:
                model.parameters.sub_(model.gradients, alpha=snapshot.learning_rate)
            images, labels = samples.batch(batch)
            loss = F.nll_loss(model.network(images), labels)
            model.gradients.zero_()
            loss.backward()
            losses.append(loss.item())
            gradient = model.gradients.clone() if gradient is None else gradient.add_(model.gradients)
        self.step += 1
        self._buffers = model.buffers.clone()
        loss = sum(losses) / len(losses)
        return Push(self.number, self.step, snapshot.version, loss, gradient, self._buffers)
