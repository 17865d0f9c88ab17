"""From a script's flags and the files of runs to a survey of their landscape."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from analysis.landscape.network_loss import evaluation_of
from analysis.landscape.survey import Evaluation, SavedRun, Survey, SurveySettings
from common import FlatModel, build_model, load_dataset
from interface.command_line import ArgumentParser, Interval
from interface.errors import DataError, UsageError
from interface.files import make_folder
from training.record.checkpoints import read_model, read_weights
from training.record.reader import read_log

MIN_ROWS = 3  # three points define a plane
MAX_NORM = float(1 / np.finfo(np.float32).eps)  # next to a larger row, the others differ only by rounding
BATCH_SIZE = 250  # images; their feature maps fit into the cache of a core
MARGIN = 0.2


@dataclass(frozen=True)
class Files:
    """The files of a landscape: all names start with `stem`."""

    stem: Path

    @classmethod
    def within(cls, folder: Path, name: str) -> "Files":
        """The files of one landscape in a folder, which is created if missing."""
        return cls(make_folder(folder) / name)

    @property
    def numbers(self) -> Path:
        """Everything that was measured."""
        return self.stem.with_name(f"{self.stem.name}_numbers.npz")

    @property
    def unfinished(self) -> Path:
        """What an interrupted survey leaves for the next one to resume from."""
        return self.stem.with_name(f"{self.stem.name}_unfinished.npz")


def add_flags(parser: ArgumentParser, grid_size: int) -> None:
    """Add the arguments that both landscape scripts share; `grid_size` is the default."""
    size, number, fraction = Interval(int, "[2,inf)"), Interval(int, "[1,inf)"), Interval(float, "(0,100]")
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="trained model, {base}_model.pt, of the run or of one of the runs")
    add("--grid_size", metavar="N", type=size, default=grid_size, help=f"N x N points (default {grid_size}); [2,inf)")
    add("--batch_size", metavar="N", type=number, default=BATCH_SIZE,
        help=f"images evaluated at once (default {BATCH_SIZE}); [1,inf)")  # fmt: skip
    add("--margin", metavar="F", type=fraction, default=MARGIN,
        help="padding of the grid on each side of the trajectories, as a fraction of their larger extent "
        f"(default {MARGIN}); (0,100]")  # fmt: skip
    add("--test_samples", metavar="N", type=number,
        help="use N random test images (fixed seed) instead of all; [1,inf)")  # fmt: skip
    add("--data_dir", metavar="DIR", type=Path, default="data",
        help="folder of the data sets; missing ones are downloaded to it (default data)")  # fmt: skip
    add("--subfolder", metavar="DIR", type=Path, default=".", help="output folder (default .)")
    add("--shared_plotly", action="store_true",
        help="let all pages of a folder share one plotly.min.js; by default each page is self-contained")  # fmt: skip


class RunName(Protocol):
    """The settings in a run's name that matter here."""

    dataset: str
    network_name: str
    epochs: int
    saves_per_epoch: int | None


@dataclass(frozen=True)
class Source:
    """A file of a run, and the settings in its name."""

    path: Path
    config: RunName

    @property
    def network(self) -> str:
        """The network and its data set, for messages."""
        return f"{self.config.network_name} on {self.config.dataset}"


