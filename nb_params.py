#!/usr/bin/env python3
"""Print how many parameters each network has on each of its data sets, and the names of its layers.

python3 nb_params.py
"""

import torch
from torch import nn

from common import DATASETS, MODELS, network_name
from interface.command_line import ArgumentParser, run_script


def layer_prefixes(network: nn.Module) -> list[str]:
    """The first part of each name in the state dict, in its order, once."""
    return list(dict.fromkeys(name.partition(".")[0] for name in network.state_dict()))


def parameter_table() -> list[tuple[str, str, str, str]]:
    """A row for each network and number of labels: network, data sets, parameters, layer prefixes."""
    rows = []
    for alt_model in (False, True):
        uses: dict[tuple[str, int], list[str]] = {}
        for dataset, spec in DATASETS.items():
            uses.setdefault((network_name(dataset, alt_model), spec.labels), []).append(dataset)
        for (name, labels), datasets in uses.items():
            with torch.device("meta"):  # shapes alone, no memory
                network = MODELS[name](labels)
            count = sum(parameter.numel() for parameter in network.parameters())
            title = f"{name} (--alt_model)" if alt_model else name
            rows.append((title, ", ".join(datasets), f"{count:,}", " ".join(layer_prefixes(network))))
    return rows


def main() -> None:
    ArgumentParser(__doc__).parse_args()
    rows = [("network", "data sets", "parameters", "layers"), *parameter_table()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for network, datasets, count, layers in rows:
        print(f"{network:<{widths[0]}}  {datasets:<{widths[1]}}  {count:>{widths[2]}}  {layers}")


if __name__ == "__main__":
    run_script(main)
