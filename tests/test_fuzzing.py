"""Whatever a file or a command line contains, it is read, or refused with an error meant for the user.

FUZZ_EXAMPLES=100000 python3 -m pytest tests/test_fuzzing.py

searches for hours, from another start each time; without the variable a short search is repeated identically.
"""

import io
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analysis.landscape.numbers import read_numbers, write_numbers
from analysis.reports.trials import Trials
from catalogue import PARTITIONS
from common import build_model, load_dataset
from conftest import PUBLISHED, needs_published, train
from cross_validation.grid import Configuration, SearchSettings
from cross_validation.results import Result, ResultsFile
from interface.errors import DataError, UsageError
from training.command_line import make_parser
from training.config import RunConfig
from training.engines.replay import config_of_replay
from training.flags import DISTRIBUTED, MODES
from training.names import parse_run_name, run_name
from training.plan import make_plan
from training.record.models import read_model, read_weights
from training.record.reader import read_log
from training.settings import ROWS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
fuzzed = settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
REPORTED = (DataError, UsageError)  # errors that are reported in one line

# ----------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------

NUMBERS = (b"NaN", b"inf", b"-inf", b"-1", b"0", b"1e999", b"9" * 30, b"0.5", b"1e-320", b"null", b"[]", b"{}", b'""',
           b"true", "٣".encode(), b"1_0", b"0x10", b" ", b"")  # fmt: skip
PIECES = st.one_of(st.sampled_from([*NUMBERS, b"\n", b"\0", b"  ", b"\r\n", b"\xff\xfe", b","]), st.binary(max_size=8))


@st.composite
def edits(draw: st.DrawFn) -> list[tuple]:
    """Some edits of a file; places are fractions of its length."""
    place = st.floats(0, 1)
    kinds = st.one_of(
        st.tuples(st.just("number"), place, st.sampled_from(NUMBERS)),
        st.tuples(st.just("insert"), place, PIECES),
        st.tuples(st.just("replace"), place, PIECES),
        st.tuples(st.just("delete"), place, st.integers(1, 200)),
        st.tuples(st.just("repeat"), place, st.integers(1, 200)),
        st.tuples(st.just("line"), place, place),
        st.tuples(st.just("cut"), place, st.none()),
    )
    return draw(st.lists(kinds, min_size=1, max_size=4))


def edited(content: bytes, changes: list[tuple]) -> bytes:
    """The content after these edits."""
    for kind, place, what in changes:
        at = int(place * len(content))
        if kind == "number":
            if found := re.compile(rb"-?\d[\d.e+-]*").search(content, at):
                content = content[: found.start()] + what + content[found.end() :]
        elif kind == "insert":
            content = content[:at] + what + content[at:]
        elif kind == "replace":
            content = content[:at] + what + content[at + len(what) :]
        elif kind == "delete":
            content = content[:at] + content[at + what :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + what] + content[at:]
        elif kind == "line":
            lines = content.splitlines(keepends=True)
            if lines:
                lines.insert(int(what * len(lines)), lines[min(int(place * len(lines)), len(lines) - 1)])
            content = b"".join(lines)
        else:
            content = content[:at]
    return content


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    flags = ("--train_split", 0.2, "--clock", "virtual", "--seed", 1, "--saves_per_epoch", 2, "--val",
             "--algorithm", "ringmaster", "--evals_per_epoch", 2, "--epochs", 2)  # fmt: skip
    found = train("dist_async.py", folder, *flags)
    trials = Trials(folder)
    assert trials.add_missing(folder, "data") == 0
    found["trials"] = trials.path
    found["numbers"] = folder / "numbers.npz"
    write_numbers(found["numbers"], {"model": "one"}, losses=np.ones((3, 3)), done=np.ones(9, dtype=bool))
    with ResultsFile(folder / "search.csv", SEARCH) as file:
        file.add(Result(Configuration(0.1, 0.9, 16), 1, (2.0, 1.5), (50.0, 60.0), 3.25))
        file.add(Result(Configuration(0.01, 0.9, 16), 1, (float("nan"), 1.5), (10.0, 60.0), 3.25))
    found["search"] = file.path
    return found


SEARCH = SearchSettings("digits", "SGD", "LeNet5", samples=60, folds=2, seed=1, data="0123456789abcdef")


def read_search(path: Path) -> None:
    with ResultsFile(path, SEARCH):
        pass


