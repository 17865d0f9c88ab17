"""Delays, compute times and speeds have the distributions that they promise: moments, tails, streams of their own."""

from itertools import islice

import numpy as np
import pytest
from scipy import stats

from common import load_dataset, make_generator
from interface.errors import UsageError
from training.config import RunConfig
from training.plan import make_plan
from training.timing import (
    COMPUTE_TIMES,
    DELAY_TYPES,
    ComputeTimeText,
    Draws,
    WorkerSpeedsText,
    compute_times,
    delays,
    drawn_speed,
)

COUNT = 4000


def lognormal(mean: float, variation: float):
    variance = np.log1p(variation**2)
    return stats.lognorm(np.sqrt(variance), scale=mean * np.exp(-variance / 2))


def pareto(mean: float, shape: float):
    return stats.pareto(shape, scale=mean * (shape - 1) / shape)


PROMISED_DELAYS = {  # type, slowdown → the distribution around 30 ms; None: always the mean
    ("constant", 1): None,
    ("gaussian", 1): stats.norm(30, 5),
    ("gaussian", 2): stats.norm(60, 10),
    ("lognormal", 1): lognormal(30, 0.5),
    ("exponential", 2): stats.expon(scale=60),
    ("pareto", 1): pareto(30, 2.5),
}
PROMISED_TIMES = {  # --compute_time → the distribution around 10 ms
    "constant": None,
    "normal:0.1": stats.norm(10, 1),
    "lognormal:0.5": lognormal(10, 0.5),
    "exponential": stats.expon(scale=10),
    "pareto:2.5": pareto(10, 2.5),
    "pareto:1.5": pareto(10, 1.5),
}


def assert_distributed(values: list[float], promised, mean: float) -> None:
    assert min(values) >= 0
    if promised is None:
        assert set(values) == {mean}
        return
    assert promised.mean() == pytest.approx(mean)
    assert stats.kstest(values, promised.cdf).pvalue > 0.01
    tail = promised.isf(0.01)
    assert np.mean(np.array(values) > tail) == pytest.approx(0.01, abs=0.006), "heavy tails are in the tail"


@pytest.mark.parametrize(("name", "slowdown"), PROMISED_DELAYS)
def test_delays(name, slowdown):
    times = delays(DELAY_TYPES[name], 30.0 * slowdown, slowdown, Draws(make_generator(1, name)))
    assert_distributed(list(islice(times, COUNT)), PROMISED_DELAYS[name, slowdown], 30.0 * slowdown)


@pytest.mark.parametrize("text", PROMISED_TIMES)
def test_compute_times(text):
    times = compute_times(text, 10.0, Draws(make_generator(1, text)))
    assert_distributed(list(islice(times, COUNT)), PROMISED_TIMES[text], 10.0)


def test_every_distribution_is_tested():
    assert {name for name, _ in PROMISED_DELAYS} == set(DELAY_TYPES)
    assert {text.partition(":")[0] for text in PROMISED_TIMES} == set(COMPUTE_TIMES)


def test_speeds_spread_around_one():
    speeds = [drawn_speed("spread:0.3", Draws(make_generator(1, "speed", worker))) for worker in range(COUNT)]
    assert_distributed(speeds, lognormal(1, 0.3), 1.0)


@pytest.mark.parametrize(
    "text", ["normal", "normal:0", "normal:nan", "pareto:1", "exponential:1", "uniform", "", "normal:x"]
)
def test_no_compute_times(text):
    with pytest.raises(ValueError):
        ComputeTimeText().parse(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1 y", "nan", "spread", "spread:0", "n1", "0n1", "1e9n1"])
def test_no_speeds(text):
    with pytest.raises(ValueError):
        WorkerSpeedsText().parse(text)


def plan_of(**flags: object):
    config = RunConfig(mode="async", **{"dataset": "digits", "world_size": 4, **flags})
    return make_plan(config, 1, load_dataset("digits", "unused").train)


def test_who_is_delayed_by_how_much():
    def means(**flags: object) -> list[float]:
        plan = plan_of(delay_type="constant", **flags)
        return [next(plan.delays(worker)) for worker in (1, 2, 3)]

    assert means(delay=True) == [10, 10, 10]
    assert means(delay=True, delay_intensity="long") == [30, 30, 30]
    assert means(delay=True, slow_worker_1=True, delay_ms=45.0) == [90, 45, 45]
    assert means(slow_worker_1=True, delay_intensity="medium") == [40, 0, 0]


def test_the_time_of_a_push_is_computation_delay_and_two_messages():
    flags = {"clock": "virtual", "compute_ms": 20.0, "compute_time": "constant", "communication_ms": 1.5}
    plan = plan_of(**flags, worker_speeds="0.5 1.0 4.0", delay=True, delay_type="constant")
    assert [next(plan.push_times(worker)) for worker in (1, 2, 3)] == [40 + 10 + 3, 20 + 10 + 3, 5 + 10 + 3]


def test_local_steps_take_as_long_as_their_mini_batches():
    plan = plan_of(clock="virtual", compute_time="constant", local_steps=4, partition="split_dataset")
    assert plan.batches_per_epoch[0] == 15
    assert list(islice(plan.push_times(1), 5)) == [40, 40, 40, 30, 40]


def test_times_have_streams_of_their_own():
    """Another distribution leaves shuffling, partition and delays alone."""
    flags = {"clock": "virtual", "partition": "split_dataset", "delay": True}
    one, other = plan_of(**flags), plan_of(**flags, compute_time="pareto:2.5", worker_speeds="spread:0.3")
    assert all((a == b).all() for a, b in zip(one.shards, other.shards, strict=True))
    assert list(islice(one.delays(1), 9)) == list(islice(other.delays(1), 9))
    assert (next(one.worker(1)._batches)[0] == next(other.worker(1)._batches)[0]).all()
    assert one.speed(1) == 1.0 != other.speed(1) != other.speed(2)


def test_as_many_speeds_as_workers():
    speeds = [1 / number for number in range(3, 1003)]
    plan = plan_of(clock="virtual", world_size=1001, worker_speeds=" ".join(map(str, speeds)))
    assert [plan.speed(worker) for worker in (1, 1000)] == [1 / 3, 1 / 1002]
    with pytest.raises(UsageError, match=r"--worker_speeds 1\.0 2\.0 is not valid: give 3 numbers"):
        plan_of(clock="virtual", worker_speeds="1.0 2.0")
