"""Whether the log of an asynchronous run fits the flags and the data that it is to be repeated with."""

import dataclasses
import logging
from typing import Any

from interface.errors import DataError
from training.options import RunConfig
from training.plan import Plan
from training.record import RunLog

# What a replay may do otherwise than its log: where things lie, and what is kept of the run.
FREE = {"data_dir", "subfolder", "model_accuracy", "no_save_model", "saves_per_epoch", "replay"}


def config_of_replay(log: RunLog, flags: dict[str, Any]) -> RunConfig:
    """The configuration of a log with the flags of a command line that may differ.

    Raises DataError if the log cannot be replayed, ValueError if a flag contradicts it.
    """
    if log.header is None:
        raise DataError(f"{log.path}: the log of a published run tells neither its seed nor its data: no replay")
    if log.config.mode != "async":
        raise DataError(f"{log.path}: the log of a {log.config.mode} run: only asynchronous runs are replayed")
    if len(log.updates) == 0:
        raise DataError(f"{log.path}: the log has no update to replay")
    settings = dataclasses.asdict(log.config)
    actual = settings | {"seed": log.header["seed"]}
    for name, value in flags.items():
        if name not in FREE and value != actual[name]:
            raise ValueError(f"--{name} {value} does not fit {log.path}, a run with {name} {actual[name]}")
    kept = {"subfolder": ".", "model_accuracy": False, "no_save_model": False, "clock": "wall", "compute_ms": None,
            "rank": None}  # fmt: skip
    return RunConfig(**(settings | kept | flags))


def fit_plan(plan: Plan, log: RunLog) -> Plan:
    """The plan to replay with, of as many threads a gradient as the log's.

    Raises DataError if the data are not the log's.
    """
    expected, found = log.header.get("data"), plan.fingerprint
    if expected != found:
        raise DataError(
            f"{log.path}: its run trained on other data: fingerprint {expected}, "
            f"that of {plan.config.dataset} in {plan.config.data_dir} is {found}"
        )
    samples = [len(shard) for shard in plan.shards]
    if samples != log.header["worker_samples"]:
        raise DataError(
            f"{log.path}: its workers had {log.header['worker_samples']} samples, those of its flags {samples}"
        )
    if len(log.updates) < plan.updates:
        logging.warning("%s ends at update %d of %d: replaying these", log.path, len(log.updates), plan.updates)
    return dataclasses.replace(plan, threads_per_gradient=log.header["threads_per_gradient"])