def prepare(
    model: Source, weights: Sequence[Source], labels: Sequence[str], settings: SurveySettings
) -> tuple[Survey, Evaluation] | None:
    """Read a model, the saved weights of runs and their data set; return the survey and how to evaluate it.

    None, with a warning, if no run can be drawn because all diverged.
    Raises UsageError if a file is missing or belongs to another network or data set, DataError if one cannot be used.
    """
    for source in (model, *weights):
        if not source.path.is_file():
            raise UsageError(f"{source.path}: no such file")
    for source in weights:
        if source.network != model.network:
            raise UsageError(
                f"{source.path} is from {source.network}, but {model.path} is from {model.network}: "
                f"all files must come from the same network and data set"
            )
    network = build_model(model.config.dataset, model.config.network_name)
    read_model(model.path, network)
    read = (read_run(source, label, network) for source, label in zip(weights, labels, strict=True))
    runs = [run for run in read if run is not None]
    if not runs:
        logging.warning("nothing to draw: no run has the three usable rows that a plane requires")
        return None
    evaluation = evaluation_of(
        load_dataset(model.config.dataset, settings.data_dir), model.config.network_name, settings
    )
    try:
        return Survey.around(runs, model_apart(model, network, runs), settings, evaluation.about), evaluation
    except DataError as error:
        raise DataError(f"{', '.join(str(source.path) for source in weights)}: {error}") from error


def read_run(source: Source, label: str, network: FlatModel) -> SavedRun | None:
    """The parameters that a run saved, without its buffers; None if fewer than three rows can be drawn.

    Rows too large to draw are left out, with a warning.
    Raises DataError if the file cannot be used.
    """
    state = network.network.state_dict()
    names = dict(network.network.named_parameters())
    rows = read_weights(source.path, len(network.state_vector()))
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{source.path}: {len(rows)} saved rows, but a plane requires {MIN_ROWS}; train with --saves_per_epoch"
        )
    is_parameter = np.concatenate([np.full(value.numel(), name in names) for name, value in state.items()])
    parameters = rows[:, is_parameter]
    if not np.isfinite(parameters[0]).all():
        raise DataError(f"{source.path}: the first row is not finite, although every run starts from finite weights")
    usable = can_be_drawn(parameters)
    if not usable.all():
        kept = "they are" if usable.sum() >= MIN_ROWS else "the run is"
        logging.warning("%s: %d of %d saved rows have no norm below %.2g (no convergence); %s left out",
                        source.path, (~usable).sum(), len(rows), MAX_NORM, kept)  # fmt: skip
    if usable.sum() < MIN_ROWS:
        return None
    return SavedRun(label, parameters[usable], saved_epochs(source, rows)[usable])


def can_be_drawn(parameters: np.ndarray) -> np.ndarray:
    """(n,): whether each row of parameters (n, P) is small enough to share a plane with ordinary ones."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt([row @ row for row in parameters]) < MAX_NORM


def saved_epochs(source: Source, rows: np.ndarray) -> np.ndarray:
    """The epoch (n,) of each saved row (n, ·).

    Saves are evenly spaced, except in the published study: there, the weight norms in the log, if it is in the same
    folder, identify the update after which each row was saved.
    """
    even = np.arange(len(rows)) / (source.config.saves_per_epoch or 1)
    path = source.path.with_name(source.path.name.removesuffix("_weights.npy") + "_log.log")
    if not path.exists():
        return even
    try:
        log = read_log(path)
    except DataError as error:
        logging.warning("%s; assuming that the saved rows are evenly spaced over the epochs", error)
        return even
    if log.header is not None or len(log.updates) == 0:
        return even
    norms = np.linalg.norm(rows[1:].astype(float), axis=1)
    with np.errstate(invalid="ignore"):  # runs that diverged
        updates = 1 + np.abs(log.updates.weight_norm - norms[:, None]).argmin(axis=1)
    return np.array([0, *updates]) * log.config.epochs / len(log.updates)


def model_apart(source: Source, network: FlatModel, runs: Sequence[SavedRun]) -> SavedRun | None:
    """The given model as a run of one row; None if it is the last row of one of the runs or cannot be drawn."""
    parameters = network.parameters.numpy().copy()
    if any(np.array_equal(parameters, run.parameters[-1]) for run in runs):
        return None
    if not can_be_drawn(parameters[None]).all():
        logging.warning("%s: the norm of its parameters is not below %.2g; it is not marked", source.path, MAX_NORM)
        return None
    return SavedRun("given model (not the last saved row)", parameters[None], np.array([float(source.config.epochs)]))
