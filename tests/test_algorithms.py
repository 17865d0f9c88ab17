"""Every algorithm is tested on a scripted schedule with expectations computed by hand.

The model is a single weight w with loss w²/2, so the gradient is w; w starts at 1, and the learning rate is 1/2.
"""

import math

import pytest
import torch

from training.algorithms import ALGORITHMS, Algorithm
from training.config import RunConfig, algorithms_of
from training.optimizers import SGD, Adam
from training.protocol import Push
from training.server import ParameterServer


def make_algorithm(name: str, momentum: float = 0.0, buffers: int = 0, **flags) -> Algorithm:
    """An algorithm for two workers and the single weight."""
    rule = ALGORITHMS[name]
    config = RunConfig(mode=rule.mode, algorithm=name, world_size=3, **flags)
    weight = torch.ones(1)
    server = ParameterServer(weight, torch.zeros(buffers), SGD(weight, momentum), lambda updates, gradients: 0.5)
    return rule(server, config, [1, 2])


class Script:
    """Workers that fetch and push on command."""

    def __init__(self, algorithm):
        self.algorithm, self.server = algorithm, algorithm.server
        self.fetched, self.steps, self.updates, self.outcomes = {}, {}, [], []

    def fetch(self, *workers):
        for worker in workers:
            self.fetched[worker] = self.algorithm.fetch(worker)
        return self

    def push(self, *workers):
        for worker in workers:
            snapshot = self.fetched[worker]
            self.steps[worker] = self.steps.get(worker, 0) + 1
            gradient = snapshot.parameters.clone()
            push = Push(worker, self.steps[worker], snapshot.version, 0.0, gradient, torch.zeros(0))
            self._take(self.algorithm.push(push))
        return self

    def leave(self, *workers):
        for worker in workers:
            self._take(self.algorithm.leave(worker))
        return self

    def _take(self, outcome):
        self.outcomes.append(outcome)
        if outcome.update:
            self.updates.append(outcome.update)

    def play(self):
        """Both workers fetch; 1 pushes and fetches; 2 pushes its stale gradient and fetches; 1 and 2 push."""
        return self.fetch(1, 2).push(1).fetch(1).push(2).fetch(2).push(1, 2)


def adaptive_by_hand():
    """w after each update of Script.play with DC-ASGD-a and lambda 2, in plain arithmetic."""
    w, mean_square, seen, trace = 1.0, 0.0, {1: 1.0, 2: 1.0}, []
    for worker in (1, 2, 1, 2):
        g = seen[worker]
        mean_square = 0.95 * mean_square + 0.05 * g * g
        w -= 0.5 * (g + 2 / math.sqrt(mean_square + 1e-7) * g * g * (w - seen[worker]))
        trace.append(w)
        seen[worker] = w
    return trace


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        # w: 1 → 1-½·1 → ½-½·1 → 0-½·½ → -¼-½·0
        ({}, [0.5, 0.0, -0.25, -0.25]),
        # velocities 1, 0.5+1, 0.75+½, 0.625-¼ (the gradient of worker 2 is its fetched w = -¼)
        ({"momentum": 0.5}, [0.5, -0.25, -0.875, -1.0625]),
        # 2nd: g=1, w-bak=-½: g'=1+2·1·(-½)=0; 3rd: g=½, bak=½, w=½: ½; 4th: g=½, bak=½, w=¼: ½+2·¼·(-¼)=⅜
        ({"compensation": True}, [0.5, 0.5, 0.25, 0.0625]),
        ({"compensation": True, "compensation_lambda": 0.0}, [0.5, 0.0, -0.25, -0.25]),
        ({"compensation": True, "compensation_mode": "adaptive"}, adaptive_by_hand()),
    ],
    ids=["plain", "momentum", "constant", "lambda 0", "adaptive"],
)
def test_asgd(options, weights):
    script = Script(make_algorithm("asgd", **options)).play()
    assert [update.weight_norm for update in script.updates] == pytest.approx([abs(w) for w in weights], abs=1e-6)
    assert script.server.parameters.item() == pytest.approx(weights[-1], abs=1e-6)
    assert [update.staleness for update in script.updates] == [0, 1, 1, 1]
    assert [update.version for update in script.updates] == [1, 2, 3, 4]
    assert [outcome.released for outcome in script.outcomes] == [(1,), (2,), (1,), (2,)]


def test_compensation_changes_only_stale_gradients():
    """A bug in the published code: its backup was the live weight, so w - w_bak was always 0."""
    script = Script(make_algorithm("asgd", compensation=True)).fetch(1).push(1).fetch(1).push(1)
    assert script.server.parameters.item() == 0.25


