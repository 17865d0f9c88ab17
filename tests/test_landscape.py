"""Loss landscapes: exact for a known loss, resumable after a kill, clear errors for unusable input."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import loss_landscape
import loss_landscape_multi
from analysis.landscape.inputs import Source, SurveySettings
from analysis.landscape.landscape import Landscape
from analysis.landscape.network_loss import NetworkLoss, evaluation_of
from analysis.landscape.pages import contour_figure, surface_figure
from analysis.landscape.plane import Line, Plane
from analysis.landscape.plots import draw
from analysis.landscape.sources import read_run, saved_epochs
from analysis.landscape.style import log_ticks
from analysis.landscape.survey import Evaluation, SavedRun, Survey
from common import Dataset, FlatModel, Samples, build_model, load_dataset
from conftest import PUBLISHED, ROOT, needs_published, run, train
from evaluation import evaluate
from interface.command_line import run_script
from interface.errors import DataError
from training.names import base_of, parse_run_name
from training.record.reader import read_log

ABOUT = {"network": "a function", "data": "nothing"}
QUICK = ("--grid_size", 4, "--test_samples", 40)


def settings(**changes: object) -> SurveySettings:
    return SurveySettings(
        **{"grid_size": 9, "batch_size": 50, "margin": 0.25, "test_samples": None, "data_dir": ROOT} | changes
    )


def planar_run(coordinates: list[tuple[float, float]], columns: int = 7) -> tuple[SavedRun, np.ndarray]:
    """A run within a random plane, and that plane's orthonormal directions (2, P)."""
    directions = np.linalg.qr(np.random.default_rng(1).normal(size=(columns, 2)))[0].T
    rows = np.arange(columns) + np.array(coordinates) @ directions
    return SavedRun("planar", rows, np.arange(len(rows)) / 2), directions


def survey_of(runs: list[SavedRun], model: SavedRun | None = None, **changes: object) -> Survey:
    return Survey.around(runs, model, settings(**changes), ABOUT)


def measure(survey: Survey, loss: Callable, folder: Path) -> Landscape:
    return survey.measure(evaluation(survey, loss, loss), folder / "unfinished.npz")


def evaluation(survey: Survey, *losses: Callable[[np.ndarray], float]) -> Evaluation:
    """An evaluation from functions of a single point."""

    def along_line(loss: Callable[[np.ndarray], float]) -> Callable[[Line], np.ndarray]:
        return lambda line: np.array([loss(point) for point in line.points()])

    return Evaluation(tuple(map(along_line, losses)), survey.about)


def call(script: object, *arguments: object) -> int:
    """Run a script's main in this process; returns the exit code."""
    before = sys.argv
    sys.argv = [f"{script.__name__}.py", *map(str, arguments)]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as exit:
            run_script(script.main)
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)
    return exit.value.code


# ----------------------------------------------------------------------------------------------------
# Plane, grid, evaluation
# ----------------------------------------------------------------------------------------------------

UNEQUAL = [(-6.0, 0.5), (-2.0, -0.25), (1.0, -0.75), (3.0, 0.0), (4.0, 0.5)]  # 10 wide, 1.25 high


def test_the_landscape_of_a_quadratic_is_exact(tmp_path):
    saved, directions = planar_run(UNEQUAL)
    curvature, minimum = np.linspace(1, 2, 7), np.arange(7) + 2 * directions[0] - directions[1]

    def quadratic(parameters: np.ndarray) -> float:
        return float(curvature @ (parameters - minimum) ** 2)

    landscape = measure(survey_of([saved]), quadratic, tmp_path)
    plane = landscape.plane
    np.testing.assert_allclose(
        np.abs(plane.directions @ directions.T @ directions), np.abs(plane.directions), atol=1e-12
    )
    np.testing.assert_allclose(plane.directions @ plane.directions.T, np.eye(2), atol=1e-12)
    variances = np.linalg.eigvalsh(np.cov(np.array(UNEQUAL).T))[::-1]
    np.testing.assert_allclose(plane.explained, variances / variances.sum(), rtol=1e-12)
    for i, y in enumerate(landscape.grid.y):
        for j, x in enumerate(landscape.grid.x):
            at = saved.parameters.mean(axis=0) + x * plane.directions[0] + y * plane.directions[1]
            assert landscape.losses[i, j] == pytest.approx(quadratic(at), rel=1e-12)
    trajectory = landscape.trajectories[0]
    np.testing.assert_allclose(trajectory.distances, 0, atol=1e-12)
    np.testing.assert_allclose(trajectory.losses, [quadratic(row) for row in saved.parameters], rtol=1e-12)
    np.testing.assert_allclose(trajectory.plane_losses, trajectory.losses, rtol=1e-12)
    assert landscape.lowest[2] == landscape.losses.min() and landscape.masked == 0


