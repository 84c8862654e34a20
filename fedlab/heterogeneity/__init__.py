"""The ways in which institutions differ, one file an axis.

Assignment axes (quantity, prevalence) decide which case goes to which site; acquisition decides how a site renders it.
"""

from fedlab.heterogeneity import acquisition, prevalence, quantity
from fedlab.registry import Registry

AXES = Registry("axis of heterogeneity")
AXES.add(quantity.shares, "quantity", "how many cases a site has: a dose in [0, 1], or a list of relative sizes")
AXES.add(
    prevalence.tilt,
    "prevalence",
    "how often classes occur: a dose in [0, 1], 'dirichlet(0.5)', 'shards(2)', 'classes(2)', or a prevalence a site",
)
AXES.add(acquisition.draw, "acquisition", "how a site's scanner renders images: a dose in [0, 1]")


class HeterogeneityWarning(UserWarning):
    """The federation can be used, but not everything asked for came true or can be measured at every site."""


class LeakageWarning(UserWarning):
    """Cases were moved or left out so that no patient stands on both sides of a split."""
