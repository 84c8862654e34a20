"""Schemes that fix how many cases of each class a site gets: (sizes, pool, least) -> whole counts (sites + 1, classes).

The last row holds the cases that are left out of the federation.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.odds import Quota
from fedlab.heterogeneity.raking import TINY, controlled_rounding, largest_remainder
from fedlab.heterogeneity.shift.divergences import kolmogorov_smirnov

CLOSE = 0.01  # of a Kolmogorov-Smirnov distance: what may be missing without a word
STEPS = 100  # of the way towards the pool's own shares, on which a request that fits is looked for


def shards(site_of: NDArray[np.int64]) -> Quota:
    """Shard j of the cases sorted by class goes to site_of[j]; site sizes follow from the shards, not from `sizes`."""

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        cuts = np.concatenate([[0], np.cumsum(largest_remainder(np.ones(len(site_of)), int(pool.sum())))])
        table = np.zeros((len(sizes) + 1, len(pool)), np.int64)
        np.add.at(table, site_of, _overlap(cuts, np.concatenate([[0], np.cumsum(pool)])))
        return table

    return counts


def classes(holders: NDArray[np.bool_]) -> Quota:
    """Each class split equally among its holders (sites, classes); a class nobody holds is left out."""
    return proportions(holders.astype(np.float64))


def proportions(parts: Floats) -> Quota:
    """Each class split in proportion to its column of (sites, classes); a class that no site wants is left out."""

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        rows = np.vstack([parts, ~parts.any(axis=0)])
        return np.stack([largest_remainder(part, int(cases)) for part, cases in zip(rows.T, pool, strict=True)], axis=1)

    return counts


def exact(wanted: Floats, seed: int) -> Quota:
    """n[k] cases at site k, of which the shares wanted[k] (sites, classes) are of each class.

    Of two classes to within 1 / (2 n[k]), of more to within 1 / n[k]. Where the pool holds too few of a class, all n[k]
    shrink by the largest common factor that fits and the surplus is left out. Raises ValueError if that leaves a site
    fewer than `least` cases, naming the nearest shares that fit; where none are needed, as in a test split, a class
    that the pool lacks altogether is nobody's.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        own, asked = pool / max(pool.sum(), 1), wanted if least else _rows(np.where(pool > 0, wanted, 0.0))

        def path(part: float) -> Floats:
            return _rows(np.round(own + part * (asked - own), 3)) if part < 1 else asked

        return _fitted(path, lambda part: _shown(path(part)), sizes, pool, least, seed)

    return counts


def mix(h: float, own: NDArray[np.int64], seed: int) -> Quota:
    """1 - h of a site's cases like the pool and h of its own class (sites,): its total variation from the pool is
    h (1 - the pool's share of that class), to within rounding.

    A class that the pool lacks altogether is nobody's. Cases are left out as in `exact`.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        def path(part: float) -> Floats:
            table = np.outer(np.full(len(own), 1 - part * h), pool / max(pool.sum(), 1))
            table[np.arange(len(own)), own] += part * h
            return _rows(np.where(pool > 0, table, 0.0))

        return _fitted(path, lambda part: f"'mix({part * h:.4g})'", sizes, pool, least, seed)

    return counts


def apart(target: float, order: NDArray[np.int64], seed: int) -> Quota:
    """Sites whose class shares lie `target` apart by the mean Kolmogorov-Smirnov distance of a pair; no case left out.

    Between the table in which all sites are alike and that in which the sites in this order (sites,) take the sorted
    cases one after another: cumulative shares, and so the distance, are linear in the way between them. Raises
    ValueError where even the sorted table lies less apart, naming how far it does.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        alike, sorted_ = np.outer(sizes, pool) / max(pool.sum(), 1), _sorted(sizes, pool, order)
        most = float(kolmogorov_smirnov(sorted_.astype(np.float64)))
        if target > most + CLOSE and least:
            raise ValueError(
                f"prevalence 'ks({target:g})' needs sites further apart than {len(sizes)} of these sizes can be"
                f" with the {_listed(pool)} cases there are; the nearest that fits is"
                f" 'ks({np.floor(most * 1000) / 1000:g})'"
            )
        part = min(target / most, 1.0) if most > 0 else 0.0
        return _with_rest(_rounded(alike + part * (sorted_ - alike), seed), pool)

    return counts


