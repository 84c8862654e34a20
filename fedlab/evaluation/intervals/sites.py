"""Several sites that are fixed, not sampled: their mean, the worst of them, and whether they differ."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from fedlab.evaluation.intervals.auroc import TINY, AurocParts, newcombe_variance
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, t_quantile


def mean_auroc(sites: Sequence[AurocParts], level: float = LEVEL) -> Interval:
    """The mean of the AUROCs of sites, each with the same weight.

    The variance of a site whose AUROC is 1 or 0 is Newcombe's, half a patient further in. Satterthwaite's degrees of
    freedom; logit scale.

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
    variances, shares = [], []
    for site in sites:
        first, second = site.variances
        found, k = first + second, site.rarer
        if site.value >= 1 or site.value <= 0 or found <= TINY:
            inside = float(np.clip(site.value, 0.5 / k, 1 - 0.5 / k))
            found = float(newcombe_variance(inside, site.positives, site.negatives))
            shares.append(found**2 / (k - 1))
        else:
            shares.append(first**2 / (site.positives - 1) + second**2 / (site.negatives - 1))
        variances.append(found)
    total, mean = float(np.sum(variances)), float(np.mean([site.value for site in sites]))
    at = float(np.clip(mean, 1e-6, 1 - 1e-6))
    half = t_quantile(total**2 / float(np.sum(shares)), level) * np.sqrt(total) / len(sites) / (at * (1 - at))
    return Interval(*(float(special.expit(special.logit(at) + sign * half)) for sign in (-1, 1)))


def mean_of_sites(values: Sequence[float], limits: Sequence[Interval]) -> Interval:
    """The mean of any metric over sites, by MOVER from the intervals of the sites (Zou and Donner 2008).

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import Interval
    >>> from fedlab.evaluation.intervals.sites import mean_of_sites
    >>> mean_of_sites([0.5, 0.7], [Interval(0.3, 0.7), Interval(0.6, 0.8)])  # doctest: +ELLIPSIS
    Interval(low=0.488..., high=0.711...)
    """
    if not values or np.isnan([limit.low for limit in limits]).any():
        return NONE
    mean, count = float(np.mean(values)), len(values)
    below = np.sqrt(np.sum([(value - limit.low) ** 2 for value, limit in zip(values, limits, strict=True)])) / count
    above = np.sqrt(np.sum([(limit.high - value) ** 2 for value, limit in zip(values, limits, strict=True)])) / count
    return Interval(float(mean - below), float(mean + above))


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
