"""Bad input files: refused with one clear line, or read as far as they are whole; never a traceback."""

import json
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common import build_model
from conftest import PUBLISHED, needs_published
from nursery import Nursery

# ----------------------------------------------------------------------------------------------------
# What is whole, and the command lines that read it
# ----------------------------------------------------------------------------------------------------

SMALL = "--dataset digits --train_split 0.1 --epochs 2 --lr 0.05 --momentum 0.9"
ASYNC = "digits_async_3_10_005_09_32_2_SGD_spe2_val_seed1_virtual"
OTHER = "digits_async_3_10_005_09_32_2_SGD_spe2_val_seed2_virtual"
SYNC = "digits_sync_3_10_005_09_32_2_SGD_spe2_seed1_virtual"
CLASSIC = "digits_classic_0_10_005_09_32_2_SGD_seed1"
MNIST = "mnist_classic_0_100_001_00_32_1_SGD_spe2_seed1"
KFOLD = "kfold_digits_SGD_LeNet5_samples60_folds2_seed1"
NUMBERS = "pair_loss_landscape_multi_numbers.npz"

QUICK = "--grid_size 2 --test_samples 20"
COMMANDS = {
    "test_model": f"test_model.py {ASYNC}_model.pt {ASYNC}_log.log --training_time --subfolder out",
    "loss_landscape": f"loss_landscape.py {ASYNC}_model.pt {ASYNC}_weights.npy {QUICK} --subfolder out",
    "loss_landscape_multi": f"loss_landscape_multi.py {ASYNC}_model.pt {ASYNC}_weights.npy {SYNC}_weights.npy {QUICK} "
    "--subfolder out",
    "grid_losses": f"loss_landscape_multi.py {ASYNC}_model.pt {ASYNC}_weights.npy {SYNC}_weights.npy {QUICK} "
    f"--grid_losses {NUMBERS} --subfolder out",
    "replay": f"dist_async.py --dataset digits --replay {ASYNC}_log.log --subfolder out",
    "kfold": "kfold.py --dataset digits --max_samples 60 --k_splits 2 --epochs 1 --learning_rates 0.05 0.1 "
    "--batch_sizes 16 --jobs 1 --seed 1 --subfolder search",
    "summary": "analysis/reports/summary.py runs",
    "summary of searches": "cross_validation/summary.py search",
    "train on mnist": "nonDistributed.py --dataset mnist --data_dir data --saves_per_epoch 2 --seed 1 --subfolder out",
    "train on cifar10": "nonDistributed.py --dataset cifar10 --data_dir data --subfolder out",
    "train on fashion_mnist": "nonDistributed.py --dataset fashion_mnist --data_dir data --subfolder out",
    "dist_sync on mnist": "dist_sync.py --dataset mnist --data_dir data --clock virtual --subfolder out",
    "dist_async on mnist": "dist_async.py --dataset mnist --data_dir data --subfolder out",
    "kfold on mnist": "kfold.py --dataset mnist --data_dir data --k_splits 2 --epochs 1 --learning_rates 0.1 "
    "--batch_sizes 16 --subfolder out",
    "test_model on mnist": f"test_model.py {MNIST}_model.pt {MNIST}_log.log --data_dir data --subfolder out",
    "loss_landscape on mnist": f"loss_landscape.py {MNIST}_model.pt {MNIST}_weights.npy {QUICK} --data_dir data "
    "--subfolder out",
}
NO_DATA = ("train on cifar10", "train on fashion_mnist")  # there are none but the real ones
CSV, TRIALS, RAW = f"search/{KFOLD}.csv", "runs/trials.csv", "data/MNIST/raw"


