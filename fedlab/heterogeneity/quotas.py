"""Schemes that fix how many cases of each class a site gets: (sizes, pool, least) -> whole counts (sites + 1, classes).

The last row holds the cases that are left out of the federation.
"""

import numpy as np
from numpy.typing import NDArray

from fedlab.heterogeneity.tables import Counts, Table, largest_remainder
from fedlab.heterogeneity.tilt import Quota


def shards(site_of: NDArray[np.int64]) -> Quota:
    """Shard j of the cases sorted by class goes to site_of[j]; site sizes follow from the shards, not from `sizes`."""

    def counts(sizes: Counts, pool: Counts, least: int) -> Counts:
        cuts = np.concatenate([[0], np.cumsum(largest_remainder(np.ones(len(site_of)), int(pool.sum())))])
        ends = np.cumsum(pool)
        overlap = np.minimum(cuts[1:, None], ends) - np.maximum(cuts[:-1, None], ends - pool)
        table = np.zeros((len(sizes) + 1, len(pool)), np.int64)
        np.add.at(table, site_of, np.maximum(overlap, 0))
        return table

    return counts


def classes(holders: NDArray[np.bool_]) -> Quota:
    """Each class split equally among its holders (sites, classes); a class nobody holds is left out."""

    def counts(sizes: Counts, pool: Counts, least: int) -> Counts:
        rows = np.vstack([holders, ~holders.any(axis=0)])
        return np.stack([largest_remainder(held, int(cases)) for held, cases in zip(rows.T, pool, strict=True)], axis=1)

    return counts


def exact(prevalence: Table) -> Quota:
    """n[k] cases at site k, of which prevalence[k] to within 1 / (2 n[k]) are positive.

    Where the pool holds too few of either class, all n[k] shrink by the largest common factor that fits and the surplus
    is left out. Raises ValueError if that leaves a site fewer than `least` cases, naming the nearest prevalences that
    fit.
    """

    def counts(sizes: Counts, pool: Counts, least: int) -> Counts:
        positive, kept = _fit(prevalence, sizes, pool)
        if kept.min() < least:
            raise ValueError(
                f"prevalence {_percent(prevalence)} needs more of a class than the {pool[0]} negative and {pool[1]}"
                f" positive cases there are: a site would keep {kept.min()} cases, wanted at least {least};"
                f" the nearest that fits is {_nearest(prevalence, sizes, pool, least)}"
            )
        table = np.stack([kept - positive, positive], axis=1)
        return np.vstack([table, pool - table.sum(axis=0)])

    return counts


def _fit(prevalence: Table, sizes: Counts, pool: Counts) -> tuple[Counts, Counts]:
    """Positives and size of each site, both (sites,), as large as the pool allows under one common factor."""
    wanted = np.array([sizes @ (1 - prevalence), sizes @ prevalence])
    scale = min(1.0, *(pool[wanted > 1e-9] / wanted[wanted > 1e-9]))
    while True:
        kept = np.floor(scale * sizes + 1e-9).astype(np.int64)
        positive = np.rint(kept * prevalence).astype(np.int64)  # halves to even
        if positive.sum() <= pool[1] and (kept - positive).sum() <= pool[0]:
            return positive, kept
        scale -= scale / sizes.sum() if scale * sizes.sum() > 1 else scale


def _nearest(prevalence: Table, sizes: Counts, pool: Counts, least: int) -> str:
    """The request moved towards the pool's own prevalence until it fits."""
    own = pool[1] / max(pool.sum(), 1)
    for step in range(99, -1, -1):
        moved = np.round(own + step / 100 * (prevalence - own), 3)
        if _fit(moved, sizes, pool)[1].min() >= least:
            return _percent(moved)
    return f"none: ask for fewer than {len(sizes)} sites"


def _percent(prevalence: Table) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in prevalence) + "]"
