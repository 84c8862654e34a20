"""Distances between the images of sites: measures of features (n, d), within classes if requested.

All measures take `site` (draws, n), -1 for a case left out, and return (draws,). Classes and pairs of sites are
weighted, so that the noise of a class with few cases at a site does not dominate.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.shift.divergences import mean_defined
from fedlab.heterogeneity.shift.observed import batch_sizes

Distance = Callable[[Ints], Floats]

MIN_CASES = 5  # of a class at a site, for means and covariances
ALL_PAIRS = 8  # sites up to which all pairs are compared; of more, each with the next few only
RIDGE = 1.0  # penalty of the classifier, in cases


def mean_over_classes(
    statistic: Callable[[Ints, Ints], tuple[Floats, Floats]], site: Ints, classes: Ints, sites: int, n: int
) -> Floats:
    """Return the weighted mean of a statistic over classes, (draws,).

    statistic(rows of a class, site (some draws, rows)) returns values and weights, both (draws, parts).
    """
    found = []
    for kind in np.unique(classes):
        inside = np.flatnonzero(classes == kind)
        ends = np.cumsum(list(batch_sizes(len(site), 4 * sites * n)))[:-1]
        parts = [statistic(inside, block[:, inside]) for block in np.split(site, ends)]
        found.append([np.concatenate(part) for part in zip(*parts, strict=True)])
    values, weights = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return mean_defined(values, weights)


# -- maximum mean discrepancy ---------------------------------------------------------------------------------------


def rbf_kernel(features: NDArray[np.floating]) -> NDArray[np.floating]:
    """Gaussian kernel exp(-d^2 / (2 s^2)), s the median distance between cases, (n, n); zero on the diagonal."""
    squares = (features**2).sum(axis=1)
    distance = np.maximum(squares[:, None] + squares - 2 * features @ features.T, 0)
    np.fill_diagonal(distance, 0)
    between = distance[np.triu_indices(len(features), 1)]
    middle = float(np.median(between)) if len(between) else 1.0
    kernel = np.exp(distance / (-2 * (middle or 1.0)))
    np.fill_diagonal(kernel, 0)
    return kernel


def mmd2(kernel: NDArray[np.floating], members: NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Unbiased squared maximum mean discrepancy of each pair of sites (Gretton 2012): 0 on average for IID sites.

    kernel: (n, n) with zero diagonal. members: (draws, n, sites), 1 where a case belongs to a site. Returns values and
    weights, both (draws, pairs): NaN for a pair with fewer than two cases each; the weight is the harmonic size of the
    pair, inverse to the variance of the value.
    """
    sums, sizes = _sums(kernel, members)
    own = np.where(sizes > 1, np.einsum("bkk->bk", sums) / np.maximum(sizes * (sizes - 1), 1), np.nan)
    cross = sums / np.maximum(sizes[:, :, None] * sizes[:, None, :], 1)
    k, other = np.triu_indices(sizes.shape[1], 1)
    return own[:, k] + own[:, other] - 2 * cross[:, k, other], _harmonic(sizes[:, k], sizes[:, other])


