"""Decentralized learning: peers that merge at an elected leader, and neighbours that exchange models."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fedlab.algorithms.arguments import Weighting
from fedlab.algorithms.graphs import Topology, links, metropolis
from fedlab.algorithms.registry import algorithm
from fedlab.core.arguments import Share, Whole
from fedlab.core.rng import stream
from fedlab.core.weights import Weights, stack, weighted_mean
from fedlab.federation import Federation, Round, RoundContext

MERGES = {"mean": None, "median": "median(weighted=True)", "geomedian": "geomedian"}


@algorithm
def swarm(
    fed: Federation, sync: Whole | None = None, min_peers: Whole = 2,
    merge: Literal["mean", "median", "geomedian"] = "mean", weighting: Weighting = "uniform",
    optimizer: Literal["keep", "reset"] = "keep", leader_failure: Share = 0.0,
) -> Iterator[Round]:  # fmt: skip
    """Swarm learning: peers train, elect a leader, merge there, and adopt the result (Warnat-Herresthal 2021).

    A leader is elected for every merge and decides only the way of the models. A peer that missed the last merge adopts
    it before it trains. The mean of all peers by cases, with plain SGD, is fedavg. Differences from the paper: election
    by a named random stream instead of a blockchain; peers that have done their steps of the round stay in the merge.

    Parameters
    ----------
    sync : int, optional
        Batches between merges, 1 or more; a whole round by default.
    min_peers : int, default 2
        Fewest peers that merge; with fewer, training continues without a merge.
    merge : {"mean", "median", "geomedian"}, default "mean"
        How the leader merges, with the weights of `weighting`.
    weighting : {"uniform", "cases"}, default "uniform"
        Weights of the peers: equal or n_k / N.
    optimizer : {"keep", "reset"}, default "keep"
        Whether peers keep their optimizer state at merges.
    leader_failure : float, default 0.0
        Probability, 0 to 1, that a leader fails after it has received the models; another one is elected then.

    References
    ----------
    Warnat-Herresthal et al. 2021, doi:10.1038/s41586-021-03583-3.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="swarm(sync=8)").method
    'swarm(sync=8)'
    """
    _check(fed, min_peers, merge, leader_failure)
    state = fed.memory(w=fed.start, peers=fed.start.expand(len(fed.sites)), behind=[], merges=0)
    for round in fed.rounds(state):
        ready = round.reporting
        adopt_last_merge(fed, state, round)
        for part in intervals(fed, ready, sync):
            peers = state.peers.only(ready)
            start = peers if optimizer == "keep" else peers.without_moments()
            trained = fed.fit(start, round, part=part, keep_optimizer=optimizer == "keep")
            state.peers = state.peers.with_rows(trained)
            leader = elect_leader(fed, state, trained, leader_failure) if quorum(fed, state, ready, min_peers) else None
            if leader is not None:
                arrived = fed.gather_at(leader, trained, reference=state.w)
                state.w = fed.merge(state.w, arrived, weighting, MERGES[merge])
                adopted = fed.publish(state.w, leader, ready)
                state.peers = state.peers.with_rows(replace(adopted, moments=trained.moments, steps=trained.steps))
                state.merges, state.behind = state.merges + 1, [k for k in range(len(fed.sites)) if k not in ready]
        yield Round({"global": state.w})


def _check(fed: Federation, min_peers: int, merge: str, leader_failure: float) -> None:
    """Refuse arguments that contradict each other or the settings."""
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
        raise ValueError("secure_sum=True: masks serve a single leader, so set leader_failure=0")
    if merge == "median" and fed.settings.batchnorm == "pooled":
        raise ValueError("merge='median' cannot compute the variance of the union: use another batchnorm than 'pooled'")


def adopt_last_merge(fed: Federation, state: Any, round: RoundContext) -> None:
    """Peers that missed the last merge adopt it, if a peer that has it is there."""
    late = [k for k in round.reporting if k in state.behind]
    current = [k for k in round.reporting if k not in state.behind]
    if late and current:
        state.peers = state.peers.with_rows(fed.publish(state.w, current[0], late))
        state.behind = [k for k in state.behind if k not in late]
        fed.note("adopted the last merge", ", ".join(fed.names[k] for k in late))


def intervals(fed: Federation, ready: tuple[int, ...], sync: int | None) -> list[tuple[int, int] | None]:
    """The parts of a round between merges; None is the whole round."""
    most = max((fed.sites[k].steps(fed.settings) for k in ready), default=0)
    return [None] if sync is None else [(first, first + sync) for first in range(0, most, sync)]


def quorum(fed: Federation, state: Any, ready: tuple[int, ...], min_peers: int) -> bool:
    """Whether enough peers are ready to merge, and all of them have the last merge."""
    needed, missing = max(min_peers, fed.server.min_models()), ""
    if len(ready) < needed:
        missing = f"{len(ready)} of {needed} peers ready"
    elif any(k in state.behind for k in ready):
        missing = "no peer that is ready has the last merge"
    if missing:
        fed.note("no quorum", f"{missing}; training continues")
    return not missing


def elect_leader(fed: Federation, state: Any, trained: Weights, failure: float) -> int | None:
    """The leader of this merge; a leader that fails has received the models, which are discarded."""
    seed, candidates, attempt = fed.settings.seed, list(trained.owners), 0
    while candidates:
        leader = candidates[int(stream(seed, "leader", state.merges, attempt).integers(len(candidates)))]
        if stream(seed, "leader fails", state.merges, attempt).random() >= failure:
            fed.note("leader", f"merge {state.merges + 1}", fed.names[leader])
            return leader
        fed.note("leader failed", f"merge {state.merges + 1}", fed.names[leader])
        fed.gather_at(leader, trained, reference=state.w)
        candidates.remove(leader)
        attempt += 1
    fed.note("nothing merged", f"every leader of merge {state.merges + 1} failed; training continues")
    return None


@algorithm
def gossip(
    fed: Federation, topology: Topology = "ring", optimizer: Literal["reset", "keep"] = "reset"
) -> Iterator[Round]:
    """Decentralized SGD: each site trains, then averages its model with those of its neighbours (Lian 2017).

    D-PSGD with Metropolis weights, which preserve the mean of all models. "local" is each site's model, "global" their
    mean; "consensus distance" in run.rounds is the largest |w_k - mean|. Topology "complete" is fedavg with uniform
    weights. Difference from the paper: models are averaged after the round's steps, not in every step.

    Parameters
    ----------
    topology : {"ring", "torus", "complete", "star", "matching"}, default "ring"
        Graph of neighbours; "matching" draws random pairs in every round.
    optimizer : {"reset", "keep"}, default "reset"
        Optimizer state: reset in every round, or kept.

    References
    ----------
    Lian et al. 2017, arXiv:1705.09056.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="gossip('torus')").method
    "gossip('torus')"
    """
    sites = len(fed.sites)
    state = fed.memory(peers=fed.start.expand(sites))
    for round in fed.rounds(state):
        ready = round.reporting
        peers = state.peers.only(ready)
        start = peers if optimizer == "keep" else peers.without_moments()
        trained = fed.fit(start, round, keep_optimizer=optimizer == "keep")
        neighbours = links(topology, sites, stream(fed.settings.seed, "links", round.number))[np.ix_(ready, ready)]
        fed.exchange(trained, neighbours)
        state.peers = state.peers.with_rows(average_neighbours(fed, trained, metropolis(neighbours)))
        mean = weighted_mean(state.peers.without_moments(), np.full(sites, 1 / sites))
        distance = fed.shared(state.peers.parameters - mean.parameters).norm(dim=1)
        fed.log("consensus distance", distance.max())
        yield Round({"global": mean, "local": state.peers})


def average_neighbours(fed: Federation, peers: Weights, weights: np.ndarray) -> Weights:
    """Each peer's weighted mean of itself and its neighbours; private parameters and optimizer state are its own."""
    averaged = []
    for row, k in zip(weights, peers.owners, strict=True):
        near = np.flatnonzero(row)
        models = peers.without_moments().only([peers.owners[j] for j in near])
        averaged.append(fed.private.at(weighted_mean(models, row[near] / row[near].sum()), k))
    if not averaged:
        return peers
    return replace(stack(averaged, peers.owners), moments=peers.moments, steps=peers.steps)
