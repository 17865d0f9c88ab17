"""One more of everything: an algorithm, a delay distribution, a partition, a data set and a network, a row each.

python tests/additions.py FILE   runs the commands in a file, one per line; scripts of the suite then know them.
"""

import os
import runpy
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catalogue import DATASETS, NETWORKS, PARTITIONS, DatasetRow, NetworkRow, PartitionRow
from toys import Pairs
from training.algorithms import ALGORITHMS
from training.timing import DELAY_TYPES, DelayType


def read_noise(row, data_dir):
    """Two hundred images of noise, each darker or brighter by its label."""
    import torch

    from common import RawImages

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 5
    images = torch.randint(0, 100, (200, 28, 28, 1), generator=generator) + 30 * labels.view(-1, 1, 1, 1)
    images = images.to(torch.uint8)
    return RawImages(images[:150], labels[:150], images[150:], labels[150:], tuple("abcde"))


def make_perceptron(labels):
    """A network whose first layer is no convolution and has no name."""
    from torch import nn

    layers = (nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, labels), nn.LogSoftmax(dim=1))
    return nn.Sequential(*layers)


def split_evens(indices, labels, workers, generator):
    """Each worker gets every n-th sample."""
    return [indices[worker::workers] for worker in range(workers)]


DATASETS["noise"] = DatasetRow("Noise", (28, 28, 1), 5, "LeNet5", "CNN1", reader="additions:read_noise")
NETWORKS["Perceptron"] = NetworkRow((28, 28, 1), "additions:make_perceptron")
PARTITIONS["split_evens"] = PartitionRow(
    "every n-th sample to each worker", "every n-th", "each worker trains on every n-th sample", "_evens", "P",
    "additions:split_evens",
)  # fmt: skip
DELAY_TYPES["alternating"] = DelayType("alternating", lambda draws, mean, slowdown: 2 * mean * (draws.normal() > 0))
ALGORITHMS["pairs"] = Pairs

if __name__ == "__main__":
    sys.modules["additions"] = sys.modules["__main__"]

    for command in Path(sys.argv[1]).read_text().splitlines():
        print(f"$ {command}", flush=True)
        child = os.fork()
        if child == 0:
            script, *flags = shlex.split(command)
            sys.argv = [str(Path(__file__).resolve().parent.parent / script), *flags]
            runpy.run_path(sys.argv[0], run_name="__main__")
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(code)
