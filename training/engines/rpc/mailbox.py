"""Transfer of tensors between processes: inside RPC messages, or through shared memory."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from training.engines.shared_memory import shared_tensor
from training.protocol import Push, Snapshot

ELSEWHERE: Any = None  # in place of a tensor in shared memory; an empty one would cost the server 10 µs


class OnTheWire:
    """Between machines: messages contain their tensors."""

    def post_push(self, push: Push) -> Push:
        """Convert a push to the message that the worker sends."""
        return push

    def open_push(self, push: Push) -> Push:
        """Convert a received message back to a push, on the server."""
        return push

    def post_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Convert a snapshot to the message that the server sends."""
        return snapshot

    def open_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Convert a received message back to a snapshot, on the worker."""
        return snapshot


class Mailbox(OnTheWire):
    """Between the server and one forked worker: tensors are passed in shared memory, not in the messages.

    A worker waits for the answer to each push, so each half has one writer and one reader at a time.
    """

    def __init__(self, parameters: Tensor, buffers: Tensor, keeps_gradients: bool) -> None:
        """keeps_gradients: whether the server still needs a gradient after it has answered the worker."""
        sizes = [len(parameters), len(buffers)] * 2
        self._keeps_gradients = keeps_gradients
        self._gradient, self._own_buffers, self._parameters, self._buffers = shared_tensor(sum(sizes)).split(sizes)

    def post_push(self, push: Push) -> Push:
        self._gradient.copy_(push.gradient)
        self._own_buffers.copy_(push.buffers)
        return replace(push, gradient=ELSEWHERE, buffers=ELSEWHERE)

    def open_push(self, push: Push) -> Push:
        # After the answer, the worker overwrites this memory with its next gradient.
        gradient = self._gradient.clone() if self._keeps_gradients else self._gradient
        return replace(push, gradient=gradient, buffers=self._own_buffers.clone())

    def post_snapshot(self, snapshot: Snapshot) -> Snapshot:
        self._parameters.copy_(snapshot.parameters)
        self._buffers.copy_(snapshot.buffers)
        return replace(snapshot, parameters=ELSEWHERE, buffers=ELSEWHERE)

    def open_snapshot(self, snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, parameters=self._parameters, buffers=self._buffers)
