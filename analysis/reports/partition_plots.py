"""Draw which worker trains on what: the number of samples per label and worker, for every partitioning method.

python3 -m analysis.reports.partition_plots --dataset mnist --workers 2 --output plots/partitioning.png
python3 -m analysis.reports.partition_plots --log runs/{base}_log.log --output partition.png

A PDF is written beside the PNG.
"""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from torch import Tensor

from analysis.figures import BLUE, OKABE_ITO, Figure, new_figure, save, write_key, write_title
from catalogue import DATASETS, DEFAULT_SEED, PARTITIONS
from common import Dataset, load_dataset, make_generator, partition_samples
from interface.command_line import ArgumentParser, Interval, run_script
from interface.errors import DataError, UsageError
from interface.files import make_folder
from training.plan import make_plan
from training.record.reader import read_log
from training.record.run_log import RunLog
from training.words import phrase_of

TITLE_WIDTH = 24  # characters
EXAMPLES = 10  # images per worker


def partition_figure(dataset: Dataset, workers: int, seed: int) -> Figure:
    """One row per partitioning method: its flag, sample counts per label and worker, and example images."""
    height = max(0.85, 0.24 * workers)
    figure = new_figure(1.2 + (height + 0.25) * len(PARTITIONS))
    grid = figure.add_gridspec(len(PARTITIONS), 3, width_ratios=(1.5, 2.6, 2.4))
    everything = torch.arange(len(dataset.train))
    for row, (name, partition) in enumerate(PARTITIONS.items()):
        generator = make_generator(seed, "partition")
        shards = partition_samples(name, everything, dataset.train.labels, workers, generator, **partition.example)
        describe(figure.add_subplot(grid[row, 0]), name, shards)
        counts = figure.add_subplot(grid[row, 1])
        draw_counts(counts, dataset, shards)
        if row == len(PARTITIONS) - 1:
            counts.set_xlabel("label")
        draw_examples(
            grid[row, 2].subgridspec(workers, 1).subplots(), dataset, shards, make_generator(seed, "examples")
        )
    write_key(figure, [Patch(color=OKABE_ITO[worker], label=f"Worker_{worker + 1}") for worker in range(workers)])
    about = f"number of samples of each label, and {EXAMPLES} random samples of each worker"
    write_title(figure, f"Partitions of {DATASETS[dataset.name].title} among {workers} workers\n{about}")
    return figure


def describe(axes: Axes, name: str, shards: list[Tensor]) -> None:
    """The flag of a partition, and how many samples each worker has."""
    example = "".join(f" {value:g}" for key, value in PARTITIONS[name].example.items() if key != "least")
    flag = "no split flag" if name == "none" else f"--{name}{example}"
    samples = "\n".join(textwrap.wrap(", ".join(f"{len(shard):,}" for shard in shards) + " samples", TITLE_WIDTH))
    axes.text(0, 0.75, flag, fontweight="bold", va="center")
    axes.text(0, 0.6, f"{PARTITIONS[name].short_title}\n{samples}", va="top")
    axes.set_axis_off()


