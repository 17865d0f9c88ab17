"""The figures of sweeps: their style, and what they draw of any rows."""

import dataclasses
import math
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from analysis.figures import COLUMN, DPI, PAGE, POINTS, new_figure, save, set_titles, wrap_evenly, write_title
from analysis.reports import training_plots
from analysis.reports.curves import draw_curves, resample
from analysis.reports.last_updates import SavedAccuracy, endings_of, markdown
from analysis.reports.saved_weights import read_numbers
from analysis.reports.sweep_plots import Point, Sweep, sweep_figure
from analysis.reports.training_plots import training_figure
from analysis.reports.trials import Trials
from analysis.spread import counted
from analysis.study.plots import FIGURES, mode, momentum, workers
from analysis.study.published import Results
from conftest import ROOT, train
from interface.errors import DataError
from training.config import RunConfig
from training.record.reader import read_log

SWEEP = Sweep("Accuracy", "momentum", momentum, mode, workers)


def setting(count: int = 4, value: float = 0.0, mode: str = "async", **changes: object) -> RunConfig:
    return RunConfig(mode=mode, world_size=count + 1, momentum=value, **changes)


def panel_titles(figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def texts(figure) -> str:
    return "\n".join(text.get_text().replace("\n", " ") for text in figure.texts)


# ----------------------------------------------------------------------------------------------------
# Style
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_a_figure_has_the_width_of_a_paper_and_small_text(width, tmp_path):
    figure = new_figure(2, width)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="line")
    axes.set_xlabel("x")
    axes.legend()
    set_titles(axes, "left", "right")
    write_title(figure, "headline\nwhat it shows, how often, and what the bars are")
    paths = save(figure, tmp_path / "figure.v2.png")
    assert [path.name for path in paths] == ["figure.v2.png", "figure.v2.pdf"]
    assert matplotlib.image.imread(paths[0]).shape[1] == round(width * DPI)
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", paths[1].read_bytes())
    assert float(box[1]) == pytest.approx(72 * width)
    sizes = {text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()}
    assert sizes == {POINTS}
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in save(figure, tmp_path / "figure.v2")] == first, "the same bytes again"


@pytest.mark.parametrize("name", ["", "..", "/"])
def test_a_figure_has_a_name(name):
    with pytest.raises(DataError, match="not the name of a figure"):
        save(new_figure(1), Path(name))


@pytest.mark.parametrize("inches", [3.1, 6.6])
def test_lines_of_a_title_fit_and_lose_no_word(inches):
    line = ", ".join(f"setting {number} of many" for number in range(20))
    parts = wrap_evenly(line, inches)
    assert " ".join(parts) == line
    figure = new_figure(2, inches + 0.2)
    write_title(figure, f"headline\n{line}")
    figure.draw_without_rendering()
    assert all(text.get_window_extent().width <= figure.bbox.width for text in figure.texts)


def test_seeds_are_counted():
    assert [counted([1]), counted([3, 3]), counted([1, 3])] == ["1 seed", "3 seeds", "1 to 3 seeds"]


# ----------------------------------------------------------------------------------------------------
# Sweeps
# ----------------------------------------------------------------------------------------------------


def test_panels_lines_and_places_follow_from_the_settings():
    """Other workers and momentum values than the study's, in any order; a panel without a sweep is left out."""
    points = [Point(setting(count, value, kind), (70.0, 80.0), 2) for kind, count, value in product(
        ("sync", "async"), (7, 3), (0.75, 0.2, 0.6))]  # fmt: skip
    figure = sweep_figure(SWEEP, [*points, Point(setting(20, 0.2), (50.0, 50.0), 2)])
    assert panel_titles(figure) == ["3 workers", "7 workers"]
    for axes in figure.axes:
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.2", "0.6", "0.75"]
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == ["synchronous", "asynchronous"]
    assert "2 seeds per setting" in texts(figure)


def test_points_stand_at_their_place_and_the_scale_fits_the_values():
    points = [Point(setting(value=value, mode=kind), (accuracy - 1, accuracy + 1), 2) for kind, value, accuracy in (
        ("sync", 0.0, 77), ("sync", 0.5, 88), ("async", 0.0, 80), ("async", 0.5, 89))]  # fmt: skip
    (axes,) = sweep_figure(SWEEP, points).axes
    marks = [line for line in axes.get_lines() if line.get_marker() in ("o", "s")]
    assert {x for line in marks for x in line.get_xdata()} == {0, 1}, "no point is moved beside its value"
    low, high = axes.get_ylim()
    assert 70 < low < 76 and 90 < high < 95


