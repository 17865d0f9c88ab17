"""Random planes, eigenvalues of the Hessian and barriers, on problems with known answers."""

import math
import re
import shutil
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import loss_landscape_multi
from analysis.landscape.barrier import STEPS, Barrier, barriers
from analysis.landscape.hessian import HessianProduct, largest_eigenvalues
from analysis.landscape.inputs import Source, SurveySettings
from analysis.landscape.network_loss import evaluation_of
from analysis.landscape.plane import Line, Plane
from common import Samples, build_model, load_dataset
from conftest import run, train
from evaluation import evaluate
from interface.errors import DataError

QUICK = ("--grid_size", 4, "--test_samples", 60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs from the same start, with different momentum."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ("--epochs", 4, "--saves_per_epoch", 2, "--seed", 1)
    return [train("nonDistributed.py", folder, *flags, "--momentum", momentum) for momentum in (0.0, 0.9)]


# ----------------------------------------------------------------------------------------------------
# Eigenvalues
# ----------------------------------------------------------------------------------------------------


def test_eigenvalues_of_a_quadratic():
    generator = np.random.default_rng(3)
    basis = np.linalg.qr(generator.normal(size=(80, 80)))[0]
    eigenvalues = np.concatenate([[100.0, 20.0, 19.0], generator.uniform(-50, 5, 77)])
    matrix = basis @ np.diag(eigenvalues) @ basis.T
    found = largest_eigenvalues(lambda vector: matrix @ vector, 80, 3)
    assert found == pytest.approx([100, 20, 19], rel=1e-3)


def test_a_product_is_the_derivative_of_the_gradient(trained):
    data = load_dataset("digits", "data").test
    samples = Samples(data.images[:50], data.labels[:50])
    model = build_model("digits", "LeNet5")
    model.network.load_state_dict(torch.load(trained[1]["model"], weights_only=True))
    start = model.parameters.clone()
    vector = torch.randn(len(start), generator=torch.Generator().manual_seed(1))
    product = HessianProduct(model, samples, batch_size=20)(vector.numpy())
    step, gradients = 1e-3 / vector.norm(), []
    for sign in (1, -1):
        model.parameters.copy_(start + sign * step * vector)
        model.gradients.zero_()
        F.nll_loss(model.network(samples.batch(slice(None))[0]), samples.labels).backward()
        gradients.append(model.gradients.double().clone())
    expected = ((gradients[0] - gradients[1]) / (2 * step)).numpy()
    assert np.linalg.norm(product - expected) < 0.02 * np.linalg.norm(expected)


def test_eigenvalues_of_a_trained_network(trained, tmp_path):
    files = trained[1]
    flags = ("--hessian", 2, "--subfolder", tmp_path)
    found = {}
    for part, images in (("test", "60 of the 360 test"), ("train", "60 of the 1,437 training")):
        output = run("loss_landscape.py", files["model"], files["weights"], *QUICK, *flags, "--hessian_of", part).stdout
        words = re.search(
            rf"largest eigenvalues of the Hessian of the loss on {images} images at the end: (.*)", output
        )[1]
        found[part] = [float(word) for word in words.split(", ")]
        assert found[part][0] >= found[part][1] > 0
    assert found["test"] != found["train"]


def test_a_model_that_is_not_finite_has_no_eigenvalues(trained, tmp_path):
    files = trained[1]
    state = torch.load(files["model"], weights_only=True)
    next(iter(state.values())).fill_(math.nan)
    model = tmp_path / files["model"].name
    torch.save(state, model)
    output = run("loss_landscape.py", model, files["weights"], *QUICK, "--hessian", 1, "--subfolder", tmp_path).stdout
    assert "the Hessian at the end has no eigenvalues: the model is not finite" in output
    assert list(tmp_path.glob("*_contour.html")) and not list(tmp_path.glob("*_unfinished*"))
    with pytest.raises(DataError, match="were not found"):
        largest_eigenvalues(lambda vector: vector * math.nan, 9, 1)


# ----------------------------------------------------------------------------------------------------
# Random planes
# ----------------------------------------------------------------------------------------------------


def test_a_random_plane_is_filter_normalised():
    shapes = [(4, 3, 2, 2), (4,), (5, 6)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    end = np.random.default_rng(1).normal(size=sum(sizes)).astype(np.float32)
    plane, same, other = (Plane.random(end, shapes, seed) for seed in (1, 1, 2))
    assert np.array_equal(plane.directions, same.directions)
    assert not np.array_equal(plane.directions, other.directions)
    assert not np.array_equal(plane.directions[0], plane.directions[1])
    ends = np.cumsum(sizes)[:-1]
    for direction in plane.directions:
        for shape, weights, values in zip(shapes, np.split(end, ends), np.split(direction, ends), strict=True):
            if len(shape) == 1:
                assert not values.any()  # biases stay as they are
            else:
                norms = (np.linalg.norm(part.reshape(shape[0], -1), axis=1) for part in (weights, values))
                assert next(norms) == pytest.approx(next(norms), rel=1e-5)
    point = plane.point(np.array([0.3, -0.7]))
    assert plane.project([point, end])[0] == pytest.approx([0.3, -0.7], abs=1e-5)
    assert plane.project([end])[0] == pytest.approx([0, 0], abs=1e-6)


def test_a_landscape_in_a_random_plane(trained, tmp_path):
    files = trained[1]
    flags = ("--plane", "random", "--plane_seed", 3, "--subfolder", tmp_path)
    output = run("loss_landscape.py", files["model"], files["weights"], *QUICK, *flags).stdout
    assert "two random, filter-normalised directions around the end (seed 3)" in output
    (numbers,) = tmp_path.glob("*_loss_landscape_random3_numbers.npz")
    with np.load(numbers) as found:
        assert found["x"][0] <= -1 and found["x"][-1] >= 1
        row = found["row_losses"][-1]
        assert found["plane_losses"][-1] == pytest.approx(row, rel=1e-4)  # the end lies in the plane
    assert {path.suffix for path in tmp_path.glob("*random3*")} == {".npz", ".html", ".png", ".pdf"}


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("seed1/runs", "seed2/runs"), ["run in seed1/runs", "run in seed2/runs"]),
        (("one", "other"), ["run in one", "run in other"]),
        (("runs", "runs/again"), ["run in runs", "run in again"]),
    ],
)
def test_runs_of_one_name_are_told_apart_by_their_folders(folders, labels, trained, tmp_path):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(trained[1]["weights"], tmp_path / folder)
    weights = [Source.of(tmp_path / folder / trained[1]["weights"].name) for folder in folders]
    assert loss_landscape_multi.default_labels(weights) == labels


