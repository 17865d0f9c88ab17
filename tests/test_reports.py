"""test_model.py, its figures and nb_params.py, on real runs and on corrupted files."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import common
import dist_sync
import nonDistributed
import test_model
from analysis.figures import key_columns
from analysis.reports.training_plots import (
    early_stopping,
    first_non_finite,
    fix_axes,
    running_mean,
    training_figure,
    validation_figure,
    waiting_times,
    worker_colors,
)
from common import Samples, build_model, load_dataset
from conftest import DATA, PUBLISHED, ROOT, needs_data, needs_published, run, train
from interface.command_line import run_script
from training.record.reader import read_log

SMALL = ("--train_split", 0.1, "--epochs", 2, "--seed", 1)
MODES = ("classic", "sync", "async")
EVERYTHING = ("--classification_report", "--training_time", "--pics")


def run_in_process(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
    """Run a script in this process, which saves importing torch again: exit code, output, errors."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr("interface.command_line.signal.signal", lambda *arguments: None)
        patch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_script(main)
    return end.value.code, output.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Mode → model and log of a small run."""
    folders = {mode: tmp_path_factory.mktemp(mode) for mode in MODES}
    train("dist_async.py", folders["async"], *SMALL, "--val", "--delay", "--slow_worker_1", "--delay_type", "constant")
    flags = ("--dataset", "digits", *SMALL, "--subfolder")
    assert run_in_process(nonDistributed.main, "--val", *flags, folders["classic"])[0] == 0
    assert run_in_process(dist_sync.main, "--clock", "virtual", "--split_dataset", *flags, folders["sync"])[0] == 0
    return {mode: (*folder.glob("*_model.pt"), *folder.glob("*_log.log")) for mode, folder in folders.items()}


@pytest.fixture(scope="module")
def report_of_async(runs: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The output of test_model.py on the command line, and the folder it writes to."""
    folder = tmp_path_factory.mktemp("report") / "new"
    ended = run("test_model.py", *runs["async"], *EVERYTHING, "--subfolder", folder)
    assert ended.stderr == ""
    return ended.stdout, folder


