"""The figure of a grid search: heat maps of the mean accuracy over learning rate and batch size."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from analysis.figures import COLUMN, PAGE, new_figure, save, write_title
from catalogue import DATASETS
from cross_validation.grid import SearchGrid, SearchSettings
from cross_validation.results import Result

COLOURS = colormaps["cividis"]  # readable with colour blindness and in greyscale
DIVERGED_COLOUR, BEST_COLOUR = "0.85", "#d62728"
CELL = (0.52, 0.36)  # width and height, inches
MARGINS = 1.62  # to the left and right of the panels, inches


def draw_grid(path: Path, settings: SearchSettings, grid: SearchGrid, ranking: list[Result]) -> list[Path]:
    """Write a PNG and a PDF, one heat map per momentum value (rows) and number of epochs (columns); return the paths.

    ranking: the results of the grid, best first. Cells show mean ± standard deviation of the accuracy in percent;
    the best one is framed, and those that diverged are grey. Raises OSError if the file cannot be written.
    """
    rows, columns = len(grid.momentums), len(grid.epochs)
    needed = MARGINS + columns * (0.15 + CELL[0] * len(grid.batch_sizes))
    width = next((width for width in (COLUMN, PAGE) if needed <= width), needed)
    height = max(2.6, 1.2 + rows * (0.2 + CELL[1] * len(grid.learning_rates)))
    figure = new_figure(height, width)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    scale = colour_scale(ranking)
    for result in ranking:
        configuration = result.configuration
        panel = panels[grid.momentums.index(configuration.momentum), grid.epochs.index(result.epochs)]
        place = grid.batch_sizes.index(configuration.batch_size), grid.learning_rates.index(configuration.learning_rate)
        draw_cell(panel, place, result, scale)
        if result is ranking[0] and result.converged:
            frame(panel, place)
    label(panels, settings, grid)
    about = (
        f"accuracy in percent, mean ± standard deviation over {settings.folds} folds of {settings.samples:,} samples"
    )
    optimizer = "Adam" if settings.optimizer == "ADAM" else settings.optimizer
    headline = f"Grid search: {settings.network} on {DATASETS[settings.dataset].title}, {optimizer}"
    write_title(figure, f"{headline}\n{about}")
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), ax=panels, extend="min", aspect=5 * (height - 1.3), pad=0.02)
    bar.set_label("mean accuracy (%)")
    return save(figure, path)


def colour_scale(ranking: list[Result]) -> Normalize:
    """From the lower quartile to the best, so that bad results do not mask the differences between good ones."""
    accuracies = [result.accuracy.mean for result in ranking if result.converged] or [0.0, 100.0]
    return Normalize(np.quantile(accuracies, 0.25), max(accuracies))


def draw_cell(panel: Axes, place: tuple[int, int], result: Result, scale: Normalize) -> None:
    """Draw one result at (batch size, learning rate), indices counted from the lower left."""
    x, y = place
    mean, deviation = result.accuracy.mean, result.accuracy.deviation
    colour = COLOURS(scale(mean)) if result.converged else DIVERGED_COLOUR
    panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.5))
    dark = result.converged and scale(mean) < 0.5
    about = f"± {deviation:.1f}" if result.converged else "diverged"
    for text, shift, size in ((f"{mean:.1f}", 0.17, 8), (about, -0.22, 6.5)):
        panel.text(x, y + shift, text, size=size, ha="center", va="center", color="white" if dark else "black")


def frame(panel: Axes, place: tuple[int, int]) -> None:
    """Mark the best cell."""
    x, y = place
    edge = {"edgecolor": BEST_COLOUR, "linewidth": 2.5, "zorder": 3, "clip_on": False}
    panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, **edge))


def label(panels: np.ndarray, settings: SearchSettings, grid: SearchGrid) -> None:
    """Set axes, ticks and the titles of rows and columns; panels: Axes (momentum values, epochs)."""
    for panel in panels.flat:
        panel.set(xlim=(-0.5, len(grid.batch_sizes) - 0.5), ylim=(-0.5, len(grid.learning_rates) - 0.5))
        panel.set_xticks(range(len(grid.batch_sizes)), map(str, grid.batch_sizes))
        panel.set_yticks(range(len(grid.learning_rates)), map(str, grid.learning_rates))
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    for panel, epochs in zip(panels[0], grid.epochs, strict=True):
        panel.set_title(f"{epochs} epoch{'s' if epochs > 1 else ''}")
    for panel in panels[-1]:
        panel.set_xlabel("batch size")
    for panel, momentum in zip(panels[:, 0], grid.momentums, strict=True):
        title = f"momentum {momentum}\n" if settings.optimizer == "SGD" else ""
        panel.set_ylabel(f"{title}learning rate")
