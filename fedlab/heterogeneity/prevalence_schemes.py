"""Published ways to skew classes between sites, under the names that users write: `"dirichlet(0.3)"`, `"mix(0.5)"`.

Each takes its knobs, checks them, and returns what deals the classes of the cases seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import Registry, nearest
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity import quotas
from fedlab.heterogeneity.odds import LogOdds
from fedlab.heterogeneity.profiles import profile, profiles
from fedlab.heterogeneity.site_coordinates import SiteEffects, dose

TRIES = 1000


def by_site(alpha: float, prior: Floats, sites: int, rng: np.random.Generator) -> Floats:
    """Class shares of each site, (sites, classes), from Dir(alpha * prior) (Hsu 2019, arXiv:1909.06335).

    The root mean square deviation from the prior is 1 / sqrt(alpha + 1) of that of one class a site, so that
    alpha = 1 / h^2 - 1 gives the fraction h. alpha -> infinity: the prior itself; alpha -> 0: one class a site.
    """
    drawn = np.zeros((sites, len(prior)))
    drawn[:, prior > 0] = rng.dirichlet(np.maximum(alpha * prior[prior > 0], np.finfo(float).tiny), sites)
    return drawn


def by_class(
    beta: float, pool: Ints, sites: int, cap: bool, least: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Site shares of each class, (sites, classes), from Dir(beta) (Yurochkin 2019, arXiv:1905.12022).

    cap: a site that holds its equal part of all cases gets nothing of the classes still to come, which makes sites
    even and the order of classes matter (NIID-Bench, arXiv:2102.02079). pool: (classes,) cases there are. Draws are
    repeated until every site holds `least` cases; ValueError if none does.
    """
    for _ in range(TRIES):
        parts = np.zeros((sites, len(pool)))
        for c in range(len(pool)):
            has_room = np.ones(sites, bool) if not cap or not pool[c] else parts @ pool < pool.sum() / sites
            drawn = rng.dirichlet(np.full(sites, beta)) * has_room
            parts[:, c] = drawn / drawn.sum() if drawn.sum() > 0 else has_room / has_room.sum()
        if (parts @ pool).min() >= least:
            return parts
    raise ValueError(
        f"dirichlet({beta:g}, by='class') left a site with fewer than {least} of {pool.sum()} cases in {TRIES} draws:"
        f" ask for fewer than {sites} sites, a larger number than {beta:g}, or a smaller `least`"
    )


FAINT = 1e-9  # of the pool's own shares, in every drawn site: it can still be filled when the sizes ask for it

SCHEMES = Registry("prevalence scheme")


@dataclass(frozen=True)
class Labelled:
    """What the axis looks at: (n,) labels, how many classes, the task, and where the sites stand."""

    labels: Ints
    classes: int
    task: str
    atlas: SiteEffects

    @property
    def sites(self) -> int:
        return self.atlas.sites

    @property
    def seed(self) -> int:
        return self.atlas.seed

    @property
    def pool(self) -> Ints:
        """(classes,) cases of each class."""
        return np.bincount(self.labels, minlength=self.classes).astype(np.int64)

    @property
    def order(self) -> Ints:
        """(sites,) by their coordinates, lowest first."""
        return np.argsort(self.atlas.coordinates("prevalence"), kind="stable").astype(np.int64)

    def rng(self, scheme: str) -> np.random.Generator:
        return stream(self.seed, "prevalence", scheme)


Scheme = Callable[[Labelled], LogOdds]


