"""The files of a run are complete and read back as written; other files are refused."""

import json
import math
import pickle
import subprocess

import numpy as np
import pytest
import torch

import common
from analysis.reports.trials import Trial
from conftest import PUBLISHED, needs_published, run, train
from interface.errors import DataError
from training.record import writer
from training.record.models import read_model, read_weights
from training.record.reader import read_log


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    flags = ("--epochs", 2, "--saves_per_epoch", 3, "--val", "--seed", 9)
    return {
        "classic": train("nonDistributed.py", folder, *flags),
        "sync": train("dist_sync.py", folder, *flags, "--split_dataset"),
        "async": train("dist_async.py", folder, *flags, "--split_dataset"),
    }


@pytest.mark.parametrize("mode", ["classic", "sync", "async"])
def test_a_log_contains_the_whole_run(runs, mode):
    log = read_log(runs[mode]["log"])
    head = log.header
    assert head["seed"] == 9 and head["cores"] >= 1 and head["threads_per_gradient"] >= 1
    assert {"python", "torch", "torchvision", "numpy"} <= head["versions"].keys()
    assert head["processor"].endswith(torch.backends.cpu.get_cpu_capability())
    assert (log.config.mode, log.clock, log.result["status"]) == (mode, "wall", "complete")
    assert len(log.updates) == head["updates"] == log.result["updates"]
    assert np.all(np.diff(log.updates.seconds) >= 0) and log.seconds == pytest.approx(log.updates.seconds[-1], abs=1e-5)
    assert log.updates.staleness.max() == log.result["max_staleness"]
    assert log.updates.staleness.mean() == pytest.approx(log.result["mean_staleness"])
    assert np.array_equal(log.updates.staleness, np.arange(len(log.updates)) - log.updates.fetched)
    for worker in range(1, log.config.workers + 1):
        steps = log.gradients.of_worker(worker).step
        assert np.array_equal(steps, np.arange(1, len(steps) + 1))
    assert [validation.epoch for validation in log.validations] == [1, 2]
    assert all(0 <= validation.val_accuracy <= 100 for validation in log.validations)
    assert mode != "classic" or log.validations[-1].val_accuracy > 30


@pytest.mark.parametrize("mode", ["classic", "sync", "async"])
def test_saved_weights_range_from_the_initialisation_to_the_model(runs, mode):
    model = common.build_model("digits", "LeNet5", seed=9)
    weights = read_weights(runs[mode]["weights"], model.state_vector().numel())
    assert weights.shape == (7, 61706)
    assert np.array_equal(weights[0], model.state_vector().numpy())
    read_model(runs[mode]["model"], model)
    assert np.array_equal(weights[-1], model.state_vector().numpy())
    assert np.linalg.norm(weights[-1]) == pytest.approx(read_log(runs[mode]["log"]).updates.weight_norm[-1], rel=1e-5)


def test_only_requested_files_are_written(tmp_path):
    assert set(train("nonDistributed.py", tmp_path, "--no_save_model")) == {"log"}


