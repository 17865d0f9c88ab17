"""What the tests share: command lines run for real, and the folder of real data where there is one."""

import atexit
import functools
import os
import signal
import subprocess
from pathlib import Path

# On a busy machine, threads that spin while they wait for one another make a gradient take ten times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
import torch

from nursery import ROOT, Nursery

SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
PUBLISHED = SHARED / "published_runs"

# A shell has its background jobs ignore Ctrl-C, and all that they start: the tests that press it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data are not here")
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published runs are not here")


@functools.cache
def shared_nursery() -> Nursery:
    """One for all tests, made when the first one asks for it."""
    nursery = Nursery()
    atexit.register(nursery.__exit__)
    return nursery


@pytest.fixture(scope="session")
def nursery() -> Nursery:
    return shared_nursery()


def run(
    script: str, *arguments: object, timeout: int = 120, check: bool = True, cores: int | None = None
) -> subprocess.CompletedProcess:
    """Run one script of the suite as a user does, but for its start-up; fails the test if it fails.

    cores: how many it may use; None for all.
    """
    ended = shared_nursery().run(script, *arguments, folder=Path.cwd(), timeout=timeout, cores=cores)
    if check:
        assert ended.code == 0, ended.errors
    return subprocess.CompletedProcess([script, *arguments], ended.code, ended.output, ended.errors)


def train(script: str, folder: Path, *arguments: object, cores: int | None = None) -> dict[str, Path]:
    """Train on the digits; the paths of what the run left, by kind."""
    defaults = ("--dataset", "digits", "--lr", 0.05, "--momentum", 0.9)
    before = set(folder.glob("*"))
    run(script, *defaults, "--subfolder", folder, *arguments, cores=cores)
    new = set(folder.glob("*")) - before
    return {path.stem.rpartition("_")[2]: path for path in new}


def weights_of(run: dict[str, Path]) -> bytes:
    """Every bit of a trained model."""
    state = torch.load(run["model"], weights_only=True)
    return b"".join(value.numpy().tobytes() for value in state.values())
