"""The settings of a search and the grid that it searches. Loads no torch, so that --help is quick."""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class SearchSettings:
    """What all results of one search share; results with different settings are not comparable.

    optimizer: SGD or ADAM; samples: the number of training samples divided into folds; data: the training set's
    fingerprint.
    """

    dataset: str
    network: str
    optimizer: str
    samples: int
    folds: int
    seed: int
    data: str

    @property
    def name(self) -> str:
        """The stem of a search's file names: unique to the settings, except for the fingerprint of the data."""
        return (
            f"kfold_{self.dataset}_{self.optimizer}_{self.network}"
            f"_samples{self.samples}_folds{self.folds}_seed{self.seed}"
        )


@dataclass(frozen=True, order=True)
class Configuration:
    """One point of the grid, without the epochs. The momentum is SGD's; it stays 0 for Adam."""

    learning_rate: float
    momentum: float
    batch_size: int


@dataclass(frozen=True)
class SearchGrid:
    """The values to try, in ascending order and without duplicates."""

    learning_rates: tuple[float, ...]
    momentums: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    epochs: tuple[int, ...]

    @property
    def configurations(self) -> list[Configuration]:
        """All configurations; small batches, the slowest, come first, which keeps all cores busy until the end."""
        points = itertools.product(self.batch_sizes, self.momentums, self.learning_rates)
        return [Configuration(learning_rate, momentum, size) for size, momentum, learning_rate in points]