def test_a_single_seed_is_not_drawn_like_several():
    points = [Point(setting(value=0.0), (80.0,), 1), Point(setting(value=0.5), (80.0, 82.0, 84.0), 3)]
    figure = sweep_figure(SWEEP, points)
    (axes,) = figure.axes
    hollow = [line for line in axes.get_lines() if line.get_marker() == "o" and line.get_markerfacecolor() == "white"]
    assert [line.get_xdata()[0] for line in hollow] == [0]
    (bar,) = axes.containers
    assert bar.lines[0].get_xdata().tolist() == [1]
    spread = np.diff(bar.lines[2][0].get_segments()[0][:, 1])[0]
    assert spread == pytest.approx(2 * 2.0), "the sample standard deviation, up and down"
    assert "1 to 3 seeds" in texts(figure) and "standard deviation" in texts(figure)
    assert "one seed" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_what_did_not_converge_stands_below_the_scale():
    points = [
        Point(setting(value=0.0), (85.0, 86.0), 2, published=84.0),
        Point(setting(value=0.5), (87.0, 88.0), 2, published=10.0),
        Point(setting(value=0.99), (10.0, 10.0), 0),
    ]
    (axes,) = sweep_figure(SWEEP, points).axes
    marks = {line.get_marker(): line for line in axes.get_lines() if line.get_marker() in ("x", "+")}
    failed, published = marks["x"], [line for line in axes.get_lines() if line.get_marker() == "+"]
    assert failed.get_xdata().tolist() == [2]
    assert sorted(line.get_xdata()[0] for line in published) == [0, 1]
    lowest_tick = min(axes.get_yticks())
    assert failed.get_ydata()[0] < lowest_tick and lowest_tick > 80
    assert axes.get_ylim()[0] > 70, "it does not stretch the scale"


def test_a_sweep_of_nothing_is_an_empty_figure():
    figure = sweep_figure(SWEEP, [])
    assert "nothing measured" in texts(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing measured"]


# ----------------------------------------------------------------------------------------------------
# Curves
# ----------------------------------------------------------------------------------------------------


def test_a_band_is_the_confidence_interval_of_the_mean():
    axes = new_figure(2).subplots()
    x = np.array([1.0, 2.0, 3.0])
    curves = [(x, np.full(3, value)) for value in (70.0, 80.0, 90.0)]
    draw_curves(axes, curves, "blue", "name")
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    half = 4.302653 * 10 / math.sqrt(3)
    assert heights.min() == pytest.approx(80 - half) and heights.max() == pytest.approx(min(100, 80 + half))


def test_a_single_curve_has_no_band_and_is_dashed():
    axes = new_figure(2).subplots()
    draw_curves(axes, [(np.array([1.0, 2.0]), np.array([70.0, 80.0]))], "blue")
    (line,) = axes.get_lines()
    assert not axes.collections and line.is_dashed()


def test_a_mean_goes_as_far_as_all_of_its_curves():
    at, values = resample(
        [(np.array([1.0, 5.0]), np.array([0.0, 4.0])), (np.array([2.0, 4.0]), np.array([10.0, 10.0]))]
    )
    assert (at[0], at[-1]) == (2, 4)
    assert values[0, [0, -1]] == pytest.approx([1, 3]) and np.all(values[1] == 10)


# ----------------------------------------------------------------------------------------------------
# Runs with many updates
# ----------------------------------------------------------------------------------------------------


def test_points_that_would_merge_into_bars_are_drawn_as_lines(tmp_path, monkeypatch):
    files = train("dist_async.py", tmp_path, "--clock", "virtual", "--world_size", 4, "--split_dataset", "--seed", 1)
    log = read_log(files["log"])
    loose = training_figure(log, "headline").axes
    monkeypatch.setattr(training_plots, "CROWD", 10)
    monkeypatch.setattr(training_plots, "MERGED", 10)
    monkeypatch.setattr(training_plots, "PARTS", 5)
    dense = training_figure(log, "headline").axes
    staleness, norm = 3, 1
    assert len(loose[staleness].collections[0].get_offsets()) == len(log.updates) and not loose[staleness].lines
    bands = dense[staleness].collections[:3]
    for worker, (band, line) in enumerate(zip(bands, dense[staleness].lines, strict=True), start=1):
        parts = np.array_split(log.updates.staleness[log.updates.worker == worker], 5)
        np.testing.assert_allclose(line.get_ydata(), [part.mean() for part in parts])
        assert band.get_paths()[0].vertices[:, 1].max() == max(part.max() for part in parts)
        assert line.get_linewidth() > 1
    assert not dense[norm].collections and len(dense[norm].lines[0].get_xdata()) == len(log.updates)


# ----------------------------------------------------------------------------------------------------
# The committed rows
# ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results() -> Results:
    return Results.read(ROOT / "summaries")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_of_the_study_says_what_it_shows(name, results):
    figure = FIGURES[name](results)
    headline, about = (text.get_text().replace("\n", " ") for text in figure.texts[:2])
    assert "Test accuracy" in headline or "Gradients per second" in headline
    assert "LeNet5 on Fashion-MNIST" in about.replace("CNN1, ", "")
    assert re.search(r"\d seeds? per setting; mean ± sample standard deviation|each point: a run with", about)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts[:2]]
    top = max(axes.get_tightbbox().y1 for axes in figure.axes)
    assert boxes[0].y0 >= boxes[1].y1 - 1 and boxes[1].y0 >= top - 1
    for axes in figure.axes:
        left, right = axes.title, axes._right_title
        if axes.get_title(loc="left") and axes.get_title(loc="right"):
            assert axes._left_title.get_window_extent().x1 < right.get_window_extent().x0, left


