"""Delays and compute times have the distributions that they promise."""

import numpy as np
import pytest
from scipy import stats

from common import load_dataset, make_generator
from training.config import RunConfig
from training.plan import make_plan
from training.timing import COMPUTE_TIMES, DELAY_TYPES, Draws

COUNT = 4000
PROMISED = {  # (mean 30 ms, twice as slow or not) → the distribution of the delays
    ("constant", 1): None,
    ("gaussian", 1): stats.norm(30, 5),
    ("gaussian", 2): stats.norm(60, 10),
}


def draw(table: dict, name: str, mean_ms: float, slowdown: float) -> np.ndarray:
    draws = Draws(make_generator(1, name))
    return np.array([table[name].draw(draws, mean_ms, slowdown) for _ in range(COUNT)])


@pytest.mark.parametrize(("name", "slowdown"), PROMISED)
def test_delays(name, slowdown):
    delays = draw(DELAY_TYPES, name, 30.0 * slowdown, slowdown)
    promised = PROMISED[name, slowdown]
    if promised is None:
        assert set(delays) == {30.0}
    else:
        assert stats.kstest(delays, promised.cdf).pvalue > 0.01


def test_every_type_of_delay_is_promised_something():
    assert {name for name, _ in PROMISED} == set(DELAY_TYPES)


@pytest.mark.parametrize("name", DELAY_TYPES)
@pytest.mark.parametrize("mean_ms", [0.1, 10.0, 30.0])
def test_no_delay_is_negative(name, mean_ms):
    assert draw(DELAY_TYPES, name, mean_ms, 1).min() >= 0


def test_compute_times_jitter_by_a_tenth():
    times = draw(COMPUTE_TIMES, "normal", 10.0, 1)
    assert stats.kstest(times, stats.norm(10, 1).cdf).pvalue > 0.01
    assert set(COMPUTE_TIMES) == {"normal"}


def test_who_is_delayed_by_how_much():
    digits = load_dataset("digits", "unused").train

    def means(**flags: object) -> list[float]:
        config = RunConfig(mode="async", dataset="digits", world_size=4, delay_type="constant", **flags)
        plan = make_plan(config, 1, digits)
        return [plan.delays(worker).next_ms() for worker in (1, 2, 3)]

    assert means(delay=True) == [10, 10, 10]
    assert means(delay=True, delay_intensity="long") == [30, 30, 30]
    assert means(delay=True, slow_worker_1=True, delay_ms=45.0) == [90, 45, 45]
    assert means(slow_worker_1=True, delay_intensity="medium") == [40, 0, 0]
