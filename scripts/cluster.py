"""Execute the runs of a sweep on a cluster: Dask's distributed, behind the interface of concurrent.futures.

Every worker of the cluster has the suite and its packages, in the same versions as the driver, and offers one unit of
the resource `machine`. A run that must have a machine for itself claims all of it, any other a little, so that as many
of those share it as the worker has threads. Runs are executed in an empty folder of the worker; what they read travels
there, and their row, and their files if they are asked for, come back.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import os
import re
import threading
from collections import Counter
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, KilledWorker, LocalCluster, Reschedule, Status, Worker, get_worker

from analysis.reports.trials import LOG_ENDING
from interface.errors import DataError, UsageError
from scripts.nursery import ROOT, Nursery, Order, Report
from scripts.plan import PlannedRun
from training.names import ARTIFACTS

RUNNING = (Status.running, Status.paused, Status.closing_gracefully)  # of a worker
SHARE = 2**-10  # of a machine, claimed by a run that does not need all of it; sums of it are exact
OFFER = "--resources machine=1"  # of `dask worker`
CONNECT_SECONDS = 10
OUTSTANDING = 64  # runs submitted at a time, or more on larger clusters: bounds what waits in memory there

# ----------------------------------------------------------------------------------------------------
# The driver
# ----------------------------------------------------------------------------------------------------


class Cluster:
    """A pool of a sweep. address: of the scheduler, or "local" for a cluster of `jobs` workers on this machine."""

    def __init__(self, address: str, jobs: int, files: bool) -> None:
        for handler in logging.getLogger().handlers:
            handler.addFilter(is_ours)
        self.address = address
        self._files = files
        self._local = start_local(jobs) if address == "local" else None
        self._client = connect(self._local or address)
        if not self._client.nthreads():
            print(f"Waiting for workers at {address} …", flush=True)
            self._client.wait_for_workers(1)
        self._check_workers()
        self._executor = self._client.get_executor(pure=False)
        self._submitted = 0
        self._warned = False

    @property
    def outstanding(self) -> int:
        return max(OUTSTANDING, 2 * sum(self._client.nthreads().values()))

    def submit(self, run: PlannedRun) -> Future[Report]:
        self._submitted += 1
        if run.needs_machine and not self._warned and max(self._machines.values()) > 1:
            logging.warning("several workers are on one machine, where their wall-clock runs disturb each other")
            self._warned = True
        return self._executor.submit(
            execute, order_of(run, self._files), run.data_dir, VERSIONS, key=f"{run.name}-{uuid4().hex}",
            resources={"machine": 1 if run.needs_machine else SHARE}, priority=-self._submitted,
        )  # fmt: skip

    def result(self, future: Future[Report]) -> Report:
        try:
            return future.result()
        except KilledWorker as error:
            return Report(1, f"{error.allowed_failures + 1} workers died while they had this run")
        except CancelledError as error:
            raise DataError(
                f"the connection to the scheduler at {self.address} was lost; the same command resumes"
            ) from error

    def close(self) -> None:
        self._client.close()
        if self._local:
            self._local.close()

    def _check_workers(self) -> None:
        """Raise DataError if a worker cannot execute the runs of this driver."""
        found = self._client.run(describe, on_error="return")
        for worker, description in found.items():
            if isinstance(description, Exception):
                raise DataError(
                    f"worker {worker} cannot import the suite ({description}): start it in an environment with the "
                    f"requirements, and with PYTHONPATH={ROOT} or where the suite is there"
                )
            check_versions(worker, description["versions"], VERSIONS)
            if description["offered"] < 1:
                raise DataError(f"worker {worker} offers no machine, so it gets no runs: start it with {OFFER}")
        self._machines = Counter(description["machine"] for description in found.values())


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a message is of the suite. What Dask logs of lost connections, with tracebacks, a sweep says itself."""
    return not record.name.startswith(("distributed", "tornado", "asyncio"))


def start_local(jobs: int) -> LocalCluster:
    """A cluster for trying, which no other machine can reach."""
    return LocalCluster(
        n_workers=jobs, threads_per_worker=1, resources={"machine": 1}, host="127.0.0.1", dashboard_address=None
    )


