"""Gradients computed in batches on one device: one network, as many weights as gradients are in flight (torch.func).

When the schedule takes a gradient that is not there yet, all that were started are computed together. In steady state
every worker has one in flight, so that a batch serves as many updates as there are workers. Batches follow only from
the schedule, which makes a run repeatable on the same device. On a GPU, a batch is one launch of a CUDA graph.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from catalogue import NETWORKS
from common import FlatModel, Samples, build_model
from training.plan import Plan
from training.protocol import Push, Snapshot
from training.worker import Result, Task

WARM_UPS = 3  # computations before a graph is captured, which choose and allocate what it uses
Sizes = tuple[int, ...]  # of the mini-batches of a task


class NetworkFunction:
    """The gradients of one network at M weights, each with its own mini-batch of n samples.

    Called with parameters (M, P), buffers (M, B), images (M, n, C, H, W), labels (M, n) and dropout masks (M, n, …), it
    returns losses (M,), gradients (M, P) and buffers (M, B) afterwards, all in new memory.
    """

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        network = model.network
        self._parameters = [(name, value.shape) for name, value in network.named_parameters()]
        self._frozen = [name for name, value in network.named_parameters() if not value.requires_grad]
        self._buffers = [(name, network.get_buffer(name).shape) for name in model.buffer_names]
        self._each = grad(self._loss, has_aux=True)
        self._all = vmap(self._each)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._model.network.train()
        if len(inputs[0]) == 1:
            gradient, (loss, buffers) = self._each(*(tensor[0] for tensor in inputs))
            return loss[None], gradient[None], buffers[None]
        gradients, (losses, buffers) = self._all(*inputs)
        return losses, gradients, buffers

    def _loss(
        self, parameters: Tensor, buffers: Tensor, images: Tensor, labels: Tensor, *masks: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        state = named_views(parameters, self._parameters)
        state |= {name: state[name].detach() for name in self._frozen}
        # Training changes these in place.
        statistics = {name: value.clone() for name, value in named_views(buffers, self._buffers).items()}
        with self._model.masked(masks):
            loss = F.nll_loss(functional_call(self._model.network, state | statistics, (images,)), labels)
        changed = [value.flatten() for value in statistics.values()]
        return loss, (loss, torch.cat(changed) if changed else buffers)


def named_views(vector: Tensor, shapes: list[tuple[str, torch.Size]]) -> dict[str, Tensor]:
    """The parts of a vector under their names."""
    parts = vector.split([shape.numel() for _, shape in shapes]) if shapes else ()
    return {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}


class Graph:
    """A function of tensors, captured in a CUDA graph for the shapes of `inputs`."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)


class BatchGradients:
    """All gradients in flight in one batch, or one by one where the network's row says that this is faster."""

    def __init__(self, plan: Plan, samples: Samples) -> None:
        self._model = build_model(plan.config.dataset, plan.config.network_name, device=plan.config.device)
        self._samples = samples.to(plan.config.device)
        self._function = NetworkFunction(self._model)
        self._graphs: dict[tuple[torch.Size, ...], Graph] = {}
        self._largest = len(plan.steps) if NETWORKS[plan.config.network_name].batched else 1
        self._workers = {number: plan.worker(number) for number in plan.steps}
        self._mask_shapes: dict[int, list[torch.Size]] = {}  # by the size of the mini-batch
        self._tasks: dict[int, Task] = {}
        self._results: dict[int, Result] = {}

    def start(self, worker: int, snapshot: Snapshot, due: float) -> None:
        """The worker has fetched a model."""
        self._tasks[worker] = self._workers[worker].start(snapshot)

    def take(self, worker: int) -> Push:
        """The gradient of a worker."""
        if worker not in self._results:
            self._compute([worker] if self._largest == 1 else sorted(self._tasks.keys() - self._results.keys()))
        return self._workers[worker].finish(self._tasks.pop(worker), self._results.pop(worker))

    def state(self) -> dict[str, Any]:
        """The workers, the models that they have fetched, and the results so far: bits depend on the batch."""
        return {
            "workers": {number: worker.state() for number, worker in self._workers.items()},
            "snapshots": {number: task.snapshot for number, task in self._tasks.items()},
            "results": {
                number: (result.loss, result.gradient.clone(), result.buffers.clone())
                for number, result in self._results.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        for number, worker in state["workers"].items():
            self._workers[number].restore(worker)
        self._results = {number: Result(*result) for number, result in state["results"].items()}

    def _compute(self, workers: list[int]) -> None:
        """Compute the tasks of some workers, those with mini-batches of the same sizes together."""
        groups: dict[Sizes, list[int]] = {}
        for worker in workers:
            groups.setdefault(tuple(map(len, self._tasks[worker].batches)), []).append(worker)
        for group in groups.values():
            losses, gradients, buffers = self._compute_group([self._tasks[worker] for worker in group])
            for row, worker in enumerate(group):
                # Copies: a worker that is due much later must not keep the gradients of all others.
                self._results[worker] = Result(losses[row], gradients[row].clone(), buffers[row].clone())

    def _compute_group(self, tasks: list[Task]) -> tuple[list[float], Tensor, Tensor]:
        parameters = torch.stack([task.snapshot.parameters for task in tasks])
        buffers = torch.stack([task.buffers for task in tasks])
        rates = torch.tensor([[task.snapshot.learning_rate] for task in tasks]).to(parameters)
        losses: list[Tensor] = []
        total = gradients = None
        for step in range(len(tasks[0].batches)):
            if gradients is not None:  # those of the step before
                parameters = parameters - rates * gradients
            indices = torch.stack([task.batches[step] for task in tasks])
            images, labels = self._samples.batch(indices.flatten())
            images, labels = images.unflatten(0, indices.shape), labels.view(indices.shape)
            masks = self._draw_masks(tasks, images)
            loss, gradients, buffers = self._call(parameters, buffers, images, labels, *masks)
            losses.append(loss)
            total = gradients if total is None else total + gradients
        return torch.stack(losses).mean(dim=0).tolist(), total, buffers

    def _draw_masks(self, tasks: list[Task], images: Tensor) -> list[Tensor]:
        """The dropout masks (M, n, …) of a step, each worker's from its own generator."""
        size = images.shape[1]
        if size not in self._mask_shapes:
            self._mask_shapes[size] = self._model.mask_shapes(images[0])
        shapes = self._mask_shapes[size]
        masks = [images.new_empty(len(tasks), *shape) for shape in shapes]
        for row, task in enumerate(tasks):
            for mask, keep in zip(masks, self._model.keep_probabilities, strict=True):
                mask[row].bernoulli_(keep, generator=task.dropout).div_(keep)
        return masks

    def _call(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function, on a GPU through a graph for a number of gradients that is a power of two or all workers."""
        if not inputs[0].is_cuda:
            return self._function(*inputs)
        count = len(inputs[0])
        padded = min(self._largest, 1 << (count - 1).bit_length())
        inputs = tuple(torch.cat([tensor, tensor[:1].expand(padded - count, *tensor.shape[1:])]) for tensor in inputs)
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            self._graphs[shapes] = Graph(self._function, inputs)
        return tuple(output[:count] for output in self._graphs[shapes](*inputs))
