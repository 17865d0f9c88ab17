"""Who computes the gradients in flight. The order of computation does not affect the result.

A schedule starts a gradient when a worker fetches a model, and takes it when the worker pushes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from common import Samples, build_model
from interface.processes import available_cores
from training.algorithms import Algorithm
from training.engines.batches import BatchGradients
from training.engines.processes import ProcessGradients
from training.plan import Plan
from training.protocol import Push, Snapshot


class Gradients(Protocol):
    """Computes gradients.

    start: `worker` has fetched `snapshot`; the schedule will take its gradient at `due`, in any unit of time.
    take: the gradient of `worker`. An algorithm that does not keep gradients may use its memory until the next `take`.
    """

    def start(self, worker: int, snapshot: Snapshot, due: float) -> None: ...

    def take(self, worker: int) -> Push: ...


class NetworkGradients(Gradients, Protocol):
    """Those of a run, which may be interrupted.

    state, restore: the workers before the gradients that are in flight; these are started again after `restore`.
    """

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class FunctionGradients:
    """Gradients of a function that is not a network, such as a quadratic, computed when they are taken.

    gradient: (worker, parameters (P,)) → gradient (P,) of the worker's next mini-batch.
    """

    def __init__(self, gradient: Callable[[int, Tensor], Tensor]) -> None:
        self.gradient = gradient
        self._snapshots: dict[int, Snapshot] = {}
        self._steps: dict[int, int] = {}

    def start(self, worker: int, snapshot: Snapshot, due: float) -> None:
        """The worker has fetched a model."""
        self._snapshots[worker] = snapshot

    def take(self, worker: int) -> Push:
        """The gradient of a worker."""
        snapshot = self._snapshots.pop(worker)
        self._steps[worker] = self._steps.get(worker, 0) + 1
        gradient = self.gradient(worker, snapshot.parameters)
        return Push(worker, self._steps[worker], snapshot.version, 0.0, gradient, gradient.new_empty(0))


class OwnGradients:
    """Gradients of a network, computed in this process when they are taken."""

    def __init__(self, plan: Plan, samples: Samples) -> None:
        torch.set_num_threads(plan.threads_per_gradient)
        self._samples = samples
        self._model = build_model(plan.config.dataset, plan.config.network_name)
        self._workers = {number: plan.worker(number) for number in plan.steps}
        self._snapshots: dict[int, Snapshot] = {}

    def start(self, worker: int, snapshot: Snapshot, due: float) -> None:
        """The worker has fetched a model."""
        self._snapshots[worker] = snapshot

    def take(self, worker: int) -> Push:
        """The gradient of a worker."""
        return self._workers[worker].compute(self._snapshots.pop(worker), self._model, self._samples)

    def state(self) -> dict[str, Any]:
        """The workers, and the models that they have fetched."""
        workers = {number: worker.state() for number, worker in self._workers.items()}
        return {"workers": workers, "snapshots": self._snapshots}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        for number, worker in state["workers"].items():
            self._workers[number].restore(worker)


def gradients_of(plan: Plan, samples: Samples, algorithm: Algorithm) -> AbstractContextManager[NetworkGradients]:
    """Those of a GPU, of processes on all cores, or of this one where a single process would do the same."""
    if plan.config.device != "cpu":
        return nullcontext(BatchGradients(plan, samples))
    count = max(1, min(len(plan.steps), available_cores() // plan.threads_per_gradient))
    if count == plan.threads_per_gradient == 1:
        return nullcontext(OwnGradients(plan, samples))
    return ProcessGradients(plan, samples, algorithm.server, algorithm.keeps_gradients, count)
