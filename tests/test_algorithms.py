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
    """An algorithm for the single weight, and two workers unless `flags` say otherwise."""
    rule = ALGORITHMS[name]
    config = RunConfig(mode=rule.mode, algorithm=name, momentum=momentum, **{"world_size": 3} | flags)
    weight = torch.ones(1)
    optimizer = SGD(weight, 0.0 if rule.own_momentum else momentum)
    server = ParameterServer(weight, torch.zeros(buffers), optimizer, lambda updates, gradients: 0.5)
    return rule(server, config, list(range(1, config.world_size)))


class Script:
    """Workers that fetch and push on command."""

    def __init__(self, algorithm):
        self.algorithm, self.server = algorithm, algorithm.server
        self.fetched, self.steps, self.updates, self.outcomes, self.weights = {}, {}, [], [], []

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
            self.weights.append(self.server.parameters.item())

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


# Worker 1 pushes three gradients and fetches after each, before worker 2 pushes its first one, which is 1.
@pytest.mark.parametrize(
    ("name", "options", "weights", "last"),
    [
        ("asgd", {}, [0.5, 0.25, 0.125, -0.375], None),
        # staleness 3: rate ½/3
        ("staleness_aware", {}, [0.5, 0.25, 0.125, 0.125 - 1 / 6], 1 / 3),
        # staleness 3 with 2 workers: rate ½·2/3
        ("delay_adaptive", {}, [0.5, 0.25, 0.125, 0.125 - 1 / 3], 2 / 3),
        ("ringmaster", {"max_staleness": 4}, [0.5, 0.25, 0.125, -0.375], None),
        ("ringmaster", {"max_staleness": 3}, [0.5, 0.25, 0.125], "dropped"),
        # the mean of 1 and 1; then worker 2 is late, and ½ of worker 1 waits for another one
        ("rennala", {}, [0.5], "dropped"),
        # the mean of 1 and 1; then that of ½ and 1
        ("fedbuff", {"buffer_size": 2, "staleness_weight": "constant"}, [0.5, 0.125], None),
        # the same, but the gradient of worker 2 is stale by the one update
        ("fedbuff", {"buffer_size": 2}, [0.5, 0.5 - (0.5 + math.sqrt(0.5)) / 4], math.sqrt(0.5)),
        # all rows: 1 (three times replaced) and 1
        ("dude", {}, [0.5], None),
        ("ringleader", {}, [0.5], None),
        # worker 1 has all of the gradients, twice its share: rate ¼; worker 2 then a fourth: rate ½·4/2
        ("rescaled", {}, [0.75, 0.5625, 0.421875, 0.421875 - 1], 2.0),
        # v₁ = 1, w = ½; ahead ½-¼ = ¼: v₁ = ¾, w = ⅛; ahead ⅛-3/16 = -1/16: v₁ = 5/16, w = -1/32; v₂ = 1
        ("dana", {"momentum": 0.5}, [0.5, 0.125, -0.03125, -0.53125], None),
        ("backup", {}, [0.5, 0.25, 0.125], "dropped"),
        # the counts 3 and 1 have a harmonic mean of 1.5
        ("malenia", {}, [0.5], None),
        ("malenia", {"buffer_size": 3}, [0.5], None),
        ("malenia", {"buffer_size": 4}, [], None),
    ],
)  # fmt: skip
def test_a_late_gradient(name, options, weights, last):
    script = Script(make_algorithm(name, **options)).fetch(1, 2)
    for _ in range(3):
        script.push(1).fetch(1)
    script.push(2)
    assert script.weights == pytest.approx(weights, abs=1e-6)
    assert script.outcomes[-1].dropped == (last == "dropped")
    if last != "dropped":
        assert script.outcomes[-1].weight == (last if last is None else pytest.approx(last))
    assert [outcome.released for outcome in script.outcomes] == [(1,), (1,), (1,), (2,)]


def test_ssp_waits_for_the_slowest():
    script = Script(make_algorithm("ssp", slack=1)).fetch(1, 2).push(1).fetch(1).push(1)
    assert [outcome.released for outcome in script.outcomes] == [(1,), ()]  # clocks 1 and 0, 2 and 0
    script.push(2)
    assert script.outcomes[-1].released == (1, 2)
    assert script.weights == [0.5, 0.25, -0.25]
    script.fetch(1, 2).push(1).leave(2)
    assert [outcome.released for outcome in script.outcomes[-2:]] == [(), (1,)]  # nobody is slower any more


def test_dude_replaces_the_row_of_a_worker():
    script = Script(make_algorithm("dude")).fetch(1, 2).push(1, 2).fetch(2).push(2)
    assert script.weights == [0.5, 0.5 - (1 + 0.5) / 4]  # rows 1 and 1, then 1 and ½
    script.leave(2).fetch(1).push(1)  # row 1 alone: its gradient is w = ⅛
    assert script.weights[-1] == 0.125 / 2


