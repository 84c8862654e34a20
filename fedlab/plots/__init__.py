"""Figures, one function a question: `(thing, *, ax=None) -> (figure, table)`; none ever sees a model.

partition: who holds which cases. samples: what they look like. curves: how methods learn. local_vs_global: what each
site gains. transfer: whether what one site learned holds at another. save: the figure as files.
"""

from fedlab.plots.bubbles import partition
from fedlab.plots.dumbbells import local_vs_global
from fedlab.plots.lines import curves
from fedlab.plots.matrix import transfer
from fedlab.plots.strips import samples
from fedlab.plots.style import save

__all__ = ["curves", "local_vs_global", "partition", "samples", "save", "transfer"]
