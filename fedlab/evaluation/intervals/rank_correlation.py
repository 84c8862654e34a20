"""Spearman's rank correlation with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Floats
from fedlab.evaluation.intervals.interval import LEVEL, z_quantile

LEAST = 5  # points from which on there is an interval


class RankCorrelation(NamedTuple):
    """A rank correlation, -1 to 1, with the limits of its interval and the number of points; NaN where undefined."""

    rho: float
    low: float
    high: float
    points: int


def spearman(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> RankCorrelation:
    """Spearman's rank correlation of independent points, tied ranks averaged, with an interval.

    Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Bonett and Wright 2000 (Psychometrika 65:23); none below
    five points. A correlation of 1 or -1 has no finite z: its inner limit is that of the value halfway to the next one
    of n points without ties, and its outer limit is itself.

    Parameters
    ----------
    x, y : array-like of float
        Coordinates (n,); points where one of them is not finite are left out.
    level : float
        Of the interval.

    Returns
    -------
    RankCorrelation
        rho (NaN below two points, or where one coordinate is constant), low, high, points.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.rank_correlation import spearman
    >>> [round(number, 3) for number in spearman([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5])]
    [0.829, -0.127, 0.986, 6]
    >>> spearman([1, 2, 3], [1, 2, 3])
    RankCorrelation(rho=1.0, low=nan, high=nan, points=3)
    """
    points = np.column_stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    points = points[np.isfinite(points).all(axis=1)]
    n = len(points)
    a, b = _ranks(points[:, 0]), _ranks(points[:, 1])
    scale = float(np.sqrt((a @ a) * (b @ b)))
    rho = float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else float("nan")
    if n < LEAST or np.isnan(rho):
        return RankCorrelation(rho, float("nan"), float("nan"), n)
    return RankCorrelation(rho, *_limits(rho, n, level), n)


def _ranks(values: Floats) -> Floats:
    """Return the ranks (n,) minus their mean, ties averaged."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place] - (len(values) + 1) / 2)


def _limits(rho: float, n: int, level: float) -> tuple[float, float]:
    """Return the limits of the interval of a correlation of n points."""
    most = 1 - 6 / (n * (n * n - 1))  # halfway between 1 and the value with two neighbouring ranks exchanged
    inner = float(np.clip(rho, -most, most))
    half = z_quantile(level) * np.sqrt((1 + inner**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(inner) - half), np.tanh(np.arctanh(inner) + half)
    return (-1.0 if rho <= -most else float(low)), (1.0 if rho >= most else float(high))
