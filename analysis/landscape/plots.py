"""Figures of a landscape: interactive contour and surface (HTML), and the contour as an image. Evaluates nothing."""

import logging
from pathlib import Path

from analysis.figures import save
from analysis.landscape.image import contour_image
from analysis.landscape.landscape import Landscape
from analysis.landscape.pages import contour_figure, surface_figure, write_page


def draw(landscape: Landscape, stem: Path, *, shared_plotly: bool) -> list[Path]:
    """Write {stem}_contour.html, {stem}_surface.html, and {stem}_contour as PNG and PDF; return their paths.

    Draws nothing, with a warning, if no loss on the grid is finite.
    """
    if not landscape.finite:
        logging.warning("nothing to draw: no loss on the grid is finite")
        return []
    contour, surface = (stem.with_name(f"{stem.name}_{kind}.html") for kind in ("contour", "surface"))
    write_page(contour_figure(landscape), landscape, contour, shared_plotly=shared_plotly)
    write_page(surface_figure(landscape), landscape, surface, shared_plotly=shared_plotly)
    return [contour, surface, *save(contour_image(landscape), stem.with_name(f"{stem.name}_contour"))]
