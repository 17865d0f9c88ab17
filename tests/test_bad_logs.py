"""Damaged logs: refused with an error that names file and line, or read up to where they are cut."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import test_model
from common import load_dataset
from conftest import PUBLISHED, needs_published, train
from damage import (
    DAMAGES,
    Damage,
    assert_refused,
    cut,
    edited,
    first_difference,
    name_of,
    replaced,
    spoil,
    with_carriage_returns,
)
from nursery import Nursery
from training.engines.replay import config_of_replay, fit_plan
from training.plan import Plan, make_plan
from training.record.reader import read_log

FLAGS = ("--train_split", 0.1, "--epochs", 2)
VIRTUAL = (*FLAGS, "--clock", "virtual", "--val")


@dataclass(frozen=True)
class Logs:
    """Logs of small runs of 20 gradients by two workers; `other` differs from `asynchronous` in its seed only."""

    asynchronous: Path
    other: Path
    synchronous: Path
    classic: Path


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    folder = tmp_path_factory.mktemp("logs")
    return Logs(
        train("dist_async.py", folder, *VIRTUAL, "--seed", 1)["log"],
        train("dist_async.py", folder, *VIRTUAL, "--seed", 2)["log"],
        train("dist_sync.py", folder, *VIRTUAL, "--seed", 1)["log"],
        train("nonDistributed.py", folder, *FLAGS, "--seed", 1)["log"],
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def log(logs: Logs) -> Path:
    """A copy of the asynchronous run's log, in the working directory."""
    return Path(shutil.copy(logs.asynchronous, logs.asynchronous.name))


def assert_line_refused(good: Path, damage: Damage) -> None:
    """The log is refused, by the number of the line that was damaged."""
    path = Path("damaged") / good.name
    path.parent.mkdir()
    damage(path, good)
    number = first_difference(path, good)
    assert_refused(lambda: read_log(path), f"{path}, line {number}: not a line of a ")


# ----------------------------------------------------------------------------------------------------
# Files that are no logs
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage is not cut], ids=name_of)
def test_damaged_logs_are_refused(damage, log):
    spoil(log, damage)
    assert_refused(lambda: read_log(log), log)


BINARY = {
    "UTF-16": lambda path, good: path.write_text(good.read_text(), encoding="utf-16"),
    "Latin 1 in the middle": replaced(b"loss", b"l\xf6ss"),
}


@pytest.mark.parametrize("kind", BINARY)
def test_logs_in_another_encoding_are_refused(kind, log):
    spoil(log, BINARY[kind])
    assert_refused(lambda: read_log(log), f"{log}: not a log: it contains binary data")


# ----------------------------------------------------------------------------------------------------
# Lines
# ----------------------------------------------------------------------------------------------------

