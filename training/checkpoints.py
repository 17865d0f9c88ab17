"""Write the checkpoints of a run, and put a run back into the state of one.

A checkpoint holds everything that the rest of the run depends on: the model, the optimiser, how far the record is, and
what the engine adds: the algorithm, the workers' random streams, and the schedule with the models that workers fetched.
"""

import io
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from common import FlatModel
from interface.processes import interruptions_to
from training.observer import Observer
from training.plan import Plan
from training.record.resume import FORMAT, SAME, Checkpoint, State, allowed_classes
from training.record.writer import Record
from training.server import Optimizer

SECONDS = 60  # between two checkpoints, without --checkpoint_every
PATIENCE_SECONDS = 3  # of an interruption, for the next update


class Checkpoints:
    """Writes the checkpoints of one run. On construction, the run continues from the last one, if it is resumed.

    engine: what the engine saved in that one; None at the beginning of a run.
    """

    def __init__(
        self, plan: Plan, model: FlatModel, optimizer: Optimizer, observer: Observer, resumed: Checkpoint | None
    ) -> None:
        self.plan = plan
        self.model = model
        self.optimizer = optimizer
        self.observer = observer
        self.record: Record = observer.record
        self.engine: State | None = None
        self._every = plan.config.checkpoint_every
        self._next = self._every or 0  # updates
        self._next_time = time.monotonic() + SECONDS
        self._warned = False
        self._interrupted: set[int] = set()  # the signals that have come
        if resumed is not None:
            self._restore(resumed.state)
            planned = f" of {plan.updates}" if plan.updates else ""
            tqdm.write(f"Continues after update {observer.updates}{planned}")  # the progress bar is there already

    def _restore(self, state: State) -> None:
        self.engine = state["engine"]
        self.model.parameters.copy_(state["parameters"])
        self.model.buffers.copy_(state["buffers"])
        for tensor, value in zip(self.optimizer.tensors, state["optimizer"], strict=True):
            tensor.copy_(value)
        self.observer.restore(state["observer"])
        self._next += state["updates"]

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP end the run at the next offer, with a checkpoint.

        If that does not come in PATIENCE_SECONDS, as in a long evaluation, or the same signal comes again, the run ends
        at once.
        """

        def interrupt(number: int, frame: Any) -> None:
            if number in self._interrupted or number == signal.SIGALRM:
                raise KeyboardInterrupt
            self._interrupted.add(number)
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

        try:
            with interruptions_to(interrupt):
                yield
        finally:
            self._disarm()

    def _disarm(self) -> None:
        if self._interrupted:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def offer(self, engine: Callable[[], State]) -> None:
        """The run is in a consistent state: write a checkpoint if it is time. engine: what it has to add."""
        if self._interrupted:
            self._disarm()
            self.write(engine())
            raise KeyboardInterrupt
        if self._every is None:
            if time.monotonic() < self._next_time:
                return
        elif self.observer.updates < self._next:
            return
        with self.observer.pause():
            self.write(engine())
        self._next = self.observer.updates + (self._every or 0)
        self._next_time = time.monotonic() + SECONDS

    def write(self, engine: State) -> None:
        """Write a checkpoint of the run, which is in a consistent state."""
        config = self.plan.config.as_dict()
        state = {
            "format": FORMAT,
            "torch": str(torch.__version__),
            "seed": self.plan.seed,
            "data": self.plan.fingerprint,
            "threads": self.plan.threads_per_gradient,
            "device": self.plan.config.device,
            "tf32": self.plan.config.tf32,
            "settings": {name: config[name] for name in SAME},
            "updates": self.observer.updates,
            "parameters": self.model.parameters,
            "buffers": self.model.buffers,
            "optimizer": self.optimizer.tensors,
            "observer": self.observer.state(),
            "record": self.record.position(),
            "engine": engine,
        }
        content = io.BytesIO()  # torch.save raises its own error for a full disk
        torch.save(state, content)
        content.seek(0)
        with torch.serialization.safe_globals(list(allowed_classes())):
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(content)
        if not foreign:
            self.record.save_checkpoint(content.getbuffer())
        elif not self._warned:
            self._warned = True
            logging.warning("no checkpoints are written, as they could not be read: the state contains %s, which the "
                            "algorithm does not name in state_classes", ", ".join(foreign))  # fmt: skip
