"""Run command lines without their start-up time, forked from a process that has already imported everything.

Starting a script takes seconds, mostly for `import torch`. The script itself runs in its own process, with its own
arguments, working directory, output and exit code.
"""

import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import re
import resource
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from common import load_dataset

ROOT = Path(__file__).resolve().parent.parent
IMPORTED_ONCE = (
    "torchvision.datasets", "sklearn.datasets", "sklearn.model_selection", "sklearn.decomposition", "sklearn.metrics",
    "cross_validation.plots", "analysis.landscape.plots", "analysis.landscape.sources",
    "analysis.reports.training_plots", "analysis.reports.summary", "training.engines.replay", "training.record.writer",
    "training.engines.rpc.launch", "training.engines.virtual",
)  # fmt: skip
DEAD_PROXY = "http://127.0.0.1:9"  # a proxy that does not exist: downloads fail immediately, even with a network


@dataclass(frozen=True)
class Ended:
    """The result of a command line; peak: the largest resident memory of any of its processes, KiB."""

    code: int
    output: str
    errors: str
    peak: int

    @property
    def warnings(self) -> list[str]:
        """The warnings on stderr, one per line."""
        return [line for line in self.errors.splitlines() if ": warning: " in line]

    def refused(self, *named: object) -> None:
        """Assert that it failed with exactly one line on stderr, which contains these texts."""
        assert self.code in (1, 2), (self.code, self.errors)
        assert re.fullmatch(r"\S+\.py: error: .+\n", self.errors), self.errors
        for name in named:
            assert str(name) in self.errors, f"{name} is not named: {self.errors}"

    def went_well(self) -> "Ended":
        """Assert that it succeeded with nothing but warnings on stderr."""
        assert self.code == 0, self.errors
        assert self.errors.splitlines() == self.warnings, self.errors
        return self


CLONE_NEWNET = 0x40000000  # linux/sched.h


@dataclass(frozen=True)
class Surroundings:
    """What a command line runs in.

    folder: its working directory; timeout: seconds after which it is killed; output: a file for stdout, such as
    /dev/full; file_size: limit on the size of files, bytes; cores: the number of cores that it may use;
    network: the name of its network namespace; variables: more of its environment.
    """

    folder: Path | str = "."
    timeout: int = 60
    output: Path | str | None = None
    file_size: int | None = None
    cores: int | None = None
    network: str | None = None
    variables: dict[str, str] = field(default_factory=dict)


class Started:
    """A command line that was forked from the nursery and may still run. output, errors: the files of its streams."""

    def __init__(self, nursery: "Nursery", command: str, pid: int, output: Path, errors: Path) -> None:
        self.nursery, self.command, self.pid, self.output, self.errors = nursery, command, pid, output, errors
        self._alive = os.pidfd_open(pid)
        self._ended: Ended | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        running = self._ended is None and not select.select([self._alive], [], [], 0)[0]
        return None if running else self.wait().code

    def wait(self, timeout: float = 60) -> Ended:
        """Wait for its end. Fails the test if that takes longer than `timeout` seconds."""
        if self._ended is None:
            ready, _, _ = select.select([self._alive], [], [], timeout)
            assert ready, f"{self.command} takes more than {timeout} s: {self.errors.read_text()}"
            answer = self.nursery.ask({"wait": self.pid})
            os.close(self._alive)
            output = "" if self.output.is_char_device() else self.output.read_text()
            self._ended = Ended(answer["code"], output, self.errors.read_text(), answer["peak"])
        return self._ended

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._ended is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.wait()


class Nursery:
    """The process from which command lines are forked; it has no thread pool that a fork would break."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nursery-")
        self._count = 0
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), DEAD_PROXY)
        environment = {**os.environ, **proxies, "TORCH_CPP_LOG_LEVEL": "ERROR", "no_proxy": "",
                       "PYTHONPATH": str(ROOT)}  # fmt: skip
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env=environment)  # fmt: skip

    def ask(self, order: dict) -> dict:
        """Give an order to the nursery's process, and return its answer."""
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, command: str, *arguments: object, **surroundings: Any) -> Started:
        """Start a script of this repository; surroundings: fields of Surroundings."""
        self._count += 1
        given = Surroundings(**surroundings)
        output, errors = (Path(self._folder.name) / f"{name}{self._count}" for name in ("output", "errors"))
        for path in (output, errors):
            path.touch()
        output = Path(given.output or output)
        words = [*command.split(), *map(str, arguments)]
        order = {"command": words, **asdict(given), "output": output, "errors": errors}
        return Started(self, command, self.ask(order)["pid"], output, errors)

    def run(self, command: str, *arguments: object, timeout: int = 60, **surroundings: Any) -> Ended:
        """Run a script of this repository to its end."""
        ended = self.start(command, *arguments, timeout=timeout, **surroundings).wait(timeout + 10)
        assert ended.code != -signal.SIGALRM, f"{command} took more than {timeout} s"
        return ended

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()


def serve() -> None:
    """Main function of the nursery process: reads one order per line, and writes one answer per line."""
    sys.path[0] = str(ROOT)
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    torch.set_num_threads(1)
    load_dataset("digits", "data")
    gc.freeze()  # garbage collection would copy shared pages in forked processes
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status, usage = os.wait4(order["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status), "peak": usage.ru_maxrss}
        else:
            process = multiprocessing.get_context("fork").Process(target=run_command, kwargs=order)
            process.start()
            multiprocessing.process._children.discard(process)  # which would wait for it at the next start
            answer = {"pid": process.pid}
        print(json.dumps(answer), flush=True)


def run_command(
    command: list[str], folder: str, timeout: int, output: str, errors: str, file_size: int | None, cores: int | None,
    network: str | None, variables: dict[str, str],
) -> None:  # fmt: skip
    """Run a script in this process."""
    signal.alarm(timeout)  # kills the process
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for descriptor, name, flags in ((0, os.devnull, os.O_RDONLY), (1, output, writing), (2, errors, writing)):
        os.dup2(os.open(name, flags, 0o600), descriptor)
    os.chdir(folder)
    os.environ.update(variables)
    tempfile.tempdir = None  # TMPDIR may have changed
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if network is not None:
        with open(f"/run/netns/{network}") as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0
    sys.argv = [str(ROOT / command[0]), *command[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    serve()
