"""Allocate cases to sites so that a table of expected counts (sites x strata) is met, whole patients at a time.

The largest patient groups are allocated first; smaller groups absorb the rounding error, and units of one case, last,
make the site sizes exact.
"""

from typing import Any

import numpy as np

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.raking import TINY, controlled_rounding, largest_remainder, rake


def allocate(units: Ints, strata: Ints, wanted: Floats, rng: np.random.Generator) -> Ints:
    """The row of `wanted` that each case is allocated to, shape (n,).

    units: (n,) ids of cases that stay together. strata: (n,) column of `wanted` each case belongs to. wanted: (rows,
    strata) expected cases; its row sums are whole and its column sums are the cases of each stratum. Units of one kind
    are drawn at random. Sizes are exact where units of one case suffice, else as near as the units allow.
    """
    _, unit = np.unique(units, return_inverse=True)
    size = np.bincount(unit)
    order = np.lexsort((strata, unit))
    start = np.cumsum(size) - size
    rest = np.array(wanted, np.float64)
    place = np.empty(len(size), np.int64)
    for m in np.unique(size)[::-1]:
        members = np.flatnonzero(size == m)
        kinds, kind = _kinds(strata[order][start[members][:, None] + np.arange(m)])
        number = np.bincount(kind, minlength=len(kinds))
        counts = (
            _singles(kinds[:, 0], number, rest, rng) if m == 1 else _groups(kinds, number, rest, _scarce(size, m), rng)
        )
        place[members] = distribute(kind, counts, rng)
        rest -= counts @ _composition(kinds, rest.shape[1])
    return place[unit]


def _kinds(members: Ints) -> tuple[Ints, Ints]:
    """Group units with the same strata into kinds: (kinds, m) sorted, and the kind of each unit."""
    if members.shape[1] == 1:
        kinds, kind = np.unique(members[:, 0], return_inverse=True)
        return kinds[:, None], kind
    kinds, kind = np.unique(members, axis=0, return_inverse=True)
    return kinds, kind.reshape(-1)


def _composition(kinds: Ints, strata: int) -> Any:
    """Count the cases of each stratum in a unit of each kind, sparse (kinds, strata)."""
    from scipy.sparse import coo_matrix

    rows = np.repeat(np.arange(len(kinds)), kinds.shape[1])
    return coo_matrix((np.ones(kinds.size), (rows, kinds.ravel())), (len(kinds), strata)).tocsr()


def _singles(strata: Ints, number: Ints, rest: Floats, rng: np.random.Generator) -> Ints:
    """Allocate units of one case: the rest of the wanted table, rounded with exact sums; (rows, strata present)."""
    expected, elsewhere = rest[:, strata], np.delete(rest, strata, axis=1)
    if expected.min() < -TINY or np.abs(elsewhere).max(initial=0.0) > TINY:
        rows = largest_remainder(np.maximum(np.rint(rest.sum(axis=1)), 0), int(number.sum()))
        # larger units overfilled a cell; a trace everywhere lets other strata fill that site
        trace = 1e-6 * np.outer(rows, number) / number.sum()
        expected = rake(np.maximum(expected, 0) + trace, rows, number)
    return controlled_rounding(expected, rng)


def _scarce(size: Ints, m: int) -> bool:
    """Whether units of fewer than m cases hold too few cases to absorb the rounding error of units of m."""
    return bool(size[size < m].sum() < size[size == m].sum())


def _groups(kinds: Ints, number: Ints, rest: Floats, scarce: bool, rng: np.random.Generator) -> Ints:
    """Allocate units of several cases: how many of each kind each row gets, (rows, kinds), each a floor or ceiling."""
    expected = _affinity(kinds, rest) * number
    room = np.maximum(rest.sum(axis=1), 0)
    for _ in range(20 if scarce else 0):  # too few smaller units follow to correct site sizes: rake to them now
        expected *= (room / room.sum() * number.sum() / np.maximum(expected.sum(axis=1), TINY))[:, None]
        expected *= number / expected.sum(axis=0)
    return _round_in_turn(expected, number, rng)


def _affinity(kinds: Ints, rest: Floats) -> Floats:
    """Probability of each row for units of each kind, (rows, kinds): the geometric mean over the unit's cases.

    The arithmetic mean where no row wants all of the unit's strata.
    """
    left = np.where(rest > TINY, rest, 0.0)
    share = left / np.maximum(left.sum(axis=0), TINY)
    with np.errstate(divide="ignore"):
        logs = np.log(share)
    mean = np.exp(sum(logs[:, column] for column in kinds.T) / kinds.shape[1])
    nowhere = mean.max(axis=0) == 0
    mean[:, nowhere] = sum(share[:, column] for column in kinds[nowhere].T)
    return mean / mean.sum(axis=0)


def _round_in_turn(expected: Floats, number: Ints, rng: np.random.Generator) -> Ints:
    """Round so that totals stay close over any run of neighbouring kinds: the remainder goes to the rows owed most.

    Kinds are sorted, so neighbours are similar; half a unit of random noise breaks repeating patterns.
    """
    counts = np.floor(expected + TINY).astype(np.int64)
    part, spare = expected - counts, number - counts.sum(axis=0)
    owed = np.zeros(len(expected))
    for kind in np.flatnonzero(spare):
        owed += part[:, kind]
        claim = np.where(part[:, kind] > TINY, owed + 0.5 * rng.random(len(owed)), -np.inf)
        winners = np.argsort(-claim)[: spare[kind]]
        counts[winners, kind] += 1
        owed[winners] -= 1
    return counts


def distribute(kind: Ints, counts: Ints, rng: np.random.Generator) -> Ints:
    """The row of each unit, (units,): units of one kind are shuffled, then assigned in the counted numbers."""
    shuffled = rng.permutation(len(kind))
    by_kind = shuffled[np.argsort(kind[shuffled], kind="stable")]
    place = np.empty(len(kind), np.int64)
    place[by_kind] = np.repeat(np.tile(np.arange(len(counts)), counts.shape[1]), counts.T.ravel())
    return place


def refine(units: Ints, strata: Ints, place: Ints, levels: Ints, odds: Floats, rng: np.random.Generator) -> Ints:
    """The row of each case (n,) after units of equal size and strata were exchanged by their levels.

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
        for group in _equal_rows(strata[cases]):
            here = members[group]
            moved[here] = _exchange(levels[cases[group]], moved[here], logs, rng)
    return moved[unit]


def _equal_rows(strata: Ints) -> list[Ints]:
    """Group the rows of (units, m) that are equal."""
    _, kind = np.unique(strata, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    return np.split(np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))[:-1])


def _exchange(levels: Ints, place: Ints, logs: Floats, rng: np.random.Generator) -> Ints:
    """Exchange units that differ only in their levels (units, m); their new rows (units,)."""
    kinds, kind = np.unique(levels, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    if len(kinds) == 1 or len(np.unique(place)) == 1:
        return place
    odds = np.exp(logs[:, kinds].mean(axis=2))
    wanted = rake(odds, np.bincount(place, minlength=len(logs)), np.bincount(kind))
    return distribute(kind, controlled_rounding(wanted, rng), rng)
