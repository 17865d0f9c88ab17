"""Who turns gradients into updates: one file per algorithm, one row each here. Importing them loads no torch."""

from training.algorithms.asgd import Asgd
from training.algorithms.average import Average
from training.algorithms.base import Algorithm

ALGORITHMS: dict[str, type[Algorithm]] = {
    "average": Average,
    "asgd": Asgd,
}
