"""Run command lines without their start-up time, forked from a process that has already imported everything.

Starting a script takes seconds, mostly for `import torch`. The script itself runs in its own process, with its own
arguments, working directory, output and exit code.
"""

import gc
import importlib
import json
import multiprocessing
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

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


class Nursery:
    """The process from which command lines are forked; it has no thread pool that a fork would break."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nursery-")
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), DEAD_PROXY)
        environment = {**os.environ, **proxies, "TORCH_CPP_LOG_LEVEL": "ERROR", "no_proxy": "",
                       "PYTHONPATH": str(ROOT)}  # fmt: skip
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env=environment)  # fmt: skip

    def run(self, command: str, *arguments: object, folder: Path | str = ".", timeout: int = 60,
            output: str | None = None, file_size: int | None = None, cores: int | None = None) -> Ended:  # fmt: skip
        """Run a script of this repository with its arguments, and `folder` as the working directory.

        output: a file for stdout, such as /dev/full; file_size: limit on the size of files, bytes; cores: the number of
        cores that it may use.
        """
        out, errors = (Path(self._folder.name) / name for name in ("output", "errors"))
        order = {"command": [*command.split(), *map(str, arguments)], "folder": str(folder), "timeout": timeout,
                 "output": output or str(out), "errors": str(errors), "file_size": file_size,
                 "cores": cores}  # fmt: skip
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["code"] != -signal.SIGALRM, f"{command} took more than {timeout} s"
        return Ended(answer["code"], "" if output else out.read_text(), errors.read_text(), answer["peak"])

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()


def serve() -> None:
    """Main function of the nursery process: reads one command per line, and writes one answer per line."""
    sys.path[0] = str(ROOT)
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    torch.set_num_threads(1)
    load_dataset("digits", "data")
    gc.freeze()  # garbage collection would copy shared pages in forked processes
    for line in sys.stdin:
        process = multiprocessing.get_context("fork").Process(target=run_command, kwargs=json.loads(line))
        process.start()
        _, status, usage = os.wait4(process.pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "peak": usage.ru_maxrss}), flush=True)


def run_command(
    command: list[str], folder: str, timeout: int, output: str, errors: str, file_size: int | None, cores: int | None
) -> None:
    """Run a script in this process."""
    signal.alarm(timeout)  # kills the process
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for descriptor, name, flags in ((0, os.devnull, os.O_RDONLY), (1, output, writing), (2, errors, writing)):
        os.dup2(os.open(name, flags, 0o600), descriptor)
    os.chdir(folder)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    sys.argv = [str(ROOT / command[0]), *command[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    serve()
