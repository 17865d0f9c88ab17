"""The loss around trajectories of training: plane, grid, losses. Numbers only; landscape_plots draws them.

The plane is that of the two first principal components of the saved weights (Li et al. 2018, arXiv 1712.09913,
section 7). Any function of a parameter vector can be surveyed; NetworkLoss is that of a network on test images.
"""

import argparse
import hashlib
import json
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from common import (
    DEFAULT_SEED,
    DataError,
    Dataset,
    FlatModel,
    Samples,
    build_model,
    load_dataset,
    make_generator,
    network_name,
    take_subset,
)
from interface.command_line import ArgumentParser, Interval
from interface.files import written_whole
from training.record import read_log, read_model, read_weights

Loss = Callable[[np.ndarray], float]  # parameters (P,) → loss

# ----------------------------------------------------------------------------------------------------
# Plane and grid
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """A plane in the space of parameters.

    origin (P,): the mean of the saved weights; directions (2, P): orthonormal, the two first principal components;
    explained (2,): the fraction of the variance of the saved weights along each.
    """

    origin: np.ndarray
    directions: np.ndarray
    explained: np.ndarray

    @classmethod
    def through(cls, points: np.ndarray) -> "Plane":
        """The plane of the two first principal components of points (n, P).

        Raises DataError where they span none: they are all the same, or too large to be squared.
        """
        from sklearn.decomposition import PCA

        with np.errstate(all="ignore"):
            try:
                # Seen from one of the points, so that equal points have no variance, not even by rounding.
                components = PCA(n_components=2, svd_solver="full", copy=False).fit(points - points[0])
                spanned = bool(np.isfinite(components.explained_variance_ratio_).all())
            except ValueError:  # what overflows on the way to the decomposition
                spanned = False
        if not spanned:
            raise DataError("the saved weights span no plane: they are all the same, or too large to be squared")
        return cls(points[0] + components.mean_, components.components_, components.explained_variance_ratio_)

    def project(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """The coordinates (n, 2) of the points of the plane that are nearest to `points`, n times (P,)."""
        return np.array([self.directions @ (point - self.origin) for point in points])

    def distances(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """The distances (n,) of `points`, n times (P,), from the plane."""
        nearest = map(self.point, self.project(points))
        return np.array([np.linalg.norm(point - near) for point, near in zip(points, nearest, strict=True)])

    def point(self, coordinates: np.ndarray) -> np.ndarray:
        """The parameters (P,) at coordinates (2,)."""
        return self.origin + coordinates.astype(self.directions.dtype) @ self.directions


@dataclass(frozen=True)
class Grid:
    """Where the loss is evaluated: x (N,) along PC1, y (N,) along PC2."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def around(cls, coordinates: np.ndarray, size: int, margin: float) -> "Grid":
        """size × size points around coordinates (n, 2), with `margin` of their larger extent on each side."""
        low, high = coordinates.min(axis=0).astype(float), coordinates.max(axis=0).astype(float)
        pad = margin * (high - low).max()
        return cls(*(np.linspace(start - pad, end + pad, size) for start, end in zip(low, high, strict=True)))

    def coordinates(self) -> np.ndarray:
        """(N², 2), row by row: number i·N + j is (x[j], y[i])."""
        return np.stack(np.meshgrid(self.x, self.y), axis=-1).reshape(-1, 2)


# ----------------------------------------------------------------------------------------------------
# The survey: which points to evaluate, and their evaluation on all cores
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The saved parameters of one run: parameters (n, P), and the epoch (n,) of each row."""

    label: str
    parameters: np.ndarray
    epochs: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """How a loss is found: `losses` is one function, once for each thread that may call it.

    about: what it measures; interrupted: set when a survey is left early, for a function that takes long to return.
    """

    losses: tuple[Loss, ...]
    about: dict[str, str]
    interrupted: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Survey:
    """Three kinds of points, in this order: those of the grid, the projections of the saved rows, the rows themselves.

    model: a run of one row, marked but no part of the plane, or None; about: what tells this survey from any other.
    """

    plane: Plane
    grid: Grid
    runs: tuple[Run, ...]
    model: Run | None
    about: dict[str, str]

    @classmethod
    def around(cls, runs: Sequence[Run], model: Run | None, settings: "Settings", about: dict[str, str]) -> "Survey":
        """The survey of a grid around `runs` and `model`, in the plane of `runs` alone."""
        marked = (*runs, model) if model else runs
        plane = Plane.through(np.concatenate([run.parameters for run in runs]))
        coordinates = plane.project([row for run in marked for row in run.parameters])
        about = about | {
            "grid": f"{settings.grid_size} x {settings.grid_size} points, margin {settings.margin:g}",
            "fingerprint of the weights": fingerprint(*(run.parameters for run in marked)),
        }
        return cls(plane, Grid.around(coordinates, settings.grid_size, settings.margin), tuple(runs), model, about)

    @property
    def marked(self) -> tuple[Run, ...]:
        """All that is drawn: the runs, then the model if there is one."""
        return (*self.runs, self.model) if self.model else self.runs

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """All saved parameters (P,), one marked run after the other."""
        return [row for run in self.marked for row in run.parameters]

    @cached_property
    def coordinates(self) -> np.ndarray:
        """(N² + rows, 2): the points in the plane."""
        return np.concatenate([self.grid.coordinates(), self.plane.project(self.rows)])

    def __len__(self) -> int:
        return len(self.coordinates) + len(self.rows)

    def point(self, number: int) -> np.ndarray:
        """The parameters (P,) of one point."""
        in_plane = len(self.coordinates)
        return self.plane.point(self.coordinates[number]) if number < in_plane else self.rows[number - in_plane]

    def measure(self, evaluation: Evaluation, unfinished: Path) -> "Landscape":
        """Evaluate all points; goes on with what an interrupted survey left in the file `unfinished`."""
        progress = Progress.resume(unfinished, self.about, len(self))
        evaluate_points(self.point, evaluation, progress)
        return self.landscape(*np.split(progress.losses, [len(self) - 2 * len(self.rows), len(self.coordinates)]))

    def landscape(self, losses: np.ndarray, plane_losses: np.ndarray, row_losses: np.ndarray) -> "Landscape":
        """The landscape from the losses on the grid (N²), at the projections (rows,) and at the rows (rows,)."""
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
    """What a survey has evaluated so far: losses (M,), done (M,)."""

    path: Path
    about: dict[str, str]
    losses: np.ndarray
    done: np.ndarray

    @classmethod
    def resume(cls, path: Path, about: dict[str, str], points: int) -> "Progress":
        """The progress that `path` keeps, if it is of this very survey; else none, with a warning."""
        if path.exists():
            try:
                return cls(path, about, *read_numbers(path, about, "losses", "done"))
            except DataError as error:
                logging.warning("%s; starting afresh", error)
        return cls(path, about, np.full(points, np.nan), np.zeros(points, dtype=bool))

    def keep(self) -> None:
        """Write what there is."""
        write_numbers(self.path, self.about, losses=self.losses, done=self.done)


KEEP_INTERVAL = 1.0  # seconds


def evaluate_points(point: Callable[[int], np.ndarray], evaluation: Evaluation, progress: Progress) -> None:
    """Evaluate the points that `progress` lacks, each in one thread of one core; keep them about once a second."""
    free: queue.SimpleQueue[Loss] = queue.SimpleQueue()
    for loss in evaluation.losses:
        free.put(loss)

    def evaluate(number: int) -> tuple[int, float]:
        loss = free.get()
        try:
            return number, loss(point(number))
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
    kept = -math.inf  # the first point is kept at once, so that a folder that cannot be written to is no late surprise
    try:
        missing = np.flatnonzero(~progress.done)
        for future in as_completed([executor.submit(evaluate, int(number)) for number in missing]):
            number, progress.losses[number] = future.result()
            progress.done[number] = True
            bar.update()
            if time.monotonic() - kept > KEEP_INTERVAL:
                progress.keep()
                kept = time.monotonic()
    except BaseException:
        evaluation.interrupted.set()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        bar.close()
        progress.keep()


# ----------------------------------------------------------------------------------------------------
# The result, and the files of numbers
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectory:
    """One run as it is seen from the plane, one entry a saved row.

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
        end = f"{self.losses[-1]:.4f} ({self.plane_losses[-1]:.4f} in the plane)"
        if len(self.losses) == 1:
            return f"{self.label}: loss {end}, {self.distances[-1]:.3g} away from the plane"
        return (
            f"{self.label}: loss {self.losses[0]:.4f} at the start, {end} at the end; "
            f"{self.distances.mean():.3g} away from the plane on average, {self.distances.max():.3g} at most"
        )


@dataclass(frozen=True)
class Landscape:
    """The loss in a plane, and the trajectories seen from it.

    losses (N, N): [i, j] is that at (x[j], y[i]), finite or not; model: the given model as a trajectory of one point,
    or None where it is the end of one of the trajectories.
    """

    plane: Plane
    grid: Grid
    losses: np.ndarray
    trajectories: tuple[Trajectory, ...]
    model: Trajectory | None
    about: dict[str, str]

    @property
    def marked(self) -> tuple[Trajectory, ...]:
        """All that is drawn: the trajectories, then the model if there is one."""
        return (*self.trajectories, self.model) if self.model else self.trajectories

    @property
    def masked_losses(self) -> np.ndarray:
        """The losses (N, N) with NaN for all that is not finite."""
        return np.where(np.isfinite(self.losses), self.losses, np.nan)

    @property
    def masked(self) -> int:
        """How many points of the grid have no finite loss."""
        return int((~np.isfinite(self.losses)).sum())

    @property
    def lowest(self) -> tuple[float, float, float]:
        """x, y and loss of the lowest grid point; raises DataError if no loss is finite."""
        if self.masked == self.losses.size:
            raise DataError("no point of the grid has a finite loss: there is nothing to draw")
        row, column = np.unravel_index(np.nanargmin(self.masked_losses), self.losses.shape)
        return float(self.grid.x[column]), float(self.grid.y[row]), float(self.losses[row, column])

    def save(self, path: Path) -> None:
        """Write all numbers to an .npz file.

        x (N,), y (N,), losses (N, N), origin (P,), directions (2, P), explained (2,); about (JSON: what was measured);
        and, one trajectory after the other and the model last, labels and lengths, and one entry a saved row:
        epochs, coordinates (·, 2), distances, row_losses, plane_losses.
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
        """What `save` wrote, with the labels of `survey`; raises DataError if it is not of this very survey."""
        losses = read_numbers(path, survey.about, "losses", "plane_losses", "row_losses")
        try:
            return survey.landscape(*losses)
        except ValueError as error:
            raise DataError(f"{path}: not the numbers of a landscape ({error})") from error

    def report(self) -> str:
        """What was measured, in a few lines."""
        first, second = 100 * self.plane.explained
        x, y, loss = self.lowest
        rows = sum(len(run.epochs) for run in self.trajectories)
        lines = [
            f"{self.about['network']} on {self.about['data']}",
            f"plane: PC1 {first:.1f} %, PC2 {second:.1f} % of the variance of {rows} saved weights",
            f"grid: {self.about['grid']}; lowest loss {loss:.4f} at ({x:.3g}, {y:.3g}); "
            f"{self.masked} of {self.losses.size} points not finite",
        ]
        if "running statistics" in self.about:
            lines.append(f"running statistics: {self.about['running statistics']}")
        return "\n".join([*lines, *map(str, self.marked)])


def write_numbers(path: Path, about: dict[str, str], **numbers: np.ndarray) -> None:
    """Write arrays and what they belong to."""
    with written_whole(path) as unfinished:
        np.savez(unfinished, about=np.array(json.dumps(about)), **numbers)


def read_numbers(path: Path, about: dict[str, str], *names: str) -> list[np.ndarray]:
    """The arrays `names` of what `write_numbers` wrote. Raises DataError if they belong to anything but `about`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = json.loads(str(file["about"]))
            differences = [
                f"{key} {found.get(key)}, not {value}" for key, value in about.items() if found.get(key) != value
            ]
            numbers = [] if differences else [file[name] for name in names]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # numpy, zipfile, zlib and json each have their own
        raise DataError(f"{path}: not the numbers of a landscape, or not whole") from error
    if differences:
        raise DataError(f"{path}: of another landscape: {'; '.join(differences)}")
    return numbers


def fingerprint(*arrays: np.ndarray) -> str:
    """A short digest of shapes, types and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------
# The loss of a network
# ----------------------------------------------------------------------------------------------------

STATISTICS_BATCHES, STATISTICS_BATCH_SIZE = 4, 100  # training images that BatchNorm's statistics are estimated from


class StridedMaxPooling(TorchFunctionMode):
    """Computes max-pooling by 2 as maxima of strided views: the same numbers, several times faster on a CPU."""

    PLAIN: ClassVar = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        options = options or {}
        if function is F.max_pool2d and arguments[1:] == (2,) and options == self.PLAIN:
            images = arguments[0]
            height, width = (size // 2 * 2 for size in images.shape[-2:])
            rows = torch.maximum(images[..., 0:height:2, :width], images[..., 1:height:2, :width])
            return torch.maximum(rows[..., 0::2], rows[..., 1::2])
        return function(*arguments, **options)


@dataclass(frozen=True)
class NetworkLoss:
    """The mean negative log-likelihood of a network on `images`, as a function of its parameters (P,).

    Running statistics of BatchNorm are estimated anew for each point from batches of training images, `statistics`.
    Always evaluated in the same batches and by one thread, so that a loss never depends on what is evaluated beside it.
    """

    model: FlatModel
    images: Samples
    statistics: tuple[Tensor, ...]
    batch_size: int
    interrupted: threading.Event

    def __call__(self, parameters: np.ndarray) -> float:
        self.model.parameters.copy_(torch.from_numpy(parameters))
        total = 0.0
        with torch.inference_mode(), StridedMaxPooling():
            self._estimate_statistics()
            for start in range(0, len(self.images), self.batch_size):
                if self.interrupted.is_set():
                    return np.nan
                images, labels = self.images.batch(slice(start, start + self.batch_size))
                total += F.nll_loss(self.model.network(images), labels, reduction="sum").item()
        return total / len(self.images)

    def _estimate_statistics(self) -> None:
        self.model.network.eval()
        normalisations = batch_norms(self.model)
        for normalisation in normalisations:
            normalisation.train()
            normalisation.momentum = None  # the plain mean over batches
            normalisation.reset_running_stats()
        if normalisations:
            for images in self.statistics:
                self.model.network(images)
        self.model.network.eval()


def batch_norms(model: FlatModel) -> list[nn.BatchNorm2d]:
    """The layers of a network that keep running statistics."""
    return [module for module in model.network.modules() if isinstance(module, nn.BatchNorm2d)]


def evaluation_of(dataset: Dataset, alt_model: bool, settings: "Settings") -> Evaluation:
    """The loss of a data set's network on its test images, or on `test_samples` of them, for every core.

    Raises ValueError, naming the flag, where there are fewer test images than asked for.
    """
    total = len(dataset.test)
    count = settings.test_samples or total
    if count > total:
        raise ValueError(f"--test_samples {count} is not valid: {dataset.name} has {total} test images")
    images = choose(dataset.test, count, "landscape test images")
    statistics = choose(dataset.train, STATISTICS_BATCHES * STATISTICS_BATCH_SIZE, "landscape statistics")
    batches = tuple(statistics.batch(slice(None))[0].split(STATISTICS_BATCH_SIZE))
    interrupted = threading.Event()
    losses = tuple(
        NetworkLoss(build_model(dataset.name, alt_model), images, batches, settings.batch_size, interrupted)
        for _ in range(len(os.sched_getaffinity(0)))
    )
    about = {
        "network": network_name(dataset.name, alt_model),
        "data": f"{f'{count:,} of the' if count < total else 'all'} {total:,} test images of {dataset.name}",
        "fingerprint of the data": images.fingerprint(),
    }
    if batch_norms(losses[0].model):
        about["running statistics"] = (
            f"estimated anew from {len(batches)} batches of training images ({statistics.fingerprint()})"
        )
    return Evaluation(losses, about, interrupted)


def choose(samples: Samples, count: int, purpose: str) -> Samples:
    """`count` samples at random (all where there are fewer), always the same ones for a purpose."""
    generator = make_generator(DEFAULT_SEED, purpose)
    indices = take_subset(len(samples), min(1.0, count / len(samples)), generator)
    return Samples(samples.images[indices], samples.labels[indices])


# ----------------------------------------------------------------------------------------------------
# From files and flags to a survey
# ----------------------------------------------------------------------------------------------------

LEAST_ROWS = 3  # a plane needs three points
BATCH_SIZE = 250  # images; their feature maps stay in the cache of a core
MARGIN = 0.2


@dataclass(frozen=True)
class Settings:
    """What the flags ask for; test_samples None: all of them."""

    grid_size: int
    batch_size: int
    margin: float
    test_samples: int | None
    data_dir: Path

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Settings":
        """The settings among parsed arguments."""
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Files:
    """Where a landscape is written: all names start with `stem`."""

    stem: Path

    @classmethod
    def within(cls, folder: Path, name: str) -> "Files":
        """Files of one landscape in a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / name)

    @property
    def numbers(self) -> Path:
        """All that was measured."""
        return self.stem.with_name(f"{self.stem.name}_numbers.npz")

    @property
    def unfinished(self) -> Path:
        """What an interrupted survey leaves to the next one."""
        return self.stem.with_name(f"{self.stem.name}_unfinished.npz")


def add_flags(parser: ArgumentParser, grid_size: int) -> None:
    """The arguments that both landscape scripts share; `grid_size` is the default."""
    size, number, fraction = Interval(int, "[2,inf)"), Interval(int, "[1,inf)"), Interval(float, "(0,100]")
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="trained model, {base}_model.pt, of the run or of one of the runs")
    add("--grid_size", metavar="N", type=size, default=grid_size, help=f"N x N points (default {grid_size}); [2,inf)")
    add("--batch_size", metavar="N", type=number, default=BATCH_SIZE,
        help=f"images evaluated at once (default {BATCH_SIZE}); [1,inf)")  # fmt: skip
    add("--margin", metavar="F", type=fraction, default=MARGIN,
        help="what the grid covers on each side of the trajectories, as a fraction of their larger extent "
        f"(default {MARGIN}); (0,100]")  # fmt: skip
    add("--test_samples", metavar="N", type=number,
        help="use N test images, drawn at random with a fixed seed, instead of all; [1,inf)")  # fmt: skip
    add("--data_dir", metavar="DIR", type=Path, default="data",
        help="where data sets lie or are downloaded to (default data)")  # fmt: skip
    add("--subfolder", metavar="DIR", type=Path, default=".", help="where all outputs go (default .)")
    add("--shared_plotly", action="store_true",
        help="pages of a folder share one plotly.min.js beside them; without it each works on its own")  # fmt: skip


class RunName(Protocol):
    """What the name of a run tells, as far as it matters here."""

    dataset: str
    alt_model: bool
    epochs: int
    saves_per_epoch: int | None


@dataclass(frozen=True)
class Source:
    """A file of a run, and what its name tells."""

    path: Path
    config: RunName

    @property
    def network(self) -> str:
        """The network and its data set, in words."""
        return f"{network_name(self.config.dataset, self.config.alt_model)} on {self.config.dataset}"


def prepare(
    model: Source, weights: Sequence[Source], labels: Sequence[str], settings: Settings
) -> tuple[Survey, Evaluation]:
    """Read a model, the saved weights of runs and their data set: what to survey, and how.

    Raises ValueError where a file is missing or of another network or data set, DataError where one cannot be used.
    """
    for source in (model, *weights):
        if not source.path.is_file():
            raise ValueError(f"{source.path} is not valid: there is no such file")
    for source in weights:
        if source.network != model.network:
            raise ValueError(
                f"{source.path} is of {source.network}, {model.path} of {model.network}: give runs of one network and "
                f"one data set"
            )
    network = build_model(model.config.dataset, model.config.alt_model)
    read_model(model.path, network)
    read = (read_run(source, label, network) for source, label in zip(weights, labels, strict=True))
    runs = [run for run in read if run is not None]
    if not runs:
        raise DataError("none of the runs has three saved rows that are finite: there is no plane to show")
    evaluation = evaluation_of(load_dataset(model.config.dataset, settings.data_dir), model.config.alt_model, settings)
    return Survey.around(runs, model_apart(model, network, runs), settings, evaluation.about), evaluation


def read_run(source: Source, label: str, network: FlatModel) -> Run | None:
    """The parameters that a run saved, without its buffers; None, with a warning, if it did not converge at all.

    Rows that are not finite are left out, with a warning. Raises DataError if the file cannot be used.
    """
    state = network.network.state_dict()
    names = dict(network.network.named_parameters())
    rows = read_weights(source.path, len(network.state_vector()))
    if len(rows) < LEAST_ROWS:
        raise DataError(
            f"{source.path}: {len(rows)} saved rows; a plane needs {LEAST_ROWS}: train with --saves_per_epoch"
        )
    is_parameter = np.concatenate([np.full(value.numel(), name in names) for name, value in state.items()])
    parameters = rows[:, is_parameter]
    finite = np.isfinite(parameters).all(axis=1)
    if not finite.all():
        kept = "they are" if finite.sum() >= LEAST_ROWS else "the run is"
        logging.warning("%s: %d of %d saved rows are not finite (no convergence); %s left out",
                        source.path, (~finite).sum(), len(rows), kept)  # fmt: skip
    if finite.sum() < LEAST_ROWS:
        return None
    return Run(label, parameters[finite], saved_epochs(source, rows)[finite])


def saved_epochs(source: Source, rows: np.ndarray) -> np.ndarray:
    """The epoch (n,) of each saved row (n, ·).

    Saves are spread evenly. Runs of the published study spread them in another way; the log beside tells which update
    led to the weight norm of a row.
    """
    even = np.arange(len(rows)) / (source.config.saves_per_epoch or 1)
    path = source.path.with_name(source.path.name.removesuffix("_weights.npy") + "_log.log")
    if not path.exists():
        return even
    try:
        log = read_log(path)
    except DataError as error:
        logging.warning("%s; the epochs of the saved rows are taken to be evenly spread", error)
        return even
    if log.header is not None or len(log.updates) == 0:
        return even
    norms = np.linalg.norm(rows[1:].astype(float), axis=1)
    updates = 1 + np.abs(log.updates.weight_norm - norms[:, None]).argmin(axis=1)
    return np.array([0, *updates]) * log.config.epochs / len(log.updates)


def model_apart(source: Source, network: FlatModel, runs: Sequence[Run]) -> Run | None:
    """The given model as a run of one row, or None where it is the last row of one of the runs (or not finite)."""
    parameters = network.parameters.numpy().copy()
    if any(np.array_equal(parameters, run.parameters[-1]) for run in runs):
        return None
    if not np.isfinite(parameters).all():
        logging.warning("%s: its parameters are not finite; it is not marked", source.path)
        return None
    return Run("given model (not the last saved row)", parameters[None], np.array([float(source.config.epochs)]))