def draw_counts(axes: Axes, dataset: Dataset, shards: list[Tensor]) -> None:
    """Grouped bars of the samples per label and worker."""
    labels = len(dataset.classes)
    width = 0.8 / len(shards)
    for worker, shard in enumerate(shards):
        counts = dataset.train.labels[shard].bincount(minlength=labels)
        places = torch.arange(labels) + (worker - (len(shards) - 1) / 2) * width
        axes.bar(places.numpy(), counts.numpy(), width, color=OKABE_ITO[worker])
    axes.set_ylim(0, 1.05 * int(dataset.train.labels.bincount().max()))
    axes.set_xticks(range(0, labels, -(-labels // 20)))
    axes.set_ylabel("samples")
    axes.spines[["top", "right"]].set_visible(False)


def draw_examples(panels: Sequence[Axes], dataset: Dataset, shards: list[Tensor], generator: torch.Generator) -> None:
    """One row of random images per worker, framed in the worker's colour."""
    for worker, (axes, shard) in enumerate(zip(panels, shards, strict=True)):
        chosen = shard[torch.randperm(len(shard), generator=generator)[:EXAMPLES]]
        strip = torch.cat(list(dataset.train.images[chosen]), dim=1)
        low, high = strip.amin(), strip.amax()
        axes.imshow(((strip - low) / (high - low)).numpy(), cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=OKABE_ITO[worker], linewidth=1.2)


def run_figure(log: RunLog, dataset: Dataset) -> Figure:
    """The partition of one run: a bubble for each worker and label, as large as the number of samples."""
    plan = make_plan(log.config, log.seed, dataset.train)
    labels = len(dataset.classes)
    counts = torch.stack([dataset.train.labels[shard].bincount(minlength=labels) for shard in plan.shards])
    workers = len(counts)
    figure = new_figure(1.5 + 0.2 * workers)
    axes = figure.subplots()
    x, y = torch.meshgrid(torch.arange(labels), torch.arange(1, workers + 1), indexing="xy")
    axes.scatter(x.flatten(), y.flatten(), s=110 * (counts / counts.max()).flatten(), color=BLUE, linewidths=0)
    axes.set_xticks(range(labels), dataset.classes, rotation=45 if max(map(len, dataset.classes)) > 3 else 0)
    axes.set_yticks(range(1, workers + 1), [f"{worker}  ({int(row.sum()):,})" for worker, row in enumerate(counts, 1)])
    axes.set(xlabel="label", ylabel="worker (samples)", xlim=(-0.6, labels - 0.4), ylim=(workers + 0.6, 0.4))
    axes.spines[:].set_visible(False)
    write_title(
        figure, f"{phrase_of(log.config, 'partition').capitalize()}: {DATASETS[log.config.dataset].title}\n"
        f"area: number of samples; largest: {int(counts.max()):,}"
    )  # fmt: skip
    return figure


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--log", type=Path, metavar="LOG", help="draw only the partition of the run with this log")
    add(
        "--dataset",
        choices=DATASETS,
        help="data set whose training samples are partitioned (default mnist)",
    )
    add(
        "--data_dir",
        default="data",
        metavar="DIR",
        help="folder of the data sets; missing ones are downloaded to it (default data)",
    )
    add(
        "--workers",
        type=Interval(int, f"[2,{len(OKABE_ITO)}]"),
        metavar="N",
        help="number of workers (default 2)",
    )
    add("--seed", type=Interval(int, "[0,inf)"), metavar="N",
        help=f"seed of the partitioning (default {DEFAULT_SEED})")  # fmt: skip
    add("--output", type=Path, default=Path("plots/partitioning.png"), metavar="FILE",
        help="the figure (default plots/partitioning.png)")  # fmt: skip
    arguments = parser.parse_args()
    given = {name: value for name in ("dataset", "workers", "seed") if (value := getattr(arguments, name)) is not None}
    if arguments.log and given:
        name, value = next(iter(given.items()))
        raise UsageError(f"--{name} {value} has no effect with --log, whose run has its own")
    vars(arguments).update({"dataset": "mnist", "workers": 2, "seed": DEFAULT_SEED} | given)
    figure = draw_run(arguments.log, arguments.data_dir) if arguments.log else draw_all(arguments)
    make_folder(arguments.output.parent, "--output")
    print(*(f"  {path}" for path in save(figure, arguments.output)), sep="\n")


def draw_run(path: Path, data_dir: str) -> Figure:
    """The figure of one run. Raises DataError if its log does not contain its seed."""
    log = read_log(path)
    if log.seed is None:
        raise DataError(f"{path}: the log of a published run does not contain its seed: its partition is not known")
    return run_figure(log, load_dataset(log.config.dataset, data_dir, log.config.changed_data))


def draw_all(arguments: argparse.Namespace) -> Figure:
    """The figure of all partitions. Raises UsageError if the labels cannot be divided among the workers."""
    labels = DATASETS[arguments.dataset].labels
    if labels % arguments.workers:
        raise UsageError(f"--workers {arguments.workers} is not valid: it must divide the number of labels, {labels}")
    return partition_figure(load_dataset(arguments.dataset, arguments.data_dir), arguments.workers, arguments.seed)


if __name__ == "__main__":
    run_script(main)
