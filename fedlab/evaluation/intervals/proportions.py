"""Proportions of one test set, of patients with several images, of two classes, and of two models on the same cases."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from fedlab.evaluation.intervals.interval import LEVEL, Interval, root, t_quantile, z_quantile
from fedlab.evaluation.intervals.means import Spread


def wilson(proportion: float, n: float, quantile: float) -> Interval:
    """The score interval of a proportion (Wilson 1927, JASA 22:209).

    Parameters
    ----------
    proportion : float
        0 to 1.
    n : float
        Cases, above 0; may be an effective number.
    quantile : float
        Such as 1.96 for 95 %.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import wilson
    >>> [round(limit, 4) for limit in wilson(0.9, 10, 1.959964)]
    [0.5958, 0.9821]
    """
    centre = proportion + quantile**2 / (2 * n)
    half = quantile * np.sqrt(proportion * (1 - proportion) / n + quantile**2 / (4 * n * n))
    scale = 1 + quantile**2 / n
    return Interval(max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale)))


def mid_p(successes: int, n: int, level: float = LEVEL) -> Interval:
    """The mid-P interval of a proportion: the observed count has half its probability (Lancaster 1961, JASA 56:223).

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import mid_p
    >>> [round(limit, 4) for limit in mid_p(9, 10)]
    [0.5965, 0.995]
    """
    tail, share, edge = (1 - level) / 2, successes / n, 1e-12

    def below(p: float) -> float:
        """Probability of a smaller count, and half of that of this one."""
        less = special.bdtr(successes - 1, n, p) if successes else 0.0
        return float(special.bdtr(successes, n, p) + less) / 2

    low = 0.0 if successes == 0 else root(lambda p: 1 - below(p) - tail, edge, share)
    high = 1.0 if successes == n else root(lambda p: below(p) - tail, max(share, edge), 1 - edge)
    return Interval(float(low), float(high))


def proportion(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Accuracy, sensitivity or specificity with one image a patient: at each end the wider of Wilson and mid-P.

    Parameters
    ----------
    successes, n : int
        Correct cases, and all cases (1 or more).
    level : float
        Of the interval, 0 to 1.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import proportion
    >>> [round(limit, 4) for limit in proportion(9, 10)]
    [0.5958, 0.995]
    """
    score, exact = wilson(successes / n, n, z_quantile(level)), mid_p(successes, n, level)
    return Interval(min(score.low, exact.low), max(score.high, exact.high))


def clustered_proportion(successes: ArrayLike, images: ArrayLike, level: float = LEVEL) -> Interval:
    """A proportion of images where patients have several (Korn and Graubard 1998, Surv Methodol 24:193).

    An exact interval at the effective number of images, which the variance between patients gives.

    Parameters
    ----------
    successes, images : array-like of int, shape (patients,)
        Correct images, and all images, of each patient; two patients or more.
    level : float
        Of the interval.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import clustered_proportion
    >>> found = clustered_proportion([2, 3, 1, 2, 0, 2, 3, 2, 2, 1], [2, 3, 2, 2, 2, 2, 3, 2, 2, 3])
    >>> [round(limit, 4) for limit in found]
    [0.4164, 0.9709]
    """
    right, count = np.asarray(successes, np.float64), np.asarray(images, np.float64)
    patients, n = len(right), float(count.sum())
    p = float(right.sum() / n)
    variance = patients / (patients - 1) * float(np.sum((right - p * count) ** 2)) / n**2
    effective = float(patients) if variance <= 0 or p in (0.0, 1.0) else max(p * (1 - p) / variance, 1.0)
    effective = min(effective * (z_quantile(level) / t_quantile(patients - 1, level)) ** 2, n)
    tail, found = (1 - level) / 2, p * effective
    low = 0.0 if p <= 0 else special.betaincinv(found, effective - found + 1, tail)
    high = 1.0 if p >= 1 else special.betaincinv(found + 1, effective - found, 1 - tail)
    return Interval(float(low), float(high))


