"""Presentation: sites differ in which forms of a disease they see. Cases change places within their class only.

The literature calls it subtype shift, phenotype shift or hidden stratification: p(z | y) of a subtype, severity or
latent cluster z differs between sites, p(y) does not. The dose h, 0 to 1, is the strength: at 0 sites agree within each
class, at 1 the log-odds of a balanced binary subtype differ by 2 ln 19 between the two extreme sites.
"""

import math
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np

from fedlab.core.arguments import Bounds
from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.data.cases import Cases
from fedlab.heterogeneity.log_odds import Levels, LogOdds, checked_column, column_levels
from fedlab.heterogeneity.shift.embedding import Features, dataset_embedding
from fedlab.heterogeneity.site_effects import SiteEffects, dose

COLUMNS = ("subtype", "severity", "grade", "stage", "finding", "subtypes")  # default columns, in this order
GROUPS = 4
MAX_FITTED = 2000  # cases of a class on which clusters are fitted

Presentation = float | str
SCHEMES = Registry("presentation scheme")


def check(value: Presentation) -> None:
    """Forms of a disease (subtype or phenotype shift): refuse a value that cannot be a presentation.

    Parameters
    ----------
    value : float or str
        A dose, 0 to 1, on the subtype or severity column of the cases, else on clusters of their images; or text:
        ``"subtype(0.5)"`` for a chosen column, ``"clusters(0.5, groups=4)"``, ``"dirichlet(0.3)"``.

    Raises
    ------
    ValueError
        If the value is none of these.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> one, other = (fedlab.partition(cases, sites=2, presentation=h) for h in (0, 0.8))
    >>> one.counts("train").equals(other.counts("train"))  # the classes of a site do not change
    True
    """
    name, _, args, arguments = read(value)
    if name == "dirichlet":
        _check_alpha(*args, **arguments)


def read(value: Presentation) -> tuple[str, float, list[Any], dict[str, Any]]:
    """Return (column or scheme, dose, further values, arguments); an empty name is the default column of the cases."""
    if not isinstance(value, str):
        return "", dose(value, "presentation"), [], {}
    name, args, arguments = split_call(value, "presentation")
    if name in SCHEMES:
        SCHEMES.parse(value, given=2)
    if name == "dirichlet":
        return name, 1.0, args, arguments
    if len(args) + ("dose" in arguments) < 1 or (name not in SCHEMES and (len(args) > 1 or arguments)):
        raise ValueError(f"presentation is {value!r}: write a dose, '{name}(0.5)', or one of {list(SCHEMES)}")
    args = list(args)
    h = dose(args.pop(0) if args else arguments.pop("dose"), f"presentation {name!r}")
    return name, h, args, arguments


def preferences(value: Presentation, cases: Cases, effects: SiteEffects) -> tuple[Levels, Floats] | None:
    """Return (levels within each class, odds (sites, levels)), or None at dose 0.

    value: see `check`. Raises ValueError naming the usable columns where one is missing.
    """
    name, h, args, arguments = read(value)
    if h == 0:
        return None
    if name in SCHEMES:
        given = [] if name == "dirichlet" else [h]
        return _checked(SCHEMES.function(name)(cases, effects, *given, *args, **arguments), value, cases, effects)
    column = checked_column(cases, name, "presentation", "'clusters(0.5)'") if name else ""
    found = levels(cases, column)
    _check_levels_vary(found, column or found.name)
    return found, found.odds(h, effects.of("presentation"))


@SCHEMES.add
def clusters(
    cases: Cases, effects: SiteEffects, dose: float, groups: Annotated[int, Bounds(2, 8)] = GROUPS
) -> tuple[Levels, Floats]:
    """Latent subtypes of each class: k-means clusters of a fixed embedding of the images, before any scanner.

    The odds of cluster z at site k are ``exp(h L u[k, z] / 2)`` with the site effects u shifted cyclically by a
    different step for each cluster. A dose of 0 is no shift.

    Parameters
    ----------
    cases, effects
        Given by the partition; a user writes the other arguments.
    dose : float
        Strength h, 0 to 1.
    groups : int, default 4
        Clusters of each class, 2 to 8; fewer in a class of fewer than 10 cases per cluster.

    Returns
    -------
    tuple of (Levels, ndarray)
        Cluster of each case and odds (sites, levels).

    References
    ----------
    Oakden-Rayner et al. 2020 on hidden stratification, arXiv:1909.12475.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, presentation="clusters(0.5, groups=3)")
    >>> part.levels["presentation"].names[:3]
    ['group 1', 'group 2', 'group 3']
    """
    found = latent(cases, groups)
    _check_levels_vary(found, "clusters")
    return found, found.odds(dose, effects.of("presentation"))


