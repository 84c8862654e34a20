"""Divergences between sites: measures of site sizes, of tables of sites by categories, and of dependence.

Measures of tables take counts (..., sites, classes), measures of sizes take (..., sites), and both return (...):
bootstrap or permutation draws are a leading axis. A mean over pairs leaves out pairs with an empty site.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fedlab.core.registry import Registry
from fedlab.core.typing import Floats, Ints

QUANTITY = Registry("quantity measure")
LABEL = Registry("label measure")
ORDINAL = Registry("ordinal label measure")


def effective_sites(sizes: Floats) -> Floats:
    """Effective number of sites, 1 / sum of squared size shares (inverse Simpson index), from 1 to sites."""
    return 1 / (_shares(sizes) ** 2).sum(axis=-1)


def gini(sizes: Floats) -> Floats:
    """Gini coefficient of the site sizes, from 0 (equal) to 1 - 1 / sites."""
    ordered = np.sort(_shares(sizes), axis=-1)
    k = ordered.shape[-1]
    return ordered @ (2 * np.arange(1, k + 1) - k - 1) / k


def normalised_entropy(sizes: Floats) -> Floats:
    """Entropy of the size shares over its maximum, from 0 to 1 (equal); 1 for a single site."""
    sites = np.shape(sizes)[-1]
    return _entropy(_shares(sizes)) / np.log2(sites) if sites > 1 else np.ones(np.shape(sizes)[:-1])


def mutual_information(counts: Floats) -> Floats:
    """Mutual information I(site; class) in bits, the generalised Jensen-Shannon divergence of the class shares."""
    joint = _shares(_flat(counts)).reshape(np.shape(counts))
    return np.maximum(_entropy(joint.sum(axis=-1)) + _entropy(joint.sum(axis=-2)) - _entropy(_flat(joint)), 0.0)


def total_variation(counts: Floats) -> Floats:
    """Total variation: half the absolute difference of two sites' class shares, mean over pairs, from 0 to 1."""
    return _mean_difference(_shares(counts)) / 2


def jensen_shannon(counts: Floats) -> Floats:
    """Jensen-Shannon divergence of two sites' class shares in bits, mean over pairs, from 0 to 1."""
    return _mean_over_pairs(counts, lambda a, b: _entropy((a + b) / 2) - (_entropy(a) + _entropy(b)) / 2)


def hellinger(counts: Floats) -> Floats:
    """Hellinger distance of two sites' class shares, mean over pairs, from 0 to 1."""
    return _mean_over_pairs(counts, lambda a, b: np.sqrt(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(axis=-1) / 2))


def weighted_l1(counts: Floats) -> Floats:
    """Absolute difference from the pool's class shares, weighted by size (Zhao 2018, arXiv:1806.00582), below 2."""
    weights = _shares(counts.sum(axis=-1))
    pool = _shares(counts.sum(axis=-2))[..., None, :]
    return np.nansum(weights * np.abs(_shares(counts) - pool).sum(axis=-1), axis=-1)


def cramers_v(counts: Floats) -> Floats:
    """Cramer's V of the table of sites by classes, from 0 to 1; sites and classes without cases are left out."""
    totals = np.maximum(counts.sum(axis=(-2, -1), keepdims=True), 1e-300)
    expected = counts.sum(axis=-1, keepdims=True) * counts.sum(axis=-2, keepdims=True) / totals
    terms = np.divide((counts - expected) ** 2, expected, out=np.zeros_like(expected), where=expected > 0)
    used = np.minimum((counts.sum(axis=-1) > 0).sum(axis=-1), (counts.sum(axis=-2) > 0).sum(axis=-1)) - 1
    return np.sqrt(terms.sum(axis=(-2, -1)) / (totals[..., 0, 0] * np.maximum(used, 1)))


def kolmogorov_smirnov(counts: Floats) -> Floats:
    """Kolmogorov-Smirnov distance of two sites' grades, mean over pairs, from 0 to 1 (Qu 2022, arXiv:2106.06047)."""
    return _mean_over_pairs(counts, lambda a, b: np.abs(np.cumsum(a - b, axis=-1)).max(axis=-1))


def wasserstein(counts: Floats) -> Floats:
    """Wasserstein-1 distance of two sites' grades, mean over pairs, from 0 to classes - 1."""
    return _mean_difference(np.cumsum(_shares(counts), axis=-1))


QUANTITY.add(effective_sites, "effective sites")
QUANTITY.add(gini, "Gini")
QUANTITY.add(normalised_entropy, "normalised entropy")
LABEL.add(mutual_information, "I(S;Y)")
LABEL.add(total_variation, "TV")
LABEL.add(jensen_shannon, "JS")
LABEL.add(hellinger, "Hellinger")
LABEL.add(weighted_l1, "weighted L1")
LABEL.add(cramers_v, "Cramer's V")
ORDINAL.add(kolmogorov_smirnov, "KS")
ORDINAL.add(wasserstein, "W1")


