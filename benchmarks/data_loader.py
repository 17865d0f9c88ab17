"""The usual non-distributed training loop: torchvision's data sets and transforms, and a DataLoader."""

from itertools import chain, repeat

from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from benchmarks.data import DEVIATION, MEAN
from benchmarks.limit import timed
from benchmarks.measure import BATCH_SIZE, Sample, Task


def decoded(task: Task, train: bool) -> FashionMNIST:
    """Fashion-MNIST, with images that are decoded and standardised one at a time."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (DEVIATION,))])
    return FashionMNIST(task.data_dir, train=train, transform=transform)


def training_loop(task: Task, loader_workers: int) -> Sample:
    """Samples/s of a loop over a shuffling DataLoader."""
    loader = DataLoader(decoded(task, train=True), batch_size=BATCH_SIZE, shuffle=True, num_workers=loader_workers)
    return timed(task, chain.from_iterable(repeat(loader)))
