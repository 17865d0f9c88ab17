"""Imports point one way: scripts → training, analysis → interface → common."""

import ast
from pathlib import Path

import pytest

from conftest import ROOT

SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - {"common"}
ENGINES = {"training.engines.rpc.launch", "training.engines.virtual"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it; `from a import b` counts as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms(path: Path) -> set[str]:
    return {name for name in imported(path) if name.split(".")[0] in {"training", "analysis", "interface", "common"}}


def starting_with(names: set[str], *roots: str) -> set[str]:
    return {name for name in names if name.split(".")[0] in roots}


def test_common_imports_nothing_of_ours():
    assert not rooms(ROOT / "common.py")


@pytest.mark.parametrize("name", ["server", "worker"])
def test_algorithms_know_torch_and_the_protocol_alone(name):
    names = imported(ROOT / "training" / f"{name}.py")
    assert {name.split(".")[0] for name in names} <= {"torch", "collections", "typing", "training"}
    assert {".".join(name.split(".")[:2]) for name in starting_with(names, "training")} == {"training.protocol"}


@pytest.mark.parametrize("path", sorted((ROOT / "training").glob("*.py")), ids=lambda path: path.stem)
def test_training(path):
    names = rooms(path)
    assert not starting_with(names, "analysis", *SCRIPTS)
    if f"training.{path.stem}" in ENGINES:
        assert not names & (ENGINES - {f"training.{path.stem}"})
    else:
        assert not names & ENGINES


@pytest.mark.parametrize("path", sorted((ROOT / "analysis").glob("*.py")), ids=lambda path: path.stem)
def test_analysis_reads_records_alone(path):
    """The grid search trains as well, with the optimisers of training."""
    names = rooms(path)
    assert not starting_with(names, *SCRIPTS)
    allowed = ("training.record", "training.optimizers") if path.stem == "cross_validation" else ("training.record",)
    assert all(name.startswith(allowed) for name in starting_with(names, "training"))


def test_only_the_engine_of_processes_knows_rpc():
    files = [path for folder in (".", "training", "analysis", "interface") for path in (ROOT / folder).glob("*.py")]
    assert {path.stem for path in files if any("distributed" in name for name in imported(path))} == {"agents", "rpc"}
    assert {path.stem for path in files if "training.engines.rpc.agents" in imported(path)} == {"rpc"}
