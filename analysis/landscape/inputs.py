"""The flags of both landscape scripts, and the files that they name. Loads no torch, so that --help is quick."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from catalogue import DEFAULT_SEED
from interface.command_line import ArgumentParser, Interval, add_device_flags
from interface.errors import UsageError
from interface.files import make_folder
from training.config import RunConfig
from training.names import base_of, parse_run_name

BATCH_SIZE = 250  # images; their feature maps fit into the cache of a core
MARGIN = 0.2


@dataclass(frozen=True)
class SurveySettings:
    """The settings of a survey; test_samples: None means all of them; plane_seed: of a random plane."""

    grid_size: int
    batch_size: int
    margin: float
    test_samples: int | None
    data_dir: Path
    plane: str = "pca"
    plane_seed: int = DEFAULT_SEED
    device: str = "cpu"
    tf32: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "SurveySettings":
        """The settings from parsed arguments."""
        given = vars(arguments)
        return cls(**{field.name: given[field.name] for field in fields(cls) if field.name in given})


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
    add_device_flags(add)


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


@dataclass(frozen=True)
class Source:
    """A file of a run, and the settings in its name."""

    path: Path
    config: RunConfig

    @classmethod
    def of(cls, path: Path) -> "Source":
        """The file at `path`. Raises UsageError if there is none, or its name is not that of a run's file."""
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        return cls(path, parse_run_name(base_of(path)))

    @property
    def network(self) -> str:
        """The network and its data set, for messages."""
        return f"{self.config.network_name} on {self.config.dataset}"