LINES = {
    "a worker too many": edited("Worker_1", "Worker_3"),
    "worker 0": edited("Worker_1", "Worker_0"),
    "worker -1": edited("Worker_1", "Worker_-1"),
    "a worker without a number": edited("Worker_1", "Worker_one"),
    "no worker": edited("  Worker_1", ""),
    "batch 0": edited("batch 1/", "batch 0/"),
    "a batch too many": edited("batch 5/", "batch 6/"),
    "a batch twice": edited("batch 2/", "batch 1/"),
    "epoch 0": edited("epoch 1/", "epoch 0/"),
    "an epoch too many": edited("epoch 2/", "epoch 3/"),
    "a negative staleness": edited(r"staleness \d+", "staleness -1"),
    "a staleness too large": edited(r"staleness \d+", "staleness 77"),
    "a version before the first": edited(r"fetched \d+", "fetched -1"),
    "a future version": edited(r"fetched \d+", "fetched 99"),
    "a version of five thousand digits": edited(r"fetched \d+", "fetched " + 5000 * "9"),
    "an update twice": edited("update 2/", "update 1/"),
    "a missing update": edited(r"^.*update 2/.*\n", ""),
    "update 0": edited("update 1/", "update 0/"),
    "a negative time": edited(r"^[\d.]+ s  update 1/", "-1.0 s  update 1/"),
    "a time of nan": edited(r"^[\d.]+ s  update 1/", "nan s  update 1/"),
    "an infinite time": edited(r"^[\d.]+ s  update 1/", "inf s  update 1/"),
    "no time": edited(r"^[\d.]+ s  update 1/", "update 1/"),
    "a loss in words": edited(r"loss [\d.]+", "loss small"),
    "no loss": edited(r"  loss [\d.]+", ""),
    "no weight norm": edited(r"  weight_norm [\d.]+$", ""),
    "an unknown kind of line": edited("update 3/", "upgrade 3/"),
    "an empty line": edited(r"\n(.*update 3/)", r"\n\n\1"),
    "prose in the middle": edited(r"\n(.*update 3/)", r"\nand then\n\1"),
    "zero bytes": edited(r"\n(.*update 3/)", r"\n\0\0\0\n\1"),
    "a header in the middle": edited(r"\A(.*\n)", r"\1\1"),
    "half a line in the middle": edited(r"(update 3/.*)staleness.*$", r"\1"),
    "an epoch validated twice": edited("validation 2/", "validation 1/"),
    "an empty validation": edited("  val_loss [^ ]+", ""),
    "a line after the result": edited(r"\Z", "99.0 s  warning late\n"),
    "two results": edited(r"^(.*result.*\n)", r"\1\1"),
    "a result with an unknown status": edited('"complete"', '"happy"'),
    "a result without a time": edited('"seconds"', '"minutes"'),
    "a result before the start": edited(r'"seconds": [\d.]+', '"seconds": -1'),
    "a result that is no JSON": edited("result {", "result ["),
    "a result that is a number": edited("result .*", "result 7"),
    "lost workers without names": edited(r'"lost_workers": \[\]', '"lost_workers": [1]'),
}


@pytest.mark.parametrize("kind", LINES)
def test_wrong_lines_are_refused(kind, log):
    assert_line_refused(log, LINES[kind])


def rewritten(text: str) -> str:
    """The log of a run that ended otherwise.

    Of the last three gradients, the first was dropped and the other two were gathered into one update; then Worker_2
    was lost.
    """
    lines = [line for line in text.splitlines() if not re.search("  left  |  evaluation ", line)]
    *_, dropped, buffered, last = (number for number, line in enumerate(lines) if "  update " in line)
    fetched = 17  # the version that the workers of the last two gradients had

    def gradient(number: int, end: str) -> str:
        time, _, *whose = lines[number].split("  ")[:6]
        batch, epoch = (int(re.search(rf"{word} (\d+)/", lines[number])[1]) for word in ("batch", "epoch"))
        return "  ".join([time, f"gradient {5 * (epoch - 1) + batch}", *whose, end])

    update = re.sub("update 20/20  .*  loss", "update 18/20  gradients 2  loss", lines[last])
    update = re.sub(r"staleness \d+  fetched \d+", f"staleness 0  fetched {fetched}", update)
    age = re.search(r"staleness \d+  fetched \d+", lines[dropped])[0]
    lines[dropped] = gradient(dropped, f"{age}  fate dropped")
    for number in (buffered, last):
        lines[number] = gradient(number, f"staleness 0  fetched {fetched}  fate buffered")
    lines[last] += f"\n{update}\n{update.split('  ')[0]}  lost  Worker_2  how killed by signal 9"
    return "\n".join([*lines, ""])


@pytest.fixture
def rewritten_log(log: Path) -> Path:
    log.write_text(rewritten(log.read_text()))
    return log


def test_gradients_that_are_not_applied_at_once_and_lost_workers_are_read(rewritten_log, logs):
    log, before = read_log(rewritten_log), read_log(logs.asynchronous)
    assert (len(log.updates), len(log.gradients), log.dropped, log.status) == (18, 20, 1, "complete")
    assert log.gradients.dropped.tolist() == 17 * [False] + [True, False, False]
    assert log.gradients.version.tolist() == [*range(1, 18), 17, 17, 18]
    assert log.gradients.staleness.tolist() == [*before.gradients.staleness[:18], 0, 0]
    assert np.array_equal(log.gradients.loss, before.gradients.loss)
    assert log.updates.worker[-1] == 0
    (lost,) = log.losses
    assert (lost.worker, lost.gradients, lost.how) == (2, 20, "killed by signal 9")
    assert log.warnings == ("Worker_2 was lost (killed by signal 9)",)


