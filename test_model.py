#!/usr/bin/env python3
"""Evaluate a trained model: accuracy and loss, a per-class report, the training time, and training plots.

python3 test_model.py runs/mnist_async_3_…_model.pt runs/mnist_async_3_…_log.log --training_time --pics

The network and the data set are read from the log. Everything printed is also written to
{base}_model_test_performance.txt. The training time is measured on the run's own clock: the wall clock,
the virtual clock, or, for a replay, the times in the original log.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from analysis.spread import in_digits
from catalogue import DATASETS
from interface.command_line import ArgumentParser, Interval, add_device_flags, count, run_script
from interface.errors import DataError, UsageError
from interface.files import atomic_write, make_folder
from training.names import base_of, parse_run_name, run_name
from training.words import headline, settings_in_words

if TYPE_CHECKING:
    from torch import Tensor

    from common import FlatModel, Samples
    from evaluation import Score
    from training.record.run_log import RunLog


def main() -> None:
    arguments = parse_arguments()

    # Slow imports: not needed for --help or to report a wrong command line.
    from common import build_model, load_dataset
    from evaluation import BATCH_SIZE, score
    from interface.device import prepare_device
    from training.record.models import check_norm, read_model
    from training.record.reader import read_log

    log = read_log(arguments.log)
    base = base_of_run(arguments.model, log)
    prepare_device(arguments.device, arguments.tf32)
    model = build_model(log.config.dataset, log.config.network_name, device=arguments.device)
    read_model(arguments.model, model)
    check_norm(arguments.model, model, log)
    folder = make_folder(Path(arguments.subfolder))
    dataset = load_dataset(log.config.dataset, arguments.data_dir, log.config.changed_data).to(arguments.device)
    report = Report()

    title = f"{headline(log.config)}\n{describe_settings(log)}"
    report.add(f"{title}\nModel: {arguments.model}\nLog: {arguments.log}")
    report.add(describe_course(log))

    batch_size = arguments.batch_size or BATCH_SIZE
    train = score(log_probabilities(dataset.train, model, batch_size), dataset.train.labels)
    report.add(f"Train {describe_score(train)}, on the whole training set of {DATASETS[dataset.name].title}")
    predicted = log_probabilities(dataset.test, model, batch_size)
    report.add(f"Test {describe_score(score(predicted, dataset.test.labels))}, on the test set")
    if arguments.classification_report:
        from sklearn.metrics import classification_report

        report.add(
            classification_report(
                dataset.test.labels.cpu(),
                predicted.argmax(dim=1).cpu(),
                labels=range(len(dataset.classes)),
                target_names=dataset.classes,
                digits=4,
                zero_division=0,
            ).rstrip()
        )
    if arguments.training_time:
        report.add(f"Training time: {minutes(log.seconds)} (MM:SS:mmm, {log.clock} clock)")
    if arguments.pics:
        draw(log, title, folder / f"{base}_model", report, arguments.fixed_axes)
    path = folder / f"{base}_model_test_performance.txt"
    report.add(f"Written: {path}")
    with atomic_write(path) as unfinished:
        unfinished.write_text(report.text, encoding="utf-8", errors="surrogateescape")  # paths of another locale


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="trained model, {base}_model.pt")
    parser.add_argument("log", metavar="LOG", help="log of the same run, {base}_log.log")
    parser.add_argument(
        "--batch_size", type=Interval(int, "[1,inf)"), metavar="N", help="images per evaluation batch (default 1000)"
    )
    parser.add_argument("--classification_report", action="store_true", help="report precision, recall, F1 per class")
    parser.add_argument("--training_time", action="store_true", help="report the training time as MM:SS:mmm")
    parser.add_argument("--pics", action="store_true", help="draw the training plots")
    parser.add_argument(
        "--fixed_axes", action="store_true",
        help="with --pics: limits of losses, accuracies and epochs that do not depend on the run",
    )  # fmt: skip
    parser.add_argument("--subfolder", type=Path, default=".", metavar="DIR", help="folder of report and figures")
    parser.add_argument("--data_dir", type=Path, default="data", metavar="DIR", help="folder of the data sets")
    add_device_flags(parser.add_argument)
    arguments = parser.parse_args()
    if arguments.fixed_axes and not arguments.pics:
        parser.error("--fixed_axes has no effect without --pics")
    for what, path in (("MODEL", arguments.model), ("LOG", arguments.log)):
        if not Path(path).is_file():
            parser.error(f"argument {what}: {path}: no such file")
    return arguments


def base_of_run(model: str, log: RunLog) -> str:
    """The common base of the model's and the log's names.

    Raises DataError if the two files belong to different runs, UsageError if the model's name is not that of a run.
    """
    try:
        base = base_of(log.path)
        parse_run_name(base)
    except UsageError:  # the file was renamed, but the header still identifies the run
        base = run_name(log.config)
    if log.header and re.sub(r"_partial\d*$", "", base) != run_name(log.config):
        raise DataError(f"{log.path}: its name does not match its header, which belongs to run {run_name(log.config)}")
    if base_of(model) != base:
        raise DataError(f"{model} and {log.path} belong to different runs: {base_of(model)} and {base}")
    return base


def log_probabilities(samples: Samples, model: FlatModel, batch_size: int) -> Tensor:
    """Log-probabilities (N, labels) of all samples, with a progress bar on a terminal."""
    import torch
    from tqdm import tqdm

    from evaluation import predict

    batches = torch.arange(len(samples)).split(batch_size)
    progress = tqdm(batches, unit=" batches", leave=False, disable=None, dynamic_ncols=True)
    return torch.cat([predict(samples, model, batch, batch_size) for batch in progress])


# ----------------------------------------------------------------------------------------------------
# Describing a run
# ----------------------------------------------------------------------------------------------------

# Settings that the name of a published run does not contain.
NOT_IN_PUBLISHED_LOGS = ("compensation_lambda", "compensation_mode", "clock", "compute_ms")


def describe_settings(log: RunLog) -> str:
    """The training settings of the run, in one line."""
    settings = settings_in_words(log.config, without=NOT_IN_PUBLISHED_LOGS if log.header is None else ())
    return ", ".join([*settings, *([] if log.seed is None else [f"seed {log.seed}"])])


def describe_course(log: RunLog) -> str:
    """One line that summarises the run, and one line per warning in its log."""
    if log.result is None:
        status = "cut short, the log has no result"
    else:
        status = log.result["status"] + (f" ({log.result['reason']})" if "reason" in log.result else "")
    staleness = log.updates.staleness
    course = [status, count(len(log.updates), "update")]
    course += [f"{log.dropped} of {len(log.gradients)} gradients dropped"] if log.dropped else []
    if len(staleness):
        inferred = log.header is None and log.config.depends_on_arrival
        how = " (inferred from the order of the log)" if inferred else ""
        course.append(f"staleness mean {staleness.mean():.2f}, max {staleness.max()}{how}")
    first = next((one for one in log.evaluations if one.first_left), None)
    if first is not None and first.update < len(log.updates):
        rest = count(len(log.updates) - first.update, "update")
        course.append(f"first worker finished {rest} before the end, at test accuracy {first.test_accuracy:.2f} %")
    rule = (log.result or {}).get("ended_by", "epochs")
    course += (
        [f"ended by --{rule if rule == 'max_seconds' else f'stop {rule}'}"] if rule not in ("epochs", None) else []
    )
    lost = (log.result or {}).get("lost_workers")
    course += [f"lost {', '.join(lost)}"] if lost else []
    return "\n".join([f"Run: {'; '.join(course)}", *(f"Warning in the log: {warning}" for warning in log.warnings)])


def describe_score(score: Score) -> str:
    """Accuracy and loss."""
    return f"accuracy: {score.accuracy:.2f} % ({score.correct}/{score.total}), loss: {in_digits(score.loss)}"


def minutes(seconds: float) -> str:
    """A time as MM:SS:mmm; minutes may exceed 59."""
    whole_seconds, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole_seconds // 60:02d}:{whole_seconds % 60:02d}:{milliseconds:03d}"


# ----------------------------------------------------------------------------------------------------
# Output
# ----------------------------------------------------------------------------------------------------


class Report:
    """The text printed so far."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, text: str) -> None:
        """Print some lines and append them to the report."""
        print(text, flush=True)
        self.text += f"{text}\n"


def draw(log: RunLog, title: str, base: Path, report: Report, fixed_axes: bool) -> None:
    """Draw {base}_training_plots.png; for a run with --val {base}_validation_plots.png, with --evals_per_epoch
    {base}_accuracy_plots.png."""
    from analysis.reports.training_plots import accuracy_figure, fix_axes, training_figure, validation_figure

    status = log.status or "cut short"
    title = f"{title}\n{log.clock} clock, {status}: {count(len(log.updates), 'update')} in {log.seconds:.2f} s"
    figures = {"training": training_figure(log, title)}
    if log.validations:
        figures["validation"] = validation_figure(log, title)
    else:
        report.add("No validation plots: the log contains no validation")
    if any(not evaluation.first_left for evaluation in log.evaluations):
        figures["accuracy"] = accuracy_figure(log, title)
    for name, figure in figures.items():
        if fixed_axes:
            fix_axes(figure, log)
        path = base.with_name(f"{base.name}_{name}_plots.png")
        with atomic_write(path) as unfinished:
            figure.savefig(unfinished)
        report.add(f"Written: {path}")


if __name__ == "__main__":
    run_script(main)