def test_rows_off_the_plane_have_their_own_loss_and_distance(tmp_path):
    rows = np.array([[-4.0, 1, 0], [-1, -1, 0], [1, -1, 0], [4, 1, 0]])
    rows[1:3, 2] = 0.5, -0.5  # on both sides of the plane, too close to tilt it
    survey = survey_of([SavedRun("off the plane", rows, np.arange(4.0))])
    trajectory = measure(survey, lambda at: float(1 + at[2] ** 2), tmp_path).trajectories[0]
    normal = np.cross(*survey.plane.directions)
    np.testing.assert_allclose(trajectory.distances, np.abs((rows - survey.plane.origin) @ normal), atol=1e-12)
    assert trajectory.distances[1] > 0.3
    np.testing.assert_allclose(trajectory.losses, 1 + rows[:, 2] ** 2)
    nearest = survey.plane.origin + trajectory.coordinates @ survey.plane.directions
    np.testing.assert_allclose(trajectory.plane_losses, 1 + nearest[:, 2] ** 2)


def test_a_grid_covers_unequal_extents_and_is_drawn_in_the_right_orientation(tmp_path):
    saved, _ = planar_run(UNEQUAL)
    survey = survey_of([saved], grid_size=17)
    x, y = survey.plane.project(saved.parameters).T
    pad = 0.25 * np.ptp(x)
    np.testing.assert_allclose([survey.grid.x[0], survey.grid.x[-1]], [x.min() - pad, x.max() + pad])
    np.testing.assert_allclose([survey.grid.y[0], survey.grid.y[-1]], [y.min() - pad, y.max() + pad])

    def plane_loss(parameters: np.ndarray) -> float:
        first, second = survey.plane.project([parameters])[0]
        return float(np.exp(first / 2 - 3 * second))

    landscape = measure(survey, plane_loss, tmp_path)
    columns, rows = np.meshgrid(survey.grid.x, survey.grid.y)
    np.testing.assert_allclose(landscape.losses, np.exp(columns / 2 - 3 * rows))
    for figure in (contour_figure(landscape), surface_figure(landscape)):
        drawn = figure.data[0]
        expected = [(first / 2 - 3 * second) / np.log(10) for second in drawn.y for first in drawn.x]
        np.testing.assert_allclose(np.ravel(drawn.z), expected)
        marks = next(trace for trace in figure.data[1:] if "markers" in trace.mode)
        np.testing.assert_allclose(marks.x, x)
        np.testing.assert_allclose(marks.y, y)
        np.testing.assert_allclose(marks.customdata[:, 1], np.exp(x / 2 - 3 * y))


def test_points_that_span_no_plane_are_refused():
    with pytest.raises(DataError, match="span no plane"):
        Plane.through(np.ones((4, 5), dtype=np.float32))


def test_a_straight_trajectory_has_a_two_dimensional_grid():
    survey = survey_of([planar_run([(-1.0, 0.0), (0.0, 0.0), (3.0, 0.0)])[0]])
    assert np.ptp(survey.grid.y) == pytest.approx(0.5 * 4)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_camera_is_placed_where_nothing_hides_the_trajectory(axis, sign, tmp_path):
    """With a wall on one side of the trajectory, the camera is not behind the wall."""
    survey = survey_of([planar_run(UNEQUAL)[0]], margin=0.6)
    edge = (survey.grid.x, survey.grid.y)[axis][-2 if sign > 0 else 1]

    def wall(parameters: np.ndarray) -> float:
        at = survey.plane.project([parameters])[0][axis]
        return 100.0 if sign * (at - edge) > -1e-6 else 1.0

    eye = surface_figure(measure(survey, wall, tmp_path)).layout.scene.camera.eye
    assert sign * (eye.x, eye.y)[axis] < 1