def test_infinity_is_written_as_a_text_that_every_reader_of_json_knows(tmp_path):
    run = train("dist_async.py", tmp_path, "--clock", "virtual", "--algorithm", "ssp", "--slack", "inf")
    header = run["log"].read_text().splitlines()[0]
    json.loads(header, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read_log(run["log"]).config.slack == math.inf
    trial = Trial.of(run["log"], "data")
    assert Trial.parse(trial.line()).config.slack == math.inf


def test_the_model_of_an_earlier_run_of_the_same_name_is_not_measured(tmp_path):
    flags = ("--dataset", "digits", "--clock", "virtual", "--lr", 0.05, "--subfolder", tmp_path)  # any seed
    run("dist_async.py", *flags)
    (log,) = tmp_path.glob("*_log.log")
    Trial.of(log, "data")
    run("dist_async.py", *flags, "--no_save_model")
    with pytest.raises(DataError, match="not the model of"):
        Trial.of(log, "data")


def test_model_accuracy_is_reported(tmp_path):
    done = train("nonDistributed.py", tmp_path, "--model_accuracy", "--epochs", 8)
    assert read_log(done["log"]).result["train_accuracy"] > 80


@pytest.mark.parametrize(
    ("flags", "arrived"),
    [(("--algorithm", "fedbuff", "--buffer_size", 1000), 46), (("--max_seconds", 0.001), 0)],
    ids=["a buffer that is never full", "no time"],
)
def test_a_run_without_an_update_warns(flags, arrived, tmp_path):
    log = read_log(train("dist_async.py", tmp_path, "--split_dataset", "--clock", "virtual", *flags)["log"])
    assert log.warnings == (f"the model was never updated: of {arrived} gradients that arrived, 0 were dropped",)


def test_divergence_is_reported_once_and_the_run_completes(tmp_path):
    flags = ("--lr", 1e6, "--momentum", 0.99, "--split_dataset", "--val", "--seed", 1)  # always diverges
    done = train("dist_async.py", tmp_path, *flags)
    log = read_log(done["log"])
    assert log.result["status"] == "complete"
    assert [warning.startswith("no convergence") for warning in log.warnings] == [True]
    at = log.result["diverged_at"]
    assert math.isfinite(log.updates.loss[at - 2]) and not math.isfinite(
        log.updates.loss[at - 1] + log.updates.weight_norm[at - 1]
    )


def test_a_truncated_log_is_read_up_to_its_last_complete_line(runs, tmp_path):
    text = runs["async"]["log"].read_text()
    whole = read_log(runs["async"]["log"])
    path = tmp_path / runs["async"]["log"].name
    for size in np.linspace(len(text.split("\n")[0]) + 1, len(text) - 1, 12).astype(int):
        path.write_text(text[:size])
        log = read_log(path)
        assert log.result is None
        assert np.array_equal(log.updates.loss, whole.updates.loss[: len(log.updates)])


def bad_logs(text: str) -> dict[str, str]:
    lines = text.splitlines(keepends=True)
    header = json.loads(lines[0])
    return {
        "empty": "",
        "a header cut short": lines[0][:100],
        "no header": "".join(lines[1:]),
        "another header": json.dumps({"a": 1}) + "\n" + "".join(lines[1:]),
        "a header of an invalid run": json.dumps(header | {"config": header["config"] | {"lr": -1}}) + "\n",
        "prose between lines": "".join([*lines[:9], "and then\n", *lines[9:]]),
        "a line without a loss": "".join([*lines[:5], lines[5].replace("loss", "gain"), *lines[6:]]),
        "a result without its time": "".join([*lines[:-1], '0.1 s  result {"status": "complete"}\n']),
        "a result that is a number": "".join([*lines[:-1], "0.1 s  result 7\n"]),
        "an invalid number": "".join([*lines[:5], lines[5].replace("fetched ", "fetched x"), *lines[6:]]),
    }


def test_invalid_logs_are_refused(runs, tmp_path):
    path = tmp_path / "some_log.log"
    for kind, text in bad_logs(runs["async"]["log"].read_text()).items():
        path.write_text(text)
        with pytest.raises(DataError, match=r"some_log\.log"):
            read_log(path)
            raise AssertionError(kind)


def test_logs_that_are_not_text_are_refused(runs, tmp_path):
    for path in (tmp_path, tmp_path / "none.log", runs["async"]["model"]):
        with pytest.raises(DataError, match=path.name):
            read_log(path)


@needs_published
@pytest.mark.parametrize(("mode", "updates", "gradients", "validations"),
                         [("async", 188, 188, 0), ("sync", 94, 188, 0), ("classic", 170, 170, 2)])  # fmt: skip
def test_published_logs(mode, updates, gradients, validations):
    log = read_log(next(PUBLISHED.glob(f"*_{mode}_*.log")))
    assert (len(log.updates), len(log.gradients), len(log.validations)) == (updates, gradients, validations)
    assert log.result == {"status": "complete"} and log.header is None
    assert np.isfinite(log.updates.loss).all() and log.updates.weight_norm[0] == pytest.approx(8.9, abs=0.05)
    if mode == "async":  # each worker fetches immediately after its own update
        assert log.updates.staleness[:4].tolist() == [0, 1, 1, 1]


@needs_published
def test_published_models_and_weights():
    for path in PUBLISHED.glob("*_model.pt"):
        model = common.build_model("fashion_mnist", "CNN1" if "_alt_model" in path.name else "LeNet5")
        read_model(path, model)
        weights = path.with_name(path.name.replace("_model.pt", "_weights.npy"))
        if weights.exists():
            assert read_weights(weights, 61706).shape == (7, 61706)


class Trap:
    """A pickle that would leave a trace if it were executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_files_are_never_executed(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"conv1.weight": Trap(trace)}, tmp_path / "trap_model.pt")
    (tmp_path / "plain_model.pt").write_bytes(pickle.dumps(Trap(trace)))
    np.save(tmp_path / "trap_weights.npy", np.array([Trap(trace)], dtype=object), allow_pickle=True)
    model = common.build_model("digits", "LeNet5")
    for name in ("trap_model.pt", "plain_model.pt"):
        with pytest.raises(DataError, match=name):
            read_model(tmp_path / name, model)
    with pytest.raises(DataError, match=r"trap_weights\.npy"):
        read_weights(tmp_path / "trap_weights.npy", 61706)
    assert not trace.exists()


def test_models_and_weights_of_other_networks_are_refused(runs, tmp_path):
    model = common.build_model("digits", "LeNet5")
    good = runs["async"]["model"].read_bytes()
    files = {"cut": good[:1000], "empty": b"", "text": b"hello", "log": runs["async"]["log"].read_bytes()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_model(tmp_path / name, model)
        with pytest.raises(DataError, match=name):
            read_weights(tmp_path / name, 61706)
    torch.save([1, 2], tmp_path / "list")
    torch.save(common.build_model("digits", "CNN1").state_dict(), tmp_path / "CNN1")
    for name in ("list", "CNN1", "none"):
        with pytest.raises(DataError, match=name):
            read_model(tmp_path / name, model)
    np.save(tmp_path / "flat.npy", np.zeros(61706, np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((3, 61707), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((3, 61706)))
    for name in ("flat.npy", "wide.npy", "double.npy"):
        with pytest.raises(DataError, match=name):
            read_weights(tmp_path / name, 61706)


def test_flat_models_are_views():
    model = common.build_model("cifar10", "ResNet18", seed=1)
    state = model.network.state_dict()
    model.parameters.fill_(2.0)
    model.buffers.fill_(3.0)
    assert all(value.unique().item() == (3.0 if "running" in name or "tracked" in name else 2.0)
               for name, value in state.items())  # fmt: skip
    assert model.state_dict()["bn1.num_batches_tracked"].dtype == torch.int64
    again = common.build_model("cifar10", "ResNet18", seed=2)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.state_vector(), model.state_vector())


def test_the_error_for_missing_data_suggests_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    for name, folder in (("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("cifar10", "cifar-10-batches-py")):
        target = tmp_path / folder
        target.write_text("a file where the folder should be")
        with pytest.raises(DataError, match=rf"{name}.*--data_dir.*--dataset digits"):
            common.load_dataset(name, tmp_path)


def test_a_checkpoint_of_data_parallel_is_read_with_a_warning(tmp_path, caplog):
    model, copy = (common.build_model("digits", "LeNet5", seed) for seed in (1, 2))
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "wrapped.pt")
    read_model(tmp_path / "wrapped.pt", copy)
    assert torch.equal(copy.parameters, model.parameters)
    assert "wrapped.pt: its layers have the prefix module. of DataParallel" in caplog.text


def test_the_revision_tells_modified_code_from_new_rows(tmp_path, monkeypatch):
    """The rows of a study are in its checkout, and change with every run."""
    monkeypatch.setattr(writer, "REPOSITORY", tmp_path)
    assert writer.revision() == "unknown"
    author = ("-c", "user.name=A", "-c", "user.email=a@b.org")
    code, rows = tmp_path / "training/engine.py", tmp_path / "summaries/trials.jsonl"
    for path in code, rows:
        path.parent.mkdir()
        path.write_text("1\n")
    for command in ("init", "-q"), ("add", "."), (*author, "commit", "-qm", "begin"):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, timeout=60)
    committed = writer.revision()
    assert len(committed) == 12
    rows.write_text("2\n")
    assert writer.revision() == committed
    code.write_text("2\n")
    assert writer.revision() == committed + "+"
