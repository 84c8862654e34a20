"""How different sites are, from counts: measures of site sizes, and of tables of sites by answers.

The latter take counts (..., sites, classes) and quantity measures sizes (..., sites), and return (...): a bootstrap
or a permutation null is one more leading axis. A pair of sites of which one is empty does not enter a mean over pairs.
"""

from collections.abc import Callable

import numpy as np

from fedlab.core.registry import Registry
from fedlab.core.typing import Floats

QUANTITY = Registry("quantity measure")
LABEL = Registry("label measure")
ORDINAL = Registry("ordinal label measure")


def effective_sites(sizes: Floats) -> Floats:
    """Sites that would be as even: 1 / sum of squared shares, from 1 to the number of sites."""
    return 1 / (_shares(sizes) ** 2).sum(axis=-1)


def gini(sizes: Floats) -> Floats:
    """Gini coefficient of the site sizes, from 0 (equal) to 1 - 1 / sites."""
    ordered = np.sort(_shares(sizes), axis=-1)
    k = ordered.shape[-1]
    return ordered @ (2 * np.arange(1, k + 1) - k - 1) / k


def normalised_entropy(sizes: Floats) -> Floats:
    """Entropy of the site shares over its maximum, from 0 to 1 (equal); a lone site counts as even."""
    sites = np.shape(sizes)[-1]
    return _entropy(_shares(sizes)) / np.log2(sites) if sites > 1 else np.ones(np.shape(sizes)[:-1])


def mutual_information(counts: Floats) -> Floats:
    """I(site; class) in bits, the generalised Jensen-Shannon divergence: how much the label tells about the site."""
    joint = _shares(_flat(counts)).reshape(np.shape(counts))
    return np.maximum(_entropy(joint.sum(axis=-1)) + _entropy(joint.sum(axis=-2)) - _entropy(_flat(joint)), 0.0)


def total_variation(counts: Floats) -> Floats:
    """Half the absolute difference of two sites' class shares, mean over pairs, from 0 to 1."""
    return _mean_difference(_shares(counts)) / 2


def jensen_shannon(counts: Floats) -> Floats:
    """Jensen-Shannon divergence of two sites' class shares in bits, mean over pairs, from 0 to 1."""
    return _mean_over_pairs(counts, lambda a, b: _entropy((a + b) / 2) - (_entropy(a) + _entropy(b)) / 2)


def hellinger(counts: Floats) -> Floats:
    """Hellinger distance of two sites' class shares, mean over pairs, from 0 to 1."""
    return _mean_over_pairs(counts, lambda a, b: np.sqrt(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(axis=-1) / 2))


def weighted_l1(counts: Floats) -> Floats:
    """Absolute difference to the pool's class shares, weighted by site size (Zhao 2018, arXiv:1806.00582), below 2."""
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
    """Largest difference of two sites' cumulative grade shares, mean over pairs, from 0 to 1 (Qu 2022)."""
    return _mean_over_pairs(counts, lambda a, b: np.abs(np.cumsum(a - b, axis=-1)).max(axis=-1))


def wasserstein(counts: Floats) -> Floats:
    """Grades by which one site's cases must move to match another's, mean over pairs, from 0 to classes - 1."""
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
    """The measure in each layer of tables (draws, sites, layers, answers), its mean by cases: (draws,).

    With labels as layers and information as the measure that is conditional mutual information.
    """
    layers = np.moveaxis(tables, 2, 1)
    return mean_defined(measure(layers), layers.sum(axis=(-2, -1)))


def _shares(counts: Floats) -> Floats:
    """Counts over their sum along the last axis; NaN where there are none."""
    totals = np.asarray(counts, np.float64).sum(axis=-1, keepdims=True)
    return np.divide(counts, totals, out=np.full(np.shape(counts), np.nan), where=totals > 0)


def _entropy(shares: Floats) -> Floats:
    """Bits."""
    return -(shares * np.log2(shares, out=np.zeros_like(shares), where=shares > 0)).sum(axis=-1)


def _flat(table: Floats) -> Floats:
    return table.reshape(*table.shape[:-2], -1)


def _mean_over_pairs(counts: Floats, distance: Callable[[Floats, Floats], Floats]) -> Floats:
    shares = _shares(counts)
    found = [distance(shares[..., k : k + 1, :], shares[..., k + 1 :, :]) for k in range(shares.shape[-2] - 1)]
    return mean_defined(np.concatenate(found, axis=-1)) if found else np.zeros(shares.shape[:-2])


def _mean_difference(shares: Floats, weights: Floats | float = 1.0) -> Floats:
    """Sum over columns of the absolute difference of two sites' shares (..., sites, columns), mean over pairs.

    By order statistics, so that many sites cost little: the k-th of m sites is above k - 1 others and below m - k.
    Sites without shares (NaN) are left out.
    """
    ordered = np.nan_to_num(np.sort(shares, axis=-2))  # NaN come last, where the weight is set to 0
    there = (~np.isnan(shares[..., :1])).sum(axis=-2, keepdims=True)
    rank = np.arange(1, np.shape(shares)[-2] + 1)[:, None]
    lead = np.where(rank <= there, 2 * rank - there - 1, 0)
    pairs = (there * (there - 1) / 2)[..., 0, 0]
    total = ((ordered * lead).sum(axis=-2) * weights).sum(axis=-1)
    return np.divide(total, pairs, out=np.full(np.shape(total), 0.0 if len(rank) == 1 else np.nan), where=pairs > 0)


def mean_defined(values: Floats, weights: Floats | float = 1.0) -> Floats:
    """Weighted mean of what is defined along the last axis; NaN if nothing is."""
    used = np.where(np.isnan(values), 0.0, weights)
    total = used.sum(axis=-1)
    sums = (np.nan_to_num(values) * used).sum(axis=-1)
    return np.divide(sums, total, out=np.full(np.shape(total), np.nan), where=total > 0)
