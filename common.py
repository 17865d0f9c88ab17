"""Data sets, networks and partitioning, shared by every script of the suite.

Nothing here deals with processes, clocks, output files or figures. The tables in catalogue.py list the choices, one
row per entry; this file implements the functions and classes that the rows name.
"""

import functools
import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catalogue import DATASETS, DEFAULT_SEED, NETWORKS, PARTITIONS, DatasetRow, implementation
from interface.errors import DataError

# ----------------------------------------------------------------------------------------------------
# Random generators: one seed per run, one independent stream per purpose
# ----------------------------------------------------------------------------------------------------


def make_generator(seed: int, purpose: str, worker: int = 0, device: str = "cpu") -> torch.Generator:
    """The random generator for one purpose (``"partition"``, ``"shuffle"``, …) and one worker (0: the run itself).

    Streams for different purposes or workers are independent: extra draws from one never shift another. PyTorch's
    generator of the CPU keeps 32 bits of the seed: two of 1,000 workers have the same stream once in 8,000 runs.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{worker}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# ----------------------------------------------------------------------------------------------------
# Data sets: decoded once, standardised, stored as tensors
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Images and their labels.

    images: float32, (N, H, W, C), standardised. The channels-last layout makes convolution and pooling fast on a CPU;
    `batch` returns images in the shape (N, C, H, W) that networks expect.
    labels: int64, (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W), in channels-last memory, and labels (n,) at `indices`."""
        if isinstance(indices, slice):
            return self.images[indices].permute(0, 3, 1, 2), self.labels[indices]
        indices = indices.to(self.images.device)
        return self.images.index_select(0, indices).permute(0, 3, 1, 2), self.labels[indices]

    def to(self, device: str) -> "Samples":
        """The same samples on a device."""
        return Samples(self.images.to(device), self.labels.to(device))

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify the data; hashes only every 16th image, for speed."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images[::16].numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """One standardised data set: training samples, test samples and class names."""

    name: str
    train: Samples
    test: Samples
    classes: tuple[str, ...]

    def to(self, device: str) -> "Dataset":
        """The same data set on a device."""
        return Dataset(self.name, self.train.to(device), self.test.to(device), self.classes)


@dataclass(frozen=True)
class RawImages:
    """The raw pixels of one data set: uint8 images (N, H, W, C), int64 labels (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]


def read_digits(row: DatasetRow, data_dir: Path) -> RawImages:
    """scikit-learn's bundled 8×8 digits, upscaled to 28×28, with a stratified 80/20 split; needs no files.

    Intensities 0…16 are scaled to 0…240; the integer factor 15 keeps them exact until they are interpolated.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    small, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(small).float().reshape(-1, 1, 8, 8) * 15
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    images = images.round_().to(torch.uint8).permute(0, 2, 3, 1)
    labels = torch.from_numpy(labels).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    names = tuple(str(digit) for digit in range(10))
    return RawImages(images[train], labels[train], images[test], labels[test], names)


def read_torchvision(row: DatasetRow, data_dir: Path) -> RawImages:
    """Load one of the data sets of torchvision, which downloads the files that `data_dir` lacks."""
    from torchvision import datasets

    dataset_class = getattr(datasets, row.torchvision)
    parts = []
    for train in (True, False):
        try:
            part = dataset_class(data_dir, train=train)
        except RuntimeError as error:
            if not str(error).startswith("Dataset not found"):  # a file is there and cannot be read
                raise
            part = dataset_class(data_dir, train=train, download=True)
        images = torch.as_tensor(part.data)
        images = images.unsqueeze(-1) if images.dim() == 3 else images
        parts += [images, torch.as_tensor(part.targets).long()]
    return RawImages(*parts, classes=tuple(part.classes))


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def has_idx_files(folder: Path) -> bool:
    """Whether a folder has the four files of MNIST's format, compressed or not."""
    return all(any((folder / f"{name}{ending}").is_file() for ending in ("", ".gz")) for name in IDX_FILES)


