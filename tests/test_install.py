"""The installation: CPU builds without an NVIDIA GPU, pip's default as the fallback, repaired after an interruption.

Packages come from two indexes in a folder: `cpu`, PyTorch's own, and `default`, whose torch brings CUDA along. They
hold stand-ins, which contain nothing but their names.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT

PINS = dict(line.partition(" ;")[0].split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
            if "==" in line)  # fmt: skip
REQUIRED = set(re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)) - {"torch"}


def make_wheel(index: Path, name: str, version: str, *needs: str) -> None:
    """Add a package without content to an index, with what it needs."""
    folder = index / name.lower()  # as pip asks for it
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{path.name}">{path.name}</a>')


@pytest.fixture(scope="module")
def indexes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("indexes")
    make_wheel(folder / "cpu", "torch", f"{PINS['torch']}+cpu", "numpy")
    make_wheel(folder / "cpu", "torchvision", f"{PINS['torchvision']}+cpu", f"torch=={PINS['torch']}")
    make_wheel(folder / "default", "torch", PINS["torch"], "numpy", "nvidia-stand-in")
    make_wheel(folder / "default", "nvidia-stand-in", "1")
    for name in REQUIRED:
        make_wheel(folder / "default", name, PINS[name])
    return folder


class Machine:
    """A fresh copy of what the installation needs, and the commands of the machine that it is on."""

    def __init__(self, folder: Path, indexes: Path) -> None:
        self.folder, self.indexes = folder / "suite", indexes
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "python3").symlink_to(sys.executable)
        (self.folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/lib.sh", self.folder / "scripts")
        for path in [*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"]:
            shutil.copy(path, self.folder)

    def add_command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def install(self, check: bool = True, **variables: str) -> str:
        """Install the requirements; returns what is printed."""
        # CPU_INDEX is a constant of lib.sh.
        index = (self.indexes / "cpu").as_uri()
        done = self.run(f'CPU_INDEX="{index}"; prepare_environment requirements.txt', **variables)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess:
        """Run a command of lib.sh."""
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.folder), "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": (self.indexes / "default").as_uri(), "UV_INDEX_URL": (self.indexes / "default").as_uri(),
            "UV_CACHE_DIR": str(self.folder / "uv"), "PIP_NO_CACHE_DIR": "1",
        }  # fmt: skip
        code = f"source scripts/lib.sh; {command}"
        return subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=self.folder, text=True, timeout=120,
                              env=environment | variables, capture_output=True)  # fmt: skip

    @property
    def installed(self) -> dict[str, str]:
        """Package → version."""
        (folder,) = (self.folder / ".venv/lib").glob("python3*/site-packages")
        names = [path.name.removesuffix(".dist-info").split("-") for path in folder.glob("*.dist-info")]
        return {name: version for name, version in names if name not in ("pip", "setuptools")}


@pytest.fixture
def machine(tmp_path, indexes) -> Machine:
    return Machine(tmp_path, indexes)


def test_without_a_gpu_cpu_builds_are_installed_once(machine):
    output = machine.install()
    assert machine.installed["torch"].endswith("+cpu") and "CUDA" not in output
    assert set(machine.installed) == {"torch", *(name.replace("-", "_") for name in REQUIRED)}
    assert machine.install() == ""


GPU, CPU_INDEX = 'echo "GPU 0: a card"', "https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize(
    ("driver", "named", "index"),
    [(None, None, CPU_INDEX), (GPU, None, ""), ("exit 9", None, CPU_INDEX), ("true", None, CPU_INDEX),
     (GPU, "URL", "URL"), (None, "URL", "URL"), (None, "", "")],
)  # fmt: skip
def test_the_index_depends_on_the_gpu_and_can_be_named(machine, driver, named, index):
    if driver:
        machine.add_command("nvidia-smi", driver)
    variables = {} if named is None else {"TORCH_INDEX": named}
    assert machine.run("torch_index || true", **variables).stdout.strip() == index


def test_an_index_without_cpu_builds_is_reported_in_a_line(machine, indexes):
    """And pip is used if uv fails."""
    machine.add_command("uv", "exit 2")
    url = (indexes / "nowhere").as_uri()
    output = machine.install(TORCH_INDEX=url)
    assert machine.installed["torch"] == PINS["torch"] and "nvidia_stand_in" in machine.installed
    (line,) = (line for line in output.splitlines() if "CUDA" in line)
    assert line == (f"No CPU builds of PyTorch at {url}: taking the default ones, with 5 GB of CUDA "
                    "(TORCH_INDEX=URL names another index)")  # fmt: skip


def test_an_interrupted_installation_is_repaired(machine, indexes):
    """A package that was only partly unpacked looks installed."""
    assert "ERROR" in machine.install(check=False, PIP_INDEX_URL=(indexes / "nowhere").as_uri())
    assert not (machine.folder / ".venv/.installed-requirements.txt").exists()
    (folder,) = (machine.folder / ".venv/lib").glob("python3*/site-packages")
    (folder / "numpy-0.dist-info").mkdir()
    assert "An earlier installation was interrupted: starting again" in machine.install()
    assert machine.installed["numpy"] == PINS["numpy"]
    assert not (machine.folder / ".venv/.installing").exists()


def test_a_driver_does_not_start_after_a_failed_installation(machine, indexes):
    done = machine.run("run_python_driver scripts.compare --modes sync", PIP_INDEX_URL=(indexes / "nowhere").as_uri())
    assert done.returncode == 1 and "ERROR" in done.stderr and "Traceback" not in done.stderr
    assert not (machine.folder / ".venv/.installed-requirements.txt").exists()


def test_an_environment_without_pip_is_made_anew(machine):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", machine.folder / ".venv"], check=True, timeout=60)
    machine.install()
    assert machine.installed["torch"].endswith("+cpu")


def test_uv_is_used_if_there_is_one(machine):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv")
    machine.add_command("uv", f'echo "$@" >> {machine.folder}/calls; exec {uv} "$@"')
    machine.install()
    assert machine.installed["torch"].endswith("+cpu")
    calls = (machine.folder / "calls").read_text().splitlines()
    assert len(calls) == 2 and all(call.startswith("pip install") for call in calls)


def test_an_old_python_is_refused_in_a_line(machine):
    (machine.bin / "python3").unlink()
    machine.add_command("python3", 'if [ "$1" = --version ]; then echo Python 3.8.1; else exit 1; fi')
    assert machine.install(check=False).splitlines()[-1] == ("Python 3.8.1 is too old: install Python 3.10 or newer")


def test_pinned_versions_keep_no_supported_python_from_installing():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert lines and all(line.endswith('; python_version >= "3.11"') for line in lines)
