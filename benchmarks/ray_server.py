"""Ray's synchronous and asynchronous parameter servers, as on the page "Parameter Server" in its documentation.

The differences: the network and the data are those of this suite, and nothing is evaluated during training. The
documentation calls a round of all workers an iteration, and reads the weights at every tenth update.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np
import ray
import torch
import torch.nn.functional as F
from ray.actor import ActorHandle
from torch import Tensor, nn

from benchmarks.data import batches, tensors
from benchmarks.limit import make_network, make_optimizer
from benchmarks.measure import Sample, Stopwatch, Task

LOOK_INTERVAL = 10

Weights = dict[str, Tensor]
Gradients = list[np.ndarray]


def get_weights(network: nn.Module) -> Weights:
    return {name: value.cpu() for name, value in network.state_dict().items()}


def get_gradients(network: nn.Module) -> Gradients:
    return [parameter.grad.data.cpu().numpy() for parameter in network.parameters()]


def set_gradients(network: nn.Module, gradients: Gradients) -> None:
    for gradient, parameter in zip(gradients, network.parameters(), strict=True):
        parameter.grad = torch.from_numpy(gradient)


@ray.remote
class RayServer:
    """Holds the model and applies gradients."""

    def __init__(self, network: str) -> None:
        self.model = make_network(network)
        self.optimizer = make_optimizer(self.model)

    def apply_gradients(self, *gradients: Gradients) -> Weights:
        summed = [np.stack(parts).sum(axis=0) for parts in zip(*gradients, strict=True)]
        self.optimizer.zero_grad()
        set_gradients(self.model, summed)
        self.optimizer.step()
        return get_weights(self.model)

    def get_weights(self) -> Weights:
        return get_weights(self.model)


@ray.remote
class DataWorker:
    """Computes gradients at the given weights."""

    def __init__(self, rank: int, network: str, data_dir: str) -> None:
        self.model = make_network(network)
        torch.manual_seed(rank)
        self.batches = batches(*tensors(data_dir))

    def compute_gradients(self, weights: Weights) -> Gradients:
        self.model.load_state_dict(weights)
        images, labels = next(self.batches)
        self.model.zero_grad()
        loss = F.nll_loss(self.model(images), labels)
        loss.backward()
        return get_gradients(self.model)


def asynchronous(task: Task) -> Sample:
    """Total gradients/s of all workers, each of which continues as soon as its gradient is applied."""
    return timed(task, train_asynchronously, gradients_per_update=1)


def synchronous(task: Task) -> Sample:
    """Total gradients/s of all workers, which wait for each other."""
    return timed(task, train_synchronously, gradients_per_update=task.workers)


Train = Callable[[ActorHandle, list[ActorHandle]], Iterator[ray.ObjectRef]]


def timed(task: Task, train: Train, gradients_per_update: int) -> Sample:
    """Start a server and its workers, train, and time everything after the warm-up."""
    ray.init(include_dashboard=False, log_to_driver=False)
    server = RayServer.remote(task.network)
    workers = [DataWorker.remote(rank, task.network, task.data_dir) for rank in range(task.workers)]
    updates = train(server, workers)
    wait_for_updates(updates, task.warm_up // gradients_per_update)
    stopwatch = Stopwatch()
    wait_for_updates(updates, task.measured // gradients_per_update)
    sample = stopwatch.rate(task.measured)
    ray.shutdown()
    return sample


def wait_for_updates(updates: Iterator[ray.ObjectRef], number: int) -> None:
    """Start some updates, and wait until the last one is complete."""
    latest = deque(islice(updates, number), maxlen=1)
    ray.get(latest.pop())


def train_synchronously(server: ActorHandle, workers: list[ActorHandle]) -> Iterator[ray.ObjectRef]:
    """Yield the weights after each update, endlessly."""
    weights = server.get_weights.remote()
    for iteration in count():
        parts = [worker.compute_gradients.remote(weights) for worker in workers]
        weights = server.apply_gradients.remote(*parts)
        if iteration % LOOK_INTERVAL == 0:
            ray.get(weights)
        yield weights


def train_asynchronously(server: ActorHandle, workers: list[ActorHandle]) -> Iterator[ray.ObjectRef]:
    """Yield the weights after each update, endlessly."""
    weights = server.get_weights.remote()
    in_flight = {worker.compute_gradients.remote(weights): worker for worker in workers}
    for update in count():
        ready, _ = ray.wait(list(in_flight))
        worker = in_flight.pop(ready[0])
        weights = server.apply_gradients.remote(ready[0])
        in_flight[worker.compute_gradients.remote(weights)] = worker
        if update % LOOK_INTERVAL == 0:
            ray.get(weights)
        yield weights
