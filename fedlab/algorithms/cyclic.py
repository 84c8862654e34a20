"""Weight transfer: one model travels from institution to institution and trains at each."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedlab.algorithms.registry import algorithm
from fedlab.core.registry import choose
from fedlab.core.rng import stream
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights
from fedlab.federation import Federation, Round, RoundContext

ORDERS = ("fixed", "shuffled", "reversed", "by_size")
MITIGATIONS = ("iterations", "rate", "sampling", "loss")


@algorithm
def cyclic(
    fed: Federation, order: str = "fixed", optimizer: str = "travel", mitigation: str | Sequence[str] = (),
    release: str = "last", recalibrate: bool = False,
) -> Iterator[Round]:  # fmt: skip
    """One model goes from site to site and trains at each; a round is one full cycle (Chang 2018).

    doi:10.1093/jamia/ocy017. order: "fixed", "shuffled" anew in each cycle, "reversed", "by_size" (largest first).
    optimizer="travel" hands over its state with the weights: then this is centralized SGD on the batches in order of
    sites. "reset" begins afresh at each site. With one site it is `local`. The model remembers its last site best:
    compare orders. mitigation: for unequal sites (Balachandar 2020, doi:10.1093/jamia/ocaa017), one or several of
    "iterations" (steps in proportion to cases; so they are anyway with `local_epochs`), "rate" (learning rate in
    proportion to cases, equal steps), "sampling" (batches in which classes are met alike), "loss" (cases weighed by
    class); the equations are a reading of the abstract. release: after a cycle the "last" model, or the one that did
    "best" on the validation cases of the site it left; training goes on from the last (Sheller 2018). recalibrate:
    batch normalisation statistics are those of one more pass over all sites, not of the last one. Absent sites are left
    out.
    """
    choose("order", order, ORDERS)
    choose("optimizer", optimizer, ("travel", "reset"))
    choose("release", release, ("last", "best"))
    asked = (mitigation,) if isinstance(mitigation, str) else tuple(mitigation)
    for each in asked:
        choose("mitigation", each, MITIGATIONS)
    for pair in ({"iterations", "rate"}, {"sampling", "loss"}):
        if pair <= set(asked):
            raise ValueError(f"mitigation={mitigation!r}: {' and '.join(sorted(pair))} do the same, choose one of them")
    if recalibrate and not fed.shares_statistics:
        told = f"recalibrate=True: sites share no normalisation statistics with batchnorm={fed.settings.batchnorm!r}"
        warn(f"{told}, nothing is recalibrated")
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        stops: dict[int, Weights] = {}
        for k in visits(fed, order, r):
            here = fed.hand_over(s.w, to=k)
            s.w = fed.fit(here, r, at=k, keep_optimizer=optimizer == "travel", **mitigated(fed, k, asked))
            stops[k] = s.w
            fed.watch(s.w, fed.names[k])
        released = best(fed, stops) if release == "best" and stops and fed.due else s.w
        yield Round({"global": fed.recalibrate(released) if recalibrate and fed.due else released})


@algorithm
def single_pass(fed: Federation, order: str = "fixed", optimizer: str = "travel") -> Iterator[Round]:
    """One model goes round once and trains at each site for as long as all rounds together (Chang 2018).

    Single weight transfer; institutional incremental learning (Sheller 2018, PMC6589345). The whole budget of a site is
    spent in one visit; a round is as much work as one of `cyclic`, and with a single round the two are the same. order,
    optimizer: as there. Departs: no early stopping at a site; every site is awaited.
    """
    choose("order", order, ORDERS)
    choose("optimizer", optimizer, ("travel", "reset"))
    if fed.settings.patience is not None:
        raise ValueError("patience would end a single pass before every site was visited: leave it out")
    rounds, sites = fed.settings.rounds, len(fed.sites)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s, together=False):
        stations = visits(fed, order, replace(r, number=1))
        for block in range((r.number - 1) * sites, r.number * sites):
            stop, turn = divmod(block, rounds)
            if turn == 0:
                s.w = fed.hand_over(s.w if optimizer == "travel" else s.w.bare(), to=stations[stop])
            s.w = fed.fit(s.w, replace(r, turn=turn + 1), at=stations[stop], keep_optimizer=True)
        yield Round({"global": s.w})


def visits(fed: Federation, order: str, r: RoundContext) -> list[int]:
    """The sites of this cycle that are there, in the order of visit."""
    sites = list(range(len(fed.sites)))
    if order == "shuffled":
        sites = stream(fed.settings.seed, "order of visits", r.number).permutation(sites).tolist()
    elif order == "by_size":
        sites = np.argsort([-site.cases for site in fed.sites], kind="stable").tolist()
    elif order == "reversed":
        sites = sites[::-1]
    return [k for k in sites if k in r.turnout.answering]


def mitigated(fed: Federation, k: int, asked: Sequence[str]) -> dict[str, Any]:
    """How site k's visit differs from a plain one (Balachandar 2020).

    T is the mean over sites of a round's steps, K the number of sites. "iterations": round(T K n_k/N) steps, at least
    one. "rate": lr K n_k/N, in T steps. "sampling": case i with probability 1 / (C_k n_k,y). "loss": weighed by n_k /
    (C_k n_k,y), with C_k classes present. Sampling and loss optimise the balanced risk.
    """
    if {"sampling", "loss"} & set(asked) and fed.task.name == "multilabel":
        raise ValueError("mitigation by 'sampling' or 'loss' needs one class a case: use 'iterations' or 'rate'")
    site, share = fed.sites[k], len(fed.sites) * float(fed.shares[k])
    steps = sum(each.steps(fed.settings) for each in fed.sites) / len(fed.sites)
    found: dict[str, Any] = {}
    if "rate" in asked:
        found |= {"rate": share, "steps": max(1, round(steps))}
    if "iterations" in asked:
        found |= {"steps": max(1, round(steps * share))}
    if "sampling" in asked:
        found |= {"batches": site.balanced}
    if "loss" in asked:
        found |= {"weights": fed.case_weights(k)}
    return found


def best(fed: Federation, stops: dict[int, Weights]) -> Weights:
    """Of the models as they left each site, the one with the best metric on that site's validation cases.

    The last among equals, and where no site has such cases.
    """
    left = list(stops.values())[::-1]
    scores = [fed.score(stops[k], k) for k in reversed(stops)]
    return left[0 if all(np.isnan(scores)) else int(np.nanargmax(scores))]
