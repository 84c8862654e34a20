"""Tables of sites by answers: as they are, as chance would have them, and resampled.

Groups (a unit's cases at one site) with the same answers are of one kind and interchangeable. So permuting sites over
groups is drawing a table of sites by kinds with fixed margins, and the bootstrap of groups is one multinomial draw: no
case has to be touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.shift.observed import Observed, firsts, joint, portions

BY_TABLE = (12e-6, 12e-8)  # seconds a cell of a table costs once, and in each draw
BY_CASE = 20e-9  # seconds a group or case costs in each draw of a permutation


@dataclass(frozen=True)
class Tables:
    """Sites by answers of observed cases.

    answers: (n,) id of what a case answers. spelled: sparse (answers, columns), in which columns of the table such a
    case counts. stratum: (groups,) see `Observed.alike`.
    """

    seen: Observed
    answers: Ints
    spelled: Any
    stratum: Ints

    @cached_property
    def kind(self) -> Ints:
        """(groups,) kind of each group: its stratum and its answers; kinds of a stratum have neighbouring ids."""
        return joint(self.stratum, self.seen.bags(self.answers))

    @cached_property
    def kinds(self) -> Floats:
        """(sites, kinds) number of groups."""
        return _crossed(self.seen.site[self.seen.first], self.kind, self.seen.sites, int(self.kind.max()) + 1)

    @cached_property
    def composition(self) -> Any:
        """Sparse (kinds, columns): how a group of each kind counts."""
        from scipy.sparse import coo_matrix

        seen, wide = self.seen, self.spelled.shape[0]
        pick = firsts(self.kind)  # one group of each kind
        size = np.diff(np.append(seen.start, len(seen.site)))[pick]
        rows = np.repeat(np.arange(len(pick)), size)
        places = np.repeat(seen.start[pick] - (np.cumsum(size) - size), size) + np.arange(len(rows))
        answers = self.answers[seen.order[places]]
        return coo_matrix((np.ones(len(rows)), (rows, answers)), (len(pick), wide)).tocsr() @ self.spelled

    def observed(self) -> Floats:
        """(1, sites, columns)."""
        return _times(
            _crossed(self.seen.site, self.answers, self.seen.sites, self.spelled.shape[0])[None], self.spelled
        )

    def by_chance(self, draws: int, purpose: str) -> Iterator[Floats]:
        """Blocks (some draws, sites, columns) with sites permuted over groups within strata."""
        return (self._random if self._tables_are_quicker(draws) else self._permuted)(draws, purpose)

    def resampled(self, draws: int, purpose: str) -> Iterator[Floats]:
        """Blocks (some draws, sites, columns) of groups drawn with replacement."""
        from scipy.sparse import coo_matrix

        rng, wide = stream(self.seen.seed, "shift", "bootstrap", purpose), self.spelled.shape[1]
        site, kind = np.nonzero(self.kinds)
        share = self.kinds[site, kind] / self.kinds.sum()
        once = coo_matrix(self.composition[kind])
        shape = (len(site), self.seen.sites * wide)
        counted = coo_matrix((once.data, (once.row, site[once.row] * wide + once.col)), shape).T.tocsr()
        for count in portions(draws, sum(shape)):
            again = rng.multinomial(len(self.kind), share, count)
            yield (counted @ again.T).T.reshape(count, self.seen.sites, wide)

    def _tables_are_quicker(self, draws: int) -> bool:
        cells, groups = self.kinds.size, len(self.kind) + len(self.seen.site)
        return cells * (BY_TABLE[0] + draws * BY_TABLE[1]) < draws * groups * BY_CASE

    def _random(self, draws: int, purpose: str) -> Iterator[Floats]:
        rng = stream(self.seen.seed, "shift", purpose)
        stratum = self.stratum[firsts(self.kind)]
        ends = np.flatnonzero(np.diff(stratum)) + 1
        for count in portions(draws, self.kinds.size + self.kinds.shape[0] * self.spelled.shape[1]):
            parts = [random_tables(part, count, rng) for part in np.split(self.kinds, ends, axis=1)]
            yield _times(np.concatenate(parts, axis=2), self.composition)

    def _permuted(self, draws: int, purpose: str) -> Iterator[Floats]:
        wide = self.spelled.shape[0]
        for sites in self.seen.permuted(self.stratum, draws, purpose, self.seen.sites * wide):
            tables = [_crossed(site[self.seen.group], self.answers, self.seen.sites, wide) for site in sites]
            yield _times(np.stack(tables), self.spelled)


def random_tables(table: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """(draws, rows, columns) with the margins of the table (rows, columns), as a random permutation makes them.

    One cell after the other is hypergeometric given those before it (Patefield 1981).
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


def _crossed(rows: Ints, columns: Ints, height: int, width: int) -> NDArray[np.float64]:
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width).astype(np.float64)


def _times(tables: Floats, sparse: Any) -> Floats:
    """(draws, sites, columns) of tables (draws, sites, kinds) and a sparse matrix (kinds, columns)."""
    flat = tables.reshape(-1, tables.shape[-1])
    return np.asarray((sparse.T @ flat.T).T).reshape(*tables.shape[:2], -1)
