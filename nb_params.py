#!/usr/bin/env python3
"""Print the number of parameters of each network on each data set, and the names of its layers.

python3 nb_params.py
"""

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from catalogue import DATASETS, NETWORKS, implementation, networks_for
from interface.command_line import ArgumentParser, run_script


def layer_prefixes(names: Iterable[str]) -> list[str]:
    """The distinct first parts of the names in a state dict, in order."""
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def flag_for(network: str, dataset: str) -> str:
    """The flag that selects a network on a data set; empty for the default network."""
    row = DATASETS[dataset]
    return {row.network: "", row.alt_network: "--alt_model"}.get(network, f"--network {network}")


def parameter_table() -> list[tuple[str, str, str, str]]:
    """One row per network, flag and number of labels: network, data sets, parameters, layer prefixes."""
    import torch

    uses: dict[tuple[str, str, int], list[str]] = {}
    for dataset, row in DATASETS.items():
        for name in networks_for(dataset):
            uses.setdefault((flag_for(name, dataset), name, row.labels), []).append(dataset)
    rows = []
    for (flag, name, labels), datasets in sorted(uses.items(), key=lambda use: len(use[0][0])):
        with torch.device("meta"):  # only shapes, no memory
            network = implementation(NETWORKS, name)(labels)
        count = sum(parameter.numel() for parameter in network.parameters())
        title = f"{name} ({flag})" if flag else name
        rows.append((title, ", ".join(datasets), f"{count:,}", " ".join(layer_prefixes(network.state_dict()))))
    return rows


def main() -> None:
    ArgumentParser(__doc__).parse_args()
    rows = [("network", "data sets", "parameters", "layers"), *parameter_table()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for network, datasets, count, layers in rows:
        print(f"{network:<{widths[0]}}  {datasets:<{widths[1]}}  {count:>{widths[2]}}  {layers}")


if __name__ == "__main__":
    run_script(main)
