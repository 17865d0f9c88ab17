"""The tables of the published settings: one cell per setting, measured and, in brackets, published."""

from collections.abc import Callable
from functools import partial

from analysis.study.published import SAME_FOR_ALL, VIRTUAL, Results
from analysis.study.speed import CLOCKS, speed_table
from analysis.tables import markdown_table
from catalogue import PARTITIONS
from training.config import RunConfig

SHARED = {"mode": "async", **SAME_FOR_ALL, **VIRTUAL}  # by the settings of a table; its rows and columns say the rest
WORKERS = {f"{workers} workers": {"world_size": workers + 1} for workers in (2, 5, 10)}
SPLITS = {PARTITIONS[name].short_title: {"partition": name} for name in ("split_dataset", "split_labels")}
CONSTANT = {"delay": True, "delay_type": "constant"}
GAUSSIAN = {"delay": True, "delay_type": "gaussian"}
SLOW = {**CONSTANT, "slow_worker_1": True}
DELAYS = {
    "no delay": {},
    **{f"{ms} ms": {**CONSTANT, "delay_ms": float(ms)} for ms in (30, 60, 90)},
    **{f"{ms} ms, worker 1 twice": {**SLOW, "delay_ms": float(ms)} for ms in (30, 60, 90)},
}
MOMENTUM_VALUES = {f"momentum {momentum:g}": {"momentum": momentum} for momentum in (0.0, 0.5, 0.9, 0.99)}
MODES = {"synchronous": {"mode": "sync"}, "asynchronous": {"mode": "async"}}
COMPENSATIONS = {
    "none": {},
    "λ 2": {"compensation": True, "compensation_lambda": 2.0},
    "λ 5": {"compensation": True, "compensation_lambda": 5.0},
}
MEAN_DELAYS = {f"{ms} ms": {"delay_ms": float(ms)} for ms in (30, 60, 90)}

Part = dict[str, dict[str, object]]  # heading → the settings that it stands for


def product(first: Part, second: Part) -> Part:
    """Every part of one with every part of the other."""
    return {f"{one}, {other}": {**first[one], **second[other]} for one in first for other in second}


ACCURACIES: dict[str, tuple[dict[str, object], Part, Part]] = {  # name → shared, rows, columns
    "workers": ({}, product(MODES, SPLITS), WORKERS),
    "delays": ({}, DELAYS, product(SPLITS, WORKERS)),
    "momentum of a slow worker": (
        {"partition": "split_labels", **SLOW}, MOMENTUM_VALUES, product(WORKERS, MEAN_DELAYS),
    ),
    "compensation of a slow worker": (
        {"partition": "split_labels", **SLOW}, COMPENSATIONS, product(WORKERS, MEAN_DELAYS),
    ),
    "momentum": (GAUSSIAN, product(SPLITS, MOMENTUM_VALUES), product(WORKERS, MEAN_DELAYS)),
    "compensation": (
        {**COMPENSATIONS["λ 2"], **GAUSSIAN}, product(SPLITS, MOMENTUM_VALUES), product(WORKERS, MEAN_DELAYS),
    ),
}  # fmt: skip


def describe(setting: RunConfig, results: Results) -> str:
    """Mean ± deviation of what was measured, and in brackets what was published."""
    group, published = results.measured.get(setting), results.published.get(setting)
    measured = "" if group is None else f"{group.spread('test_accuracy'):.1f}"
    return measured if published is None else f"{measured} ({published:.1f})".strip()


def accuracy_table(name: str, results: Results) -> str:
    """One of the ACCURACIES, in Markdown."""
    shared, rows, columns = ACCURACIES[name]
    lines = [
        [title, *(describe(RunConfig(**{**SHARED, **shared, **row, **column}), results) for column in columns.values())]
        for title, row in rows.items()
    ]
    return markdown_table(["", *columns], lines)


TABLES: dict[str, Callable[[Results], str]] = {
    **{name: partial(accuracy_table, name) for name in ACCURACIES},
    **{f"speed, {clock} clock": partial(speed_table, clock=clock) for clock in CLOCKS},
}
