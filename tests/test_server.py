"""One table of expectations on a scripted schedule, worked out by hand, that every server passes.

The model is one weight w with loss w²/2, so its gradient is w itself; it starts at 1, the learning rate is 1/2.
"""

import math

import pytest
import torch

from training.optimizers import SGD, Adam
from training.protocol import Push
from training.server import AsyncServer, DelayCompensation, SyncServer


def make_server(kind: str, momentum: float = 0.0, compensation: DelayCompensation | None = None, steps=None):
    weight = torch.ones(1)
    optimizer = SGD(weight, momentum)
    arguments = (weight, torch.zeros(0), optimizer, lambda update: 0.5)
    if kind == "sync":
        return SyncServer(*arguments, steps=steps or {1: 2, 2: 2})
    return AsyncServer(*arguments, compensation=compensation)


class Script:
    """Workers that fetch and push when they are told to."""

    def __init__(self, server):
        self.server, self.fetched, self.steps, self.updates = server, {}, {}, []

    def fetch(self, *workers):
        for worker in workers:
            self.fetched[worker] = self.server.fetch(worker)
        return self

    def push(self, *workers):
        for worker in workers:
            snapshot = self.fetched[worker]
            self.steps[worker] = self.steps.get(worker, 0) + 1
            gradient = snapshot.parameters.clone()
            push = Push(worker, self.steps[worker], snapshot.version, 0.0, gradient, torch.zeros(0))
            if update := self.server.push(push):
                self.updates.append(update)
        return self

    def play(self):
        """Both fetch; 1 pushes and fetches; 2 pushes its stale gradient and fetches; 1 and 2 push."""
        return self.fetch(1, 2).push(1).fetch(1).push(2).fetch(2).push(1, 2)


def adaptive_by_hand():
    """w after each update of Script.play with DC-ASGD-a, lambda 2, in plain arithmetic."""
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
        ({"compensation": DelayCompensation(2.0, adaptive=False)}, [0.5, 0.5, 0.25, 0.0625]),
        ({"compensation": DelayCompensation(0.0, adaptive=False)}, [0.5, 0.0, -0.25, -0.25]),
        ({"compensation": DelayCompensation(2.0, adaptive=True)}, adaptive_by_hand()),
    ],
    ids=["plain", "momentum", "constant", "lambda 0", "adaptive"],
)
def test_async(options, weights):
    script = Script(make_server("async", **options)).play()
    assert [update.weight_norm for update in script.updates] == pytest.approx([abs(w) for w in weights], abs=1e-6)
    assert script.server.parameters.item() == pytest.approx(weights[-1], abs=1e-6)
    assert [update.staleness for update in script.updates] == [0, 1, 1, 1]
    assert [update.version for update in script.updates] == [1, 2, 3, 4]


def test_compensation_acts_on_a_stale_gradient_alone():
    """What the published code missed: its backup was the live weight, so that w - w_bak was always 0."""
    server = make_server("async", compensation=DelayCompensation(2.0, adaptive=False))
    Script(server).fetch(1).push(1).fetch(1).push(1)
    assert server.parameters.item() == 0.25


def test_snapshots_never_change():
    server = make_server("async")
    script = Script(server).fetch(1, 2).push(1)
    assert script.fetched[1].parameters.item() == script.fetched[2].parameters.item() == 1.0
    assert server.fetch(1).parameters.item() == 0.5


def test_sync_waits_for_all_and_averages():
    server = make_server("sync")
    script = Script(server).fetch(1, 2).push(2)
    assert (script.updates, server.version) == ([], 0)
    script.push(1)
    assert (server.version, server.parameters.item()) == (1, 0.5)
    assert [push.worker for push in script.updates[0].pushes] == [1, 2]
    assert script.updates[0].staleness == 0


def test_sync_does_not_wait_for_those_who_are_through():
    server = make_server("sync", steps={1: 3, 2: 1})
    Script(server).fetch(1, 2).push(1, 2).fetch(1).push(1).fetch(1).push(1)
    assert (server.version, server.parameters.item()) == (3, 0.125)


def test_sync_sums_in_worker_order():
    """Floating-point sums depend on their order; the server's never depends on who came first."""
    gradients = {1: 1e8, 2: 1.0, 3: -1e8}
    for order in ((1, 2, 3), (3, 2, 1), (2, 3, 1)):
        server = make_server("sync", steps=dict.fromkeys(gradients, 1))
        for worker in order:
            server.push(Push(worker, 1, 0, 0.0, torch.tensor([gradients[worker]]), torch.zeros(0)))
        assert server.parameters.item() == 1.0  # (1e8 + 1) - 1e8 = 0 in float32


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_running_statistics_are_the_mean_of_the_latest(kind):
    weight, buffers = torch.ones(1), torch.zeros(2)
    optimizer = SGD(weight, momentum=0.0)
    steps = {"steps": {1: 2, 2: 2}} if kind == "sync" else {}
    server = (SyncServer if kind == "sync" else AsyncServer)(weight, buffers, optimizer, lambda update: 0.5, **steps)
    for step, (first, second) in enumerate([([1.0, 2.0], [3.0, 6.0]), ([5.0, 5.0], [7.0, 9.0])], start=1):
        for worker, values in ((1, first), (2, second)):
            server.push(Push(worker, step, server.version, 0.0, torch.zeros(1), torch.tensor(values)))
        expected = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        assert server.fetch(1).buffers.tolist() == expected


def test_learning_rate_follows_the_schedule():
    weight = torch.ones(1)
    optimizer = SGD(weight, momentum=0.0)
    server = AsyncServer(weight, torch.zeros(0), optimizer, lambda update: [1.0, 0.25][update])
    for step in (1, 2):
        server.push(Push(1, step, step - 1, 0.0, torch.ones(1), torch.zeros(0)))
    assert weight.item() == 1 - 1 - 0.25


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda weights: SGD(weights, 0.9), lambda weights: torch.optim.SGD([weights], momentum=0.9, fused=True)),
        (lambda weights: SGD(weights, 0.0), lambda weights: torch.optim.SGD([weights], fused=True)),
        (Adam, lambda weights: torch.optim.Adam([weights], fused=True)),
    ],
    ids=["momentum", "plain", "adam"],
)
def test_optimizers_are_those_of_torch(ours, torchs):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(1000, generator=generator)
    weights, reference = start.clone(), torch.nn.Parameter(start.clone())
    one, other = ours(weights), torchs(reference)
    for step in range(1, 6):
        gradient = torch.randn(1000, generator=generator)
        one.step(gradient, 0.1 / step)
        reference.grad, other.param_groups[0]["lr"] = gradient, 0.1 / step
        other.step()
        assert torch.equal(weights, reference)
