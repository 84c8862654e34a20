"""Figures, one function a question: `(thing, *, ax=None) -> (figure, table)`; none ever sees a model.

Of institutions. partition: who holds which cases. samples: what they look like. population: whom each site treats.
shift: how far sites lie from chance. institutions: all of that on one sheet. doses: what was asked against what came
out.

Of methods. curves: how they learn. local_vs_global: what each site gains. ranking: methods in order, with what they
cost. price: what they reach against what they send. transfer: whether what one site learned holds at another.
forgetting: what a travelling model loses between visits. presence: who took part in which round. leakage: what leaves
the building at each cut. save: the figure as files.
"""

from fedlab.plots.bubbles import partition
from fedlab.plots.composite import institutions
from fedlab.plots.demographics import population
from fedlab.plots.dose_curves import doses
from fedlab.plots.dumbbells import local_vs_global
from fedlab.plots.leaks import leakage
from fedlab.plots.lines import curves
from fedlab.plots.matrix import transfer
from fedlab.plots.measured import shift
from fedlab.plots.pareto import price
from fedlab.plots.participation_grid import presence
from fedlab.plots.ranks import ranking
from fedlab.plots.retention import forgetting
from fedlab.plots.strips import samples
from fedlab.plots.style import save

__all__ = [
    "curves",
    "doses",
    "forgetting",
    "institutions",
    "leakage",
    "local_vs_global",
    "partition",
    "population",
    "presence",
    "price",
    "ranking",
    "samples",
    "save",
    "shift",
    "transfer",
]
