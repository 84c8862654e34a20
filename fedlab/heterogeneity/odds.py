"""What every assignment axis hands over, and how axes add up to one wanted table of sites by strata.

P(site | case) is proportional to the product of each axis's odds for the case's level on that axis; raking to the site
sizes and to the pool keeps the odds ratios between sites, so that moving one axis moves one axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.raking import rake

Quota = Callable[[Ints, Ints, int], Ints]


@dataclass(frozen=True)
class LogOdds:
    """How one axis leans cases towards sites.

    levels: (n,) the level of each case on this axis. odds: (sites, levels), relative, 0 for never. quota: for schemes
    that fix counts rather than odds; of (site sizes, cases of each level, least cases a site may get) it returns whole
    counts (sites + 1, levels), whose last row is left out of the federation. own_sizes: the quota does not heed the
    sizes.
    """

    levels: Ints
    odds: Floats
    quota: Quota | None = None
    own_sizes: bool = False


@dataclass(frozen=True)
class Strata:
    """Cases that all axes see alike. of: (n,) stratum of each case; levels: (strata, axes) level of each stratum."""

    of: Ints
    levels: Ints

    def __len__(self) -> int:
        return len(self.levels)


def stratify(labels: Ints, tilts: Sequence[LogOdds]) -> Strata:
    """Strata of equal label and equal level on every axis: with no dose at all, sites agree in each of them."""
    columns = [np.unique(column, return_inverse=True) for column in (labels, *(tilt.levels for tilt in tilts))]
    widths = [len(values) for values, _ in columns]
    if np.prod(widths, dtype=float) > 2**62:
        raise ValueError(f"axes with {widths} levels have too many combinations: use columns with fewer values")
    key = np.ravel_multi_index([inverse.reshape(-1) for _, inverse in columns], widths)
    found, of = np.unique(key, return_inverse=True)
    at = np.unravel_index(found, widths)
    levels = [values[place] for (values, _), place in zip(columns[1:], at[1:], strict=True)]
    return Strata(of.reshape(-1).astype(np.int64), np.stack(levels, axis=1))


def wanted_table(strata: Strata, tilts: Sequence[LogOdds], pool: Ints, sizes: Ints, least: int = 0) -> Floats:
    """Expected cases (sites + 1, strata), summing to the pool; the last row is left out of the federation.

    pool: (strata,) cases there are; sizes: (sites,) wanted site sizes. Raises ValueError where a quota cannot be met
    with `least` cases at every site.
    """
    odds = np.ones((len(sizes), len(strata)))
    for axis, tilt in enumerate(tilts):
        odds *= tilt.odds[:, strata.levels[:, axis]]
    fixed = [axis for axis, tilt in enumerate(tilts) if tilt.quota]
    if not fixed:
        return np.vstack([rake(odds, sizes, pool), np.zeros(len(strata))])
    level, tilt = strata.levels[:, fixed[0]], tilts[fixed[0]]
    held = np.bincount(level, weights=pool, minlength=tilt.odds.shape[1]).astype(np.int64)
    counts = tilt.quota(sizes, held, least) if tilt.quota else np.zeros((0, 0), np.int64)
    odds = np.vstack([odds, np.ones(len(strata))])
    table = np.zeros_like(odds)
    for one in np.unique(level):
        table[:, level == one] = rake(odds[:, level == one], counts[:, one], pool[level == one])
    return table
