"""The style of all figures: the widths of a paper, its text size, colours, titles, files. Import Figure from here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interface.errors import DataError
from interface.files import atomic_write

PAGE, COLUMN = 6.8, 3.3  # widths, inches
POINTS = 8  # size of all text
DPI = 300
OKABE_ITO = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
)  # distinguishable with colour blindness, legible on white
BLUE, VERMILLION = "#0072B2", "#D55E00"
MARKERS = "os^Dv*"  # one for each colour
LINE_HEIGHT = 0.15  # of a title, inches
CHARACTERS = 16.3  # an inch of text has on average

matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
matplotlib.rcParams.update({
    "font.size": POINTS,
    **{f"{part}.labelsize": POINTS for part in ("axes", "xtick", "ytick")},
    **{f"{part}.titlesize": POINTS for part in ("axes", "figure")},
    "figure.labelsize": POINTS,
    "legend.fontsize": POINTS,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text
})  # fmt: skip


def new_figure(height: float, width: float = PAGE, layout: str = "constrained") -> Figure:
    """An empty figure; its size in inches. layout: "compressed" for panels whose sides have a fixed ratio."""
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a PNG and a PDF, whichever of them `path` names, or neither; return their paths.

    The same figure has the same bytes. Raises DataError if the path is that of a folder.
    """
    if path.name in ("", ".."):
        raise DataError(f"{path}: not the name of a figure")
    stem = path.name.removesuffix(".png").removesuffix(".pdf")
    paths = [path.with_name(f"{stem}{suffix}") for suffix in (".png", ".pdf")]
    for path in paths:
        with atomic_write(path) as unfinished:
            figure.savefig(unfinished, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
    return paths


def set_titles(axes: Axes, left: str, right: str = "") -> None:
    """The panel's title on the left, a remark on the right; no frame, a faint grid."""
    axes.set_title(left, loc="left", fontweight="bold")
    axes.set_title(right, loc="right", color="0.35")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)


def annotate(axes: Axes, text: str) -> None:
    """Write a text in the middle of an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.35")


def write_title(figure: Figure, title: str) -> None:
    """Write a bold headline and the lines below it into a band above the panels."""
    headline, *lines = title.split("\n")
    width, height = figure.get_size_inches()
    bold = wrap_evenly(headline, 0.87 * (width - 0.2))
    plain = [part for line in lines for part in wrap_evenly(line, width - 0.2)]
    top = 0.06
    for text, weight in ((bold, "bold"), (plain, "normal")):
        figure.text(0.5, 1 - top / height, "\n".join(text), ha="center", va="top", fontweight=weight, linespacing=1.3)
        top += LINE_HEIGHT * len(text) + 0.02
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (top + 0.04) / height))


def wrap_evenly(line: str, inches: float) -> list[str]:
    """Break a line that is too long into few lines of about equal length: after commas and semicolons, if that does."""
    most = int(CHARACTERS * inches)
    if len(line) <= most:
        return [line]
    glued = line.replace(" ", "\xa0").replace(",\xa0", ", ").replace(";\xa0", "; ")
    text = glued if max(map(len, glued.split(" "))) <= most else line
    breaks = {width: textwrap.wrap(text, width, break_long_words=False) for width in range(most, 0, -1)}
    fewest = len(breaks[most])
    narrowest = min(width for width, parts in breaks.items() if len(parts) == fewest)
    return [part.replace("\xa0", " ") for part in breaks[narrowest]]


def key_columns(labels: Iterable[str]) -> int:
    """How many columns of a key with these labels fit on a page, at most four."""
    longest = max(map(len, labels), default=0)
    return max(1, min(4, int((PAGE - 0.2) / (0.43 + longest / CHARACTERS))))


def write_key(figure: Figure, handles: Iterable, columns: int = 4) -> None:
    """A key below the panels."""
    handles = list(handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)), frameon=False)
