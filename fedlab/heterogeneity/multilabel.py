"""Exact prevalence of several findings at once: sites tilt the pool exponentially, then single cases change places."""

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.odds import Quota
from fedlab.heterogeneity.quotas import shown
from fedlab.heterogeneity.raking import TINY

ITERATIONS = 100
ENOUGH = 0.25  # of a case: how far expected numbers of findings may be off before whole cases are counted
HALVINGS = 7  # of the interval in which the largest sites that fit are looked for
STEPS = 20  # of the way towards the pool's own prevalence, on which a request that fits is looked for


def exact(wanted: Floats, findings: Ints) -> Quota:
    """Sites of which the shares wanted[k] (sites, findings) have each finding, to within half a case where the pool's
    combinations of findings allow.

    findings: (levels, findings) 0 or 1, what the cases of a level have. P(site | case) is proportional to exp(a[site] +
    theta[site] . findings), and to 1 for no site: as near to the pool as the request allows, so that findings go
    together as they do there. Where the pool holds too few cases, all sizes shrink by one factor and the surplus is
    left out. Raises ValueError if that leaves a site fewer than `least` cases, naming the nearest prevalences that fit.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        there = np.flatnonzero(pool)
        features = np.hstack([np.ones((len(there), 1), np.int64), findings[there]])
        found = _largest(wanted, features, pool[there], sizes, least)
        if found is None:
            raise ValueError(_refusal(wanted, features, pool[there], sizes, least))
        whole = np.zeros((len(sizes) + 1, len(pool)), np.int64)
        whole[:, there] = _exchanged(_whole(found[0], features, pool[there]), features, found[1])
        return whole

    return counts


def _largest(wanted: Floats, features: Ints, pool: Ints, sizes: Ints, least: int) -> tuple[Floats, Ints] | None:
    """(expected cases (sites + 1, levels), wanted numbers (sites, features)) of the largest sites that fit, or None.

    features: (levels, 1 + findings), the first of them 1, so that a site's first number is its size.
    """
    most = _bound(wanted, features[:, 1:], pool, sizes)
    low, high = least / max(sizes.min(), 1), most
    if low > high:
        return None
    best, at = _at(most, wanted, features, pool, sizes), most
    if best is not None:
        return best
    best, at = _at(low, wanted, features, pool, sizes), low
    for _ in range(HALVINGS if best is not None else 0):
        middle = (at + high) / 2
        found = _at(middle, wanted, features, pool, sizes)
        best, at, high = (best, at, middle) if found is None else (found, middle, high)
    return best


def _bound(wanted: Floats, findings: Ints, pool: Ints, sizes: Ints) -> float:
    """The common factor of the sizes beyond which single findings, or cases without one, run out."""
    need = np.concatenate([sizes @ wanted, sizes @ (1 - wanted)])
    there = np.concatenate([pool @ findings, pool @ (1 - findings)])
    return float(min(1.0, *(there[need > TINY] / need[need > TINY])))


def _at(scale: float, wanted: Floats, features: Ints, pool: Ints, sizes: Ints) -> tuple[Floats, Ints] | None:
    kept = np.floor(scale * sizes + TINY)
    numbers = np.rint(kept[:, None] * np.hstack([np.ones((len(sizes), 1)), wanted]))
    table = _tilted(features, pool, numbers)
    if np.abs(table @ features - numbers).max() > ENOUGH:
        return None
    return np.vstack([table, pool - table.sum(axis=0)]), numbers.astype(np.int64)


def _tilted(features: Ints, pool: Ints, numbers: Floats) -> Floats:
    """Expected cases (sites, levels) with these numbers (sites, features): the dual of the nearest table by Kullback's
    distance, minimised by Newton's method; as near as it gets where there is none."""
    from scipy.optimize import minimize

    total = pool.sum()

    def odds(x: NDArray[np.float64]) -> tuple[Floats, Floats]:
        eta = x.reshape(numbers.shape) @ features.T
        top = np.maximum(eta.max(axis=0), 0)
        weights = np.exp(eta - top)
        norm = weights.sum(axis=0) + np.exp(-top)
        return weights / norm, top + np.log(norm)

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        part, log_norm = odds(x)
        gap = (part * pool) @ features - numbers
        return float(pool @ log_norm - x @ numbers.ravel()) / total, gap.ravel() / total

    def curve(x: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
        part, _ = odds(x)
        lean = part * (step.reshape(numbers.shape) @ features.T)
        lean -= part * lean.sum(axis=0)
        return ((lean * pool) @ features).ravel() / total + 1e-10 * step

    limits = {"maxiter": ITERATIONS, "gtol": ENOUGH / 10 / total}
    start = np.zeros(numbers.size)
    return odds(minimize(loss, start, jac=True, hessp=curve, method="trust-ncg", options=limits).x)[0] * pool


def _whole(table: Floats, features: Ints, pool: Ints) -> Ints:
    """Every cell its floor or ceiling and every column the pool: what rounding owes a row in one level, it pays in
    the next, most findings first."""
    counts = np.floor(table + TINY).astype(np.int64)
    part, spare = table - counts, pool - counts.sum(axis=0)
    owed = np.zeros((len(table), features.shape[1]))
    for level in np.lexsort((*features.T, -features.sum(axis=1))):
        owed += np.outer(part[:, level], features[level])
        claim = np.where(part[:, level] > TINY, owed @ features[level], -np.inf)
        winners = np.argsort(-claim, kind="stable")[: spare[level]]
        counts[winners, level] += 1
        owed[winners] -= features[level]
    return counts


def _exchanged(counts: Ints, features: Ints, numbers: Ints) -> Ints:
    """Two rows exchange a case, or one gives a case for nothing, as long as that brings sites nearer to their numbers.

    The last row holds what is left out and has no numbers to meet.
    """
    nothing = np.full((len(counts), 1), counts.sum())  # enough of it to give for any case
    counts, features = np.hstack([counts, nothing]), np.vstack([features, np.zeros_like(features[:1])])
    gaps = np.vstack([counts[:-1] @ features - numbers, np.zeros_like(numbers[:1])])
    stuck = np.zeros(len(counts), bool)
    while (worst := np.where(stuck, 0, np.abs(gaps).sum(axis=1))).any():
        row, last = int(worst.argmax()), len(counts) - 1
        for other in [last, *np.delete(np.arange(last), row)]:
            if move := _best_exchange(counts, features, gaps, row, int(other)):
                counts[[row, other], move[0]] += [-1, 1]
                counts[[row, other], move[1]] += [1, -1]
                step = features[move[1]] - features[move[0]]
                gaps[row] += step
                gaps[other] -= step * (other < last)
                break
        else:
            stuck[row] = True
    return counts[:, :-1]


def _best_exchange(counts: Ints, features: Ints, gaps: Ints, row: int, other: int) -> tuple[int, int] | None:
    """(level given, level taken) by a row, or None if no exchange with the other helps."""
    mine, theirs = np.flatnonzero(counts[row]), np.flatnonzero(counts[other])
    step = features[theirs][None] - features[mine][:, None]
    after = np.abs(gaps[row] + step) @ _weights(features)
    if other < len(counts) - 1:
        after += np.abs(gaps[other] - step) @ _weights(features) - np.abs(gaps[other]) @ _weights(features)
    if after.min() >= np.abs(gaps[row]) @ _weights(features):
        return None
    give, take = np.unravel_index(int(after.argmin()), after.shape)
    return int(mine[give]), int(theirs[take])


def _weights(features: Ints) -> Ints:
    """Sizes come first: a case too many weighs more than all findings of a case."""
    return np.where(np.arange(features.shape[1]) == 0, features.shape[1], 1)


def _refusal(wanted: Floats, features: Ints, pool: Ints, sizes: Ints, least: int) -> str:
    own = pool @ features[:, 1:] / max(pool.sum(), 1)
    paths = (np.round(own + step / STEPS * (wanted - own), 3) for step in range(STEPS - 1, -1, -1))
    fits = (shown(path) for path in paths if _largest(path, features, pool, sizes, least) is not None)
    return (
        f"prevalence {shown(wanted)} needs combinations of findings that too few of the {pool.sum()} cases have"
        f" ({', '.join(map(str, pool @ features[:, 1:]))} have each finding): a site would keep fewer than {least}; the"
        f" nearest that fits is {next(fits, f'none: ask for fewer than {len(sizes)} sites')}"
    )
