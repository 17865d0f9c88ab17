"""Atomic writes, folders created on demand, and errors that name the file."""

import errno
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interface.errors import UsageError


def make_folder(path: Path, flag: str = "--subfolder") -> Path:
    """Create the folder given by a flag, if it does not exist yet.

    Raises UsageError if a file is in its place, OSError if it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{flag} {path} is not valid: a file is in its place") from error
    return path


def partial_mark() -> str:
    """What the name of a file contains while it is being written.

    A random number: process ids are not unique among the containers and machines that share a folder.
    """
    return f"_partial{secrets.randbelow(10**12)}"


@contextmanager
def with_filename(path: object) -> Iterator[None]:
    """Add the file name to an OSError raised while reading or writing; those of a full disk have none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Remove a partly written file if writing it fails; an OSError then names the file."""
    try:
        with with_filename(path):
            yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which is renamed to `path` once it is complete."""
    unfinished = path.with_name(f"{path.stem}{partial_mark()}{path.suffix}")
    with removed_on_error(unfinished), with_filename(path):
        yield unfinished
        unfinished.replace(path)


def as_argument(path: Path) -> str:
    """A path as a word of a shell's command line; one that begins with - would be taken for a flag."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