def test_a_round_of_ringleader():
    script = Script(make_algorithm("ringleader")).fetch(1, 2)
    script.push(1).fetch(1).push(1).fetch(1)  # gathers 1 and 1, on the first model
    assert script.weights == []
    script.push(2).fetch(2)  # all are in: the last one steps along the mean of the means 1 and 1
    assert (script.weights, script.fetched[1].version, script.fetched[2].version) == ([0.5], 0, 1)
    script.push(2).fetch(2)  # had its step: ½ is for the next round, on the model that it has
    assert (script.weights, script.fetched[2].version) == ([0.5], 1)
    script.push(1).fetch(1)  # joins its mean (1, 1, 1) and steps; the round ends
    assert (script.weights, script.fetched[1].version) == ([0.5, 0.0], 2)
    script.push(1)  # 0; with the ½ of worker 2 all are in, and it steps along their mean, ¼
    assert script.weights == [0.5, 0.0, -0.125]


def test_ringleader_without_a_worker_that_left():
    script = Script(make_algorithm("ringleader")).fetch(1, 2).push(1, 2).fetch(2).leave(1)
    script.push(2).fetch(2).push(2)  # a new round of worker 2 alone, at w = ½ and then ¼
    assert script.weights == [0.5, 0.25, 0.125]


def test_ringleader_uses_what_a_worker_that_left_has_pushed():
    script = Script(make_algorithm("ringleader")).fetch(1, 2).push(1, 2).fetch(2).push(2)  # ½ is for the next round
    script.push(1).leave(2).fetch(1).push(1)  # the second step leads to w = 0, where the gradient is 0
    assert script.weights == [0.5, 0.0, -0.125]  # the mean of ½ and 0


def test_dana_forgets_the_momentum_of_a_worker_that_left():
    script = Script(make_algorithm("dana", momentum=0.5)).fetch(1, 2).push(1, 2).leave(2).fetch(1)
    assert script.weights == [0.5, 0.0]
    assert script.fetched[1].parameters.item() == -0.25  # ahead by ½·½·v₁


def test_backup_closes_a_round_without_the_late():
    script = Script(make_algorithm("backup", world_size=4)).fetch(1, 2, 3).push(1)
    assert script.outcomes[-1].released == ()
    script.push(3)
    assert (script.weights, script.outcomes[-1].released) == ([0.5], (1, 3))
    script.fetch(1, 3).push(2)
    assert (script.outcomes[-1].dropped, script.outcomes[-1].released) == (True, (2,))
    script.fetch(2).push(1, 2)
    assert (script.weights, script.outcomes[-1].released) == ([0.5, 0.25], (1, 2))


def test_malenia_drops_what_is_late_and_does_not_wait_for_who_left():
    script = Script(make_algorithm("malenia")).fetch(1, 2).push(1).fetch(1).push(2)
    assert script.weights == [0.5]
    script.push(1)  # on the first model
    assert script.outcomes[-1].dropped
    script.fetch(2).push(2)
    assert script.weights == [0.5]
    script.leave(1)
    assert script.weights == [0.5, 0.25]


def test_malenia_uses_what_a_worker_that_left_has_pushed():
    script = Script(make_algorithm("malenia")).fetch(1, 2).push(1).leave(1).push(2)
    assert [push.worker for push in script.updates[0].pushes] == [1, 2]
    script = Script(make_algorithm("malenia", buffer_size=4)).fetch(1, 2).push(1).leave(1).push(2)
    assert script.weights == []
    script.fetch(2).push(2)  # two of the only worker that is left
    assert [push.worker for push in script.updates[0].pushes] == [1, 2, 2]


@pytest.mark.parametrize(("workers", "rounds"), [(3, 5), (7, 11), (10, 49)])
def test_malenia_closes_a_round_as_soon_as_all_have_contributed_enough(workers, rounds):
    script = Script(make_algorithm("malenia", world_size=workers + 1, buffer_size=rounds * workers))
    for _ in range(rounds):
        assert not script.weights
        script.fetch(*range(1, workers + 1)).push(*range(1, workers + 1))
    assert script.weights == [0.5]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_running_statistics_are_the_mean_of_the_latest_pushes(name):
    options = {"backup_workers": 0} if name == "backup" else {}
    algorithm = make_algorithm(name, buffers=2, **options)
    statistics = {1: torch.tensor([1.0, 2.0]), 2: torch.tensor([3.0, 6.0])}
    for step in range(1, 21):
        for worker in (1, 2):
            push = Push(worker, step, algorithm.fetch(worker).version, 0.0, torch.zeros(1), statistics[worker])
            algorithm.server.receive(push)
            update = algorithm.push(push).update
            if update and (step, worker) > (1, 1):
                assert algorithm.server.buffers.tolist() == [2.0, 4.0]
    assert algorithm.server.version > 0


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


@pytest.mark.parametrize("make", [lambda weights: SGD(weights, 0.9), Adam], ids=["momentum", "adam"])
def test_the_state_of_an_optimizer_is_where_its_parameters_are(make):
    assert {tensor.device.type for tensor in make(torch.zeros(3, device="meta")).tensors} == {"meta"}


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
