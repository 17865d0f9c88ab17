"""Estimate how long training runs take, roughly: gradients, delays and test evaluations. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from catalogue import DATASETS, NETWORKS
from interface.processes import available_cores
from training.config import RunConfig

START_SECONDS = 1.5  # of a run: its processes, its data, and the test of its model
EVALUATED = 10_000  # samples of an evaluation at most, each of which costs a third of one in a gradient


def core_seconds(config: RunConfig) -> float | None:
    """CPU time of a run; None for a data set or network of unknown cost."""
    samples, cost = DATASETS[config.dataset].samples, NETWORKS[config.network_name].sample_ms
    if samples is None or cost is None:
        return None
    trained = samples * config.train_split * config.epochs * passes(config)
    evaluations = (config.evals_per_epoch or 0) * config.epochs
    tested = evaluations * min(EVALUATED, samples / 4) / 3
    return START_SECONDS + (trained + tested) * cost / 1000


def passes(config: RunConfig) -> int:
    """How often an epoch of all workers goes through the training set."""
    return config.workers if config.distributed and config.partition == "none" else 1


def sleeping_seconds(config: RunConfig) -> float:
    """Real time that injected delays take at least: those of one worker, or of the slow one."""
    if config.clock == "virtual" or not config.delayed:
        return 0.0
    gradients = (DATASETS[config.dataset].samples or 0) * config.train_split * config.epochs * passes(config)
    slowdown = 2 if config.slow_worker_1 else 1
    return math.ceil(gradients / config.batch_size / config.workers) * config.delay_mean_ms * slowdown / 1000


def total_seconds(configs: Sequence[RunConfig], jobs: int) -> float | None:
    """Real time of all runs on this machine's cores, `jobs` at a time; None if the cost of one is unknown."""
    costs = [core_seconds(config) for config in configs]
    if None in costs:
        return None
    longest = [max(sleeping_seconds(config), cost / available_cores())
               for config, cost in zip(configs, costs, strict=True)]  # fmt: skip
    return max(sum(longest) / jobs, sum(costs) / available_cores(), max(longest, default=0.0))


def in_words(seconds: float | None) -> str:
    """A duration for people; empty if it is unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
