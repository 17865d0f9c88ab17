"""Interactive pages of a landscape: contour and surface, with the trajectories."""

import html
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from analysis.landscape.landscape import Landscape, Trajectory
from analysis.landscape.style import (
    FILLS,
    INK,
    LEVELS,
    PAPER,
    SHADES,
    Style,
    axis_titles,
    crowded,
    log_ticks,
    logarithm,
    loss_range,
    marker_key,
    plane_size,
    single_points,
    styles,
    title,
)
from interface.files import atomic_write

STEPS_BETWEEN_ROWS = 20  # segments of a line on the surface from one row to the next
EYE_DISTANCE = 2.05  # from the centre of the scene, whose sides are at most 1.4
ELEVATIONS = np.radians([25, 35, 45, 55, 65])
HIDDEN = 0.04  # more of the trajectories than from the best place: as good
NARROWEST = 0.7  # side of a scene, as a fraction of the longer one
SIGHT_STEPS = 60  # points checked along a line of sight
GRID_HOVER = "at (%{x:.3g}, %{y:.3g})<br>loss %{customdata:.4g}<extra></extra>"
ROW_HOVER = (
    "epoch %{customdata[0]:.2f}<br>loss %{customdata[1]:.4g}<br>loss of its projection %{customdata[2]:.4g}<br>"
    "distance from the plane %{customdata[3]:.3g}<extra></extra>"
)


def legend_entry(run: Trajectory, *, shown: bool = True) -> dict[str, Any]:
    """The legend entry of one trace of a trajectory: all of its traces toggle together, and one is `shown`."""
    return {"name": html.escape(run.label), "legendgroup": run.label, "showlegend": shown}


def hover_fields(run: Trajectory) -> dict[str, Any]:
    """What is displayed for the saved row under the pointer."""
    return {
        "customdata": np.stack([run.epochs, run.losses, run.plane_losses, run.distances], axis=-1),
        "hovertemplate": f"<b>{html.escape(run.label)}</b><br>{ROW_HOVER}",
    }


def row_marks(style: Style, size: float) -> dict[str, Any]:
    """A hollow circle at the start, a square at the end, dots in between.

    Circles of runs that start together lie in one another: the earlier runs have the larger ones.
    """
    between = len(style.run.epochs) - 2
    return {
        "size": [(0.9 + 0.8 * style.width) * size, *[size] * between, 1.7 * size],
        "symbol": ["circle", *["circle"] * between, "square"],
        "color": [PAPER, *[style.colour] * (between + 1)],
        "opacity": 1,
    }


def contour_figure(landscape: Landscape) -> go.Figure:
    """The loss in the plane as shades, with the trajectories on top."""
    low, high = np.log10(loss_range(landscape))
    figure = go.Figure()
    figure.add_contour(
        x=landscape.grid.x,
        y=landscape.grid.y,
        z=logarithm(landscape.losses),
        customdata=landscape.losses,
        hovertemplate=GRID_HOVER,
        colorscale=list(SHADES),
        contours={"start": low, "end": high, "size": max(high - low, 1e-6) / LEVELS},
        line={"width": 0.5, "color": PAPER},
        colorbar=colour_bar(landscape),
    )
    for style in styles(landscape):
        x, y = style.run.coordinates.T
        casing = {"width": 2.5 * style.width + 4, "color": PAPER}  # below all runs: a rim would hide points near by
        figure.add_scatter(
            x=x, y=y, mode="lines", line=casing, hoverinfo="skip", **legend_entry(style.run, shown=False)
        )
    for style in styles(landscape):
        x, y = style.run.coordinates.T
        line = {"width": 2.5 * style.width, "color": style.colour, "dash": style.dash}
        marks = row_marks(style, 7)
        marks["line"] = {"width": [2, *[0] * (len(x) - 1)], "color": style.colour}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", **legend_entry(style.run))
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker=marks,
            **legend_entry(style.run, shown=False),
            **hover_fields(style.run),
        )
    for name, symbol, (x, y), _, text in single_points(landscape):
        fill, edge = FILLS[symbol]
        marker = {"symbol": "diamond", "size": 15, "color": fill, "line": {"width": 2, "color": edge}}
        figure.add_scatter(x=[x], y=[y], name=name, mode="markers", marker=marker, hovertext=text, hoverinfo="text")
    first, second = axis_titles(landscape)
    x, y = landscape.grid.x, landscape.grid.y
    figure.update_xaxes(title=first, range=[x[0], x[-1]], constrain="domain", zeroline=False, ticks="outside")
    figure.update_yaxes(title=second, range=[y[0], y[-1]], constrain="domain", zeroline=False, ticks="outside",
                        scaleanchor="x")  # fmt: skip
    if box := crowded(landscape):
        (left, bottom), (right, top) = np.array(box).tolist()
        ranges = {
            "whole plane": {"xaxis.range": [x[0], x[-1]], "yaxis.range": [y[0], y[-1]]},
            "enlarge where runs crowd": {"xaxis.range": [left, right], "yaxis.range": [bottom, top]},
        }
        buttons = [{"label": label, "method": "relayout", "args": [change]} for label, change in ranges.items()]
        place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 4}}
        figure.update_layout(updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, **place}])
    return styled(figure, landscape)