def wasserstein_of(counts: Floats, points: Floats) -> Floats:
    """Wasserstein-1 distance of two sites' numbers, mean over pairs, in the unit of points (values,), ascending."""
    return _mean_difference(np.cumsum(_shares(counts), axis=-1)[..., :-1], np.diff(points))


def within_layers(measure: Callable[[Floats], Floats], tables: Floats) -> Floats:
    """Mean of a measure over the layers of tables (draws, sites, layers, categories), weighted by cases: (draws,).

    With labels as layers and mutual information as the measure it is conditional mutual information.
    """
    layers = np.moveaxis(tables, 2, 1)
    return mean_defined(measure(layers), layers.sum(axis=(-2, -1)))


def distance_correlation(x: Floats, y: Floats) -> float:
    """Distance correlation of paired rows of x (n, p) and y (n, q).

    The limit for n -> infinity is 0 for independent rows only, and 1 for rows that are equal up to an isometry and a
    factor. For finite n it is biased upwards: compare it with `distance_correlation_null`.

    Parameters
    ----------
    x : ndarray, (n, p)
    y : ndarray, (n, q)

    Returns
    -------
    float
        From 0 to 1; 0 if either is constant.

    References
    ----------
    Szekely, Rizzo and Bakirov 2007, doi:10.1214/009053607000000505.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> round(distance_correlation(x, 3 * x + 7), 6), distance_correlation(x, np.ones((50, 1)))
    (1.0, 0.0)
    """
    return float(_distance_correlations(x, y, [np.arange(len(x))])[0])


def distance_correlation_null(x: Floats, y: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Distance correlations (draws,) of rows paired at random: the permutation null of independence."""
    return _distance_correlations(x, y, [rng.permutation(len(y)) for _ in range(draws)])


def _distance_correlations(x: Floats, y: Floats, orders: Sequence[Ints]) -> Floats:
    """Return the distance correlation of x and y for each order of the rows of y."""
    a, b = _centred_distances(x), _centred_distances(y)
    spread = np.sqrt((a * a).mean() * (b * b).mean())
    if not spread > 0:
        return np.zeros(len(orders))
    covariance = [float((a * b[np.ix_(order, order)]).mean()) for order in orders]
    return np.sqrt(np.maximum(0.0, covariance) / spread)


def _centred_distances(x: Floats) -> Floats:
    """Return the doubly centred Euclidean distances between rows, (n, n)."""
    squares = (x * x).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0))
    np.fill_diagonal(distances, 0)
    return distances - distances.mean(0) - distances.mean(1, keepdims=True) + distances.mean()


def _shares(counts: Floats) -> Floats:
    """Divide counts by their sum along the last axis; NaN where the sum is 0."""
    totals = np.asarray(counts, np.float64).sum(axis=-1, keepdims=True)
    return np.divide(counts, totals, out=np.full(np.shape(counts), np.nan), where=totals > 0)


def _entropy(shares: Floats) -> Floats:
    """Return the entropy along the last axis, in bits."""
    return -(shares * np.log2(shares, out=np.zeros_like(shares), where=shares > 0)).sum(axis=-1)


def _flat(table: Floats) -> Floats:
    """Flatten the last two axes."""
    return table.reshape(*table.shape[:-2], -1)


def _mean_over_pairs(counts: Floats, distance: Callable[[Floats, Floats], Floats]) -> Floats:
    """Return the mean over pairs of sites of a distance of class shares."""
    shares = _shares(counts)
    found = [distance(shares[..., k : k + 1, :], shares[..., k + 1 :, :]) for k in range(shares.shape[-2] - 1)]
    return mean_defined(np.concatenate(found, axis=-1)) if found else np.zeros(shares.shape[:-2])


def _mean_difference(shares: Floats, weights: Floats | float = 1.0) -> Floats:
    """Return the absolute difference of two sites' shares (..., sites, columns), summed over columns, mean over pairs.

    Computed by order statistics in linear time: the k-th of m sites is above k - 1 others and below m - k. Sites
    without shares (NaN) are left out.
    """
    ordered = np.nan_to_num(np.sort(shares, axis=-2))  # NaN come last, where the weight is set to 0
    defined = (~np.isnan(shares[..., :1])).sum(axis=-2, keepdims=True)
    rank = np.arange(1, np.shape(shares)[-2] + 1)[:, None]
    weight = np.where(rank <= defined, 2 * rank - defined - 1, 0)
    pairs = (defined * (defined - 1) / 2)[..., 0, 0]
    total = ((ordered * weight).sum(axis=-2) * weights).sum(axis=-1)
    return np.divide(total, pairs, out=np.full(np.shape(total), 0.0 if len(rank) == 1 else np.nan), where=pairs > 0)


def mean_defined(values: Floats, weights: Floats | float = 1.0) -> Floats:
    """Weighted mean of the defined values along the last axis; NaN if there are none."""
    used = np.where(np.isnan(values), 0.0, weights)
    total = used.sum(axis=-1)
    sums = (np.nan_to_num(values) * used).sum(axis=-1)
    return np.divide(sums, total, out=np.full(np.shape(total), np.nan), where=total > 0)