# ----------------------------------------------------------------------------------------------------
# Barriers
# ----------------------------------------------------------------------------------------------------


def scores_of(loss):
    """Scores of a function of a point, with an accuracy that nobody looks at."""
    return lambda line: (np.array([loss(point) for point in line.points()]), np.zeros(len(line.offsets)))


def test_no_barrier_in_a_straight_valley():
    valley = scores_of(lambda point: point[1] ** 2 + 0.25)
    (found,) = barriers([("one", np.array([-3.0, 0.0])), ("other", np.array([5.0, 0.0]))], [valley], threading.Event())
    assert found.height == 0 and len(found.losses) == STEPS
    (found,) = barriers([("one", np.array([0.0, 2.0])), ("other", np.array([0.0, 4.0]))], [valley], threading.Event())
    assert found.height == 0  # convex: below the straight line


def test_the_barrier_between_two_wells():
    wells = scores_of(lambda point: (point[0] ** 2 - 1) ** 2)
    ends = [(str(x), np.array([x])) for x in (-1.0, 1.0, 1.0)]
    interrupted = threading.Event()
    found = {(one.first, one.second): one.height for one in barriers(ends, [wells, wells], interrupted)}
    assert not interrupted.is_set() and found == {("-1.0", "1.0"): pytest.approx(1), ("1.0", "1.0"): 0}
    assert str(Barrier("a", "b", np.linspace(0, 1, 3), np.array([1.0, 3, 2]), np.zeros(3))).startswith(
        "a – b: barrier 1.5000, between losses of 1.0000 and 2.0000"
    )