def surface_figure(landscape: Landscape) -> go.Figure:
    """The loss as height above the plane, with the trajectories' projections on the surface."""
    heights = logarithm(landscape.losses)
    low, high = np.nanmin(heights), np.nanmax(heights)
    lift = 0.02 * max(high - low, 1e-6)  # keeps lines and markers from sinking into the surface
    edges = np.array([landscape.grid.x[[0, -1]], landscape.grid.y[[0, -1]]])
    figure = go.Figure()
    figure.add_surface(
        x=landscape.grid.x,
        y=landscape.grid.y,
        z=heights,
        customdata=landscape.losses,
        hovertemplate=GRID_HOVER,
        colorscale=list(SHADES),
        colorbar=colour_bar(landscape),
        contours={"z": {"show": True, "start": low, "end": high, "size": max(high - low, 1e-6) / LEVELS,
                        "color": PAPER, "width": 1}},
        lighting={"ambient": 0.85, "diffuse": 0.25, "specular": 0.02},
    )  # fmt: skip
    for style in styles(landscape):
        above = lift * (3 - style.width)  # where runs coincide, the narrower is drawn on top
        x, y, z = draped(landscape, style.run.coordinates)
        line = {"width": 3.5 * style.width, "color": style.colour, "dash": style.dash}
        figure.add_scatter3d(
            x=x, y=y, z=z + above, mode="lines", line=line, hoverinfo="skip", **legend_entry(style.run)
        )
        x, y = style.run.coordinates.T
        z = np.where(is_outside(landscape, x, y), np.nan, logarithm(style.run.plane_losses) + above)
        marks = row_marks(style, 6) | {"line": {"width": 2, "color": style.colour}}
        figure.add_scatter3d(
            x=x,
            y=y,
            z=z,
            mode="markers",
            marker=marks,
            **legend_entry(style.run, shown=False),
            **hover_fields(style.run),
        )
    for name, symbol, (x, y), loss, text in single_points(landscape):
        marker = {"symbol": symbol, "size": 6, "color": INK}
        figure.add_scatter3d(x=[x], y=[y], z=logarithm(np.array([loss])) + lift, name=name, mode="markers",
                             marker=marker, hovertext=text, hoverinfo="text")  # fmt: skip
    first, second = axis_titles(landscape)
    ticks = log_ticks(*loss_range(landscape))
    box = np.array([*np.maximum(plane_size(landscape, 1.4, 1.4), 1.4 * NARROWEST), 0.8])
    axis = {"nticks": 7, "tickfont": {"size": 12}, "title_font": {"size": 13}}  # small: the scene truncates long titles
    figure.update_scenes(
        xaxis={"title_text": first, "range": edges[0], **axis},
        yaxis={"title_text": second, "range": edges[1], **axis},
        zaxis={"title_text": "loss", "tickvals": np.log10(ticks), "ticktext": [f"{tick:g}" for tick in ticks], **axis},
        aspectmode="manual",
        aspectratio=dict(zip("xyz", box.tolist(), strict=True)),
        camera={"eye": dict(zip("xyz", viewpoint(landscape, box).tolist(), strict=True)), "center": {"z": -0.12}},
    )
    return styled(figure, landscape).update_layout(margin={"l": 0, "r": 0, "t": 70, "b": 50})


