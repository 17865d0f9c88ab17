"""A plane in parameter space, the grid on it at whose points the loss is evaluated, and lines through that space.

The plane is spanned by the first two principal components of the saved weights, or by two random directions (Li et al.
2018, arXiv 1712.09913, sections 7 and 4).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from interface.errors import DataError


@dataclass(frozen=True)
class Plane:
    """A plane in parameter space.

    origin (P,): the mean of the saved weights; directions (2, P): orthonormal, the first two principal components;
    explained (2,): the fraction of the saved weights' variance along each.
    Of a random plane: the end of training, two directions of which no angle is known, and NaN; seed: of these, or None.
    """

    origin: np.ndarray
    directions: np.ndarray
    explained: np.ndarray
    seed: int | None = None

    @classmethod
    def through(cls, points: np.ndarray) -> "Plane":
        """The plane spanned by the first two principal components of points (n, P).

        Raises DataError if the points are all identical and so span no plane.
        """
        from sklearn.decomposition import PCA

        with np.errstate(invalid="ignore"):  # 0 / 0 where there is no variance
            # Relative to one of the points, so that identical points have exactly zero variance.
            components = PCA(n_components=2, svd_solver="full", copy=False).fit(points - points[0])
        if not np.isfinite(components.explained_variance_ratio_).all():
            raise DataError("the saved weights span no plane: they are all identical")
        return cls(points[0] + components.mean_, components.components_, components.explained_variance_ratio_)

    @classmethod
    def random(cls, end: np.ndarray, shapes: Sequence[Sequence[int]], seed: int) -> "Plane":
        """The plane through `end` (P,) of two random, filter-normalised directions (Li et al. 2018, section 4).

        Each filter of a direction has the norm of that filter at the end of training; the directions leave biases, and
        other parameters of one dimension, as they are. shapes: of the parameter tensors, in their order.
        """
        generator = np.random.default_rng(seed)
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        directions = []
        for _ in range(2):
            parts = []
            for shape, weights in zip(shapes, np.split(end, ends), strict=True):
                filters, noise = (values.reshape(shape[0], -1) for values in
                                  (weights, generator.standard_normal(weights.shape)))  # fmt: skip
                norms = [np.linalg.norm(values, axis=1, keepdims=True) for values in (filters, noise)]
                parts.append((noise * (norms[0] / norms[1] if len(shape) > 1 else 0)).ravel())
            directions.append(np.concatenate(parts))
        return cls(end, np.array(directions, dtype=end.dtype), np.full(2, np.nan), seed)

    @property
    def is_random(self) -> bool:
        """Whether its directions are random ones."""
        return self.seed is not None

    def project(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """The coordinates (n, 2) of the orthogonal projections of `points`, n arrays (P,)."""
        products = np.array([self.directions @ (point - self.origin) for point in points])
        return np.linalg.solve(self.directions @ self.directions.T, products.T).T if self.is_random else products

    def distances(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """The distances (n,) of `points`, n arrays (P,), from the plane."""
        nearest = map(self.point, self.project(points))
        return np.array([np.linalg.norm(point - near) for point, near in zip(points, nearest, strict=True)])

    def point(self, coordinates: np.ndarray) -> np.ndarray:
        """The parameters (P,) at coordinates (2,)."""
        return self.origin + coordinates.astype(self.directions.dtype) @ self.directions


@dataclass(frozen=True)
class LossGrid:
    """Where the loss is evaluated: x (N,) along the plane's first direction, y (N,) along its second."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def around(cls, coordinates: np.ndarray, size: int, margin: float) -> "LossGrid":
        """size × size points that cover coordinates (n, 2) and, on each side, `margin` times their larger extent."""
        low, high = coordinates.min(axis=0).astype(float), coordinates.max(axis=0).astype(float)
        pad = margin * (high - low).max()
        return cls(*(np.linspace(start - pad, end + pad, size) for start, end in zip(low, high, strict=True)))

    def coordinates(self) -> np.ndarray:
        """(N², 2), row by row: entry i·N + j is (x[j], y[i])."""
        return np.stack(np.meshgrid(self.x, self.y), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Line:
    """Points on a straight line: origin (P,) + offset · direction (P,) for each of offsets (n,)."""

    origin: np.ndarray
    direction: np.ndarray
    offsets: np.ndarray

    def points(self) -> Iterator[np.ndarray]:
        """The parameters (P,) of each point in turn."""
        return (self.origin + offset * self.direction for offset in self.offsets.astype(self.direction.dtype))