def test_losses_that_are_not_finite_are_masked_and_counted(tmp_path):
    saved, _ = planar_run(UNEQUAL)
    survey = survey_of([saved])

    def half_finite(parameters: np.ndarray) -> float:
        x, y = survey.plane.project([parameters])[0]
        return np.nan if x > 2 else np.inf if y > 1 else 1 + x * x

    landscape = measure(survey, half_finite, tmp_path)
    bad = (survey.grid.x[None, :] > 2) | (survey.grid.y[:, None] > 1)
    assert landscape.masked == bad.sum() > 0
    assert f"{bad.sum()} of 81 points not finite" in landscape.report()
    for figure in (contour_figure(landscape), surface_figure(landscape)):
        np.testing.assert_array_equal(np.isnan(np.array(figure.data[0].z, dtype=float)), bad)
        assert f"{bad.sum()} of 81" in figure.layout.title.text
    for path in draw(landscape, tmp_path / "half", shared_plotly=True):
        assert path.stat().st_size > 10_000
    nowhere = measure(survey_of([saved], grid_size=3), lambda at: np.nan, tmp_path)
    assert not nowhere.finite and "no loss is finite" in nowhere.report()
    assert draw(nowhere, tmp_path / "nowhere", shared_plotly=True) == []


def test_ticks_are_round_and_within_range():
    for low, high in ((0.3, 8.0), (0.9, 1.1), (1e-7, 1e9), (2.0, 2.3)):
        ticks = log_ticks(low, high)
        assert 2 <= len(ticks) <= 10 and all(low <= tick <= high for tick in ticks)
        assert all(len(f"{tick:e}".split("e")[0].rstrip("0")) <= 3 for tick in ticks)


# ----------------------------------------------------------------------------------------------------
# Interruptions
# ----------------------------------------------------------------------------------------------------


class Counting:
    """A loss that counts its calls and can raise KeyboardInterrupt at one of them."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls, self.fails_at = 0, fails_at

    def __call__(self, parameters: np.ndarray) -> float:
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        return float(1 + parameters @ parameters)


def interrupt(survey: Survey, folder: Path) -> Path:
    unfinished = folder / "unfinished.npz"
    with pytest.raises(KeyboardInterrupt):
        survey.measure(evaluation(survey, Counting(fails_at=50)), unfinished)
    return unfinished


def test_an_interrupted_survey_resumes_without_evaluating_points_again(tmp_path):
    survey = survey_of([planar_run(UNEQUAL)[0]])
    unfinished = interrupt(survey, tmp_path)
    second, uninterrupted = Counting(), Counting()
    resumed = survey.measure(evaluation(survey, second), unfinished)
    whole = survey.measure(evaluation(survey, uninterrupted), tmp_path / "other.npz")
    assert uninterrupted.calls == len(survey) == 81 + 2 * 5
    assert second.calls == len(survey) - 45  # a row of 9 points is evaluated at once
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.trajectories[0].losses, whole.trajectories[0].losses)


@pytest.mark.parametrize("difference", ["weights", "grid", "margin", "data", "truncated"])
def test_the_unfinished_file_of_another_survey_is_ignored(tmp_path, caplog, difference):
    saved, _ = planar_run(UNEQUAL)
    unfinished = interrupt(survey_of([saved]), tmp_path)
    other = survey_of([saved])
    if difference == "weights":
        other = survey_of([SavedRun("other", saved.parameters + 1e-6, saved.epochs)])
    elif difference == "grid":
        other = survey_of([saved], grid_size=8)
    elif difference == "margin":
        other = survey_of([saved], margin=0.3)
    elif difference == "data":
        other = Survey.around([saved], None, settings(), ABOUT | {"data": "something else"})
    else:
        unfinished.write_bytes(unfinished.read_bytes()[:-100])
    loss = Counting()
    other.measure(evaluation(other, loss), unfinished)
    assert loss.calls == len(other)
    assert "starting from scratch" in caplog.text


# ----------------------------------------------------------------------------------------------------
# Networks
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["LeNet5", "CNN1"])
def test_the_loss_matches_a_plain_evaluation(network):
    dataset = load_dataset("digits", ROOT)
    losses = evaluation_of(dataset, network, settings()).losses
    first, last = (build_model("digits", network, seed=seed).parameters.numpy() for seed in (3, 4))
    line = Line(first, last - first, np.array([0, 0.2, 0.5, 1]))
    found = losses[-1](line)
    model = build_model("digits", network)
    for parameters, loss in zip(line.points(), found, strict=True):
        model.parameters.copy_(torch.from_numpy(parameters))
        assert loss == pytest.approx(evaluate(dataset.test, model).loss, rel=1e-6)
    np.testing.assert_array_equal(found, losses[0](line))


class HalvedConvolution(torch.nn.Module):
    """A convolution of the images divided by two."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 3, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(images / 2)