LINES_OF_FORMAT_2 = {
    "an unknown fate": edited("fate dropped", "fate happy"),
    "an empty fate": edited("fate dropped", "fate "),
    "a staleness that contradicts the version fetched": edited(r"staleness 0(  .*fate)", r"staleness 1\1"),
    "a negative staleness": edited(r"staleness \d+(  .*fate)", r"staleness -1\1"),
    "a staleness in words": edited(r"staleness \d+(  .*fate)", r"staleness little\1"),
    "a future version": edited(r"staleness \d+  fetched \d+(  fate)", r"staleness 0  fetched 18\1"),
    "a version before the worker's last one": edited(r"[^ ]+  fetched \d+(  fate)", r"17  fetched 0\1"),
    "no version": edited(r"  fetched \d+(  fate)", r"\1"),
    "a gradient without a loss": edited(r"(gradient .*)  loss [^ ]+", r"\1"),
    "a gradient with a loss in words": edited(r"(gradient .*)  loss [^ ]+", r"\1  loss small"),
    "a gradient without a batch": edited(r"(gradient .*)  batch [^ ]+", r"\1"),
    "a gradient of a batch before": edited(r"(gradient .*)  batch [^ ]+", r"\1  batch 1/5"),
    "a gradient of an epoch too many": edited(r"(gradient .*)  epoch [^ ]+", r"\1  epoch 3/2"),
    "a gradient of nobody": edited(r"(gradient \d+)  Worker_\d", r"\1"),
    "a gradient of a worker too many": edited(r"(gradient \d+)  Worker_\d", r"\1  Worker_3"),
    "a gradient twice": edited(r"^(.* gradient .*\n)", r"\1\1"),
    "an update of nobody's gradient": edited("  gradients 2", ""),
    "an update of several gradients on a future version": edited("(gradients 2 .*fetched) 17", r"\1 18"),
    "a lost worker too many": edited("lost  Worker_2", "lost  Worker_3"),
    "a lost worker 0": edited("lost  Worker_2", "lost  Worker_0"),
    "a lost worker without a number": edited("lost  Worker_2", "lost  Worker_two"),
    "a lost worker without a name": edited("lost  Worker_2", "lost"),
    "a lost worker without a reason": edited("(lost  Worker_2).*", r"\1"),
    "a lost worker that is lost again": edited(r"^(.*lost  Worker_2.*)$", r"\1\n\1"),
    "a lost worker before the start": edited(r"^.* s  lost", "-1.0 s  lost"),
}


@pytest.mark.parametrize("kind", LINES_OF_FORMAT_2)
def test_wrong_lines_of_gradients_and_lost_workers_are_refused(kind, rewritten_log):
    assert_line_refused(rewritten_log, LINES_OF_FORMAT_2[kind])


def test_a_lost_worker_that_goes_on_is_refused(log):
    text = log.read_text()
    log.write_text(text.replace("\n", "\n0.0 s  lost  Worker_2  how killed by SIGKILL\n", 1))
    assert_refused(lambda: read_log(log), log, "Worker_2 was lost before")


def test_logs_of_format_1_are_read(logs):
    """Format 1 recorded no staleness and dropped no gradients, but gave each gradient a line of its own, too."""
    text = logs.synchronous.read_text()
    old = re.sub(r"  staleness \d+(  fetched \d+)  fate buffered", r"\1", text).replace('"format": 2', '"format": 1')
    path = Path(logs.synchronous.name)
    path.write_text(old)
    assert "fate" in text and "fate" not in old
    log, before = read_log(path), read_log(logs.synchronous)
    assert (log.header["format"], before.header["format"]) == (1, 2)
    for column in ("worker", "step", "loss", "staleness", "fetched", "version", "dropped"):
        assert np.array_equal(getattr(log.gradients, column), getattr(before.gradients, column))


