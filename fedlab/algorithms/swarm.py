"""No server: peers that merge under a leader of the moment, and neighbours that mix with each other."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fedlab.algorithms.arguments import whole, within
from fedlab.algorithms.registry import algorithm
from fedlab.core.registry import choose
from fedlab.core.rng import stream
from fedlab.core.weights import Weights, mix, stack
from fedlab.federation import Federation, Round, RoundContext
from fedlab.federation.graphs import links, metropolis

MERGES = {"mean": None, "median": "median(weighted=True)", "geomedian": "geomedian"}


@algorithm
def swarm(
    fed: Federation, sync: int | None = None, min_peers: int = 2, merge: str = "mean", weighting: str = "uniform",
    optimizer: str = "keep", leader_failure: float = 0.0,
) -> Iterator[Round]:  # fmt: skip
    """Swarm learning: peers train, elect a leader, merge there, and adopt the result (Warnat-Herresthal 2021).

    doi:10.1038/s41586-021-03583-3. sync: batches between merges (a whole round by default). Fewer than `min_peers`
    ready: no merge, training goes on. merge: "mean", "median" or "geomedian", with node weights `weighting` ("uniform"
    or "cases"). A leader is drawn for every merge and decides nothing but the way of the models; with probability
    `leader_failure` it breaks off and another one is drawn. Who was away adopts the last merge first. optimizer: "keep"
    or "reset" at merges. The mean of all peers by cases, with plain SGD, is fedavg. Departs: election by a named random
    stream instead of a ledger of blocks; peers that have done their round's steps stay in the merge.
    """
    _check(fed, sync, min_peers, merge, optimizer, leader_failure)
    s = fed.memory(w=fed.start, peers=fed.start.expand(len(fed.sites)), behind=[], merges=0)
    for r in fed.rounds(s):
        ready = r.turnout.answering
        catch_up(fed, s, r)
        for part in intervals(fed, ready, sync):
            mine = s.peers.only(ready) if optimizer == "keep" else s.peers.only(ready).bare()
            trained = fed.fit(mine, r, part=part, keep_optimizer=optimizer == "keep")
            s.peers = s.peers.put(trained)
            leader = elect(fed, s, trained, leader_failure) if quorum(fed, s, ready, min_peers) else None
            if leader is not None:
                arrived = fed.meet(trained.bare(), leader, since=s.w)
                s.w = fed.merge(s.w, arrived, weighting, MERGES[merge])
                adopted = fed.publish(s.w, ready, leader)
                s.peers = s.peers.put(replace(adopted, moments=trained.moments, clock=trained.clock))
                s.merges, s.behind = s.merges + 1, [k for k in range(len(fed.sites)) if k not in ready]
        yield Round({"global": s.w})


def _check(fed: Federation, sync: Any, min_peers: int, merge: str, optimizer: str, leader_failure: float) -> None:
    choose("merge", merge, tuple(MERGES))
    choose("optimizer", optimizer, ("keep", "reset"))
    within("leader_failure", leader_failure, 0, 1)
    whole("min_peers", min_peers, 1)
    if sync is not None:
        whole("sync", sync, 1)
    if min_peers > len(fed.sites):
        raise ValueError(
            f"min_peers={min_peers} with {len(fed.sites)} site{'s' * (len(fed.sites) > 1)}: no merge could ever take"
            " place, so lower min_peers or use more sites"
        )
    if merge != "mean" and fed.settings.aggregate != "mean":
        raise ValueError(
            f"merge={merge!r} and aggregate={fed.settings.aggregate!r} both say how to merge: leave one at 'mean'"
        )
    if merge != "mean" and fed.settings.secure_sum:
        raise ValueError(f"secure_sum=True hides single models, which merge={merge!r} must see: choose one of the two")
    if leader_failure and fed.settings.secure_sum:
        raise ValueError("secure_sum=True: masks serve one leader alone, so set leader_failure=0")
    if merge == "median" and fed.settings.batchnorm == "pooled":
        raise ValueError("merge='median' cannot tell the variance of the union: use another batchnorm than 'pooled'")


def catch_up(fed: Federation, s: Any, r: RoundContext) -> None:
    """Peers that missed the last merge adopt it before anything else, if anybody is there who has it."""
    late = [k for k in r.turnout.answering if k in s.behind]
    current = [k for k in r.turnout.answering if k not in s.behind]
    if late and current:
        s.peers = s.peers.put(fed.publish(s.w, late, current[0]))
        s.behind = [k for k in s.behind if k not in late]
        fed.note("adopted the last merge", ", ".join(fed.names[k] for k in late))


def intervals(fed: Federation, ready: tuple[int, ...], sync: int | None) -> list[tuple[int, int] | None]:
    """The parts of a round between merges; None is the whole."""
    most = max((fed.sites[k].steps(fed.settings) for k in ready), default=0)
    return [None] if sync is None else [(first, first + sync) for first in range(0, most, sync)]


def quorum(fed: Federation, s: Any, ready: tuple[int, ...], min_peers: int) -> bool:
    """Whether peers can merge: as many as are needed, by the rule of the settings too, and up to date."""
    needed, lacks = max(min_peers, fed.merger.least()), ""
    if len(ready) < needed:
        lacks = f"{len(ready)} of {needed} peers ready"
    elif any(k in s.behind for k in ready):
        lacks = "nobody who is ready has the last merge"
    if lacks:
        fed.note("no quorum", f"{lacks}; training goes on")
    return not lacks


def elect(fed: Federation, s: Any, trained: Weights, failure: float) -> int | None:
    """The leader of this merge; each one that breaks off has received the models in vain."""
    seed, candidates, attempt = fed.settings.seed, list(trained.owners), 0
    while candidates:
        leader = candidates[int(stream(seed, "leader", s.merges, attempt).integers(len(candidates)))]
        if stream(seed, "leader fails", s.merges, attempt).random() >= failure:
            fed.note("leader", f"merge {s.merges + 1}", fed.names[leader])
            return leader
        fed.note("leader failed", f"merge {s.merges + 1}", fed.names[leader])
        fed.meet(trained.bare(), leader, since=s.w)
        candidates.remove(leader)
        attempt += 1
    fed.note("nothing merged", f"every leader of merge {s.merges + 1} broke off; training goes on")
    return None


@algorithm
def gossip(fed: Federation, topology: str = "ring", optimizer: str = "reset") -> Iterator[Round]:
    """Each site trains, then mixes its model with those of its neighbours (Lian 2017, D-PSGD).

    arXiv:1705.09056. topology: "ring", "torus", "complete", "star" or "matching" (random pairs), with Metropolis
    weights, which keep the mean of all models. complete is fedavg with uniform weights. "local" is each site's model,
    "global" their mean; "consensus distance" the largest |w_k - mean|. optimizer: "reset" in every round, or "keep".
    Departs: mixes after the round's steps, not in every step.
    """
    choose("optimizer", optimizer, ("reset", "keep"))
    sites = len(fed.sites)
    links(topology, sites, np.random.default_rng(0))  # a misspelt one is refused before any work
    s = fed.memory(peers=fed.start.expand(sites))
    for r in fed.rounds(s):
        ready = r.turnout.answering
        mine = s.peers.only(ready) if optimizer == "keep" else s.peers.only(ready).bare()
        trained = fed.fit(mine, r, keep_optimizer=optimizer == "keep")
        near = links(topology, sites, stream(fed.settings.seed, "links", r.number))[np.ix_(ready, ready)]
        fed.to_neighbours(trained.bare(), near)
        s.peers = s.peers.put(mixed(fed, trained, metropolis(near)))
        mean = mix(s.peers.bare(), np.full(sites, 1 / sites))
        fed.log("consensus distance", fed.shared(s.peers.parameters - mean.parameters).norm(dim=1).max())
        yield Round({"global": mean, "local": s.peers})


def mixed(fed: Federation, peers: Weights, weights: np.ndarray) -> Weights:
    """Each peer's mean of itself and its neighbours; what stays at a site and its optimizer are its own."""
    found = []
    for row, k in zip(weights, peers.owners, strict=True):
        around = np.flatnonzero(row)
        nearby = peers.bare().only([peers.owners[j] for j in around])
        found.append(fed.at_site(mix(nearby, row[around] / row[around].sum()), k))
    if not found:
        return peers
    return replace(stack(found, peers.owners), moments=peers.moments, clock=peers.clock)