def test_snapshots_are_never_modified():
    script = Script(make_algorithm("asgd")).fetch(1, 2).push(1)
    assert script.fetched[1].parameters.item() == script.fetched[2].parameters.item() == 1.0
    assert script.algorithm.fetch(1).parameters.item() == 0.5


def test_average_waits_for_all_and_averages():
    script = Script(make_algorithm("average")).fetch(1, 2).push(2)
    assert (script.updates, script.server.version, script.outcomes[0].released) == ([], 0, ())
    script.push(1)
    assert (script.server.version, script.server.parameters.item()) == (1, 0.5)
    assert [push.worker for push in script.updates[0].pushes] == [1, 2]
    assert script.updates[0].staleness == 0
    assert script.outcomes[1].released == (1, 2)


def test_average_does_not_wait_for_workers_that_have_left():
    script = Script(make_algorithm("average"))
    script.fetch(1, 2).push(1, 2).leave(2).fetch(1).push(1).fetch(1).push(1)
    assert (script.server.version, script.server.parameters.item()) == (3, 0.125)


def test_average_closes_the_round_when_the_missing_worker_leaves():
    script = Script(make_algorithm("average")).fetch(1, 2).push(1).leave(2)
    assert (script.server.version, script.server.parameters.item()) == (1, 0.5)
    assert script.outcomes[-1].released == (1,)


def test_average_sums_in_worker_order():
    """Floating-point sums depend on the order of summation, which must not depend on the order of arrival."""
    gradients = {1: 1e8, 2: 1.0, 3: -1e8}
    for order in ((1, 2, 3), (3, 2, 1), (2, 3, 1)):
        weight = torch.ones(1)
        server = ParameterServer(weight, torch.zeros(0), SGD(weight, 0.0), lambda updates, gradients: 0.5)
        algorithm = ALGORITHMS["average"](server, RunConfig(mode="sync", world_size=4), [1, 2, 3])
        for worker in order:
            algorithm.push(Push(worker, 1, 0, 0.0, torch.tensor([gradients[worker]]), torch.zeros(0)))
        assert server.parameters.item() == 1.0  # (1e8 + 1) - 1e8 = 0 in float32


@pytest.mark.parametrize("name", ALGORITHMS)
def test_running_statistics_are_the_mean_of_the_latest_pushes(name):
    algorithm = make_algorithm(name, buffers=2)
    server = algorithm.server
    for step, (first, second) in enumerate([([1.0, 2.0], [3.0, 6.0]), ([5.0, 5.0], [7.0, 9.0])], start=1):
        for worker, values in ((1, first), (2, second)):
            algorithm.push(Push(worker, step, server.version, 0.0, torch.zeros(1), torch.tensor(values)))
        expected = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        assert server.fetch(1).buffers.tolist() == expected


def test_learning_rate_follows_the_schedule():
    algorithm = make_algorithm("asgd")
    algorithm.server.learning_rate = lambda updates, gradients: [1.0, 0.25][updates]
    for step in (1, 2):
        algorithm.push(Push(1, step, step - 1, 0.0, torch.ones(1), torch.zeros(0)))
    assert algorithm.server.parameters.item() == 1 - 1 - 0.25


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_defines_all_properties(name):
    rule = ALGORITHMS[name]
    assert rule.title and rule.__doc__ and rule.mode in ("sync", "async")
    config = RunConfig(mode=rule.mode, algorithm=name)
    updates = rule.updates_per_epoch([3, 5], config)
    assert updates is None or 1 <= updates <= 8
    assert name in algorithms_of(rule.mode)
    assert all(flags.__doc__ for flags in rule.flags)


@pytest.mark.parametrize(
    ("make_ours", "make_torchs"),
    [
        (lambda weights: SGD(weights, 0.9), lambda weights: torch.optim.SGD([weights], momentum=0.9, fused=True)),
        (lambda weights: SGD(weights, 0.0), lambda weights: torch.optim.SGD([weights], fused=True)),
        (Adam, lambda weights: torch.optim.Adam([weights], fused=True)),
    ],
    ids=["momentum", "plain", "adam"],
)
def test_optimizers_equal_those_of_torch(make_ours, make_torchs):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(1000, generator=generator)
    weights, reference = start.clone(), torch.nn.Parameter(start.clone())
    ours, torchs = make_ours(weights), make_torchs(reference)
    for step in range(1, 6):
        gradient = torch.randn(1000, generator=generator)
        ours.step(gradient, 0.1 / step)
        reference.grad, torchs.param_groups[0]["lr"] = gradient, 0.1 / step
        torchs.step()
        assert torch.equal(weights, reference)
