"""Files of arrays, each with a description of what they belong to."""

import hashlib
import json
from pathlib import Path

import numpy as np

from interface.errors import DataError
from interface.files import atomic_write


def write_numbers(path: Path, about: dict[str, str], **numbers: np.ndarray) -> None:
    """Write arrays, and a description of what they belong to."""
    with atomic_write(path) as unfinished:
        np.savez(unfinished, about=np.array(json.dumps(about)), **numbers)


def read_numbers(path: Path, about: dict[str, str], **like: np.ndarray) -> list[np.ndarray]:
    """Read some of the arrays that `write_numbers` wrote; `like` gives their names, shapes and types.

    Raises DataError if the file belongs to anything but `about`, or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = json.loads(str(file["about"]))
            differences = [
                f"{key} {found.get(key)}, not {about.get(key)}"
                for key in (about | found)
                if found.get(key) != about.get(key)
            ]
            numbers = [] if differences else [file[name] for name in like]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # numpy, zipfile, zlib and json each raise their own
        raise DataError(f"{path}: not a file of landscape numbers, or incomplete") from error
    if differences:
        raise DataError(f"{path}: belongs to another landscape: {'; '.join(differences)}")
    for values, (name, expected) in zip(numbers, like.items(), strict=True):
        if (values.shape, values.dtype) != (expected.shape, expected.dtype):
            raise DataError(
                f"{path}: not a file of landscape numbers: {name} is {values.dtype} {values.shape}, "
                f"not {expected.dtype} {expected.shape}"
            )
    return numbers


def fingerprint(*arrays: np.ndarray) -> str:
    """A short digest of shapes, types and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
