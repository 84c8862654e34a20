"""The ways in which institutions differ, one file an axis.

Assignment axes (quantity, prevalence, presentation, population) decide which case goes to which site; acquisition
decides how a site renders it, annotation how a site labels it; geography decides which sites resemble each other.
`AXES.function(name)` is the check of a value without any cases.
"""

from fedlab.heterogeneity import acquisition, annotation, geography, population, presentation, prevalence, quantity
from fedlab.registry import Registry

AXES = Registry("axis of heterogeneity")
AXES.add(
    quantity.check,
    "quantity",
    "how many cases a site has: a dose in [0, 1], 'dirichlet(0.5)', 'lognormal(1.0)', 'like(fed_isic2019)', or sizes",
)
AXES.add(
    prevalence.check,
    "prevalence",
    "how often classes occur: a dose in [0, 1], 'mix(0.5)', 'dirichlet(0.5)', 'shards(2)', 'classes(2)', 'ks(0.5)',"
    " or shares a site",
)
AXES.add(
    presentation.check,
    "presentation",
    "which kind of a disease: a dose in [0, 1], 'subtype(0.5)' for a column, 'clusters(0.5)', 'dirichlet(0.5)'",
)
AXES.add(
    population.check,
    "population",
    "which patients: a dose in [0, 1], 'sex(0.5)' for a column, 'synthetic(0.5, confounding=1.0)', 'dirichlet(0.5)'",
)
AXES.add(
    acquisition.check,
    "acquisition",
    "how a site's scanner renders images: a dose in [0, 1], 'mri(0.5)' for a modality, 'marker(0.5)', or styles",
)
AXES.add(
    annotation.check,
    "annotation",
    "how a site's readers label: a dose in [0, 1], 'symmetric(0.5)', 'neighbour(0.5)', 'threshold(0.5)' or"
    " 'outline(0.5)'",
)
AXES.add(
    geography.check,
    "geography",
    "which sites resemble each other: a dose in [0, 1], or 'regions(0.5, count=3, coupling=0.6)'",
)


class HeterogeneityWarning(UserWarning):
    """The federation can be used, but not everything asked for came true or can be measured at every site."""


class LeakageWarning(UserWarning):
    """Cases were moved or left out so that no patient stands on both sides of a split."""
