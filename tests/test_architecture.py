"""Imports point one way: scripts → analysis → training → evaluation → common → catalogue, interface."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

LAYERS = ("interface", "catalogue", "common", "evaluation", "training", "analysis", "cross_validation")
SOURCES = [*ROOT.glob("*.py"), *(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))]

# Each part may import itself and these.
MAY_IMPORT = {
    "interface": (),
    "catalogue": (),
    "common": ("catalogue", "interface.errors"),
    "evaluation": ("common",),
    "training": ("interface", "catalogue", "common", "evaluation"),
    "training.server": ("training.protocol",),
    "training.worker": ("training.protocol",),
    "training.algorithms": ("training.protocol", "training.flags", "training.server", "interface"),
    "analysis": ("interface", "catalogue", "common", "evaluation", "training.config", "training.flags",
                 "training.settings", "training.names", "training.words", "training.record", "training.plan",
                 "training.stopping", "training.algorithms"),
    "cross_validation": ("interface", "catalogue", "common", "evaluation", "training.optimizers", "analysis.spread",
                         "analysis.tables", "analysis.figures"),
}  # fmt: skip
WITHOUT_TORCH = (
    *("training.settings", "training.config", "training.names", "training.words", "training.command_line"),
    *("training.algorithms", "training.record.reader"),
    *("interface.command_line", "interface.files", "interface.processes"),
    *("analysis.landscape.inputs", "cross_validation.grid", "cross_validation.command_line"),
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names if node.module in LAYERS}
    return found


def within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_one_way(path):
    module = module_of(path)
    rule = max((name for name in MAY_IMPORT if within(module, (name,))), key=len, default=None)
    if rule is None:  # a script: nobody imports it
        return
    ours = {name for name in imported(path) if within(name, (*LAYERS, *(path.stem for path in ROOT.glob("*.py"))))}
    allowed = (rule, *MAY_IMPORT[rule])
    assert {name for name in ours if not within(name, allowed) and name.partition(".")[0] != name} == set()
    assert {name for name in ours if name == name.partition(".")[0]} <= {part.partition(".")[0] for part in allowed}


def test_engines_are_independent_of_one_another_and_only_scripts_choose():
    for path in SOURCES:
        module, names = module_of(path), imported(path)
        engines = {name for name in names if within(name, ("training.engines.virtual", "training.engines.rpc"))}
        if within(module, ("training.engines.rpc",)):
            engines -= {name for name in engines if within(name, ("training.engines.rpc",))}
        assert not engines or "." not in module, module


def test_only_the_engine_of_processes_knows_rpc():
    knowing = {module_of(path) for path in SOURCES if any("torch.distributed" in name for name in imported(path))}
    assert knowing == {"training.engines.rpc.agents", "training.engines.rpc.launch"}


def test_nobody_asks_for_the_mode_outside_of_configuration():
    """What an engine, a record or a figure needs to know is a property of the algorithm or the configuration."""
    for path in SOURCES:
        if module_of(path) not in ("training.config", "training.flags"):
            compared = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare)]
            sides = [side for node in compared for side in (node.left, *node.comparators)]
            strings = {side.value for side in sides if isinstance(side, ast.Constant)}
            assert not strings & {"sync", "async"}, module_of(path)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_help_needs_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("script", sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in LAYERS))
def test_help_is_answered_without_slow_imports(script, tmp_path):
    command = [sys.executable, "-X", "importtime", ROOT / f"{script}.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert f"usage: {script}.py" in done.stdout
    assert not loaded(done.stderr) & {"torch", "torchvision", "numpy", "matplotlib", "sklearn", "plotly"}


def loaded(import_times: str) -> set[str]:
    """The modules in the output of -X importtime."""
    return {line.rpartition("|")[2].strip() for line in import_times.splitlines()}


def test_torchvision_is_imported_only_where_its_data_is_read(tmp_path):
    flags = ["--dataset", "digits", "--clock", "virtual", "--train_split", "0.1", "--seed", "1"]
    command = [sys.executable, "-X", "importtime", ROOT / "dist_async.py", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert "torch" in loaded(done.stderr) and "torchvision" not in loaded(done.stderr)
    assert "matplotlib" not in loaded(done.stderr)


PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "summaries/README.md",
         *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))))  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_of_a_page_are_part_of_the_project(page):
    """A file that git ignores is there for whoever made it, and for nobody else."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    tracked = {ROOT / name for name in listed.stdout.splitlines()}
    tracked |= {folder for path in tracked for folder in path.parents}
    links = re.findall(r"(?<!`)\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [
        link for link in links if "://" not in link and (ROOT / page).parent.joinpath(link).resolve() not in tracked
    ]
    assert not missing
