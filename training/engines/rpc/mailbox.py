"""How tensors get from one process to another: on the wire with their message, or through shared memory."""

import mmap
from dataclasses import replace

import torch
from torch import Tensor

from training.protocol import Push, Snapshot

NOTHING = torch.zeros(0)


class OnTheWire:
    """Between machines: messages carry their tensors."""

    def post_push(self, push: Push) -> Push:
        """What the worker sends."""
        return push

    def open_push(self, push: Push) -> Push:
        """What the server makes of it."""
        return push

    def post_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """What the server answers."""
        return snapshot

    def open_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """What the worker makes of it."""
        return snapshot


class Mailbox(OnTheWire):
    """Between the server and one worker that it forks: messages travel without tensors, which lie in shared memory.

    Whoever sent waits for the answer, so each half has one writer and one reader at a time. The memory is
    anonymous: it needs no file, has no limit of its own (as Docker's /dev/shm has), and ends with its processes.
    """

    def __init__(self, parameters: Tensor, buffers: Tensor, keeps_gradients: bool) -> None:
        """keeps_gradients: whether the server holds on to a gradient after it has answered the worker."""
        sizes = [len(parameters), len(buffers)] * 2
        memory = mmap.mmap(-1, max(1, sum(sizes)) * parameters.element_size())
        everything = torch.frombuffer(memory, dtype=parameters.dtype, count=sum(sizes))
        self._keeps_gradients = keeps_gradients
        self._gradient, self._own_buffers, self._parameters, self._buffers = everything.split(sizes)

    def post_push(self, push: Push) -> Push:
        self._gradient.copy_(push.gradient)
        self._own_buffers.copy_(push.buffers)
        return replace(push, gradient=NOTHING, buffers=NOTHING)

    def open_push(self, push: Push) -> Push:
        # Once it is answered, the worker writes its next gradient in the same place.
        gradient = self._gradient.clone() if self._keeps_gradients else self._gradient
        return replace(push, gradient=gradient, buffers=self._own_buffers.clone())

    def post_snapshot(self, snapshot: Snapshot) -> Snapshot:
        self._parameters.copy_(snapshot.parameters)
        self._buffers.copy_(snapshot.buffers)
        return replace(snapshot, parameters=NOTHING, buffers=NOTHING)

    def open_snapshot(self, snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, parameters=self._parameters, buffers=self._buffers)
