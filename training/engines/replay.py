"""Repeat the run in a log: the same gradients in the same order, without a server, workers or a clock.

As in the original run, the algorithm determines which version each worker fetches.
"""

import logging
import math
from collections import deque
from typing import Any

import numpy as np

from common import Samples
from interface.errors import DataError, UsageError
from training.algorithms import Algorithm
from training.config import RunConfig, default_of
from training.engines.dispatcher import Dispatcher, RunShape
from training.engines.gradients import Gradients, gradients_of
from training.flags import Scope
from training.observer import Observer
from training.plan import Plan
from training.protocol import Snapshot
from training.record.reader import RunLog
from training.settings import ROWS

FREE = {name for name, row in ROWS.items() if row.scope is not Scope.TRAINING}  # a replay may change these
KEPT = {"data_dir", "saves_per_epoch"}  # of those, the ones taken from the log unless given on the command line
OWN_CLOCK = {"clock": "wall"} | dict.fromkeys(["compute_ms", "compute_time", "worker_speeds", "communication_ms"])


def config_of_replay(log: RunLog, flags: dict[str, Any]) -> RunConfig:
    """The configuration of a log, updated with the flags of a command line.

    Raises DataError if the log cannot be replayed, UsageError if a flag conflicts with it.
    """
    if log.header is None:
        raise DataError(f"{log.path}: cannot be replayed: the logs of published runs contain no seed")
    if not log.config.depends_on_arrival:
        raise DataError(f"{log.path}: the log of a {log.config.mode} run: only asynchronous runs can be replayed")
    if len(log.gradients) == 0:
        raise DataError(f"{log.path}: the log has no update to replay")
    actual = log.config.as_dict() | {"seed": log.header["seed"]}
    base = log.config.as_dict() | {name: default_of(name) for name in FREE - KEPT} | OWN_CLOCK

    def check_conflicts(asked: dict[str, Any]) -> None:
        for name, value in flags.items():
            if name not in FREE and asked[name] != actual[name]:
                flag = f"--{value}" if name == "partition" else f"--{name}" if value is True else f"--{name} {value}"
                raise UsageError(f"{flag} conflicts with {log.path}, a run with {name} {actual[name]}")

    try:
        asked = RunConfig(**(base | {"seed": log.header["seed"]} | flags))  # which has one form for each setting
    except UsageError:  # perhaps of a setting of the log that has no effect with a flag
        check_conflicts(flags)
        raise
    check_conflicts(asked.as_dict())
    return RunConfig(**(base | flags))


def fit_plan(plan: Plan, log: RunLog) -> Plan:
    """The plan of a replay, with the number of threads per gradient from the log.

    Raises DataError if the data differ from those of the log.
    """
    expected, found = log.header.get("data"), plan.fingerprint
    if expected != found:
        raise DataError(
            f"{log.path}: its run trained on other data, with fingerprint {expected}; "
            f"{plan.config.dataset} in {plan.config.data_dir} has {found}"
        )
    samples = [len(shard) for shard in plan.shards]
    if samples != log.header["worker_samples"]:
        raise DataError(
            f"{log.path}: its workers had {log.header['worker_samples']} samples, but its flags imply {samples}"
        )
    if reason := partial_because(log):
        logging.warning("%s is partial: %s; replaying %d gradients", log.path, reason, len(log.gradients))
    return plan.with_threads(log.header["threads_per_gradient"])


def partial_because(log: RunLog) -> str:
    """Why the run of a log is not complete; empty if it is."""
    if log.result is not None:
        return "" if log.status == "complete" else str(log.result.get("reason", "unknown reason"))
    planned = log.header["gradients"]
    return f"the log ends at gradient {len(log.gradients)} of {planned}" if len(log.gradients) < planned else ""


def replay(plan: Plan, samples: Samples, log: RunLog, algorithm: Algorithm, observer: Observer) -> None:
    """Repeat the asynchronous run in a log.

    Warns at the first gradient whose loss is not bitwise equal to the log's, as may happen on a different machine.
    Raises DataError if the algorithm does not allow the order of the log.
    """
    with gradients_of(plan, samples, algorithm) as gradients:
        repeat(plan, log, algorithm, observer, gradients)


def resumptions_of(log: RunLog) -> deque[int]:
    """The numbers of gradients after which a run on the wall clock, or the one that a replay repeats, was resumed, and
    all workers fetched again.

    The log names the update. Of the gradients after it, those on an earlier version were computed before.
    """
    found = deque()
    if log.clock != "virtual" and log.result is not None:
        gradients = log.gradients
        for update in log.result.get("resumed_after", ()):
            reached = int(np.searchsorted(gradients.arrived, update))
            before = np.flatnonzero(gradients.fetched < update)
            found.append(max(reached, int(before[-1]) + 1 if len(before) else 0))
    return found


def repeat(plan: Plan, log: RunLog, algorithm: Algorithm, observer: Observer, computed: Gradients) -> None:
    """The pushes of a log in their order, with the losses of workers in between."""
    turns = {worker: deque() for worker in plan.steps}  # the positions of its gradients in the log
    for number, worker in enumerate(log.gradients.worker.tolist()):
        turns[worker].append(number)

    resumptions = resumptions_of(log)
    if resumptions:  # which the log of the replay must tell as well, so that it can be replayed
        observer.resumed_after = log.result["resumed_after"]

    def compute(worker: int, snapshot: Snapshot) -> None:
        turn = turns[worker][0] if turns[worker] else math.inf
        if not resumptions or turn < resumptions[0]:  # else the run is interrupted first, and the worker fetches again
            computed.start(worker, snapshot, turn)
            if turns[worker]:
                turns[worker].popleft()

    dispatcher = Dispatcher(RunShape.of(plan), algorithm, observer, compute)
    losses = list(log.losses)
    same = True

    def lose_before(gradients: int) -> None:
        while losses and losses[0].gradients <= gradients:
            loss = losses.pop(0)
            dispatcher.lose(loss.seconds, loss.worker, loss.how)

    lose_before(0)
    dispatcher.start()
    gradients = log.gradients
    columns = (gradients.seconds, gradients.worker, gradients.fetched, gradients.arrived, gradients.loss)
    for number, (seconds, worker, fetched, arrived, loss) in enumerate(zip(*columns, strict=True)):
        lose_before(number)
        while resumptions and resumptions[0] == number:
            resumptions.popleft()
            dispatcher.start()
        if algorithm.server.version != arrived:
            raise DataError(f"{log.path}: gradient {number + 1} arrived at version {arrived}, "
                            f"in the replay at {algorithm.server.version}")  # fmt: skip
        if worker not in dispatcher.computing:
            raise DataError(f"{log.path}: gradient {number + 1} is from Worker_{worker}, which is waiting or has left")
        push = computed.take(int(worker))
        if push.version != fetched:
            raise DataError(f"{log.path}: gradient {number + 1} was computed on version {fetched}, "
                            f"but on {push.version} in the replay")  # fmt: skip
        dispatcher.push(float(seconds), push)
        if same and push.loss != loss and push.loss == push.loss:
            same = False
            observer.warn(float(seconds), f"gradient {number + 1} has loss {push.loss}, in the log {loss}")
    lose_before(len(gradients))
    cut = log.result is None  # the update of the last gradient may be missing
    if algorithm.server.version != len(log.updates) and not cut:
        raise DataError(f"{log.path}: {len(log.updates)} updates, in the replay {algorithm.server.version}")
    if dispatcher.ended_by is None and (log.result or {}).get("ended_by") == "max_seconds":
        dispatcher.end(plan.config.max_seconds, "max_seconds")
