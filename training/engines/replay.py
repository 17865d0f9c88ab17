"""Repeat the run of a log: the same gradients in the same order, without processes or a clock.

Who fetches which version follows from the algorithm, as it did in the run.
"""

import logging
from typing import Any

from common import Samples
from interface.errors import DataError, UsageError
from training.algorithms import Algorithm
from training.config import ROWS, RunConfig, default_of
from training.engines.dispatcher import Dispatcher
from training.engines.gradients import GradientPool, Schedule
from training.flags import Scope
from training.observer import Observer
from training.plan import Plan
from training.record.reader import RunLog

FREE = {name for name, row in ROWS.items() if row.scope is not Scope.TRAINING}  # a replay may choose these anew
KEPT = {"data_dir", "saves_per_epoch"}  # of those, what it takes from the log unless it is told otherwise
OWN_CLOCK = {"clock": "wall", "compute_ms": None}  # times come from the log


def config_of_replay(log: RunLog, flags: dict[str, Any]) -> RunConfig:
    """The configuration of a log with the flags of a command line that may differ.

    Raises DataError if the log cannot be replayed, UsageError if a flag contradicts it.
    """
    if log.header is None:
        raise DataError(f"{log.path}: the log of a published run tells neither its seed nor its data: no replay")
    if not log.config.depends_on_arrival:
        raise DataError(f"{log.path}: the log of a {log.config.mode} run: only asynchronous runs are replayed")
    if len(log.gradients) == 0:
        raise DataError(f"{log.path}: the log has no update to replay")
    settings = log.config.as_dict()
    actual = settings | {"seed": log.header["seed"]}
    for name, value in flags.items():
        if name not in FREE and value != actual[name]:
            raise UsageError(f"--{name} {value} does not fit {log.path}, a run with {name} {actual[name]}")
    defaults = {name: default_of(name) for name in FREE - KEPT}
    return RunConfig(**(settings | defaults | OWN_CLOCK | flags))


def fit_plan(plan: Plan, log: RunLog) -> Plan:
    """The plan to replay with, of as many threads per gradient as the log's.

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
    planned = sum(plan.steps.values())
    if len(log.gradients) < planned and not log.losses:
        logging.warning("%s ends at gradient %d of %d: replaying these", log.path, len(log.gradients), planned)
    return plan.with_threads(log.header["threads_per_gradient"])


def replay(plan: Plan, samples: Samples, log: RunLog, algorithm: Algorithm, observer: Observer) -> None:
    """Repeat the asynchronous run of a log.

    Warns at the first gradient whose loss is not the log's to the bit, as on another kind of machine. Raises
    DataError where the order of the log is none that the algorithm allows.
    """
    pool = GradientPool(plan, samples)
    pool.run(events_of(plan, log, algorithm, observer, pool))


def events_of(plan: Plan, log: RunLog, algorithm: Algorithm, observer: Observer, pool: GradientPool) -> Schedule:
    """The pushes of a log, in its order, and between them the workers that were lost."""
    dispatcher = Dispatcher(plan.config.algorithm, algorithm, observer, plan.steps, pool.start)
    losses = list(log.losses)
    same = True

    def lose_before(gradients: int) -> None:
        while losses and losses[0].gradients <= gradients:
            loss = losses.pop(0)
            dispatcher.lose(loss.seconds, loss.worker, loss.how)

    lose_before(0)
    dispatcher.start()
    gradients = log.gradients
    columns = (gradients.seconds, gradients.worker, gradients.fetched, gradients.loss, gradients.version)
    for number, (seconds, worker, fetched, loss, version) in enumerate(zip(*columns, strict=True)):
        lose_before(number)
        if worker not in dispatcher.computing:
            raise DataError(f"{log.path}: gradient {number + 1} is of Worker_{worker}, which waits or has left")
        push = yield int(worker)
        if push.version != fetched:
            raise DataError(f"{log.path}: gradient {number + 1} was computed on version {fetched}, "
                            f"in the replay on {push.version}")  # fmt: skip
        dispatcher.push(float(seconds), push)
        if algorithm.server.version != version:
            raise DataError(f"{log.path}: gradient {number + 1} led to version {version}, "
                            f"in the replay to {algorithm.server.version}")  # fmt: skip
        if same and push.loss != loss and push.loss == push.loss:
            same = False
            observer.warn(float(seconds), f"gradient {number + 1} has loss {push.loss}, in the log {loss}")
    lose_before(len(log.gradients))