def draped(landscape: Landscape, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and logarithm of the loss, all (m,), along the lines between coordinates (n, 2); bilinear interpolation."""
    corners = np.arange(len(coordinates))
    along = np.linspace(0, corners[-1], STEPS_BETWEEN_ROWS * corners[-1] + 1)
    x, y = (np.interp(along, corners, column) for column in coordinates.T)
    return x, y, np.where(is_outside(landscape, x, y), np.nan, height_at(landscape, x, y))


def is_outside(landscape: Landscape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie beyond the grid, as those of a run that leaves the picture."""
    grid = landscape.grid
    return (x < grid.x[0]) | (x > grid.x[-1]) | (y < grid.y[0]) | (y > grid.y[-1])


def height_at(landscape: Landscape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The logarithm of the loss at x, y, arrays of the same shape; bilinear interpolation."""
    heights, size = logarithm(landscape.losses), len(landscape.grid.x)
    column = np.interp(x, landscape.grid.x, np.arange(size))
    row = np.interp(y, landscape.grid.y, np.arange(size))
    j, i = (np.minimum(place.astype(int), size - 2) for place in (column, row))
    right, up = column - j, row - i
    lower = (1 - right) * heights[i, j] + right * heights[i, j + 1]
    upper = (1 - right) * heights[i + 1, j] + right * heights[i + 1, j + 1]
    return (1 - up) * lower + up * upper


def viewpoint(landscape: Landscape, box: np.ndarray) -> np.ndarray:
    """The camera position, in units of the scene: where the way down is seen, and seen as one.

    box: the sides of the scene. Of the positions from which the surface hides the least of the trajectories, the one
    from which they spread widest, to the side and in height.
    """
    heights = logarithm(landscape.losses)
    low = np.array([landscape.grid.x[0], landscape.grid.y[0], np.nanmin(heights)])
    high = np.array([landscape.grid.x[-1], landscape.grid.y[-1], np.nanmax(heights)])
    scale = box / np.maximum(high - low, 1e-12)
    drawn = np.concatenate([np.stack(draped(landscape, run.coordinates)) for run in landscape.trajectories], axis=1).T
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    points = (drawn - (low + high) / 2) * scale  # (points, 3), in the scene
    if len(points) == 0:  # they all lie where the loss is not finite
        points = np.zeros((1, 3))
    along = np.linspace(0.02, 0.7, SIGHT_STEPS)[:, None, None]  # further along, the line of sight has left the box
    found: list[tuple[float, float, np.ndarray]] = []
    for elevation in ELEVATIONS:
        for azimuth in np.arange(0, 2 * np.pi, np.pi / 12):
            flat = EYE_DISTANCE * np.cos(elevation)
            eye = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), EYE_DISTANCE * np.sin(elevation)])
            sight = points + along * (eye - points)  # (steps, points, 3)
            x, y, height = np.moveaxis(sight / scale + (low + high) / 2, -1, 0)
            inside = (abs(sight) < box / 2).all(axis=-1)
            hidden = (inside & (height < height_at(landscape, x, y))).any(axis=0)
            found.append((1 - hidden.mean(), spread_on_screen(points, eye), eye))
    most = max(seen for seen, _, _ in found)
    return max((one for one in found if one[0] >= most - HIDDEN), key=lambda one: one[1])[2]


def spread_on_screen(points: np.ndarray, eye: np.ndarray) -> float:
    """The area over which points (n, 3) spread for someone at `eye` who looks at the origin."""
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    depth = (points - eye) @ forward
    sides = [(points @ axis) / depth for axis in (right, np.cross(right, forward))]
    return float(np.prod([np.ptp(side) for side in sides]))


def colour_bar(landscape: Landscape) -> dict[str, Any]:
    """A colour bar labelled with losses rather than logarithms."""
    ticks = log_ticks(*loss_range(landscape))
    return {
        "title": {"text": "loss"},
        "tickvals": np.log10(ticks),
        "ticktext": [f"{tick:g}" for tick in ticks],
        "thickness": 16,
    }


def styled(figure: go.Figure, landscape: Landscape) -> go.Figure:
    """The figure with its title and legend."""
    return figure.update_layout(
        title={"text": f"{title(landscape)}<br><sup>{marker_key(landscape)}</sup>", "x": 0.5},
        font={"family": "Helvetica, Arial, sans-serif", "size": 15, "color": INK},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yref": "container", "yanchor": "bottom"},
        template="plotly_white",
        margin={"l": 70, "r": 20, "t": 105, "b": 120},
    )


def write_page(figure: go.Figure, landscape: Landscape, path: Path, *, shared_plotly: bool) -> None:
    """Write a page that works offline: plotly.js is embedded, or shared by all pages of the folder."""
    if shared_plotly:
        share_plotly(path.parent)
    plot = figure.to_html(
        include_plotlyjs="directory" if shared_plotly else True,
        full_html=False,
        default_width="100%",
        default_height="max(420px, min(80vw, 100vh - 40px, 900px))",
        config={"displaylogo": False, "responsive": True},
    )
    text = html.escape(landscape.report()).replace("\n", "<br>\n")
    with atomic_write(path) as unfinished:
        unfinished.write_text(
            f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{html.escape(path.stem)}</title></head>
<body style="max-width: 1250px; margin: auto">
{plot}
<p style="font: 14px/1.5 Helvetica, Arial, sans-serif; color: {INK}; margin: 1em 3em">{text}</p>
</body>
</html>
""",
            encoding="utf-8",
        )


def share_plotly(folder: Path) -> None:
    """Write plotly.min.js to a folder unless this version is already there."""
    path, script = folder / "plotly.min.js", get_plotlyjs()
    if not path.exists() or path.stat().st_size != len(script.encode()):
        with atomic_write(path) as unfinished:
            unfinished.write_text(script, encoding="utf-8")