@SCHEMES.add
def dirichlet(cases: Cases, effects: SiteEffects, alpha: float = 0.5, column: str = "") -> tuple[Levels, Floats]:
    """Site shares of each subtype of each class drawn from Dir(alpha), raked to the class counts of the sites.

    alpha -> infinity is no shift, alpha -> 0 assigns each subtype to one site, as far as the class counts allow.

    Parameters
    ----------
    cases, effects
        Given by the partition; a user writes the other arguments.
    alpha : float, default 0.5
        Concentration per site, positive.
    column : str, optional
        Column of the subtypes; by default as for a dose.

    Returns
    -------
    tuple of (Levels, ndarray)
        Level of each case and odds (sites, levels).

    References
    ----------
    After Hsu et al. 2019, arXiv:1909.06335, who draw class shares.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, presentation="dirichlet(0.3)")
    >>> part.counts("train").equals(fedlab.partition(cases, sites=2).counts("train"))
    True
    """
    _check_alpha(alpha)
    found = levels(cases, checked_column(cases, column, "presentation", "'clusters(0.5)'") if column else "")
    rng = stream(effects.seed, "presentation", "dirichlet")
    odds = np.ones((effects.sites, len(found)))  # of unknown values
    drawn = rng.dirichlet(np.full(effects.sites, float(alpha)), len(found.values))
    odds[:, found.values] = np.maximum(drawn.T, 1e-9)
    return found, odds


def _checked(found: Any, value: Presentation, cases: Cases, effects: SiteEffects) -> tuple[Levels, Floats]:
    """Return what a scheme gives; raise ValueError unless these are levels of all cases and odds of all sites."""
    pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Levels)
    if not pair or not LogOdds(found[0].of, found[1]).fits(effects.sites, len(cases)):
        raise ValueError(
            f"presentation scheme {value!r} does not give odds of {effects.sites} sites: return levels of the cases and"
            " odds (sites, levels), as `levels, levels.odds(dose, effects.of('presentation'))`"
        )
    return found


def levels(cases: Cases, column: str = "") -> Levels:
    """Return the levels of this column, or of the first of COLUMNS, within each class; else clusters."""
    name = column or next((name for name in COLUMNS if name in cases.table), "")
    return column_levels(cases, name, classes_of(cases)) if name else latent(cases, GROUPS)


def classes_of(cases: Cases) -> Ints:
    """Return the class within which a case may change places, (n,); for a multi-label task its set of findings."""
    return cases.labels if cases.task != "multilabel" else np.unique(cases.labels, return_inverse=True)[1]


_latent: WeakKeyDictionary[Cases, dict[int, Levels]] = WeakKeyDictionary()


def latent(cases: Cases, groups: int) -> Levels:
    """Return k-means clusters (Lloyd, ten seeded starts) of a fixed embedding within each class, the largest first.

    They depend on the cases only, not on a partition, a scanner or a model, and are kept as long as the cases.
    """
    if isinstance(groups, bool) or not isinstance(groups, int) or not 2 <= groups <= 8:
        raise ValueError(f"clusters(groups={groups!r}): give 2 to 8 groups per class")
    known = _latent.setdefault(cases, {})
    if groups not in known:
        known[groups] = _fit_clusters(cases, groups)
    return known[groups]


def _fit_clusters(cases: Cases, groups: int) -> Levels:
    """Cluster the images of each class."""
    features, classes = dataset_embedding(cases).of_rows(np.arange(len(cases))), classes_of(cases)
    of = np.zeros(len(cases), np.int64)
    group: list[int] = []
    names: list[str] = []
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        count = min(groups, max(1, len(rows) // 10), len(np.unique(features[rows[:MAX_FITTED]], axis=0)))
        of[rows] = len(names) + _k_means(features[rows], count)
        names += [f"group {j + 1}" for j in range(count)]
        group += [int(label)] * count
    return Levels("clusters", of, np.array(group), np.full(len(names), math.nan), names)


def _k_means(features: Features, count: int) -> Ints:
    """Return the cluster of each row, the largest cluster first."""
    from sklearn.cluster import KMeans

    if count == 1:
        return np.zeros(len(features), np.int64)
    some = stream(0, "clusters").permutation(len(features))[:MAX_FITTED]
    found = KMeans(count, n_init=10, random_state=0).fit(features[some]).predict(features)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return np.argsort(order)[found].astype(np.int64)


def _check_levels_vary(found: Levels, name: str) -> None:
    """Raise ValueError if every class has a single level."""
    if len(np.unique(found.group[found.values])) < len(found.values):
        return
    if name == "clusters":
        raise ValueError(
            "the images of each class make one cluster, so that nothing can differ: clusters need images that differ"
            " and 10 cases each in a class; name a column such as 'subtype(0.5)', or leave `presentation` at 0"
        )
    raise ValueError(f"column {name!r} has one value in each class, so that nothing can differ: use 'clusters(0.5)'")


def _check_alpha(alpha: object = 0.5, column: str = "") -> None:
    """Raise ValueError unless alpha is a positive number."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(f"dirichlet({alpha!r}): alpha is a positive number, e.g. 'dirichlet(0.3)'")
