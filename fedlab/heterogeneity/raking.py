"""Tables of sites by strata: raked to margins, rounded to whole cases."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import Floats, Ints

TINY = 1e-9  # of a case: below this a fraction is rounding noise
PASSES = 5000


def largest_remainder(shares: ArrayLike, total: int) -> Ints:
    """Hamilton's apportionment: whole numbers proportional to shares that add up to total; ties go to the first."""
    weights = np.asarray(shares, np.float64)
    quotas = weights / max(weights.sum(), np.finfo(float).tiny) * total
    whole = np.floor(quotas + TINY).astype(np.int64)
    spare = total - int(whole.sum())
    first = np.argsort(-np.round(quotas - whole, 9), kind="stable")[:spare]
    whole[first] += 1
    return whole


def rake(odds: ArrayLike, rows: ArrayLike, columns: ArrayLike) -> Floats:
    """Iterative proportional fitting (Deming and Stephan 1940): the table with these sums and the odds ratios of
    `odds`.

    odds: (sites, strata), non-negative; a zero stays zero. rows: (sites,), columns: (strata,), with equal totals. Sums
    are met to a billionth of a case. Where zeros push cells to the border, so that fitting only creeps, the last pass
    is moved onto the sums by as little as possible. Raises ValueError if no table has these sums and zeros.
    """
    seed, row_sums, column_sums = (np.asarray(part, np.float64) for part in (odds, rows, columns))
    total = row_sums.sum()
    if abs(total - column_sums.sum()) > 1e-9 * max(total, 1.0):
        raise ValueError(f"rows add up to {total:g} but columns to {column_sums.sum():g}: both must be the cases dealt")
    right = np.ones(seed.shape[1])
    for _ in range(PASSES):
        left = _ratio(row_sums, seed @ right)
        right = _ratio(column_sums, left @ seed)
        if not max(left.max(initial=0.0), right.max(initial=0.0)) < 1e150:  # scales run away where no table fits
            break
        if np.abs(left * (seed @ right) - row_sums).max(initial=0.0) <= max(TINY, 1e-15 * total):
            return left[:, None] * seed * right
    return _onto_sums(left[:, None] * seed * right, seed > 0, row_sums, column_sums)


def controlled_rounding(table: ArrayLike, rng: np.random.Generator) -> Ints:
    """Whole numbers with the table's own (whole) row and column sums, every cell its floor or ceiling.

    Cells with the largest fractions go up first, ties as drawn (Cox 1987, doi:10.1080/01621459.1987.10478456). The
    fractions lie in a transport polytope, whose corners are whole, so a linear program's corner is the answer.
    """
    from scipy.optimize import linprog

    wanted = np.asarray(table, np.float64)
    whole = np.floor(wanted + TINY).astype(np.int64)
    part = wanted - whole
    open_cells = part > TINY
    if not open_cells.any():
        return whole
    sums = np.concatenate([part.sum(axis=1), part.sum(axis=0)])
    if np.abs(sums - np.rint(sums)).max() > 1e-5:
        raise ValueError(
            f"row sums {wanted.sum(axis=1)} or column sums {wanted.sum(axis=0)} are not whole: apportion first"
        )
    cost = -part[open_cells] + 1e-4 * rng.random(int(open_cells.sum()))
    corner = linprog(cost, A_eq=_sums_of(open_cells), b_eq=np.rint(sums), bounds=(0, 1), method="highs-ds")
    if corner.x is None:
        raise ValueError(f"the table cannot be rounded ({corner.message}): check that its sums are whole")
    whole[open_cells] += np.rint(corner.x).astype(np.int64)
    return whole


def _ratio(wanted: Floats, found: Floats) -> Floats:
    if ((wanted > 0) & (found <= 0)).any():
        where = int(np.argmax((wanted > 0) & (found <= 0)))
        raise ValueError(f"{wanted[where]:g} cases have nowhere to go: their odds are zero at every site")
    return np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)


def _sums_of(cells: NDArray[np.bool_]) -> Any:
    """Sparse matrix (rows + columns, open cells) that adds up a table's open cells."""
    from scipy.sparse import coo_matrix

    row, column = np.nonzero(cells)
    lines = np.concatenate([row, cells.shape[0] + column])
    return coo_matrix(
        (np.ones(len(lines)), (lines, np.tile(np.arange(len(row)), 2))), (sum(cells.shape), len(row))
    ).tocsr()


def _onto_sums(table: Floats, cells: NDArray[np.bool_], rows: Floats, columns: Floats) -> Floats:
    """The table nearest in total absolute difference that has these sums, zeros staying zero."""
    from scipy.optimize import linprog
    from scipy.sparse import hstack

    add, found = _sums_of(cells), table[cells]
    gap = np.concatenate([rows, columns]) - add @ found
    up_and_down = [(0, None)] * len(found) + [(0, value) for value in found]
    moves = linprog(np.ones(2 * len(found)), A_eq=hstack([add, -add]), b_eq=gap, bounds=up_and_down, method="highs-ds")
    if moves.x is None:
        raise ValueError(
            f"no table with row sums {rows} and column sums {columns} keeps the zeros of the odds: relax one"
        )
    fitted = np.zeros_like(table)
    fitted[cells] = found + moves.x[: len(found)] - moves.x[len(found) :]
    return fitted