def test_a_barrier_that_cannot_be_measured_says_so():
    blow_up = scores_of(lambda point: math.nan if 0.4 < point[0] < 0.6 else 1.0)
    (found,) = barriers([("a", np.zeros(1)), ("b", np.ones(1))], [blow_up], threading.Event())
    assert str(found).startswith("a – b: barrier unknown (3 of 21 losses not finite), between losses of 1.0000 and")


def test_an_interrupted_barrier_ends_the_other_lines():
    interrupted = threading.Event()

    def fail(line: Line) -> tuple[np.ndarray, np.ndarray]:
        raise KeyboardInterrupt

    def wait(line: Line) -> tuple[np.ndarray, np.ndarray]:
        assert interrupted.wait(30)
        return np.zeros(STEPS), np.zeros(STEPS)

    with pytest.raises(KeyboardInterrupt):
        barriers([(str(number), np.zeros(1)) for number in range(3)], [wait, fail], interrupted)


def test_two_copies_of_a_network_under_a_permutation(trained, tmp_path):
    """They compute the same function, and a barrier lies between them; none between a network and itself."""
    files = trained[1]
    state = torch.load(files["model"], weights_only=True)
    order = torch.randperm(len(state["fc1.bias"]), generator=torch.Generator().manual_seed(1))
    for name in ("fc1.weight", "fc1.bias"):
        state[name] = state[name][order]
    state["fc2.weight"] = state["fc2.weight"][:, order]
    rows = np.load(files["weights"])
    rows[-1] = torch.cat([value.flatten() for value in state.values()]).numpy()
    permuted = tmp_path / "permuted" / files["weights"].name
    permuted.parent.mkdir()
    np.save(permuted, rows)
    names = ("--labels", "trained", "permuted", "again")
    output = run("loss_landscape_multi.py", files["model"], files["weights"], permuted, files["weights"],
                 *QUICK, "--barrier", *names, "--subfolder", tmp_path / "out").stdout  # fmt: skip
    pattern = r"^(\w+) – (\w+): barrier ([\d.]+), between losses of ([\d.]+) and ([\d.]+)"
    found = {match[:2]: [float(value) for value in match[2:]] for match in re.findall(pattern, output, re.MULTILINE)}
    height, first, second = found["trained", "permuted"]
    assert first == pytest.approx(second, abs=1e-3) and height > 0.1
    assert found["trained", "again"][0] == 0 and found["permuted", "again"][0] == pytest.approx(height, abs=1e-3)
    assert {path.name.rpartition("_")[2] for path in (tmp_path / "out").glob("*barriers*")} == {
        "barriers.csv", "barriers.png", "barriers.pdf"
    }  # fmt: skip


def test_a_barrier_needs_two_runs(trained):
    files = trained[0]
    ended = run("loss_landscape_multi.py", files["model"], files["weights"], "--barrier", check=False)
    assert ended.returncode == 2 and "--barrier needs the weights of at least two runs" in ended.stderr


def test_scores_of_a_line_are_those_of_its_points(trained):
    data = load_dataset("digits", "data")
    settings = SurveySettings(grid_size=2, batch_size=50, margin=0.2, test_samples=None, data_dir="data")
    score = evaluation_of(data, "LeNet5", settings).losses[0]
    start, end = (np.load(files["weights"])[-1] for files in trained)
    losses, accuracies = score.scores(Line(start, end - start, np.array([0.0, 0.5, 1.0])))
    model = build_model("digits", "LeNet5")
    for share, loss, accuracy in zip((0.0, 0.5, 1.0), losses, accuracies, strict=True):
        model.parameters.copy_(torch.from_numpy(start + np.float32(share) * (end - start)))
        expected = evaluate(data.test, model)
        assert (loss, accuracy) == (pytest.approx(expected.loss, rel=1e-3), pytest.approx(expected.accuracy, abs=0.3))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--plane_seed", 3), "--plane_seed 3 has no effect without --plane random"),
        (("--hessian_of", "train"), "--hessian_of train has no effect without --hessian"),
    ],
)
def test_a_flag_without_effect_is_refused(flags, message, tmp_path):
    done = run("loss_landscape.py", "model.pt", "weights.npy", *flags, check=False)
    assert done.returncode == 2 and message in done.stderr