@SCHEMES.add
def dirichlet(alpha: float = 0.5, by: str = "site", balance: str = "none", least: int = 10) -> Scheme:
    """Class shares drawn from a Dirichlet law: the smaller alpha, the sharper the skew.

    by="site" (Hsu 2019, arXiv:1909.06335): each site's classes from Dir(alpha * the pool's shares), alpha in total over
    all classes. Departs: no class runs dry and no size changes, for the draws are odds, raked to the sizes and the
    pool; they come true as nearly (by Kullback's distance) as that allows. alpha -> infinity is no shift; alpha -> 0
    one class a site.
    by="class" (Yurochkin 2019, arXiv:1905.12022): each class's sites from Dir(alpha), alpha for every site; own sizes,
    drawn again until every site holds `least` cases. balance="cap" gives a site no further class once it holds its
    equal part, as NIID-Bench (arXiv:2102.02079) does.
    """
    _check_positive(alpha, "dirichlet")
    for knob, found, known in (("by", by, ("site", "class")), ("balance", balance, ("none", "cap"))):
        if found not in known:
            raise ValueError(f"dirichlet({alpha!r}, {knob}={found!r}): {nearest(str(found), known)}")
    if by == "site" and balance != "none":
        raise ValueError(
            "balance='cap' evens out sizes, which by='site' keeps as they are: write by='class' or drop it"
        )
    _check_whole(least, "dirichlet", least=0, knob="least")
    return lambda seen: _by_site(alpha, seen) if by == "site" else _by_class(alpha, balance == "cap", least, seen)


def _by_site(alpha: float, seen: Labelled) -> LogOdds:
    labels, prior = _one_class(seen, "dirichlet"), seen.pool / max(seen.pool.sum(), 1)
    drawn = (1 - FAINT) * by_site(float(alpha), prior, seen.sites, seen.rng("dirichlet")) + FAINT * prior
    return LogOdds(labels, np.divide(drawn, prior, out=np.ones_like(drawn), where=prior > 0))


def _by_class(beta: float, cap: bool, least: int, seen: Labelled) -> LogOdds:
    labels = _one_class(seen, "dirichlet")
    parts = by_class(float(beta), seen.pool, seen.sites, cap, least, seen.rng("dirichlet by class"))
    return LogOdds(labels, _no_odds(seen), quotas.proportions(parts), own_sizes=True)


@SCHEMES.add
def mix(h: float = 0.5) -> Scheme:
    """A site's classes are 1 - h like the pool and h of one class of its own: h = 1 is one class a site.

    The total variation from the pool is h (1 - the pool's share of the own class), exactly up to rounding; where a
    class is too rare for that, sites shrink and cases are left out. Own classes run along the sites' coordinates; with
    fewer sites than classes they are the most common ones.
    """
    dose(h, "prevalence 'mix'")

    def mixed(seen: Labelled) -> LogOdds:
        labels = _one_class(seen, "mix")
        if not h or seen.sites == 1:
            return LogOdds(labels, _no_odds(seen))
        return LogOdds(labels, _no_odds(seen), quotas.mix(float(h), _own_classes(seen), seen.seed))

    return mixed


@SCHEMES.add
def ks(target: float = 0.5) -> Scheme:
    """Sites of a binary or ordinal task lie apart by this mean Kolmogorov-Smirnov distance (Qu 2022, arXiv:2106.06047).

    target = 0 is no shift; 1 would be sites that share no class. No case is left out, no size changed.
    """
    dose(target, "prevalence 'ks'")

    def moved(seen: Labelled) -> LogOdds:
        if seen.task not in ("binary", "ordinal"):
            raise ValueError(
                f"'ks' needs classes in an order, but the task is {seen.task}: give prevalence a dose in [0, 1]"
                + (", 'mix(0.5)' or 'dirichlet(0.3)'" if seen.task == "multiclass" else "")
            )
        return LogOdds(seen.labels, _no_odds(seen), quotas.apart(float(target), seen.order, seen.seed))

    return moved


