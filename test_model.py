#!/usr/bin/env python3
"""Test a trained model: accuracy and loss, a report for each class, the run's time, and figures of its training.

python3 test_model.py runs/mnist_async_3_…_model.pt runs/mnist_async_3_…_log.log --training_time --pics

Network and data set are those of the log. All that is printed is also written to
{base}_model_test_performance.txt. The training time is that of the clock of the run: the wall clock,
the virtual clock, or (replay) the times in the log that was replayed.
"""

import argparse
import math
import re
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from common import FlatModel, Samples, build_model, load_dataset, network_name
from evaluation import BATCH_SIZE, Score, in_digits, predict, score
from interface.command_line import ArgumentParser, Interval, run_script
from interface.errors import DataError
from interface.files import atomic_write, make_folder
from training.names import base_of, parse_run_name, run_name
from training.options import RunConfig
from training.record import RunLog, read_log, read_model


def main() -> None:
    arguments = parse_arguments()
    log = read_log(arguments.log)
    base = base_of_run(arguments.model, log)
    model = build_model(log.config.dataset, log.config.alt_model)
    read_model(arguments.model, model)
    check_norm(arguments.model, model, log)
    folder = make_folder(Path(arguments.subfolder))
    dataset = load_dataset(log.config.dataset, arguments.data_dir)
    report = Report()

    title = f"{headline(log.config)}\n{describe_settings(log)}"
    report.tell(f"{title}\nModel: {arguments.model}\nLog: {arguments.log}")
    report.tell(describe_course(log))

    train = score(log_probabilities(dataset.train, model, arguments.batch_size), dataset.train.labels)
    report.tell(f"Train {describe_score(train)}, on the whole training set of {DATASET_TITLES[dataset.name]}")
    predicted = log_probabilities(dataset.test, model, arguments.batch_size)
    report.tell(f"Test {describe_score(score(predicted, dataset.test.labels))}, on the test set")
    if arguments.classification_report:
        from sklearn.metrics import classification_report

        report.tell(
            classification_report(
                dataset.test.labels,
                predicted.argmax(dim=1),
                labels=range(len(dataset.classes)),
                target_names=dataset.classes,
                digits=4,
                zero_division=0,
            ).rstrip()
        )
    if arguments.training_time:
        report.tell(f"Training time: {minutes(log.seconds)} (MM:SS:mmm, {log.clock} clock)")
    if arguments.pics:
        draw(log, title, folder / f"{base}_model", report)
    path = folder / f"{base}_model_test_performance.txt"
    report.tell(f"Written: {path}")
    with atomic_write(path) as unfinished:
        unfinished.write_text(report.text, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="trained model, {base}_model.pt")
    parser.add_argument("log", metavar="LOG", help="log of the same run, {base}_log.log")
    parser.add_argument(
        "--batch_size", type=Interval(int, "[1,inf)"), default=BATCH_SIZE, metavar="N", help="images evaluated at once"
    )
    parser.add_argument("--classification_report", action="store_true", help="precision, recall and F1 of each class")
    parser.add_argument("--training_time", action="store_true", help="how long training took, as MM:SS:mmm")
    parser.add_argument("--pics", action="store_true", help="draw the course of training; needs --training_time")
    parser.add_argument("--subfolder", default=".", metavar="DIR", help="where the report and the figures go")
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="where data sets lie or are downloaded to")
    arguments = parser.parse_args()
    if arguments.pics and not arguments.training_time:
        parser.error("--pics requires --training_time")
    for what, path in (("MODEL", arguments.model), ("LOG", arguments.log)):
        if not Path(path).is_file():
            parser.error(f"argument {what}: {path} is not valid: there is no such file")
    return arguments


def base_of_run(model: str, log: RunLog) -> str:
    """The base of the model's name, which is that of the log's run as well.

    Raises DataError if the two files belong to different runs, ValueError if the model's name is none of a run's.
    """
    try:
        base = base_of(log.path)
        parse_run_name(base)
    except ValueError:  # renamed; the header still tells
        base = run_name(log.config)
    if log.header and re.sub(r"_partial\d*$", "", base) != run_name(log.config):
        raise DataError(f"{log.path}: the file's name does not fit its header, which is of run {run_name(log.config)}")
    if base_of(model) != base:
        raise DataError(f"{model} and {log.path} belong to different runs: {base_of(model)} and {base}")
    return base


def check_norm(path: str, model: FlatModel, log: RunLog) -> None:
    """Raises DataError if the model is not what a complete run of this suite ended with, though it is called so."""
    if log.header is None or log.result is None or log.result["status"] != "complete" or len(log.updates) == 0:
        return
    logged, norm = log.updates.weight_norm[-1], torch.linalg.vector_norm(model.parameters).item()
    if math.isfinite(logged) and not math.isclose(norm, logged, rel_tol=1e-4):
        raise DataError(
            f"{path}: not the model of {log.path}: its weights have norm {norm:.6g}, the run's {logged:.6g}"
        )


