"""Levels of cases on an axis, the log-odds of sites for them, and the expected table of sites by strata.

All assignment axes are one model. Site k has an effect u[k, axis] in [-1, 1], case i a score s[i, axis] in [-1/2, 1/2],
and each axis a dose h[axis] in [0, 1]:

    P(site k | case i)  proportional to  n[k] exp(L sum over axes of h[axis] u[k, axis] s[i, axis]),   L = ln 19.

The odds of all axes are multiplied and raked to the site sizes and to the pool. Raking keeps the odds ratios between
sites, so that changing the dose of one axis changes that axis only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import Bools, Floats, Ints
from fedlab.data.cases import Cases
from fedlab.heterogeneity.covariates import Column, read_column
from fedlab.heterogeneity.raking import rake

L = math.log(19.0)  # at full dose the share of a balanced binary level runs from 5 % to 95 % over the sites
BINS = 5  # levels of a numeric column such as age
MISSING = "missing"
NOT_COVARIATES = ("case", "label", "patient", "split", "site")

CountRule = Callable[[Ints, Ints, int], Ints]


# -- levels of cases ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Levels:
    """Levels of one axis.

    name: of the column, or what the levels are. of: (n,) level of each case. group: (levels,) group of each level, e.g.
    its class; sites differ only between levels of the same group. scores: (levels,) from -1/2 to 1/2 within a group
    where levels are ordered, 0 for missing values, NaN where levels are not ordered. names: (levels,) text. missing:
    (levels,) whether the level holds the cases of unknown value, which no site prefers; None if all are known.
    """

    name: str
    of: Ints
    group: Ints
    scores: Floats
    names: list[str]
    missing: Bools | None = None

    def __len__(self) -> int:
        return len(self.group)

    @property
    def known(self) -> Bools:
        """Which cases have a known value, (n,)."""
        return np.ones(len(self.of), bool) if self.missing is None else ~self.missing[self.of]

    @property
    def values(self) -> Ints:
        """Levels of known values, (at most levels,)."""
        return np.arange(len(self)) if self.missing is None else np.flatnonzero(~self.missing)

    def odds(self, h: float, u: Floats) -> Floats:
        """Odds exp(h L u score), (sites, levels), for dose h and site effects u (sites,).

        Between sites k and l the log-odds differ by h L (u[k] - u[l]) per unit of score. Levels without an order shift
        the site effects cyclically, each level by a different step, at half the strength.
        """
        direction = np.zeros((len(u), len(self)))
        for group in np.unique(self.group):
            members = self.values[self.group[self.values] == group]
            if len(members) > 1:
                direction[:, members] = _directions(self.scores[members], u)
        return np.exp(h * L * direction)


def _directions(scores: Floats, u: Floats) -> Floats:
    """Return site effect times score, (sites, levels)."""
    if not np.isnan(scores).any():
        return np.outer(u, scores)
    return 0.5 * cyclic_shifts(u, len(scores))


def cyclic_shifts(u: Floats, levels: int) -> Floats:
    """Return the site effects (sites, levels) of unordered levels: u shifted cyclically by a different step each."""
    shifts = [round(level * len(u) / levels) for level in range(levels)]
    return np.stack([np.roll(u, shift) for shift in shifts], axis=1)


def column_levels(cases: Cases, column: str, within: Ints | None = None) -> Levels:
    """Levels of a column: BINS quantile bins of a number, else each value; a missing value is a neutral level.

    within: (n,) group of each case, e.g. its class; levels of different groups are never compared.
    """
    values = read_column(cases.table[column])
    groups = np.zeros(len(cases), np.int64) if within is None else within
    of = np.zeros(len(cases), np.int64)
    names: list[str] = []
    group: list[int] = []
    scores: list[float] = []
    missing: list[bool] = []
    for one in np.unique(groups):
        rows = np.flatnonzero(groups == one)
        level, new_names, new_scores, some_missing = _levels_of(values, rows)
        of[rows] = level + len(names)
        names += new_names
        scores += new_scores
        missing += [False] * (len(new_names) - some_missing) + [True] * some_missing
        group += [int(one)] * len(new_names)
    return Levels(column, of, np.array(group), np.array(scores), names, np.array(missing) if any(missing) else None)


def _levels_of(values: Column, rows: Ints) -> tuple[Ints, list[str], list[float], bool]:
    """Return (level of each value, names, scores, whether the last level is of missing values) of one group."""
    known = values.known[rows]
    if values.numbers is not None:
        codes, names = _quantile_bins(values.numbers[rows][known], values.write)
    else:
        used, codes = np.unique(values.codes[rows][known], return_inverse=True)
        names = [values.names[code] for code in used]
    ordered = values.ordered or len(names) == 2
    scores = [float(s) for s in level_scores(len(names))] if ordered else [math.nan] * len(names)
    level = np.full(len(rows), len(names), np.int64)
    level[known] = codes
    if known.all():
        return level, names, scores, False
    return level, [*names, MISSING], [*scores, 0.0], True


def level_scores(count: int) -> Floats:
    """Return equally spaced scores of ordered levels from -1/2 to 1/2; 0 for a single level."""
    return np.linspace(-0.5, 0.5, count) if count > 1 else np.zeros(count)


def _quantile_bins(values: Floats, write: Callable[[float], str]) -> tuple[Ints, list[str]]:
    """Bin a number into at most BINS bins of about equal numbers of cases; equal values share a bin."""
    distinct = np.unique(values)
    if len(distinct) <= BINS:
        return np.searchsorted(distinct, values).astype(np.int64), [write(value) for value in distinct]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    part = np.searchsorted(edges, values, side="right")
    used, of = np.unique(part, return_inverse=True)
    bounds = [(values[of == j].min(), values[of == j].max()) for j in range(len(used))]
    return of.astype(np.int64), [f"{write(low)} to {write(high)}" for low, high in bounds]


def checked_column(cases: Cases, column: str, axis: str, alternative: str) -> str:
    """Return the column if the cases have it; raise ValueError that names usable columns otherwise."""
    if column not in cases.table or column in NOT_COVARIATES:
        raise ValueError(
            f"{axis} requests column {column!r}, which the cases lack: {usable_columns(cases)}; {alternative} needs no"
            " column"
        )
    return column


def usable_columns(cases: Cases) -> str:
    """Return the columns that vary and describe patients, as advice."""
    names = [name for name in cases.table if name not in NOT_COVARIATES and _varies(read_column(cases.table[name]))]
    return f"use {', '.join(repr(name) for name in names)}" if names else "no column is usable"


def _varies(values: Column) -> bool:
    """Tell whether a column has several values, but fewer than identifiers have."""
    distinct = values.distinct
    return distinct > 1 and (values.numbers is not None or distinct <= max(20, len(values.known) // 20))


# -- log-odds of axes and the expected table ------------------------------------------------------------------------


@dataclass(frozen=True)
class LogOdds:
    """How one assignment axis prefers cases at sites.

    levels: (n,) level of each case on this axis. odds: (sites, levels), exp of the log-odds up to a factor for each
    level; 0 for never. count_rule: for schemes that fix counts rather than odds, a function of (site sizes, cases of
    each level, minimum cases of a site) that returns whole counts (sites + 1, levels), whose last row is left out of
    the federation. fixes_sizes: whether the rule ignores the requested site sizes.
    """

    levels: Ints
    odds: Floats
    count_rule: CountRule | None = None
    fixes_sizes: bool = False

    def fits(self, sites: int, cases: int) -> bool:
        """Tell whether there is a level for each case, and odds of each site for each level."""
        levels, odds = np.asarray(self.levels), np.asarray(self.odds)
        if levels.shape != (cases,) or levels.dtype.kind not in "iu" or odds.ndim != 2 or len(odds) != sites:
            return False
        return bool(levels.min(initial=0) >= 0 and levels.max(initial=0) < odds.shape[1] and (odds >= 0).all())


@dataclass(frozen=True)
class Strata:
    """Cases that no axis distinguishes. of: (n,) stratum of each case; levels: (strata, axes) levels of a stratum."""

    of: Ints
    levels: Ints

    def __len__(self) -> int:
        return len(self.levels)


def stratify(labels: Ints, axes: Sequence[LogOdds]) -> Strata:
    """Return the strata of equal label and equal level on every axis; at dose 0 sites agree in each stratum."""
    columns = [np.unique(column, return_inverse=True) for column in (labels, *(axis.levels for axis in axes))]
    widths = [len(values) for values, _ in columns]
    if np.prod(widths, dtype=float) > 2**62:
        raise ValueError(f"axes with {widths} levels have too many combinations: use columns with fewer values")
    key = np.ravel_multi_index([inverse.reshape(-1) for _, inverse in columns], widths)
    found, of = np.unique(key, return_inverse=True)
    at = np.unravel_index(found, widths)
    levels = [values[place] for (values, _), place in zip(columns[1:], at[1:], strict=True)]
    return Strata(of.reshape(-1).astype(np.int64), np.stack(levels, axis=1))


def expected_counts(strata: Strata, axes: Sequence[LogOdds], pool: Ints, sizes: Ints, least: int = 0) -> Floats:
    """Return the expected cases (sites + 1, strata), summing to the pool; the last row is left out of the federation.

    pool: (strata,) available cases; sizes: (sites,) requested site sizes. Raises ValueError where a count rule cannot
    be met with `least` cases at every site.
    """
    odds = np.ones((len(sizes), len(strata)))
    for place, axis in enumerate(axes):
        odds *= axis.odds[:, strata.levels[:, place]]
    ruled = [place for place, axis in enumerate(axes) if axis.count_rule]
    if not ruled:
        return np.vstack([rake(odds, sizes, pool), np.zeros(len(strata))])
    level, axis = strata.levels[:, ruled[0]], axes[ruled[0]]
    available = np.bincount(level, weights=pool, minlength=axis.odds.shape[1]).astype(np.int64)
    counts = axis.count_rule(sizes, available, least) if axis.count_rule else np.zeros((0, 0), np.int64)
    odds = np.vstack([odds, np.ones(len(strata))])
    table = np.zeros_like(odds)
    for one in np.unique(level):
        table[:, level == one] = rake(odds[:, level == one], counts[:, one], pool[level == one])
    return table