def proportion_spread(successes: ArrayLike, images: ArrayLike) -> Spread:
    """The standard error of a proportion, from the variance between patients.

    Of no or only correct images the proportion is taken half a patient further in.

    Parameters
    ----------
    successes, images : array-like, shape (patients,)
        Correct images, and all images, of each patient; two patients or more.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import proportion_spread
    >>> round(proportion_spread([1, 1, 1, 0, 1], [1] * 5).error, 3), round(proportion_spread([1] * 5, [1] * 5).error, 3)
    (0.2, 0.15)
    """
    right, count = np.asarray(successes, np.float64), np.asarray(images, np.float64)
    patients, n = len(right), float(count.sum())
    p = float(right.sum() / n)
    variance = patients / (patients - 1) * float(np.sum((right - p * count) ** 2)) / n**2
    if variance <= 0 or p in (0.0, 1.0):
        inside = float(np.clip(p, 0.5 / patients, 1 - 0.5 / patients))
        variance = inside * (1 - inside) / (patients - 1)
    return Spread(float(np.sqrt(variance)), patients - 1)


def balanced_accuracy(right: tuple[int, int], cases: tuple[int, int], level: float = LEVEL) -> Interval:
    """Mean of sensitivity and specificity, by MOVER from two mid-P intervals (Zou and Donner 2008, Stat Med 27:1693).

    Parameters
    ----------
    right, cases : tuple of int
        Correct cases, and all cases (1 or more), of the two classes.
    level : float
        Of the interval.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import balanced_accuracy
    >>> [round(limit, 4) for limit in balanced_accuracy((4, 33), (5, 35))]
    [0.6312, 0.9693]
    """
    shares = [count / n for count, n in zip(right, cases, strict=True)]
    limits = [mid_p(count, n, level) for count, n in zip(right, cases, strict=True)]
    centre = sum(shares) / 2
    below = math.hypot(*(share - limit.low for share, limit in zip(shares, limits, strict=True))) / 2
    above = math.hypot(*(limit.high - share for share, limit in zip(shares, limits, strict=True))) / 2
    return Interval(centre - below, centre + above)


def tango(only_first: int, only_second: int, n: int, level: float = LEVEL) -> Interval:
    """Difference of two proportions on the same cases, first minus second (Tango 1998, Stat Med 17:891).

    Parameters
    ----------
    only_first, only_second : int
        Cases that only the first model, only the second model, classifies correctly.
    n : int
        All cases, 1 or more.
    level : float
        Of the interval.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import tango
    >>> [round(limit, 4) for limit in tango(8, 3, 40)]
    [-0.042, 0.2928]
    """
    b, c, quantile, edge = only_first, only_second, z_quantile(level), 1e-9

    def score(d: float) -> float:
        linear, constant = -b - c + (2 * n - b + c) * d, -c * d * (1 - d)
        share = (np.sqrt(max(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
        return float((b - c - n * d) / np.sqrt(max(n * (2 * share + d * (1 - d)), 1e-12)))

    found = (b - c) / n
    low = -1.0 if score(-1 + edge) < quantile else root(lambda d: score(d) - quantile, -1 + edge, found)
    high = 1.0 if score(1 - edge) > -quantile else root(lambda d: score(d) + quantile, found, 1 - edge)
    return Interval(float(low), float(high))


def mcnemar(only_first: int, only_second: int) -> float:
    """Mid-P value of McNemar's test that two models are equally often right on the same cases.

    Reference: Fagerland, Lydersen and Laake 2013, BMC Med Res Methodol 13:91.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.proportions import mcnemar
    >>> round(mcnemar(8, 3), 4), mcnemar(0, 0)
    (0.146, 1.0)
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if n == 0 or only_first == only_second:
        return 1.0
    less = special.bdtr(fewer - 1, n, 0.5) if fewer else 0.0
    return float(min(1.0, special.bdtr(fewer, n, 0.5) + less))