def mmd2_of_identical_sites(kernel: NDArray[np.floating], members: NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Return the value of `mmd2` for sites with identical distributions of images: the lower bound, below 0.

    A site's mean similarity m is then also that to the other site, and leaving out the n pairs of a case with itself
    subtracts (1 - m) / (n - 1) for each of the two sites.
    """
    sums, sizes = _sums(kernel, members)
    mean = (np.einsum("bkk->bk", sums) + sizes) / np.maximum(sizes**2, 1)
    less = np.where(sizes > 1, (1 - mean) / np.maximum(sizes - 1, 1), np.nan)
    k, other = np.triu_indices(sizes.shape[1], 1)
    return -less[:, k] - less[:, other], _harmonic(sizes[:, k], sizes[:, other])


def mmd(kernel: NDArray[np.floating], classes: Ints, sites: int, identical: bool = False) -> Distance:
    """Return `mmd2`, or its value for identical sites, within classes (n,), mean over pairs and classes."""
    measure = mmd2_of_identical_sites if identical else mmd2

    def statistic(inside: Ints, site: Ints) -> tuple[Floats, Floats]:
        own = kernel if len(inside) == len(kernel) else kernel[np.ix_(inside, inside)]
        return measure(own, site[:, :, None] == np.arange(sites))

    return lambda site: mean_over_classes(statistic, site, classes, sites, len(kernel))


def _sums(kernel: NDArray[np.floating], members: NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Return similarities summed over each pair of sites (draws, sites, sites), and sizes (draws, sites)."""
    draws, n, sites = members.shape
    flat = members.transpose(1, 0, 2).reshape(n, draws * sites).astype(kernel.dtype)
    sums = (kernel @ flat).reshape(n, draws, sites).transpose(1, 2, 0)
    return (sums @ members.astype(kernel.dtype)).astype(np.float64), members.sum(axis=1, dtype=np.float64)


def _harmonic(a: Floats, b: Floats) -> Floats:
    """Return the harmonic size a b / (a + b)."""
    return a * b / np.maximum(a + b, 1)


# -- Frechet distance -----------------------------------------------------------------------------------------------


def frechet_distance(mean: Floats, root: Floats, other_mean: Floats, other_root: Floats) -> Floats:
    """Frechet distance |m - m'|^2 + tr(C + C' - 2 (C^(1/2) C' C^(1/2))^(1/2)) of normal distributions.

    Dowson and Landau 1982. mean: (..., d). root: (..., d, d), the symmetric square root of the covariance. The last
    trace is the sum of the singular values of the product of the roots, which stays exact where covariances are
    singular.
    """
    shared = np.linalg.svd(root @ other_root, compute_uv=False).sum(axis=-1)
    spread = (root**2).sum(axis=(-2, -1)) + (other_root**2).sum(axis=(-2, -1))
    return ((mean - other_mean) ** 2).sum(axis=-1) + np.maximum(spread - 2 * shared, 0)


def frechet(features: NDArray[np.floating], classes: Ints, sites: int) -> Distance:
    """Frechet distance of sites' features, mean over pairs, within classes (n,) weighted by cases.

    Its bias grows with d / n: give sites equal numbers of cases (see `equal_numbers`). A site with fewer than MIN_CASES
    cases of a class is left out there; of more than ALL_PAIRS sites, each is compared with its next few.
    """
    mean = features.mean(axis=0, dtype=np.float64) if len(features) else 0.0
    centred = features.astype(np.float64) - mean
    k, other = _pairs(sites)

    def statistic(inside: Ints, site: Ints) -> tuple[Floats, Floats]:
        n, mean, root = _normals(centred[inside], site, sites)
        defined = np.where(n < MIN_CASES, np.nan, 1.0)
        values = frechet_distance(mean[:, k], root[:, k], mean[:, other], root[:, other])
        return values * defined[:, k] * defined[:, other], np.tile(n.sum(axis=1, keepdims=True), len(k))

    return lambda site: mean_over_classes(statistic, site, classes, sites, features.shape[1] ** 2)


def equal_numbers(site: Ints, classes: Ints, sites: int) -> Ints:
    """Return positions of equal numbers of cases of each site in each class: as many as the smallest site has.

    A site with fewer than MIN_CASES of a class does not count as the smallest.
    """
    kept = []
    for kind in np.unique(classes):
        inside = np.flatnonzero(classes == kind)
        have = np.bincount(site[inside], minlength=sites)
        enough = have[have >= MIN_CASES]
        least = enough.min() if len(enough) else 0
        kept += [inside[site[inside] == k][:least] for k in range(sites)]
    return np.sort(np.concatenate(kept))


def _normals(x: Floats, site: Ints, sites: int) -> tuple[Floats, Floats, Floats]:
    """Return cases (draws, sites), mean (..., d) and symmetric root of the covariance (..., d, d) of each site."""
    d = x.shape[1]
    upper, right = np.triu_indices(d)
    moments = np.hstack([np.ones((len(x), 1)), x, x[:, upper] * x[:, right]])
    members = (site[:, None] == np.arange(sites)[:, None]).astype(np.float64)
    sums = members.reshape(-1, len(x)) @ moments
    n = sums[:, :1]
    mean = sums[:, 1 : d + 1] / np.maximum(n, 1)
    square = np.empty((len(sums), d, d))
    square[:, upper, right] = square[:, right, upper] = sums[:, d + 1 :]
    covariance = (square - n[:, :, None] * mean[:, :, None] * mean[:, None]) / np.maximum(n - 1, 1)[:, :, None]
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1)
    shape = (len(site), sites)
    return n.reshape(shape), mean.reshape(*shape, d), root.reshape(*shape, d, d)


