"""Split learning: the first stages of the model are at the sites, the others at a server.

The two sides exchange only tensors: activations and labels go up, gradients down; with a tail at the sites features go
down and gradients up instead of labels.
"""

from collections.abc import Iterator
from typing import Literal

from fedlab.algorithms.arguments import Weighting
from fedlab.algorithms.cyclic import Order, visits
from fedlab.algorithms.registry import algorithm
from fedlab.algorithms.split_training import SplitModel
from fedlab.core.arguments import Count, Whole
from fedlab.core.rng import stream
from fedlab.core.weights import Weights, stack, weighted_mean
from fedlab.federation import Federation, Round, RoundContext


@algorithm
def split(
    fed: Federation, cut: Whole = 1, tail: Count = 0, handover: Literal["peer", "server", "none"] = "peer",
    turns: Literal["site", "batch"] = "site", order: Order = "fixed",
    optimizer: Literal["travel", "reset"] = "travel",
) -> Iterator[Round]:  # fmt: skip
    """Split learning: sites take turns at a model whose other half is at a server (Gupta & Raskar 2018).

    Turns of whole rounds with hand-over and plain SGD are `cyclic`, bit for bit. The server keeps its optimizer state.

    Parameters
    ----------
    cut : int, default 1
        Number of first stages at the sites, which leaves the server at least one stage.
    tail : int, default 0
        Number of last stages at the sites as well, so that labels never leave them (U-shaped); 0 sends labels.
    handover : {"peer", "server", "none"}, default "peer"
        How the client's weights reach the next site: directly, through the server, which then sees them, or not at
        all: each site has its own.
    turns : {"site", "batch"}, default "site"
        Each site trains for a whole round, or for one batch at a time (Gawali 2020).
    order : {"fixed", "shuffled", "reversed", "by_size"}, default "fixed"
        Order of turns, see `cyclic`.
    optimizer : {"travel", "reset"}, default "travel"
        Whether the client's optimizer state travels with its weights or is reset at each turn.

    References
    ----------
    Gupta & Raskar 2018, arXiv:1810.06060; Vepakomma et al. 2018, arXiv:1812.00564; Gawali et al. 2020,
    arXiv:2012.12591.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="split(cut=2)").method
    'split(cut=2)'
    """
    model, own = SplitModel(fed, cut, tail), handover == "none"
    if own:
        model.keep_clients_local()
    client, server = model.split(fed.start)
    state = fed.memory(client=client.expand(len(fed.sites)) if own else client, server=server)
    for round in fed.rounds(state):
        for k, part in schedule_turns(fed, round, order, turns):
            client = state.client.without_moments() if optimizer == "reset" else state.client
            start = client[k] if own else fed.hand_over(client, to=k, via_server=handover == "server")
            trained, state.server = model.fit_one(start, state.server, round, k, part=part)
            state.client = state.client.with_rows(stack([trained], (k,))) if own else trained
            if turns == "site":
                fed.record_visit(model.join(trained, state.server), fed.names[k])
        shared = weighted_mean(state.client.without_moments(), fed.shares) if own else state.client
        yield Round({"global": model.join(shared, state.server)})


def schedule_turns(
    fed: Federation, round: RoundContext, order: str, turns: str
) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """(site, its steps) in the order of turns; with turns of one batch a site stops when its steps are done."""
    sites = visits(fed, order, round)
    if turns == "site":
        yield from ((k, None) for k in sites)
        return
    ranges = {k: fed.trainer.step_range(fed.sites[k], k, round) for k in sites}
    steps = {k: last - first for k, (first, last) in ranges.items()}
    for step in range(max(steps.values(), default=0)):
        yield from ((k, (step, step + 1)) for k in sites if step < steps[k])


@algorithm
def splitfed(
    fed: Federation, version: Literal[1, 2, 3] = 1, cut: Whole = 1, tail: Count = 0,
    optimizer: Literal["reset", "keep", "reference"] = "reset", weighting: Weighting = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Split and federated learning: sites work in parallel with a server's half, halves are averaged (Thapa 2022).

    Difference from the paper: weights of the mean by cases.

    Parameters
    ----------
    version : {1, 2, 3}, default 1
        1: the server keeps a copy of its half for each site and averages them, as clients are averaged: fedavg, bit
        for bit. 2: one server half that learns from one site after another, in random order. 3: clients are never
        averaged (Gawali 2020): lg_fedavg.
    cut : int, default 1
        Number of first stages at the sites, see `split`.
    tail : int, default 0
        Number of last stages at the sites, see `split`.
    optimizer : {"reset", "keep", "reference"}, default "reset"
        State of the optimizers: reset in every round; "keep": that of the server is kept over rounds in version 2;
        "reference": that of the server is reset in every step, as in the authors' code, where Adam then takes steps
        of plus or minus lr.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Thapa et al. 2022, arXiv:2004.12088; Gawali et al. 2020, arXiv:2012.12591.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="splitfed(version=2)").method
    'splitfed(version=2)'
    """
    model = SplitModel(fed, cut, tail)
    if version == 3:
        model.keep_clients_local()
    client, server = model.split(fed.start)
    state = fed.memory(client=client, server=server)
    for round in fed.rounds(state):
        sent = fed.broadcast(state.client)
        if version == 2:
            clients, state.server = fit_with_one_server(fed, model, sent, state.server, round, optimizer)
            state.client = fed.merge(state.client, fed.gather(clients), weighting)
        else:
            copies = state.server.expand(sent.owners)
            clients, servers = model.fit(sent, copies, round, reset_server=optimizer == "reference")
            arrived = fed.gather(clients)
            both = model.join(arrived, servers.only(arrived.owners))
            merged = fed.merge(model.join(state.client, state.server), both, weighting)
            state.client, state.server = model.split(merged)
        yield Round({"global": model.join(state.client, state.server)})


def fit_with_one_server(
    fed: Federation, model: SplitModel, sent: Weights, server: Weights, round: RoundContext, optimizer: str
) -> tuple[Weights, Weights]:
    """SplitFedV2: all clients start from the same weights, one server half sees their batches, site after site."""
    order = stream(fed.settings.seed, "order at the server", round.number).permutation(list(round.reporting))
    server = server if optimizer == "keep" else server.without_moments()
    trained: dict[int, Weights] = {}
    for k in order.tolist():
        start = sent[sent.owners.index(k)]
        trained[k], server = model.fit_one(start, server, round, k, reset_server=optimizer == "reference")
    sites = tuple(sorted(trained))
    return stack([trained[k].without_moments() for k in sites], sites) if sites else sent.only(()), server
