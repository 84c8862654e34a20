"""Exact prevalence of several findings at once: exponential tilting of the pool, then exchange of single cases."""

import numpy as np

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.log_odds import CountRule
from fedlab.heterogeneity.prevalence.class_counts import shares_text
from fedlab.heterogeneity.raking import TINY

MAX_ITERATIONS = 100
TOLERANCE = 0.25  # of a case: how far expected numbers of findings may be off before rounding to whole cases
BISECTIONS = 7  # of the interval in which the largest feasible site size is searched
STEPS = 20  # from the pool's own prevalence to the request, in the search for the nearest feasible one


def exact_findings(wanted: Floats, findings: Ints) -> CountRule:
    """Give site k the prevalences wanted[k] (sites, findings), to within half a case where the pool allows.

    findings: (levels, findings) 0 or 1, the findings of the cases of a level. P(site | case) is proportional to
    exp(a[site] + theta[site] . findings), and to 1 for no site: the nearest table to the pool in Kullback-Leibler
    divergence, which keeps the dependence between findings. Where the pool holds too few cases, all sizes shrink by one
    factor and the surplus is left out. Raises ValueError if that leaves a site fewer than `least` cases, naming the
    nearest feasible prevalences.
    """

    def counts(sizes: Ints, pool: Ints, least: int) -> Ints:
        present = np.flatnonzero(pool)
        features = np.hstack([np.ones((len(present), 1), np.int64), findings[present]])
        found = _largest_fit(wanted, features, pool[present], sizes, least)
        if found is None:
            raise ValueError(_refusal(wanted, features, pool[present], sizes, least))
        whole = np.zeros((len(sizes) + 1, len(pool)), np.int64)
        whole[:, present] = _exchange_cases(_round(found[0], features, pool[present]), features, found[1])
        return whole

    return counts


def _largest_fit(wanted: Floats, features: Ints, pool: Ints, sizes: Ints, least: int) -> tuple[Floats, Ints] | None:
    """Return (expected cases (sites + 1, levels), totals (sites, features)) of the largest feasible sites, or None.

    features: (levels, 1 + findings), the first of them 1, so that the first total of a site is its size.
    """
    most = _upper_bound(wanted, features[:, 1:], pool, sizes)
    low, high = least / max(sizes.min(), 1), most
    if low > high:
        return None
    best, at = _fit_at(most, wanted, features, pool, sizes), most
    if best is not None:
        return best
    best, at = _fit_at(low, wanted, features, pool, sizes), low
    for _ in range(BISECTIONS if best is not None else 0):
        middle = (at + high) / 2
        found = _fit_at(middle, wanted, features, pool, sizes)
        best, at, high = (best, at, middle) if found is None else (found, middle, high)
    return best


def _upper_bound(wanted: Floats, findings: Ints, pool: Ints, sizes: Ints) -> float:
    """Return the common factor of the sizes beyond which single findings, or cases without one, run out."""
    need = np.concatenate([sizes @ wanted, sizes @ (1 - wanted)])
    available = np.concatenate([pool @ findings, pool @ (1 - findings)])
    return float(min(1.0, *(available[need > TINY] / need[need > TINY])))


def _fit_at(scale: float, wanted: Floats, features: Ints, pool: Ints, sizes: Ints) -> tuple[Floats, Ints] | None:
    """Return the expected cases and totals at this factor of the sizes, or None if they cannot be reached."""
    kept = np.floor(scale * sizes + TINY)
    totals = np.rint(kept[:, None] * np.hstack([np.ones((len(sizes), 1)), wanted]))
    table = _exponential_tilting(features, pool, totals)
    if np.abs(table @ features - totals).max() > TOLERANCE:
        return None
    return np.vstack([table, pool - table.sum(axis=0)]), totals.astype(np.int64)


def _exponential_tilting(features: Ints, pool: Ints, totals: Floats) -> Floats:
    """Return the expected cases (sites, levels) with these totals (sites, features).

    Newton's method on the dual of the nearest table in Kullback-Leibler divergence; where no table has these totals,
    the last iterate.
    """
    from scipy.optimize import minimize

    total = pool.sum()

    def odds(x: Floats) -> tuple[Floats, Floats]:
        eta = x.reshape(totals.shape) @ features.T
        top = np.maximum(eta.max(axis=0), 0)
        weights = np.exp(eta - top)
        norm = weights.sum(axis=0) + np.exp(-top)
        return weights / norm, top + np.log(norm)

    def loss(x: Floats) -> tuple[float, Floats]:
        part, log_norm = odds(x)
        gap = (part * pool) @ features - totals
        return float(pool @ log_norm - x @ totals.ravel()) / total, gap.ravel() / total

    def hessian_product(x: Floats, step: Floats) -> Floats:
        part, _ = odds(x)
        change = part * (step.reshape(totals.shape) @ features.T)
        change -= part * change.sum(axis=0)
        return ((change * pool) @ features).ravel() / total + 1e-10 * step

    limits = {"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE / 10 / total}
    start = np.zeros(totals.size)
    return odds(minimize(loss, start, jac=True, hessp=hessian_product, method="trust-ncg", options=limits).x)[0] * pool


def _round(table: Floats, features: Ints, pool: Ints) -> Ints:
    """Round every cell to its floor or ceiling and every column to the pool.

    The rounding error of a row in one level is carried to the next level, levels with most findings first.
    """
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


def _exchange_cases(counts: Ints, features: Ints, totals: Ints) -> Ints:
    """Exchange single cases between rows as long as that reduces the deviation of sites from their totals.

    A row may also give or take a case without a return. The last row holds the cases left out and has no totals.
    """
    nothing = np.full((len(counts), 1), counts.sum())  # an empty case, enough of them to exchange for any case
    counts, features = np.hstack([counts, nothing]), np.vstack([features, np.zeros_like(features[:1])])
    gaps = np.vstack([counts[:-1] @ features - totals, np.zeros_like(totals[:1])])
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
    """Return (level given, level taken) by a row, or None if no exchange with the other row helps."""
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
    """Weigh deviations so that the size of a site comes first: one case too many counts more than all its findings."""
    return np.where(np.arange(features.shape[1]) == 0, features.shape[1], 1)


def _refusal(wanted: Floats, features: Ints, pool: Ints, sizes: Ints, least: int) -> str:
    """Write the error for prevalences that the pool cannot provide."""
    own = pool @ features[:, 1:] / max(pool.sum(), 1)
    paths = (np.round(own + step / STEPS * (wanted - own), 3) for step in range(STEPS - 1, -1, -1))
    fits = (shares_text(path) for path in paths if _largest_fit(path, features, pool, sizes, least) is not None)
    return (
        f"prevalence {shares_text(wanted)} needs combinations of findings that too few of the {pool.sum()} cases have"
        f" ({', '.join(map(str, pool @ features[:, 1:]))} have each finding): a site would keep fewer than {least}; the"
        f" nearest feasible value is {next(fits, f'none: use fewer than {len(sizes)} sites')}"
    )
