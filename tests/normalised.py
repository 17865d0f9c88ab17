"""dist_sync.py with a small network with BatchNorm, and a checkpoint after each gradient.

python tests/normalised.py FLAGS...
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catalogue import NETWORKS, NetworkRow


def make_network(labels):
    """One convolution and one dense layer."""
    from torch import nn

    dense = (nn.Flatten(), nn.Linear(432, labels), nn.LogSoftmax(dim=1))
    return nn.Sequential(nn.Conv2d(1, 3, 5, stride=2), nn.BatchNorm2d(3), nn.ReLU(), *dense)


NETWORKS["Normalised"] = NetworkRow((28, 28, 1), "normalised:make_network")

if __name__ == "__main__":
    import dist_sync
    from interface.command_line import run_script
    from training import checkpoints

    checkpoints.SECONDS = 0
    sys.argv = ["dist_sync.py", "--network", "Normalised", *sys.argv[1:]]
    run_script(dist_sync.main)