@SCHEMES.add
def like(federation: str = "") -> Scheme:
    """Classes as a real federation has them, e.g. like(fed_isic2019), for a task of that kind and number of classes.

    Between sites the odds ratios of classes are those of the institutions, with half a case where one has none, raked
    to the sizes and the pool. Classes of no order are matched by how common they are; site and institution by
    `Profile.seats`, as for quantity.
    """
    real = profile(federation)
    if real.labels is None:
        raise ValueError(f"like({real.name}) has no public classes, only sizes: {_with_labels()}")

    def alike(seen: Labelled) -> LogOdds:
        known = real.labels
        if known is None or known.task != seen.task or len(known.classes) != seen.classes:
            suited = f"{len(real.labels.classes)} {real.labels.task} classes" if real.labels else "none"
            raise ValueError(
                f"like({real.name}) describes {suited}, but the task is {seen.task} with {seen.classes}:"
                f" {_with_labels(seen.task, seen.classes)}"
            )
        counts = known.counts[real.seats(seen.atlas)].clip(min=0.5)
        if seen.task == "multiclass":
            ranked = np.argsort(-known.counts.sum(axis=0), kind="stable")
            counts[:, np.argsort(-seen.pool, kind="stable")] = counts[:, ranked]
        shares = counts / counts.sum(axis=1, keepdims=True)
        return LogOdds(seen.labels, shares / shares.mean(axis=0))

    return alike


@SCHEMES.add
def shards(per_site: int = 2) -> Scheme:
    """Cases sorted by label and cut into equal shards, a few to each site (McMahan 2017, arXiv:1602.05629); own
    sizes."""
    wanted = _check_whole(per_site, "shards")

    def cut(seen: Labelled) -> LogOdds:
        order = seen.rng("shards").permutation(seen.sites * wanted)
        return LogOdds(_one_class(seen, "shards"), _no_odds(seen), quotas.shards(order // wanted), own_sizes=True)

    return cut


@SCHEMES.add
def classes(per_site: int = 2) -> Scheme:
    """Each site holds a few classes, each class split equally among its holders (NIID-Bench #C=c, arXiv:2102.02079)."""
    _check_whole(per_site, "classes")

    def held(seen: Labelled) -> LogOdds:
        extra = _check_whole(per_site, "classes", most=seen.classes) - 1
        rng = seen.rng("classes")
        holders = np.zeros((seen.sites, seen.classes), bool)
        for site in range(seen.sites):
            own = site % seen.classes
            holders[site, own] = True
            holders[site, rng.choice(np.delete(np.arange(seen.classes), own), extra, replace=False)] = True
        return LogOdds(_one_class(seen, "classes"), _no_odds(seen), quotas.classes(holders), own_sizes=True)

    return held


def _own_classes(seen: Labelled) -> Ints:
    """(sites,) a class for each site, as evenly as can be."""
    common = np.argsort(-seen.pool, kind="stable")[: min(seen.sites, int((seen.pool > 0).sum()))]
    places = (1 + seen.atlas.coordinates("prevalence") * (1 - 1 / seen.sites)) / 2
    return np.sort(common)[(places * len(common) + 1e-9).astype(np.int64)]


def _no_odds(seen: Labelled) -> Floats:
    return np.ones((seen.sites, seen.classes))


def _one_class(seen: Labelled, scheme: str) -> Ints:
    if seen.task == "multilabel":
        raise ValueError(
            f"{scheme!r} needs one class a case, but the task is multilabel: give prevalence a dose in [0, 1], or a"
            " list of the prevalence of each finding for each site"
        )
    return seen.labels


def _with_labels(task: str = "", number: int = 0) -> str:
    """The profiles with classes, of one kind of task if named."""
    known = [(one.name, one.labels) for one in profiles().values() if one.labels]
    names = [name for name, have in known if not task or (have.task == task and len(have.classes) == number)]
    if names:
        return f"choose {' or '.join(f'like({name})' for name in names)}"
    return "no profile describes such classes; give a dose in [0, 1]"


def _check_positive(value: object, scheme: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{scheme}({value!r}): alpha is a positive number, e.g. '{scheme}(0.3)'")


def _check_whole(value: object, scheme: str, least: int = 1, most: float = math.inf, knob: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = "" if most == math.inf else f" and at most {most}, the number of classes"
        wanted = f"a whole number of at least {least}{limit}"
        raise ValueError(
            f"{scheme}({knob and knob + '='}{value!r}): give {wanted}, e.g. '{scheme}({knob and knob + '='}2)'"
        )
    return value