def classifier(features: int) -> list[torch.nn.Module]:
    return [torch.nn.Flatten(), torch.nn.Linear(features, 10), torch.nn.LogSoftmax(dim=1)]


@pytest.mark.parametrize(
    ("make_layers", "replaced"),
    [
        (
            lambda nn: [nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU(inplace=True)), nn.MaxPool2d(2), *classifier(432)],
            "0.0",
        ),
        (lambda nn: [nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), nn.ReLU(), *classifier(20)], "1"),
        (lambda nn: [nn.BatchNorm2d(1), nn.Conv2d(1, 3, 5), nn.ReLU(), *classifier(1728)], None),
        (lambda nn: [HalvedConvolution(), nn.ReLU(), *classifier(1728)], None),
        (lambda nn: [nn.ReLU(), nn.Conv2d(1, 3, 5), *classifier(1728)], None),
        (lambda nn: [nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 3, 5)), *classifier(1728)], None),
        (lambda nn: [shared := nn.Linear(28, 28), shared, *classifier(784)], None),
    ],
    ids=["nested", "flattened", "normalised", "scaled", "rectified", "weight norm", "called twice"],
)
def test_the_loss_matches_a_plain_evaluation_for_any_first_layer(make_layers, replaced):
    dataset = load_dataset("digits", ROOT)
    statistics = tuple(dataset.train.batch(slice(200))[0].split(100))

    def build(seed: int) -> FlatModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return FlatModel(torch.nn.Sequential(*make_layers(torch.nn)))

    loss = NetworkLoss(build(0), dataset.test, statistics, 50, threading.Event())
    assert (loss.first_layer.name if loss.first_layer else None) == replaced
    first, last = (build(seed).parameters.numpy() for seed in (3, 4))
    line = Line(first, last - first, np.array([0, 0.2, 0.5, 1]))
    plain = build(0)
    for parameters, found in zip(line.points(), loss(line), strict=True):
        plain.parameters.copy_(torch.from_numpy(parameters))
        for module in plain.network.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.reset_running_stats()
                module.momentum = None
        plain.network.train()
        with torch.no_grad():
            for images in statistics:
                plain.network(images)
        assert found == pytest.approx(evaluate(dataset.test, plain).loss, rel=1e-6)


def tiny_cifar10() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    train, test = (
        Samples(torch.randn(count, 32, 32, 3, generator=generator), torch.arange(count) % 10) for count in (8, 4)
    )
    return Dataset("cifar10", train, test, tuple("0123456789"))


