"""Cyclical weight transfer: one model visits the institutions in turn."""

from collections.abc import Iterator

import numpy as np

from fedlab.algorithms.registry import algorithm, one_of
from fedlab.federation import Clock, Federation, Round
from fedlab.randomness import stream

ORDERS = ("fixed", "shuffled", "reversed", "by_size")


@algorithm
def cyclic(fed: Federation, order: str = "fixed", optimizer: str = "travel") -> Iterator[Round]:
    """One model goes from site to site and trains at each; a round is one full cycle (Chang 2018).

    doi:10.1093/jamia/ocy017. order: "fixed", "shuffled" anew in each cycle, "reversed", "by_size" (largest first).
    optimizer="travel" hands over its state with the weights: then this is centralized SGD on the batches in order of
    sites. "reset" begins afresh at each site. With one site it is `local`. The model remembers its last site best:
    compare orders. Batch normalisation statistics are those of the last site.
    """
    one_of("order", order, ORDERS)
    one_of("optimizer", optimizer, ("travel", "reset"))
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        for k in visits(fed, order, r):
            s.w = fed.fit(fed.hand_over(s.w, to=k), r, at=k, keep_optimizer=optimizer == "travel")
        yield Round({"global": s.w})


def visits(fed: Federation, order: str, r: Clock) -> list[int]:
    """The sites of this cycle, in the order of visit."""
    sites = list(range(len(fed.sites)))
    if order == "shuffled":
        return stream(fed.settings.seed, "order of visits", r.number).permutation(sites).tolist()
    if order == "by_size":
        return np.argsort([-site.cases for site in fed.sites], kind="stable").tolist()
    return sites[::-1] if order == "reversed" else sites
