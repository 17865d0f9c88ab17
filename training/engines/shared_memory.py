"""Tensors in anonymous memory that is shared with processes forked later.

It needs no file, has no size limit (unlike Docker's /dev/shm), takes up space only where it was written, and is freed
with its processes.
"""

import mmap
import weakref

import torch
from torch import Tensor

NO_RESERVE = 0x4000  # linux/mman.h MAP_NORESERVE: what is not written need not fit into memory


def shared_tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of zeros."""
    elements = torch.Size(shape).numel()
    memory = mmap.mmap(-1, max(1, elements) * dtype.itemsize, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | NO_RESERVE)
    return torch.frombuffer(memory, dtype=dtype, count=elements).view(shape) if elements else torch.zeros(shape)


class SharedRows:
    """Copies of vectors (P,) of one length, each in its own row, which is free again when the copy is collected."""

    def __init__(self, rows: int, length: int) -> None:
        self._memory = shared_tensor(rows, length)
        self._free = list(range(rows))

    def copy(self, values: Tensor) -> Tensor:
        """A copy of a vector (P,); in memory of this process alone if no row is free."""
        if not self._free:
            return values.clone()
        row = self._free.pop()
        copy = self._memory[row].copy_(values)
        weakref.finalize(copy, self._free.append, row)
        return copy

    def row_of(self, copy: Tensor) -> int | None:
        """The row that holds a vector; None if it lies elsewhere."""
        row, rest = divmod(copy.data_ptr() - self._memory.data_ptr(), max(1, self._memory.stride(0)) * copy.itemsize)
        return row if rest == 0 and 0 <= row < len(self._memory) else None

    def __getitem__(self, row: int) -> Tensor:
        return self._memory[row]
