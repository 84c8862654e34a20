"""The federation that an algorithm acts on: sites, one shared model, and the calls that move and train weights.

An algorithm sees `fed.fit`, the wire (`broadcast`, `gather`, `hand_over`), `fed.memory` and `fed.rounds`; where the
pixels are, how steps are executed and what normalisation layers keep at a site is decided here, for every algorithm
alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab import models, protocol
from fedlab.engine import normalisation, updates
from fedlab.engine.batches import Batches
from fedlab.engine.flat import FlatModel
from fedlab.engine.optimizers import optimizer_of
from fedlab.engine.serial import Cost, Serial, Work
from fedlab.engine.store import Store
from fedlab.partition import Partition
from fedlab.tasks import Task, task_of
from fedlab.training import Training, find_device
from fedlab.weights import Layout, Weights, stack
from fedlab.wire import Ledger

ALL = "all sites"  # the name of their union
STAYS = {  # batch normalisation policy -> kinds of coordinates that never leave a site (SiloBN arXiv:2008.07424,
    "silobn": ("mean", "variance"),  # FedBN arXiv:2102.07623)
    "params_only": ("mean", "variance", "buffer"),
    "fedbn": ("mean", "variance", "batchnorm"),
}


class DivergedError(RuntimeError):
    """Training at a site left the finite numbers; nothing was averaged."""


@dataclass(frozen=True)
class Site:
    """An institution, or the union of all of them: its training batches."""

    name: str
    batches: Batches

    @property
    def cases(self) -> int:
        return len(self.batches.index)

    def steps(self, settings: Training) -> int:
        """Optimizer steps in one round."""
        return settings.local_steps or settings.local_epochs * self.batches.per_epoch


@dataclass(frozen=True)
class Clock:
    """The present round, counted from 1, and its learning rate."""

    number: int
    lr: float


@dataclass(frozen=True)
class Ensemble:
    """Several models that answer together by the weighted mean of their probabilities."""

    models: Weights
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Localised:
    """A shared model and, as a stack (K, ...), what it is at each site with the normalisation that stays there."""

    shared: Weights
    sites: Weights


Model = Weights | Ensemble | Localised


@dataclass(frozen=True)
class Round:
    """What a round leaves behind. "global": a model or an ensemble for all sites; "local": each site's own (K, ...)."""

    models: dict[str, Weights | Ensemble]


