"""The loss around training trajectories: plane, grid, losses. Numbers only; plots.py draws them.

The plane is spanned by the first two principal components of the saved weights, or by two random directions (Li et al.
2018, arXiv 1712.09913, sections 7 and 4). Any function of a parameter vector can be surveyed; network_loss.py provides
that of a network on test images.
"""

import hashlib
import json
import logging
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from analysis.landscape.inputs import SurveySettings
from analysis.spread import in_digits
from interface.errors import DataError
from interface.files import atomic_write

# ----------------------------------------------------------------------------------------------------
# Plane and grid
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """A plane in parameter space.

    origin (P,): the mean of the saved weights; directions (2, P): orthonormal, the first two principal components;
    explained (2,): the fraction of the saved weights' variance along each.
    Of a random plane: the end of training, two directions of which no angle is known, and NaN.
    """

    origin: np.ndarray
    directions: np.ndarray
    explained: np.ndarray

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
        return cls(end, np.array(directions, dtype=end.dtype), np.full(2, np.nan))

    @property
    def is_random(self) -> bool:
        """Whether its directions are random ones."""
        return bool(np.isnan(self.explained).all())

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


FAR = 5  # times the usual distance
Loss = Callable[[Line], np.ndarray]  # n points → their losses (n,)

# ----------------------------------------------------------------------------------------------------
# The survey: which points to evaluate, and their evaluation on all cores
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedRun:
    """The saved parameters of one run: parameters (n, P), and the epochs (n,) at which the rows were saved."""

    label: str
    parameters: np.ndarray
    epochs: np.ndarray


def split_by_distance(runs: Sequence[SavedRun]) -> tuple[list[np.ndarray], str]:
    """The rows (n, P) of each run that sets the plane and the scale of a picture, and the other runs, in words.

    A run that goes FAR times as far from its start as is usual among the runs, because it diverges, would otherwise
    shrink all others to a point.
    """
    distances = [np.linalg.norm(run.parameters - run.parameters[0], axis=1) for run in runs]
    limit = FAR * np.median([of_run.max() for of_run in distances])
    near = [run.parameters for run, of_run in zip(runs, distances, strict=True) if of_run.max() <= limit]
    beyond = [run.label for run, of_run in zip(runs, distances, strict=True) if of_run.max() > limit]
    return near, ", ".join(beyond)


@dataclass(frozen=True)
class Evaluation:
    """A loss function, with one copy in `losses` per thread that may call it.

    about: what it measures; interrupted: set when a survey is aborted, so that a slow function can return early.
    """

    losses: tuple[Loss, ...]
    about: dict[str, str]
    interrupted: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Survey:
    """The points to evaluate, in this order: the grid, the projections of the saved rows, the rows themselves.

    model: a run of one row that is marked but does not define the plane, or None; about: what identifies this survey.
    """

    plane: Plane
    grid: LossGrid
    runs: tuple[SavedRun, ...]
    model: SavedRun | None
    about: dict[str, str]

    @classmethod
    def around(
        cls,
        runs: Sequence[SavedRun],
        model: SavedRun | None,
        settings: SurveySettings,
        about: dict[str, str],
        shapes: Sequence[Sequence[int]] = (),
    ) -> "Survey":
        """A survey of a grid that covers `runs` and `model`, in the plane of `runs` only.

        shapes: of the parameter tensors, which a random plane needs; its grid also covers [-1, 1] × [-1, 1].
        """
        marked = (*runs, model) if model else runs
        about = about | {
            "grid": f"{settings.grid_size} x {settings.grid_size} points, margin {settings.margin:g}",
            "fingerprint of the weights": fingerprint(*(run.parameters for run in marked)),
        }
        near, far_away = split_by_distance(runs)
        if far_away:
            about["clipped"] = far_away
            about["rows of the plane"] = str(sum(map(len, near)))
        if settings.plane == "random":
            plane = Plane.random(marked[-1].parameters[-1], shapes, settings.plane_seed)
            about["plane"] = f"random, seed {settings.plane_seed}"
        else:
            plane = Plane.through(np.concatenate(near))
        coordinates = plane.project([row for rows in (*near, model.parameters if model else ()) for row in rows])
        if plane.is_random:
            coordinates = np.concatenate([coordinates, [[-1, -1], [1, 1]]])
        return cls(plane, LossGrid.around(coordinates, settings.grid_size, settings.margin), tuple(runs), model, about)

    @property
    def marked(self) -> tuple[SavedRun, ...]:
        """Everything that is drawn: the runs, then the model if there is one."""
        return (*self.runs, self.model) if self.model else self.runs

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """All saved parameters (P,), run by run."""
        return [row for run in self.marked for row in run.parameters]

    @cached_property
    def coordinates(self) -> np.ndarray:
        """(N² + rows, 2): the coordinates of the points in the plane."""
        return np.concatenate([self.grid.coordinates(), self.plane.project(self.rows)])

    def __len__(self) -> int:
        return len(self.coordinates) + len(self.rows)

    def point(self, number: int) -> np.ndarray:
        """The parameters (P,) of one point."""
        in_plane = len(self.coordinates)
        return self.plane.point(self.coordinates[number]) if number < in_plane else self.rows[number - in_plane]

    def parts(self) -> list[np.ndarray]:
        """The indices of all points, split into what is evaluated at once: part of a grid row, or one other point."""
        on_grid = len(self.grid.x) * len(self.grid.y)
        rows = np.arange(on_grid).reshape(len(self.grid.y), len(self.grid.x))
        lines = (np.array_split(row, math.ceil(len(row) / LONGEST_LINE)) for row in rows)
        return [*(line for row in lines for line in row), *np.arange(on_grid, len(self))[:, None]]

    def line(self, part: np.ndarray) -> Line:
        """The line through one of the `parts`: along the first direction for a part of the grid."""
        offsets = self.coordinates[part, 0] - self.coordinates[part[0], 0] if len(part) > 1 else np.zeros(1)
        return Line(self.point(part[0]), self.plane.directions[0], offsets)

    def measure(self, evaluation: Evaluation, unfinished: Path) -> "Landscape":
        """Evaluate all points; resumes from what an interrupted survey left in the file `unfinished`."""
        progress = Progress.resume(unfinished, self.about, len(self))
        evaluate_points(self, evaluation, progress)
        return self.landscape(*np.split(progress.losses, [len(self) - 2 * len(self.rows), len(self.coordinates)]))

    def landscape(self, losses: np.ndarray, plane_losses: np.ndarray, row_losses: np.ndarray) -> "Landscape":
        """The landscape, given the losses on the grid (N²), at the projections (rows,) and at the rows (rows,)."""
        coordinates, distances = self.coordinates[-len(self.rows) :], self.plane.distances(self.rows)
        ends = np.cumsum([len(run.epochs) for run in self.marked])[:-1]
        columns = (np.split(column, ends) for column in (coordinates, distances, row_losses, plane_losses))
        trajectories = [
            Trajectory(run.label, run.epochs, *parts) for run, *parts in zip(self.marked, *columns, strict=True)
        ]
        model = trajectories.pop() if self.model else None
        losses = losses.reshape(len(self.grid.y), len(self.grid.x))
        return Landscape(self.plane, self.grid, losses, tuple(trajectories), model, self.about)


