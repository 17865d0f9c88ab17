"""SGD and Adam over one flat parameter vector, using torch's functional implementations.

Constructing torch.optim.SGD or Adam imports torch's compiler, which adds a second to every start. SGD calls the kernel
below torch's function, whose checks take longer than the step itself.
"""

from functools import partial

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class SGD:
    """Stochastic gradient descent, as in torch.optim.SGD: velocity = momentum · velocity + gradient."""

    def __init__(self, parameters: Tensor, momentum: float) -> None:
        self.velocity = torch.zeros_like(parameters) if momentum else None
        self._parameters = [parameters]
        self._velocities = [self.velocity]
        settings = {"weight_decay": 0.0, "momentum": momentum, "dampening": 0.0, "nesterov": False, "maximize": False}
        if hasattr(torch, "_fused_sgd_"):  # not part of torch's public interface
            self._velocities = self._velocities if momentum else []
            self._sgd = partial(torch._fused_sgd_, is_first_step=False, **settings)
        else:
            self._sgd = partial(sgd, fused=True, **settings)

    @property
    def tensors(self) -> list[Tensor]:
        """The state."""
        return [] if self.velocity is None else [self.velocity]

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Update the parameters (P,) in place by one step along `gradient` (P,)."""
        self._sgd(self._parameters, [gradient], self._velocities, lr=learning_rate)


class Adam:
    """Adam (Kingma and Ba 2014, arXiv 1412.6980), as in torch.optim.Adam, with its default betas."""

    def __init__(self, parameters: Tensor) -> None:
        self._parameters = [parameters]
        self._state = [torch.zeros_like(parameters)], [torch.zeros_like(parameters)], [], [parameters.new_zeros(())]
        self._adam = partial(
            adam, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False, fused=True
        )

    @property
    def tensors(self) -> list[Tensor]:
        """The state: first and second moments (P,) and the number of steps."""
        return [tensor for part in self._state for tensor in part]

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Update the parameters (P,) in place by one step along `gradient` (P,)."""
        self._adam(self._parameters, [gradient], *self._state, lr=learning_rate)
