"""Controls for notebooks: the only part of fedlab that imports ipywidgets.

institutions: sliders for every axis, a figure that follows them. runs: finished runs, picked and drawn. Each shows its
figure as an ordinary output first and its controls below, so that a notebook run without a screen keeps the figure.
"""

from fedlab.widgets.browser import runs
from fedlab.widgets.panel import institutions

__all__ = ["institutions", "runs"]