def read_fashion_mnist(row: DatasetRow, data_dir: Path) -> RawImages:
    """Fashion-MNIST from `data_dir`, else from Debian's package dataset-fashion-mnist, else downloaded."""
    # A failed download leaves some of the files.
    if has_idx_files(data_dir / "FashionMNIST/raw") or not has_idx_files(DEBIAN_FASHION_MNIST):
        return read_torchvision(row, data_dir)
    from torchvision.datasets import FashionMNIST

    def read_idx(name: str, header: int, *shape: int) -> Tensor:
        with gzip.open(DEBIAN_FASHION_MNIST / f"{name}-ubyte.gz") as file:
            content = np.frombuffer(bytearray(file.read()), np.uint8, offset=header)
        return torch.from_numpy(content.reshape(-1, *shape))

    return RawImages(
        read_idx("train-images-idx3", 16, 28, 28, 1),
        read_idx("train-labels-idx1", 8).long(),
        read_idx("t10k-images-idx3", 16, 28, 28, 1),
        read_idx("t10k-labels-idx1", 8).long(),
        tuple(FashionMNIST.classes),
    )


def is_cut(path: Path) -> bool:
    """Whether a file in the format of MNIST (magic number, sizes, bytes) does not have the size that it states."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        start = file.read(16)
    header = np.frombuffer(start[: len(start) // 4 * 4], ">u4")
    if len(header) < 2 or (header[0] >> 8) != 8 or len(header) <= (dimensions := int(header[0] & 0xFF)):
        return True
    stated = 4 * (1 + dimensions) + math.prod(map(int, header[1 : 1 + dimensions]))
    return path.stat().st_size != stated


PUBLISHED_SIZES = {60_000, 10_000}  # of MNIST's and Fashion-MNIST's parts; other sizes are data sets of the user's own


def check_content(name: str, row: DatasetRow, raw: RawImages, data_dir: str | Path) -> None:
    """Raise a DataError that names the first file of a published data set that does not have its published content."""
    parts = (raw.train_images, raw.train_labels, raw.test_images, raw.test_labels)
    for part, expected, file in zip(parts, row.checksums, IDX_FILES, strict=False):
        found = f"{zlib.crc32(part.to(torch.uint8).contiguous().numpy()):08x}"
        if len(part) in PUBLISHED_SIZES and found != expected:
            path = Path(data_dir) / str(row.torchvision) / "raw" / file
            raise DataError(
                f"data set {name}: {path if path.exists() else file} does not have its published content (CRC-32 "
                f"{found}, expected {expected}): it is damaged or of another data set; remove it to download it again, "
                f"or give --changed_data if it was changed on purpose"
            )


@functools.cache
def load_dataset(name: str, data_dir: str | Path, changed: bool = False) -> Dataset:
    """Read, decode and standardise one of DATASETS. Cached per process; forked processes inherit the cache.

    Images are standardised with a single mean and standard deviation over all pixels of the training set.
    changed: whether the content may differ from the published one.
    Raises DataError if the data can be neither read nor downloaded, or has an unexpected type, shape or label.
    """
    row = DATASETS[name]
    try:
        raw = resolve_name(row.reader)(row, Path(data_dir))
    except Exception as error:  # torchvision, pickle, zlib and urllib each raise their own types
        reason = " ".join(str(error).split()) or type(error).__name__
        if damaged := [str(path) for path in Path(data_dir).glob(f"{row.torchvision}/raw/*-ubyte") if is_cut(path)]:
            raise DataError(
                f"data set {name}: {', '.join(sorted(damaged))} is damaged ({reason[:200]}): remove it to download it "
                f"again, or pass another folder with --data_dir"
            ) from error
        raise DataError(
            f"data set {name}: could not be read in {data_dir} or downloaded ({reason[:200]}); "
            f"put it there in torchvision's layout, pass its folder with --data_dir, "
            f"or use --dataset digits, which needs no files"
        ) from error
    for part, images, labels in (
        ("training", raw.train_images, raw.train_labels),
        ("test", raw.test_images, raw.test_labels),
    ):
        if images.dtype != torch.uint8 or images.shape[1:] != row.image_shape or len(images) != len(labels):
            raise DataError(
                f"data set {name}: the {part} images in {data_dir} have shape {tuple(images.shape)} for "
                f"{len(labels)} labels; expected 8-bit images of shape {row.image_shape}, one per label"
            )
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= row.labels:
            raise DataError(f"data set {name}: the {part} labels in {data_dir} are not 0 to {row.labels - 1}")
    if not changed:
        check_content(name, row, raw, data_dir)
    darkest, brightest = raw.train_images.aminmax()
    if darkest == brightest:
        raise DataError(f"data set {name}: all pixels of the training images in {data_dir} are {darkest}")
    train_images = raw.train_images.float()
    mean, deviation = train_images.mean(), train_images.std(correction=0)
    train_images.sub_(mean).div_(deviation)
    test_images = raw.test_images.float().sub_(mean).div_(deviation)
    # Flatten and reshape, so that the channel stride is 1: with one channel, torch calls any stride contiguous, but
    # only 1 channels last.
    train = Samples(train_images.flatten().view(-1, *row.image_shape), raw.train_labels)
    test = Samples(test_images.flatten().view(-1, *row.image_shape), raw.test_labels)
    return Dataset(name, train, test, raw.classes)


# ----------------------------------------------------------------------------------------------------
# Networks: all end in log-softmax; layer names match the published checkpoints
# ----------------------------------------------------------------------------------------------------


class Dropout(nn.Module):
    """Dropout whose mask is drawn from a given generator, so that each worker has its own random stream.

    generator: set by `FlatModel.use_generator`; None uses torch's global generator.
    mask: used in place of a drawn one, if set; with zeros, and the inverse of the probability to keep.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.generator: torch.Generator | None = None
        self.mask: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        if self.mask is not None:
            return inputs * self.mask
        keep = 1 - self.probability
        mask = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        return inputs * mask.bernoulli_(keep, generator=self.generator).div_(keep)