@pytest.fixture
def run_test_model(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run test_model.py in this process: arguments → exit code, output, errors."""
    return lambda *arguments: run_in_process(test_model.main, *arguments, "--subfolder", tmp_path / "out")


@pytest.fixture(params=MODES)
def report(
    request: pytest.FixtureRequest,
    runs: dict,
    run_test_model: Callable,
    report_of_async: tuple[str, Path],
    tmp_path: Path,
) -> tuple[str, str, Path]:
    """Mode, the output of test_model.py with every flag, and the folder it writes to."""
    if request.param == "async":
        return "async", *report_of_async
    code, printed, errors = run_test_model(*runs[request.param], *EVERYTHING)
    assert (code, errors) == (0, "")
    return request.param, printed, tmp_path / "out"


def copy_run(model_and_log: tuple[Path, Path], folder: Path, suffix: str = "") -> tuple[Path, Path]:
    """Copies to tamper with; `suffix` is appended to the base of their names."""
    base = test_model.base_of(model_and_log[0])
    model, log = (Path(shutil.copy(path, folder / path.name.replace(base, base + suffix))) for path in model_and_log)
    return model, log


# ----------------------------------------------------------------------------------------------------
# The report
# ----------------------------------------------------------------------------------------------------


def test_report_describes_the_run_and_equals_the_output(report, runs):
    mode, printed, folder = report
    model_path, log_path = runs[mode]
    base = model_path.name.removesuffix("_model.pt")
    assert (folder / f"{base}_model_test_performance.txt").read_text(encoding="utf-8") == printed

    log, data = read_log(log_path), load_dataset("digits", ".")
    model = build_model("digits", "LeNet5")
    model.load_state_dict(torch.load(model_path, weights_only=True))
    model.network.eval()
    for name, samples in (("Train", data.train), ("Test", data.test)):
        with torch.inference_mode():
            images, labels = samples.batch(slice(None))
            output = model.network(images)
        correct = int((output.argmax(1) == labels).sum())
        loss = -output[torch.arange(len(labels)), labels].mean().item()
        printed_score = re.search(
            rf"^{name} accuracy: ([\d.]+) % \((\d+)/(\d+)\), loss: ([\d.]+)", printed, re.MULTILINE
        )
        assert (int(printed_score[2]), int(printed_score[3])) == (correct, len(labels))
        assert float(printed_score[1]) == pytest.approx(100 * correct / len(labels), abs=0.006)
        assert float(printed_score[4]) == pytest.approx(loss, abs=2e-4)
    assert "on the whole training set of digits" in printed
    assert f"Run: complete; {len(log.updates)} updates; staleness mean {log.updates.staleness.mean():.2f}" in printed
    assert f"Training time: {test_model.minutes(log.seconds)} (MM:SS:mmm, {log.clock} clock)" in printed
    for name in (*data.classes, "macro avg"):
        assert re.search(rf"^\s*{name}(\s+[\d.]+){{4}}$", printed, re.MULTILINE), f"no line of class {name}"


def test_figures_are_images_of_a_reasonable_size(report):
    mode, printed, folder = report
    images = sorted(path.name for path in folder.glob("*.png"))
    assert any(name.endswith("_model_training_plots.png") for name in images)
    assert any(name.endswith("_model_validation_plots.png") for name in images) == (mode != "sync")
    assert ("No validation plots" in printed) == (mode == "sync")
    for name in images:
        image = imread(folder / name)[:, :, :3]
        assert 1000 < image.shape[1] < 4000 and 500 < image.shape[0] < 3000
        assert 0.02 < (image < 0.9).any(axis=2).mean() < 0.5  # neither blank nor all ink
    assert len(list(folder.iterdir())) == len(images) + 1  # no partial files are left


def test_minutes():
    assert test_model.minutes(0) == "00:00:000"
    assert test_model.minutes(61.2345) == "01:01:234"
    assert test_model.minutes(59.9996) == "01:00:000"
    assert test_model.minutes(6000) == "100:00:000"


def test_without_pics_matplotlib_is_not_imported(runs, tmp_path):
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, 'matplotlib' in sys.modules)"
    )
    arguments = ["test_model.py", *map(str, runs["sync"]), "--training_time", "--subfolder", str(tmp_path)]
    code = f"import sys; sys.argv = {arguments!r}\n{code}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ended.stdout.splitlines()[-1:] == ["0 False"], ended.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".txt"]


# ----------------------------------------------------------------------------------------------------
# Incomplete and diverged runs
# ----------------------------------------------------------------------------------------------------


def truncated_log(text: str) -> str:
    return text[: text.index("validation 2/2") - 30]


def only_header(text: str) -> str:
    return text[: text.index("\n") + 1]


def not_a_number(text: str) -> str:
    return re.sub(r"\b(loss|weight_norm|train_loss|val_loss) [\d.]+", r"\1 nan", text)


def exploding(text: str) -> str:
    head, *lines = text.split("\n")
    grown = [
        re.sub(r"\bloss ([\d.]+)", rf"loss \g<1>e{min(3 * number, 37)}", line) for number, line in enumerate(lines)
    ]
    return "\n".join([head, *grown])


@pytest.mark.parametrize(
    "tamper, status, seen",
    [
        (truncated_log, "cut short", None),
        (only_header, "cut short", "0 updates"),
        (not_a_number, "complete", None),
        (exploding, "complete", None),
    ],
)
def test_truncated_empty_and_diverged_logs_are_reported_and_drawn(tamper, status, seen, runs, run_test_model, tmp_path):
    model, log = copy_run(runs["async"], tmp_path)
    log.write_text(tamper(log.read_text()))
    code, printed, errors = run_test_model(model, log, *EVERYTHING)
    assert (code, errors) == (0, "")
    assert f"Run: {status}" in printed
    assert seen is None or seen in printed
    (image,) = (tmp_path / "out").glob("*_training_plots.png")
    assert imread(image).shape[1] > 1000


def test_partial_run_keeps_its_name_and_reason(runs, run_test_model, tmp_path):
    model, log = copy_run(runs["async"], tmp_path, "_partial123")
    lines = log.read_text().splitlines()
    result = {"status": "partial", "reason": "interrupted", "seconds": 75.5, "lost_workers": ["Worker_2"]}
    log.write_text("\n".join([*lines[:10], "75.500000 s  result " + json.dumps(result)]) + "\n")
    code, printed, _ = run_test_model(model, log, "--training_time")
    assert code == 0
    assert "Run: partial (interrupted)" in printed and "lost Worker_2" in printed and "01:15:500" in printed
    (report,) = (tmp_path / "out").iterdir()
    assert report.name.endswith("_partial123_model_test_performance.txt")


# ----------------------------------------------------------------------------------------------------
# Bad input: one line, an exit code, nothing executed
# ----------------------------------------------------------------------------------------------------


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def truncate(model: Path, log: Path, runs: dict) -> None:
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])


def empty_model(model: Path, log: Path, runs: dict) -> None:
    model.write_bytes(b"")


def text_as_model(model: Path, log: Path, runs: dict) -> None:
    shutil.copy(log, model)


def trap_as_model(model: Path, log: Path, runs: dict) -> None:
    torch.save({"conv1.weight": Trap(model.parent / "sprung")}, model)


def list_as_model(model: Path, log: Path, runs: dict) -> None:
    torch.save([torch.zeros(3)], model)


def another_network(model: Path, log: Path, runs: dict) -> None:
    torch.save(build_model("digits", "CNN1").state_dict(), model)


def empty_log(model: Path, log: Path, runs: dict) -> None:
    log.write_bytes(b"")


def text_as_log(model: Path, log: Path, runs: dict) -> None:
    log.write_text("Dear diary,\ntoday I trained a network.\n")


def model_as_log(model: Path, log: Path, runs: dict) -> None:
    shutil.copy(model, log)


def log_of_another_run(model: Path, log: Path, runs: dict) -> None:
    shutil.copy(runs["sync"][1], log)


def broken_line(model: Path, log: Path, runs: dict) -> None:
    log.write_text(log.read_text().replace("fetched 3 ", "fetched three "))


@pytest.mark.parametrize(
    "tamper, complaint",
    [
        (truncate, "not a model"),
        (empty_model, "not a model"),
        (text_as_model, "not a model"),
        (trap_as_model, "not a model"),
        (list_as_model, "contains no state dict"),
        (another_network, "not a model of LeNet5"),
        (empty_log, "empty"),
        (text_as_log, "line 1"),
        (model_as_log, "not a log"),
        (log_of_another_run, "does not match its header"),
        (broken_line, "not a line of a log"),
    ],
)
def test_broken_files_end_in_one_line(tamper, complaint, runs, run_test_model, tmp_path):
    model, log = copy_run(runs["async"], tmp_path)
    tamper(model, log, runs)
    code, printed, errors = run_test_model(model, log, *EVERYTHING)
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert complaint in errors
    assert model.name in errors or log.name in errors
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "sprung").exists()


def test_the_trap_springs_when_unpickled(tmp_path):
    trap_as_model(tmp_path / "model.pt", tmp_path, {})
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "sprung").is_dir()


def test_usage_errors_end_in_one_line(runs, run_test_model, tmp_path):
    model, log = runs["async"]
    for arguments, complaint in (
        ([model, log, "--fixed_axes"], "--fixed_axes has no effect without --pics"),
        ([model, tmp_path / "none_log.log"], "none_log.log"),
        ([tmp_path / "none_model.pt", log], "none_model.pt"),
        ([model, log, "--batch_size", "0"], "--batch_size"),
        ([model], "LOG"),
        ([Path(shutil.copy(model, tmp_path / "mine.pt")), log], "not the name of a run's file"),
    ):
        code, printed, errors = run_test_model(*arguments)
        assert (code, printed, errors.count("\n")) == (2, "", 1)
        assert complaint in errors
    ended = run("test_model.py", model, runs["sync"][1], check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "belong to different runs" in ended.stderr


def test_a_renamed_log_is_identified_by_its_header(runs, run_test_model, tmp_path):
    model, log = runs["async"]
    assert run_test_model(model, shutil.copy(log, tmp_path / "friday.log"))[0] == 0
    code, _, errors = run_test_model(model, shutil.copy(runs["sync"][1], tmp_path / "saturday.log"))
    assert code == 1 and "belong to different runs" in errors


# ----------------------------------------------------------------------------------------------------
# The figures show the contents of the log
# ----------------------------------------------------------------------------------------------------


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_panels_show_every_worker(runs):
    log = read_log(runs["async"][1])
    figure = training_figure(log, "headline\nsettings")
    shown = panels(figure)
    assert [line.get_ydata()[-1] for line in shown["Cumulative updates"].get_lines()] == [
        (log.updates.worker == worker).sum() for worker in (1, 2)
    ]
    staleness = shown["Staleness"].collections[0].get_offsets()
    assert np.array_equal(staleness, np.column_stack([log.updates.seconds, log.updates.staleness]))
    bars = shown[""].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(100)
    mean = sum(bar.get_width() * (bar.get_y() + bar.get_height() / 2) for bar in bars) / 100
    assert mean == pytest.approx(log.updates.staleness.mean())
    assert all("wall-clock time (s)" in axes.get_xlabel() for title, axes in shown.items() if title)


COUNTED = {"asgd": "updates", "ringleader": "gradients", "dude": "gradients"}


@pytest.mark.parametrize(("algorithm", "counted"), COUNTED.items())
def test_a_panel_counts_updates_only_where_each_gradient_is_one(algorithm, counted, tmp_path):
    log = train("dist_async.py", tmp_path, "--algorithm", algorithm, "--clock", "virtual", "--epochs", 2)["log"]
    assert f"Cumulative {counted}" in panels(training_figure(read_log(log), "headline\nsettings"))


def test_title_lines_and_panels_never_overlap(runs):
    log = read_log(runs["async"][1])
    for workers in (2, 10, 100):
        config = replace(log.config, world_size=workers + 1)
        figure = training_figure(replace(log, config=config), "headline\n" + "setting 0.123, " * 20 + "end\nclock")
        figure.draw_without_rendering()
        headline, lines = (text.get_window_extent() for text in figure.texts)
        top = max(axes.get_tightbbox().y1 for axes in figure.axes)
        assert headline.y1 <= figure.bbox.y1 and headline.y0 >= lines.y1 and lines.y0 >= top
        assert lines.x0 > 0 and lines.x1 < figure.bbox.x1


def test_early_stopping_is_the_lowest_finite_validation_loss(runs):
    log = read_log(runs["async"][1])
    template = log.validations[0]

    def with_losses(*losses: float):
        validations = tuple(replace(template, epoch=epoch, val_loss=loss) for epoch, loss in enumerate(losses, start=1))
        return replace(log, validations=validations)

    assert early_stopping(with_losses(3.0, math.nan, 1.0, 2.0)) == 2
    assert early_stopping(with_losses(math.nan, math.inf)) is None
    figure = validation_figure(with_losses(3.0, 1.0, 2.0), "headline")
    assert "epoch 2" in figure.legends[0].get_texts()[-1].get_text()
    marked = [axes.get_lines()[-1].get_xdata()[0] for axes in figure.axes]
    assert marked == [2, 2, template.seconds, template.seconds]


def test_first_non_finite(runs):
    updates = read_log(runs["async"][1]).updates
    assert first_non_finite(updates) is None
    loss, norm = updates.loss.copy(), updates.weight_norm.copy()
    loss[7], norm[5] = math.nan, math.inf
    assert first_non_finite(replace(updates, loss=loss, weight_norm=norm)) == 5


@pytest.mark.parametrize("window", [1, 2, 5, 50])
def test_running_mean(window):
    values = np.random.default_rng(0).normal(size=20)
    values[[3, 4, 11]] = math.nan, math.inf, 1e30
    means = running_mean(values, window)
    size = min(window, len(values))
    for position, mean in enumerate(means):
        start = position - size // 2
        neighbours = values[max(start, 0) : start + size]
        neighbours = neighbours[np.isfinite(neighbours)]
        if np.isfinite(values[position]):
            assert mean == pytest.approx(neighbours.mean())
        else:
            assert math.isnan(mean)


@pytest.mark.parametrize("workers", [1, 2, 6, 7, 10, 100])
def test_workers_have_distinct_colours(workers):
    colors = worker_colors(workers)
    assert len(np.unique(colors.round(4), axis=0)) == workers
    luminance = colors[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert luminance.max() < 0.82  # visible on white


# ----------------------------------------------------------------------------------------------------
# The published study, and the networks
# ----------------------------------------------------------------------------------------------------


@needs_published
@needs_data
@pytest.mark.parametrize("mode", MODES)
def test_published_runs_score_as_in_their_logs(mode, run_test_model, monkeypatch, tmp_path):
    def every_40th(name: str, data_dir: str, changed: bool):
        data = load_dataset(name, data_dir, changed)
        thin = {part: Samples(samples.images[::40], samples.labels[::40])
                for part, samples in (("train", data.train), ("test", data.test))}  # fmt: skip
        return replace(data, **thin)

    monkeypatch.setattr(common, "load_dataset", every_40th)
    (model,) = PUBLISHED.glob(f"*_{mode}_*_model.pt")
    log = read_log(model.with_name(model.name.replace("_model.pt", "_log.log")))
    code, printed, _ = run_test_model(model, log.path, *EVERYTHING, "--data_dir", DATA)
    assert code == 0
    loss, accuracy = (float(re.search(rf"^Train .*{name}: ([\d.]+)", printed, re.MULTILINE)[1])
                      for name in ("loss", "accuracy"))  # fmt: skip
    assert loss == pytest.approx(log.updates.loss[-10:].mean(), abs=0.25)
    if log.validations:
        assert accuracy == pytest.approx(log.validations[-1].train_accuracy, abs=4)
    assert "Ankle boot" in printed
    assert f"({len(log.updates)} updates" in printed or f"; {len(log.updates)} updates;" in printed
    assert ("inferred from the order of the log" in printed) == (mode == "async")
    drawn = {path.name.removeprefix(model.stem) for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {"_training_plots.png"} | ({"_validation_plots.png"} if mode == "classic" else set())


def test_parameter_table():
    ended = run("nb_params.py")
    cells = [re.split(r"\s{2,}", line) for line in ended.stdout.splitlines()[1:]]
    table = {(name.split(" ")[0], datasets): (int(count.replace(",", "")), layers)
             for name, datasets, count, layers in cells}  # fmt: skip
    small, resnet = "mnist, fashion_mnist, digits", "conv1 bn1 layer1 layer2 layer3 layer4 linear"
    assert table == {
        ("LeNet5", small): (61_706, "conv1 conv2 fc1 fc2 fc3"),
        ("CNN1", small): (1_199_882, "conv1 conv2 fc1 fc2"),
        ("ResNet18", "cifar10"): (11_173_962, resnet),
        ("ResNet18", "cifar100"): (11_220_132, resnet),
        ("CNN2", "cifar10"): (2_122_186, "conv1 conv2 fc1 fc2"),
        ("CNN2", "cifar100"): (2_168_356, "conv1 conv2 fc1 fc2"),
    }


def test_waiting_times_of_a_synchronous_run(tmp_path):
    """The worker that takes twice as long waits for nobody, the others for it."""
    flags = ("--clock", "virtual", "--world_size", 4, "--split_dataset", "--worker_speeds", 1, 0.5, 1,
             "--compute_time", "constant", "--seed", 1)  # fmt: skip
    files = train("dist_sync.py", tmp_path, *flags)
    applied, waited = waiting_times(read_log(files["log"]))
    for worker, expected in ((1, 10), (2, 0), (3, 10)):
        assert waited[applied.worker == worker] == pytest.approx(expected, abs=1e-2)
    figure = training_figure(read_log(files["log"]), "headline")
    assert [axes.get_title(loc="left") for axes in figure.axes][3] == "Waiting times"
    files = train("dist_sync.py", tmp_path, *flags, "--algorithm", "malenia")  # whose workers wait for nobody
    figure = training_figure(read_log(files["log"]), "headline")
    assert "Waiting times" not in [axes.get_title(loc="left") for axes in figure.axes]


def test_a_partition_plot_of_a_log_has_its_settings(runs, tmp_path):
    command = ("analysis/reports/partition_plots.py", "--log", runs["async"][1], "--output", tmp_path / "plot.png")
    done = run(*command, "--workers", 5, check=False)
    assert done.returncode == 2 and "--workers 5 has no effect with --log" in done.stderr
    run(*command)
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_a_key_has_as_many_columns_as_fit():
    assert [key_columns(["x" * length] * 5) for length in (1, 20, 41, 80)] == [4, 3, 2, 1]


def test_a_synchronous_run_that_ended_before_its_first_update_is_drawn(tmp_path):
    files = train("dist_sync.py", tmp_path, "--clock", "virtual", "--worker_speeds", 1, 0.1, "--max_seconds", 0.02)
    log = read_log(files["log"])
    assert len(log.gradients) > len(log.updates) == 0
    assert training_figure(log, "headline").axes


def test_a_run_that_learned_nothing_is_drawn_on_a_fixed_axis(runs):
    log = read_log(runs["async"][1])
    validations = tuple(replace(one, train_accuracy=10.0, val_accuracy=11.0) for one in log.validations)
    for found, texts in ((log, []), (replace(log, validations=validations), ["no convergence: a guess has 10 %"])):
        axes = validation_figure(found, "headline").axes[1]
        assert [text.get_text() for text in axes.texts] == texts and (axes.get_ylim() == (0, 100)) == bool(texts)


def test_fixed_axes_do_not_depend_on_the_run(runs):
    limits = []
    for mode in ("classic", "async"):
        log = read_log(runs[mode][1])
        figure = validation_figure(log, "headline")
        fix_axes(figure, log)
        limits.append([axes.get_ylim() for axes in figure.axes] + [figure.axes[0].get_xlim()])
    assert limits[0] == limits[1]
