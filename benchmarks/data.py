"""The data of all benchmarks: Fashion-MNIST, or random images of its shape; as tensors for the peers."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import BATCH_SIZE

if TYPE_CHECKING:
    from torch import Tensor

TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000
MEAN, DEVIATION = 0.2860, 0.3530  # of the pixels of the training set, scaled to [0, 1]


def write_stand_in(folder: Path) -> None:
    """Write random images from a fixed seed in torchvision's layout, as many and of the same shape as Fashion-MNIST."""
    pixels = random.Random(0)
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", TRAIN_IMAGES), ("t10k", TEST_IMAGES)):
        _write_idx(raw / f"{part}-images-idx3-ubyte", (count, 28, 28), pixels.randbytes(count * 28 * 28))
        _write_idx(raw / f"{part}-labels-idx1-ubyte", (count,), bytes(pixels.choices(range(10), k=count)))


def _write_idx(path: Path, shape: tuple[int, ...], values: bytes) -> None:
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    path.write_bytes(header + values)


def tensors(data_dir: str) -> "tuple[Tensor, Tensor]":
    """The training set in memory: standardised images (N, 1, 28, 28), float32, and labels (N,)."""
    import torch

    def read(name: str, header: int) -> "Tensor":
        content = bytearray((Path(data_dir) / "FashionMNIST" / "raw" / f"train-{name}-ubyte").read_bytes())
        return torch.frombuffer(content, dtype=torch.uint8, offset=header)

    images = read("images-idx3", 16).view(-1, 1, 28, 28).float().div_(255).sub_(MEAN).div_(DEVIATION)
    return images, read("labels-idx1", 8).long()


def batches(images: "Tensor", labels: "Tensor") -> "Iterator[tuple[Tensor, Tensor]]":
    """Endless mini-batches, reshuffled each epoch."""
    import torch

    while True:
        for indices in torch.randperm(len(labels)).split(BATCH_SIZE):
            yield images[indices], labels[indices]
