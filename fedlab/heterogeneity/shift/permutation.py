"""Contingency tables of sites by categories: observed, under the permutation null, and resampled.

Groups (the cases of a unit at one site) with the same categories share a pattern and are exchangeable. Permuting sites
over groups is therefore drawing a table of sites by patterns with fixed margins, and the bootstrap of groups is one
multinomial draw: single cases need not be touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.shift.observed import Observed, batch_sizes, first_positions, joint_ids

# cost model that chooses the faster of two exact ways to draw
TABLE_COST = (12e-6, 12e-8)  # seconds for a cell of a table: once, and in each draw
CASE_COST = 20e-9  # seconds for a group or case in each draw of a permutation


@dataclass(frozen=True)
class ContingencyTables:
    """Sites by categories of observed cases.

    categories: (n,) category of each case. design: sparse (categories, columns), the columns of the table in which a
    case of the category counts. stratum: (groups,) see `Observed.strata`.
    """

    cases: Observed
    categories: Ints
    design: Any
    stratum: Ints

    @cached_property
    def pattern(self) -> Ints:
        """Pattern of each group, (groups,): its stratum and its categories; a stratum has consecutive patterns."""
        return joint_ids(self.stratum, self.cases.group_patterns(self.categories))

    @cached_property
    def pattern_counts(self) -> Floats:
        """Number of groups of each pattern at each site, (sites, patterns)."""
        return _crosstab(self.cases.site[self.cases.first], self.pattern, self.cases.sites, int(self.pattern.max()) + 1)

    @cached_property
    def composition(self) -> Any:
        """Sparse (patterns, columns): how a group of each pattern counts."""
        from scipy.sparse import coo_matrix

        cases, width = self.cases, self.design.shape[0]
        pick = first_positions(self.pattern)  # one group of each pattern
        size = np.diff(np.append(cases.start, len(cases.site)))[pick]
        rows = np.repeat(np.arange(len(pick)), size)
        places = np.repeat(cases.start[pick] - (np.cumsum(size) - size), size) + np.arange(len(rows))
        categories = self.categories[cases.order[places]]
        return coo_matrix((np.ones(len(rows)), (rows, categories)), (len(pick), width)).tocsr() @ self.design

    def observed(self) -> Floats:
        """The observed table, (1, sites, columns)."""
        table = _crosstab(self.cases.site, self.categories, self.cases.sites, self.design.shape[0])
        return _times(table[None], self.design)

    def null(self, draws: int, purpose: str) -> Iterator[Floats]:
        """Blocks (some draws, sites, columns) with sites permuted over groups within strata."""
        return (self._random_tables if self._tables_are_faster(draws) else self._permutations)(draws, purpose)

    def bootstrap(self, draws: int, purpose: str) -> Iterator[Floats]:
        """Blocks (some draws, sites, columns) of groups drawn with replacement."""
        from scipy.sparse import coo_matrix

        rng, width = stream(self.cases.seed, "shift", "bootstrap", purpose), self.design.shape[1]
        site, pattern = np.nonzero(self.pattern_counts)
        share = self.pattern_counts[site, pattern] / self.pattern_counts.sum()
        once = coo_matrix(self.composition[pattern])
        shape = (len(site), self.cases.sites * width)
        counted = coo_matrix((once.data, (once.row, site[once.row] * width + once.col)), shape).T.tocsr()
        for count in batch_sizes(draws, sum(shape)):
            resample = rng.multinomial(len(self.pattern), share, count)
            yield (counted @ resample.T).T.reshape(count, self.cases.sites, width)

    def _tables_are_faster(self, draws: int) -> bool:
        """Tell whether drawing tables is faster than permuting groups."""
        cells, groups = self.pattern_counts.size, len(self.pattern) + len(self.cases.site)
        return cells * (TABLE_COST[0] + draws * TABLE_COST[1]) < draws * groups * CASE_COST

    def _random_tables(self, draws: int, purpose: str) -> Iterator[Floats]:
        """Draw tables of sites by patterns with fixed margins, stratum by stratum."""
        rng = stream(self.cases.seed, "shift", purpose)
        stratum = self.stratum[first_positions(self.pattern)]
        ends = np.flatnonzero(np.diff(stratum)) + 1
        for count in batch_sizes(draws, self.pattern_counts.size + self.pattern_counts.shape[0] * self.design.shape[1]):
            parts = [random_tables(part, count, rng) for part in np.split(self.pattern_counts, ends, axis=1)]
            yield _times(np.concatenate(parts, axis=2), self.composition)

    def _permutations(self, draws: int, purpose: str) -> Iterator[Floats]:
        """Permute sites over groups and tabulate."""
        width = self.design.shape[0]
        for sites in self.cases.permuted(self.stratum, draws, purpose, self.cases.sites * width):
            tables = [_crosstab(site[self.cases.group], self.categories, self.cases.sites, width) for site in sites]
            yield _times(np.stack(tables), self.design)


def random_tables(table: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Draw tables (draws, rows, columns) with the margins of a table (rows, columns), as a random permutation does.

    Each cell is hypergeometric given the previous ones (Patefield 1981, doi:10.2307/2346669).
    """
    rows, columns = table.sum(axis=1).astype(np.int64), table.sum(axis=0).astype(np.int64)
    found = np.zeros((draws, *table.shape), np.int64)
    left = np.tile(columns, (draws, 1))
    some, others = np.flatnonzero(rows), np.flatnonzero(columns)
    for k in some[:-1]:
        need, beyond = np.full(draws, rows[k]), np.full(draws, left[0].sum())
        for j in others[:-1]:
            beyond -= left[:, j]
            found[:, k, j] = rng.hypergeometric(left[:, j], beyond, need)
            need -= found[:, k, j]
        found[:, k, others[-1]] = need
        left -= found[:, k]
    if len(some):
        found[:, some[-1]] = left
    return found.astype(np.float64)


def _crosstab(rows: Ints, columns: Ints, height: int, width: int) -> Floats:
    """Count the pairs of row and column ids, (height, width)."""
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width).astype(np.float64)


def _times(tables: Floats, sparse: Any) -> Floats:
    """Multiply tables (draws, sites, patterns) by a sparse matrix (patterns, columns)."""
    flat = tables.reshape(-1, tables.shape[-1])
    return np.asarray((sparse.T @ flat.T).T).reshape(*tables.shape[:2], -1)
