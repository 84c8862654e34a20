"""Federation of sites: which take part, what crosses their borders, how they train, how their models are merged."""

from fedlab.federation.federation import Federation
from fedlab.federation.round_log import DivergedError
from fedlab.federation.rounds import Ensemble, Localised, Model, Round, RoundContext
from fedlab.federation.sites import ALL, Site

__all__ = ["ALL", "DivergedError", "Ensemble", "Federation", "Localised", "Model", "Round", "RoundContext", "Site"]
