"""Controls for notebooks, made of ipywidgets.

`cases`: a browser of the cases of a dataset. `sites`: a slider for each axis of heterogeneity, and a figure that
follows. `runs`: a browser of finished runs. Each shows its figure as an ordinary output first and its controls below,
so that a headless execution keeps the figure.
"""

from fedlab.widgets.browser import runs
from fedlab.widgets.case_browser import cases
from fedlab.widgets.panel import sites

institutions = sites  # earlier name

__all__ = ["cases", "institutions", "runs", "sites"]
