"""Rules that fix how many cases of each class a site gets: (sizes, pool, least) -> counts (sites + 1, classes).

sizes: (sites,) requested; pool: (classes,) available; least: minimum cases of a site. The last row of the counts holds
the cases that are left out of the federation.
"""

from collections.abc import Callable

import numpy as np

from fedlab.core.rng import stream
from fedlab.core.typing import Bools, Floats, Ints
from fedlab.heterogeneity.log_odds import CountRule
from fedlab.heterogeneity.raking import TINY, controlled_rounding, largest_remainder
from fedlab.heterogeneity.shift.divergences import kolmogorov_smirnov

KS_TOLERANCE = 0.01  # of a Kolmogorov-Smirnov distance: a smaller deviation is accepted without an error
STEPS = 100  # from the pool's own shares to the request, in the search for the nearest feasible one


def shards(site_of: Ints) -> CountRule:
    """Give shard j of the cases sorted by class to site_of[j]; site sizes follow from the shards, not from `sizes`."""

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        cuts = np.concatenate([[0], np.cumsum(largest_remainder(np.ones(len(site_of)), int(pool.sum())))])
        table = np.zeros((len(sizes) + 1, len(pool)), np.int64)
        np.add.at(table, site_of, _overlap(cuts, np.concatenate([[0], np.cumsum(pool)])))
        return table

    return counts


def classes(holders: Bools) -> CountRule:
    """Split each class equally among its holders (sites, classes); a class without a holder is left out."""
    return proportions(holders.astype(np.float64))


def proportions(parts: Floats) -> CountRule:
    """Split each class in proportion to its column of parts (sites, classes); a column of zeros is left out."""

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        rows = np.vstack([parts, ~parts.any(axis=0)])
        return np.stack([largest_remainder(part, int(cases)) for part, cases in zip(rows.T, pool, strict=True)], axis=1)

    return counts


