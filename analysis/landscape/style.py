"""What all figures of a landscape share: colours, scales, titles, markers, and where runs crowd."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.landscape.landscape import Landscape, Trajectory

# The Okabe-Ito palette, distinguishable with colour blindness, without its yellow, which is too pale for a line.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Of the loss, low to high: grey, so that only the runs are coloured.
SHADES = ("#F0F4F7", "#CBD4DC", "#9AA8B4", "#647584", "#2F3C48")
INK, PAPER = "#222222", "#FFFFFF"
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}  # Plotly's names: matplotlib's
FILLS = {"diamond": (INK, PAPER), "diamond-open": (PAPER, INK)}  # marker: face and edge colours
MIN_LOSS = 1e-8  # smaller losses are drawn at this value
LEVELS = 24
TOGETHER = 0.02  # of the plane's width: runs that are closer at their start start together
ZOOM = 5  # times, where runs start together


def logarithm(losses: np.ndarray) -> np.ndarray:
    """The decimal logarithm of losses, with NaN for those that are not finite."""
    return np.log10(np.where(np.isfinite(losses), np.maximum(losses, MIN_LOSS), np.nan))


def loss_range(landscape: Landscape) -> tuple[float, float]:
    """The lowest and the highest loss drawn on the grid."""
    logarithms = logarithm(landscape.losses)
    return float(10 ** np.nanmin(logarithms)), float(10 ** np.nanmax(logarithms))


def log_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two positive ones; fewer if two digits are not enough to tell them apart."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(np.arange(10, 100) / 10)):
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks[:: math.ceil(len(ticks) / 8)]
    return ticks or [low]


def axis_titles(landscape: Landscape) -> tuple[str, str]:
    """The labels of the plane's axes."""
    if landscape.plane.is_random:
        return "random direction 1 (norms of the filters)", "random direction 2 (norms of the filters)"
    first, second = 100 * landscape.plane.explained
    return f"PC1 ({first:.1f} % of variance)", f"PC2 ({second:.1f} % of variance)"


def title(landscape: Landscape) -> str:
    """What the figure shows, in one line."""
    return f"Loss of {landscape.about['network']} on {landscape.about['data']}"


def marker_key(landscape: Landscape) -> str:
    """What the markers mean and which points are missing, in one line."""
    masked = f"; {landscape.masked} of {landscape.losses.size} grid points left out (loss not finite)"
    clipped = f"; {landscape.about['clipped']} leaves the picture" if "clipped" in landscape.about else ""
    return f"○ start, ■ end, ◆ lowest grid point{masked if landscape.masked else ''}{clipped}"


@dataclass(frozen=True)
class Style:
    """How one trajectory is drawn. dash: Plotly's name; width: earlier trajectories are wider, the last has 1."""

    run: Trajectory
    colour: str
    dash: str
    width: float


def styles(landscape: Landscape) -> list[Style]:
    """A distinct style for each trajectory; where several coincide, all remain visible."""
    widths = np.linspace(2, 1, len(landscape.trajectories)) if len(landscape.trajectories) > 1 else [1.5]
    return [
        Style(run, COLOURS[number % len(COLOURS)], list(DASHES)[number // len(COLOURS) % len(DASHES)], float(width))
        for number, (run, width) in enumerate(zip(landscape.trajectories, widths, strict=True))
    ]


Box = tuple[np.ndarray, np.ndarray]  # lower left and upper right corner of a part of the plane, both (2,)


def crowded(landscape: Landscape) -> Box | None:
    """The part of the plane to show enlarged: where several runs lie close together. None if there is none.

    That is around the runs that are much smaller than the plane, or else around the start if all start together.
    """
    paths = [run.coordinates for run in landscape.trajectories]
    grid = landscape.grid
    low, high = np.array([grid.x[0], grid.y[0]]), np.array([grid.x[-1], grid.y[-1]])
    width = (high - low).max()
    if len(paths) < 2:
        return None
    small = [path for path in paths if np.ptp(path, axis=0).max() < width / 4]
    starts = np.array([path[0] for path in paths])
    if small:
        rows = np.concatenate(small)
    elif np.ptp(starts, axis=0).max() < TOGETHER * width:
        rows = np.concatenate(paths)
        rows = rows[np.linalg.norm(rows - starts.mean(axis=0), axis=1) < width / ZOOM]
    else:
        return None
    center = (rows.min(axis=0) + rows.max(axis=0)) / 2
    half = max(0.62 * np.ptp(rows, axis=0).max(), 0 if small else width / 2 / ZOOM)
    return (center - half, center + half) if 0 < half < width / 4 else None


def single_points(landscape: Landscape) -> Iterator[tuple[str, str, np.ndarray, float, str]]:
    """Name, symbol, coordinates (2,), loss in the plane and hover text of each marker outside the trajectories."""
    x, y, loss = landscape.lowest
    yield "lowest grid point", "diamond", np.array([x, y]), loss, f"lowest grid point<br>loss {loss:.4g}"
    if (model := landscape.model) is not None:
        text = f"{model.label}<br>loss {model.losses[0]:.4g}<br>loss of its projection {model.plane_losses[0]:.4g}"
        yield model.label, "diamond-open", model.coordinates[0], model.plane_losses[0], text


def plane_size(landscape: Landscape, width: float, height: float) -> tuple[float, float]:
    """The largest size within (width, height) that shows the plane with equal axis scales."""
    x, y = np.ptp(landscape.grid.x), np.ptp(landscape.grid.y)
    scale = min(width / x, height / y)
    return x * scale, y * scale
