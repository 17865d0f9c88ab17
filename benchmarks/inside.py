"""Runs in this process, observed from inside: what the benchmarks of whole commands cannot see."""

import tempfile
from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.data import TRAIN_IMAGES
from benchmarks.measure import BATCH_SIZE
from common import build_model, load_dataset
from training.checkpoints import Checkpoints
from training.config import RunConfig
from training.engines import virtual
from training.engines.rpc import launch
from training.observer import Observer
from training.plan import Plan, make_plan
from training.record.writer import Record

PER_EPOCH = 1000  # updates, each from a full mini-batch of one of up to 1,000 workers
SETTINGS = {"dataset": "fashion_mnist", "partition": "split_dataset", "lr": 0.0001, "momentum": 0.9, "seed": 1}


class Undisturbed(Observer):
    """Lets nobody wait for a test of the model while the run goes on."""

    def leave(self, seconds: float, worker: int) -> None:
        """Without the test when the first worker leaves."""


Watching = TypeVar("Watching", bound=Undisturbed)


def observe(clock: str, workers: int, data_dir: str, updates: int, observer_type: type[Watching]) -> Watching:
    """Train LeNet5 asynchronously, for a multiple of 1,000 updates; returns the observer of the run."""
    torch.set_num_threads(1)
    dataset = load_dataset("fashion_mnist", data_dir)
    share = PER_EPOCH * BATCH_SIZE / TRAIN_IMAGES
    engine: Callable[..., None] = virtual.train if clock == "virtual" else launch.train
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            mode="async", world_size=workers + 1, clock=clock, epochs=updates // PER_EPOCH, train_split=share,
            stop="total", no_save_model=True, data_dir=data_dir, subfolder=folder, **SETTINGS,
        )  # fmt: skip
        plan: Plan = make_plan(config, config.seed, dataset.train)
        model = build_model(config.dataset, config.network_name, config.seed)
        with Record(plan, clock) as record, observer_type(plan, model, record, dataset) as observer:
            algorithm = plan.algorithm(model)
            checkpoints = Checkpoints(plan, model, algorithm.server.optimizer, observer, None)
            engine(plan, dataset.train, algorithm, observer, checkpoints)
    return observer
