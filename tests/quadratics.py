"""Quadratic losses on the virtual clock: worker m has the loss ½ ‖w − c_m‖², and constant times."""

import itertools
from dataclasses import dataclass, field

import torch

from training.algorithms import ALGORITHMS
from training.config import RunConfig
from training.engines.dispatcher import RunShape
from training.engines.gradients import FunctionGradients
from training.engines.virtual import simulate
from training.optimizers import SGD
from training.server import ParameterServer


@dataclass
class Trace:
    """What happened: w after each update, and worker, version fetched and staleness of each gradient."""

    weights: list[torch.Tensor] = field(default_factory=list)
    gradients: list[tuple[int, int, int]] = field(default_factory=list)
    dropped: int = 0

    def push(self, seconds, push, outcome):
        version = len(self.weights)
        self.gradients.append((push.worker, push.version, version - push.version))
        self.dropped += outcome.dropped
        if outcome.update is not None:
            self.update(seconds, outcome.update)

    def update(self, seconds, update):
        self.weights.append(self.server.parameters.clone())

    def leave(self, seconds, worker):
        pass

    def end(self, rule):
        pass


def run_quadratics(
    algorithm: str, minima: list[float], times_ms: list[float], gradients: int, rate: float, noise=0.0, **flags
) -> Trace:
    """Train a single weight (twice, so that bits differ) until so many gradients per worker have been pushed."""
    rule = ALGORITHMS[algorithm]
    workers = range(1, len(minima) + 1)
    config = RunConfig(mode=rule.mode, algorithm=algorithm, world_size=len(minima) + 1, **flags)
    generator = torch.Generator().manual_seed(1)
    weights = torch.tensor([2.0, -1.3])
    momentum = 0.0 if rule.own_momentum else config.momentum
    trace = Trace()
    trace.server = ParameterServer(weights, torch.zeros(0), SGD(weights, momentum), lambda *_: rate)
    centres = dict(zip(workers, minima, strict=True))

    def gradient(worker, parameters):
        return parameters - centres[worker] + noise * torch.randn(2, generator=generator)

    shape = RunShape(algorithm, dict.fromkeys(workers, gradients), "total")
    times = {worker: itertools.repeat(ms) for worker, ms in zip(workers, times_ms, strict=True)}
    simulate(shape, rule(trace.server, config, list(workers)), trace, times, FunctionGradients(gradient))
    return trace
