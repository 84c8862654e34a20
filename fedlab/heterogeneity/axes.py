"""The registry of axes: what each one means, and the check of a value before there are any cases."""

from fedlab.core.registry import Registry
from fedlab.heterogeneity import annotation, geography, population, presentation, prevalence, quantity
from fedlab.heterogeneity.acquisition import scanner

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
    scanner.check,
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