def exact(wanted: Floats, seed: int) -> CountRule:
    """Give site k n[k] cases with the class shares wanted[k] (sites, classes).

    Shares are met to within 1 / (2 n[k]) for two classes, to within 1 / n[k] for more. Where the pool holds too few
    cases of a class, all n[k] shrink by the largest common factor that fits and the surplus is left out. Raises
    ValueError if that leaves a site fewer than `least` cases, naming the nearest feasible shares; where least is 0, as
    in a test split, a class that the pool lacks altogether is ignored.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        own = pool / max(pool.sum(), 1)
        target = wanted if least else _normalized(np.where(pool > 0, wanted, 0.0))

        def path(part: float) -> Floats:
            return _normalized(np.round(own + part * (target - own), 3)) if part < 1 else target

        return _fit_or_refuse(path, lambda part: _shares_as_given(path(part)), sizes, pool, least, seed)

    return counts


def mix(h: float, own: Ints, seed: int) -> CountRule:
    """Give site k 1 - h of its cases as in the pool and h of its main class own[k] (sites,).

    The total variation from the pool is h (1 - the pool's share of that class), to within rounding. A class that the
    pool lacks altogether is ignored. Cases are left out as in `exact`.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        def path(part: float) -> Floats:
            table = np.outer(np.full(len(own), 1 - part * h), pool / max(pool.sum(), 1))
            table[np.arange(len(own)), own] += part * h
            return _normalized(np.where(pool > 0, table, 0.0))

        return _fit_or_refuse(path, lambda part: f"'mix({part * h:.4g})'", sizes, pool, least, seed)

    return counts


def ks(target: float, order: Ints, seed: int) -> CountRule:
    """Give sites class shares with a mean Kolmogorov-Smirnov distance of `target` over pairs; no case is left out.

    The counts lie between the table of equal class shares and that in which the sites, in this order (sites,), take the
    sorted cases one after another: cumulative shares, and so the distance, are linear between the two. Raises
    ValueError where even the sorted table has a smaller distance, naming that distance.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        equal, sorted_ = np.outer(sizes, pool) / max(pool.sum(), 1), _sorted_table(sizes, pool, order)
        most = float(kolmogorov_smirnov(sorted_.astype(np.float64)))
        if target > most + KS_TOLERANCE and least:
            raise ValueError(
                f"prevalence 'ks({target:g})' needs sites further apart than {len(sizes)} of these sizes can be"
                f" with the {_pool_text(pool)} available cases; the nearest feasible value is"
                f" 'ks({np.floor(most * 1000) / 1000:g})'"
            )
        part = min(target / most, 1.0) if most > 0 else 0.0
        return _with_left_out(_rounded(equal + part * (sorted_ - equal), seed), pool)

    return counts


def _sorted_table(sizes: Ints, pool: Ints, order: Ints) -> Ints:
    """Assign the cases sorted by class to the sites one after another, (sites, classes)."""
    table = np.zeros((len(sizes), len(pool)), np.int64)
    cuts = np.concatenate([[0], np.cumsum(sizes[order])])
    table[order] = _overlap(cuts, np.concatenate([[0], np.cumsum(pool)]))
    return table


def _overlap(cuts: Ints, ends: Ints) -> Ints:
    """Return the length that each interval between neighbouring cuts shares with each class, (intervals, classes)."""
    return np.maximum(np.minimum(cuts[1:, None], ends[1:]) - np.maximum(cuts[:-1, None], ends[:-1]), 0)


def _fit_or_refuse(
    path: Callable[[float], Floats],
    write: Callable[[float], str],
    sizes: Ints,
    pool: Ints,
    least: int,
    seed: int,
) -> Ints:
    """Return counts with the shares path(1), (sites, classes), and the rest; path(0) are the pool's own shares."""
    found = _largest_fit(path(1.0), sizes, pool, seed)
    if (kept := int(found.sum(axis=1).min())) >= least:
        return _with_left_out(found, pool)
    parts = [step / STEPS for step in range(STEPS - 1, -1, -1)]
    fits = (write(part) for part in parts if _largest_fit(path(part), sizes, pool, seed).sum(axis=1).min() >= least)
    raise ValueError(
        f"prevalence {write(1.0)} needs more of a class than the {_pool_text(pool)} available cases: a site would keep"
        f" {kept} cases, wanted at least {least}; the nearest feasible value is"
        f" {next(fits, f'none: use fewer than {len(sizes)} sites')}"
    )


def _largest_fit(wanted: Floats, sizes: Ints, pool: Ints, seed: int) -> Ints:
    """Return whole counts (sites, classes), as large as the pool allows with one common factor of the sizes."""
    need = sizes @ wanted
    scale = min(1.0, *(pool[need > TINY] / need[need > TINY]))
    while True:
        kept = np.floor(scale * sizes + TINY).astype(np.int64) * wanted.any(axis=1)
        found = _two_classes(kept, wanted) if len(pool) == 2 else _several_classes(kept, wanted, pool, seed)
        if (found.sum(axis=0) <= pool).all():
            return found
        scale -= scale / sizes.sum() if scale * sizes.sum() > 1 else scale


def _two_classes(kept: Ints, wanted: Floats) -> Ints:
    """Round the counts of two classes (sites, 2)."""
    positive = np.rint(kept * wanted[:, 1]).astype(np.int64)  # halves to even
    return np.stack([kept - positive, positive], axis=1)


def _several_classes(kept: Ints, wanted: Floats, pool: Ints, seed: int) -> Ints:
    """Round the counts (sites, classes) within the pool, with the cases left out as one more row."""
    table = kept[:, None] * wanted
    return _rounded(np.vstack([table, np.maximum(pool - table.sum(axis=0), 0)]), seed)[:-1]


def _rounded(table: Floats, seed: int) -> Ints:
    """Round a table, keeping its sums."""
    return controlled_rounding(table, stream(seed, "prevalence", "rounding"))


def _with_left_out(counts: Ints, pool: Ints) -> Ints:
    """Append the row of cases that are left out."""
    return np.vstack([counts, pool - counts.sum(axis=0)])


def _normalized(table: Floats) -> Floats:
    """Divide each row by its sum."""
    return table / np.maximum(table.sum(axis=1, keepdims=True), TINY)


def shares_text(shares: Floats) -> str:
    """Write shares as a user would: one list per site."""
    return "[" + ", ".join("[" + ", ".join(f"{value:.3g}" for value in row) + "]" for row in shares) + "]"


def _shares_as_given(shares: Floats) -> str:
    """Write shares as a user would: of two classes the share of the second."""
    if shares.shape[1] > 2:
        return shares_text(shares)
    return "[" + ", ".join(f"{value:.3g}" for value in shares[:, 1]) + "]"


def _pool_text(pool: Ints) -> str:
    """Write the cases of each class."""
    if len(pool) == 2:
        return f"{pool[0]} negative and {pool[1]} positive"
    return ", ".join(map(str, pool[:-1])) + f" and {pool[-1]}"