# ----------------------------------------------------------------------------------------------------
# Headers
# ----------------------------------------------------------------------------------------------------


def header(**changes: object) -> Damage:
    """A log whose header has other entries; None removes one. The entries of a dictionary change one by one."""

    def damage(path: Path, good: Path) -> None:
        first, rest = good.read_text().split("\n", 1)
        head = json.loads(first)
        entries = {key: head[key] | value if isinstance(value, dict) else value for key, value in changes.items()}
        head = {name: value for name, value in (head | entries).items() if value is not None}
        path.write_text(f"{json.dumps(head)}\n{rest}")

    return damage


def first_line(line: str) -> Damage:
    """A log with another first line."""
    return lambda path, good: path.write_text(line + "\n" + good.read_text().split("\n", 1)[1])


def settings(**changes: object) -> Damage:
    """A log whose header has other settings."""
    return header(config=changes)


HEADERS = {
    "an empty header": first_line("{}"),
    "a header that is no JSON": first_line('{"config": '),
    "a header of a hundred thousand brackets": first_line('{"config": ' + 100_000 * "["),
    "no format": header(format=None),
    "a format in words": header(format="two"),
    "no settings": header(config=None),
    "settings in a list": header(config=[1]),
    "an unknown setting": settings(haste=1),
    "no seed": header(seed=None),
    "a seed in words": header(seed="one"),
    "a seed that is no integer": header(seed=1.5),
    "no clock": header(clock=None),
    "versions in a list": header(versions=[]),
    "a host that is a number": header(host=7),
    "threads in words": header(threads_per_gradient="two"),
    "no threads": header(threads_per_gradient=0),
    "a negative number of threads": header(threads_per_gradient=-1),
    "a million threads": header(threads_per_gradient=1_000_000),
    "data without a fingerprint": header(data=7),
    "no samples": header(worker_samples=None),
    "samples in words": header(worker_samples=["many", "more"]),
    "a negative number of samples": header(worker_samples=[-130, 130]),
    "one worker's samples": header(worker_samples=[130]),
    "one worker": header(worker_samples=[130], worker_batches_per_epoch=[5]),
    "world_size 1": settings(world_size=1),
    "world_size 5": settings(world_size=5),
    "a world_size in words": settings(world_size="3"),
    "an lr of 0": settings(lr=0),
    "a negative lr": settings(lr=-0.1),
    "an lr of nan": settings(lr=float("nan")),
    "an lr in words": settings(lr="fast"),
    "a negative momentum": settings(momentum=-1),
    "a batch_size of 0": settings(batch_size=0),
    "another batch_size": settings(batch_size=64),
    "half an epoch": settings(epochs=0.5),
    "a train_split of 2": settings(train_split=2),
    "an unknown data set": settings(dataset="letters"),
    "a data set in a list": settings(dataset=["digits"]),
    "an unknown network": settings(network="LeNet6"),
    "an unknown algorithm": settings(algorithm="luck"),
    "an unknown mode": settings(mode="weekly"),
    "an unknown partition": settings(partition="by_colour"),
    "another clock": settings(clock="sundial"),
    "a delay of nobody": settings(delay_ms=3.0),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_wrong_headers_are_refused(kind, log):
    spoil(log, HEADERS[kind])
    assert_refused(lambda: read_log(log), f"{log}, line 1: not the header of a log")


@pytest.mark.parametrize("number", [0, 3])
def test_logs_of_unknown_formats_are_refused(number, log):
    spoil(log, header(format=number))
    assert_refused(lambda: read_log(log), f"{log}, line 1: ", f"format {number}", "expected 1 or 2")


def test_lines_beyond_the_epochs_of_the_header_are_refused(log):
    spoil(log, settings(epochs=1))
    assert_refused(lambda: read_log(log), f"{log}, line ", "mini-batch 6 is not in [1,5]")


def test_a_list_in_the_first_line_is_no_header(log):
    spoil(log, first_line("[1, 2]"))
    assert_refused(lambda: read_log(log), f"{log}, line 1: ")


# ----------------------------------------------------------------------------------------------------
# Logs that cannot be replayed
# ----------------------------------------------------------------------------------------------------


def plan_of_replay(path: Path) -> Plan:
    """What a replay does before the first gradient."""
    log = read_log(path)
    config = config_of_replay(log, {})
    return fit_plan(make_plan(config, log.seed, load_dataset("digits", "data").train), log)


def test_whole_logs_can_be_replayed(log, caplog):
    assert sum(plan_of_replay(log).steps.values()) == 20
    assert not caplog.records


WITHOUT_REPLAY = {
    "other data": header(data="0" * 16),
    "another number of samples": header(worker_samples=[129, 130]),
    "another partition": settings(partition="split_dataset"),
    "no updates": lambda path, good: path.write_text(good.read_text().split("\n", 1)[0] + "\n"),
}


@pytest.mark.parametrize("kind", WITHOUT_REPLAY)
def test_logs_that_do_not_fit_their_run_are_not_replayed(kind, log):
    read_log(spoil(log, WITHOUT_REPLAY[kind]))
    assert_refused(lambda: plan_of_replay(log), f"{log}: ")


@pytest.mark.parametrize("mode", ["synchronous", "classic"])
def test_only_asynchronous_runs_are_replayed(mode, logs):
    path = getattr(logs, mode)
    assert_refused(lambda: plan_of_replay(path), f"{path}: ", "only asynchronous runs can be replayed")


@needs_published
def test_published_logs_are_not_replayed():
    path = next(PUBLISHED.glob("*_async_*_log.log"))
    assert_refused(lambda: config_of_replay(read_log(path), {}), f"{path}: cannot be replayed: ", "no seed")


def fetched_later(path: Path, good: Path) -> None:
    """A gradient computed on a version between the one that its worker fetched and the current one."""

    def later(match: re.Match) -> str:
        return f"staleness {int(match[1]) - 1}  fetched {int(match[2]) + 1}"

    path.write_text(re.sub(r"staleness ([1-9]\d*)  fetched (\d+)", later, good.read_text(), count=1))


def last_one_buffered(path: Path, good: Path) -> None:
    """A last gradient that is said to wait for an update which never comes."""
    text = re.sub(r"^.*  (?:left|evaluation) .*\n", "", good.read_text(), flags=re.MULTILINE)
    last = r"^(.*s)  update 20/20(  Worker_.*)  weight_norm .*\n"
    path.write_text(re.sub(last, r"\1  gradient 10\2  fate buffered\n", text, flags=re.MULTILINE))


IMPOSSIBLE = {  # damage that no single line shows → what the replay says
    "a version that its worker did not fetch": (fetched_later, "was computed on version 1, but on 0 in the replay"),
    "a gradient that its algorithm would not have buffered": (
        last_one_buffered,
        "19 updates, in the replay 20",
    ),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_an_impossible_order_is_noticed_during_the_replay(kind, nursery, log):
    damage, message = IMPOSSIBLE[kind]
    read_log(spoil(log, damage))
    ended = nursery.run(f"dist_async.py --replay {log} --subfolder out", folder=Path.cwd())
    *others, error = ended.errors.splitlines()
    assert ended.code == 1 and re.search(message, error) and error.startswith(f"dist_async.py: error: {log}: ")
    assert "Traceback" not in ended.errors and not any("error" in line for line in others)


# ----------------------------------------------------------------------------------------------------
# Logs of other runs
# ----------------------------------------------------------------------------------------------------


def test_the_log_of_another_run_is_refused(logs, log):
    """Of the other seed, under its own name and under that of this run."""
    other, model = logs.other.stem.removesuffix("_log"), log.name.replace("_log.log", "_model.pt")
    this = log.stem.removesuffix("_log")
    assert_refused(lambda: test_model.base_of_run(model, read_log(logs.other)), this, other)
    shutil.copy(logs.other, log)
    assert_refused(lambda: test_model.base_of_run(model, read_log(log)), log, other)


# ----------------------------------------------------------------------------------------------------
# Logs of the published study
# ----------------------------------------------------------------------------------------------------

PUBLISHED_LINES = {
    "prose": edited("PS updated model", "PS is tired of the model"),
    "a worker too many": edited("update from Worker_1", "update from Worker_9"),
    "a loss in words": edited(r"loss: [\d.]+", "loss: a-lot"),
    "a date in words": edited(r"^\d{4}-\d\d-\d\d", "yesterday"),
    "month 13": edited(r"^(\d{4})-\d\d-", r"\1-13-"),
}


@needs_published
@pytest.mark.parametrize("kind", PUBLISHED_LINES)
def test_wrong_lines_in_published_logs_are_refused(kind):
    assert_line_refused(next(PUBLISHED.glob("*_async_*_log.log")), PUBLISHED_LINES[kind])


# ----------------------------------------------------------------------------------------------------
# What is read as far as it goes
# ----------------------------------------------------------------------------------------------------


def cut_after(pattern: str) -> Damage:
    """A text that ends right after the first match of `pattern`."""
    return lambda path, good: path.write_text(re.match(rf"[\s\S]*?{pattern}", good.read_text())[0])


CUTS = {  # where the log is cut → after what, and the number of updates before it
    "in the name of a worker": (r"\n.*update 8/\d+  Wor", 7),
    "in the last number of a line": (r"\n.*update 8/\d+  .*weight_norm \d", 7),
    "after a line": (r"\n.*update 8/.*\n", 8),
    "in a validation": (r"\n.*validation 1/", 10),
    "in the result": (r"\n.*result \{", 20),
    "after the header": (r"\A\{.*?\n", 0),
}


@pytest.mark.parametrize("where", CUTS)
def test_a_cut_log_is_read_up_to_the_cut(where, logs, log, caplog):
    pattern, updates = CUTS[where]
    found, whole = read_log(spoil(log, cut_after(pattern))), read_log(logs.asynchronous)
    assert (len(found.updates), found.result, found.status) == (updates, None, None)
    assert np.array_equal(found.updates.loss, whole.updates.loss[:updates])
    if updates:
        plan_of_replay(log)
        messages = [record.getMessage() for record in caplog.records]
        assert messages == (
            [f"{log} is partial: the log ends at gradient {updates} of 20; replaying {updates} gradients"]
            if updates < 20
            else []
        )
    else:
        assert_refused(lambda: plan_of_replay(log), f"{log}: the log has no update")


@pytest.fixture
def run_on_cut_log(logs: Logs, log: Path, nursery: Nursery) -> Callable:
    """Run a script on the log of eight updates, in the folder of the log and its model."""
    spoil(log, cut_after(CUTS["after a line"][0]))
    model = logs.asynchronous.with_name(log.name.replace("_log.log", "_model.pt"))
    shutil.copy(model, model.name)
    return lambda command: nursery.run(command.format(log=log, model=model.name), folder=Path.cwd()).went_well()


def test_a_cut_log_can_be_inspected(run_on_cut_log):
    ended = run_on_cut_log("test_model.py {model} {log} --training_time --subfolder out")
    assert "Run: cut short, the log has no result; 8 updates" in ended.output and not ended.errors


def test_a_cut_log_is_replayed_up_to_the_cut(run_on_cut_log, log):
    ended = run_on_cut_log("dist_async.py --replay {log} --subfolder out")
    (warning,) = ended.warnings
    assert f"{log} is partial: the log ends at gradient 8 of 20" in warning and "Finished 8 updates" in ended.output


def test_a_log_with_carriage_returns_is_read(logs, log):
    found, whole = read_log(spoil(log, with_carriage_returns)), read_log(logs.asynchronous)
    assert (found.header, found.result, found.validations) == (whole.header, whole.result, whole.validations)
    assert len(found.updates) == 20 and np.array_equal(found.updates.weight_norm, whole.updates.weight_norm)
