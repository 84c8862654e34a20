"""Tables of sites by strata: fitted to given row and column sums, and rounded to whole cases."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Bools, Floats, Ints

TINY = 1e-9  # of a case: smaller fractions are rounding noise
MAX_ITERATIONS = 5000


def largest_remainder(shares: ArrayLike, total: int) -> Ints:
    """Round shares to whole numbers that add up to total (Hamilton's method); ties go to the first."""
    weights = np.asarray(shares, np.float64)
    quotas = weights / max(weights.sum(), np.finfo(float).tiny) * total
    whole = np.floor(quotas + TINY).astype(np.int64)
    spare = total - int(whole.sum())
    first = np.argsort(-np.round(quotas - whole, 9), kind="stable")[:spare]
    whole[first] += 1
    return whole


def rake(odds: ArrayLike, rows: ArrayLike, columns: ArrayLike) -> Floats:
    """Return the table with these sums and the odds ratios of `odds`, by iterative proportional fitting.

    Deming and Stephan 1940, doi:10.1214/aoms/1177731829. odds: (sites, strata), non-negative; a zero stays zero. rows:
    (sites,), columns: (strata,), with equal totals. Sums are met to a billionth of a case. Where zeros push cells to
    the boundary and the iteration converges slowly, the last iterate is moved onto the sums by the smallest total
    absolute change. Raises ValueError if no table has these sums and zeros.
    """
    seed, row_sums, column_sums = (np.asarray(part, np.float64) for part in (odds, rows, columns))
    total = row_sums.sum()
    if abs(total - column_sums.sum()) > 1e-9 * max(total, 1.0):
        raise ValueError(
            f"rows add up to {total:g} but columns to {column_sums.sum():g}: both must be the number of cases"
        )
    right = np.ones(seed.shape[1])
    for _ in range(MAX_ITERATIONS):
        left = _scale(row_sums, seed @ right)
        right = _scale(column_sums, left @ seed)
        if not max(left.max(initial=0.0), right.max(initial=0.0)) < 1e150:  # scales diverge where no table fits
            break
        if np.abs(left * (seed @ right) - row_sums).max(initial=0.0) <= max(TINY, 1e-15 * total):
            return left[:, None] * seed * right
    return _nearest_with_sums(left[:, None] * seed * right, seed > 0, row_sums, column_sums)


def controlled_rounding(table: ArrayLike, rng: np.random.Generator) -> Ints:
    """Round every cell to its floor or ceiling, keeping the (whole) row and column sums of the table.

    Cells with the largest fractions are rounded up first, ties at random (Cox 1987,
    doi:10.1080/01621459.1987.10478456). The fractions lie in a transport polytope with integral vertices, so a vertex
    solution of a linear program is the answer.
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


def _scale(wanted: Floats, found: Floats) -> Floats:
    """Divide wanted by found sums; raise ValueError where a positive sum meets only zero odds."""
    if ((wanted > 0) & (found <= 0)).any():
        where = int(np.argmax((wanted > 0) & (found <= 0)))
        raise ValueError(f"{wanted[where]:g} cases cannot be assigned: their odds are zero at every site")
    return np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)


def _sums_of(cells: Bools) -> Any:
    """Return the sparse matrix (rows + columns, open cells) that adds up the open cells of a table."""
    from scipy.sparse import coo_matrix

    row, column = np.nonzero(cells)
    lines = np.concatenate([row, cells.shape[0] + column])
    return coo_matrix(
        (np.ones(len(lines)), (lines, np.tile(np.arange(len(row)), 2))), (sum(cells.shape), len(row))
    ).tocsr()


def _nearest_with_sums(table: Floats, cells: Bools, rows: Floats, columns: Floats) -> Floats:
    """Return the table with these sums that is nearest in total absolute difference; zeros stay zero."""
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