def log_probabilities(samples: Samples, model: FlatModel, batch_size: int) -> Tensor:
    """Log-probabilities (N, labels) of all samples, with a progress bar on a terminal."""
    batches = torch.arange(len(samples)).split(batch_size)
    progress = tqdm(batches, unit=" batches", leave=False, disable=None, dynamic_ncols=True)
    return torch.cat([predict(samples, model, batch, batch_size) for batch in progress])


# ----------------------------------------------------------------------------------------------------
# A run in words
# ----------------------------------------------------------------------------------------------------

DATASET_TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "digits",
}
MODE_TITLES = {"classic": "non-distributed", "sync": "synchronous", "async": "asynchronous"}
PARTITION_TITLES = {
    "none": "every worker on all samples",
    "split_dataset": "samples split among workers",
    "split_labels": "labels split among workers",
    "split_labels_unscaled": "labels split among workers, every sample kept",
}
SCHEDULE_TITLES = {None: "", "exponential": " (×0.9 an epoch)", "cosine_annealing": " (cosine to 0)"}


def headline(config: RunConfig) -> str:
    """Network, data set, algorithm and workers."""
    optimizer = "Adam" if config.alr else "SGD"
    workers = "" if config.mode == "classic" else f", {count(config.workers, 'worker')}"
    network = network_name(config.dataset, config.alt_model)
    return f"{network} on {DATASET_TITLES[config.dataset]}, {MODE_TITLES[config.mode]} {optimizer}{workers}"


def describe_settings(log: RunLog) -> str:
    """The settings that shaped the run, in one line."""
    config = log.config
    settings = [f"learning rate {config.lr:g}{SCHEDULE_TITLES[config.lrs]}"]
    settings += [] if config.alr else [f"momentum {config.momentum:g}"]
    settings += [f"batch size {config.batch_size}", count(config.epochs, "epoch")]
    settings += [f"{100 * config.train_split:g} % of the training set"] if config.train_split < 1 else []
    settings += [PARTITION_TITLES[config.partition]] if config.workers > 1 else []
    if config.delayed:
        strength = f"{config.delay_ms:g} ms" if config.delay_ms is not None else config.delay_intensity
        whose = "" if config.delay else " of worker 1 alone"
        twice = ", worker 1 twice as long" if config.delay and config.slow_worker_1 else ""
        settings.append(f"{strength} {config.delay_type} delays{whose}{twice}")
    if config.compensation:
        strength = f" ({config.compensation_mode}, λ {config.compensation_lambda:g})" if log.header else ""
        settings.append(f"delay compensation{strength}")
    settings += [f"seed {log.header['seed']}"] if log.header and "seed" in log.header else []
    return ", ".join(settings)


def describe_course(log: RunLog) -> str:
    """How the run went: a line that sums it up, and each warning of its log."""
    if log.result is None:
        status = "cut short, the log has no result"
    else:
        status = log.result["status"] + (f" ({log.result['reason']})" if "reason" in log.result else "")
    staleness = log.updates.staleness
    course = [status, count(len(log.updates), "update")]
    if len(staleness):
        how = " (inferred from the order of the log)" if log.header is None and log.config.mode == "async" else ""
        course.append(f"staleness mean {staleness.mean():.2f}, max {staleness.max()}{how}")
    lost = (log.result or {}).get("lost_workers")
    course += [f"lost {', '.join(lost)}"] if lost else []
    return "\n".join([f"Run: {'; '.join(course)}", *(f"Warning in the log: {warning}" for warning in log.warnings)])


def count(number: int, noun: str) -> str:
    """A number and what it counts."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe_score(score: Score) -> str:
    """Accuracy and loss."""
    return f"accuracy: {score.accuracy:.2f} % ({score.correct}/{score.total}), loss: {in_digits(score.loss)}"


def minutes(seconds: float) -> str:
    """A time as MM:SS:mmm; minutes go on beyond 59."""
    whole_seconds, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole_seconds // 60:02d}:{whole_seconds % 60:02d}:{milliseconds:03d}"


# ----------------------------------------------------------------------------------------------------
# What the script leaves
# ----------------------------------------------------------------------------------------------------


class Report:
    """Prints, and remembers what it printed."""

    def __init__(self) -> None:
        self.text = ""

    def tell(self, text: str) -> None:
        """Print some lines."""
        print(text, flush=True)
        self.text += f"{text}\n"


def draw(log: RunLog, title: str, base: Path, report: Report) -> None:
    """Draw the figures of the run, {base}_training_plots.png and, of a validated run, {base}_validation_plots.png."""
    from analysis.reports.training_plots import training_figure, validation_figure

    status = log.result["status"] if log.result else "cut short"
    title = f"{title}\n{log.clock} clock, {status}: {count(len(log.updates), 'update')} in {log.seconds:.2f} s"
    figures = {"training": training_figure(log, title)}
    if log.validations:
        figures["validation"] = validation_figure(log, title)
    else:
        report.tell("No validation plots: the log has no validation")
    for name, figure in figures.items():
        path = base.with_name(f"{base.name}_{name}_plots.png")
        with atomic_write(path) as unfinished:
            figure.savefig(unfinished)
        report.tell(f"Written: {path}")


if __name__ == "__main__":
    run_script(main)
