"""Algorithms that turn gradients into updates: one file and one row per algorithm. Does not import torch."""

from training.algorithms.asgd import Asgd
from training.algorithms.average import Average
from training.algorithms.base import Algorithm

ALGORITHMS: dict[str, type[Algorithm]] = {
    "average": Average,
    "asgd": Asgd,
}
