"""Split learning: the first stages of the model are at the institutions, the others at a server.

The two sides meet only in tensors that cross the wire: activations and labels up, gradients down; with a tail at the
institutions features down and gradients up in the place of labels. `halves` is the cut model, `client` and `server` the
weights of its sides.
"""

from collections.abc import Iterator

from fedlab.algorithms.cyclic import ORDERS, visits
from fedlab.algorithms.registry import algorithm
from fedlab.core.registry import choose
from fedlab.core.rng import stream
from fedlab.core.weights import Weights, mix, stack
from fedlab.federation import Federation, Round, RoundContext
from fedlab.federation.split_training import Split


@algorithm
def split(
    fed: Federation, cut: int = 1, tail: int = 0, handover: str = "peer", turns: str = "site", order: str = "fixed",
    optimizer: str = "travel",
) -> Iterator[Round]:  # fmt: skip
    """Split learning: institutions take turns at a model whose other half is at a server (Gupta & Raskar 2018).

    arXiv:1810.06060; Vepakomma 2018, arXiv:1812.00564. cut: stages 0 .. cut - 1 are at the institutions. tail: so many
    last stages as well, so that labels never leave (U-shaped); 0 sends labels. handover: the client's weights go to the
    next institution directly ("peer"), through the "server", which then sees them, or not at all ("none": each has its
    own). turns: whole rounds of a "site", or one "batch" each (Gawali 2020, arXiv:2012.12591). optimizer: the client's
    state travels with its weights or is "reset" at each turn; the server's goes on. order: as in `cyclic`, which turns
    of sites with hand-over and plain SGD are, bit for bit.
    """
    choose("handover", handover, ("peer", "server", "none"))
    choose("turns", turns, ("site", "batch"))
    choose("order", order, ORDERS)
    choose("optimizer", optimizer, ("travel", "reset"))
    halves = fed.split(cut, tail)
    own = handover == "none"
    if own:
        fed.keep_part(halves.client)
    client, server = halves.sides(fed.start)
    s = fed.memory(client=client.expand(len(fed.sites)) if own else client, server=server)
    for r in fed.rounds(s):
        for k, part in turns_of(fed, r, order, turns):
            client = s.client.bare() if optimizer == "reset" else s.client
            here = client[k] if own else handed(fed, client, k, handover)
            there, s.server = halves.fit(here, s.server, r, at=k, part=part, keep_optimizer=True)
            s.client = s.client.put(stack([there], (k,))) if own else there
            if turns == "site":
                fed.watch(halves.whole(s.client[k] if own else s.client, s.server), fed.names[k])
        shared = mix(s.client.bare(), fed.shares) if own else s.client
        yield Round({"global": halves.whole(shared, s.server)})


def turns_of(fed: Federation, r: RoundContext, order: str, turns: str) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """(site, its steps) in the order of turns; alternate batches end with the data of each site."""
    sites = visits(fed, order, r)
    if turns == "site":
        yield from ((k, None) for k in sites)
        return
    spans = {k: fed.span(r, fed.sites[k], k, None, None) for k in sites}
    steps = {k: last - first for k, (first, last) in spans.items()}
    for step in range(max(steps.values(), default=0)):
        yield from ((k, (step, step + 1)) for k in sites if step < steps[k])


def handed(fed: Federation, client: Weights, k: int, handover: str) -> Weights:
    """The client's weights at the institution whose turn it is."""
    if handover == "peer":
        return fed.hand_over(client, to=k)
    fed.to_server(client)
    return fed.from_server(client, k)


@algorithm
def splitfed(
    fed: Federation, version: int = 1, cut: int = 1, tail: int = 0, optimizer: str = "reset", weighting: str = "cases"
) -> Iterator[Round]:
    """Split and federated learning: institutions work side by side, halves are averaged (Thapa 2022).

    arXiv:2004.12088. version=1: the server keeps a copy of its half for each site and averages them, as clients are
    averaged: fedavg, bit for bit. version=2: one server half that learns from one site after the other, in random
    order. version=3: clients are never averaged (Gawali 2020, arXiv:2012.12591): lg_fedavg. optimizer: "reset" in every
    round; "keep": the server's goes on over rounds in version 2; "reference": the server's begins afresh in every step,
    as in the authors' code, where Adam then takes steps of plus or minus lr. cut, tail: as in `split`. Departs: weights
    of the mean by cases.
    """
    choose("version", version, (1, 2, 3))
    choose("optimizer", optimizer, ("reset", "keep", "reference"))
    halves = fed.split(cut, tail)
    if version == 3:
        fed.keep_part(halves.client)
    client, server = halves.sides(fed.start)
    s = fed.memory(client=client, server=server)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.client)
        if version == 2:
            clients, s.server = one_server(fed, halves, sent, s.server, r, optimizer)
            s.client = fed.merge(s.client, fed.gather(clients), weighting)
        else:
            copies = s.server.expand(sent.owners)
            clients, servers = halves.fit(sent, copies, r, fresh_server=optimizer == "reference")
            arrived = fed.gather(clients)
            both = halves.whole(arrived, servers.only(arrived.owners))
            s.client, s.server = halves.sides(fed.merge(halves.whole(s.client, s.server), both, weighting))
        yield Round({"global": halves.whole(s.client, s.server)})


def one_server(
    fed: Federation, halves: Split, sent: Weights, server: Weights, r: RoundContext, optimizer: str
) -> tuple[Weights, Weights]:
    """SplitFedV2: all clients from the same weights, one server half that sees their batches site after site."""
    order = stream(fed.settings.seed, "order at the server", r.number).permutation(list(r.turnout.answering))
    server = server if optimizer == "keep" else server.bare()
    found: dict[int, Weights] = {}
    for k in order.tolist():
        here = sent[sent.owners.index(k)]
        fresh = optimizer == "reference"
        found[k], server = halves.fit(here, server, r, at=k, keep_optimizer=True, fresh_server=fresh)
    who = tuple(sorted(found))
    return stack([found[k].bare() for k in who], who) if who else sent.only(()), server
