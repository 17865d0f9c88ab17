"""Shared helpers: run the scripts of the suite, and find the real data if they are available."""

import atexit
import functools
import os
import signal
import subprocess
from pathlib import Path

# On a busy machine, threads that spin while they wait for each other make a gradient take ten times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
import torch

from nursery import ROOT, Nursery

SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
PUBLISHED = SHARED / "published_runs"

# Background jobs of a shell ignore Ctrl-C, those under nohup hang-ups, and so do their children; some tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data")
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published runs")


@functools.cache
def shared_nursery() -> Nursery:
    """The nursery of all tests, created on first use."""
    nursery = Nursery()
    atexit.register(nursery.__exit__)
    return nursery


@pytest.fixture(scope="session")
def nursery() -> Nursery:
    return shared_nursery()


def run(
    script: str, *arguments: object, timeout: int = 120, check: bool = True, cores: int | None = None
) -> subprocess.CompletedProcess:
    """Run a script of the suite as a user would, without its start-up time; fails the test if it fails.

    cores: the number of cores that it may use; None for all.
    """
    ended = shared_nursery().run(script, *arguments, folder=Path.cwd(), timeout=timeout, cores=cores)
    if check:
        assert ended.code == 0, ended.errors
    return subprocess.CompletedProcess([script, *arguments], ended.code, ended.output, ended.errors)


def train(script: str, folder: Path, *arguments: object, cores: int | None = None) -> dict[str, Path]:
    """Train on the digits, by default with seed 1; returns the paths of the run's files by kind."""
    defaults = ("--dataset", "digits", "--lr", 0.05, "--momentum", 0.9)
    seed = () if "--replay" in arguments else ("--seed", 1)
    before = set(folder.glob("*"))
    run(script, *defaults, *seed, "--subfolder", folder, *arguments, cores=cores)
    new = set(folder.glob("*")) - before
    return {path.stem.rpartition("_")[2]: path for path in new}


def weights_of(run: dict[str, Path]) -> bytes:
    """The bytes of all values of a trained model."""
    state = torch.load(run["model"], weights_only=True)
    return b"".join(value.numpy().tobytes() for value in state.values())