def max_pool(images: Tensor) -> Tensor:
    """Max-pooling by 2 of images (n, C, H, W) with even H and W.

    Without gradients it takes maxima of strided views: the same result, several times faster on a CPU.
    """
    if torch.is_grad_enabled():
        return F.max_pool2d(images, 2)
    rows = torch.maximum(images[..., 0::2, :], images[..., 1::2, :])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al., 1998) with ReLU and max-pooling, for 28×28 images with one channel."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, labels)

    def forward(self, images: Tensor) -> Tensor:
        # ReLU and max-pooling commute; pooling first leaves ReLU a quarter of the work.
        hidden = F.relu(max_pool(self.conv1(images)))
        hidden = F.relu(max_pool(self.conv2(hidden))).flatten(1)
        hidden = F.relu(self.fc2(F.relu(self.fc1(hidden))))
        return F.log_softmax(self.fc3(hidden), dim=1)


class CNN1(nn.Module):
    """Two 3×3 convolutions, one pooling layer and two dense layers, for 28×28 images with one channel.

    There is no ReLU after the second convolution: only then do published checkpoints reach their logged accuracy.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = Dropout(0.25)
        self.dropout2 = Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, labels)

    def forward(self, images: Tensor) -> Tensor:
        hidden = max_pool(self.conv2(F.relu(self.conv1(images))))
        hidden = self.dropout1(hidden.flatten(1))
        hidden = self.dropout2(F.relu(self.fc1(hidden)))
        return F.log_softmax(self.fc2(hidden), dim=1)


class CNN2(nn.Module):
    """Two padded 3×3 convolutions, each followed by pooling, and two dense layers, for 32×32 RGB images."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.dropout1 = Dropout(0.25)
        self.dropout2 = Dropout(0.5)
        self.fc1 = nn.Linear(4096, 512)
        self.fc2 = nn.Linear(512, labels)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(max_pool(self.conv1(images)))
        hidden = F.relu(max_pool(self.conv2(hidden)))
        hidden = self.dropout1(hidden.flatten(1))
        hidden = self.dropout2(F.relu(self.fc1(hidden)))
        return F.log_softmax(self.fc2(hidden), dim=1)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2015, arXiv 1512.03385, figure 2)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


