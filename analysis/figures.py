"""Figures with matplotlib's own defaults, whatever the user's matplotlibrc says; import Figure from here."""

import matplotlib
from matplotlib.figure import Figure, SubFigure

matplotlib.rcdefaults()

__all__ = ["Figure", "SubFigure"]
