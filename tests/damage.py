"""Ways to damage a file, and what must hold whenever a damaged file is read."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interface.errors import DataError

Damage = Callable[[Path, Path], None]  # writes a damaged file to the first path, given the good one at the second

# ----------------------------------------------------------------------------------------------------
# Damage that can befall any file
# ----------------------------------------------------------------------------------------------------


class Trap:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("sprung",)


def cut(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def empty(path: Path, good: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path, good: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def zeros(path: Path, good: Path) -> None:
    """What a crash of the machine may leave."""
    path.write_bytes(bytes(good.stat().st_size))


def prose(path: Path, good: Path) -> None:
    path.write_text("Dear diary,\ntoday I trained a network.\n")


def picture(path: Path, good: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def pickled_trap(path: Path, good: Path) -> None:
    path.write_bytes(pickle.dumps(Trap()))


def zipped_trap(path: Path, good: Path) -> None:
    torch.save({"conv1.weight": Trap()}, path)


def array_of_traps(path: Path, good: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)


def directory(path: Path, good: Path) -> None:
    path.mkdir()


def missing(path: Path, good: Path) -> None:
    pass


DAMAGES = (cut, empty, garbage, zeros, prose, picture, pickled_trap, zipped_trap, array_of_traps, directory, missing)


def name_of(damage: Damage) -> str:
    """The id of a test case."""
    return damage.__name__


# ----------------------------------------------------------------------------------------------------
# Damage to texts
# ----------------------------------------------------------------------------------------------------


def edited(pattern: str, replacement: str) -> Damage:
    """A text in which the first match of `pattern` is replaced."""

    def damage(path: Path, good: Path) -> None:
        first = re.search(pattern, good.read_text(), flags=re.MULTILINE)
        path.write_text(first.string[: first.start()] + first.expand(replacement) + first.string[first.end() :])

    return damage


def replaced(old: bytes, new: bytes) -> Damage:
    """A file in which the first occurrence of some bytes is replaced."""
    return lambda path, good: path.write_bytes(good.read_bytes().replace(old, new, 1))


def with_carriage_returns(path: Path, good: Path) -> None:
    """As an editor of Windows leaves it."""
    path.write_text(good.read_text(), newline="\r\n")


def first_difference(path: Path, good: Path) -> int:
    """The number of the first line in which two texts differ."""
    pairs = zip(path.read_bytes().split(b"\n"), good.read_bytes().split(b"\n"), strict=False)
    return next(number for number, (line, before) in enumerate(pairs, start=1) if line != before)


# ----------------------------------------------------------------------------------------------------
# Damaging a file, and reading it
# ----------------------------------------------------------------------------------------------------


def link_or_copy(source: str, target: str) -> None:
    """A copy of a file: a link, to be replaced as a whole, but for tables, which scripts append to."""
    (shutil.copy if source.endswith((".csv", ".jsonl")) else os.link)(source, target)


def spoil(path: Path, damage: Damage) -> Path:
    """Damage a file of a copy; returns its path. Fails unless the damage makes a difference."""
    good = path.with_name("good")
    path.rename(good)
    damage(path, good)
    assert not path.is_file() or path.read_bytes() != good.read_bytes()
    good.unlink()
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder and those below."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Errors = type[Exception] | tuple[type[Exception], ...]


def assert_refused(read: Callable[[], object], *named: object, error: Errors = DataError) -> None:
    """Reading fails with an error that names everything in `named`.

    It leaves the files in the working directory alone, and executes nothing that they contain.
    """
    before = contents(Path.cwd())
    with pytest.raises(error) as refused:
        read()
    for name in named:
        assert str(name) in str(refused.value)
    assert contents(Path.cwd()) == before
    assert not Path("sprung").exists()
