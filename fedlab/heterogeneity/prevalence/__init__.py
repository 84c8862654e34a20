"""The prevalence axis (label shift): a dose, published schemes, or the exact prevalence at each site."""

from fedlab.heterogeneity.prevalence.axis import Prevalence, check, log_odds, shortfall
from fedlab.heterogeneity.prevalence.schemes import SCHEMES, LabelledCases

__all__ = ["SCHEMES", "LabelledCases", "Prevalence", "check", "log_odds", "shortfall"]