def test_running_statistics_are_excluded_from_the_plane_and_re_estimated(tmp_path):
    path = tmp_path / "cifar10_classic_0_100_001_00_32_1_SGD_spe2_weights.npy"
    model = build_model("cifar10", "ResNet18", seed=1)
    generator = torch.Generator().manual_seed(0)
    states, parameters = [], []
    for save in range(3):
        model.parameters.add_(torch.randn(model.parameters.shape, generator=generator), alpha=1e-3)
        model.buffers.copy_(torch.rand(model.buffers.shape, generator=generator) * 1000 * save)
        states.append(model.state_vector().numpy())
        parameters.append(model.parameters.numpy().copy())
    np.save(path, np.stack(states))
    source = Source(path, parse_run_name(base_of(path)))

    saved = read_run(source, "tiny", model)
    np.testing.assert_array_equal(saved.parameters, parameters)
    np.testing.assert_array_equal(saved.epochs, [0, 0.5, 1])

    dataset = tiny_cifar10()
    losses = evaluation_of(dataset, "ResNet18", settings(batch_size=3))
    survey = Survey.around([saved], None, settings(grid_size=2), losses.about)
    landscape = survey.measure(losses, tmp_path / "unfinished.npz")
    assert len(landscape.plane.origin) == 11_173_962 and landscape.masked == 0
    assert "estimated anew from 1 batches" in landscape.report()

    plain = build_model("cifar10", "ResNet18")
    plain.parameters.copy_(torch.from_numpy(parameters[2]))
    plain.network.train()
    for module in plain.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the only batch
    with torch.no_grad():
        plain.network(dataset.train.batch(slice(None))[0])
    assert landscape.trajectories[0].losses[2] == pytest.approx(evaluate(dataset.test, plain).loss, rel=1e-4)


