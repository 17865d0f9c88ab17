"""Damaged tables: the results of a grid search, and the trials of a sweep. Both are read line by line."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.reports.trials import Trial, TrialOutcome, Trials
from cross_validation.grid import Configuration, SearchSettings
from cross_validation.results import Result, ResultsFile
from cross_validation.summary import read_best
from damage import (
    DAMAGES,
    Damage,
    assert_refused,
    cut,
    edited,
    empty,
    first_difference,
    missing,
    name_of,
    replaced,
    spoil,
    with_carriage_returns,
)
from interface.errors import DataError
from training.config import RunConfig


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


def damage_line(path: Path, damage: Damage) -> int:
    """Damage a table; returns the number of the line that differs first."""
    good = path.with_name("before")
    good.write_bytes(path.read_bytes())
    spoil(path, damage)
    number = first_difference(path, good)
    good.unlink()
    return number


# ----------------------------------------------------------------------------------------------------
# The results of a grid search
# ----------------------------------------------------------------------------------------------------

SETTINGS = SearchSettings("digits", "LeNet5", "SGD", samples=60, folds=2, seed=1, data="0123456789abcdef")
RESULTS = [
    Result(Configuration(0.05, 0.0, 16), 1, losses=(2.3, 2.25), accuracies=(10.0, 13.5), seconds=0.5),
    Result(Configuration(0.1, 0.0, 16), 1, losses=(2.2, math.nan), accuracies=(20.0, 10.0), seconds=0.25),
]


def read_results(path: Path) -> list[Result]:
    with ResultsFile(path, SETTINGS) as file:
        return list(file.results.values())


@pytest.fixture
def results() -> Path:
    """A results file of two rows."""
    path = Path(f"{SETTINGS.name}.csv")
    with ResultsFile(path, SETTINGS) as file:
        for result in RESULTS:
            file.add(result)
    return path


READERS = {"kfold": read_results, "summary": read_best}
DAMAGED_RESULTS = [
    pytest.param(reader, damage, id=f"{reader}: {damage.__name__}")
    for reader, whole in (("kfold", {cut, empty, missing}), ("summary", {cut}))  # what it takes for a search so far
    for damage in DAMAGES
    if damage not in whole
]


def test_whole_results_are_read(results):
    assert list(map(str, read_results(results))) == list(map(str, RESULTS))
    assert read_best(results) == (SETTINGS, RESULTS[0])  # the other one did not converge


@pytest.mark.parametrize("reader, damage", DAMAGED_RESULTS)
def test_damaged_results_are_refused(reader, damage, results):
    spoil(results, damage)
    assert_refused(lambda: READERS[reader](results), results, error=(DataError, OSError))


def impossible_accuracies(path: Path, good: Path) -> None:
    """A row whose accuracies of 200 % agree with their mean and deviation."""
    titles, row, *rest = good.read_text().split("\n")
    columns = dict(zip(titles.split(","), row.split(","), strict=True))
    columns |= {"accuracies": "200.0 200.0", "accuracy_mean": "200", "accuracy_std": "0"}
    path.write_text("\n".join([titles, ",".join(columns.values()), *rest]))


ROWS = {
    "other columns": edited("dataset,", "data,"),
    "a missing column": edited(r",[^,]*$", ""),
    "a row of another search": edited(r"^digits", "mnist"),
    "a row with another seed": edited(r",2,1,", ",2,7,"),
    "a row of other data": edited("0123456789abcdef", "0000000000000000"),
    "a number in words": edited(r"^(digits.*,)0\.05,", r"\1little,"),
    "half a sample in a batch": edited(",16,", ",16.5,"),
    "empty batches": edited(",16,", ",0,"),
    "no epochs": edited(r",16,1,", ",16,0,"),
    "a negative learning rate": edited(",0.05,", ",-0.05,"),
    "a negative momentum": edited(",0.0,", ",-1.0,"),
    "a mean that contradicts its values": edited(r",16,1,[^,]*,", ",16,1,99.5,"),
    "accuracies of 200 %": impossible_accuracies,
    "a missing fold": edited(r" [^ ,]+$", ""),
    "an integer of five thousand digits": edited(",16,", "," + 5000 * "9" + ","),
    "a row cut in the middle": edited(r"^(digits.{30}).*$", r"\1"),
    "an empty row": edited(r"\n", r"\n\n"),
    "binary data in a row": replaced(b"LeNet5", b"\xff\x00"),
    "carriage returns": with_carriage_returns,
}


@pytest.mark.parametrize("kind", ROWS)
def test_wrong_rows_of_a_search_are_refused(kind, results):
    number = damage_line(results, ROWS[kind])
    assert_refused(lambda: read_results(results), f"{results}, line {number}: ")
    assert_refused(lambda: read_best(results), results)


@pytest.mark.parametrize("damage", [cut, empty, missing], ids=name_of)
def test_a_search_completes_torn_or_missing_results(damage, results):
    before = results.read_bytes()
    spoil(results, damage)
    with ResultsFile(results, SETTINGS) as file:
        assert not file.results
        for result in RESULTS:
            file.add(result)
    assert results.read_bytes() == before


@pytest.mark.parametrize("size", [1, 30, -1])
def test_a_torn_last_row_is_dropped_and_completed(size, results):
    """Even one that is whole but for its line feed."""
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join([*lines[:2], lines[2][:size]]))
    with ResultsFile(results, SETTINGS) as file:
        assert list(file.results.values()) == RESULTS[:1]
        file.add(RESULTS[1])
    assert results.read_bytes() == b"".join(lines)


# ----------------------------------------------------------------------------------------------------
# The trials of a sweep
# ----------------------------------------------------------------------------------------------------

OUTCOME = TrialOutcome(
    test_accuracy=90.5, test_loss=0.25, train_accuracy=95.25, train_loss=0.125, seconds=1.5, updates=20,
    mean_staleness=0.95, max_staleness=2, converged=True, dropped_gradients=3, lost_workers="Worker_2",
    started="2026-01-01T00:00:00.000+00:00", revision="0123456789ab",
)  # fmt: skip
DIVERGED = dataclasses.replace(OUTCOME, test_loss=math.nan, train_loss=math.inf, converged=False)


def trial(seed: int | None, outcome: TrialOutcome = OUTCOME) -> Trial:
    config = RunConfig(mode="async", dataset="digits", lr=0.05, network="CNN1", clock="virtual", seed=seed)
    return Trial(f"run_{seed}", seed, "virtual", config, outcome)


TRIALS = [trial(1), trial(2), trial(None, DIVERGED)]
FOLDER = Path("sweep")


@pytest.fixture
def trials() -> Path:
    """A file of three trials."""
    table = Trials(FOLDER)
    for one in TRIALS:
        table.add(one)
    return table.path


def read_trials() -> list[Trial]:
    return list(Trials(FOLDER).rows.values())


def test_whole_trials_are_read(trials):
    assert trials == FOLDER / "trials.jsonl" and trials.read_text().count("\n") == 3
    assert list(map(str, read_trials())) == list(map(str, TRIALS))


TORN = (cut, empty, missing)  # all that is left is the beginning of a line, or nothing


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage not in TORN], ids=name_of)
def test_damaged_trials_are_refused(damage, trials):
    spoil(trials, damage)
    assert_refused(read_trials, trials, error=(DataError, OSError))


def second_line(line: str) -> Damage:
    """Another second line of three."""

    def damage(path: Path, good: Path) -> None:
        first, _, third = good.read_text().splitlines()
        path.write_text(f"{first}\n{line}\n{third}\n")

    return damage


def changed(change: Callable[[dict[str, Any]], object]) -> Damage:
    """The second trial after `change`."""

    def damage(path: Path, good: Path) -> None:
        entries = json.loads(good.read_text().splitlines()[1])
        change(entries)
        second_line(json.dumps(entries))(path, good)

    return damage


def entry(**values: object) -> Damage:
    return changed(lambda entries: entries.update(values))


def setting(**values: object) -> Damage:
    return changed(lambda entries: entries["config"].update(values))


def outcome(**values: object) -> Damage:
    return changed(lambda entries: entries["outcome"].update(values))


def without(key: str, part: str | None = None) -> Damage:
    return changed(lambda entries: (entries[part] if part else entries).pop(key))


LINES = {
    "prose": second_line("the second run went well"),
    "a list": second_line("[1, 2]"),
    "a number": second_line("7"),
    "a text": second_line('"run_2"'),
    "null": second_line("null"),
    "an empty object": second_line("{}"),
    "a hundred thousand brackets": second_line('{"name": ' + 100_000 * "["),
    "an empty line": edited(r"\n", r"\n\n"),
    "a line cut in the middle": lambda path, good: second_line(good.read_text().splitlines()[1][:200])(path, good),
    "two trials in a line": edited(r"\}\n\{", "}{"),
    "carriage returns within a line": edited(r"\n(.{100})", r"\n\1\r"),
    "binary data": replaced(b'{"name": "run_2"', b'\xff\x00"run_2"'),
    "no name": without("name"),
    "no seed": without("seed"),
    "no clock": without("clock"),
    "no configuration": without("config"),
    "no outcome": without("outcome"),
    "no accuracy": without("test_accuracy", "outcome"),
    "no number of updates": without("updates", "outcome"),
    "no mode": without("mode", "config"),
    "a name that is a number": entry(name=7),
    "a seed in words": entry(seed="two"),
    "half a seed": entry(seed=1.5),
    "a seed that is true": entry(seed=True),
    "a clock that is a number": entry(clock=10),
    "a configuration in a list": entry(config=[1]),
    "an outcome in a list": entry(outcome=[1]),
    "an outcome that is a text": entry(outcome="good"),
    "an accuracy in words": outcome(test_accuracy="high"),
    "an accuracy that is true": outcome(test_accuracy=True),
    "an accuracy that is null": outcome(test_accuracy=None),
    "a list of losses": outcome(test_loss=[0.25]),
    "half an update": outcome(updates=20.5),
    "updates in a text": outcome(updates="20"),
    "updates that are true": outcome(updates=True),
    "half an update of staleness": outcome(max_staleness=1.5),
    "neither true nor false": outcome(converged="perhaps"),
    "a number in place of true": outcome(converged=1),
    "half a dropped gradient": outcome(dropped_gradients=0.5),
    "lost workers in a list": outcome(lost_workers=["Worker_2"]),
    "a start that is a number": outcome(started=2026),
    "an unknown outcome": outcome(beauty=1.0),
    "a negative learning rate": setting(lr=-1),
    "a learning rate in words": setting(lr="fast"),
    "half an epoch": setting(epochs=0.5),
    "an unknown setting": setting(haste=1),
    "an unknown data set": setting(dataset="letters"),
    "an unknown mode": setting(mode="weekly"),
    "an unknown algorithm": setting(algorithm="luck"),
    "a setting without effect": setting(delay_ms=3.0),
}


@pytest.mark.parametrize("kind", LINES)
def test_wrong_lines_of_trials_are_refused(kind, trials):
    number = damage_line(trials, LINES[kind])
    assert_refused(read_trials, f"{trials}, line {number}: damaged (")


OLDER = {  # what an older line lacks → where, and what came of the run
    "network": ("config", OUTCOME),
    "algorithm": ("config", OUTCOME),
    "peer_timeout": ("config", OUTCOME),
    "dropped_gradients": ("outcome", dataclasses.replace(OUTCOME, dropped_gradients=0)),
    "lost_workers": ("outcome", dataclasses.replace(OUTCOME, lost_workers="")),
    "started": ("outcome", dataclasses.replace(OUTCOME, started="")),
}


@pytest.mark.parametrize("key", OLDER)
def test_what_an_older_line_lacks_reads_as_its_default(key, trials):
    part, expected = OLDER[key]
    damage_line(trials, without(key, part))
    assert read_trials()[1] == trial(2, expected)


def test_integers_in_place_of_numbers_are_read(trials):
    damage_line(trials, outcome(test_accuracy=90, seconds=2))
    assert read_trials()[1].outcome == dataclasses.replace(OUTCOME, test_accuracy=90.0, seconds=2.0)


@pytest.mark.parametrize("damage", TORN, ids=name_of)
def test_a_torn_last_line_is_dropped_and_overwritten(damage, trials):
    before = trials.read_bytes()
    spoil(trials, damage)
    table = Trials(FOLDER)
    assert list(table.rows) == (["run_1"] if damage is cut else [])
    for one in TRIALS[len(table.rows) :]:
        table.add(one)
    assert trials.read_bytes() == before


@pytest.mark.parametrize("size", [1, 2, 100, -1])
def test_a_line_torn_anywhere_is_dropped(size, trials):
    """Even one that is whole but for its line feed."""
    lines = trials.read_bytes().splitlines(keepends=True)
    trials.write_bytes(b"".join([*lines[:2], lines[2][:size]]))
    table = Trials(FOLDER)
    assert list(table.rows) == ["run_1", "run_2"]
    table.add(TRIALS[2])
    assert trials.read_bytes() == b"".join(lines)
