"""The largest eigenvalues of the Hessian of a network's loss: Lanczos iterations over Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from common import DEFAULT_SEED, FlatModel, Samples
from interface.errors import DataError

TOLERANCE = 1e-3  # relative, of an eigenvalue


def largest_eigenvalues(product: Callable[[np.ndarray], np.ndarray], size: int, count: int) -> np.ndarray:
    """The `count` largest eigenvalues (count,), in descending order, of a symmetric matrix (size, size).

    product: (size,) → the matrix times that vector. Lanczos, by scipy's eigsh, from a fixed start.
    Raises DataError if it finds none, as of a matrix that is not finite.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    start = np.random.default_rng(DEFAULT_SEED).standard_normal(size)
    matrix = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        found = eigsh(matrix, k=count, which="LA", v0=start, tol=TOLERANCE, return_eigenvectors=False)
    except ArpackError as error:
        raise DataError(f"eigenvalues of the Hessian were not found ({error})") from error
    return np.sort(found)[::-1]


class HessianProduct:
    """The Hessian of the mean loss of a network over `samples`, at the model's parameters, times a vector.

    The network is in evaluation mode: no dropout, and BatchNorm with the running statistics of the model. Parameters
    that are not trained count as constants.
    """

    def __init__(
        self, model: FlatModel, samples: Samples, batch_size: int, progress: Callable[[], object] = lambda: None
    ) -> None:
        """progress: called after each product."""
        self.model = model
        self.samples = samples
        self.batch_size = batch_size
        self.progress = progress
        self.parameters = list(model.network.parameters())

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """vector (P,) → (P,), in double precision."""
        self.model.network.eval()
        device = self.model.parameters.device
        flat = torch.from_numpy(np.asarray(vector, dtype=np.float32).ravel()).to(device)
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        trained = {place: one for place, one in enumerate(self.parameters) if one.requires_grad}
        directions = [parts[place].view_as(parameter) for place, parameter in trained.items()]
        total = torch.zeros(len(flat), dtype=torch.float64, device=device)
        for start in range(0, len(self.samples), self.batch_size):
            images, labels = self.samples.batch(slice(start, start + self.batch_size))
            loss = F.nll_loss(self.model.network(images), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(trained.values()), create_graph=True)
            slope = sum((gradient * one).sum() for gradient, one in zip(gradients, directions, strict=True))
            curvature = dict(zip(trained, torch.autograd.grad(slope, list(trained.values())), strict=True))
            rows = (curvature.get(place, torch.zeros_like(part)) for place, part in enumerate(parts))
            total += torch.cat([row.flatten() for row in rows]).double()
        self.progress()
        return (total / len(self.samples)).cpu().numpy()