class ResNet18(nn.Module):
    """ResNet-18 for CIFAR (He et al. 2015, arXiv 1512.03385): a 3×3 stem without pooling, for 32×32 RGB images."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.linear = nn.Linear(512, labels)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return F.log_softmax(self.linear(F.avg_pool2d(hidden, 4).flatten(1)), dim=1)


BATCH_COUNTER = "num_batches_tracked"  # of BatchNorm, the only integers that training changes


class FlatModel:
    """A network whose parameters, gradients and buffers are views into contiguous float32 vectors.

    parameters, gradients: (P,), in the order of `network.parameters()`; buffers: (B,), in the order of `buffer_names`.
    Exchanging a model, taking an optimiser step and saving a row are then one call on one tensor each. BatchNorm's
    integer counters are stored in `buffers` as float32, exact up to 2**24 batches; all other integer buffers, such as
    indices, are constants of the network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        parameters = list(network.parameters())
        self.parameters = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradients = torch.zeros_like(self.parameters)
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, values, gradient in zip(
            parameters, self.parameters.split(sizes), self.gradients.split(sizes), strict=True
        ):
            parameter.data = values.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)

        named = network.named_buffers(remove_duplicate=False)
        buffers = {name: buffer for name, buffer in named if buffer.is_floating_point() or BATCH_COUNTER in name}
        self.buffer_names = list(buffers)
        self._counters = {name for name, buffer in buffers.items() if not buffer.is_floating_point()}
        self.buffers = torch.cat([self.parameters[:0], *(buffer.float().flatten() for buffer in buffers.values())])
        sizes = [buffer.numel() for buffer in buffers.values()]
        for (name, buffer), values in zip(buffers.items(), self.buffers.split(sizes), strict=True):
            owner, _, own_name = name.rpartition(".")
            # .data gives each view its own version counter. Autograd saves running statistics, and would otherwise
            # take an in-place change of one view for a change of all of them.
            network.get_submodule(owner)._buffers[own_name] = values.view(buffer.shape).data
        self._dropouts = [module for module in network.modules() if isinstance(module, Dropout)]

    def is_parameter(self) -> np.ndarray:
        """(S,): which values of `state_vector` are parameters, and not buffers."""
        names = dict(self.network.named_parameters())
        state = self.network.state_dict().items()
        return np.concatenate([np.full(value.numel(), name in names) for name, value in state])

    @property
    def has_dropout(self) -> bool:
        """Whether training draws dropout masks."""
        return bool(self._dropouts)

    def use_generator(self, generator: torch.Generator) -> None:
        """Draw all dropout masks from `generator` from now on."""
        for dropout in self._dropouts:
            dropout.generator = generator

    @property
    def keep_probabilities(self) -> list[float]:
        """The probability with which each dropout layer keeps a value."""
        return [1 - dropout.probability for dropout in self._dropouts]

    @contextmanager
    def masked(self, masks: Sequence[Tensor]) -> Iterator[None]:
        """Use these dropout masks in this context, one per layer, instead of drawing them."""
        for dropout, mask in zip(self._dropouts, masks, strict=True):
            dropout.mask = mask
        try:
            yield
        finally:
            for dropout in self._dropouts:
                dropout.mask = None

    def mask_shapes(self, images: Tensor) -> list[torch.Size]:
        """The shapes (n, …) of the dropout masks for images (n, C, H, W), in the order in which they are drawn."""
        shapes: list[torch.Size] = []
        hooks = [
            dropout.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
            for dropout in self._dropouts
        ]
        if hooks:
            self.use_generator(torch.Generator(images.device))
            self.network.train()
            with torch.no_grad():
                self.network(images)
        for hook in hooks:
            hook.remove()
        return shapes

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the state dict, with torch's own dtypes and order, for a checkpoint."""
        return {
            name: (value.detach().clone().long() if name in self._counters else value.detach().clone()).cpu()
            for name, value in self.network.state_dict().items()
        }

    def state_vector(self) -> Tensor:
        """(S,): a copy of the values of the state dict, flattened in its order."""
        return torch.cat([value.detach().flatten() for value in self.network.state_dict().values()]).cpu()

    def load_state_vector(self, values: Tensor) -> None:
        """Load values (S,) in the order of `state_vector`."""
        state = self.network.state_dict().values()
        for value, part in zip(state, values.split([value.numel() for value in state]), strict=True):
            value.copy_(part.view_as(value))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the values of a checkpoint; raises RuntimeError if names or shapes differ."""
        self.network.load_state_dict(state)


def build_model(dataset: str, network: str, seed: int = DEFAULT_SEED, device: str = "cpu") -> FlatModel:
    """One of NETWORKS for the labels of a data set, with torch's default initialisation, seeded by the run's seed.

    The initialisation does not depend on the device. Raises DataError if the network does not fit the data set.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_generator(seed, "initialisation").initial_seed())
        built = implementation(NETWORKS, network)(DATASETS[dataset].labels)
        check_network(network, built, DATASETS[dataset])
        return FlatModel(built.to(device))


def check_network(name: str, network: nn.Module, dataset: DatasetRow) -> None:
    """Raise DataError unless a network makes log-probabilities (n, labels) of images (n, C, H, W)."""
    height, width, channels = dataset.image_shape
    images = torch.zeros(2, channels, height, width)
    network.eval()
    with torch.no_grad():
        try:
            outputs = network(images)
        except RuntimeError as error:
            raise DataError(f"network {name} does not take images {tuple(images.shape)}: {error}") from error
    network.train()
    if outputs.shape != (2, dataset.labels):
        raise DataError(f"network {name} makes {tuple(outputs.shape)} of images {tuple(images.shape)}, "
                        f"not (2, {dataset.labels})")  # fmt: skip
    if not torch.allclose(outputs.exp().sum(dim=1), torch.ones(2), atol=1e-3):
        raise DataError(f"network {name} does not end in log-softmax: its outputs are not log-probabilities")


