"""Figures, one function a question: `(thing, *, ax=None) -> (figure, table)`; none ever sees a model.

partition: who holds which cases. samples: what they look like. population: whom each site treats. shift: how far sites
lie from chance. institutions: all of that on one sheet. doses: what was asked against what came out. curves: how
methods learn. local_vs_global: what each site gains. transfer: whether what one site learned holds at another. save:
the figure as files.
"""

from fedlab.plots.bubbles import partition
from fedlab.plots.composite import institutions
from fedlab.plots.doses import doses
from fedlab.plots.dumbbells import local_vs_global
from fedlab.plots.lines import curves
from fedlab.plots.matrix import transfer
from fedlab.plots.measured import shift
from fedlab.plots.population import population
from fedlab.plots.strips import samples
from fedlab.plots.style import save

__all__ = [
    "curves",
    "doses",
    "institutions",
    "local_vs_global",
    "partition",
    "population",
    "samples",
    "save",
    "shift",
    "transfer",
]
