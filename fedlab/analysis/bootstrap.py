"""Intervals for metrics: a bootstrap stratified by class and site that keeps patients whole, and DeLong's variance.

All methods are scored on the same resampled cases, so that differences are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.learning.metrics import BLOCK, METRICS

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number, its percentile interval at level 0.95, and its value in each bootstrap draw, shape (draws,).

    Draws in which the number is undefined are left out; if the number itself is undefined, so is its interval.
    """

    value: float
    draws: NDArray[np.float64] = field(repr=False)
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        defined = self.draws[np.isfinite(self.draws)]
        known = np.isfinite(self.value) and len(defined) > 0
        ends = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if known else (np.nan, np.nan)
        object.__setattr__(self, "low", float(ends[0]))
        object.__setattr__(self, "high", float(ends[1]))

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference: both sides must come from the same resampled cases."""
        return Estimate(self.value - other.value, self.draws - other.draws)


UNDEFINED = Estimate(np.nan, np.full(1, np.nan))


def estimate(metric: str | Callable[..., Any], y: ArrayLike, p: ArrayLike, multiplicities: NDArray[Any]) -> Estimate:
    """A metric (or its name) of y and p with its bootstrap; multiplicities (draws, n) as `resamples` makes them."""
    measure = METRICS.function(metric) if isinstance(metric, str) else metric
    return Estimate(measure(y, p), measure(y, p, multiplicities))


def over_seeds(estimates: Sequence[Estimate], rng: np.random.Generator) -> Estimate:
    """The mean over seeds; each draw resamples the seeds first, then takes their values on the same resampled cases."""
    draws, seeds = np.stack([each.draws for each in estimates], 1), len(estimates)
    picked = rng.multinomial(seeds, np.full(seeds, 1 / seeds), len(draws))
    return Estimate(float(np.mean([each.value for each in estimates])), (picked * draws).mean(1))


def over_sites(estimates: Sequence[Estimate], summary: Callable[..., Any]) -> Estimate:
    """A summary (np.mean, np.min, ...) of sites' scores, computed in every draw; undefined without sites."""
    if not estimates:
        return UNDEFINED
    value = summary([each.value for each in estimates])
    return Estimate(float(value), summary([each.draws for each in estimates], axis=0))


def resamples(
    strata: ArrayLike, clusters: ArrayLike, rng: np.random.Generator, draws: int = 2000
) -> NDArray[np.uint16]:
    """Draw bootstrap samples: how often each case is in each of them, shape (draws, n).

    Whole clusters (patients) are drawn with replacement within their stratum (class and site of their first case), as
    many as the stratum has. A stratum of one cluster never varies. strata, clusters: (n,) ids of any kind.
    """
    _, first_case, cluster = np.unique(np.asarray(clusters), return_index=True, return_inverse=True)
    stratum = np.unique(np.asarray(strata)[first_case], return_inverse=True)[1]
    order = np.argsort(stratum, kind="stable")  # clusters of one stratum are adjacent
    sizes = np.bincount(stratum)
    start, size = (np.cumsum(sizes) - sizes)[stratum[order]], sizes[stratum[order]]
    counts = np.empty((draws, len(order)), np.uint16)
    for row in range(0, draws, step := max(1, BLOCK // max(1, len(order)))):
        block = counts[row : row + step]
        picked = start + (rng.random(block.shape) * size).astype(np.int64)
        picked += np.arange(len(block))[:, None] * len(order)
        block[:] = np.bincount(picked.ravel(), minlength=block.size).reshape(block.shape)
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return counts[:, position[cluster]]


def delong(y: ArrayLike, score: ArrayLike, other: ArrayLike | None = None) -> tuple[float, float]:
    """(AUROC, its variance), or with a second score (difference of AUROCs, variance of the paired difference).

    DeLong 1988 by midranks (Sun and Xu 2014). y: (n,) 0/1; scores: (n,). NaN with fewer than two cases of a class; the
    variance is 0, and of no use, where the AUROC is 1.
    """
    positive = np.asarray(y) == 1
    if min(positive.sum(), (~positive).sum()) < 2:
        return float("nan"), float("nan")
    above, below = _components(positive, np.asarray(score, np.float64))
    if other is not None:
        other_above, other_below = _components(positive, np.asarray(other, np.float64))
        above, below = above - other_above, below - other_below
    return float(above.mean()), float(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))


def _components(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    ones, zeros = score[positive], score[~positive]
    among_zeros = _midranks(zeros, ones) / len(zeros)
    among_ones = 1 - _midranks(ones, zeros) / len(ones)
    return among_zeros, among_ones


def _midranks(scores: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many scores lie below each value of `at`, ties one half."""
    ordered = np.sort(scores)
    return (np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")) / 2
