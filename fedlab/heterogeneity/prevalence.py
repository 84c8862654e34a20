"""Prevalence: sites differ in how often each class occurs, while a class looks alike everywhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.heterogeneity import quotas
from fedlab.heterogeneity.coordinates import Atlas, dose
from fedlab.heterogeneity.tables import Table
from fedlab.heterogeneity.tilt import Ids, Tilt
from fedlab.randomness import stream
from fedlab.registry import Registry

L = math.log(19.0)  # at full dose a balanced class runs from 5 % at one end to 95 % at the other
FAINT = 1e-9  # least odds: a site of a sharp draw can still be filled when the sizes ask for it

Prevalence = float | str | Sequence[float] | NDArray[np.float64]
SCHEMES = Registry("prevalence scheme")


@dataclass(frozen=True)
class Labelled:
    """What the axis looks at: (n,) labels, how many classes, the task, and where the sites stand."""

    labels: Ids
    classes: int
    task: str
    atlas: Atlas

    @property
    def sites(self) -> int:
        return self.atlas.sites

    @property
    def seed(self) -> int:
        return self.atlas.seed


def tilt(value: Prevalence, seen: Labelled) -> Tilt:
    """The axis for a dose in [0, 1], a published scheme such as "dirichlet(0.3)", or a binary task's prevalence by
    site.

    Raises ValueError for anything else, naming the nearest scheme.
    """
    if isinstance(value, str):
        scheme, args, knobs = SCHEMES.parse(value, given=1)
        return scheme(seen, *args, **knobs)  # type: ignore[no-any-return]
    if isinstance(value, Sequence | np.ndarray):
        return _exact(np.asarray(value, object), seen)
    return dosed(dose(value, "prevalence"), seen)


def dosed(h: float, seen: Labelled) -> Tilt:
    """Log-odds h * L * u[site] * score: between sites k and l the odds ratio is h * L * (u[k] - u[l]) per unit of
    score.

    Scores span one unit: binary y - 1/2; ordinal c / (C-1) - 1/2; multi-label any finding against none. Nominal classes
    have no order: each turns the sites' coordinates round by its own step and counts half.
    """
    u = seen.atlas.coordinates("prevalence")
    if seen.task == "multilabel":
        return Tilt((seen.labels > 0).astype(np.int64), np.exp(h * L * np.outer(u, [-0.5, 0.5])))
    if seen.task == "multiclass":
        turns = [round(c * seen.sites / seen.classes) for c in range(seen.classes)]
        return Tilt(seen.labels, np.exp(h * L * 0.5 * np.stack([np.roll(u, turn) for turn in turns], axis=1)))
    scores = np.linspace(-0.5, 0.5, seen.classes)
    return Tilt(seen.labels, np.exp(h * L * np.outer(u, scores)))


@SCHEMES.add
def dirichlet(seen: Labelled, alpha: float = 0.5) -> Tilt:
    """Each class spread over sites by Dir(alpha): the smaller alpha, the sharper the skew.

    After Hsu 2019, arXiv:1909.06335, and Yurochkin 2019, arXiv:1905.12022. Departs: the draws are odds, raked to the
    site sizes and the pool, so that only labels are skewed and no class runs dry. alpha -> infinity is no shift; as
    alpha -> 0 each class gathers at one site as far as the sizes allow.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(f"dirichlet({alpha!r}): alpha is a positive number, e.g. 'dirichlet(0.3)'")
    rng = stream(seen.seed, "prevalence", "dirichlet")
    return Tilt(
        _levels(seen, "dirichlet"), np.maximum(rng.dirichlet(np.full(seen.sites, alpha), seen.classes).T, FAINT)
    )


@SCHEMES.add
def shards(seen: Labelled, per_site: int = 2) -> Tilt:
    """Cases sorted by label and cut into equal shards, a few to each site (McMahan 2017, arXiv:1602.05629); own
    sizes."""
    wanted = _whole(per_site, "shards", math.inf)
    order = stream(seen.seed, "prevalence", "shards").permutation(seen.sites * wanted)
    return Tilt(_levels(seen, "shards"), _no_odds(seen), quotas.shards(order // wanted), own_sizes=True)


@SCHEMES.add
def classes(seen: Labelled, per_site: int = 2) -> Tilt:
    """Each site holds a few classes, each class split equally among its holders (NIID-Bench #C=c, arXiv:2102.02079)."""
    extra = _whole(per_site, "classes", seen.classes) - 1
    rng = stream(seen.seed, "prevalence", "classes")
    holders = np.zeros((seen.sites, seen.classes), bool)
    for site in range(seen.sites):
        own = site % seen.classes
        holders[site, own] = True
        holders[site, rng.choice(np.delete(np.arange(seen.classes), own), extra, replace=False)] = True
    return Tilt(_levels(seen, "classes"), _no_odds(seen), quotas.classes(holders), own_sizes=True)


def _exact(value: NDArray[np.object_], seen: Labelled) -> Tilt:
    if seen.task != "binary":
        raise ValueError(
            f"prevalence lists values by site, but the task is {seen.task}: give a dose or one of {list(SCHEMES)}"
        )
    if len(value) != seen.sites:
        raise ValueError(f"prevalence lists {len(value)} values for {seen.sites} sites: give one for each site")
    for part in value:
        if isinstance(part, bool) or not isinstance(part, int | float | np.number) or not 0 <= part <= 1:
            raise ValueError(f"prevalence holds {part!r}: the prevalence at a site lies between 0 and 1")
    return Tilt(seen.labels, _no_odds(seen), quotas.exact(value.astype(np.float64)))


def _no_odds(seen: Labelled) -> Table:
    return np.ones((seen.sites, seen.classes))


def _levels(seen: Labelled, scheme: str) -> Ids:
    if seen.task == "multilabel":
        raise ValueError(
            f"{scheme!r} needs one class a case, but the task is multilabel: give prevalence a dose in [0, 1]"
        )
    return seen.labels


def _whole(value: object, scheme: str, most: float) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        limit = "" if most == math.inf else f" and at most {most}, the number of classes"
        raise ValueError(f"{scheme}({value!r}): give a whole number of at least 1{limit}, e.g. '{scheme}(2)'")
    return value
