#!/usr/bin/env python3
"""Speed on an NVIDIA GPU against the goals for an H100 or H200: training on the virtual clock, landscapes, k-fold.

Each row is a command of the suite, run as a user would run it. Training: updates per second of real time, from the log.
Landscapes and searches: points per second and trainings per minute of the whole command, its start included.

    python3 benchmarks/gpu.py --data_dir data
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training.record.reader import read_log

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 600  # of one command


@dataclass(frozen=True)
class Row:
    """One goal. dataset: fashion_mnist, or cifar10 for ResNet18; flags: of dist_async.py; goal: updates per second."""

    network: str
    workers: int
    epochs: int
    train_split: float
    goal: float
    flags: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        """The data set of the network."""
        return "cifar10" if self.network == "ResNet18" else "fashion_mnist"


TRAINING = (
    Row("LeNet5", 2, 4, 1.0, 4000),
    Row("LeNet5", 10, 8, 1.0, 8000),
    Row("LeNet5", 100, 16, 1.0, 12000),
    Row("CNN1", 10, 4, 1.0, 2000),
    Row("ResNet18", 10, 1, 0.2, 150),
    Row("ResNet18", 10, 1, 0.2, 150, ("--tf32",)),
)
LANDSCAPES = {"LeNet5": (400, 20), "CNN1": (80, 9), "ResNet18": (2, 2)}  # points/s, points along each axis


def execute(*words: object) -> float:
    """Run a command of the suite; returns its seconds."""
    start = time.monotonic()
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return time.monotonic() - start


def train(row: Row, data_dir: str, device: str, folder: Path) -> tuple[float, bytes]:
    """Updates per second, and the bytes of the model."""
    device_flags = ("--device", device, *(row.flags if device == "cuda" else ()))
    execute(
        "dist_async.py", "--dataset", row.dataset, "--data_dir", data_dir, "--network", row.network, "--world_size",
        row.workers + 1, "--split_dataset", "--clock", "virtual", "--lr", 0.01, "--epochs", row.epochs, "--train_split",
        row.train_split, "--seed", 1, "--saves_per_epoch", 3, "--subfolder", folder, *device_flags,
    )  # fmt: skip
    log = read_log(next(folder.glob("*_log.log")))
    return log.result["updates"] / log.result["real_seconds"], next(folder.glob("*_model.pt")).read_bytes()


def measure_training(data_dir: str, device: str, where: Path) -> dict[str, Path]:
    """Print a row per network and number of workers; returns a folder with a run of each network."""
    folders = {}
    print("| network | workers | flags | updates/s | goal | repeats bit for bit |\n|---|---|---|---|---|---|")
    for row in TRAINING:
        both = [Path(tempfile.mkdtemp(dir=where)) for _ in range(2)]
        (_, first), (rate, second) = (train(row, data_dir, device, folder) for folder in both)
        same = "yes" if first == second else "no"
        flags = " ".join(row.flags)
        print(f"| {row.network} | {row.workers} | {flags} | {rate:,.0f} | {row.goal:,} | {same} |", flush=True)
        folders[row.network] = both[0]
    return folders


def measure_landscapes(folders: dict[str, Path], data_dir: str, device: str) -> None:
    """Print the points per second of a landscape of 10,000 test images, its start-up included."""
    print("\n| network | landscape, points/s | goal |\n|---|---|---|")
    for network, (goal, size) in LANDSCAPES.items():
        (model,), (weights,) = (list(folders[network].glob(f"*{ending}")) for ending in ("_model.pt", "_weights.npy"))
        seconds = execute("loss_landscape.py", model, weights, "--grid_size", size, "--data_dir", data_dir,
                          "--device", device, "--batch_size", 1000, "--subfolder", folders[network])  # fmt: skip
        print(f"| {network} | {size * size / seconds:.1f} | {goal} |", flush=True)


def measure_search(data_dir: str, device: str, jobs: tuple[int, ...]) -> None:
    """Print the trainings per minute of a grid search, with several that share the GPU; goal: 20 × two CPU cores."""
    print("\n| device | --jobs | trainings/min |\n|---|---|---|")
    for where, count in ((device, number) for number in jobs):
        with tempfile.TemporaryDirectory() as folder:
            seconds = execute(
                "kfold.py", "--dataset", "fashion_mnist", "--data_dir", data_dir, "--epochs", 1, "--batch_sizes", 32,
                "--learning_rates", 0.001, 0.01, "--device", where, "--jobs", count, "--subfolder", folder,
            )  # fmt: skip
        print(f"| {where} | {count} | {60 * 2 * 5 / seconds:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data", help="folder of the data sets, in torchvision's layout")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"), help="cpu: the same rows on the CPU")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 4], help="of the grid search")
    arguments = parser.parse_args()
    import torch

    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(json.dumps({"device": name, "torch": torch.__version__}), end="\n\n")
    with tempfile.TemporaryDirectory() as where:
        folders = measure_training(arguments.data_dir, arguments.device, Path(where))
        measure_landscapes(folders, arguments.data_dir, arguments.device)
    measure_search(arguments.data_dir, arguments.device, tuple(arguments.jobs))


if __name__ == "__main__":
    main()
