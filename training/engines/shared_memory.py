"""Tensors in anonymous memory that is shared with processes forked later.

It needs no file, has no size limit (unlike Docker's /dev/shm), takes up space only where it was written, and is freed
with its processes.
"""

import mmap
import weakref

import torch
from torch import Tensor

NO_RESERVE = 0x4000  # linux/mman.h MAP_NORESERVE: what is not written need not fit into memory


def shared_memory(length: int) -> mmap.mmap:
    """So many bytes of zeros."""
    return mmap.mmap(-1, max(1, length), mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | NO_RESERVE)


def shared_tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of zeros."""
    elements = torch.Size(shape).numel()
    memory = shared_memory(elements * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype, count=elements).view(shape) if elements else torch.zeros(shape)


class RowReference(weakref.ref):
    """A reference to the copy in a row."""

    __slots__ = ("row",)
    row: int


class SharedRows:
    """Copies of vectors (P,) of one length, each in its own row, which is free again when the copy is collected."""

    def __init__(self, rows: int, length: int) -> None:
        self._length = length
        self._bytes = 4 * length  # float32
        self._memory = shared_memory(rows * self._bytes)
        self._address = torch.frombuffer(self._memory, dtype=torch.uint8, count=1).data_ptr()
        self._rows = rows
        self._free = list(range(rows))
        self._references: dict[int, RowReference] = {}
        # Of copies that were collected. Their callback is no Python code, in which Ctrl-C would be lost.
        self._collected: list[RowReference] = []

    def copy(self, values: Tensor) -> Tensor:
        """A copy of a vector (P,); in memory of only this process if no row is free."""
        if self._collected:
            row = self._collected.pop().row
        elif self._free:
            row = self._free.pop()
        else:
            return values.clone()
        copy = self[row].copy_(values)
        reference = self._references[row] = RowReference(copy, self._collected.append)
        reference.row = row
        return copy

    def row_of(self, copy: Tensor) -> int | None:
        """The row that holds a vector; None if it lies elsewhere."""
        row, rest = divmod(copy.data_ptr() - self._address, self._bytes)
        return row if rest == 0 and 0 <= row < self._rows else None

    def __getitem__(self, row: int) -> Tensor:
        # With a storage of its own, so that a checkpoint stores this row only.
        return torch.frombuffer(self._memory, dtype=torch.float32, count=self._length, offset=row * self._bytes)
