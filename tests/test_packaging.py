"""The metadata of the project: complete, and the same wherever it is stated."""

import re
import subprocess
import sys

import pytest

from conftest import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def listed(name: str) -> set[str]:
    """The texts in a list of pyproject.toml."""
    return set(re.findall(r'"([\w.]+)"', re.search(rf"^{name} = \[(.*?)\]", PROJECT, re.MULTILINE | re.DOTALL)[1]))


def test_every_package_is_installed():
    """With `pip install --editable .`, what the suite imports can be imported from any folder."""
    tops = ("analysis", "cross_validation", "interface", "training")
    folders = [path.parent for top in tops for path in (ROOT / top).rglob("__init__.py")]
    assert listed("packages") == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert all((ROOT / f"{name}.py").is_file() for name in listed("py-modules"))


@pytest.mark.parametrize("code", ["from training.record import read_log", "import analysis.report.__main__"])
def test_imports_from_another_folder(code, tmp_path):
    """What an editable installation does: the project's folder is on the path."""
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}); {code}"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)


def test_the_version_is_the_same_everywhere():
    version = re.search(r'^version = "(.+)"', PROJECT, re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_range_of_pythons_is_the_same_everywhere():
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', PROJECT)[1]
    tested = re.findall(
        r'"3\.(\d+)"', re.search(r"python: \[.*\]", (ROOT / ".github/workflows/tests.yml").read_text())[0]
    )
    assert tested[0] == oldest and tested == [str(minor) for minor in range(int(oldest), int(tested[-1]) + 1)]
    page = (ROOT / "docs/install.md").read_text()
    assert f"| Python | 3.{tested[0]} to 3.{tested[-1]} |" in page
    assert f"sys.version_info < (3, {oldest})" in (ROOT / "scripts/lib.sh").read_text()
    least = re.search(r"^torch>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    assert f"| PyTorch | {least} to " in page