def test_no_list_of_workers_or_momentum_values_is_assumed(results):
    """The same figures of a study with others."""
    workers_of, momentum_of = {3: 5, 6: 21, 11: 51}, {0.0: 0.1, 0.5: 0.6}
    measured = {}
    for config, group in results.measured.items():
        if config.distributed and config.partition != "split_labels":
            new = dataclasses.replace(
                config,
                world_size=workers_of.get(config.world_size, config.world_size),
                momentum=momentum_of.get(config.momentum, config.momentum),
            )
            measured[new] = dataclasses.replace(group, config=new)
    found = Results(results.rows, {}, [], measured, {})
    titles = panel_titles(FIGURES["accuracy_by_delay"](found))
    assert titles == ["4 workers", "20 workers", "50 workers"]
    axes = FIGURES["accuracy_by_momentum"](found).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.6", "0.9", "0.99"]


def test_a_run_of_two_experiments_counts_as_in_the_first(tmp_path):
    trial = next(iter(Trials(ROOT / "summaries/delays_published").rows.values()))
    for folder, accuracy in (("a", 50.0), ("b", 60.0)):
        outcome = dataclasses.replace(trial.outcome, test_accuracy=accuracy)
        Trials(tmp_path / folder).add(dataclasses.replace(trial, outcome=outcome))
    (tmp_path / "published.csv").write_text((ROOT / "summaries/published.csv").read_text().split("\n")[0] + "\n")
    (found,) = Results.read(tmp_path).trials
    assert found.outcome.test_accuracy == 50.0


def test_last_updates_are_redrawn_from_their_numbers(tmp_path):
    numbers = ROOT / "summaries/last_updates/last_updates.csv"
    command = [sys.executable, "-m", "analysis.reports.last_updates"]
    done = subprocess.run(
        [*command, numbers, "--plot_dir", tmp_path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [str(tmp_path / f"last_updates{suffix}") for suffix in (".png", ".pdf")]
    endings = endings_of(read_numbers(numbers, SavedAccuracy))
    assert len(endings) == 18 and {one.workers for one in endings} == {2, 5, 10}
    assert markdown(endings) == (ROOT / "summaries/last_updates/last_updates.md").read_text()
    for content in ("", "name,seed\nrun,1\n", numbers.read_text().replace(",0,", ",zero,")):
        bad = tmp_path / "bad.csv"
        bad.write_text(content)
        done = subprocess.run([*command, bad], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1) and "bad.csv" in done.stderr
