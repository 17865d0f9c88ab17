"""Toy algorithms of a few lines, for what an algorithm may do and what it must not do.

python tests/toys.py ALGORITHM FLAGS...   trains with the main function of dist_async.py, with the toys registered.
"""

import os
import sys
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training.algorithms import ALGORITHMS, Algorithm
from training.algorithms.base import OnArrival
from training.protocol import Outcome


class Toy(Algorithm):
    """Base class of the toys."""

    mode, purpose = "async", "for tests"

    @classmethod
    def updates_per_epoch(cls, batches, config):
        return sum(batches)


class Deaf(Toy):
    """Never releases a worker."""

    title = "deaf SGD"

    def push(self, push):
        return Outcome()


class Rude(Toy):
    """Releases a worker that is not waiting."""

    title = "rude SGD"

    def push(self, push):
        return Outcome(released=(push.worker, push.worker))


class Pairs(Toy):
    """Buffers every other gradient and applies the mean of each two; workers never wait."""

    title = "paired SGD"

    def __init__(self, server, config, workers):
        super().__init__(server, config, workers)
        self.kept = None

    @classmethod
    def updates_per_epoch(cls, batches, config):
        return None

    def push(self, push):
        if self.kept is None:
            self.kept = push
            return Outcome(released=(push.worker,))
        pushes, self.kept = (self.kept, push), None
        mean = (pushes[0].gradient + pushes[1].gradient) / 2
        return Outcome(self.server.apply(mean, pushes), released=(push.worker,))


class Picky(Toy):
    """Drops every stale gradient."""

    title = "picky SGD"
    gathers = False

    @classmethod
    def updates_per_epoch(cls, batches, config):
        return None

    def push(self, push):
        if push.version < self.server.version:
            return Outcome(released=(push.worker,), dropped=True)
        return Outcome(self.server.apply(push.gradient, (push,)), released=(push.worker,))


class Shy(Picky):
    """Fails at the first fetch."""

    title = "shy SGD"

    def fetch(self, worker):
        raise ValueError("no model yet")


class Hoarder(OnArrival):
    """Keeps every gradient, and fails if one has changed since."""

    title, purpose = "SGD that hoards", "for tests"

    def __init__(self, server, config, workers):
        super().__init__(server, config, workers)
        self.kept = []

    def push(self, push):
        self.kept.append((push.gradient, push.gradient.clone()))
        assert all(gradient.equal(copy) for gradient, copy in self.kept), "a gradient has changed"
        return Outcome(self.server.apply(push.gradient, (push,)), released=(push.worker,))


class Mute(Toy):
    """Forgets to answer."""

    title = "mute SGD"

    def push(self, push):
        self.server.apply(push.gradient, (push,))


class Diary(OnArrival):
    """Keeps an object of a class that it does not name in `state_classes`."""

    title, purpose = "SGD with a diary", "for tests"

    def __init__(self, server, config, workers):
        super().__init__(server, config, workers)
        self.page = Fraction(1, 3)

    def push(self, push):
        return Outcome(self.server.apply(push.gradient, (push,)), released=(push.worker,))


class Turns(Toy):
    """Applies each gradient immediately; a worker waits until all others have pushed as often."""

    title = "SGD in turns"
    gathers = False

    def __init__(self, server, config, workers):
        super().__init__(server, config, workers)
        self.here, self.done = set(workers), []

    def push(self, push):
        self.done.append(push.worker)
        return Outcome(self.server.apply(push.gradient, (push,)), released=self._released())

    def leave(self, worker):
        self.here.discard(worker)
        self.done = [other for other in self.done if other != worker]
        return Outcome(released=self._released())

    def _released(self):
        if not self.done or not self.here <= set(self.done):
            return ()
        released, self.done = tuple(self.done), []
        return released


TOYS = {
    "deaf": Deaf,
    "rude": Rude,
    "pairs": Pairs,
    "picky": Picky,
    "turns": Turns,
    "hoarder": Hoarder,
    "mute": Mute,
    "diary": Diary,
    "shy": Shy,
}

if __name__ == "__main__":
    ALGORITHMS |= TOYS
    import dist_async
    from interface.command_line import run_script

    sys.argv = ["dist_async.py", "--algorithm", *sys.argv[1:]]
    run_script(dist_async.main)
