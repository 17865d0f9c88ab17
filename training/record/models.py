"""Read the models and saved weights of runs. Never executes code from a file."""

import logging
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import FlatModel
from interface.errors import DataError, first_line
from training.record.run_log import RunLog

WRAPPER = "module."  # before the names of layers that DataParallel or DistributedDataParallel saved


def read_model(path: str | Path, model: FlatModel) -> None:
    """Load a checkpoint into `model`. Never executes code from the file.

    Raises a DataError that names the file if it is not a state dict of this network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about file formats; real problems raise an error below
            state = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises many different types for damaged files
        raise DataError(f"{path}: not a model: torch.load failed ({first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: not a model: it contains no state dict")
    if state and all(str(name).startswith(WRAPPER) for name in state):
        logging.warning("%s: its layers have the prefix %s of DataParallel, which is left out", path, WRAPPER)
        state = {str(name).removeprefix(WRAPPER): value for name, value in state.items()}
    network = type(model.network).__name__
    try:
        expected, found = kinds(model.state_dict()), kinds(state)
        if found != expected:
            name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
            raise DataError(
                f"{path}: not a model of {network}: {name} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such entry')}"
            )
        model.load_state_dict(state)
    except RuntimeError as error:  # raised by torch for tensors without plain values
        raise DataError(f"{path}: not a model of {network}: {first_line(error)}") from error


def kinds(state: dict[str, Tensor]) -> dict[str, str]:
    """Dtype and shape of each entry of a state dict."""
    return {str(name): f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.") for name, value in state.items()}


def check_norm(path: str | Path, model: FlatModel, log: RunLog) -> None:
    """Raise DataError if the weight norm of the model is not the last one in the log of a complete run."""
    if log.header is None or log.status != "complete" or len(log.updates) == 0:
        return
    logged, norm = log.updates.weight_norm[-1], torch.linalg.vector_norm(model.parameters).item()
    if math.isfinite(logged) and not math.isclose(norm, logged, rel_tol=1e-4):
        raise DataError(
            f"{path}: not the model of {log.path}: its weights have norm {norm:.6g}, the log reports {logged:.6g}"
        )


def read_weights(path: str | Path, columns: int) -> np.ndarray:
    """The saved weights of a run, float32 (rows, columns). Never executes code from the file.

    Raises a DataError that names the file if it does not contain such an array.
    """
    try:
        weights = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # numpy raises many different types for damaged files
        raise DataError(f"{path}: not saved weights: numpy.load failed ({first_line(error)})") from error
    if not isinstance(weights, np.ndarray) or weights.ndim != 2 or weights.shape[1] != columns:
        shape = getattr(weights, "shape", "unknown")
        raise DataError(f"{path}: not saved weights of this network: shape {shape}, expected (rows, {columns})")
    if weights.dtype != np.float32 or len(weights) == 0:
        raise DataError(f"{path}: not saved weights: {len(weights)} rows of {weights.dtype}, expected float32")
    return weights