# ----------------------------------------------------------------------------------------------------
# Command lines
# ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[float, dict[str, Path]]:
    """Two runs on the digits that differ in momentum: what each left, by kind."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ("--epochs", 2, "--saves_per_epoch", 2, "--train_split", 0.2, "--clock", "virtual", "--seed", 5)
    return {momentum: train("dist_async.py", folder, *flags, "--momentum", momentum) for momentum in (0.9, 0.5)}


def numbers_in(folder: Path) -> dict[str, np.ndarray]:
    (path,) = folder.glob("*_numbers.npz")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_one_run_from_the_command_line(runs, tmp_path):
    files = runs[0.9]
    done = run("loss_landscape.py", files["model"], files["weights"], *QUICK, "--subfolder", tmp_path / "new")
    stem = base_of(files["model"]) + "_loss_landscape"
    names = {"_contour.html", "_surface.html", "_contour.png", "_contour.pdf", "_numbers.npz"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {stem + name for name in names}
    numbers = numbers_in(tmp_path / "new")
    assert numbers["losses"].shape == (4, 4) and numbers["directions"].shape == (2, 61706)
    np.testing.assert_array_equal(numbers["epochs"], [0, 0.5, 1, 1.5, 2])
    assert "40 of the 360 test images" in done.stdout and "away from the plane" in done.stdout
    assert done.stderr == ""
    for page in (tmp_path / "new").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "src=" not in re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)
        assert not re.search(r"<script[^>]*\bsrc=", text) and len(text) > 1_000_000
        assert f"PC1 ({100 * numbers['explained'][0]:.1f} % of variance)" in text


def test_several_runs_share_a_plane_a_grid_and_plotly(runs, tmp_path, capsys):
    weights = [files["weights"] for files in runs.values()]
    shared = (runs[0.9]["model"], *weights, *QUICK, "--shared_plotly", "--subfolder")
    assert call(loss_landscape_multi, *shared, tmp_path) == 0
    numbers = numbers_in(tmp_path)
    assert list(numbers["labels"][:2]) == ["momentum 0.9", "momentum 0.5"]
    assert list(numbers["lengths"]) == [5, 5]
    assert len(list(tmp_path.glob("*.js"))) == 1 and (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    for page in tmp_path.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<script[^>]*\bsrc="([^"]*)"', text) == ["plotly.min.js"] and len(text) < 200_000
        assert "momentum 0.9" in text and "momentum 0.5" in text
    (name,) = (path.name for path in tmp_path.glob("*_numbers.npz"))
    assert name == "digits_async_3_20_005_32_2_SGD_spe2_seed5_virtual_loss_landscape_multi_numbers.npz"

    again = (*shared, tmp_path / "again", "--grid_losses", tmp_path / name)
    assert call(loss_landscape_multi, *again, "--labels", "a", "b") == 0
    relabelled = numbers_in(tmp_path / "again")
    assert list(relabelled.pop("labels")) == ["a", "b"] and numbers.pop("labels") is not None
    for key, values in numbers.items():
        np.testing.assert_array_equal(relabelled[key], values)

    none = (*shared, tmp_path / "none", "--no_grid_save", "--name", "mine")
    assert call(loss_landscape_multi, *none) == 0
    ends = ("contour.html", "contour.png", "contour.pdf", "surface.html")
    assert {path.name for path in (tmp_path / "none").iterdir()} == {
        "plotly.min.js", *(f"mine_loss_landscape_multi_{end}" for end in ends)
    }  # fmt: skip

    capsys.readouterr()
    assert call(loss_landscape_multi, *again, "--grid_size", 5) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "4 x 4 points, margin 0.2, not 5 x 5 points" in error
    assert call(loss_landscape_multi, runs[0.9]["model"], weights[0], *QUICK, "--grid_losses", tmp_path / name) == 1
    assert "fingerprint of the weights" in capsys.readouterr().err
    alone = (runs[0.9]["model"], weights[0], *QUICK, "--subfolder", tmp_path / "random")
    assert call(loss_landscape, *alone, "--plane", "random") == 0
    (random,) = (tmp_path / "random").glob("*_numbers.npz")
    assert call(loss_landscape_multi, *alone, "--grid_losses", random) == 1
    assert "plane random, seed 42, not None" in capsys.readouterr().err
    half = tmp_path / "half_numbers.npz"
    for content in ((tmp_path / name).read_bytes()[:-1000], pickle.dumps(numbers), b""):
        half.write_bytes(content)
        assert call(loss_landscape_multi, *shared, tmp_path / "none", "--grid_losses", half) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "not a file of landscape numbers, or incomplete" in error
    assert call(loss_landscape_multi, *shared, tmp_path / "none", "--grid_losses", tmp_path / "no.npz") == 2
    assert "no such file" in capsys.readouterr().err
    assert call(loss_landscape_multi, *again, "--labels", "a") == 2
    assert "--labels" in capsys.readouterr().err


KILLED_SIZE = 16  # large enough to be killed before it finishes


def test_a_killed_landscape_resumes_and_yields_the_same_numbers(runs, tmp_path):
    files = runs[0.9]
    arguments = (files["model"], files["weights"], "--grid_size", KILLED_SIZE, "--subfolder")
    command = [sys.executable, str(ROOT / "loss_landscape.py"), *map(str, arguments), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waited = 0
    while not list((tmp_path / "killed").glob("*_unfinished.npz")):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
        assert (waited := waited + 1) < 5000
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    (unfinished,) = (tmp_path / "killed").glob("*_unfinished.npz")
    with np.load(unfinished) as state:
        done = int(state["done"].sum())
    assert 0 < done < KILLED_SIZE**2
    assert call(loss_landscape, *arguments, tmp_path / "killed") == 0
    assert call(loss_landscape, *arguments, tmp_path / "whole") == 0
    killed, whole = numbers_in(tmp_path / "killed"), numbers_in(tmp_path / "whole")
    assert killed.keys() == whole.keys()
    for key, values in whole.items():
        assert killed[key].tobytes() == values.tobytes()
    assert not unfinished.exists()


def test_a_model_that_is_not_the_last_row_is_marked(runs, tmp_path, capsys):
    files = runs[0.9]
    rows = np.load(files["weights"])
    short = tmp_path / files["weights"].name
    np.save(short, rows[:-1])
    assert call(loss_landscape, files["model"], short, *QUICK, "--subfolder", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "given model (not the last saved row): loss" in printed
    numbers = numbers_in(tmp_path)
    assert list(numbers["lengths"]) == [4, 1]
    at = (rows[-1] - numbers["origin"]) @ numbers["directions"].T
    np.testing.assert_allclose(numbers["coordinates"][-1], at, atol=1e-4)


# ----------------------------------------------------------------------------------------------------
# Unusable input
# ----------------------------------------------------------------------------------------------------


def damaged(kind: str, weights: Path, folder: Path) -> Path:
    """The saved weights of a run, damaged, under the same file name."""
    rows, path = np.load(weights), folder / weights.name
    if kind == "truncated":
        path.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(rows))
    elif kind == "objects":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "text":
        path.write_text("no numbers")
    elif kind == "columns":
        np.save(path, rows[:, :-1])
    elif kind == "one row":
        np.save(path, rows[0])
    elif kind == "two rows":
        np.save(path, rows[:2])
    elif kind == "nan":
        np.save(path, np.full_like(rows, np.nan))
    elif kind == "constant":
        np.save(path, np.repeat(rows[:1], 5, axis=0))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "not saved weights"),
        ("pickle", "not saved weights"),
        ("objects", "not saved weights"),
        ("text", "not saved weights"),
        ("columns", "expected (rows, 61706)"),
        ("one row", "expected (rows, 61706)"),
        ("two rows", "--saves_per_epoch"),
        ("nan", "finite"),
        ("constant", "span no plane"),
    ],
)
def test_unusable_weights_end_in_one_line(runs, tmp_path, capsys, kind, words):
    path = damaged(kind, runs[0.9]["weights"], tmp_path)
    assert call(loss_landscape, runs[0.9]["model"], path, *QUICK, "--subfolder", tmp_path) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name}


@pytest.mark.parametrize("values", [(np.nan, np.inf), (1e12, -1e12)])
def test_rows_too_large_to_draw_are_left_out(runs, tmp_path, caplog, values):
    rows = np.load(runs[0.9]["weights"])
    rows[3:, 5] = values
    path = tmp_path / runs[0.9]["weights"].name
    np.save(path, rows)
    assert call(loss_landscape, runs[0.9]["model"], path, *QUICK, "--subfolder", tmp_path) == 0
    assert "2 of 5 saved rows have no norm below 8.4e+06" in caplog.text
    np.testing.assert_array_equal(numbers_in(tmp_path)["epochs"][:3], [0, 0.5, 1])


def test_usage_errors_name_the_flag_or_file(runs, tmp_path, capsys):
    model, weights = runs[0.9]["model"], runs[0.9]["weights"]
    missing = tmp_path / weights.name
    other_network = tmp_path / "digits_classic_0_100_005_09_32_2_SGD_spe2_alt_model_weights.npy"
    other_network.write_bytes(weights.read_bytes())
    nameless = tmp_path / "mine_weights.npy"
    nameless.write_bytes(weights.read_bytes())
    (tmp_path / "weights.txt").touch()
    for arguments, words in (
        ((model, missing), f"{missing}: no such file"),
        ((tmp_path / model.name, weights), "no such file"),
        ((model, other_network), "CNN1 on digits"),
        ((model, nameless), "not the name of a run"),
        ((model, tmp_path / "weights.txt"), "_weights.npy"),
        ((model, weights, "--test_samples", 361), "--test_samples 361 is not valid: digits has 360 test images"),
        ((model, weights, "--grid_size", 1), "[2,inf)"),
        ((model, weights, "--margin", "nan"), "(0,100]"),
        ((model, weights, "--batch_size", 0), "[1,inf)"),
    ):
        assert call(loss_landscape, *arguments, "--subfolder", tmp_path) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error


def test_a_model_of_another_network_is_refused(runs, tmp_path, capsys):
    path = tmp_path / runs[0.9]["model"].name
    torch.save(build_model("digits", "CNN1").state_dict(), path)
    assert call(loss_landscape, path, runs[0.9]["weights"], *QUICK, "--subfolder", tmp_path) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "not a model of LeNet5" in error


# ----------------------------------------------------------------------------------------------------
# Names, labels and epochs
# ----------------------------------------------------------------------------------------------------


def labels_of(*bases: str) -> list[str]:
    return loss_landscape_multi.default_labels(
        [Source(Path(f"runs/{base}_weights.npy"), parse_run_name(base)) for base in bases]
    )


@pytest.mark.parametrize(
    ("bases", "labels"),
    [
        (
            ["mnist_async_4_100_0005_09_32_6_SGD_spe3_val", "mnist_async_4_100_0005_00_32_6_SGD_spe3_val"],
            ["momentum 0.9", "momentum 0"],
        ),
        (
            ["mnist_async_11_100_0005_09_32_6_SGD_spe3", "mnist_sync_2_100_0005_09_32_6_SGD_spe3"],
            ["asynchronous SGD, 10 workers", "synchronous SGD, 1 worker"],
        ),
        (
            ["mnist_classic_0_100_001_00_32_6_SGD_spe3", "mnist_async_3_100_001_00_32_6_ADAM_spe3_labels_seed7"],
            [
                "non-distributed SGD, momentum 0, seed 42",
                "asynchronous Adam, 2 workers, labels split among workers, seed 7",
            ],
        ),
        (
            ["mnist_async_3_100_001_00_32_6_SGD_spe3", "mnist_async_3_100_001_00_32_6_SGD_spe3_delay_long_constant"],
            ["no delay", "every worker delayed, long delays, constant delays"],
        ),
        (
            [f"mnist_async_3_100_001_00_32_6_SGD_spe3{end}" for end in ("_comp", "_comp_lambda0.5", "")],
            [
                "delay compensation, λ 2, constant compensation",
                "delay compensation, λ 0.5, constant compensation",
                "no delay compensation",
            ],
        ),
        (["mnist_sync_3_100_001_00_32_6_SGD_spe3"] * 2, ["run in runs", "run in runs"]),
    ],
)
def test_default_labels_are_the_settings_that_differ(bases, labels):
    assert labels_of(*bases) == labels


def test_a_run_that_ended_early_has_its_last_row_where_it_ended(tmp_path):
    flags = "--clock virtual --split_dataset --worker_speeds 1 0.6 --stop first --saves_per_epoch 2 --epochs 2"
    files = train("dist_async.py", tmp_path, *flags.split())
    source = Source(files["weights"], parse_run_name(base_of(files["weights"])))
    epochs = read_run(source, "", build_model("digits", "LeNet5")).epochs
    *before, end = epochs
    assert before == [0, 0.5, 1, 1.5] and 1.5 < end < 1.7
    assert end == len(read_log(files["log"]).updates) / 46  # mini-batches of an epoch


@needs_published
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_published_rows_have_the_epochs_found_in_their_log(mode):
    (path,) = PUBLISHED.glob(f"*_{mode}_*_weights.npy")
    source = Source(path, parse_run_name(base_of(path)))
    epochs = saved_epochs(source, np.load(path))
    assert epochs[0] == 0 and epochs[-1] == pytest.approx(2, abs=0.03)
    assert (np.diff(epochs) >= 0).all() and epochs[3] == pytest.approx(1, abs=0.03)


@needs_published
def test_published_rows_before_a_divergence_have_their_own_epochs(tmp_path):
    (path,) = PUBLISHED.glob("*_async_*_weights.npy")
    log = path.with_name(path.name.replace("_weights.npy", "_log.log"))
    lines = log.read_text().splitlines(keepends=True)
    last = 3 * len(lines) // 4
    cut = [*lines[:last], *(re.sub(r"(weights norm )[\d.]+", r"\1nan", line) for line in lines[last:])]
    (tmp_path / log.name).write_text("".join(cut))
    copy = shutil.copy(path, tmp_path)
    source = Source(Path(copy), parse_run_name(base_of(path)))
    before, after = saved_epochs(Source(path, source.config), np.load(path)), saved_epochs(source, np.load(path))
    assert np.array_equal(before[:4], after[:4]) and before[3] > 0.9


def test_a_run_that_leaves_the_valley_does_not_set_the_scale(tmp_path):
    path = [(0.0, 0.0), (0.5, 0.2), (1.0, 0.1)]
    runs = [planar_run([(x * size, y * size) for x, y in path])[0] for size in (1.0, 0.9, 40.0)]
    runs = [SavedRun(label, run.parameters, run.epochs) for label, run in zip("abc", runs, strict=True)]
    survey = survey_of(runs)
    assert np.ptp(survey.grid.x) < 3  # not 40
    assert survey.about["clipped"] == "c" and "clipped" not in survey_of(runs[:2]).about
    landscape = measure(survey, lambda point: 1 + point @ point, tmp_path)
    assert "c: moved more than 5 times as far as the median" in landscape.report()
    last = landscape.trajectories[-1].coordinates[-1]
    assert abs(last).max() > 10  # its own coordinates are true
    surface = surface_figure(landscape)
    heights = [np.asarray(trace.z, dtype=float) for trace in surface.data if trace.type == "scatter3d"]
    assert any(np.isnan(values).any() for values in heights)
    assert "c leaves the picture" in contour_figure(landscape).layout.title.text
    assert len(draw(landscape, tmp_path / "clipped", shared_plotly=False)) == 4
