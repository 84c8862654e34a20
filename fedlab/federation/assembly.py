"""Putting a federation together: sites with their batches, one model on one device, and what every method shares."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlab import models, protocol
from fedlab.attacks import Attack
from fedlab.engine import normalisation
from fedlab.engine.batches import Batches
from fedlab.engine.execution import Execution
from fedlab.engine.flat import FlatModel
from fedlab.engine.graphed import Graphed
from fedlab.engine.meeting import Member
from fedlab.engine.optimizers import optimizer_of
from fedlab.engine.serial import Serial
from fedlab.engine.store import Store
from fedlab.federation.journal import Journal
from fedlab.federation.local import LocalTraining
from fedlab.federation.merging import Merger
from fedlab.federation.optimizer_state import OptimizerState
from fedlab.federation.sites import ALL, Site
from fedlab.federation.staying import Staying
from fedlab.federation.wire import SERVER, Wire
from fedlab.layout import Layout
from fedlab.partition import Partition
from fedlab.tasks import Task, task_of
from fedlab.training import Training, find_device
from fedlab.turnout import Attendance, everybody

MINORITY = 0.1  # total variation between a site's classes and those of all sites, from which on it may be an outlier


class MinorityWarning(UserWarning):
    """A robust rule may take an honest site for an outlier."""


class Assembly:
    """Sites of a partition with one architecture, on one device; see `Federation`."""

    def __init__(self, partition: Partition, model: str, settings: Training, beside: Member | None = None) -> None:
        """beside: the run's place among others of the same cases that go on in step."""
        self.partition, self.settings, self.beside = partition, settings, beside
        self.task: Task = task_of(partition.cases)
        protocol.check(partition)
        self.device = find_device(settings.device)
        self.labels = partition.annotated(np.arange(len(partition.cases)))
        self.names = tuple(name for name in partition.sites if name not in partition.unseen)
        self.attack = Attack.of(settings.attack, len(self.names))
        self._taught = self._poisoned()
        self.sites = [self._site(name, partition.index(name, "train")) for name in self.names]
        self.union = self._site(ALL, np.sort(np.concatenate([s.batches.index for s in self.sites])))
        counts = np.array([site.cases for site in self.sites], np.float64)
        self.shares = counts / counts.sum()
        self.attendance = self._attendance()
        self.wire, self.journal, self.halted = Wire(), Journal(), False
        self._agree_on_statistics()
        self._engine = self._build(model)
        self.start = self._engine.flat.read()
        if self._engine.store.pixels.streamed:
            self.journal.note(
                0, "", "images streamed", "they do not fit into memory: read from a scratch file as needed"
            )
        self.execution = Execution(self._engine, lambda: self._another(model), settings.execution, beside)
        self.local = LocalTraining(self.execution, settings, self.journal)
        self.staying = Staying(self.layout, settings.batchnorm, self.start, len(self.sites))
        self.optimizers = OptimizerState(settings.local_optimizer, self.staying)
        self.merger = Merger(settings, self.names, self.journal)
        self.holder, self.turnout, self.sent = SERVER, everybody(len(self.sites)), self.start
        self._restored: dict[str, Any] = {}
        self._warn_of_minorities()

    def _site(self, name: str, index: NDArray[np.int64]) -> Site:
        batches = Batches(name, index, self.settings.batch_size, self.settings.seed)
        return Site(name, batches, self._taught[index])

    def _poisoned(self) -> NDArray[np.int64]:
        """The labels (cases,) that sites train on: as their readers wrote them, or as an attacker flips them."""
        taught = self.labels.copy()
        for k in self.attack.who if self.attack.flips_labels else ():
            index = self.partition.index(self.names[k], "train")
            taught[index] = self.task.highest_label - taught[index]
        return taught

    def _attendance(self) -> Attendance:
        s = self.settings
        rule = (s.participation, s.availability, s.stragglers, s.failures)
        return Attendance(self.names, self.shares, s.seed, *rule)

    def _warn_of_minorities(self) -> None:
        """A robust rule cannot tell a hostile site from an honest one that has other patients."""
        if self.settings.aggregate.split("(")[0] in ("mean", "clipped") or self.attack.who:
            return
        each = [np.bincount(site.labels, minlength=int(self._taught.max()) + 1) / site.cases for site in self.sites]
        apart = np.abs(np.stack(each) - self.shares @ np.stack(each)).sum(1) / 2
        if apart.max() > MINORITY:
            warnings.warn(
                f"aggregate={self.settings.aggregate!r} takes sites that differ for outliers, hostile or not, and the"
                f" classes at {self.names[int(apart.argmax())]} are {apart.max():.0%} apart from those of all sites"
                " (total variation): see each site's `influence` in run.rounds before you trust the result",
                MinorityWarning,
                stacklevel=6,  # whoever asked for the run
            )

    def _agree_on_statistics(self) -> None:
        """Before the first round: the statistics by which all sites agree to standardise their images."""
        if self.settings.normalisation == "global":
            up, down = normalisation.crossing(self.partition.cases.shape[0])
            for site in self.sites:
                self.wire.ledger.record(0, site.name, "up", "statistics", up)
                self.wire.ledger.record(0, site.name, "down", "statistics", down)

    def _build(self, text: str) -> Serial:
        """The engine: the model that `text` names, and all images."""
        settings, cases = self.settings, self.partition.cases
        model = models.build(text, cases.shape, self.task.outputs, settings.seed, settings.batchnorm)
        self.layout = Layout.of(model, pooled=settings.batchnorm == "pooled")
        return self._with(model, self._store())

    def _store(self) -> Store:
        """All images, and what is to be learnt of them; with runs beside this one, theirs."""
        there = None if self.beside is None else self.beside.meeting.store
        store = there or Store(self.partition, self.task.targets(self._taught), self.device, self.settings)
        if self.beside is not None:
            self.beside.meeting.store = store
        return store

    def _another(self, text: str) -> Serial:
        """One more engine on the same images, to train beside the first."""
        model = models.build(text, self.partition.cases.shape, self.task.outputs, 0, self.settings.batchnorm)
        return self._with(model, self._engine.store)

    def _with(self, model: nn.Sequential, store: Store) -> Serial:
        settings = self.settings
        model = model.to(device=self.device, dtype=settings.dtype)
        flat = FlatModel(model, self.layout, frozen_norm=settings.batchnorm == "frozen")
        decays = self.layout.mask("weight")[: self.layout.trained].to(self.device)
        plays = settings.execution == "graphed" or (settings.execution == "auto" and self.device.type == "cuda")
        return (Graphed if plays else Serial)(flat, store, self.task, optimizer_of(settings, decays), settings)
