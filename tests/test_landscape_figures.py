"""What the figures of a landscape show: runs that start together, runs that leave, and the way down."""

import numpy as np
import pytest

from analysis.landscape.image import contour_image
from analysis.landscape.pages import contour_figure, spread_on_screen, surface_figure
from analysis.landscape.style import crowded, styles
from analysis.landscape.survey import SavedRun
from test_landscape import measure, planar_run, survey_of

PATH = [(0.0, 0.0), (0.3, 0.25), (0.6, 0.3), (1.0, 0.1)]
BEND = [(0.0, 0.0), (0.3, 0.26), (0.5, 0.6), (0.4, 1.0)]


def bowl(point: np.ndarray) -> float:
    return float(1 + point @ point)


def runs_of(**paths: list[tuple[float, float]]) -> list[SavedRun]:
    saved = {label: planar_run(path)[0] for label, path in paths.items()}
    return [SavedRun(label, run.parameters, run.epochs) for label, run in saved.items()]


@pytest.fixture
def together(tmp_path):
    """Two runs of about the same size, which part after their first steps."""
    return measure(survey_of(runs_of(a=PATH, b=BEND)), bowl, tmp_path)


@pytest.fixture
def unequal(tmp_path):
    """Of three runs, one is eight times as large as the others, yet not so far away that it is left out."""
    small = [(x / 4, y / 4) for x, y in PATH], [(x / 4, y / 4) for x, y in BEND]
    return measure(survey_of(runs_of(a=small[0], b=small[1], c=PATH)), bowl, tmp_path)


def test_the_part_where_runs_start_together_is_enlarged(together):
    low, high = crowded(together)
    for run in together.trajectories:
        inside = ((run.coordinates > low) & (run.coordinates < high)).all(axis=1)
        assert inside[0] and not inside[-1]
    whole = np.ptp(together.grid.x)
    assert (high - low).max() < whole / 2


def test_runs_that_are_small_in_the_plane_are_enlarged_as_a_whole(unequal):
    low, high = crowded(unequal)
    inside = [((run.coordinates > low) & (run.coordinates < high)).all() for run in unequal.trajectories]
    assert inside == [True, True, False]


def test_nothing_is_enlarged_for_a_single_run_or_for_runs_that_start_apart(tmp_path):
    assert crowded(measure(survey_of(runs_of(a=PATH)), bowl, tmp_path)) is None
    far = [(x + 1.0, y + 0.5) for x, y in BEND]
    assert crowded(measure(survey_of(runs_of(a=PATH, b=far)), bowl, tmp_path)) is None


@pytest.mark.parametrize("fixture", ["together", "unequal"])
def test_the_image_has_a_second_panel_with_all_runs_and_their_frame(fixture, request):
    landscape = request.getfixturevalue(fixture)
    figure = contour_image(landscape)
    main, enlarged, _ = figure.axes
    low, high = crowded(landscape)
    assert enlarged.get_xlim() == (low[0], high[0]) and enlarged.get_ylim() == (low[1], high[1])
    (frame,) = [patch for patch in main.patches if hasattr(patch, "get_width")]
    assert frame.get_xy() == (low[0], low[1]) and frame.get_width() == pytest.approx(high[0] - low[0])
    for axes in (main, enlarged):
        assert {line.get_label() for line in axes.get_lines()} >= {run.label for run in landscape.trajectories}
    figure.draw_without_rendering()
    bottom = min(text.get_window_extent().y0 for text in figure.texts)
    assert bottom > max(axes.get_tightbbox().y1 for axes in figure.axes) - 1, "the title is above the panels"


def test_starts_lie_in_one_another_and_rims_below_all_runs(together):
    (axes, *_) = contour_image(together).axes
    circles = [line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    sizes = [circle.get_markersize() for circle in circles]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 2
    assert all(circle.get_markerfacecolor() == "none" for circle in circles)
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]
    white = [line.get_color() == "#FFFFFF" for line in lines]
    assert white == sorted(white, reverse=True), "casings first"
    assert all(line.get_markeredgewidth() == 0 for line in lines)


def test_the_page_offers_to_enlarge(together):
    (menu,) = contour_figure(together).layout.updatemenus
    whole, enlarged = (button.args[0]["xaxis.range"] for button in menu.buttons)
    low, high = crowded(together)
    assert enlarged == (low[0], high[0]) or list(enlarged) == [low[0], high[0]]
    assert np.ptp(whole) == pytest.approx(np.ptp(together.grid.x))


def test_a_run_that_leaves_stretches_neither_plane_nor_scene(tmp_path):
    runs = runs_of(a=PATH, b=BEND, c=[(x * 40, y * -35) for x, y in PATH])
    survey = survey_of(runs)
    alone = survey_of(runs[:2])
    np.testing.assert_allclose(survey.plane.explained, alone.plane.explained)
    np.testing.assert_allclose(survey.grid.x, alone.grid.x)
    landscape = measure(survey, bowl, tmp_path)
    assert "of 8 saved weights" in landscape.report() or "variance of 8" in landscape.report()
    scene = surface_figure(landscape).layout.scene
    assert list(scene.xaxis.range) == [survey.grid.x[0], survey.grid.x[-1]]
    assert list(scene.yaxis.range) == [survey.grid.y[0], survey.grid.y[-1]]


def test_a_scene_is_not_a_sliver(tmp_path):
    flat = [(x, y / 30) for x, y in PATH]
    scene = surface_figure(measure(survey_of(runs_of(a=flat)), bowl, tmp_path)).layout.scene
    assert min(scene.aspectratio.x, scene.aspectratio.y) >= 0.5 * max(scene.aspectratio.x, scene.aspectratio.y)


def test_the_camera_sees_the_way_down_from_the_side(tmp_path):
    """On a slope along the trajectory, which nothing hides, it looks across the way, not along it."""
    survey = survey_of(runs_of(a=[(0.0, 0.0), (1.0, 0.02), (2.0, -0.02), (3.0, 0.01)]))
    origin = survey.plane.point(np.array([0.0, 0.0]))

    def slope(parameters: np.ndarray) -> float:
        return float(np.exp(survey.plane.project([parameters])[0][0]))

    assert slope(origin) == pytest.approx(1)
    eye = surface_figure(measure(survey, slope, tmp_path)).layout.scene.camera.eye
    assert abs(eye.y) > abs(eye.x)


def test_spread_on_screen_is_largest_from_the_side():
    points = np.linspace([-0.5, 0, 0.3], [0.5, 0, -0.3], 20)
    from_side, from_end = (spread_on_screen(points, np.array(eye)) for eye in ((0.1, -2, 0.8), (2, -0.1, 0.8)))
    assert from_side > from_end


def test_every_run_has_a_style_of_its_own(together):
    looks = {(style.colour, style.dash) for style in styles(together)}
    assert len(looks) == len(together.trajectories)