def _pairs(sites: int) -> tuple[Ints, Ints]:
    """Return all pairs of few sites; of many, each with its next three in a ring."""
    k, other = np.triu_indices(sites, 1)
    near = (other - k <= 3) | (k + sites - other <= 3) | (sites <= ALL_PAIRS)
    return k[near], other[near]


# -- classifier two-sample test -------------------------------------------------------------------------------------


def site_auc(features: NDArray[np.floating], classes: Ints, sites: int, fold: Ints) -> Distance:
    """AUC of classifying a site against the others by features, mean over sites: 0.5 for IID sites, at most 1.

    A classifier two-sample test (Lopez-Paz 2017, arXiv:1610.06545) with linear discriminants, fitted within classes
    (n,) and cross-validated over folds (n,) 0, 1, ... that hold patients whole.
    """

    def statistic(inside: Ints, site: Ints) -> tuple[Floats, Floats]:
        blocks = [slice(0, len(site))] if (site >= 0).all() else [slice(i, i + 1) for i in range(len(site))]
        found = []
        for block in blocks:  # draws that leave out cases need separate discriminants
            used = (site[block] >= 0).all(axis=0)
            rows = inside[used]
            members = np.stack([site[block][:, used] == k for k in range(sites)], axis=1).astype(np.float64)
            found.append(_aucs(features[rows].astype(np.float64), members, fold[rows]))
        return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]

    return lambda site: mean_over_classes(statistic, site, classes, sites, len(features))


def _aucs(x: Floats, members: Floats, fold: Ints) -> tuple[Floats, Floats]:
    """Return the AUC of each site against the rest and its weight, both (draws, sites); members: (draws, sites, n)."""
    if not len(x):  # a draw that leaves out every case
        return np.full(members.shape[:2], np.nan), np.zeros(members.shape[:2])
    flat = members.reshape(-1, len(x))
    scores = np.zeros(flat.shape)
    for part in np.unique(fold):
        test = fold == part
        train, centre = x[~test], x[~test].mean(axis=0) if (~test).any() else 0.0
        scatter = (train - centre).T @ (train - centre) + RIDGE * np.eye(x.shape[1])
        directions = flat[:, ~test] @ (train - centre) @ np.linalg.inv(scatter)
        scores[:, test] = directions @ (x[test] - centre).T  # no intercept: it would depend on the cases of the fold
    own = flat.sum(axis=1)
    rest = len(x) - own
    above = (flat * _ranks(scores)).sum(axis=1) - own * (own + 1) / 2
    auc = np.divide(above, own * rest, out=np.full(len(flat), np.nan), where=own * rest > 0)
    return auc.reshape(members.shape[:2]), _harmonic(own, rest).reshape(members.shape[:2])


def _ranks(scores: Floats) -> Floats:
    """Return ranks from 1 along the last axis of (rows, n), ties averaged."""
    rows, n = scores.shape
    order = np.argsort(scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    place = np.arange(n)
    new = np.hstack([np.ones((rows, 1), bool), np.diff(ordered, axis=1) > 0])
    last = np.hstack([new[:, 1:], np.ones((rows, 1), bool)])
    low = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    high = np.minimum.accumulate(np.where(last, place, n - 1)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(scores)
    np.put_along_axis(ranks, order, (low + high) / 2 + 1, axis=1)
    return ranks
