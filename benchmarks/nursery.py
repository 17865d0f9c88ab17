"""The process that measurements are forked from: `python3 -m benchmarks.nursery MODULE ...`.

It imports modules of this package, then reads one contestant per line (JSON) and answers with its sample or an error.
"""

import dataclasses
import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any

from benchmarks.measure import Task
from benchmarks.processes import adopt_orphans, end_descendants


def main() -> None:
    adopt_orphans()
    for module in sys.argv[1:]:
        importlib.import_module(f"benchmarks.{module}")
    if torch := sys.modules.get("torch"):  # half of it is imported only when the first optimiser is created
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)


def answer(contestant: dict[str, Any]) -> str:
    """Run a contestant in a forked process, and end all its descendants afterwards."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # stdout is only for answers
        with open(writer, "w") as file:
            file.write(json.dumps(contend(contestant)))
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    end_descendants(os.getpid())
    with suppress(ChildProcessError):
        while os.wait():
            pass
    return text or json.dumps({"error": "it was killed because it took too long or used too much memory"})


def contend(contestant: dict[str, Any]) -> dict[str, Any]:
    """Run a contestant; returns its sample or the error."""
    module, _, function = contestant["function"].rpartition(".")
    work = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    try:
        return dataclasses.asdict(work(Task(**contestant["task"]), **contestant["options"]))
    except Exception as error:  # peers may raise anything
        lines = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[-1]}"}


if __name__ == "__main__":
    main()
