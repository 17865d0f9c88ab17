"""A training that runs while a test watches it, and kills its processes."""

import os
import time
from contextlib import suppress
from pathlib import Path

from conftest import shared_nursery


class LiveRun:
    """A training script in its own process."""

    def __init__(self, folder: Path, script: str, *arguments: object) -> None:
        self.folder = folder
        self.process = shared_nursery().start(script, *arguments, "--subfolder", folder, timeout=300)

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

    def wait_for_message(self) -> str:
        """Wait until it writes to stderr; returns what it wrote."""
        deadline = time.monotonic() + 60
        while not (written := self.process.errors.read_text()).endswith("\n"):
            assert time.monotonic() < deadline and self.process.poll() is None, "no message"
            time.sleep(0.01)
        return written

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        ended = self.process.wait(timeout)
        return ended.code, ended.output, ended.errors

    def kill(self) -> None:
        self.process.kill()

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


def listening_addresses(pids: list[int]) -> set[str]:
    """The addresses, in the kernel's hexadecimal format, that these processes listen on."""
    found = set()
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
            inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
            for table in ("tcp", "tcp6", "udp", "udp6"):
                for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[9] in inodes and (fields[3] == "0A" or table.startswith("udp")):
                        found.add(fields[1].split(":")[0])
    return found
