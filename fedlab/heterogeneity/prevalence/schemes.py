"""Published schemes of label shift, under the names that users write: `"dirichlet(0.3)"`, `"mix(0.5)"`.

Each scheme checks its arguments and returns a function that maps labelled cases to the log-odds of the axis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fedlab.core.arguments import Bounds
from fedlab.core.registry import Registry, nearest
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.log_odds import LogOdds
from fedlab.heterogeneity.prevalence import class_counts
from fedlab.heterogeneity.profiles import profile, profiles
from fedlab.heterogeneity.site_effects import SiteEffects, dose

MAX_DRAWS = 1000
FLOOR = 1e-9  # of the pool's class shares, in every drawn site: raking can still use the class where sizes require it

SCHEMES = Registry("prevalence scheme")


@dataclass(frozen=True)
class LabelledCases:
    """What the axis needs to know: (n,) labels, the number of classes, the task, and the site effects."""

    labels: Ints
    classes: int
    task: str
    effects: SiteEffects

    @property
    def sites(self) -> int:
        return self.effects.sites

    @property
    def seed(self) -> int:
        return self.effects.seed

    @property
    def pool(self) -> Ints:
        """Cases of each class, (classes,)."""
        return np.bincount(self.labels, minlength=self.classes).astype(np.int64)

    @property
    def order(self) -> Ints:
        """Sites ordered by their effects, lowest first, (sites,)."""
        return np.argsort(self.effects.of("prevalence"), kind="stable").astype(np.int64)

    def rng(self, scheme: str) -> np.random.Generator:
        return stream(self.seed, "prevalence", scheme)


Scheme = Callable[[LabelledCases], LogOdds]


@SCHEMES.add
def dirichlet(alpha: float = 0.5, by: str = "site", balance: str = "none", least: int = 10) -> Scheme:
    """Class shares from a Dirichlet distribution: the smaller alpha, the stronger the label skew.

    ``by="site"``: the class shares of site k are drawn, ``q[k] ~ Dir(alpha p)``, where p are the class shares of the
    pool (Hsu 2019). alpha -> infinity is no shift; alpha -> 0 is one class per site. Difference from the paper: no
    class runs out and no size changes, since the draws are used as odds, raked to the sizes and the pool; the
    realised shares are the nearest in Kullback-Leibler divergence.

    ``by="class"``: the site shares of class c are drawn, ``p[., c] ~ Dir(alpha 1)`` (Yurochkin 2019). Site sizes
    follow from the draws, which are repeated until every site holds `least` cases.

    Parameters
    ----------
    alpha : float, default 0.5
        Concentration, positive: over all classes for ``by="site"``, per site for ``by="class"``.
    by : {"site", "class"}, default "site"
        What is drawn.
    balance : {"none", "cap"}, default "none"
        "cap" gives a site no further class once it holds its equal part of the cases, as NIID-Bench does; for
        ``by="class"`` only.
    least : int, default 10
        Minimum number of cases at each site, for ``by="class"`` only.

    Returns
    -------
    callable
        Labelled cases -> log-odds of the axis.

    References
    ----------
    Hsu et al. 2019, arXiv:1909.06335. Yurochkin et al. 2019, arXiv:1905.12022. Li et al. 2022 (NIID-Bench),
    arXiv:2102.02079.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=4, prevalence="dirichlet(2)")
    >>> counts = part.counts("train")
    >>> counts.sum(axis=1).tolist(), (counts["nodule"] / counts.sum(axis=1)).round(2).tolist()
    ([71, 71, 71, 70], [0.17, 0.54, 0.63, 0.17])
    """
    _check_positive(alpha, "dirichlet")
    for argument, found, known in (("by", by, ("site", "class")), ("balance", balance, ("none", "cap"))):
        if found not in known:
            raise ValueError(f"dirichlet({alpha!r}, {argument}={found!r}): {nearest(str(found), known)}")
    if by == "site" and balance != "none":
        raise ValueError(
            "balance='cap' equalizes site sizes, which by='site' does not change: use by='class' or omit it"
        )
    _check_whole(least, "dirichlet", least=0, argument="least")
    return lambda cases: _by_site(alpha, cases) if by == "site" else _by_class(alpha, balance == "cap", least, cases)


def dirichlet_by_site(alpha: float, prior: Floats, sites: int, rng: np.random.Generator) -> Floats:
    """Draw class shares of each site, (sites, classes), from Dir(alpha * prior) (Hsu 2019, arXiv:1909.06335).

    The root mean square deviation from the prior is 1 / sqrt(alpha + 1) of that of one class per site, so that
    alpha = 1 / h^2 - 1 gives the fraction h. alpha -> infinity: the prior itself; alpha -> 0: one class per site.
    """
    drawn = np.zeros((sites, len(prior)))
    drawn[:, prior > 0] = rng.dirichlet(np.maximum(alpha * prior[prior > 0], np.finfo(float).tiny), sites)
    return drawn


def dirichlet_by_class(beta: float, pool: Ints, sites: int, cap: bool, least: int, rng: np.random.Generator) -> Floats:
    """Draw site shares of each class, (sites, classes), from Dir(beta) (Yurochkin 2019, arXiv:1905.12022).

    cap: a site that holds its equal part of all cases gets nothing of the following classes, which equalizes site
    sizes and makes the order of classes matter (NIID-Bench, arXiv:2102.02079). pool: (classes,) available cases. Draws
    are repeated until every site holds `least` cases; raises ValueError if that never happens.
    """
    for _ in range(MAX_DRAWS):
        parts = np.zeros((sites, len(pool)))
        for c in range(len(pool)):
            has_room = np.ones(sites, bool) if not cap or not pool[c] else parts @ pool < pool.sum() / sites
            drawn = rng.dirichlet(np.full(sites, beta)) * has_room
            parts[:, c] = drawn / drawn.sum() if drawn.sum() > 0 else has_room / has_room.sum()
        if (parts @ pool).min() >= least:
            return parts
    raise ValueError(
        f"dirichlet({beta:g}, by='class') left a site with fewer than {least} of {pool.sum()} cases in {MAX_DRAWS}"
        f" draws: use fewer than {sites} sites, a larger number than {beta:g}, or a smaller `least`"
    )


def _by_site(alpha: float, cases: LabelledCases) -> LogOdds:
    """Return the drawn class shares of each site as odds."""
    labels, prior = _single_label(cases, "dirichlet"), cases.pool / max(cases.pool.sum(), 1)
    drawn = (1 - FLOOR) * dirichlet_by_site(float(alpha), prior, cases.sites, cases.rng("dirichlet")) + FLOOR * prior
    return LogOdds(labels, np.divide(drawn, prior, out=np.ones_like(drawn), where=prior > 0))


def _by_class(beta: float, cap: bool, least: int, cases: LabelledCases) -> LogOdds:
    """Return the drawn site shares of each class as a rule for counts."""
    labels = _single_label(cases, "dirichlet")
    parts = dirichlet_by_class(float(beta), cases.pool, cases.sites, cap, least, cases.rng("dirichlet by class"))
    return LogOdds(labels, _equal_odds(cases), class_counts.proportions(parts), fixes_sizes=True)


@SCHEMES.add
def mix(h: float = 0.5) -> Scheme:
    """Linear mixture: 1 - h of a site's cases as in the pool, h of one main class of the site.

    The class shares of site k are ``(1 - h) p + h e[c(k)]`` with the pool's shares p and the main class c(k). The total
    variation from the pool is ``h (1 - p[c(k)])``, exact up to rounding. h = 0 is no shift, h = 1 is one class per
    site. Where a class is too rare, sites become smaller and cases are left out. Main classes follow the site effects;
    with fewer sites than classes they are the most common classes.

    Parameters
    ----------
    h : float, default 0.5
        Share of the main class, 0 to 1.

    Returns
    -------
    callable
        Labelled cases -> log-odds of the axis.

    References
    ----------
    The "percentage of non-IID data" of Hsieh et al. 2020, arXiv:1910.00189, and of Karimireddy et al. 2020
    (SCAFFOLD), arXiv:1910.06378.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> counts = fedlab.partition(cases, sites=2, prevalence="mix(0.4)").counts("train")
    >>> (counts["nodule"] / counts.sum(axis=1)).round(2).tolist()
    [0.62, 0.22]
    """
    dose(h, "prevalence 'mix'")

    def mixed(cases: LabelledCases) -> LogOdds:
        labels = _single_label(cases, "mix")
        if not h or cases.sites == 1:
            return LogOdds(labels, _equal_odds(cases))
        return LogOdds(labels, _equal_odds(cases), class_counts.mix(float(h), _main_classes(cases), cases.seed))

    return mixed


@SCHEMES.add
def ks(target: float = 0.5) -> Scheme:
    """Mean Kolmogorov-Smirnov distance between the grades of two sites, for binary and ordinal tasks.

    The class counts are interpolated between equal class shares at all sites and cases sorted by grade over the sites;
    the distance is linear in between. target = 0 is no shift; 1 would be sites that share no class. No case is left out
    and no size is changed.

    Parameters
    ----------
    target : float, default 0.5
        Mean distance over pairs of sites, 0 to 1; limited by the pool and the number of sites.

    Returns
    -------
    callable
        Labelled cases -> log-odds of the axis.

    References
    ----------
    Qu et al. 2022, arXiv:2106.06047: splits of a retina dataset with mean KS distances 0, 0.49 and 0.57.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> table = fedlab.partition(cases, sites=2, prevalence="ks(0.3)").shift()
    >>> float(table.set_index("measure").value["TV"].round(2))  # of two classes KS and total variation agree
    0.3
    """
    dose(target, "prevalence 'ks'")

    def moved(cases: LabelledCases) -> LogOdds:
        if cases.task not in ("binary", "ordinal"):
            raise ValueError(
                f"'ks' needs classes in an order, but the task is {cases.task}: give prevalence a dose in [0, 1]"
                + (", 'mix(0.5)' or 'dirichlet(0.3)'" if cases.task == "multiclass" else "")
            )
        return LogOdds(cases.labels, _equal_odds(cases), class_counts.ks(float(target), cases.order, cases.seed))

    return moved


@SCHEMES.add
def like(federation: str = "") -> Scheme:
    """Class shares of a real federation, e.g. like(fed_isic2019), for a task of the same kind and number of classes.

    Between sites the odds ratios of classes are those of the real sites (with half a case where a site has none), raked
    to the sizes and the pool. Classes without order are matched by how common they are; simulated and real sites are
    matched by `Profile.match`, as for quantity.

    Parameters
    ----------
    federation : str
        Name of a profile, see `fedlab.heterogeneity.profiles`.

    Returns
    -------
    callable
        Labelled cases -> log-odds of the axis.

    References
    ----------
    The source of each profile is in `profiles.json`; most are of FLamby, Ogier du Terrail et al. 2022,
    arXiv:2210.04620.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> counts = fedlab.partition(cases, sites=4, prevalence="like(fed_heart_disease)").counts("train")
    >>> (counts["nodule"] / counts.sum(axis=1)).round(2).tolist()
    [0.89, 0.1, 0.14, 0.39]
    """
    real = profile(federation)
    if real.labels is None:
        raise ValueError(f"like({real.name}) has no public classes, only sizes: {_profiles_with_labels()}")

    def imitate(cases: LabelledCases) -> LogOdds:
        known = real.labels
        if known is None or known.task != cases.task or len(known.classes) != cases.classes:
            described = f"{len(real.labels.classes)} {real.labels.task} classes" if real.labels else "none"
            raise ValueError(
                f"like({real.name}) describes {described}, but the task is {cases.task} with {cases.classes}:"
                f" {_profiles_with_labels(cases.task, cases.classes)}"
            )
        counts = known.counts[real.match(cases.effects)].clip(min=0.5)
        if cases.task == "multiclass":
            ranked = np.argsort(-known.counts.sum(axis=0), kind="stable")
            counts[:, np.argsort(-cases.pool, kind="stable")] = counts[:, ranked]
        shares = counts / counts.sum(axis=1, keepdims=True)
        return LogOdds(cases.labels, shares / shares.mean(axis=0))

    return imitate


@SCHEMES.add
def shards(per_site: Annotated[int, Bounds(1, 10_000)] = 2) -> Scheme:
    """Cases sorted by label and cut into equal shards, a few shards per site; site sizes follow from the shards.

    Parameters
    ----------
    per_site : int, default 2
        Shards of each site, at least 1. More shards mean less label skew.

    Returns
    -------
    callable
        Labelled cases -> log-odds of the axis.

    References
    ----------
    McMahan et al. 2017, arXiv:1602.05629, section 3.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> fedlab.partition(cases, sites=2, prevalence="shards(2)").counts("train").to_numpy().tolist()
    [[142, 0], [34, 107]]
    """
    wanted = _check_whole(per_site, "shards")

    def cut(cases: LabelledCases) -> LogOdds:
        order = cases.rng("shards").permutation(cases.sites * wanted)
        rule = class_counts.shards(order // wanted)
        return LogOdds(_single_label(cases, "shards"), _equal_odds(cases), rule, fixes_sizes=True)

    return cut


@SCHEMES.add
def classes(per_site: int = 2) -> Scheme:
    """A few classes per site, each class split equally among the sites that hold it (NIID-Bench's #C=c).

    Parameters
    ----------
    per_site : int, default 2
        Classes at each site, from 1 to the number of classes. All classes at every site is no shift.

    Returns
    -------
    callable
        Labelled cases -> log-odds of the axis.

    References
    ----------
    Li et al. 2022 (NIID-Bench), arXiv:2102.02079.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> (fedlab.partition(cases, sites=2, prevalence="classes(1)").counts("train") > 0).to_numpy().tolist()
    [[True, False], [False, True]]
    """
    _check_whole(per_site, "classes")

    def held(cases: LabelledCases) -> LogOdds:
        extra = _check_whole(per_site, "classes", most=cases.classes) - 1
        rng = cases.rng("classes")
        holders = np.zeros((cases.sites, cases.classes), bool)
        for site in range(cases.sites):
            own = site % cases.classes
            holders[site, own] = True
            holders[site, rng.choice(np.delete(np.arange(cases.classes), own), extra, replace=False)] = True
        rule = class_counts.classes(holders)
        return LogOdds(_single_label(cases, "classes"), _equal_odds(cases), rule, fixes_sizes=True)

    return held


def _main_classes(cases: LabelledCases) -> Ints:
    """Return a main class for each site, (sites,), distributed as evenly as possible."""
    common = np.argsort(-cases.pool, kind="stable")[: min(cases.sites, int((cases.pool > 0).sum()))]
    places = (1 + cases.effects.of("prevalence") * (1 - 1 / cases.sites)) / 2
    return np.sort(common)[(places * len(common) + 1e-9).astype(np.int64)]


def _equal_odds(cases: LabelledCases) -> Floats:
    """Return odds of 1 for every site and class."""
    return np.ones((cases.sites, cases.classes))


def _single_label(cases: LabelledCases, scheme: str) -> Ints:
    """Return the labels; raise ValueError for a multi-label task."""
    if cases.task == "multilabel":
        raise ValueError(
            f"{scheme!r} needs one class per case, but the task is multilabel: give prevalence a dose in [0, 1], or a"
            " list of the prevalence of each finding for each site"
        )
    return cases.labels


def _profiles_with_labels(task: str = "", number: int = 0) -> str:
    """Return the profiles that list classes, of a task and number of classes if given, as advice."""
    known = [(one.name, one.labels) for one in profiles().values() if one.labels]
    names = [name for name, have in known if not task or (have.task == task and len(have.classes) == number)]
    if names:
        return f"choose {' or '.join(f'like({name})' for name in names)}"
    return "no profile describes such classes; give a dose in [0, 1]"


def _check_positive(value: object, scheme: str) -> None:
    """Raise ValueError unless alpha is a positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{scheme}({value!r}): alpha is a positive number, e.g. '{scheme}(0.3)'")


def _check_whole(value: object, scheme: str, least: int = 1, most: float = math.inf, argument: str = "") -> int:
    """Return a whole number within its limits; raise ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = "" if most == math.inf else f" and at most {most}, the number of classes"
        wanted, prefix = f"a whole number of at least {least}{limit}", f"{argument}=" if argument else ""
        raise ValueError(f"{scheme}({prefix}{value!r}): give {wanted}, e.g. '{scheme}({prefix}2)'")
    return value
