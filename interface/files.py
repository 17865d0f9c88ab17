"""Files that are written whole or not at all, folders that are made when needed, and errors that name the file."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interface.errors import UsageError


def make_folder(path: Path, flag: str = "--subfolder") -> Path:
    """The folder that a flag names, made if it is not there.

    Raises UsageError where a file is in its place, OSError where it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{flag} {path} is not valid: a file is in its place") from error
    return path


@contextmanager
def with_filename(path: object) -> Iterator[None]:
    """Around reading or writing: an OSError names the file, as those of a full disk do not by themselves."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Around writing a file: an error names it and removes what was written of it."""
    try:
        with with_filename(path):
            yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to, which is renamed to `path` once it is whole."""
    unfinished = path.with_name(f"{path.stem}_partial{os.getpid()}{path.suffix}")
    with removed_on_error(unfinished), with_filename(path):
        yield unfinished
        unfinished.replace(path)
