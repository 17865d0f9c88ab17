"""The loss in a plane, and training trajectories relative to it. Numbers only; plots.py draws them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.landscape.numbers import write_numbers
from analysis.landscape.plane import LossGrid, Plane
from analysis.spread import in_digits

FAR = 5  # times the usual distance from the start: such a run leaves the picture


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
    point, or None if it is the end of one of the trajectories; settings: those that all runs have, in words.
    """

    plane: Plane
    grid: LossGrid
    losses: np.ndarray
    trajectories: tuple[Trajectory, ...]
    model: Trajectory | None
    about: dict[str, str]
    settings: str = ""

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
            **{name: getattr(self.plane, name) for name in ("origin", "directions", "explained")},
            losses=self.losses,
            labels=np.array([run.label for run in self.marked]),
            lengths=np.array([len(run.epochs) for run in self.marked]),
            **columns,
        )

    def plane_in_words(self, rows: int) -> str:
        """What spans the plane; rows: the number of saved weights."""
        if self.plane.is_random:
            return f"two random, filter-normalised directions around the end (seed {self.plane.seed})"
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
            *[f"{'runs' if len(self.trajectories) > 1 else 'run'}: {self.settings}"] * bool(self.settings),
            f"plane: {self.plane_in_words(int(rows))}",
            f"grid: {self.about['grid']}; {lowest}; {self.masked} of {self.losses.size} points not finite",
        ]
        if "clipped" in self.about:
            lines.append(
                f"{self.about['clipped']}: moved more than {FAR} times as far as the median of the runs; drawn as far "
                "as the picture goes, and not used for its plane"
            )
        if "running statistics" in self.about:
            lines.append(f"running statistics: {self.about['running statistics']}")
        return "\n".join([*lines, *map(str, self.marked)])
