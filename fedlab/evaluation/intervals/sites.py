"""Several sites that are fixed, not sampled: their mean, the worst of them, and whether they differ."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from fedlab.evaluation.intervals.auroc import TINY, AurocParts, auroc_interval, newcombe_variance
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, t_quantile
from fedlab.evaluation.intervals.means import SCALES, Spread, around


def mean_auroc(sites: Sequence[AurocParts], level: float = LEVEL) -> Interval:
    """The mean of the AUROCs of sites, each with the same weight.

    As `mean_of_sites` on the logit scale. The variance of a site whose AUROC is 1 or 0 is Newcombe's, half a patient
    further in.

    Parameters
    ----------
    sites : sequence of AurocParts
        Two patients or more of each class at every site.
    level : float
        Of the interval.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.auroc import auroc_parts
    >>> from fedlab.evaluation.intervals.sites import mean_auroc
    >>> label, score = np.arange(15) < 5, np.r_[np.linspace(0.4, 0.9, 5), np.linspace(0, 0.5, 10)]
    >>> [round(limit, 2) for limit in mean_auroc([auroc_parts(score, label, np.arange(15))] * 4)]
    [0.87, 0.99]
    """
    if not sites or any(site.rarer < 2 for site in sites):
        return NONE
    spreads = []
    for site in sites:
        first, second = site.variances
        found, k = first + second, site.rarer
        if site.value >= 1 or site.value <= 0 or found <= TINY:
            inside = float(np.clip(site.value, 0.5 / k, 1 - 0.5 / k))
            found = float(newcombe_variance(inside, site.positives, site.negatives))
            spreads.append(Spread(np.sqrt(found), k - 1))
        else:
            df = found**2 / (first**2 / (site.positives - 1) + second**2 / (site.negatives - 1))
            spreads.append(Spread(np.sqrt(found), df))
    limits = [auroc_interval(site, level) for site in sites]
    return mean_of_sites([site.value for site in sites], spreads, limits, "logit", level)


def mean_of_sites(
    values: Sequence[float],
    spreads: Sequence[Spread],
    limits: Sequence[Interval],
    scale: str = "identity",
    level: float = LEVEL,
) -> Interval:
    """The mean of any metric over sites, from the errors of the sites.

    Variances of sites are added, with Satterthwaite's degrees of freedom, around the mean on the scale of the metric.
    MOVER, which adds squared half-widths on either side, keeps the skew of single sites, which a mean of many no longer
    has, and misses towards the bound of the metric. Where the mean is nearer to that bound than half its width, the
    scale grows without limit; the limit away from the bound is then not beyond that of MOVER.

    Parameters
    ----------
    values : sequence of float
        The metric at each site.
    spreads : sequence of Spread
        The standard error at each site.
    limits : sequence of Interval
        Of every site.
    scale : {"identity", "logit", "atanh", "log"}
        Of the metric, as in `fedlab.evaluation.intervals.means.jackknife`.
    level : float
        Of the interval.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import proportion, proportion_spread
    >>> from fedlab.evaluation.intervals.sites import mean_of_sites
    >>> right = [[1] * 18 + [0] * 2, [1] * 14 + [0] * 6]
    >>> spreads = [proportion_spread(site, [1] * 20) for site in right]
    >>> limits = [proportion(18, 20), proportion(14, 20)]
    >>> [round(limit, 2) for limit in mean_of_sites([0.9, 0.7], spreads, limits, "logit")]
    [0.64, 0.9]
    """
    if not values or np.isnan([limit.low for limit in limits]).any():
        return NONE
    spread = Spread.of_sum(spreads, 1 / len(values))
    mean, half, by = float(np.mean(values)), t_quantile(spread.df, level) * spread.error, SCALES[scale]
    found, mover = around(mean, half, scale), weighted_sum(values, limits, [1 / len(values)] * len(values))
    if by.high - mean < half:
        return Interval(max(found.low, mover.low), found.high)
    return Interval(found.low, min(found.high, mover.high)) if mean - by.low < half else found


def weighted_sum(values: Sequence[float], limits: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """A sum of independent estimates, such as a difference or a slope, by MOVER (Zou and Donner 2008).

    Parameters
    ----------
    values : sequence of float
        The estimates.
    limits : sequence of Interval
        Of each.
    weights : sequence of float
        Of each, of any sign.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import Interval
    >>> from fedlab.evaluation.intervals.sites import weighted_sum
    >>> found = weighted_sum([0.9, 0.8], [Interval(0.8, 0.94), Interval(0.77, 0.83)], [1, -1])
    >>> [round(limit, 3) for limit in found]
    [-0.004, 0.15]
    """
    if not values or np.isnan([limit.low for limit in limits]).any():
        return NONE
    total, below, above = 0.0, 0.0, 0.0
    for value, limit, weight in zip(values, limits, weights, strict=True):
        ends = sorted((weight * (limit.low - value), weight * (limit.high - value)))
        total, below, above = total + weight * value, below + ends[0] ** 2, above + ends[1] ** 2
    return Interval(float(total - np.sqrt(below)), float(total + np.sqrt(above)))


def sidak_level(sites: int, level: float = LEVEL) -> float:
    """The level of the intervals of sites whose smallest upper limit bounds the worst site.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.sites import sidak_level
    >>> round(sidak_level(8), 4)
    0.9937
    """
    tail = (1 - level) / 2
    return float(1 - 2 * (1 - (1 - tail) ** (1 / sites)))


def worst_site(
    limits: Sequence[Interval], at_sidak_level: Sequence[Interval], higher_is_better: bool = True
) -> Interval:
    """The metric of the truly worst site; the observed worst value is biased and must not be shown.

    Parameters
    ----------
    limits : sequence of Interval
        Of every site at the level of the result: the smallest lower limit needs no correction.
    at_sidak_level : sequence of Interval
        Of every site at `sidak_level`, since any site may fall lowest by chance.
    higher_is_better : bool
        False for losses and errors, of which the worst is the largest.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import Interval
    >>> from fedlab.evaluation.intervals.sites import worst_site
    >>> worst_site([Interval(0.6, 0.9), Interval(0.7, 0.8)], [Interval(0.5, 0.95), Interval(0.65, 0.85)])
    Interval(low=0.6, high=0.85)
    """
    if not limits or np.isnan([limit.low for limit in limits]).any():
        return NONE
    if higher_is_better:
        return Interval(min(limit.low for limit in limits), min(limit.high for limit in at_sidak_level))
    return Interval(max(limit.low for limit in at_sidak_level), max(limit.high for limit in limits))


def sites_differ(sites: Sequence[AurocParts]) -> float:
    """P value of the hypothesis that all sites have one AUROC; large values are no evidence that sites agree.

    Cochran's Q with score variances at the pooled AUROC, divided by the mean inflation of the sites' variances.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.auroc import auroc_parts
    >>> from fedlab.evaluation.intervals.sites import sites_differ
    >>> label, score = np.arange(15) < 5, np.r_[np.linspace(0.4, 0.9, 5), np.linspace(0, 0.5, 10)]
    >>> sites_differ([auroc_parts(score, label, np.arange(15))] * 4)
    1.0
    """
    if len(sites) < 2 or any(site.rarer < 2 for site in sites):
        return float("nan")
    value = np.array([site.value for site in sites])
    positives, negatives = (np.array([getattr(site, name) for site in sites]) for name in ("positives", "negatives"))
    return differ(value, np.array([site.variance for site in sites]), positives, negatives)


def differ(value: np.ndarray, variance: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """As `sites_differ`, from AUROCs, their variances and numbers of patients, each of shape (sites,)."""
    pooled = float(value.mean())
    for _ in range(6):
        score = newcombe_variance(float(np.clip(pooled, 0.02, 0.995)), positives, negatives)
        pooled = float(np.sum(value / score) / np.sum(1 / score))
    q = float(np.sum((value - pooled) ** 2 / score))
    expected = newcombe_variance(np.clip(value, 1e-6, 1 - 1e-6), positives, negatives).sum()
    inflation = max(1.0, float(variance.sum() / expected))
    return float(special.chdtrc(len(value) - 1, q / inflation))
