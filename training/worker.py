"""One worker: its samples, random streams and running statistics, and the computation of its gradients."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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

    def mask_shapes(self, images: Tensor) -> list[torch.Size]: ...


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


@dataclass(frozen=True, slots=True)
class Task:
    """What one gradient is computed from.

    batches: indices (n,) of the mini-batches of its local steps; dropout: the worker's generator, which the computation
    advances; buffers (B,): the running statistics to start from.
    """

    snapshot: Snapshot
    batches: tuple[Tensor, ...]
    dropout: torch.Generator
    buffers: Tensor


@dataclass(frozen=True, slots=True)
class Result:
    """A computed task: the mean loss, the gradient (P,), and the running statistics (B,) afterwards."""

    loss: float
    gradient: Tensor
    buffers: Tensor


def compute(task: Task, model: Model, samples: IndexedSamples) -> Result:
    """The gradient of a task: with local steps, the sum of the gradients along as many steps of SGD.

    The model holds no state of a worker, so that several workers can share one.
    """
    model.parameters.copy_(task.snapshot.parameters)
    model.buffers.copy_(task.buffers)
    model.use_generator(task.dropout)
    model.network.train()
    losses, gradient = [], None
    for batch in task.batches:
        if gradient is not None:
            model.parameters.sub_(model.gradients, alpha=task.snapshot.learning_rate)
        images, labels = samples.batch(batch)
        loss = F.nll_loss(model.network(images), labels)
        model.gradients.zero_()
        loss.backward()
        losses.append(loss.item())
        gradient = model.gradients.clone() if gradient is None else gradient.add_(model.gradients)
    return Result(sum(losses) / len(losses), gradient, model.buffers.clone())


class Worker:
    """The state of one worker: its mini-batches, random streams and running statistics. One gradient at a time.

    shuffle, dropout: the worker's own generators.
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
        self.dropout = dropout
        self.buffers: Tensor | None = None
        self._batches = local_batches(shard, batch_size, local_steps, shuffle)

    def start(self, snapshot: Snapshot) -> Task:
        """The task of the worker's next gradient, at the weights of `snapshot`."""
        buffers = snapshot.buffers if self.buffers is None else self.buffers
        return Task(snapshot, next(self._batches), self.dropout, buffers)

    def finish(self, task: Task, result: Result) -> Push:
        """The push of a task that was computed."""
        self.step += 1
        self.buffers = result.buffers
        return Push(self.number, self.step, task.snapshot.version, result.loss, result.gradient, result.buffers)

    def state(self) -> dict[str, Any]:
        """The state before its next push."""
        return {"step": self.step, "dropout": self.dropout.get_state(), "buffers": self.buffers}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a new worker into a state."""
        for _ in range(state["step"]):
            next(self._batches)
        self.step, self.buffers = state["step"], state["buffers"]
        self.dropout.set_state(state["dropout"].cpu())

    def skip(self, steps: int, buffers: Tensor | None, model: Model, samples: IndexedSamples) -> None:
        """Put a new worker into the state after so many steps, whose last running statistics were `buffers` (B,)."""
        shapes = model.mask_shapes(samples.batch(torch.arange(2))[0])
        for _ in range(steps):
            for batch in next(self._batches):
                for _, *shape in shapes:
                    torch.empty(len(batch), *shape).bernoulli_(generator=self.dropout)  # any probability
        self.step, self.buffers = steps, buffers

    def compute(self, snapshot: Snapshot, model: Model, samples: IndexedSamples) -> Push:
        """Compute the worker's next gradient here and now."""
        task = self.start(snapshot)
        return self.finish(task, compute(task, model, samples))