class Federation:
    """Sites of a partition with one architecture, on one device.

    sites: those that train, in ascending order; unseen ones are not among them. shares: n_k / N, float64 (K,). start:
    initial weights, alike everywhere. union: all training cases as one site. labels: (cases,) as the sites' readers
    wrote them. updates: how far the sites' updates of the present round point apart, see `engine.updates`.
    """

    def __init__(self, partition: Partition, model: str, settings: Training) -> None:
        self.partition, self.settings = partition, settings
        self.task: Task = task_of(partition.cases)
        protocol.check(partition)
        self.device = find_device(settings.device)
        self.labels = partition.annotated(np.arange(len(partition.cases)))
        trained = [name for name in partition.sites if name not in partition.unseen]
        self.sites = [self._site(name, partition.index(name, "train")) for name in trained]
        self.union = self._site(ALL, np.sort(np.concatenate([s.batches.index for s in self.sites])))
        counts = np.array([site.cases for site in self.sites], np.float64)
        self.shares = counts / counts.sum()
        self.ledger = self._opened()
        self.costs: dict[str, Cost] = {}
        self.updates: dict[str, float] = {}
        self.halted = False
        self._restored: dict[str, Any] = {}
        self._engine = self._build(model)
        self.layout = self._engine.flat.layout
        self.start = self._engine.flat.read()
        self._stays = self.layout.mask(*STAYS.get(settings.batchnorm, ())).to(self.device)
        self._staying = int(self._stays.sum())
        shared = ~self._stays[: self.layout.parameters]
        self._shared = None if bool(shared.all()) else shared
        self._own: Weights | None = None

    def _site(self, name: str, index: NDArray[np.int64]) -> Site:
        return Site(name, Batches(name, index, self.settings.batch_size, self.settings.seed))

    def _opened(self) -> Ledger:
        """The ledger before the first round: the statistics by which all sites agree to standardise their images."""
        ledger = Ledger()
        if self.settings.normalisation == "global":
            up, down = normalisation.crossing(self.partition.cases.shape[0])
            for site in self.sites:
                ledger.record(0, site.name, "up", "statistics", up)
                ledger.record(0, site.name, "down", "statistics", down)
        return ledger

    def _build(self, text: str) -> Serial:
        settings, cases = self.settings, self.partition.cases
        model = models.build(text, cases.shape, self.task.outputs, settings.seed, settings.batchnorm)
        layout = Layout.of(model, pooled=settings.batchnorm == "pooled")
        model = model.to(device=self.device, dtype=settings.dtype)
        flat = FlatModel(model, layout, frozen_norm=settings.batchnorm == "frozen")
        store = Store(self.partition, self.task.targets(self.labels), self.device, settings)
        decays = layout.mask("weight")[: layout.parameters].to(self.device)
        return Serial(flat, store, self.task, optimizer_of(settings, decays), settings)

    # -- rounds and memory ---------------------------------------------------------------------------------------

    def memory(self, **initial: Any) -> SimpleNamespace:
        """What a checkpoint must hold: the values given, or those of the round at which a killed run stopped."""
        self._memory = SimpleNamespace(**{"round": 0, **initial, **self._restored})
        return self._memory

    def rounds(self, memory: SimpleNamespace) -> Iterator[Clock]:
        """The rounds still to do."""
        while memory.round < self.settings.rounds and not self.halted:
            memory.round += 1
            self.costs, self.updates = {}, {}
            yield Clock(memory.round, self.settings.lr_at(memory.round))

    @property
    def round(self) -> int:
        """The number of the round that was begun last."""
        return int(self._memory.round)

    def halt(self) -> None:
        """Let the present round be the last one."""
        self.halted = True

    def snapshot(self) -> dict[str, Any]:
        """Everything a resumed run needs: the algorithm's memory and what stays at the sites."""
        return {**vars(self._memory), "_own": self._own}

    def restore(self, memory: dict[str, Any], ledger: list[tuple[int, str, str, str, int]]) -> None:
        """Go on from a snapshot."""
        self._own = memory.pop("_own")
        self._restored, self.ledger.rows = memory, ledger

    # -- training ------------------------------------------------------------------------------------------------

    def fit(
        self,
        start: Weights,
        r: Clock,
        *,
        at: int | Site | None = None,
        steps: int | None = None,
        pull: tuple[float, Weights] | None = None,
        shift: Tensor | None = None,
        keep_optimizer: bool = False,
    ) -> Weights:
        """Local training of all sites from their starts (K, ...), or of one site `at` from one start.

        pull: (mu, anchor) adds mu (w - anchor) to every gradient; shift: added to every gradient, (P,) or (K, P).
        steps: optimizer steps in this round, instead of the experiment's. With keep_optimizer the result carries the
        optimizer's state, and a start that carries one goes on with it.
        """
        if at is not None:
            return self._fit_one(start, r, at, steps, pull, shift, keep_optimizer)
        room = start.bare().blank()
        each = [
            self._fit_one(start[k], r, k, steps, _of_site(pull, k), _row(shift, k), keep_optimizer, room[k])
            for k in range(len(start))
        ]
        trained = room if each[0].moments is None else stack(each)
        self._measure_updates(start, trained)
        return trained

    def _measure_updates(self, start: Weights, trained: Weights) -> None:
        """Of the round's first training of all sites from one start, over the parameters that they share."""
        if not self.updates and updates.common(start.parameters, self._shared):
            products = updates.gram(start.parameters[0], trained.parameters, self._shared)
            self.updates = updates.measures(products, self.shares)

    def _fit_one(self, start, r: Clock, at: int | Site, steps, pull, shift, keep: bool, room=None) -> Weights:
        site = self.sites[at] if isinstance(at, int) else at
        count = steps or site.steps(self.settings)
        anchor = None if pull is None else (pull[0], pull[1].parameters)
        work = Work(site.batches, (r.number - 1) * count, count, r.lr, anchor, shift)
        try:
            result = self._engine.fit(start, work, keep)
        except ValueError as error:
            raise ValueError(
                f"{site.name}, round {r.number}: {error}; a batch of one case may leave batch normalisation nothing to"
                " average over: use a larger `batch_size`, larger sites, or batchnorm='group'"
            ) from error
        loss = result.cost.loss
        if not (np.isfinite(loss) and bool(torch.isfinite(self._engine.flat.vector.sum()))):
            raise DivergedError(
                f"{site.name}, round {r.number}: training diverged (mean loss {loss:.3g}) at lr={r.lr:g}:"
                " lower `lr` (try a tenth), or shorten local work; nothing of this round was averaged"
            )
        self.costs[site.name] = result.cost
        trained = self._engine.flat.read(into=room)
        if isinstance(at, int):
            self._keep_own(at, trained)
        if result.moments is None:
            return trained
        return replace(trained, moments=result.moments.vectors, clock=torch.tensor(result.moments.clock))

    # -- the wire ------------------------------------------------------------------------------------------------

    def broadcast(self, w: Weights) -> Weights:
        """One model to all sites: a stack (K, ...). What stays at a site is the site's own there."""
        for site in self.sites:  # weights cross, server to site
            self.ledger.record(self.round, site.name, "down", "weights", self._crossing(w.bare()))
        if self._own is None:
            return w.bare().expand(len(self.sites))
        return stack([self.at_site(w.bare(), k) for k in range(len(self.sites))])

    def gather(self, back: Weights) -> Weights:
        """All sites' models to the server."""
        for site in self.sites:  # weights cross, site to server
            self.ledger.record(self.round, site.name, "up", "weights", self._crossing(back[0].bare()))
        return back.bare()

    def hand_over(self, w: Weights, to: int) -> Weights:
        """One model, with the optimizer state that it carries, to the next site."""
        nbytes = self._crossing(w)  # weights cross, site to site
        self.ledger.record(self.round, self.sites[to].name, "peer", "weights", nbytes)
        return self.at_site(w, to)

    def _crossing(self, w: Weights) -> int:
        """Bytes of one model without the part that stays at the site."""
        staying = self._staying * w.vector.element_size()
        counters = w.counts.numel() * w.counts.element_size() if staying else 0
        return w.nbytes - staying - counters

    # -- models at sites -----------------------------------------------------------------------------------------

    def at_site(self, w: Weights, k: int) -> Weights:
        """The shared model as site k uses it: with the normalisation that stays there."""
        if self._own is None:
            return w
        vector = torch.where(self._stays, self._own.vector[k], w.vector)
        return replace(w, vector=vector, counts=self._own.counts[k].clone())

    def localised(self, model: Weights | Ensemble) -> Model:
        """The model to evaluate: together with what it is at each site, where sites keep a part of it to themselves."""
        if isinstance(model, Ensemble):
            return Ensemble(model.models.bare(), model.shares)
        if self._own is None or model.stacked:
            return model.bare()
        return Localised(model.bare(), stack([self.at_site(model.bare(), k) for k in range(len(self.sites))]))

    def predict(self, model: Weights | Ensemble, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities (n, classes) of one model or an ensemble for these cases."""
        if isinstance(model, Ensemble):
            each = [self._engine.predict(model.models[k], index) for k in range(len(model.models))]
            return np.tensordot(model.shares, np.stack(each), 1)
        return self._engine.predict(model, index)

    def _keep_own(self, k: int, w: Weights) -> None:
        if not self._staying:
            return
        if self._own is None:
            first = self.start.expand(len(self.sites))
            self._own = Weights(self.layout, first.vector.clone(), first.counts.clone())
        self._own.vector[k] = w.vector
        self._own.counts[k] = w.counts


def _of_site(pull: tuple[float, Weights] | None, k: int) -> tuple[float, Weights] | None:
    if pull is None or not pull[1].stacked:
        return pull
    return pull[0], pull[1][k]


def _row(shift: Tensor | None, k: int) -> Tensor | None:
    return shift if shift is None or shift.ndim == 1 else shift[k]