def _sorted(sizes: Ints, pool: Ints, order: NDArray[np.int64]) -> Ints:
    """(sites, classes): the cases sorted by class, dealt to the sites one after another."""
    table = np.zeros((len(sizes), len(pool)), np.int64)
    cuts = np.concatenate([[0], np.cumsum(sizes[order])])
    table[order] = _overlap(cuts, np.concatenate([[0], np.cumsum(pool)]))
    return table


def _overlap(cuts: Ints, ends: Ints) -> Ints:
    """(pieces, classes): length that each piece between neighbouring cuts shares with each class."""
    return np.maximum(np.minimum(cuts[1:, None], ends[1:]) - np.maximum(cuts[:-1, None], ends[:-1]), 0)


def _fitted(
    path: Callable[[float], Floats],
    write: Callable[[float], str],
    sizes: Ints,
    pool: Ints,
    least: int,
    seed: int,
) -> Ints:
    """Counts with the shares path(1), (sites, classes), and the rest; path(0) are the pool's own shares."""
    found = _fit(path(1.0), sizes, pool, seed)
    if (kept := int(found.sum(axis=1).min())) >= least:
        return _with_rest(found, pool)
    parts = [step / STEPS for step in range(STEPS - 1, -1, -1)]
    fits = (write(part) for part in parts if _fit(path(part), sizes, pool, seed).sum(axis=1).min() >= least)
    raise ValueError(
        f"prevalence {write(1.0)} needs more of a class than the {_listed(pool)} cases there are: a site would keep"
        f" {kept} cases, wanted at least {least}; the nearest that fits is"
        f" {next(fits, f'none: ask for fewer than {len(sizes)} sites')}"
    )


def _fit(wanted: Floats, sizes: Ints, pool: Ints, seed: int) -> Ints:
    """Whole counts (sites, classes), as large as the pool allows under one common factor of the sizes."""
    need = sizes @ wanted
    scale = min(1.0, *(pool[need > TINY] / need[need > TINY]))
    while True:
        kept = np.floor(scale * sizes + TINY).astype(np.int64) * wanted.any(axis=1)
        found = _two(kept, wanted) if len(pool) == 2 else _more(kept, wanted, pool, seed)
        if (found.sum(axis=0) <= pool).all():
            return found
        scale -= scale / sizes.sum() if scale * sizes.sum() > 1 else scale


def _two(kept: Ints, wanted: Floats) -> Ints:
    positive = np.rint(kept * wanted[:, 1]).astype(np.int64)  # halves to even
    return np.stack([kept - positive, positive], axis=1)


def _more(kept: Ints, wanted: Floats, pool: Ints, seed: int) -> Ints:
    """Rounded to the cases there are, with the rest that is left out as one more row."""
    table = kept[:, None] * wanted
    return _rounded(np.vstack([table, np.maximum(pool - table.sum(axis=0), 0)]), seed)[:-1]


def _rounded(table: Floats, seed: int) -> Ints:
    return controlled_rounding(table, stream(seed, "prevalence", "rounding"))


def _with_rest(counts: Ints, pool: Ints) -> Ints:
    return np.vstack([counts, pool - counts.sum(axis=0)])


def _rows(table: Floats) -> Floats:
    """Each row adding up to one."""
    return table / np.maximum(table.sum(axis=1, keepdims=True), TINY)


def shown(shares: Floats) -> str:
    """A list a site, as a user writes them."""
    return "[" + ", ".join("[" + ", ".join(f"{value:.3g}" for value in row) + "]" for row in shares) + "]"


def _shown(shares: Floats) -> str:
    """Of two classes the share of the second."""
    return "[" + ", ".join(f"{value:.3g}" for value in shares[:, 1]) + "]" if shares.shape[1] == 2 else shown(shares)


def _listed(pool: Ints) -> str:
    if len(pool) == 2:
        return f"{pool[0]} negative and {pool[1]} positive"
    return ", ".join(map(str, pool[:-1])) + f" and {pool[-1]}"
