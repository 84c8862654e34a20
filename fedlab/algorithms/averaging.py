"""Federated averaging and its family: sites train side by side, a server averages."""

from collections.abc import Iterator

import numpy as np

from fedlab.algorithms.registry import algorithm, one_of
from fedlab.federation import Federation, Round
from fedlab.weights import mix


@algorithm
def fedavg(fed: Federation, weighting: str = "cases") -> Iterator[Round]:
    """Federated averaging: sites train from the shared model, the server takes the mean (McMahan 2017).

    arXiv:1602.05629, Algorithm 1. weighting="cases": w = sum n_k/N w_k; "uniform": every site alike. One full-batch
    step a round is gradient descent on all cases. Departs: every site takes part in every round; the optimizer begins
    afresh in each.
    """
    shares = site_weights(fed, weighting)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        back = fed.fit(sent, r)
        s.w = mix(fed.gather(back), shares)
        yield Round({"global": s.w})


@algorithm
def fedprox(fed: Federation, mu: float = 0.01, weighting: str = "cases") -> Iterator[Round]:
    """Federated averaging with a pull mu/2 |w - w_global|^2 towards the shared model (Li 2020).

    arXiv:1812.06127, Algorithm 2. mu = 0, or one step a round, is fedavg. Stable while lr * mu < 2. With momentum the
    pull is part of the gradient. Departs: every site takes part and completes its work.
    """
    if not isinstance(mu, int | float) or not 0 <= mu < np.inf:
        raise ValueError(f"mu={mu!r}: give a number; the pull towards the shared model cannot be negative; 0 is fedavg")
    shares = site_weights(fed, weighting)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        back = fed.fit(sent, r, pull=(mu, s.w) if mu else None)
        s.w = mix(fed.gather(back), shares)
        yield Round({"global": s.w})


def site_weights(fed: Federation, weighting: str) -> np.ndarray:
    """The weight of each site in a mean, (K,): by cases n_k / N, or uniform 1 / K."""
    one_of("weighting", weighting, ("cases", "uniform"))
    return fed.shares if weighting == "cases" else np.full(len(fed.sites), 1 / len(fed.sites))