def read_a_log(path: Path) -> None:
    """Everything that scripts do with a log before they draw it."""
    log = read_log(path)
    assert np.isfinite(log.gradients.seconds).all() and (log.gradients.staleness >= 0).all()
    assert len(log.saved_versions) < 1e6
    if log.header is not None:
        run_name(log.config)
        make_plan(config_of_replay(log, {}), log.seed, load_dataset("digits", "data").train)


def read_trials(path: Path) -> None:
    for trial in Trials(path.parent).rows.values():
        assert np.isfinite(trial.outcome.test_accuracy)
        run_name(trial.config)


READERS: dict[str, Callable[[Path], object]] = {
    "log": read_a_log,
    "model": lambda path: read_model(path, build_model("digits", "LeNet5")),
    "weights": lambda path: read_weights(path, 61_706),
    "trials": read_trials,
    "numbers": lambda path: read_numbers(
        path, {"model": "one"}, losses=np.ones((3, 3)), done=np.ones(9, dtype=bool)
    ),
    "search": read_search,
}  # fmt: skip


def read_edited(read: Callable[[Path], object], good: Path, changes: list[tuple]) -> None:
    """Read a copy of a good file after some edits; only an error for users is allowed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / good.name
        path.write_bytes(edited(good.read_bytes(), changes))
        with suppress(*REPORTED):
            read(path)


@pytest.mark.parametrize("kind", READERS)
@given(changes=edits())
@fuzzed
def test_edited_files(kind, files, changes):
    read_edited(READERS[kind], files[kind], changes)


@needs_published
@pytest.mark.parametrize("mode", MODES)
@given(changes=edits())
@fuzzed
def test_edited_published_logs(mode, short_logs, changes):
    read_edited(read_log, short_logs[mode], changes)


@pytest.fixture(scope="module")
def short_logs(tmp_path_factory) -> dict[str, Path]:
    """The beginning of each published log, and its end."""
    found = {}
    for mode in MODES:
        (log,) = PUBLISHED.glob(f"*_{mode}_*_log.log")
        lines = log.read_bytes().splitlines(keepends=True)
        found[mode] = tmp_path_factory.mktemp(mode) / log.name
        found[mode].write_bytes(b"".join(lines[:40] + lines[-5:]))
    return found


# ----------------------------------------------------------------------------------------------------
# Names and command lines
# ----------------------------------------------------------------------------------------------------

WORDS = sorted({str(word) for row in ROWS.values() for word in getattr(row.valid, "__iter__", list)()})


@given(name=st.one_of(st.text(max_size=60), edits()))
@fuzzed
def test_names_of_files(name):
    good = b"fashion_mnist_async_11_100_0005_09_32_6_SGD_spe3_labels_delay_slow_worker_1_long_constant_model.pt"
    text = name if isinstance(name, str) else edited(good, name).decode(errors="replace")
    with suppress(*REPORTED):
        parse_run_name(text)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A mode and some of its flags, with values of all kinds."""
    mode = draw(st.sampled_from(sorted(MODES)))
    flags = [name for name, row in ROWS.items() if mode in row.modes and name not in ("replay", "partition")]
    flags += [name for name in PARTITIONS if name != "none"]
    values = st.one_of(st.sampled_from(WORDS), st.integers(-2, 70).map(str), st.floats(-1, 100).map(str),
                       st.sampled_from(["nan", "inf", "1e400", "", "-", "9" * 25]), st.text(max_size=5))  # fmt: skip
    line = []
    for name in draw(st.lists(st.sampled_from(flags), max_size=6)):
        line += [f"--{name}", *draw(st.lists(values, max_size=1))]
    return mode, line


@given(line=command_lines())
@example(line=("sync", ["--split_dataset", "\n"]))
@example(line=("sync", ["--compute_time", "\n"]))
@fuzzed
def test_command_lines(line):
    mode, words = line
    errors = io.StringIO()
    try:
        with redirect_stderr(errors), redirect_stdout(io.StringIO()), patch.object(sys, "argv", ["script.py", *words]):
            config = RunConfig(mode=mode, **vars(make_parser(mode, "").parse_args()))
    except SystemExit as ended:
        assert ended.code == 0 or (ended.code == 2 and errors.getvalue().count("\n") == 1), errors.getvalue()
    except UsageError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert run_name(config) and (mode in DISTRIBUTED) == config.distributed
        with suppress(*REPORTED):
            make_plan(config, 1, load_dataset("digits", "data").train)
