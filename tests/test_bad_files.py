"""Damaged models, weights, landscape numbers and data, and what each script does with a damaged file.

Whatever a file holds, it is refused in one line that names it, or read as far as it is whole. Readers are tested in
process; the command lines have a case for each file that they read. Logs are in test_bad_logs.py, tables in
test_bad_tables.py.
"""

import json
import os
import pickle
import re
import shutil
import urllib.request
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.error import URLError

import numpy as np
import pytest
import torch

import test_model
from analysis.landscape.inputs import Source, SurveySettings
from analysis.landscape.sources import prepare
from analysis.landscape.survey import Evaluation, Survey
from common import FlatModel, build_model, load_dataset
from conftest import PUBLISHED, needs_published
from damage import (
    DAMAGES,
    Damage,
    Trap,
    array_of_traps,
    assert_refused,
    contents,
    cut,
    directory,
    edited,
    empty,
    garbage,
    link_or_copy,
    missing,
    name_of,
    pickled_trap,
    picture,
    prose,
    replaced,
    spoil,
    zeros,
    zipped_trap,
)
from interface.errors import DataError, UsageError
from nursery import Ended, Nursery
from training.names import base_of, parse_run_name
from training.record.models import check_norm, read_model, read_weights
from training.record.reader import read_log

# ----------------------------------------------------------------------------------------------------
# Good files, and the command lines that read them
# ----------------------------------------------------------------------------------------------------

SMALL = "--dataset digits --train_split 0.1 --epochs 2 --lr 0.05 --momentum 0.9"
ASYNC = "digits_async_3_10_005_09_32_2_SGD_spe2_val_seed1_virtual"
OTHER = "digits_async_3_10_005_09_32_2_SGD_spe2_val_seed2_virtual"
SYNC = "digits_sync_3_10_005_09_32_2_SGD_spe2_seed1_virtual"
CLASSIC = "digits_classic_0_10_005_09_32_2_SGD_seed1"
MNIST = "mnist_classic_0_100_001_00_32_1_SGD_spe2_seed1"
MODEL, WEIGHTS, LOG = f"{ASYNC}_model.pt", f"{ASYNC}_weights.npy", f"{ASYNC}_log.log"
NUMBERS = "pair_loss_landscape_multi_numbers.npz"
CSV, TRIALS = "search/kfold_digits_SGD_LeNet5_samples60_folds2_seed1.csv", "runs/trials.jsonl"
RAW = "data/MNIST/raw"
IMAGES, LABELS = f"{RAW}/train-images-idx3-ubyte", f"{RAW}/train-labels-idx1-ubyte"

SETTINGS = SurveySettings(grid_size=2, batch_size=250, margin=0.2, test_samples=20, data_dir=Path("data"))
QUICK = "--grid_size 2 --test_samples 20"
COMMANDS = {
    "test_model": f"test_model.py {MODEL} {LOG} --training_time --subfolder out",
    "loss_landscape": f"loss_landscape.py {MODEL} {WEIGHTS} {QUICK} --subfolder out",
    "loss_landscape_multi": f"loss_landscape_multi.py {MODEL} {WEIGHTS} {SYNC}_weights.npy {QUICK} --subfolder out",
    "grid_losses": f"loss_landscape_multi.py {MODEL} {WEIGHTS} {SYNC}_weights.npy {QUICK} --grid_losses {NUMBERS} "
    "--subfolder out",
    "replay": f"dist_async.py --dataset digits --replay {LOG} --subfolder out",
    "kfold": "kfold.py --dataset digits --max_samples 60 --k_splits 2 --epochs 1 --learning_rates 0.05 0.1 "
    "--batch_sizes 16 --jobs 1 --seed 1 --subfolder search",
    "summary": "analysis/reports/summary.py runs",
    "summary of searches": "cross_validation/summary.py search",
    "nonDistributed on mnist": "nonDistributed.py --dataset mnist --data_dir data --saves_per_epoch 2 --seed 1 "
    "--subfolder out",
    "dist_sync on mnist": "dist_sync.py --dataset mnist --data_dir data --clock virtual --subfolder out",
    "dist_async on mnist": "dist_async.py --dataset mnist --data_dir data --subfolder out",
    "kfold on mnist": "kfold.py --dataset mnist --data_dir data --k_splits 2 --epochs 1 --learning_rates 0.1 "
    "--batch_sizes 16 --subfolder out",
    "test_model on mnist": f"test_model.py {MNIST}_model.pt {MNIST}_log.log --data_dir data --subfolder out",
    "loss_landscape on mnist": f"loss_landscape.py {MNIST}_model.pt {MNIST}_weights.npy {QUICK} --data_dir data "
    "--subfolder out",
}


