"""The survey of a landscape: which points to evaluate, and their evaluation on all cores.

Any function of a parameter vector can be surveyed; network_loss.py provides that of a network on test images.
"""

import logging
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from analysis.landscape.inputs import SurveySettings
from analysis.landscape.landscape import FAR, Landscape, Trajectory
from analysis.landscape.numbers import fingerprint, read_numbers, write_numbers
from analysis.landscape.plane import Line, LossGrid, Plane
from interface.errors import DataError

Loss = Callable[[Line], np.ndarray]  # n points → their losses (n,)
SAVE_INTERVAL = 1.0  # seconds
LONGEST_LINE = 32  # points that are evaluated at once, and lost if the process is killed


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

    def measure(self, evaluation: Evaluation, unfinished: Path) -> Landscape:
        """Evaluate all points; resumes from what an interrupted survey left in the file `unfinished`."""
        progress = Progress.resume(unfinished, self.about, len(self))
        evaluate_points(self, evaluation, progress)
        return self.landscape(*np.split(progress.losses, [len(self) - 2 * len(self.rows), len(self.coordinates)]))

    def read(self, path: Path) -> Landscape:
        """What `Landscape.save` wrote, with the labels of this survey; DataError if it belongs to another one."""
        grid, rows = np.empty((len(self.grid.y), len(self.grid.x))), np.empty(len(self.rows))
        return self.landscape(*read_numbers(path, self.about, losses=grid, plane_losses=rows, row_losses=rows))

    def landscape(self, losses: np.ndarray, plane_losses: np.ndarray, row_losses: np.ndarray) -> Landscape:
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
