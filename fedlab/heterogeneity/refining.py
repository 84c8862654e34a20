"""Deal again within what is dealt: which cases of a class a site gets, not how many of each."""

import numpy as np
from numpy.typing import NDArray

from fedlab.heterogeneity.dealing import hand_out
from fedlab.heterogeneity.tables import Table, controlled_rounding, rake

Ids = NDArray[np.int64]


def refine(units: Ids, strata: Ids, place: Ids, levels: Ids, odds: Table, rng: np.random.Generator) -> Ids:
    """The place of each case (n,) when units of equal size and strata change places by their levels.

    units: (n,) ids of cases that stay together. place: (n,) row of each case, equal within a unit. levels: (n,) finer
    than strata. odds: (rows, levels), relative; those of a unit are the geometric mean over its cases. Each row keeps
    its number of units of every size and composition of strata.
    """
    _, unit = np.unique(units, return_inverse=True)
    size = np.bincount(unit)
    order = np.lexsort((levels, strata, unit))
    start = np.cumsum(size) - size
    moved = place[order][start].copy()
    with np.errstate(divide="ignore"):
        logs = np.log(odds)
    for m in np.unique(size):
        members = np.flatnonzero(size == m)
        cases = order[start[members][:, None] + np.arange(m)]
        for alike in _alike(strata[cases]):
            here = members[alike]
            moved[here] = _change_places(levels[cases[alike]], moved[here], logs, rng)
    return moved[unit]


def _alike(strata: Ids) -> list[Ids]:
    """Rows of (units, m) that are equal, group by group."""
    _, kind = np.unique(strata, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    return np.split(np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))[:-1])


def _change_places(levels: Ids, place: Ids, logs: Table, rng: np.random.Generator) -> Ids:
    """New places (units,) of units that are alike but for their levels (units, m)."""
    kinds, kind = np.unique(levels, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    if len(kinds) == 1 or len(np.unique(place)) == 1:
        return place
    odds = np.exp(logs[:, kinds].mean(axis=2))
    wanted = rake(odds, np.bincount(place, minlength=len(logs)), np.bincount(kind))
    return hand_out(kind, controlled_rounding(wanted, rng), rng)
