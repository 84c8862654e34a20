"""Split training: a model cut between sites and a server, and the steps that both sides take together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.core import stages
from fedlab.core.memory import DeviceTimer
from fedlab.core.stages import StageLayout
from fedlab.core.weights import Weights, stack
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.local_task import Usage
from fedlab.engine.optimizers import Optimizer, optimizer_of
from fedlab.engine.split_model import Autocast, Client, Crossing, Passed, Server, each, passed_on, u_shaped, vanilla
from fedlab.federation import Federation, RoundContext
from fedlab.federation.channel import CriticalPath
from fedlab.federation.local_training import naming_site
from fedlab.learning.patches import input_shape


@dataclass(frozen=True)
class SplitOptions:
    """How both sides train, see `SplitModel.fit`."""

    part: tuple[int, int] | None = None
    keep_optimizer: bool = False
    reset_server: bool = False


class SplitModel:
    """The federation's model, cut at stage `cut`; with a `tail` the last stages are at the sites as well.

    client, server: layouts of the two sides. All that they exchange in training goes through the channel.
    """

    def __init__(self, fed: Federation, cut: int, tail: int = 0) -> None:
        count = len(stages.as_sequential(fed.execution.engine.flat.model))
        check_cut(cut, tail, count)
        back = count - tail
        self.fed, self.tail = fed, tail
        ranges = ((0, cut), (back, count)) if tail else ((0, cut),)
        self.client = stages.stage_layout(fed.layout, ranges)
        self.server = stages.stage_layout(fed.layout, ((cut, back),))
        passed = self._passed(cut, back) if tail else None
        self._client = Client(*self._side(self.client), cut, passed)
        self._server = Server(*self._side(self.server))
        self._server.passed = self._client.passed

    def _side(self, layout: StageLayout) -> tuple[FlatModel, Optimizer, Autocast]:
        """Network, optimizer and precision of one side."""
        fed = self.fed
        model = stages.submodel(fed.execution.engine.flat.model, layout.stages)
        frozen = fed.settings.batchnorm == "frozen"
        flat = FlatModel(model, layout, fed.start.vector, frozen_norm=frozen)
        decays = layout.mask("weight")[: layout.trained].to(fed.device)
        return flat, optimizer_of(fed.settings, decays), fed.execution.engine.autocast

    def _passed(self, cut: int, back: int) -> Passed:
        """What the server would only send back to the sites."""
        front, middle = (
            stages.submodel(stages.as_sequential(self.fed.execution.engine.flat.model), (part,))
            for part in ((0, cut), (cut, back))
        )
        shape = input_shape(self.fed.partition.cases.shape, self.fed.settings.crop)
        images = torch.zeros(2, *shape, dtype=self.fed.settings.dtype, device=self.fed.device)
        return passed_on(front, middle, images)

    def keep_clients_local(self) -> None:
        """Keep the client side at the sites: each has its own."""
        for first, last in self.client.stages:
            self.fed.keep_local(stages.mask(self.fed.layout, first, last))

    def join(self, client: Weights, server: Weights) -> Weights:
        """The whole model of both sides, or a stack."""
        return stages.join([client.without_moments(), server.without_moments()], self.fed.layout)

    def split(self, w: Weights) -> tuple[Weights, Weights]:
        """(client, server) sides of a model."""
        return stages.extract(w, self.client), stages.extract(w, self.server)

    def fit(
        self, clients: Weights, servers: Weights, round: RoundContext, *, reset_server: bool = False
    ) -> tuple[Weights, Weights]:
        """Both sides after the round's steps with each reporting site and its own copy of the server: two stacks.

        reset_server: the server's optimizer is reset in every step.
        """
        owners = tuple(k for k in clients.owners if k in round.reporting)
        options = SplitOptions(reset_server=reset_server)
        pairs = zip(clients.rows(owners), owners, strict=True)
        found = [self._fit(clients[row], servers[row], round, k, options) for row, k in pairs]
        self.fed.channel.path.add_parallel(path for *_, path in found)
        if not found:
            return clients.only(()).without_moments(), servers.only(()).without_moments()
        return stack([client for client, *_ in found], owners), stack([server for _, server, _ in found], owners)

    def fit_one(
        self,
        client: Weights,
        server: Weights,
        round: RoundContext,
        at: int,
        *,
        part: tuple[int, int] | None = None,
        keep_optimizer: bool = True,
        reset_server: bool = False,
    ) -> tuple[Weights, Weights]:
        """Both sides after the round's steps with the cases of one site.

        part: only the steps from .. to. keep_optimizer: both carry the state of their optimizers.
        """
        options = SplitOptions(part, keep_optimizer, reset_server)
        client, server, path = self._fit(client, server, round, at, options)
        self.fed.channel.path.add_parallel([path])
        return client, server

    def _fit(
        self, client: Weights, server: Weights, round: RoundContext, k: int, options: SplitOptions
    ) -> tuple[Weights, Weights, CriticalPath]:
        """Both sides after the steps at site k, and the critical path of these steps."""
        fed, site, engine = self.fed, self.fed.sites[k], self.fed.execution.engine
        first, last = fed.trainer.step_range(site, k, round, part=options.part)
        timer, path, samples = DeviceTimer(fed.device), CriticalPath(), 0
        self._client.load(client)
        self._server.load(fed.private.at(server, k))
        total = torch.zeros((), device=fed.device, dtype=fed.settings.dtype)
        with naming_site(site.name, round):
            for step in range(first, last):
                index = site.batches.at(step)
                rows = engine.dataset.rows(index)
                keys = [(site.batches.seed, site.name, step)]
                images, targets = engine.inputs.augment(*engine.inputs.gather(rows, [index], keys), [index], keys)
                with engine.layer_rng.at(site.name, step):
                    total += self._step(images, targets, round, k, path)
                samples += len(index)
                if options.reset_server:
                    self._server.reset_optimizer()
        usage = Usage(total, last - first, samples, timer.stop())
        weights = self._client.flat.vector.sum() + self._server.flat.vector.sum()
        fed.round_log.record_checked_training(site.name, usage, weights, lr=round.lr)
        path.add_training([usage])
        client, server = self._client.read(options.keep_optimizer), self._server.read(options.keep_optimizer)
        for side in (client, server):
            fed.private.store(k, side.without_moments())
        return client, server, path

    def _step(self, images: Tensor, targets: Tensor, round: RoundContext, k: int, path: CriticalPath) -> Tensor:
        """One batch, then a step on either side."""

        def send(crossing: Crossing, direction: str, what: str) -> Crossing:
            sizes: list[int] = []

            def deliver(tensor: Tensor) -> Tensor:
                if not tensor.numel():  # a skip connection that does not travel
                    return tensor
                arrived = self.fed.channel.send_tensor(tensor, k, direction, what)
                sizes.append(arrived.numel() * arrived.element_size())
                return arrived

            arrived = each(deliver, crossing)
            path.add_messages([sum(sizes)], same_time=what == "labels")
            return arrived

        protocol = u_shaped if self.tail else vanilla
        loss = protocol(self._client, self._server, images, targets, self.fed.task, send)
        self._client.step(round.lr)
        self._server.step(round.lr)
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
