"""Presentation: which kind of a disease a site sees. Labels stay untouched: cases change places within their class."""

import math
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.data.cases import Cases
from fedlab.heterogeneity.levels import Levels, column_levels, column_of
from fedlab.heterogeneity.site_coordinates import SiteEffects, dose

COLUMNS = ("subtype", "severity", "grade", "stage", "finding", "subtypes")  # looked for in this order
GROUPS = 4
MOST = 2000  # cases of a class that clusters are found on

Presentation = float | str
SCHEMES = Registry("presentation scheme")


def check(value: Presentation) -> None:
    """ValueError for what can be no presentation shift of any cases."""
    name, _, args, knobs = read(value)
    if name == "dirichlet":
        _positive(*args, **knobs)


def read(value: Presentation) -> tuple[str, float, list[Any], dict[str, Any]]:
    """(column or scheme, dose, further values, knobs): "" where the cases shall say which column."""
    if not isinstance(value, str):
        return "", dose(value, "presentation"), [], {}
    name, args, knobs = split_call(value, "presentation")
    if name in SCHEMES:
        SCHEMES.parse(value, given=2)
    if name == "dirichlet":
        return name, 1.0, args, knobs
    if len(args) + ("dose" in knobs) < 1 or (name not in SCHEMES and (len(args) > 1 or knobs)):
        raise ValueError(f"presentation is {value!r}: write a dose, '{name}(0.5)', or one of {list(SCHEMES)}")
    args = list(args)
    h = dose(args.pop(0) if args else knobs.pop("dose"), f"presentation {name!r}")
    return name, h, args, knobs


def lean(value: Presentation, cases: Cases, atlas: SiteEffects) -> tuple[Levels, Floats] | None:
    """(levels within each class, odds (sites, levels)), or None at dose 0.

    value: a dose in [0, 1] on the sub-label or severity column that the cases have, else on clusters; "subtype(0.5)"
    for a column of choice; "clusters(0.5, groups=4)"; "dirichlet(0.3)". Raises ValueError naming the columns there are.
    """
    name, h, args, knobs = read(value)
    if h == 0:
        return None
    if name in SCHEMES:
        return SCHEMES.function(name)(cases, atlas, *([] if name == "dirichlet" else [h]), *args, **knobs)  # type: ignore[no-any-return]
    column = column_of(cases, name, "presentation", "'clusters(0.5)'") if name else ""
    found = levels(cases, column)
    _check_something_moves(found, column or found.name)
    return found, found.odds(h, atlas.coordinates("presentation"))


@SCHEMES.add
def clusters(cases: Cases, atlas: SiteEffects, dose: float, groups: int = GROUPS) -> tuple[Levels, Floats]:
    """Latent kinds of each class: clusters of a fixed embedding of the images, found before any scanner."""
    found = latent(cases, groups)
    return found, found.odds(dose, atlas.coordinates("presentation"))


@SCHEMES.add
def dirichlet(cases: Cases, atlas: SiteEffects, alpha: float = 0.5, column: str = "") -> tuple[Levels, Floats]:
    """Each kind of each class spread over sites by Dir(alpha), raked to the sites' class counts (after Hsu 2019)."""
    _positive(alpha)
    found = levels(cases, column_of(cases, column, "presentation", "'clusters(0.5)'") if column else "")
    rng = stream(atlas.seed, "presentation", "dirichlet")
    return found, np.maximum(rng.dirichlet(np.full(atlas.sites, float(alpha)), len(found)).T, 1e-9)


def levels(cases: Cases, column: str = "") -> Levels:
    """What the axis looks at: this column or else the first of COLUMNS within each class, else clusters."""
    name = column or next((name for name in COLUMNS if name in cases.table), "")
    return column_levels(cases, name, kinds_of(cases)) if name else latent(cases, GROUPS)


def kinds_of(cases: Cases) -> Ints:
    """(n,) the class within which a case may change places; for a multi-label task its set of findings."""
    return cases.labels if cases.task != "multilabel" else np.unique(cases.labels, return_inverse=True)[1]


_latent: WeakKeyDictionary[Cases, dict[int, Levels]] = WeakKeyDictionary()


def latent(cases: Cases, groups: int) -> Levels:
    """k-means clusters (Lloyd, ten seeded starts) of a fixed embedding within each class, numbered by size.

    They depend on the cases alone, never on a partition, a scanner or a model under test. Kept with the cases.
    """
    if isinstance(groups, bool) or not isinstance(groups, int) or not 2 <= groups <= 8:
        raise ValueError(f"clusters(groups={groups!r}): give 2 to 8 groups a class")
    known = _latent.setdefault(cases, {})
    if groups not in known:
        known[groups] = _clustered(cases, groups)
    return known[groups]


def _clustered(cases: Cases, groups: int) -> Levels:
    from fedlab.heterogeneity.embedding import yardstick

    features, kinds = yardstick(cases).plain(np.arange(len(cases))), kinds_of(cases)
    of = np.zeros(len(cases), np.int64)
    group: list[int] = []
    names: list[str] = []
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        count = min(groups, max(1, len(rows) // 10))
        of[rows] = len(names) + _k_means(features[rows], count)
        names += [f"group {j + 1}" for j in range(count)]
        group += [int(kind)] * count
    return Levels("clusters", of, np.array(group), np.full(len(names), math.nan), names)


def _k_means(features: NDArray[np.floating], count: int) -> Ints:
    """Cluster of each row, the largest first."""
    from sklearn.cluster import KMeans

    if count == 1:
        return np.zeros(len(features), np.int64)
    some = stream(0, "clusters").permutation(len(features))[:MOST]
    found = KMeans(count, n_init=10, random_state=0).fit(features[some]).predict(features)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return np.argsort(order)[found].astype(np.int64)


def _check_something_moves(found: Levels, name: str) -> None:
    if len(np.unique(found.group)) == len(found):
        raise ValueError(f"column {name!r} has one value in each class, nothing to deal by: choose 'clusters(0.5)'")


def _positive(alpha: object = 0.5, column: str = "") -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(f"dirichlet({alpha!r}): alpha is a positive number, e.g. 'dirichlet(0.3)'")
