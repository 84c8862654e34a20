"""Tables of sites by strata: fitted to given row and column sums, and rounded to whole cases.

Two steps are linear programs. HiGHS solves them, through scipy; where it fails, shortest exchanges of cells give a
table with the same sums.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Bools, Floats, Ints

TINY = 1e-9  # of a case: smaller fractions are rounding noise
MAX_ITERATIONS = 5000
MAX_PIVOTS = 1_000_000  # of the solver, and 100 a variable: a limit that does not depend on the speed of a machine


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
    add, sums = _sums_of(open_cells), np.rint(sums)
    corner = _solve(cost, add, sums, (0, 1))
    if corner is None or (add @ np.rint(corner) != sums).any():
        corner = _round_largest(open_cells, cost, sums)
    whole[open_cells] += np.rint(corner).astype(np.int64)
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
    from scipy.sparse import hstack

    add, found = _sums_of(cells), table[cells]
    gap = np.concatenate([rows, columns]) - add @ found
    up_and_down = [(0, None)] * len(found) + [(0, value) for value in found]
    moves = _solve(np.ones(2 * len(found)), hstack([add, -add]), gap, up_and_down)
    if moves is not None:
        fitted = np.zeros_like(table)
        fitted[cells] = found + moves[: len(found)] - moves[len(found) :]
        return fitted
    start = table * np.divide(columns, table.sum(axis=0), out=np.zeros_like(columns), where=table.sum(axis=0) > 0)
    exchanged = _exchange(start, np.where(cells, np.inf, 0.0), rows, columns)
    if exchanged is None:
        raise ValueError(
            f"no table with row sums {rows} and column sums {columns} keeps the zeros of the odds: relax one"
        )
    return exchanged


def _solve(cost: Floats, add: Any, sums: Floats, bounds: Any) -> Floats | None:
    """Return a vertex solution x of the linear program with add @ x = sums; None where the solver fails."""
    try:
        from scipy.optimize import linprog

        pivots = {"maxiter": MAX_PIVOTS + 100 * len(cost)}
        found = linprog(cost, A_eq=add, b_eq=sums, bounds=bounds, method="highs-ds", options=pivots)
    except (ImportError, ValueError, RuntimeError):  # a build of scipy without HiGHS, or one that refuses the problem
        return None
    return found.x if found.status == 0 and found.x is not None and np.isfinite(found.x).all() else None


def _round_largest(cells: Bools, cost: Floats, sums: Floats) -> Floats:
    """Return 1 for each open cell that is rounded up, else 0: the cheapest first, exchanged until the sums are met."""
    row, column = np.nonzero(cells)
    left, chosen = sums.astype(np.int64), np.zeros(cells.shape)
    for one in np.argsort(cost, kind="stable"):
        at = row[one], cells.shape[0] + column[one]
        if left[at[0]] and left[at[1]]:
            left[list(at)] -= 1
            chosen[row[one], column[one]] = 1
    rounded = _exchange(chosen, cells.astype(np.float64), sums[: len(cells)], sums[len(cells) :])
    if rounded is None:
        raise ValueError("the table cannot be rounded with these row and column sums: check that they are whole")
    return rounded[cells]


def _exchange(table: Floats, most: Floats, rows: Floats, columns: Floats) -> Floats | None:
    """Move a table onto these sums by the shortest exchanges of cells, each from 0 to `most`; None if that fails.

    No column may start above its sum. An exchange raises a cell of a row that lacks something, lowers one of the same
    column, and so on, to a column that lacks something or a row that has too much (Ford and Fulkerson 1956,
    doi:10.4153/CJM-1956-045-5).
    """
    found = table.copy()
    for _ in range(10 * table.size + 10):
        need, spare = rows - found.sum(axis=1), columns - found.sum(axis=0)
        if max(np.abs(need).max(initial=0.0), np.abs(spare).max(initial=0.0)) <= 10 * TINY * max(1.0, rows.max()):
            return found
        path = _shortest_path(found, most, need, spare)
        if path is None:
            return None
        raised, lowered = path
        ends = [need[raised[0][0]], spare[raised[-1][1]] if len(lowered) < len(raised) else -need[lowered[-1][0]]]
        amount = min(*ends, *(most[cell] - found[cell] for cell in raised), *(found[cell] for cell in lowered))
        for cell in raised:
            found[cell] += amount
        for cell in lowered:
            found[cell] -= amount
    return None


Cell = tuple[int, int]


def _shortest_path(found: Floats, most: Floats, need: Floats, spare: Floats) -> tuple[list[Cell], list[Cell]] | None:
    """Return the cells to raise and to lower, in turn, of the shortest exchange from a row that lacks something."""
    from_row, from_column = np.full(len(spare), -1), np.full(len(need), -1)
    seen_rows, seen_columns = need > TINY, np.zeros(len(spare), bool)
    new = seen_rows
    while new.any():
        reach = (most[new] - found[new] > TINY).any(axis=0) & ~seen_columns
        from_row[reach] = np.flatnonzero(new)[(most[new][:, reach] - found[new][:, reach] > TINY).argmax(axis=0)]
        seen_columns |= reach
        if (spare[reach] > TINY).any():
            return _trace(from_row, from_column, column=int(np.flatnonzero(reach & (spare > TINY))[0]))
        lower = (found[:, reach] > TINY).any(axis=1) & ~seen_rows
        from_column[lower] = np.flatnonzero(reach)[(found[lower][:, reach] > TINY).argmax(axis=1)]
        seen_rows |= lower
        if (need[lower] < -TINY).any():
            return _trace(from_row, from_column, row=int(np.flatnonzero(lower & (need < -TINY))[0]))
        new = lower
    return None


def _trace(from_row: Ints, from_column: Ints, row: int = -1, column: int = -1) -> tuple[list[Cell], list[Cell]]:
    """Return the raised and lowered cells of a path that ends in this row or column, from its start."""
    raised: list[Cell] = []
    lowered: list[Cell] = []
    if row >= 0:
        column = int(from_column[row])
        lowered.append((row, column))
    while True:
        row = int(from_row[column])
        raised.append((row, column))
        if from_column[row] < 0:
            return raised[::-1], lowered[::-1]
        column = int(from_column[row])
        lowered.append((row, column))
