"""Putting a federation together: sites with their batches, one model on one device, and what every method shares."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlab.core.layout import Layout
from fedlab.core.warnings import MinorityWarning, warn
from fedlab.engine import pixel_normalisation
from fedlab.engine.batches import Batches
from fedlab.engine.cuda_graph import CudaGraphEngine
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.engine.devices import find_device
from fedlab.engine.dispatch import Execution
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.optimizers import optimizer_of
from fedlab.engine.seed_batching import LockstepRun
from fedlab.federation.attacks import Attack
from fedlab.federation.channel import SERVER, Channel
from fedlab.federation.local_parameters import LocalParameters
from fedlab.federation.optimizer_state import OptimizerState
from fedlab.federation.participation import Participation, everybody
from fedlab.federation.round_log import RoundLog
from fedlab.federation.server import Aggregator
from fedlab.federation.site_update import LocalTraining
from fedlab.federation.sites import ALL, Site
from fedlab.learning import models
from fedlab.learning.settings import Training
from fedlab.learning.tasks import Task, task_of
from fedlab.partitioning import validation
from fedlab.partitioning.partitions import Partition

MINORITY = 0.1  # total variation between a site's classes and those of all sites, from which on it may be an outlier


class Assembly:
    """Sites of a partition with one architecture, on one device; see `Federation`."""

    def __init__(self, partition: Partition, model: str, settings: Training, beside: LockstepRun | None = None) -> None:
        """beside: the run's place among others of the same cases that go on in step."""
        self.partition, self.settings, self.beside = partition, settings, beside
        self.task: Task = task_of(partition.cases)
        validation.check(partition)
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
        self.wire, self.journal, self.halted = Channel(), RoundLog(), False
        self._agree_on_statistics()
        self._engine = self._build(model)
        self.start = self._engine.flat.read()
        if self._engine.store.pixels.streamed:
            self.journal.note(
                0, "", "images streamed", "they do not fit into memory: read from a scratch file as needed"
            )
        self.execution = Execution(self._engine, lambda: self._another(model), settings.execution, beside)
        self.local = LocalTraining(self.execution, settings, self.journal)
        self.staying = LocalParameters(self.layout, settings.batchnorm, self.start, len(self.sites))
        self.optimizers = OptimizerState(settings.local_optimizer, self.staying)
        self.merger = Aggregator(settings, self.names, self.journal)
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

    def _attendance(self) -> Participation:
        s = self.settings
        rule = (s.participation, s.availability, s.stragglers, s.failures)
        return Participation(self.names, self.shares, s.seed, *rule)

    def _warn_of_minorities(self) -> None:
        """A robust rule cannot tell a hostile site from an honest one that has other patients."""
        if self.settings.aggregate.split("(")[0] in ("mean", "clipped") or self.attack.who:
            return
        each = [np.bincount(site.labels, minlength=int(self._taught.max()) + 1) / site.cases for site in self.sites]
        apart = np.abs(np.stack(each) - self.shares @ np.stack(each)).sum(1) / 2
        if apart.max() > MINORITY:
            warn(
                f"aggregate={self.settings.aggregate!r} may reject sites that merely differ: the"
                f" classes at {self.names[int(apart.argmax())]} are {apart.max():.0%} apart from those of all sites"
                " (total variation): see each site's `influence` in run.rounds before you trust the result",
                MinorityWarning,
            )

    def _agree_on_statistics(self) -> None:
        """Before the first round: the statistics by which all sites agree to standardise their images."""
        if self.settings.normalisation == "global":
            up, down = pixel_normalisation.crossing(self.partition.cases.shape[0])
            for site in self.sites:
                self.wire.ledger.record(0, site.name, "up", "statistics", up)
                self.wire.ledger.record(0, site.name, "down", "statistics", down)

    def _build(self, text: str) -> SequentialEngine:
        """The engine: the model that `text` names, and all images."""
        settings, cases = self.settings, self.partition.cases
        model = models.build(text, cases.shape, self.task.outputs, settings.seed, settings.batchnorm)
        self.layout = Layout.of(model, pooled=settings.batchnorm == "pooled")
        return self._with(model, self._store())

    def _store(self) -> DeviceDataset:
        """All images, and what is to be learnt of them; with runs beside this one, theirs."""
        there = None if self.beside is None else self.beside.meeting.store
        store = there or DeviceDataset(self.partition, self.task.targets(self._taught), self.device, self.settings)
        if self.beside is not None:
            self.beside.meeting.store = store
        return store

    def _another(self, text: str) -> SequentialEngine:
        """One more engine on the same images, to train beside the first."""
        model = models.build(text, self.partition.cases.shape, self.task.outputs, 0, self.settings.batchnorm)
        return self._with(model, self._engine.store)

    def _with(self, model: nn.Sequential, store: DeviceDataset) -> SequentialEngine:
        settings = self.settings
        model = model.to(device=self.device, dtype=settings.dtype)
        flat = FlatModel(model, self.layout, frozen_norm=settings.batchnorm == "frozen")
        decays = self.layout.mask("weight")[: self.layout.trained].to(self.device)
        plays = settings.execution == "cuda_graph" or (settings.execution == "auto" and self.device.type == "cuda")
        return (CudaGraphEngine if plays else SequentialEngine)(
            flat, store, self.task, optimizer_of(settings, decays), settings
        )