@pytest.fixture(scope="module")
def good(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small runs, a search, a summary and data, all whole."""
    folder = tmp_path_factory.mktemp("good")
    for line in (
        f"dist_async.py {SMALL} --saves_per_epoch 2 --val --seed 1 --clock virtual",
        f"dist_async.py {SMALL} --saves_per_epoch 2 --val --seed 2 --clock virtual",
        f"dist_sync.py {SMALL} --saves_per_epoch 2 --seed 1 --clock virtual",
        f"nonDistributed.py {SMALL} --seed 1 --subfolder runs",
        f"nonDistributed.py {SMALL} --seed 2 --subfolder runs",
        f"{COMMANDS['loss_landscape_multi']} --name pair".replace("--subfolder out", "--subfolder ."),
        COMMANDS["kfold"],
        COMMANDS["summary"],
    ):
        nursery.run(line, folder=folder).went_well()
    make_mnist(folder / RAW)
    nursery.run(COMMANDS["train on mnist"].replace("--subfolder out", "--subfolder ."), folder=folder).went_well()
    for path in [*folder.glob("*.html"), *folder.glob("*.png")]:
        path.unlink()  # they are large, and nobody reads them
    return folder


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as MNIST's files hold it: magic number, sizes, content."""
    return b"".join(size.to_bytes(4, "big") for size in (0x800 + array.ndim, *array.shape)) + array.tobytes()


def make_mnist(folder: Path) -> None:
    """Noise in place of MNIST: 40 images to train on, 20 to test on."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        images = noise.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    """A copy of the good folder. Files are links, to be replaced; only tables, which scripts add to, are not."""

    def link(source: str, target: str) -> None:
        (shutil.copy if source.endswith(".csv") else os.link)(source, target)

    return Path(shutil.copytree(good, tmp_path / "copy", copy_function=link))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder and those below."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NO_DATA])
def test_whole_files_are_accepted(name, nursery, copy):
    ended = nursery.run(COMMANDS[name], folder=copy).went_well()
    assert ended.output and not ended.errors


# ----------------------------------------------------------------------------------------------------
# Damage that can befall any file
# ----------------------------------------------------------------------------------------------------

Damage = Callable[[Path, Path], None]  # the path to write to, where nothing is; the good file


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("sprung",)


def cut(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def empty(path: Path, good: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path, good: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def zeros(path: Path, good: Path) -> None:
    """What a crash of the machine may leave."""
    path.write_bytes(bytes(good.stat().st_size))


def prose(path: Path, good: Path) -> None:
    path.write_text("Dear diary,\ntoday I trained a network.\n")


def picture(path: Path, good: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def pickled_trap(path: Path, good: Path) -> None:
    path.write_bytes(pickle.dumps(Trap()))


def zipped_trap(path: Path, good: Path) -> None:
    torch.save({"conv1.weight": Trap()}, path)


def array_of_traps(path: Path, good: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)


def directory(path: Path, good: Path) -> None:
    path.mkdir()


def missing(path: Path, good: Path) -> None:
    pass


DAMAGES = (cut, empty, garbage, zeros, prose, picture, pickled_trap, zipped_trap, array_of_traps, directory, missing)
FEW = (cut, pickled_trap, directory, missing)  # where the reader of another script is used
READ = {
    ("test_model", f"{ASYNC}_model.pt"): DAMAGES,
    ("test_model", f"{ASYNC}_log.log"): DAMAGES,
    ("loss_landscape", f"{ASYNC}_model.pt"): FEW,
    ("loss_landscape", f"{ASYNC}_weights.npy"): DAMAGES,
    ("loss_landscape_multi", f"{SYNC}_weights.npy"): FEW,
    ("grid_losses", NUMBERS): DAMAGES,
    ("replay", f"{ASYNC}_log.log"): FEW,
    ("kfold", CSV): DAMAGES,
    ("summary", TRIALS): DAMAGES,
    ("summary of searches", CSV): DAMAGES,
    ("train on mnist", f"{RAW}/train-images-idx3-ubyte"): DAMAGES,
    ("train on mnist", f"{RAW}/t10k-labels-idx1-ubyte"): FEW,
    ("train on cifar10", "data/cifar-10-batches-py/data_batch_1"): DAMAGES,
    ("train on fashion_mnist", "data/FashionMNIST/raw/train-images-idx3-ubyte"): FEW,
}
# A log is read up to where it is cut, a table as well; a table that is not there, or that has no row yet, is begun.
FINE = {
    f"{ASYNC}_log.log": {cut},
    CSV: {cut, empty, missing},
    TRIALS: {cut, empty, missing},
}
EVERYWHERE = [
    pytest.param(command, file, damage, id=f"{command}: {damage.__name__} {Path(file).name}")
    for (command, file), damages in READ.items()
    for damage in damages
    if damage not in FINE.get(file, ())
]


def spoil(copy: Path, file: str, damage: Damage) -> Path:
    """Put something else in the place of a file; returns its path."""
    path = copy / file
    path.parent.mkdir(parents=True, exist_ok=True)
    good = path.with_name("good")
    if path.exists():
        path.rename(good)
    else:
        good.write_bytes(bytes(1000))
    damage(path, good)
    good.unlink()
    return path


def name_of(command: str, file: str) -> str:
    """What the error must name: the file, or of data the folder that --data_dir names, and the data set."""
    return f"data set {command.rsplit(maxsplit=1)[-1]}: " if file.startswith("data/") else Path(file).name


@pytest.mark.parametrize("command, file, damage", EVERYWHERE)
def test_damaged_files_are_refused(command, file, damage, nursery, copy):
    spoil(copy, file, damage)
    before = contents(copy)
    ended = nursery.run(COMMANDS[command], folder=copy)
    ended.refused(name_of(command, file))
    if file.startswith("data/"):
        assert "--data_dir" in ended.errors or " in data " in ended.errors, ended.errors
    assert contents(copy) == before
    assert not (copy / "sprung").exists()


@pytest.mark.parametrize(
    "trap, spring",
    [
        (pickled_trap, lambda path: pickle.loads(path.read_bytes())),
        (zipped_trap, lambda path: torch.load(path, weights_only=False)),
        (array_of_traps, lambda path: np.load(path, allow_pickle=True)),
    ],
)
def test_the_traps_would_have_sprung(trap, spring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap(tmp_path / "trap", tmp_path)
    spring(tmp_path / "trap")
    assert (tmp_path / "sprung").is_dir()


# ----------------------------------------------------------------------------------------------------
# Models, weights and numbers that are something else
# ----------------------------------------------------------------------------------------------------


def state(path: Path) -> dict[str, torch.Tensor]:
    """A model's state dict."""
    return torch.load(path, weights_only=True)


def changed_state(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """A model after `change`, which returns what is saved, or None for the state dict that it changed in place."""

    def damage(path: Path, good: Path) -> None:
        entries = state(good)
        with path.open("wb") as file:
            torch.save(entries if (changed := change(entries)) is None else changed, file)

    return damage


def with_bias(kind: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """A model with another kind of tensor for the last bias, which has ten numbers."""
    return changed_state(lambda entries: entries.update({"fc3.bias": kind(entries["fc3.bias"])}))


MODELS = {
    "of CNN1": changed_state(lambda _: build_model("digits", "CNN1").state_dict()),
    "of CNN2": changed_state(lambda _: build_model("cifar10", "CNN2").state_dict()),
    "without a layer": changed_state(lambda entries: entries.__delitem__("fc2.weight")),
    "with one layer more": changed_state(lambda entries: entries.update(fc4=torch.zeros(3))),
    "with a layer of another name": changed_state(lambda entries: entries.update(conv0=entries.pop("conv1.bias"))),
    "with a transposed layer": changed_state(lambda entries: entries.update({"fc2.weight": entries["fc2.weight"].T})),
    "with a bias of one number": with_bias(lambda values: values[:1]),
    "of doubles": changed_state(lambda entries: {name: value.double() for name, value in entries.items()}),
    "of halves": changed_state(lambda entries: {name: value.half() for name, value in entries.items()}),
    "with integers": with_bias(lambda values: values.long()),
    "with complex numbers": with_bias(lambda values: values.to(torch.complex64)),
    "with a sparse tensor": with_bias(torch.Tensor.to_sparse),
    "with a tensor without values": with_bias(lambda values: values.to("meta")),
    "with a number for a tensor": changed_state(lambda entries: entries.update({"fc3.bias": 0.5})),
    "with a number for a name": changed_state(lambda entries: entries.update({1: entries.pop("fc3.bias")})),
    "in a dictionary": changed_state(lambda entries: {"model": entries}),
    "in a list": changed_state(lambda entries: list(entries.values())),
    "a tensor": changed_state(lambda entries: entries["fc3.bias"]),
    "nothing": changed_state(lambda _: {}),
    "the whole network": changed_state(lambda _: build_model("digits", "LeNet5").network),
    "an empty archive": lambda path, good: zipfile.ZipFile(path, "w").close(),
    "an archive of arrays": lambda path, good: np.savez(path.open("wb"), np.zeros(3)),
    "a trap in the old format": lambda path, good: torch.save(
        {"a": Trap()}, path, _use_new_zipfile_serialization=False
    ),
    "a trap among its tensors": changed_state(lambda entries: entries.update({"fc3.bias": Trap()})),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_another_kind_are_refused(kind, nursery, copy):
    spoil(copy, f"{ASYNC}_model.pt", MODELS[kind])
    before = contents(copy)
    nursery.run(COMMANDS["test_model"], folder=copy).refused(f"{ASYNC}_model.pt: not a model")
    assert contents(copy) == before
    assert not (copy / "sprung").exists()


def test_the_model_of_another_run_is_refused(nursery, copy):
    """Of one seed, under the name of the other: told by its weight norm."""
    spoil(copy, f"{ASYNC}_model.pt", lambda path, good: shutil.copy(copy / f"{OTHER}_model.pt", path))
    nursery.run(COMMANDS["test_model"], folder=copy).refused(f"{ASYNC}_model.pt: not the model of {ASYNC}_log.log")


def test_a_model_of_nan_is_not_that_of_a_run_that_converged(nursery, copy):
    not_a_number = changed_state(lambda entries: {name: value * torch.nan for name, value in entries.items()})
    spoil(copy, f"{ASYNC}_model.pt", not_a_number)
    nursery.run(COMMANDS["test_model"], folder=copy).refused(f"{ASYNC}_model.pt", "norm nan")


def changed_rows(change: Callable[[np.ndarray], object]) -> Damage:
    """Saved weights after `change`, which returns what is saved, or None for the rows that it changed in place."""

    def damage(path: Path, good: Path) -> None:
        rows = np.load(good)
        with path.open("wb") as file:
            np.save(file, rows if (changed := change(rows)) is None else changed)

    return damage


def assign(rows: np.ndarray, where: object, value: float) -> None:
    rows[where] = value


def with_header(shape: str) -> Damage:
    """The same bytes behind a header that tells of another shape."""

    def damage(path: Path, good: Path) -> None:
        content = good.read_bytes()
        start = content.index(b"(5, 61706)")
        head = content[:start] + shape.encode()
        path.write_bytes(head + content[start + len("(5, 61706)") :][len(shape) - len("(5, 61706)") :])

    return damage


WEIGHTS = {
    "of another network": changed_rows(lambda rows: np.zeros((5, 1199882), np.float32)),
    "with a column less": changed_rows(lambda rows: rows[:, :-1]),
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
    "of traps": array_of_traps,
    "all rows the same": changed_rows(lambda rows: np.repeat(rows[:1], 5, axis=0)),
    "nan at the start": changed_rows(lambda rows: assign(rows, (0, 7), np.nan)),
    "all infinite": changed_rows(lambda rows: rows + np.inf),
    "an archive of arrays": lambda path, good: np.savez(path.open("wb"), np.load(good)),
    "more rows in the header": with_header("(9, 61706)"),
    "a million million rows in the header": with_header("(1000000000000, 61706)"),
    "negative rows in the header": with_header("(-5, 61706)"),
    "words in the header": with_header("(x, y)"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_another_kind_are_refused(kind, nursery, copy):
    spoil(copy, f"{ASYNC}_weights.npy", WEIGHTS[kind])
    before = contents(copy)
    nursery.run(COMMANDS["loss_landscape"], folder=copy).refused(f"{ASYNC}_weights.npy: ")
    assert contents(copy) == before
    assert not (copy / "sprung").exists()


def changed_numbers(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    """The numbers of a landscape after `change` in place."""

    def damage(path: Path, good: Path) -> None:
        with np.load(good) as file:
            numbers = dict(file)
        change(numbers)
        with path.open("wb") as file:
            np.savez(file, **numbers)

    return damage


def about(numbers: dict[str, np.ndarray], **changes: str) -> None:
    found = json.loads(str(numbers["about"])) | changes
    numbers["about"] = np.array(json.dumps(found))


GRIDS = {
    "of another grid": changed_numbers(lambda numbers: about(numbers, grid="9 x 9 points, margin 0.2")),
    "of another network": changed_numbers(lambda numbers: about(numbers, network="CNN1")),
    "of another run": changed_numbers(lambda numbers: about(numbers, **{"fingerprint of the weights": "0" * 16})),
    "without losses": changed_numbers(lambda numbers: numbers.pop("losses")),
    "without a word about them": changed_numbers(lambda numbers: numbers.pop("about")),
    "with prose about them": changed_numbers(lambda numbers: numbers.update(about=np.array("of Tuesday"))),
    "with a list about them": changed_numbers(lambda numbers: numbers.update(about=np.array("[1]"))),
    "with a column less": changed_numbers(lambda numbers: numbers.update(losses=numbers["losses"][:, 1:])),
    "flat": changed_numbers(lambda numbers: numbers.update(losses=numbers["losses"].ravel())),
    "of words": changed_numbers(lambda numbers: numbers.update(losses=numbers["losses"].astype(str))),
    "of traps": changed_numbers(lambda numbers: numbers.update(losses=np.array([[Trap()] * 2] * 2, dtype=object))),
    "saved weights": lambda path, good: shutil.copy(path.with_name(f"{ASYNC}_weights.npy"), path),
    "a model": lambda path, good: shutil.copy(path.with_name(f"{ASYNC}_model.pt"), path),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_numbers_of_another_kind_are_refused(kind, nursery, copy):
    spoil(copy, NUMBERS, GRIDS[kind])
    before = contents(copy)
    nursery.run(COMMANDS["grid_losses"], folder=copy).refused(NUMBERS)
    assert contents(copy) == before
    assert not (copy / "sprung").exists()


# ----------------------------------------------------------------------------------------------------
# Logs
# ----------------------------------------------------------------------------------------------------


def edited(pattern: str, replacement: str) -> Damage:
    """A text in which the first match of `pattern` is replaced."""

    def damage(path: Path, good: Path) -> None:
        text = good.read_text()
        changed = re.sub(pattern, lambda match: match.expand(replacement), text, count=1, flags=re.MULTILINE)
        assert changed != text
        path.write_text(changed)

    return damage


LINES = {
    "a worker too many": edited("Worker_1", "Worker_3"),
    "worker 0": edited("Worker_1", "Worker_0"),
    "worker -1": edited("Worker_1", "Worker_-1"),
    "a worker of no number": edited("Worker_1", "Worker_one"),
    "no worker": edited("  Worker_1", ""),
    "batch 0": edited("batch 1/", "batch 0/"),
    "a batch too many": edited("batch 5/", "batch 6/"),
    "a batch twice": edited("batch 2/", "batch 1/"),
    "epoch 0": edited("epoch 1/", "epoch 0/"),
    "an epoch too many": edited("epoch 2/", "epoch 3/"),
    "a staleness below 0": edited(r"staleness \d+", "staleness -1"),
    "a staleness too large": edited(r"staleness \d+", "staleness 77"),
    "a version before the first": edited(r"fetched \d+", "fetched -1"),
    "a version of the future": edited(r"fetched \d+", "fetched 99"),
    "a version of five thousand digits": edited(r"fetched \d+", "fetched " + 5000 * "9"),
    "an update twice": edited("update 2/", "update 1/"),
    "a missing update": edited(r"^.*update 2/.*\n", ""),
    "update 0": edited("update 1/", "update 0/"),
    "a time below 0": edited(r"^[\d.]+ s  update 1/", "-1.0 s  update 1/"),
    "a time of nan": edited(r"^[\d.]+ s  update 1/", "nan s  update 1/"),
    "an infinite time": edited(r"^[\d.]+ s  update 1/", "inf s  update 1/"),
    "no time": edited(r"^[\d.]+ s  update 1/", "update 1/"),
    "a loss in words": edited(r"loss [\d.]+", "loss small"),
    "no loss": edited(r"  loss [\d.]+", ""),
    "no weight norm": edited(r"  weight_norm [\d.]+$", ""),
    "an unknown kind of line": edited("update 3/", "upgrade 3/"),
    "an empty line": edited(r"\n(.*update 3/)", r"\n\n\1"),
    "prose in the middle": edited(r"\n(.*update 3/)", r"\nand then\n\1"),
    "bytes of nothing": edited(r"\n(.*update 3/)", r"\n\0\0\0\n\1"),
    "a header in the middle": edited(r"\A(.*\n)", r"\1\1"),
    "half a line in the middle": edited(r"(update 3/.*)staleness.*$", r"\1"),
    "an epoch validated twice": edited("validation 2/", "validation 1/"),
    "a validation of nothing": edited("  val_loss [^ ]+", ""),
    "a line behind the result": edited(r"\Z", "99.0 s  warning late\n"),
    "two results": edited(r"^(.*result.*\n)", r"\1\1"),
    "a result of another kind": edited('"complete"', '"happy"'),
    "a result without a time": edited('"seconds"', '"minutes"'),
    "a result before the start": edited(r'"seconds": [\d.]+', '"seconds": -1'),
    "a result that is no JSON": edited("result {", "result ["),
    "a result that is a number": edited("result .*", "result 7"),
    "workers lost that have no name": edited(r'"lost_workers": \[\]', '"lost_workers": [1]'),
    "UTF-16": lambda path, good: path.write_text(good.read_text(), encoding="utf-16"),
    "Latin 1 in the middle": lambda path, good: path.write_bytes(good.read_bytes().replace(b"loss", b"l\xf6ss", 1)),
}


@pytest.mark.parametrize("kind", LINES)
def test_logs_with_wrong_lines_are_refused(kind, nursery, copy):
    spoil(copy, f"{ASYNC}_log.log", LINES[kind])
    before = contents(copy)
    nursery.run(COMMANDS["test_model"], folder=copy).refused(f"{ASYNC}_log.log")
    assert contents(copy) == before


def header(**changes: object) -> Damage:
    """A log whose header has other entries; None takes one away. Of "config", the entries change one by one."""

    def damage(path: Path, good: Path) -> None:
        first, rest = good.read_text().split("\n", 1)
        head = json.loads(first)
        if isinstance(changes.get("config"), dict):
            changes["config"] = head["config"] | changes["config"]
        head = {name: value for name, value in (head | changes).items() if value is not None}
        path.write_text(f"{json.dumps(head)}\n{rest}")

    return damage


def first_line(line: str) -> Damage:
    """A log with another first line."""
    return lambda path, good: path.write_text(line + "\n" + good.read_text().split("\n", 1)[1])


def settings(**changes: object) -> Damage:
    """A log whose run was asked for something else."""
    return header(config=changes)


HEADERS = {
    "a header of nothing": first_line("{}"),
    "a header that is no JSON": first_line('{"config": '),
    "a header that is a list": first_line("[1, 2]"),
    "a header of a thousand brackets": first_line('{"config": ' + 100_000 * "["),
    "no settings": header(config=None),
    "settings in a list": header(config=[1]),
    "an unknown setting": settings(haste=1),
    "no seed": header(seed=None),
    "a seed in words": header(seed="one"),
    "a seed that is no integer": header(seed=1.5),
    "no clock": header(clock=None),
    "threads in words": header(threads_per_gradient="two"),
    "no threads": header(threads_per_gradient=0),
    "fewer threads than none": header(threads_per_gradient=-1),
    "data of no name": header(data=7),
    "other data": header(data="0" * 16),
    "another number of samples": header(worker_samples=[143, 144]),
    "no samples": header(worker_samples=None),
    "samples in words": header(worker_samples=["many", "more"]),
    "fewer samples than none": header(worker_samples=[-144, 144]),
    "one worker's samples": header(worker_samples=[144]),
    "one worker": header(worker_samples=[144], worker_batches_per_epoch=[5]),
    "world_size 1": settings(world_size=1),
    "world_size 5": settings(world_size=5),
    "a world_size in words": settings(world_size="3"),
    "an lr of 0": settings(lr=0),
    "an lr below 0": settings(lr=-0.1),
    "an lr of nan": settings(lr=float("nan")),
    "an lr in words": settings(lr="fast"),
    "a momentum below 0": settings(momentum=-1),
    "a batch_size of 0": settings(batch_size=0),
    "another batch_size": settings(batch_size=64),
    "half an epoch": settings(epochs=0.5),
    "fewer epochs": settings(epochs=1),
    "a train_split of 2": settings(train_split=2),
    "another data set": settings(dataset="letters"),
    "a data set in a list": settings(dataset=["digits"]),
    "another mode": settings(mode="weekly"),
    "another partition": settings(partition="by_colour"),
    "another clock": settings(clock="sundial"),
    "a delay of nobody": settings(delay_ms=3.0),
    "a synchronous run": lambda path, good: shutil.copy(path.with_name(f"{SYNC}_log.log"), path),
    "a run without distribution": lambda path, good: shutil.copy(path.parent / "runs" / f"{CLASSIC}_log.log", path),
    "no updates": lambda path, good: path.write_text(good.read_text().split("\n", 1)[0] + "\n"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_logs_with_wrong_headers_are_not_replayed(kind, nursery, copy):
    spoil(copy, f"{ASYNC}_log.log", HEADERS[kind])
    before = contents(copy)
    nursery.run(COMMANDS["replay"], folder=copy).refused(f"{ASYNC}_log.log")
    assert contents(copy) == before


def test_the_log_of_another_run_is_refused(nursery, copy):
    """Of one seed, under the name of the other and under its own."""
    command = COMMANDS["test_model"].replace(f"{ASYNC}_log", f"{OTHER}_log")
    nursery.run(command, folder=copy).refused(ASYNC, OTHER)
    spoil(copy, f"{ASYNC}_log.log", lambda path, good: shutil.copy(copy / f"{OTHER}_log.log", path))
    nursery.run(COMMANDS["test_model"], folder=copy).refused(f"{ASYNC}_log.log", f"{OTHER}")


PUBLISHED_LINES = {
    "prose": ("PS updated model", "PS is tired of the model"),
    "a worker too many": ("update from Worker_1", "update from Worker_9"),
    "a loss in words": (r"loss: [\d.]+", "loss: a-lot"),
    "a date in words": (r"^\d{4}-\d\d-\d\d", "yesterday"),
    "month 13": (r"^(\d{4})-\d\d-", r"\1-13-"),
}


@needs_published
@pytest.mark.parametrize("kind", PUBLISHED_LINES)
def test_published_logs_with_wrong_lines_are_refused(kind, nursery, tmp_path):
    model = next(PUBLISHED.glob("*_async_*_model.pt"))
    good = model.with_name(model.name.replace("_model.pt", "_log.log"))
    edited(*PUBLISHED_LINES[kind])(tmp_path / good.name, good)
    nursery.run("test_model.py", model, good.name, folder=tmp_path).refused(f"{good.name}, line ")


@needs_published
def test_published_logs_are_not_replayed(nursery, tmp_path):
    log = next(PUBLISHED.glob("*_async_*_log.log"))
    nursery.run("dist_async.py --replay", log, folder=tmp_path).refused(log)


# ----------------------------------------------------------------------------------------------------
# Tables
# ----------------------------------------------------------------------------------------------------

RESULTS = {
    "columns of another table": edited("dataset,", "data,"),
    "a column less": edited(r",[^,]*$", ""),
    "a row of another search": edited(r"^digits", "mnist"),
    "another seed": edited(r",2,1,", ",2,7,"),
    "other data": edited(r"^(digits(?:,[^,]*){5}),[0-9a-f]{16},", r"\1,0000000000000000,"),
    "a number in words": edited(r"^(digits.*,)0\.05,", r"\1little,"),
    "half a batch": edited(",16,", ",16.5,"),
    "a batch of nothing": edited(",16,", ",0,"),
    "no epochs": edited(r",16,1,", ",16,0,"),
    "an lr below 0": edited(",0.05,", ",-0.05,"),
    "a mean that is none": edited(r",16,1,[^,]*,", ",16,1,99.5,"),
    "an accuracy of 200 %": lambda path, good: path.write_text(accuracies_of_200(good.read_text())),
    "one fold": edited(r" [^ ,]+$", ""),
    "a row cut in the middle": edited(r"^(digits.{30}).*$", r"\1"),
    "an empty row": edited(r"\n", r"\n\n"),
    "binary data in a row": lambda path, good: path.write_bytes(good.read_bytes().replace(b"LeNet5", b"\xff\x00", 1)),
    "carriage returns": lambda path, good: path.write_bytes(good.read_bytes().replace(b"\n", b"\r\n")),
}


def accuracies_of_200(text: str) -> str:
    head, row, *rest = text.split("\n")
    columns = dict(zip(head.split(","), row.split(","), strict=True))
    columns |= {"accuracies": "200.0 200.0", "accuracy_mean": "200", "accuracy_std": "0"}
    return "\n".join([head, ",".join(columns.values()), *rest])


@pytest.mark.parametrize("kind", RESULTS)
def test_results_of_another_kind_are_refused(kind, nursery, copy):
    spoil(copy, CSV, RESULTS[kind])
    before = contents(copy)
    nursery.run(COMMANDS["kfold"], folder=copy).refused(CSV)
    assert contents(copy) == before


ROWS = {
    "columns of another table": edited("dataset,", "data,"),
    "a column less": edited(r",[^,]*$", ""),
    "a row of a column less": edited(r"\n([^,]*),", r"\n\1"),
    "a number in words": edited(r"LeNet5,0\.1,", "LeNet5,little,"),
    "half a worker": edited(r"classic,0,", "classic,0.5,"),
    "neither true nor false": edited("(True|False)", "perhaps"),
    "an empty row": edited(r"\n", r"\n\n"),
    "a row cut in the middle": edited(r"^(digits_.{50}).*$", r"\1"),
    "a value of a million letters": edited("LeNet5", 1_000_000 * "L"),
    "quotes": edited("LeNet5", '"LeNet5'),
    "binary data in a row": lambda path, good: path.write_bytes(good.read_bytes().replace(b",0.1,", b",\xff\x00,", 1)),
}


@pytest.mark.parametrize("kind", ROWS)
def test_trials_of_another_kind_are_refused(kind, nursery, copy):
    spoil(copy, TRIALS, ROWS[kind])
    before = contents(copy)
    nursery.run(COMMANDS["summary"], folder=copy).refused(TRIALS)
    assert contents(copy) == before


# ----------------------------------------------------------------------------------------------------
# Data
# ----------------------------------------------------------------------------------------------------


def array(*shape: int, largest: int = 255) -> Damage:
    """An idx file of noise."""
    noise = np.random.default_rng(1).integers(0, largest + 1, shape, dtype=np.uint8)
    return lambda path, good: path.write_bytes(idx(noise))


IMAGES, LABELS = f"{RAW}/train-images-idx3-ubyte", f"{RAW}/train-labels-idx1-ubyte"
ARRAYS = {
    "images of 27 x 28": (IMAGES, array(40, 27, 28)),
    "fewer images than labels": (IMAGES, array(39, 28, 28)),
    "no images": (IMAGES, array(0, 28, 28)),
    "flat images": (IMAGES, array(40, 784)),
    "labels for images": (IMAGES, lambda path, good: shutil.copy(path.parents[3] / LABELS, path)),
    "images for labels": (LABELS, lambda path, good: shutil.copy(path.parents[3] / IMAGES, path)),
    "labels beyond 9": (LABELS, array(40, largest=12)),
    "fewer labels than images": (LABELS, array(39, largest=9)),
    "no labels": (LABELS, array(0)),
    "a byte less": (IMAGES, lambda path, good: path.write_bytes(good.read_bytes()[:-1])),
    "a header alone": (IMAGES, lambda path, good: path.write_bytes(good.read_bytes()[:16])),
    "half a header": (IMAGES, lambda path, good: path.write_bytes(good.read_bytes()[:6])),
    "four dimensions": (IMAGES, lambda path, good: path.write_bytes(idx(np.zeros((40, 28, 28, 1), np.uint8)))),
    "pixels that are all the same": (IMAGES, lambda path, good: path.write_bytes(idx(np.ones((40, 28, 28), np.uint8)))),
    "floats": (IMAGES, lambda path, good: path.write_bytes(good.read_bytes().replace(b"\x08", b"\x0d", 1))),
    "more images than there are": (IMAGES, lambda path, good: path.write_bytes(
        good.read_bytes().replace((40).to_bytes(4, "big"), b"\xff" * 4, 1))),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARRAYS)
def test_data_of_another_kind_are_refused(kind, nursery, copy):
    spoil(copy, *ARRAYS[kind])
    before = contents(copy)
    nursery.run(COMMANDS["train on mnist"], folder=copy).refused("data set mnist: ", " in data ")
    assert contents(copy) == before


@pytest.mark.parametrize("command", [name for name in COMMANDS if name.endswith(" on mnist")])
def test_every_script_refuses_damaged_data(command, nursery, copy):
    spoil(copy, IMAGES, cut)
    before = contents(copy)
    nursery.run(COMMANDS[command], folder=copy).refused("data set mnist: ", " in data ")
    assert contents(copy) == before


# ----------------------------------------------------------------------------------------------------
# Names
# ----------------------------------------------------------------------------------------------------

NAMES = {  # command line → what the error names
    f"test_model.py mine.pt {ASYNC}_log.log": "mine.pt",
    f"test_model.py {ASYNC}_weights.npy {ASYNC}_log.log": f"{ASYNC}_weights.npy",
    f"test_model.py {OTHER}_model.pt {ASYNC}_log.log": OTHER,
    f"test_model.py {ASYNC}_log.log {ASYNC}_model.pt": f"{ASYNC}_model.pt",
    f"loss_landscape.py {ASYNC}_model.pt mine_weights.npy": "mine",
    f"loss_landscape.py {ASYNC}_model.pt weights.npy": "weights.npy",
    f"loss_landscape.py {ASYNC}_model.pt {ASYNC}_model.pt": f"{ASYNC}_model.pt",
    f"loss_landscape.py mine_model.pt {ASYNC}_weights.npy": "mine",
    f"loss_landscape.py {ASYNC}_model.pt letters_async_3_100_001_00_32_1_SGD_spe2_weights.npy": "letters_async",
    f"loss_landscape.py {ASYNC}_model.pt digits_weekly_3_100_001_00_32_1_SGD_spe2_weights.npy": "digits_weekly",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_1_100_001_00_32_1_SGD_spe2_weights.npy": "digits_async_1",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_3_100_0_00_32_1_SGD_spe2_weights.npy": "digits_async_3_100_0_",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_3_100_001_00_0_1_SGD_spe2_weights.npy": "digits_async_3",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_3_100_001_00_32_1_SGD_hue3_weights.npy": "_hue3",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_3_100_001_00_32_1_SGD_seed1.5_weights.npy": "_seed1.5",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_3_100_001_00_32_1_SGD_seed_weights.npy": "digits_async_3",
    f"loss_landscape.py {ASYNC}_model.pt digits_sync_3_100_001_00_32_1_SGD_comp_weights.npy": "digits_sync_3",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_4_100_001_00_32_1_SGD_labels_weights.npy": "digits_async_4",
    f"loss_landscape.py {ASYNC}_model.pt digits_async_3_100_001_00_32_1_ADAM_alt_model_weights.npy": "alt_model",
    f"loss_landscape.py {ASYNC}_model.pt cifar10_async_3_100_001_00_32_1_SGD_spe2_weights.npy": "cifar10_async_3",
    f"loss_landscape_multi.py {ASYNC}_model.pt {ASYNC}_weights.npy mine_weights.npy": "mine",
    f"loss_landscape_multi.py {ASYNC}_model.pt {ASYNC}_weights.npy --grid_losses none.npz": "none.npz",
    f"loss_landscape_multi.py {ASYNC}_model.pt {ASYNC}_weights.npy --grid_losses runs": "--grid_losses runs",
    "dist_async.py --replay none.log": "none.log",
    "dist_async.py --replay runs": "runs",
    "analysis/reports/summary.py none": "none",
    f"analysis/reports/summary.py {ASYNC}_log.log": f"{ASYNC}_log.log",
}


@pytest.mark.parametrize("line", NAMES)
def test_names_that_say_nothing_or_something_else_are_refused(line, nursery, copy):
    for name in re.findall(r"\S+_(?:weights\.npy|log\.log)|mine\.pt|mine_model\.pt", line):  # the content is fine
        if not (copy / name).exists():
            os.link(copy / (f"{ASYNC}_{name.rpartition('_')[2]}" if "_" in name else f"{ASYNC}_model.pt"), copy / name)
    before = contents(copy)
    nursery.run(line, folder=copy).refused(NAMES[line])
    assert contents(copy) == before


# ----------------------------------------------------------------------------------------------------
# What is read as far as it goes
# ----------------------------------------------------------------------------------------------------


def cut_behind(pattern: str) -> Damage:
    """A text that ends right behind the first match of `pattern`."""
    return lambda path, good: path.write_text(re.match(rf"[\s\S]*?{pattern}", good.read_text())[0])


CUTS = {  # behind what a log is cut → how many updates it tells of
    r"\n.*update 8/\d+  Wor": 7,
    r"\n.*update 8/\d+  .*weight_norm \d": 7,
    r"\n.*update 8/.*\n": 8,
    r"\n.*validation 1/": 10,
    r"\n.*result \{": 20,
    r"\A\{.*?\n": 0,
}


@pytest.mark.parametrize("where", CUTS)
def test_a_cut_log_is_read_up_to_the_cut(where, nursery, copy):
    spoil(copy, f"{ASYNC}_log.log", cut_behind(where))
    ended = nursery.run(COMMANDS["test_model"], folder=copy).went_well()
    assert f"Run: cut short, the log has no result; {CUTS[where]} updates" in ended.output and not ended.errors

    ended = nursery.run(COMMANDS["replay"], folder=copy)
    if CUTS[where] == 0:
        ended.refused(f"{ASYNC}_log.log: the log has no update")
    else:
        warnings = ended.went_well().warnings
        assert len(warnings) == (CUTS[where] < 20)
        assert all(f"{ASYNC}_log.log ends at update {CUTS[where]} of 20" in line for line in warnings)
        assert f"Finished {CUTS[where]} updates" in ended.output


def test_a_log_with_carriage_returns_is_read(nursery, copy):
    """As an editor of Windows leaves it."""
    spoil(copy, f"{ASYNC}_log.log", lambda path, good: path.write_text(good.read_text(), newline="\r\n"))
    ended = nursery.run(COMMANDS["test_model"], folder=copy).went_well()
    assert "Run: complete; 20 updates" in ended.output


def test_a_diverged_run_may_have_a_model_of_nan(nursery, copy):
    spoil(copy, f"{ASYNC}_model.pt", changed_state(
        lambda entries: OrderedDict((name, value * torch.nan) for name, value in entries.items())))  # fmt: skip
    spoil(copy, f"{ASYNC}_log.log", lambda path, good: path.write_text(
        re.sub(r"\b(loss|weight_norm) [\d.]+", r"\1 nan", good.read_text())))  # fmt: skip
    ended = nursery.run(COMMANDS["test_model"], "--pics", folder=copy).went_well()
    assert "loss: nan" in ended.output and not ended.errors
    assert len(list((copy / "out").glob("*_plots.png"))) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_rows_without_a_norm_are_left_out_with_a_warning(value, nursery, copy):
    spoil(copy, f"{ASYNC}_weights.npy", changed_rows(lambda rows: assign(rows, np.s_[3:, 5:], value)))
    (warning,) = nursery.run(COMMANDS["loss_landscape"], folder=copy).went_well().warnings
    assert f"{ASYNC}_weights.npy: 2 of 5 saved rows" in warning
    with np.load(copy / "out" / f"{ASYNC}_loss_landscape_numbers.npz") as numbers:
        np.testing.assert_array_equal(numbers["epochs"][:3], [0, 0.5, 1])
        assert np.isfinite(numbers["coordinates"]).all()


def test_a_run_that_never_converged_is_not_drawn_and_the_others_are(nursery, copy):
    spoil(copy, f"{ASYNC}_weights.npy", changed_rows(lambda rows: assign(rows, np.s_[1:], np.nan)))
    alone = nursery.run(COMMANDS["loss_landscape"], folder=copy).went_well()
    assert f"{ASYNC}_weights.npy: 4 of 5 saved rows" in alone.warnings[0] and "nothing to draw" in alone.warnings[1]
    assert not (copy / "out").exists()
    nursery.run(COMMANDS["loss_landscape_multi"], folder=copy).went_well()
    assert len(list((copy / "out").glob("*.html"))) == 2


def test_a_model_of_nan_is_not_marked_in_a_landscape(nursery, copy):
    spoil(copy, f"{ASYNC}_model.pt", changed_state(
        lambda entries: {name: value * torch.nan for name, value in entries.items()}))  # fmt: skip
    (warning,) = nursery.run(COMMANDS["loss_landscape"], folder=copy).went_well().warnings
    assert f"{ASYNC}_model.pt" in warning and "not marked" in warning
    assert len(list((copy / "out").glob("*.html"))) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_masked_on_a_grid_from_a_file(value, nursery, copy):
    spoil(copy, NUMBERS, changed_numbers(lambda numbers: assign(numbers["losses"], (0, 0), value)))
    ended = nursery.run(COMMANDS["grid_losses"], folder=copy).went_well()
    assert "1 of 4 points not finite" in ended.output
    assert len(list((copy / "out").glob("*.html"))) == 2


@pytest.mark.parametrize("damage", [cut, empty, missing])
def test_a_torn_or_missing_table_of_a_search_is_completed(damage, nursery, copy):
    def rows() -> list[list[str]]:
        table = [line.split(",") for line in (copy / CSV).read_text().splitlines()]
        return sorted([value for title, value in zip(table[0], row, strict=True) if title != "seconds"]
                      for row in table)  # fmt: skip

    before = rows()
    spoil(copy, CSV, damage)
    nursery.run(COMMANDS["kfold"], folder=copy).went_well()
    assert rows() == before


@pytest.mark.parametrize("damage", [cut, empty, missing])
def test_torn_or_missing_trials_are_measured_again(damage, nursery, copy):
    before = sorted((copy / TRIALS).read_text().splitlines())
    assert len(before) == 3
    spoil(copy, TRIALS, damage)
    nursery.run(COMMANDS["summary"], folder=copy).went_well()
    assert sorted((copy / TRIALS).read_text().splitlines()) == before


def test_a_summary_names_the_runs_that_it_cannot_measure_and_keeps_the_others(nursery, copy):
    (copy / TRIALS).unlink()
    spoil(copy, f"runs/{CLASSIC}_log.log", garbage)
    ended = nursery.run(COMMANDS["summary"], folder=copy)
    warning, error = ended.errors.splitlines()
    assert ended.code == 1
    assert f"warning: runs/{CLASSIC}_log.log" in warning and "error: runs: 1 of its runs" in error
    assert (copy / TRIALS).read_text().count("\n") == 2
    assert "seed2" in (copy / TRIALS).read_text() and (copy / "runs" / "summary.md").exists()


@pytest.mark.parametrize("damage", [garbage, cut, directory])
def test_the_log_beside_the_weights_may_be_of_no_use(damage, nursery, copy):
    """A landscape can do without it."""
    spoil(copy, f"{ASYNC}_log.log", damage)
    warnings = nursery.run(COMMANDS["loss_landscape"], folder=copy).went_well().warnings
    assert [f"{ASYNC}_log.log" in warning for warning in warnings] == ([] if damage is cut else [True])
    assert len(list((copy / "out").glob("*.html"))) == 2
