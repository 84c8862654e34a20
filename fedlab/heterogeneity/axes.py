"""The registry of axes: what each axis means, and the check of a value before there are any cases."""

from fedlab.core.registry import Registry
from fedlab.heterogeneity import annotation, geography, population, presentation, prevalence, quantity
from fedlab.heterogeneity.acquisition import scanner

AXES = Registry("axis of heterogeneity")
AXES.add(
    quantity.check,
    "quantity",
    "number of cases per site (quantity skew): a dose in [0, 1], 'dirichlet(0.5)', 'lognormal(1.0)',"
    " 'like(fed_isic2019)', or relative sizes",
)
AXES.add(
    prevalence.check,
    "prevalence",
    "class frequencies (label shift): a dose in [0, 1], 'mix(0.5)', 'dirichlet(0.5)', 'shards(2)', 'classes(2)',"
    " 'ks(0.5)', or shares per site",
)
AXES.add(
    presentation.check,
    "presentation",
    "forms of a disease (subtype shift): a dose in [0, 1], 'subtype(0.5)' for a column, 'clusters(0.5)',"
    " 'dirichlet(0.5)'",
)
AXES.add(
    population.check,
    "population",
    "patient characteristics (population shift): a dose in [0, 1], 'sex(0.5)' for a column,"
    " 'synthetic(0.5, confounding=1.0)', 'dirichlet(0.5)'",
)
AXES.add(
    scanner.check,
    "acquisition",
    "scanners and their settings (feature shift): a dose in [0, 1], 'mri(0.5)' for a modality, 'marker(0.5)', or"
    " scanner presets",
)
AXES.add(
    annotation.check,
    "annotation",
    "readers (label noise): a dose in [0, 1], 'symmetric(0.5)', 'neighbour(0.5)', 'threshold(0.5)' or 'outline(0.5)'",
)
AXES.add(
    geography.check,
    "geography",
    "similarity of sites in a region (correlated site effects): a dose in [0, 1], or"
    " 'regions(0.5, count=3, coupling=0.6)'",
)
