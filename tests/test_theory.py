"""What theory says of each algorithm, on quadratics with different minima and workers of different constant speed."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.implicit_momentum import CURVATURES, RATE, fit
from quadratics import run_quadratics
from training.algorithms import ALGORITHMS, Algorithm
from training.config import RunConfig
from training.engines.dispatcher import Dispatcher, RunShape
from training.optimizers import SGD
from training.protocol import Push
from training.server import ParameterServer

# Worker 1 has its minimum at 0 and is three times as fast as worker 2, whose minimum is at 1.
MINIMA, TIMES_MS = [0.0, 1.0], [10.0, 30.0]
FREQUENCIES, PLAIN_MEAN, FAST_ONLY = 0.25, 0.5, 0.0  # minima of the loss weighted in these ways


@dataclass(frozen=True)
class Expectation:
    """Of one algorithm.

    ends_at: the minimum that it converges to; staleness: its mean with M workers, or the reason why it is not M − 1;
    one_worker: "" if one worker is plain SGD, or why not; flags: for that minimum;
    equals_asgd: flags with which any number of workers is plain asynchronous SGD, or why there are none.
    """

    ends_at: float
    staleness: str = ""
    one_worker: str = ""
    equals_asgd: dict | str = field(default_factory=dict)
    flags: dict = field(default_factory=dict)


DROPS, WAITS, GATHERS = "it drops gradients", "workers wait", "an update applies several gradients"
WEIGHTS = "it changes the learning rate of a gradient"
EXPECTED = {
    "average": Expectation(PLAIN_MEAN, WAITS, equals_asgd=WAITS),
    "backup": Expectation(FAST_ONLY, WAITS, equals_asgd=WAITS),
    "malenia": Expectation(PLAIN_MEAN, GATHERS, equals_asgd=GATHERS),
    "asgd": Expectation(FREQUENCIES),
    # The gradients of worker 2 are 3 updates stale, those of worker 1 at most 1: worker 2 has a weight of 1/3.
    "staleness_aware": Expectation((1 / 3) / (3 + 1 / 3), equals_asgd=WEIGHTS),
    "delay_adaptive": Expectation((2 / 3) / (3 + 2 / 3), equals_asgd=WEIGHTS),
    "ringmaster": Expectation(FAST_ONLY, DROPS, equals_asgd={"max_staleness": math.inf}),
    "rennala": Expectation(FAST_ONLY, DROPS, equals_asgd=DROPS),
    "fedbuff": Expectation(
        FREQUENCIES, GATHERS, one_worker="it applies 10 gradients at once",
        flags={"buffer_size": 2, "staleness_weight": "constant"},
        equals_asgd={"buffer_size": 1, "staleness_weight": "constant"},
    ),
    "ssp": Expectation(PLAIN_MEAN, WAITS, equals_asgd={"slack": math.inf}),
    "dude": Expectation(PLAIN_MEAN, equals_asgd=GATHERS),
    "ringleader": Expectation(PLAIN_MEAN, GATHERS, equals_asgd=GATHERS),
    "rescaled": Expectation(PLAIN_MEAN, equals_asgd=WEIGHTS),
    "dana": Expectation(
        FREQUENCIES, one_worker="it looks ahead", flags={"momentum": 0.5}, equals_asgd={"momentum": 0.0}
    ),
}  # fmt: skip
KNOWN = [name for name in ALGORITHMS if name in EXPECTED]
ASYNCHRONOUS = [name for name, rule in ALGORITHMS.items() if rule.mode == "async"]


def test_every_algorithm_has_its_expectation():
    assert EXPECTED.keys() == ALGORITHMS.keys(), "say in EXPECTED what theory says of a new algorithm"


@pytest.mark.parametrize("algorithm", KNOWN)
def test_where_it_converges_to(algorithm):
    expected = EXPECTED[algorithm]
    trace = run_quadratics(algorithm, MINIMA, TIMES_MS, gradients=800, rate=0.02, **expected.flags)
    settled = torch.stack(trace.weights[-len(trace.weights) // 10 :]).mean(dim=0)
    assert settled.tolist() == pytest.approx([expected.ends_at] * 2, abs=0.015)


@pytest.mark.parametrize("speeds", [[10, 10, 10], [10, 13, 170, 29, 5]], ids=["equal", "different"])
@pytest.mark.parametrize("algorithm", [name for name in KNOWN if not EXPECTED[name].staleness])
def test_mean_staleness_is_one_less_than_the_number_of_workers(algorithm, speeds):
    minima = [0.0] * len(speeds)
    trace = run_quadratics(algorithm, minima, speeds, 400, 0.01, **EXPECTED[algorithm].flags)
    settled = [staleness for _, _, staleness in trace.gradients[len(trace.gradients) // 4 :]]
    assert sum(settled) / len(settled) == pytest.approx(len(speeds) - 1, rel=0.02)


def same(one, other):
    return len(one.weights) == len(other.weights) and all(
        torch.equal(a, b) for a, b in zip(one.weights, other.weights, strict=True)
    )


@pytest.mark.parametrize("algorithm", [name for name in KNOWN if not EXPECTED[name].one_worker])
def test_one_worker_is_plain_sgd(algorithm):
    plain, one = (run_quadratics(name, [1.0], [10.0], 300, 0.1, noise=0.3) for name in ("asgd", algorithm))
    assert same(one, plain)


@pytest.mark.parametrize("algorithm", [name for name in KNOWN if isinstance(EXPECTED[name].equals_asgd, dict)])
def test_flags_that_make_it_asgd(algorithm):
    settings = ([0.0, 1.0, 5.0], [10.0, 17.0, 45.0], 200, 0.1)
    plain = run_quadratics("asgd", *settings, noise=0.3)
    assert same(run_quadratics(algorithm, *settings, noise=0.3, **EXPECTED[algorithm].equals_asgd), plain)
    usual = {"momentum": 0.5} if algorithm == "dana" else {}
    assert algorithm == "asgd" or not same(run_quadratics(algorithm, *settings, noise=0.3, **usual), plain)


def test_compensation_of_strength_0_is_asgd():
    settings = ("asgd", [0.0, 1.0, 5.0], [10.0, 17.0, 45.0], 200, 0.1)
    plain = run_quadratics(*settings, noise=0.3)
    for mode in ("constant", "adaptive"):
        flags = {"compensation": True, "compensation_mode": mode}
        assert same(run_quadratics(*settings, noise=0.3, **flags, compensation_lambda=0.0), plain)
        assert not same(run_quadratics(*settings, noise=0.3, **flags), plain)


def test_no_backup_worker_is_the_average():
    settings = ([0.0, 1.0, 5.0], [10.0, 17.0, 45.0], 200, 0.1)
    average = run_quadratics("average", *settings, noise=0.3)
    assert same(run_quadratics("backup", *settings, noise=0.3, backup_workers=0), average)
    assert not same(run_quadratics("backup", *settings, noise=0.3), average)


def test_ssp_without_slack_is_lock_step():
    trace = run_quadratics("ssp", [0.0, 1.0, 5.0], [10.0] * 3, 20, 0.1, slack=0)
    rounds = [trace.gradients[start : start + 3] for start in range(0, len(trace.gradients), 3)]
    assert rounds == [[(worker, 3 * number, worker - 1) for worker in (1, 2, 3)] for number in range(20)]


@pytest.mark.parametrize("slack", [0, 1, 4])
def test_ssp_bounds_how_far_a_worker_is_ahead(slack):
    trace = run_quadratics("ssp", [0.0] * 3, [10.0, 13.0, 170.0], 60, 0.01, slack=slack)
    clocks = dict.fromkeys((1, 2, 3), 0)
    furthest = 0
    for worker, _, _ in trace.gradients[:150]:
        clocks[worker] += 1
        furthest = max(furthest, max(clocks.values()) - min(clocks.values()))
    assert furthest == slack + 1  # the gradient that it waits after


@pytest.mark.parametrize("algorithm", ["dude", "ringleader", "malenia", "rescaled", "ssp"])
def test_the_plain_mean_does_not_depend_on_the_speeds(algorithm):
    for speeds in ([10.0, 10.0, 10.0], [10.0, 40.0, 90.0]):
        trace = run_quadratics(algorithm, [0.0, 1.0, 5.0], speeds, 900, 0.02)
        settled = torch.stack(trace.weights[-len(trace.weights) // 10 :]).mean(dim=0)
        assert settled.tolist() == pytest.approx([2.0] * 2, abs=0.1), speeds


def test_a_table_of_gradients_does_not_drift():
    """Replacing rows one after the other leaves the mean of the rows, also when gradients shrink by orders."""
    from training.algorithms.gathering import GradientTable

    generator = torch.Generator().manual_seed(1)
    table = GradientTable()
    for step in range(3000):
        scale = 10.0 if step < 2000 else 1e-4
        table.replace(step % 7, scale * torch.randn(100, generator=generator))
    exact = torch.stack(list(table.rows.values())).double().mean(dim=0)
    torch.testing.assert_close(table.mean().double(), exact, rtol=1e-5, atol=1e-10)


def test_defaults_of_algorithms_name_themselves():
    for rule in ALGORITHMS.values():
        assert issubclass(rule, Algorithm) and rule.purpose.count("\n") == 1


@pytest.mark.parametrize("algorithm", [name for name, row in EXPECTED.items() if row.ends_at == PLAIN_MEAN])
def test_no_last_step_belongs_to_few_workers(algorithm):
    """Under --stop total, workers leave only because the run ends: those that remain must not step on their own."""
    trace = run_quadratics(algorithm, [0.0, 1.0, 5.0], [10.0, 40.0, 90.0], 301, 0.1)
    settled = torch.stack(trace.weights[-40:-1]).mean(dim=0)
    spread = torch.stack(trace.weights[-40:-1]).std(dim=0).max().item()
    assert torch.allclose(trace.weights[-1], settled, atol=0.05 + 3 * spread)


def test_the_fit_of_the_implicit_momentum_finds_that_of_a_course_with_momentum():
    workers, momentum, rate = 4, 0.6, 0.03
    weights, move = [np.ones(3)], np.zeros(3)
    for _ in range(60):
        move = momentum * move - rate * np.array(CURVATURES) * weights[-1]
        weights.append(weights[-1] + move)
    found = fit(np.stack(weights), workers)
    assert found == pytest.approx([momentum, rate * workers / (RATE / workers)])


NOBODY = SimpleNamespace(**dict.fromkeys(("push", "update", "leave", "lose", "end"), lambda *event: None))


def test_running_statistics_of_a_lost_worker_are_left_out():
    weights, buffers = torch.ones(1), torch.zeros(1)
    server = ParameterServer(weights, buffers, SGD(weights, 0.0), lambda *_: 0.1)
    algorithm = ALGORITHMS["asgd"](server, RunConfig(mode="async", world_size=4), [1, 2, 3])
    dispatcher = Dispatcher(RunShape("asgd", dict.fromkeys((1, 2, 3), 9), "epochs"), algorithm, NOBODY, lambda *_: None)
    dispatcher.start()
    for lost, mean in ((None, 2.0), (1, 2.5), (3, 2.0)):
        if lost:
            dispatcher.lose(0.0, lost, "killed")
        for worker in sorted(dispatcher.computing):
            dispatcher.push(0.0, Push(worker, 1, server.version, 0.0, torch.ones(1), torch.tensor([float(worker)])))
        assert buffers.item() == mean


def test_workers_do_not_wait_for_one_that_left_when_another_dies():
    """Worker 4 finds no gradient left to compute, and worker 1 dies before it pushes the last one."""
    weights = torch.ones(1)
    server = ParameterServer(weights, torch.zeros(0), SGD(weights, 0.0), lambda *_: 0.1)
    config = RunConfig(mode="async", algorithm="ssp", slack=0, world_size=5)
    algorithm = ALGORITHMS["ssp"](server, config, [1, 2, 3, 4])
    sent = {}
    dispatcher = Dispatcher(RunShape("ssp", {1: 1, 2: 1, 3: 1, 4: 4}, "total"), algorithm, NOBODY, sent.__setitem__)
    dispatcher.start()

    def push(*workers):
        for worker in workers:
            dispatcher.push(0.0, Push(worker, 1, sent[worker].version, 0.0, torch.ones(1), torch.zeros(0)))

    push(1, 2, 3, 4)  # 4 of 7 gradients; 1, 2 and 3 compute the last ones, and 4 leaves
    assert dispatcher.computing == {1, 2, 3}
    push(2, 3)
    assert dispatcher.waiting == {2, 3}
    dispatcher.lose(0.0, 1, "killed")  # one of the others does its gradient
    assert len(dispatcher.computing) == 1
    push(*dispatcher.computing)
    assert dispatcher.ended_by == "total" and dispatcher.progress.total == 7