# ----------------------------------------------------------------------------------------------------
# Partitioning: which samples each worker trains on
# ----------------------------------------------------------------------------------------------------


def take_subset(size: int, fraction: float, generator: torch.Generator) -> Tensor:
    """Sorted indices of a random subset: round(fraction · size) of `size` samples, at least one."""
    count = max(1, round(fraction * size))
    return torch.arange(size) if count == size else torch.randperm(size, generator=generator)[:count].sort().values


def hold_out(indices: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Randomly split `indices` into a sorted remainder and a sorted held-out part of round(fraction · n) indices."""
    held_out = round(fraction * len(indices))
    order = torch.randperm(len(indices), generator=generator)
    return indices[order[held_out:]].sort().values, indices[order[:held_out]].sort().values


def share_everything(indices: Tensor, labels: Tensor, workers: int, generator: torch.Generator) -> list[Tensor]:
    """Every worker trains on the whole training set."""
    return [indices] * workers


def split_dataset(indices: Tensor, labels: Tensor, workers: int, generator: torch.Generator) -> list[Tensor]:
    """Random disjoint shards that cover all samples; their sizes differ by at most one."""
    order = indices[torch.randperm(len(indices), generator=generator)]
    return [shard.sort().values for shard in torch.tensor_split(order, workers)]


def split_labels_unscaled(indices: Tensor, labels: Tensor, workers: int, generator: torch.Generator) -> list[Tensor]:
    """Each worker owns the same number of labels, drawn at random, and all their samples: disjoint and complete.

    labels (N,): of every sample of the data set; indices: of the samples to train on.
    """
    count = int(labels.max()) + 1
    owned = torch.randperm(count, generator=generator).tensor_split(workers)
    return [indices[torch.isin(labels[indices], own)] for own in owned]


def split_labels(indices: Tensor, labels: Tensor, workers: int, generator: torch.Generator) -> list[Tensor]:
    """Like `split_labels_unscaled`, but all workers keep the same number of samples, chosen at random."""
    shards = split_labels_unscaled(indices, labels, workers, generator)
    size = min(len(shard) for shard in shards)
    return [shard[torch.randperm(len(shard), generator=generator)[:size]].sort().values for shard in shards]


def split_dirichlet(
    indices: Tensor, labels: Tensor, workers: int, generator: torch.Generator, alpha: float, least: int
) -> list[Tensor]:
    """Label skew: how the samples of each label are shared is drawn from Dir(α, …, α) over the workers.

    Disjoint and complete (Hsu et al., arXiv 1909.06335, with the roles of workers and labels as in Li et al.,
    arXiv 2102.02079, section 4.1). Workers left with fewer than `least` samples get random ones of the largest shard.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    random = np.random.default_rng(seed)
    parts: list[list[Tensor]] = [[] for _ in range(workers)]
    for label in labels[indices].unique():
        own = indices[labels[indices] == label]
        own = own[torch.randperm(len(own), generator=generator)]
        shares = random.dirichlet(np.full(workers, alpha))
        ends = np.rint(np.cumsum(np.nan_to_num(shares, nan=1 / workers))[:-1] * len(own)).astype(int)
        for part, samples in zip(parts, torch.tensor_split(own, ends.tolist()), strict=True):
            part.append(samples)
    shards = [torch.cat(part) for part in parts]
    while min(map(len, shards)) < least:
        poorest, richest = (choose(range(workers), key=lambda worker: len(shards[worker])) for choose in (min, max))
        moved = min(least - len(shards[poorest]), len(shards[richest]) - least)
        order = torch.randperm(len(shards[richest]), generator=generator)
        given = shards[richest][order[:moved]]
        shards[poorest] = torch.cat([shards[poorest], given])
        shards[richest] = shards[richest][order[moved:]]
    return [shard.sort().values for shard in shards]


def partition_samples(
    partition: str, indices: Tensor, labels: Tensor, workers: int, generator: torch.Generator, **parameters: float
) -> list[Tensor]:
    """Partition `indices` with one of PARTITIONS: the indices (n,) of each worker.

    labels (N,): those of the whole data set; parameters: further arguments of the partition's function. Raises
    DataError if the function does not return one share per worker.
    """
    shares = implementation(PARTITIONS, partition)(indices, labels, workers, generator, **parameters)
    if len(shares) != workers:
        raise DataError(f"partition {partition}: number of shares {len(shares)}, number of workers {workers}")
    return shares
