"""A training that runs while a test watches it, and kills its processes."""

import subprocess
import sys
import time
from pathlib import Path

from nursery import ROOT


class LiveRun:
    """A training script in its own process."""

    def __init__(self, folder: Path, script: str, *arguments: object) -> None:
        command = [sys.executable, str(ROOT / script), *map(str, arguments), "--subfolder", str(folder)]
        self.folder = folder
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_until_training(self, updates: int = 20) -> list[int]:
        """Wait until the log contains more than `updates` updates; returns the process ids of the workers, in order."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            logs = list(self.folder.glob("*_log.log"))
            if logs and logs[0].read_bytes().count(b"  update ") > updates:
                return self.children()
            time.sleep(0.01)
        raise AssertionError(f"no training: {self.process.poll()}")

    def children(self) -> list[int]:
        pid = self.process.pid
        # In the order in which they were forked; process ids may wrap around.
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def wait_for_workers(self, count: int) -> list[int]:
        """Wait until `count` workers are forked, before they have joined the run; returns their process ids."""
        command = Path(f"/proc/{self.process.pid}/cmdline")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            children = self.children()
            if len(children) >= count:
                forked = [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == command.read_bytes()]
                if len(forked) == count:
                    return forked
        raise AssertionError("no workers")

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, error

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
