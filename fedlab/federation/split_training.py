"""A model cut between the institutions and a server: what each side holds, and how they train together."""

import torch
from torch import Tensor

from fedlab.core import stages
from fedlab.core.memory import Stopwatch
from fedlab.core.stages import Part
from fedlab.core.weights import Weights, stack
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.local_task import Usage
from fedlab.engine.optimizers import Optimizer, optimizer_of
from fedlab.engine.split_model import Autocast, Client, Server, u_shaped, vanilla
from fedlab.federation.channel import SERVER, Path
from fedlab.federation.rounds import Rounds
from fedlab.federation.site_update import expect_finite, named
from fedlab.federation.sites import RoundContext


class Split:
    """The federation's model, cut at stage `cut`; with a `tail` its last stages are at the institutions as well.

    client, server: the layouts of the two sides. Everything that one gives the other in training crosses the wire.
    """

    def __init__(self, fed: Rounds, cut: int, tail: int = 0) -> None:
        count = len(stages.sequence(fed._engine.flat.model))
        check_cut(cut, tail, count)
        back = count - tail
        self.fed, self.tail = fed, tail
        ranges = ((0, cut), (back, count)) if tail else ((0, cut),)
        self.client = stages.part(fed.layout, ranges)
        self.server = stages.part(fed.layout, ((cut, back),))
        self._client = Client(*self._side(self.client), cut)
        self._server = Server(*self._side(self.server))

    def _side(self, layout: Part) -> tuple[FlatModel, Optimizer, Autocast]:
        fed = self.fed
        model = stages.module(fed._engine.flat.model, layout.stages)
        frozen = fed.settings.batchnorm == "frozen"
        flat = FlatModel(model, layout, fed.start.vector, frozen_norm=frozen)
        decays = layout.mask("weight")[: layout.trained].to(fed.device)
        return flat, optimizer_of(fed.settings, decays), fed._engine.autocast

    def whole(self, client: Weights, server: Weights) -> Weights:
        """Both sides put together, of one model or of a stack."""
        return stages.join([client.bare(), server.bare()], self.fed.layout)

    def sides(self, w: Weights) -> tuple[Weights, Weights]:
        """A model taken apart: (client, server)."""
        return stages.take(w, self.client), stages.take(w, self.server)

    def fit(
        self,
        client: Weights,
        server: Weights,
        r: RoundContext,
        *,
        at: int | None = None,
        part: tuple[int, int] | None = None,
        keep_optimizer: bool = False,
        fresh_server: bool = False,
    ) -> tuple[Weights, Weights]:
        """Both sides after the round's steps with one site's cases, or with each site's and its own copy of the server.

        at: the one site; without it client and server are stacks.

        part: only the steps from .. to. keep_optimizer: both carry the state of their optimizers. fresh_server: the
        server's optimizer begins afresh in every step.
        """
        how = (part, keep_optimizer, fresh_server)
        if at is not None:
            both, path = self._fit_one(client, server, r, at, *how)
            self.fed.wire.path.side_by_side([path])
            return both
        came = [k for k in client.owners if k in r.turnout.answering]
        rows = [client.owners.index(k) for k in came]
        found = [self._fit_one(client[i], server[i], r, k, *how) for i, k in zip(rows, came, strict=True)]
        self.fed.wire.path.side_by_side(path for _, path in found)
        if not found:
            return client.only(()).bare(), server.only(()).bare()
        clients, servers = (stack([both[side] for both, _ in found], tuple(came)) for side in (0, 1))
        return clients, servers

    def _fit_one(
        self, client: Weights, server: Weights, r: RoundContext, k: int, part, keep: bool, fresh: bool
    ) -> tuple:
        fed, site, engine = self.fed, self.fed.sites[k], self.fed._engine
        first, last = fed.span(r, site, k, None, part)
        watch, path, samples = Stopwatch(fed.device), Path(), 0
        self._client.load(client)
        self._server.load(fed.staying.at(server, k))
        total = torch.zeros((), device=fed.device, dtype=fed.settings.dtype)
        with named(site.name, r):
            for step in range(first, last):
                index = site.batches.at(step)
                rows = engine.store.rows(index)
                images = engine.augmented(engine.store.images(rows), [(site.batches.seed, site.name, step)])
                with engine.chance.at(site.name, step):
                    total += self._step(images, engine.store.targets[rows], r, k, path)
                samples += len(index)
                if fresh:
                    self._server.forget_moments()
        usage = Usage(total, last - first, samples, watch.stop())
        weights = self._client.flat.vector.sum() + self._server.flat.vector.sum()
        expect_finite(fed.journal, site.name, usage, weights, r, r.lr)
        path.train([usage])
        both = self._client.read(keep), self._server.read(keep)
        for w in both:
            fed.staying.store(k, w.bare())
        return both, path

    def _step(self, images: Tensor, targets: Tensor, r: RoundContext, k: int, path: Path) -> Tensor:
        """One batch, then a step on either side."""

        def wire(tensor: Tensor, direction: str, what: str) -> Tensor:
            name = self.fed.names[k]
            arrived = self.fed.wire.send(tensor, r.number, name, direction, what, SERVER)
            path.trip([arrived.numel() * arrived.element_size()], beside=what == "labels")
            return arrived

        protocol = u_shaped if self.tail else vanilla
        loss = protocol(self._client, self._server, images, targets, self.fed.task, wire)
        self._client.step(r.lr)
        self._server.step(r.lr)
        return loss


def check_cut(cut: int, tail: int, count: int) -> None:
    """Refuse a cut that leaves one side without a stage."""
    for name, value in (("cut", cut), ("tail", tail)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}: give the index of a stage")
    most = count - max(tail, 0) - 1  # the last cut that leaves the server a stage
    if tail < 0 or not 1 <= cut <= most:
        remedy = f"choose a cut from 1 to {most}" if most > 0 and tail >= 0 else f"choose a tail from 0 to {count - 2}"
        raise ValueError(
            f"cut={cut}, tail={tail} lies outside the model, which has {count} stages: {remedy}, so that either side"
            " keeps at least one"
        )