def connect(address: str | LocalCluster) -> Client:
    """A client of a scheduler. Raises UsageError if none answers there."""
    if isinstance(address, str) and not re.fullmatch(r"((tcp|tls|ucx|wss?)://)?[^/]+:\d+", address):
        raise UsageError(f"--scheduler {address} is not valid: give local, or an address like tcp://HOST:8786")
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise UsageError(f"--scheduler {address} is not valid: no scheduler answers there") from error


def order_of(run: PlannedRun, files: bool) -> Order:
    """A run as it travels: what it reads is below inputs/, a folder for each folder here, and it writes to ".".

    A log of that name that is here must not stay beside the row of another run, so the files replace it.
    """
    read = {path: path.read_bytes() for path in with_logs(run.inputs)}
    folders = {folder: f"inputs/{number}" for number, folder in enumerate({path.parent: None for path in read})}
    travelling = {path: f"{folders[path.parent]}/{path.name}" for path in read}
    words = [travelling.get(Path(word), word) for word in run.words]
    content = {travelling[path]: read[path] for path in read}
    if run.proof == "-":  # it resumes from its tables
        content |= {path.name: path.read_bytes() for path in run.folder.glob("*.csv")}
    returned = files or run.proof != "row" or run.log.exists()
    return Order((*words, "--subfolder", "."), run.config, files=content, returned=returned)


def with_logs(paths: list[Path]) -> list[Path]:
    """Files, and the logs beside those with weights: some landscapes read them."""
    logs = [path.with_name(path.name.replace(ARTIFACTS["weights"], LOG_ENDING)) for path in paths]
    return list(dict.fromkeys([*paths, *(log for log in logs if log.is_file())]))


# ----------------------------------------------------------------------------------------------------
# The versions of driver and workers
# ----------------------------------------------------------------------------------------------------


def digest_of_sources() -> str:
    """Identifies the suite's code."""
    packages = [path.parent for path in ROOT.glob("*/__init__.py")]
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("*.py"), *(path for package in packages for path in package.rglob("*.py"))]):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


# Of this process, since it was started. Builds of torch without and with CUDA (2.14.1+cpu, 2.14.1) count as the same.
VERSIONS = {"torch": importlib.metadata.version("torch").partition("+")[0], "the suite": digest_of_sources()}


def check_versions(worker: str, found: dict[str, str], expected: dict[str, str]) -> None:
    """Raise a DataError that names what is another version on a worker than on the driver."""
    for name, version in expected.items():
        if found[name] != version:
            raise DataError(
                f"worker {worker} has version {found[name]} of {name}, the driver has {version}: install the same one "
                f"there, and restart the worker"
            )


# ----------------------------------------------------------------------------------------------------
# What workers execute
# ----------------------------------------------------------------------------------------------------


def describe(dask_worker: Worker) -> dict[str, Any]:
    """What the driver must know of a worker. machine: of a kernel, which containers share."""
    return {
        "versions": VERSIONS,
        "offered": dask_worker.state.total_resources.get("machine", 0),
        "machine": Path("/proc/sys/kernel/random/boot_id").read_text(),
    }


OWN_NURSERY = threading.Lock()


@functools.cache
def own_nursery(parallel: bool) -> Nursery:
    """The nursery of this worker, without the number of threads that Dask sets for its own tasks.

    To be called with OWN_NURSERY held, so that there is only one.
    """
    added = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    kept = {name: value for name, value in os.environ.items() if name not in added or value != str(added[name])}
    return Nursery(parallel, kept)


def execute(order: Order, data_dir: str, versions: dict[str, str]) -> Report:
    """Execute an order in an empty folder; a data folder without a leading / is below the worker's folder.

    Raises DataError if this worker has other versions than the driver.
    """
    worker = get_worker()
    check_versions(worker.address, VERSIONS, versions)
    key, data_dir = worker.get_current_task(), os.path.abspath(data_dir)
    config = order.config and dataclasses.replace(order.config, data_dir=data_dir, subfolder=".")
    order = dataclasses.replace(order, words=(*order.words, "--data_dir", data_dir), config=config)

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in RUNNING and task is not None and task.state == "executing"

    with OWN_NURSERY:
        nursery = own_nursery(parallel=worker.state.nthreads > 1)
    report = nursery.execute(order, is_wanted)
    if report is None:
        raise Reschedule
    return report
