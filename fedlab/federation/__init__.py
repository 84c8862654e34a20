"""Sites, one shared model, and the calls that move and train weights: all that an algorithm sees.

assembly: putting it together. calendar: rounds and memory. practice: training at sites. exchange: the wire and the
merge. Each builds on the one before; `Federation` is the whole.
"""

from fedlab.federation.federation import Federation
from fedlab.federation.round_result import Ensemble, Localised, Model, Round
from fedlab.federation.site_update import DivergedError
from fedlab.federation.sites import ALL, RoundContext, Site

__all__ = ["ALL", "DivergedError", "Ensemble", "Federation", "Localised", "Model", "Round", "RoundContext", "Site"]
