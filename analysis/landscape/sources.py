"""From the files of runs to a survey of their landscape."""

import logging
from collections.abc import Sequence

import numpy as np

from analysis.landscape.inputs import Source, SurveySettings
from analysis.landscape.network_loss import evaluation_of
from analysis.landscape.survey import Evaluation, SavedRun, Survey
from common import FlatModel, build_model, load_dataset
from interface.errors import DataError, UsageError
from training.names import ARTIFACTS
from training.record.models import read_model, read_weights
from training.record.reader import read_log

MIN_ROWS = 3  # three points define a plane
MAX_NORM = float(1 / np.finfo(np.float32).eps)  # next to a larger row, the others differ only by rounding


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
        load_dataset(model.config.dataset, settings.data_dir, model.config.changed_data),
        model.config.network_name,
        settings,
    )
    try:
        shapes = [tuple(parameter.shape) for parameter in network.network.parameters()]
        apart = model_apart(model, network, runs)
        return Survey.around(runs, apart, settings, evaluation.about, shapes), evaluation
    except DataError as error:
        raise DataError(f"{', '.join(str(source.path) for source in weights)}: {error}") from error


def read_run(source: Source, label: str, network: FlatModel) -> SavedRun | None:
    """The parameters that a run saved, without its buffers; None if fewer than three rows can be drawn.

    Rows too large to draw are left out, with a warning.
    Raises DataError if the file cannot be used.
    """
    rows = read_weights(source.path, len(network.state_vector()))
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{source.path}: {len(rows)} saved rows, but a plane requires {MIN_ROWS}: train longer, or with a larger "
            "--saves_per_epoch"
        )
    parameters = rows[:, network.is_parameter()]
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

    Saves are evenly spaced, and at the end of the run, as its log says, if it is in the same folder. In the published
    study they are not: there, the weight norms in the log identify the update after which each row was saved.
    """
    even = np.arange(len(rows)) / (source.config.saves_per_epoch or 1)
    path = source.path.with_name(source.path.name.removesuffix(ARTIFACTS["weights"]) + ARTIFACTS["log"])
    if not path.exists():
        return even
    try:
        log = read_log(path)
    except DataError as error:
        logging.warning("%s; assuming that the saved rows are evenly spaced over the epochs", error)
        return even
    if log.header is not None:
        return even if log.result is None else np.minimum(even, log.epochs_trained)
    if len(log.updates) == 0:
        return even
    norms = np.linalg.norm(rows[1:].astype(float), axis=1)
    with np.errstate(invalid="ignore"):  # runs that diverged
        apart = np.abs(log.updates.weight_norm - norms[:, None])
    updates = 1 + np.where(np.isnan(apart), np.inf, apart).argmin(axis=1)
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
