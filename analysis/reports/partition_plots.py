"""Draw which worker trains on what: the number of samples per label and worker, for every partitioning method.

python3 -m analysis.reports.partition_plots --dataset mnist --workers 2 --output plots/partitioning.png
python3 -m analysis.reports.partition_plots --log runs/{base}_log.log --output partition.png
"""

import argparse
import textwrap
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from torch import Tensor

from analysis.figures import Figure, SubFigure
from analysis.reports.training_plots import BLUE, DPI, OKABE_ITO
from catalogue import DATASETS, DEFAULT_SEED, PARTITIONS
from common import Dataset, load_dataset, make_generator, partition_samples
from interface.command_line import ArgumentParser, Interval, run_script
from interface.errors import DataError, UsageError
from interface.files import atomic_write, make_folder
from training.config import phrase_of
from training.plan import make_plan
from training.record.reader import read_log
from training.record.run_log import RunLog

TITLE_WIDTH = 38  # characters
EXAMPLES = 10  # images per worker


def partition_figure(dataset: Dataset, workers: int, seed: int) -> Figure:
    """One column per partitioning method: sample counts per label and worker at the top, example images below."""
    figure = Figure(figsize=(3.4 * len(PARTITIONS), 3.6 + 0.45 * workers), dpi=DPI, layout="constrained")
    everything = torch.arange(len(dataset.train))
    columns = figure.subfigures(1, len(PARTITIONS))
    for column, (name, row) in zip(columns, PARTITIONS.items(), strict=True):
        generator = make_generator(seed, "partition")
        shards = partition_samples(name, everything, dataset.train.labels, workers, generator, **row.example)
        above, below = column.subfigures(2, 1, height_ratios=(6, workers))
        counts = above.subplots()
        draw_counts(counts, dataset, shards)
        flag = "no split flag" if name == "none" else f"--{name}"
        counts.set_title(f"{flag}\n{textwrap.fill(row.help, TITLE_WIDTH)}", fontsize="medium")
        draw_examples(below, dataset, shards, make_generator(seed, "examples"))
        if column is columns[0]:
            counts.set_ylabel("samples")
    figure.legend(
        handles=[Patch(color=OKABE_ITO[worker], label=f"Worker_{worker + 1}") for worker in range(workers)],
        loc="outside lower center",
        ncols=workers,
        frameon=False,
    )
    return figure


def draw_counts(axes: Axes, dataset: Dataset, shards: list[Tensor]) -> None:
    """Grouped bars of the samples per label and worker, with each worker's total below the axis."""
    labels = len(dataset.classes)
    width = 0.8 / len(shards)
    for worker, shard in enumerate(shards):
        counts = dataset.train.labels[shard].bincount(minlength=labels)
        places = torch.arange(labels) + (worker - (len(shards) - 1) / 2) * width
        axes.bar(places.numpy(), counts.numpy(), width, color=OKABE_ITO[worker])
    axes.set_ylim(0, 1.05 * int(dataset.train.labels.bincount().max()))
    axes.set_xticks(range(labels))
    axes.set_xlabel("label\n" + ", ".join(f"{len(shard):,}" for shard in shards) + " samples")
    axes.spines[["top", "right"]].set_visible(False)


def draw_examples(part: SubFigure, dataset: Dataset, shards: list[Tensor], generator: torch.Generator) -> None:
    """One row of random images per worker, framed in the worker's colour."""
    grid = part.subplots(len(shards), 1)
    for worker, (axes, shard) in enumerate(zip(grid, shards, strict=True)):
        chosen = shard[torch.randperm(len(shard), generator=generator)[:EXAMPLES]]
        images = dataset.train.images[chosen]
        strip = torch.cat(list(images), dim=1)
        low, high = strip.amin(), strip.amax()
        axes.imshow(((strip - low) / (high - low)).numpy(), cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=OKABE_ITO[worker], linewidth=2)


def run_figure(log: RunLog, dataset: Dataset) -> Figure:
    """The partition of one run: a bubble for each worker and label, as large as the number of samples."""
    plan = make_plan(log.config, log.seed, dataset.train)
    labels = len(dataset.classes)
    counts = torch.stack([dataset.train.labels[shard].bincount(minlength=labels) for shard in plan.shards])
    workers = len(counts)
    figure = Figure(figsize=(2.2 + 0.5 * labels, 2.2 + 0.32 * workers), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    x, y = torch.meshgrid(torch.arange(labels), torch.arange(1, workers + 1), indexing="xy")
    axes.scatter(x.flatten(), y.flatten(), s=260 * (counts / counts.max()).flatten(), color=BLUE, linewidths=0)
    axes.set_xticks(range(labels), dataset.classes, rotation=45 if max(map(len, dataset.classes)) > 3 else 0)
    axes.set_yticks(range(1, workers + 1), [f"{worker}  ({int(row.sum()):,})" for worker, row in enumerate(counts, 1)])
    axes.set(xlabel="label", ylabel="worker (samples)", xlim=(-0.6, labels - 0.4), ylim=(workers + 0.6, 0.4))
    axes.set_title(f"{phrase_of(log.config, 'partition')}\nlargest bubble: {int(counts.max()):,} samples", fontsize=10)
    axes.spines[:].set_visible(False)
    return figure


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--log", type=Path, metavar="LOG", help="draw only the partition of the run with this log")
    add(
        "--dataset",
        choices=DATASETS,
        default="mnist",
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
        default=2,
        metavar="N",
        help="number of workers (default 2)",
    )
    add("--seed", type=Interval(int, "[0,inf)"), default=DEFAULT_SEED, metavar="N",
        help=f"seed of the partitioning (default {DEFAULT_SEED})")  # fmt: skip
    add("--output", type=Path, default=Path("plots/partitioning.png"), metavar="FILE",
        help="the figure (default plots/partitioning.png)")  # fmt: skip
    arguments = parser.parse_args()
    figure = draw_run(arguments.log, arguments.data_dir) if arguments.log else draw_all(arguments)
    make_folder(arguments.output.parent, "--output")
    with atomic_write(arguments.output) as unfinished:
        figure.savefig(unfinished)
    print(f"  {arguments.output}")


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