@pytest.fixture(scope="module")
def good(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small runs, a landscape, a search, a summary and data."""
    folder = tmp_path_factory.mktemp("good")
    write_mnist(folder / RAW)
    for line in (
        f"dist_async.py {SMALL} --saves_per_epoch 2 --val --seed 1 --clock virtual",
        f"dist_async.py {SMALL} --saves_per_epoch 2 --val --seed 2 --clock virtual",
        f"dist_sync.py {SMALL} --saves_per_epoch 2 --seed 1 --clock virtual",
        f"nonDistributed.py {SMALL} --seed 1 --subfolder runs",
        f"nonDistributed.py {SMALL} --seed 2 --subfolder runs",
        COMMANDS["kfold"],
        COMMANDS["summary"],
        COMMANDS["nonDistributed on mnist"].replace("--subfolder out", "--subfolder ."),
    ):
        nursery.run(line, folder=folder).went_well()
    survey, evaluation = survey_of_pair(folder)
    survey.measure(evaluation, folder / "unfinished.npz").save(folder / NUMBERS)
    for path in [*folder.glob("unfinished.npz"), *folder.rglob("*.png")]:
        path.unlink()
    return folder


def survey_of_pair(folder: Path) -> tuple[Survey, Evaluation]:
    """The survey of two runs that `grid_losses` reads the numbers of."""
    files = (MODEL, WEIGHTS, f"{SYNC}_weights.npy")
    model, *weights = (Source(folder / path, parse_run_name(base_of(path))) for path in files)
    return prepare(model, weights, ["asynchronous", "synchronous"], SETTINGS)


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the format of MNIST's files: magic number, sizes, content."""
    return b"".join(size.to_bytes(4, "big") for size in (0x800 + array.ndim, *array.shape)) + array.tobytes()


def write_mnist(folder: Path) -> None:
    """Noise in place of MNIST: 40 images to train on, 20 to test on."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        images = noise.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))


@pytest.fixture
def copy(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the good folder, as the working directory."""
    folder = Path(shutil.copytree(good, tmp_path / "copy", copy_function=link_or_copy))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(nursery: Nursery, copy: Path) -> Callable[..., Ended]:
    """Run a command line in the copy of the good folder."""
    return lambda command, *arguments: nursery.run(COMMANDS.get(command, command), *arguments, folder=copy)


@pytest.mark.parametrize(
    "trap, spring",
    [
        (pickled_trap, lambda path: pickle.loads(path.read_bytes())),
        (zipped_trap, lambda path: torch.load(path, weights_only=False)),
        (array_of_traps, lambda path: np.load(path, allow_pickle=True)),
    ],
    ids=["pickled", "zipped", "in an array"],
)
def test_the_traps_would_have_sprung(trap, spring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap(tmp_path / "trap", tmp_path)
    spring(tmp_path / "trap")
    assert (tmp_path / "sprung").is_dir()


# ----------------------------------------------------------------------------------------------------
# Command lines
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_good_files_are_accepted(command, run):
    ended = run(command).went_well()
    assert ended.output and not ended.errors


READ = [  # command, file, damage, exit code
    ("test_model", MODEL, pickled_trap, 1),
    ("test_model", LOG, garbage, 1),
    ("test_model", LOG, missing, 2),
    ("loss_landscape", MODEL, zipped_trap, 1),
    ("loss_landscape", WEIGHTS, array_of_traps, 1),
    ("loss_landscape", WEIGHTS, directory, 2),
    ("loss_landscape_multi", f"{SYNC}_weights.npy", cut, 1),
    ("grid_losses", NUMBERS, array_of_traps, 1),
    ("grid_losses", NUMBERS, missing, 2),
    ("replay", LOG, prose, 1),
    ("replay", LOG, missing, 2),
    ("kfold", CSV, zeros, 1),
    ("kfold", CSV, directory, 1),
    ("summary", TRIALS, garbage, 1),
    ("summary", TRIALS, directory, 1),
    ("summary of searches", CSV, picture, 1),
    *((command, IMAGES, cut, 1) for command in COMMANDS if command.endswith(" on mnist")),
]


@pytest.mark.parametrize(
    "command, file, damage, code",
    [pytest.param(*case, id=f"{case[0]}: {case[2].__name__} {Path(case[1]).suffix or 'data'}") for case in READ],
)
def test_damaged_files_are_refused(command, file, damage, code, run, copy):
    spoil(copy / file, damage)
    before = contents(copy)
    ended = run(command)
    ended.refused(*(("data set mnist: ", f"{IMAGES} is damaged", "--data_dir") if file == IMAGES else (file,)))
    assert ended.code == code
    assert contents(copy) == before
    assert not (copy / "sprung").exists()


NAMES = {  # command line → what the error names
    f"test_model.py mine.pt {LOG}": "mine.pt",
    f"test_model.py {OTHER}_model.pt {LOG}": OTHER,
    f"test_model.py {LOG} {MODEL}": MODEL,
    f"loss_landscape.py {MODEL} mine_weights.npy": "mine",
    f"loss_landscape.py mine_model.pt {WEIGHTS}": "mine",
    f"loss_landscape.py {MODEL} {MODEL}": MODEL,
    f"loss_landscape_multi.py {MODEL} {WEIGHTS} mine_weights.npy": "mine",
    f"loss_landscape_multi.py {MODEL} {WEIGHTS} --grid_losses runs": "--grid_losses runs",
    "dist_async.py --replay runs": "runs",
    "analysis/reports/summary.py none": "none",
    f"analysis/reports/summary.py {LOG}": LOG,
    "cross_validation/summary.py none": "none",
}


@pytest.mark.parametrize("line", NAMES)
def test_files_that_a_command_line_confuses_are_named(line, run, copy):
    for name, content in {"mine.pt": MODEL, "mine_model.pt": MODEL, "mine_weights.npy": WEIGHTS}.items():
        os.link(copy / content, copy / name)
    before = contents(copy)
    run(line).refused(NAMES[line])
    assert contents(copy) == before


@needs_published
def test_a_damaged_log_of_the_published_study_is_refused(nursery, tmp_path):
    log = next(PUBLISHED.glob("*_async_*_log.log"))
    edited("PS updated model", "PS is tired of the model")(tmp_path / log.name, log)
    model = log.with_name(log.name.replace("_log.log", "_model.pt"))
    nursery.run("test_model.py", model, log.name, folder=tmp_path).refused(f"{log.name}, line ")


# ----------------------------------------------------------------------------------------------------
# Models
# ----------------------------------------------------------------------------------------------------


def changed_state(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """A model after `change`, which returns what is saved, or None for the state dict that it changed in place."""

    def damage(path: Path, good: Path) -> None:
        entries = torch.load(good, weights_only=True)
        with path.open("wb") as file:
            torch.save(entries if (changed := change(entries)) is None else changed, file)

    return damage


def with_bias(kind: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """A model with another kind of tensor for the last bias, which has ten numbers."""
    return changed_state(lambda entries: entries.update({"fc3.bias": kind(entries["fc3.bias"])}))


@changed_state
def of_nan(entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return OrderedDict((name, value * torch.nan) for name, value in entries.items())


MODELS = {
    "of CNN1": changed_state(lambda _: build_model("digits", "CNN1").state_dict()),
    "of CNN2": changed_state(lambda _: build_model("cifar10", "CNN2").state_dict()),
    "without a layer": changed_state(lambda entries: entries.__delitem__("fc2.weight")),
    "with another layer": changed_state(lambda entries: entries.update(fc4=torch.zeros(3))),
    "with a layer of another name": changed_state(lambda entries: entries.update(conv0=entries.pop("conv1.bias"))),
    "with a transposed layer": changed_state(lambda entries: entries.update({"fc2.weight": entries["fc2.weight"].T})),
    "with a bias of one number": with_bias(lambda values: values[:1]),
    "of doubles": changed_state(lambda entries: {name: value.double() for name, value in entries.items()}),
    "of halves": changed_state(lambda entries: {name: value.half() for name, value in entries.items()}),
    "with integers": with_bias(lambda values: values.long()),
    "with complex numbers": with_bias(lambda values: values.to(torch.complex64)),
    "with a sparse tensor": with_bias(torch.Tensor.to_sparse),
    "with a tensor without values": with_bias(lambda values: values.to("meta")),
    "with a number in place of a tensor": changed_state(lambda entries: entries.update({"fc3.bias": 0.5})),
    "with a number in place of a name": changed_state(lambda entries: entries.update({1: entries.pop("fc3.bias")})),
    "in a dictionary": changed_state(lambda entries: {"model": entries}),
    "in a list": changed_state(lambda entries: list(entries.values())),
    "a single tensor": changed_state(lambda entries: entries["fc3.bias"]),
    "an empty dictionary": changed_state(lambda _: {}),
    "the whole network": changed_state(lambda _: build_model("digits", "LeNet5").network),
    "an empty archive": lambda path, good: zipfile.ZipFile(path, "w").close(),
    "an archive of arrays": lambda path, good: np.savez(path.open("wb"), np.zeros(3)),
    "a trap in the old format": lambda path, good: torch.save(
        {"a": Trap()}, path, _use_new_zipfile_serialization=False
    ),
    "a trap among its tensors": changed_state(lambda entries: entries.update({"fc3.bias": Trap()})),
}


@pytest.fixture
def model() -> FlatModel:
    return build_model("digits", "LeNet5")


@pytest.mark.parametrize("damage", DAMAGES, ids=name_of)
def test_damaged_models_are_refused(damage, copy, model):
    spoil(copy / MODEL, damage)
    assert_refused(lambda: read_model(MODEL, model), f"{MODEL}: ")


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_another_kind_are_refused(kind, copy, model):
    spoil(copy / MODEL, MODELS[kind])
    assert_refused(lambda: read_model(MODEL, model), f"{MODEL}: not a model")


def test_the_model_of_another_run_is_refused(run, copy):
    """Of another seed, under the name of this run: its weight norm differs from the one in the log."""
    spoil(copy / MODEL, lambda path, good: shutil.copy(copy / f"{OTHER}_model.pt", path))
    run("test_model").refused(f"{MODEL}: not the model of {LOG}")


def test_a_model_of_nan_is_not_that_of_a_run_that_converged(copy, model):
    read_model(spoil(copy / MODEL, of_nan), model)
    assert_refused(lambda: check_norm(MODEL, model, read_log(LOG)), f"{MODEL}: not the model", "norm nan")


def test_a_run_that_diverged_may_have_a_model_of_nan(run, copy):
    spoil(copy / MODEL, of_nan)
    spoil(copy / LOG, lambda path, good: path.write_text(
        re.sub(r"\b(loss|weight_norm) [\d.]+", r"\1 nan", good.read_text())))  # fmt: skip
    ended = run("test_model", "--pics").went_well()
    assert "loss: nan" in ended.output and not ended.errors
    assert len(list(copy.glob("out/*_plots.png"))) == 2


# ----------------------------------------------------------------------------------------------------
# Saved weights
# ----------------------------------------------------------------------------------------------------


def prepare_survey(weights: str = WEIGHTS, model: str = MODEL) -> tuple[Survey, Evaluation] | None:
    """What loss_landscape.py does before it evaluates a loss."""
    first, second = (Source(Path(path), parse_run_name(base_of(path))) for path in (model, weights))
    return prepare(first, [second], ["trajectory"], SETTINGS)


def changed_rows(change: Callable[[np.ndarray], object]) -> Damage:
    """Saved weights after `change`, which returns what is saved, or None for the rows that it changed in place."""

    def damage(path: Path, good: Path) -> None:
        rows = np.load(good)
        with path.open("wb") as file:
            np.save(file, rows if (changed := change(rows)) is None else changed)

    return damage


def assign(values: np.ndarray, where: object, value: float) -> None:
    values[where] = value


def with_header(shape: str) -> Damage:
    """The same values after a header of another shape, as long as before."""

    def damage(path: Path, good: Path) -> None:
        before, old, after = good.read_bytes().partition(b"(5, 61706)")
        longer = len(shape) - len(old)
        path.write_bytes(before + shape.encode() + after.replace(b" " * longer, b"", 1))
        assert path.stat().st_size == good.stat().st_size

    return damage


ROWS = {
    "of another network": changed_rows(lambda rows: np.zeros((5, 1199882), np.float32)),
    "with a missing column": changed_rows(lambda rows: rows[:, :-1]),
    "transposed": changed_rows(lambda rows: rows.T),
    "a single flat row": changed_rows(lambda rows: rows[0]),
    "of three dimensions": changed_rows(lambda rows: rows[None]),
    "a number": changed_rows(lambda rows: np.float32(1)),
    "without rows": changed_rows(lambda rows: rows[:0]),
    "of two rows": changed_rows(lambda rows: rows[:2]),
    "of doubles": changed_rows(lambda rows: rows.astype(float)),
    "of integers": changed_rows(lambda rows: rows.astype(int)),
    "of swapped bytes": changed_rows(lambda rows: rows.astype(">f4")),
    "of words": changed_rows(lambda rows: np.array([["a", "b"]])),
    "of records": changed_rows(lambda rows: np.zeros(5, [("a", "f4"), ("b", "i8")])),
    "with identical rows": changed_rows(lambda rows: np.repeat(rows[:1], 5, axis=0)),
    "with nan in the first row": changed_rows(lambda rows: assign(rows, (0, 7), np.nan)),
    "all infinite": changed_rows(lambda rows: rows + np.inf),
    "an archive of arrays": lambda path, good: np.savez(path.open("wb"), np.load(good)),
    "with more rows in the header": with_header("(9, 61706)"),
    "with a million million rows in the header": with_header("(1000000000000, 61706)"),
    "with words in the header": with_header("(x, y)    "),
}


def test_good_weights_are_read(copy, caplog):
    survey, _ = prepare_survey()
    assert survey.model is None and survey.runs[0].parameters.shape == (5, 61706)
    assert not caplog.records


def test_weights_with_a_negative_number_of_rows_are_refused_or_the_good_ones(copy):
    """Some versions of numpy take it for the number that fits."""
    good = np.load(copy / WEIGHTS)
    spoil(copy / WEIGHTS, with_header("(-5, 61706)"))
    try:
        weights = read_weights(copy / WEIGHTS, good.shape[1])
    except DataError as error:
        assert str(error).startswith(str(copy / WEIGHTS))
    else:
        assert np.array_equal(weights, good)


@pytest.mark.parametrize("damage", DAMAGES, ids=name_of)
def test_damaged_weights_are_refused(damage, copy):
    spoil(copy / WEIGHTS, damage)
    unusable = UsageError if damage in (directory, missing) else DataError
    assert_refused(prepare_survey, f"{WEIGHTS}: ", error=unusable)


@pytest.mark.parametrize("kind", ROWS)
def test_weights_of_another_kind_are_refused(kind, copy):
    spoil(copy / WEIGHTS, ROWS[kind])
    assert_refused(prepare_survey, f"{WEIGHTS}: ")


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_rows_without_a_norm_are_left_out_with_a_warning(value, copy, caplog):
    spoil(copy / WEIGHTS, changed_rows(lambda rows: assign(rows, np.s_[3:, 5:], value)))
    survey, _ = prepare_survey()
    assert len(survey.runs[0].parameters) == 3
    assert f"{WEIGHTS}: 2 of 5 saved rows" in caplog.messages[0]


def test_a_run_that_diverged_is_drawn_up_to_there(run, copy):
    spoil(copy / WEIGHTS, changed_rows(lambda rows: assign(rows, np.s_[3:, 5:], np.nan)))
    (warning,) = run("loss_landscape").went_well().warnings
    assert f"{WEIGHTS}: 2 of 5 saved rows" in warning
    with np.load(copy / "out" / f"{ASYNC}_loss_landscape_numbers.npz") as numbers:
        assert len(numbers["coordinates"]) == 4 and np.isfinite(numbers["coordinates"]).all()
        np.testing.assert_array_equal(numbers["epochs"], [0, 0.5, 1, 2])  # three rows, and the model at the end


def test_a_run_that_diverged_at_once_is_not_drawn_and_the_others_are(run, copy):
    spoil(copy / WEIGHTS, changed_rows(lambda rows: assign(rows, np.s_[1:], np.nan)))
    alone = run("loss_landscape").went_well()
    assert f"{WEIGHTS}: 4 of 5 saved rows" in alone.warnings[0] and "nothing to draw" in alone.warnings[1]
    assert not (copy / "out").exists()
    run("loss_landscape_multi").went_well()
    assert len(list(copy.glob("out/*.html"))) == 2


def test_a_model_of_nan_is_not_marked_in_a_landscape(run, copy):
    spoil(copy / MODEL, of_nan)
    (warning,) = run("loss_landscape").went_well().warnings
    assert MODEL in warning and "not marked" in warning
    assert len(list(copy.glob("out/*.html"))) == 2


@pytest.mark.parametrize("damage", [garbage, directory, cut, missing], ids=name_of)
def test_the_log_beside_the_weights_may_be_unusable(damage, copy, caplog):
    """A landscape can do without it."""
    spoil(copy / LOG, damage)
    survey, _ = prepare_survey()
    np.testing.assert_array_equal(survey.runs[0].epochs, [0, 0.5, 1, 1.5, 2])
    assert [LOG in message for message in caplog.messages] == ([True] if damage in (garbage, directory) else [])


def test_a_landscape_is_drawn_without_a_usable_log(run, copy):
    spoil(copy / LOG, garbage)
    (warning,) = run("loss_landscape").went_well().warnings
    assert LOG in warning and len(list(copy.glob("out/*.html"))) == 2


# ----------------------------------------------------------------------------------------------------
# The numbers of a landscape
# ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def survey_of_numbers(good: Path) -> Survey:
    """The survey that the good numbers belong to."""
    return survey_of_pair(good)[0]


@pytest.fixture
def survey(survey_of_numbers: Survey, copy: Path) -> Survey:
    """The same, in the copy of the good folder."""
    return survey_of_numbers


def changed_numbers(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    """The numbers of a landscape after `change` in place."""

    def damage(path: Path, good: Path) -> None:
        with np.load(good) as file:
            numbers = dict(file)
        change(numbers)
        with path.open("wb") as file:
            np.savez(file, **numbers)

    return damage


def about(**changes: str) -> Damage:
    """Numbers that are about something else."""

    def change(numbers: dict[str, np.ndarray]) -> None:
        numbers["about"] = np.array(json.dumps(json.loads(str(numbers["about"])) | changes))

    return changed_numbers(change)


def losses(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Numbers with other losses."""
    return changed_numbers(lambda numbers: numbers.update(losses=change(numbers["losses"])))


GRIDS = {
    "of another grid": about(grid="9 x 9 points, margin 0.2"),
    "of another network": about(network="CNN1"),
    "of another run": about(**{"fingerprint of the weights": "0" * 16}),
    "without losses": changed_numbers(lambda numbers: numbers.pop("losses")),
    "without a description": changed_numbers(lambda numbers: numbers.pop("about")),
    "described in prose": changed_numbers(lambda numbers: numbers.update(about=np.array("of Tuesday"))),
    "described by a list": changed_numbers(lambda numbers: numbers.update(about=np.array("[1]"))),
    "with a missing column": losses(lambda values: values[:, 1:]),
    "flat": losses(np.ravel),
    "of words": losses(lambda values: values.astype(str)),
    "of traps": losses(lambda values: np.array([[Trap()] * 2] * 2, dtype=object)),
    "saved weights": lambda path, good: shutil.copy(WEIGHTS, path),
    "a model": lambda path, good: shutil.copy(MODEL, path),
}


def test_good_numbers_are_read(survey):
    landscape = survey.read(Path(NUMBERS))
    assert np.isfinite(landscape.losses).all() and landscape.masked == 0


@pytest.mark.parametrize("damage", DAMAGES, ids=name_of)
def test_damaged_numbers_are_refused(damage, survey):
    path = spoil(Path(NUMBERS), damage)
    assert_refused(lambda: survey.read(path), f"{NUMBERS}: ")


@pytest.mark.parametrize("kind", GRIDS)
def test_numbers_of_another_kind_are_refused(kind, survey):
    path = spoil(Path(NUMBERS), GRIDS[kind])
    assert_refused(lambda: survey.read(path), f"{NUMBERS}: ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_are_masked(value, survey):
    spoil(Path(NUMBERS), changed_numbers(lambda numbers: assign(numbers["losses"], (0, 0), value)))
    landscape = survey.read(Path(NUMBERS))
    assert landscape.masked == 1 and np.isnan(landscape.masked_losses[0, 0])


def test_a_grid_with_a_masked_loss_is_drawn(run, copy):
    spoil(copy / NUMBERS, changed_numbers(lambda numbers: assign(numbers["losses"], (0, 0), np.nan)))
    ended = run("grid_losses").went_well()
    assert "1 of 4 points not finite" in ended.output
    assert len(list(copy.glob("out/*.html"))) == 2


# ----------------------------------------------------------------------------------------------------
# Names of runs
# ----------------------------------------------------------------------------------------------------

UNKNOWN = {
    "mine_weights.npy": "mine",
    "weights.npy": "weights.npy",
    f"{ASYNC}.npy": ASYNC,
    "letters_async_3_100_001_00_32_1_SGD_spe2_weights.npy": "letters_async",
    "digits_weekly_3_100_001_00_32_1_SGD_spe2_weights.npy": "digits_weekly",
    "digits_async_1_100_001_00_32_1_SGD_spe2_weights.npy": "digits_async_1",
    "digits_async_3_100_0_00_32_1_SGD_spe2_weights.npy": "digits_async_3_100_0_",
    "digits_async_3_100_001_00_0_1_SGD_spe2_weights.npy": "digits_async_3",
    "digits_async_3_100_001_00_32_1_SGD_hue3_weights.npy": "_hue3",
    "digits_async_3_100_001_00_32_1_SGD_seed1.5_weights.npy": "_seed1.5",
    "digits_async_3_100_001_00_32_1_SGD_seed_weights.npy": "digits_async_3",
    "digits_sync_3_100_001_00_32_1_SGD_comp_weights.npy": "digits_sync_3",
    "digits_async_4_100_001_00_32_1_SGD_labels_weights.npy": "digits_async_4",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_names_of_no_run_are_refused(name, copy):
    assert_refused(lambda: prepare_survey(weights=name), UNKNOWN[name], error=UsageError)


@pytest.mark.parametrize(
    "name", ["digits_async_3_100_001_00_32_1_ADAM_alt_model", "cifar10_async_3_100_001_00_32_1_SGD_spe2"]
)
def test_weights_of_another_network_or_data_set_are_refused_by_name(name, copy):
    os.link(WEIGHTS, f"{name}_weights.npy")  # the content fits
    assert_refused(
        lambda: prepare_survey(weights=f"{name}_weights.npy"), f"{name}_weights.npy is from ", error=UsageError
    )


@pytest.mark.parametrize("name, error", [(f"{OTHER}_model.pt", DataError), ("mine.pt", UsageError)])
def test_a_model_and_a_log_of_different_runs_are_refused_by_name(name, error, copy):
    log = read_log(LOG)
    assert test_model.base_of_run(MODEL, log) == ASYNC
    assert_refused(lambda: test_model.base_of_run(name, log), name, error=error)


# ----------------------------------------------------------------------------------------------------
# Data
# ----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No downloads."""

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def assert_data_refused(name: str) -> None:
    assert_refused(lambda: load_dataset.__wrapped__(name, "data"), f"data set {name}: ")


@pytest.mark.parametrize("damage", DAMAGES, ids=name_of)
@pytest.mark.parametrize("file", [IMAGES, LABELS.replace("train", "t10k")], ids=["images", "labels"])
def test_damaged_data_are_refused(file, damage, copy, offline):
    spoil(copy / file, damage)
    assert_data_refused("mnist")


# There are no good files of these but the real ones.
WITHOUT_GOOD_FILE = [damage for damage in DAMAGES if damage not in (cut, zeros)]
UNREADABLE = {
    "cifar10": "data/cifar-10-batches-py/data_batch_1",
    "cifar100": "data/cifar-100-python/train",
    "fashion_mnist": "data/FashionMNIST/raw/train-images-idx3-ubyte",
}


@pytest.mark.parametrize("damage", WITHOUT_GOOD_FILE, ids=name_of)
@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_are_not_those_of_the_data_set_are_refused(name, damage, copy, offline):
    path = Path(UNREADABLE[name])
    path.parent.mkdir(parents=True)
    damage(path, Path(IMAGES))
    assert_data_refused(name)


def array(*shape: int, largest: int = 255) -> Damage:
    """An idx file of noise."""
    noise = np.random.default_rng(1).integers(0, largest + 1, shape, dtype=np.uint8)
    return lambda path, good: path.write_bytes(idx(noise))


ARRAYS = {
    "images of 27 x 28": (IMAGES, array(40, 27, 28)),
    "fewer images than labels": (IMAGES, array(39, 28, 28)),
    "no images": (IMAGES, array(0, 28, 28)),
    "flat images": (IMAGES, array(40, 784)),
    "labels in place of images": (IMAGES, lambda path, good: shutil.copy(LABELS, path)),
    "images in place of labels": (LABELS, lambda path, good: shutil.copy(IMAGES, path)),
    "labels beyond 9": (LABELS, array(40, largest=12)),
    "fewer labels than images": (LABELS, array(39, largest=9)),
    "no labels": (LABELS, array(0)),
    "a missing byte": (IMAGES, lambda path, good: path.write_bytes(good.read_bytes()[:-1])),
    "a header only": (IMAGES, lambda path, good: path.write_bytes(good.read_bytes()[:16])),
    "half a header": (IMAGES, lambda path, good: path.write_bytes(good.read_bytes()[:6])),
    "four dimensions": (IMAGES, lambda path, good: path.write_bytes(idx(np.zeros((40, 28, 28, 1), np.uint8)))),
    "identical pixels": (IMAGES, lambda path, good: path.write_bytes(idx(np.ones((40, 28, 28), np.uint8)))),
    "floats": (IMAGES, replaced(b"\x08", b"\x0d")),
    "more images in the header": (IMAGES, replaced((40).to_bytes(4, "big"), b"\xff" * 4)),
}


def test_good_data_are_read(copy, offline):
    assert load_dataset.__wrapped__("mnist", "data").train.images.shape == (40, 28, 28, 1)


@pytest.mark.parametrize("kind", ARRAYS)
def test_data_of_another_kind_are_refused(kind, copy, offline):
    file, damage = ARRAYS[kind]
    spoil(copy / file, damage)
    assert_data_refused("mnist")


# ----------------------------------------------------------------------------------------------------
# Tables
# ----------------------------------------------------------------------------------------------------


def test_a_search_completes_a_torn_table(run, copy):
    def rows() -> list[list[str]]:
        titles, *table = [line.split(",") for line in (copy / CSV).read_text().splitlines()]
        return sorted([value for title, value in zip(titles, row, strict=True) if title != "seconds"]
                      for row in table)  # fmt: skip

    before = rows()
    spoil(copy / CSV, cut)
    run("kfold").went_well()
    assert rows() == before and len(before) == 2


@pytest.mark.parametrize("damage", [cut, empty], ids=name_of)
def test_a_summary_measures_torn_trials_again(damage, run, copy):
    before = sorted((copy / TRIALS).read_text().splitlines())
    spoil(copy / TRIALS, damage)
    run("summary").went_well()
    assert sorted((copy / TRIALS).read_text().splitlines()) == before and len(before) == 2


def test_a_summary_names_the_runs_that_it_cannot_measure_and_keeps_the_others(run, copy):
    (copy / TRIALS).unlink()
    spoil(copy / f"runs/{CLASSIC}_log.log", garbage)
    ended = run("summary")
    warning, error = ended.errors.splitlines()
    assert ended.code == 1
    assert f"warning: runs/{CLASSIC}_log.log" in warning and "error: runs: 1 of its runs" in error
    (line,) = (copy / TRIALS).read_text().splitlines()
    assert json.loads(line)["seed"] == 2 and (copy / "runs/summary.md").exists()