@dataclass
class Progress:
    """What a survey has evaluated so far: losses (M,), and whether each is done (M,)."""

    path: Path
    about: dict[str, str]
    losses: np.ndarray
    done: np.ndarray

    @classmethod
    def resume(cls, path: Path, about: dict[str, str], points: int) -> "Progress":
        """The progress saved in `path` if it belongs to this survey; otherwise none, with a warning."""
        fresh = cls(path, about, losses=np.full(points, np.nan), done=np.zeros(points, dtype=bool))
        if path.exists():
            try:
                return cls(path, about, *read_numbers(path, about, losses=fresh.losses, done=fresh.done))
            except DataError as error:
                logging.warning("%s; starting from scratch", error)
        return fresh

    def save(self) -> None:
        """Write the file."""
        write_numbers(self.path, self.about, losses=self.losses, done=self.done)


SAVE_INTERVAL = 1.0  # seconds
LONGEST_LINE = 32  # points that are evaluated at once, and lost if the process is killed


def evaluate_points(survey: Survey, evaluation: Evaluation, progress: Progress) -> None:
    """Evaluate the parts missing from `progress`, each in a single thread; save about once a second."""
    free: queue.SimpleQueue[Loss] = queue.SimpleQueue()
    for loss in evaluation.losses:
        free.put(loss)

    def evaluate(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        loss = free.get()
        try:
            return part, loss(survey.line(part))
        finally:
            free.put(loss)

    bar = tqdm(
        total=len(progress.done),
        initial=int(progress.done.sum()),
        unit=" points",
        dynamic_ncols=True,
        disable=None,
        file=sys.stderr,
    )
    executor = ThreadPoolExecutor(len(evaluation.losses), initializer=torch.set_num_threads, initargs=(1,))
    saved = -math.inf  # the first part is saved at once, so that a read-only folder is reported early
    try:
        missing = [part for part in survey.parts() if not progress.done[part].all()]
        for future in as_completed([executor.submit(evaluate, part) for part in missing]):
            part, progress.losses[part] = future.result()
            progress.done[part] = True
            bar.update(len(part))
            if time.monotonic() - saved > SAVE_INTERVAL:
                progress.save()
                saved = time.monotonic()
    except BaseException:
        evaluation.interrupted.set()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        bar.close()
        progress.save()


# ----------------------------------------------------------------------------------------------------
# The result and its files
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectory:
    """One run relative to the plane, one entry per saved row.

    epochs (n,); coordinates (n, 2) in the plane; distances (n,) from it; losses (n,) at the saved weights themselves;
    plane_losses (n,) at their projections.
    """

    label: str
    epochs: np.ndarray
    coordinates: np.ndarray
    distances: np.ndarray
    losses: np.ndarray
    plane_losses: np.ndarray

    def __str__(self) -> str:
        end = f"{in_digits(self.losses[-1])} ({in_digits(self.plane_losses[-1])} in the plane)"
        if len(self.losses) == 1:
            return f"{self.label}: loss {end}, {self.distances[-1]:.3g} away from the plane"
        return (
            f"{self.label}: loss {in_digits(self.losses[0])} at the start, {end} at the end; "
            f"{self.distances.mean():.3g} away from the plane on average, {self.distances.max():.3g} at most"
        )


@dataclass(frozen=True)
class Landscape:
    """The loss in a plane, and the trajectories relative to it.

    losses (N, N): [i, j] is the loss at (x[j], y[i]), finite or not; model: the given model as a trajectory of one
    point, or None if it is the end of one of the trajectories.
    """

    plane: Plane
    grid: LossGrid
    losses: np.ndarray
    trajectories: tuple[Trajectory, ...]
    model: Trajectory | None
    about: dict[str, str]

    @property
    def marked(self) -> tuple[Trajectory, ...]:
        """Everything that is drawn: the trajectories, then the model if there is one."""
        return (*self.trajectories, self.model) if self.model else self.trajectories

    @property
    def masked_losses(self) -> np.ndarray:
        """The losses (N, N), with NaN for every value that is not finite."""
        return np.where(np.isfinite(self.losses), self.losses, np.nan)

    @property
    def masked(self) -> int:
        """The number of grid points without a finite loss."""
        return int((~np.isfinite(self.losses)).sum())

    @property
    def finite(self) -> bool:
        """Whether any loss on the grid is finite, so that there is something to draw."""
        return self.masked < self.losses.size

    @property
    def lowest(self) -> tuple[float, float, float]:
        """x, y and loss of the grid point with the lowest loss; only for a landscape that is `finite`."""
        row, column = np.unravel_index(np.nanargmin(self.masked_losses), self.losses.shape)
        return float(self.grid.x[column]), float(self.grid.y[row]), float(self.losses[row, column])

    def save(self, path: Path) -> None:
        """Write all numbers to an .npz file.

        x (N,), y (N,), losses (N, N), origin (P,), directions (2, P), explained (2,); about (JSON: what was measured);
        labels and lengths, one entry per trajectory, the model last; and, concatenated over the trajectories, one
        entry per saved row: epochs, coordinates (·, 2), distances, row_losses, plane_losses.
        """
        columns = {
            f"row_{name}" if name == "losses" else name: np.concatenate([getattr(run, name) for run in self.marked])
            for name in ("epochs", "coordinates", "distances", "losses", "plane_losses")
        }
        write_numbers(
            path,
            self.about,
            **vars(self.grid),
            **vars(self.plane),
            losses=self.losses,
            labels=np.array([run.label for run in self.marked]),
            lengths=np.array([len(run.epochs) for run in self.marked]),
            **columns,
        )

    @classmethod
    def load(cls, path: Path, survey: Survey) -> "Landscape":
        """Read what `save` wrote, with the labels of `survey`; raises DataError if it belongs to another survey."""
        grid, rows = np.empty((len(survey.grid.y), len(survey.grid.x))), np.empty(len(survey.rows))
        return survey.landscape(*read_numbers(path, survey.about, losses=grid, plane_losses=rows, row_losses=rows))

    def plane_in_words(self, rows: int) -> str:
        """What spans the plane; rows: the number of saved weights."""
        if self.plane.is_random:
            seed = self.about["plane"].rpartition(" ")[2]
            return f"two random, filter-normalised directions around the end (seed {seed})"
        first, second = 100 * self.plane.explained
        return f"PC1 {first:.1f} %, PC2 {second:.1f} % of the variance of {rows} saved weights"

    def report(self) -> str:
        """What was measured, in a few lines."""
        lowest = "no loss is finite"
        if self.finite:
            x, y, loss = self.lowest
            lowest = f"lowest loss {in_digits(loss)} at ({x:.3g}, {y:.3g})"
        rows = self.about.get("rows of the plane") or sum(len(run.epochs) for run in self.trajectories)
        lines = [
            f"{self.about['network']} on {self.about['data']}",
            f"plane: {self.plane_in_words(int(rows))}",
            f"grid: {self.about['grid']}; {lowest}; {self.masked} of {self.losses.size} points not finite",
        ]
        if "clipped" in self.about:
            lines.append(
                f"{self.about['clipped']}: more than {FAR} times as far away as is usual; leaves the picture, "
                "and has no part in its plane"
            )
        if "running statistics" in self.about:
            lines.append(f"running statistics: {self.about['running statistics']}")
        return "\n".join([*lines, *map(str, self.marked)])


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
                f"{key} {found.get(key)}, not {value}" for key, value in about.items() if found.get(key) != value
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
