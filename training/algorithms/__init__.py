"""Algorithms that turn gradients into updates: one file and one row per algorithm. Does not import torch.

The first one of each mode is the default of its script.
"""

from training.algorithms.asgd import Asgd
from training.algorithms.average import Average
from training.algorithms.backup import Backup
from training.algorithms.base import Algorithm
from training.algorithms.dana import Dana
from training.algorithms.delay_adaptive import DelayAdaptive
from training.algorithms.dude import Dude
from training.algorithms.fedbuff import FedBuff
from training.algorithms.malenia import Malenia
from training.algorithms.rennala import Rennala
from training.algorithms.rescaled import Rescaled
from training.algorithms.ringleader import Ringleader
from training.algorithms.ringmaster import Ringmaster
from training.algorithms.ssp import StaleSynchronousParallel
from training.algorithms.staleness_aware import StalenessAware

ALGORITHMS: dict[str, type[Algorithm]] = {
    "average": Average,
    "backup": Backup,
    "malenia": Malenia,
    "asgd": Asgd,
    "staleness_aware": StalenessAware,
    "delay_adaptive": DelayAdaptive,
    "ringmaster": Ringmaster,
    "rennala": Rennala,
    "fedbuff": FedBuff,
    "ssp": StaleSynchronousParallel,
    "dude": Dude,
    "ringleader": Ringleader,
    "rescaled": Rescaled,
    "dana": Dana,
}
