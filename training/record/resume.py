"""Find the checkpoint of an interrupted run, from which --resume continues (training/checkpoints.py writes them).

It is read without executing code: it may contain tensors, numbers, containers, and objects of a few classes of ours.
"""

import fcntl
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluation import Score
from interface.errors import DataError, UsageError, first_line
from training.algorithms import ALGORITHMS
from training.algorithms.gathering import GradientSum, GradientTable, MeanTable
from training.config import RunConfig
from training.flags import Scope
from training.names import ARTIFACTS, CHECKPOINT, run_name
from training.plan import Plan
from training.protocol import Push, Snapshot
from training.settings import ROWS

FORMAT = 4
State = dict[str, Any]
# The settings that must be the same: those that change training or what the record contains.
SAME = tuple(
    name for name, row in ROWS.items()
    if (row.scope is Scope.TRAINING and name != "seed") or name in ("saves_per_epoch", "evals_per_epoch")
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """The last state of an interrupted run. base: path of its partial files without their endings."""

    base: Path
    state: State

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.state["seed"]

    def fit_plan(self, plan: Plan) -> Plan:
        """The plan with the interrupted run's threads per gradient.

        Raises DataError if the data are others, UsageError if another device, precision or number of threads is asked
        for.
        """
        if self.state["data"] != plan.fingerprint:
            raise DataError(f"{self.base}{CHECKPOINT}: its run trained on other data, with fingerprint "
                            f"{self.state['data']}; {plan.config.dataset} in {plan.config.data_dir} has "
                            f"{plan.fingerprint}")  # fmt: skip
        if plan.config.device != self.state["device"]:
            raise UsageError(f"--device {plan.config.device} conflicts with the interrupted run {self.base}, which "
                             f"computes with --device {self.state['device']}")  # fmt: skip
        if plan.config.tf32 != self.state.get("tf32", False):
            raise UsageError(f"{'--tf32' if plan.config.tf32 else 'no --tf32'} conflicts with the interrupted run "
                             f"{self.base}, which computes {'without' if plan.config.tf32 else 'with'} it")  # fmt: skip
        if plan.config.threads not in (None, self.state["threads"]):
            raise UsageError(f"--threads {plan.config.threads} conflicts with the interrupted run {self.base}, whose "
                             f"gradients have --threads {self.state['threads']}")  # fmt: skip
        return plan.with_threads(self.state["threads"])


def find_checkpoint(config: RunConfig) -> Checkpoint | None:
    """The checkpoint of the interrupted run with these settings in its folder that got furthest.

    Runs that another process is still writing are passed over. Raises DataError if a checkpoint cannot be read, or is
    of another version.
    """
    if not config.resume or config.rank:  # only the server writes checkpoints
        return None
    found = []
    for path in sorted(Path(config.subfolder).glob(f"{run_name(config)}_partial*{CHECKPOINT}")):
        base = path.with_name(path.name.removesuffix(CHECKPOINT))
        state = read_state(path, config.device)
        same = all(state["settings"].get(name) == getattr(config, name) for name in SAME)
        if same and config.seed in (None, state["seed"]) and not is_being_written(Path(f"{base}{ARTIFACTS['log']}")):
            found.append(Checkpoint(base, state))
    if not found:
        logging.warning("--resume: no interrupted run with these settings in %s: starting at the beginning",
                        config.subfolder)  # fmt: skip
    return max(found, key=lambda checkpoint: checkpoint.state["updates"], default=None)


def is_being_written(log: Path) -> bool:
    """Whether the process that writes a log is still there; raises DataError if the log is missing."""
    try:
        with log.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # of a process: those that it has forked do not hold it
    except FileNotFoundError as error:
        raise DataError(f"{log}: missing; --resume continues it") from error
    except BlockingIOError:
        return True
    return False


def read_state(path: Path, device: str) -> State:
    """The content of a checkpoint, its tensors on a device; raises DataError if it is damaged or of another version."""
    try:
        with torch.serialization.safe_globals(list(allowed_classes())):
            state = torch.load(path, weights_only=True, map_location=device)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises many different types
        raise DataError(f"{path}: not a checkpoint of a run: torch.load failed ({first_line(error)})") from error
    if not isinstance(state, dict) or "format" not in state:
        raise DataError(f"{path}: not a checkpoint of a run")
    if (state["format"], state.get("torch")) != (FORMAT, str(torch.__version__)):
        raise DataError(f"{path}: written in format {state['format']} with torch {state.get('torch')}; this is format "
                        f"{FORMAT} with torch {torch.__version__}: resume with that version, or remove the file to "
                        "start at the beginning")  # fmt: skip
    return state


def allowed_classes() -> Iterator[type]:
    """The classes of which a checkpoint may contain objects."""
    yield from (set, Score, Push, Snapshot, GradientSum, GradientTable, MeanTable)
    for rule in ALGORITHMS.values():
        yield from rule.state_classes
