"""What the tests share: command lines run for real, and the folder of real data where there is one."""

import os
import subprocess
import sys
from pathlib import Path

# On a busy machine, threads that spin while they wait for one another make a gradient take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
PUBLISHED = SHARED / "published_runs"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data are not here")
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published runs are not here")


def run(script: str, *arguments: object, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess:
    """Run one script of the suite as a user does; fails the test if it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def train(script: str, folder: Path, *arguments: object) -> dict[str, Path]:
    """Train on the digits; the paths of what the run left, by kind."""
    defaults = ("--dataset", "digits", "--lr", 0.05, "--momentum", 0.9)
    before = set(folder.glob("*"))
    run(script, *defaults, "--subfolder", folder, *arguments)
    new = set(folder.glob("*")) - before
    return {path.stem.rpartition("_")[2]: path for path in new}


def weights_of(run: dict[str, Path]) -> bytes:
    """Every bit of a trained model."""
    state = torch.load(run["model"], weights_only=True)
    return b"".join(value.numpy().tobytes() for value in state.values())
