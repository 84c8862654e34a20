"""Class shares drawn from Dirichlet distributions: site by site, or class by class."""

import numpy as np
from numpy.typing import NDArray

from fedlab.heterogeneity.tables import Counts, Table

TRIES = 1000


def by_site(alpha: float, prior: Table, sites: int, rng: np.random.Generator) -> Table:
    """Class shares of each site, (sites, classes), from Dir(alpha * prior) (Hsu 2019, arXiv:1909.06335).

    The root mean square deviation from the prior is 1 / sqrt(alpha + 1) of that of one class a site, so that
    alpha = 1 / h^2 - 1 gives the fraction h. alpha -> infinity: the prior itself; alpha -> 0: one class a site.
    """
    drawn = np.zeros((sites, len(prior)))
    drawn[:, prior > 0] = rng.dirichlet(np.maximum(alpha * prior[prior > 0], np.finfo(float).tiny), sites)
    return drawn


def by_class(
    beta: float, pool: Counts, sites: int, cap: bool, least: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Site shares of each class, (sites, classes), from Dir(beta) (Yurochkin 2019, arXiv:1905.12022).

    cap: a site that holds its equal part of all cases gets nothing of the classes still to come, which makes sites
    even and the order of classes matter (NIID-Bench, arXiv:2102.02079). pool: (classes,) cases there are. Draws are
    repeated until every site holds `least` cases; ValueError if none does.
    """
    for _ in range(TRIES):
        parts = np.zeros((sites, len(pool)))
        for c in range(len(pool)):
            has_room = np.ones(sites, bool) if not cap or not pool[c] else parts @ pool < pool.sum() / sites
            drawn = rng.dirichlet(np.full(sites, beta)) * has_room
            parts[:, c] = drawn / drawn.sum() if drawn.sum() > 0 else has_room / has_room.sum()
        if (parts @ pool).min() >= least:
            return parts
    raise ValueError(
        f"dirichlet({beta:g}, by='class') left a site with fewer than {least} of {pool.sum()} cases in {TRIES} draws:"
        f" ask for fewer than {sites} sites, a larger number than {beta:g}, or a smaller `least`"
    )
