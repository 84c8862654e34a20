"""Federation: what a method sees. It broadcasts, trains, gathers and merges models in rounds.

A federation is composed of parts, each of which owns its state:

* `schedule`: rounds and the method's memory
* `channel`: ledger, critical path, hooks, the holder of a travelling model
* `server`: broadcast and merge, with `aggregate`, `attack` and `secure_sum` of the settings
* `trainer`: local training; `predictor`: predictions; `execution`: the engines that both use
* `private`: parameters that stay at the sites; `optimizers`: their optimizer state between rounds
* `participation`: which sites take part in which round
* `round_log`: losses, resource use, logged numbers, events

The parts apply the settings, so that each of them works for every method.
"""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fedlab.core.layout import Layout
from fedlab.core.memory import to_device
from fedlab.core.typing import Bools, Floats, Ints
from fedlab.core.warnings import MinorityWarning, warn
from fedlab.core.weights import Weights
from fedlab.engine import pixel_normalisation
from fedlab.engine.batches import Batches
from fedlab.engine.cuda_graph import CudaGraphEngine
from fedlab.engine.device_dataset import DeviceDataset, StreamedImages
from fedlab.engine.devices import find_device
from fedlab.engine.dispatch import Execution
from fedlab.engine.flat_model import FlatModel, share_frozen
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.model_check import ModelCheck, Needs
from fedlab.engine.optimizers import optimizer_of
from fedlab.engine.seed_batching import LockstepRun
from fedlab.federation.attacks import Attack
from fedlab.federation.channel import Channel
from fedlab.federation.local_training import Corrections, Features, LocalTraining, Options, StepRange
from fedlab.federation.participation import Participation
from fedlab.federation.predictor import Predictor
from fedlab.federation.round_log import RoundLog
from fedlab.federation.rounds import Ensemble, RoundContext, Schedule
from fedlab.federation.server import Server
from fedlab.federation.settings import FederationSettings
from fedlab.federation.sites import ALL, LocalParameters, OptimizerStates, Site
from fedlab.learning import models, networks, pretrained, target_scale, trainable
from fedlab.learning.metrics import HIGHER_IS_BETTER
from fedlab.learning.patches import check_sizes, input_shape
from fedlab.learning.tasks import Task, task_of, with_balanced_loss, with_scale
from fedlab.partitioning import validation
from fedlab.partitioning.partitions import Partition

MINORITY = 0.1  # total variation between a site's classes and those of all sites above which a rule may reject it


class Federation:
    """Sites of a partition with one model architecture on one device: what a method works on.

    Parameters
    ----------
    partition : Partition
        Cases, sites and splits. Held-out sites do not train.
    model : str
        A name of `fedlab.MODELS`, with options: "small_cnn(width=32)".
    settings : FederationSettings
        Local training, participation, merging and attacks; `fedlab.Experiment` is one.
    seed_batch : LockstepRun, optional
        The place of this run among runs of other seeds that train in lock-step.

    Attributes
    ----------
    sites : list of Site
        Training sites in ascending order; `union` is the site of all their cases.
    names : tuple of str
        Their names.
    shares : ndarray of float64, shape (K,)
        n_k / N, the shares of training cases.
    start : Weights
        Initial model, the same at every site.
    layout : Layout
        Where each tensor of the model is in the flat vector.
    labels : ndarray of int64, shape (cases,)
        Labels as the annotators of each site wrote them.
    ledger : Ledger
        Bytes and messages that crossed so far.
    weights_version : str
        Hash of the file of weights that `start` comes from; empty if there is none.

    Examples
    --------
    Federated averaging for one round, written with the calls of a method:

    >>> import fedlab
    >>> from fedlab.federation import Federation
    >>> from fedlab.federation.settings import FederationSettings
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=80)"), sites=2)
    >>> fed = Federation(part, "logistic", FederationSettings(rounds=1, local_steps=1, device="cpu"))
    >>> state = fed.memory(w=fed.start)
    >>> for round in fed.rounds(state):
    ...     sent = fed.broadcast(state.w)
    ...     state.w = fed.merge(state.w, fed.gather(fed.fit(sent, round)))
    >>> sorted(set(fed.ledger.frame()["direction"]))
    ['down', 'up']
    """

    def __init__(
        self, partition: Partition, model: str, settings: FederationSettings, seed_batch: LockstepRun | None = None
    ) -> None:
        self.partition, self.settings = partition, settings
        self.task: Task = task_of(partition.cases, settings.loss, settings.class_weights)
        check_sizes(partition.cases, settings.crop)
        validation.check(partition)
        self.device = find_device(settings.device)
        self.labels = partition.annotated_labels(np.arange(len(partition.cases)))
        self.names = tuple(name for name in partition.sites if name not in partition.unseen)
        attack = Attack.of(settings.attack, len(self.names))
        if attack.flips_labels and self.task.dense:
            raise ValueError(
                f"attack={settings.attack!r} flips the labels of cases, and a segmentation task learns from masks:"
                " choose an attack on the models, such as 'signflip'"
            )
        if attack.flips_labels and self.task.numeric:
            raise ValueError(
                f"attack={settings.attack!r} flips the labels of cases, and a regression learns numbers: choose an"
                " attack on the models, such as 'signflip'"
            )
        targets = self._training_labels(attack)
        self.sites = [self._site(name, partition.index(name, "train"), targets) for name in self.names]
        self._standardise_targets()
        everything = np.sort(np.concatenate([site.batches.index for site in self.sites]))
        self.union = self._site(ALL, everything, targets)
        counts = np.array([site.cases for site in self.sites], np.float64)
        self.shares = counts / counts.sum()
        s = settings
        scheme = s.participation, s.availability, s.stragglers, s.failures
        self.participation = Participation(self.names, self.shares, s.seed, *scheme)
        self.schedule, self.round_log = Schedule(settings, self.participation), RoundLog()
        self._file = None if s.weights is None else pretrained.read(s.weights)
        self._left_out: tuple[str, ...] = ()
        self.weights_version = "" if self._file is None else self._file.version
        engine = self._engine(model, targets, seed_batch)
        self._file = None
        self.layout, self.start = engine.flat.layout, engine.flat.read()
        self.private = LocalParameters(self.layout, settings.batchnorm, self.start, len(self.sites))
        self.optimizers = OptimizerStates(settings.local_optimizer, self.private)
        self.channel = Channel(self.names, self.private)
        self.ledger = self.channel.ledger
        self.execution = Execution(engine, lambda: self._another_engine(model, engine), settings.execution, seed_batch)
        self.trainer = LocalTraining(
            execution=self.execution,
            settings=settings,
            sites=self.sites,
            shares=self.shares,
            private=self.private,
            optimizers=self.optimizers,
            channel=self.channel,
            log=self.round_log,
        )
        self.server = Server(
            settings=settings,
            names=self.names,
            shares=self.shares,
            participation=self.participation,
            attack=attack,
            schedule=self.schedule,
            private=self.private,
            optimizers=self.optimizers,
            channel=self.channel,
            log=self.round_log,
            sent=self.start,
        )
        self.predictor = Predictor(
            task=self.task,
            cases=[partition.index(name, "val") for name in self.names],
            targets=self.task.targets(partition.cases.targets if self.task.numeric else self.labels),
            private=self.private,
            execution=self.execution,
            log=self.round_log,
        )
        self._exchange_statistics()
        if isinstance(engine.dataset.pixels, StreamedImages):
            self.round_log.record_event("images streamed", engine.dataset.pixels.reason)
        self._warn_of_minorities(targets)
        self._warn_of_a_new_head()

    # -- construction ------------------------------------------------------------------------------------------------

    def _training_labels(self, attack: Attack) -> NDArray[np.int64]:
        """Labels (cases,) that sites train on: the annotators', or flipped by an attack."""
        labels = self.labels.copy()
        for k in attack.sites if attack.flips_labels else ():
            index = self.partition.index(self.names[k], "train")
            labels[index] = self.task.highest_label - labels[index]
        return labels

    def _standardise_targets(self) -> None:
        """Standardise the targets of a regression by what sites say of theirs, or as the settings say."""
        if self.task.numeric:
            cases, setting = self.partition.cases, self.settings.target_scale
            moments = [target_scale.Moments.of(cases.targets[site.batches.index]) for site in self.sites]
            self.task = with_scale(self.task, target_scale.scale_of(setting, moments, cases.target))

    def _model_targets(self, labels: Ints) -> NDArray[Any] | None:
        """What models learn of each case: classes, or standardised numbers; None for masks."""
        if self.task.numeric:
            found = self.task.scale.standardised(self.partition.cases.targets)
            return found.astype(np.float64 if self.settings.precision == "float64" else np.float32)
        return None if self.task.dense else self.task.targets(labels)

    def _site(self, name: str, index: Ints, labels: Ints) -> Site:
        """The site with these training cases."""
        batches = Batches(name, index, self.settings.batch_size, self.settings.seed)
        return Site(name, batches, labels[index])

    def _engine(self, model: str, labels: Ints, seed_batch: LockstepRun | None) -> SequentialEngine:
        """The engine of the model, with all images; runs in lock-step share them."""
        dataset = None if seed_batch is None else seed_batch.scheduler.dataset
        needs = self._needs(model)
        flat = self._flat_model(model, self.settings.seed, needs)
        if dataset is None:
            dataset = DeviceDataset(self.partition, self._model_targets(labels), self.device, self.settings)
        self._balance_classes(dataset)
        if seed_batch is not None:
            seed_batch.scheduler.dataset = dataset
        return self._engine_of(flat, needs, dataset)

    def _balance_classes(self, dataset: DeviceDataset) -> None:
        """Weigh classes by their counts in the training cases, or voxels, of all sites, which these exchange."""
        if self.settings.class_weights != "balanced":
            return
        rows, targets = dataset.rows(self.union.batches.index), dataset.targets
        if self.task.dense:
            parts = rows.split(64 if dataset.extents is None else 1)
            counts = sum(self.task.voxels(dataset.whole_targets(part)) for part in parts)
        elif self.task.name == "multilabel":
            counts = targets[rows].sum(0)
        else:
            counts = torch.bincount(targets[rows], minlength=len(self.task.classes))
        self.task = with_balanced_loss(self.task, self.settings.loss, counts.tolist())  # type: ignore[union-attr]

    def _another_engine(self, model: str, first: SequentialEngine) -> SequentialEngine:
        """One more engine on the same images, to train sites in parallel."""
        flat = self._flat_model(model, self.settings.seed, first.needs, first.flat)
        return self._engine_of(flat, first.needs, first.dataset)

    def _needs(self, model: str) -> Needs:
        """What the model needs, found by trying it; ValueError if it cannot be trained."""
        return ModelCheck(
            name=model,
            function=models.MODELS.parse(model, given=2)[0],
            make=lambda seed, needs: self._flat_model(model, seed, needs),
            start=(self.settings.trainable, trainable.version(self.settings.trainable), self.weights_version),
            frozen=self.settings.trainable != "all",
            shape=input_shape(self.partition.cases.shape, self.settings.crop),
            task=self.task,
            settings=self.settings,
            device=self.device,
            single=any(site.batches.size == 1 for site in self.sites),
        ).needs()

    def _flat_model(self, model: str, seed: int, needs: Needs, first: FlatModel | None = None) -> FlatModel:
        """The network with the weights of the file, or the initial ones of this seed, on the device.

        first: another copy, which has the same frozen tensors and the same layout.
        """
        settings = self.settings
        about = input_shape(self.partition.cases.shape, settings.crop), self.task.outputs
        found = networks.network(model, settings, *about, seed=seed, dense=self.task.dense, file=self._file)
        built = found.model.to(device=self.device)
        if first is None:
            pooled = settings.batchnorm == "pooled"
            layout = Layout.of(built, pooled=pooled, channels_last=needs.channels_last)
            self._left_out = found.left_out
        else:
            layout = first.layout
            share_frozen(first.model, built)
        needs.prepare(built)
        return FlatModel(built, layout, frozen_norm=settings.batchnorm == "frozen")

    def _engine_of(self, flat: FlatModel, needs: Needs, dataset: DeviceDataset) -> SequentialEngine:
        """The engine that trains this network on these images."""
        settings, layout = self.settings, flat.layout
        decays = layout.mask("weight")[: layout.trained].to(self.device)
        graphs = settings.execution == "cuda_graph" or (settings.execution == "auto" and self.device.type == "cuda")
        kind = CudaGraphEngine if graphs else SequentialEngine
        return kind(flat, dataset, self.task, optimizer_of(settings, decays), settings, needs)

    def _exchange_statistics(self) -> None:
        """Count what sites exchange before the first round: statistics of intensities and targets, class counts."""
        sizes = []
        if self.settings.normalisation == "global":
            sizes.append(pixel_normalisation.statistics_bytes(self.partition.cases.shape[0]))
        if self.settings.class_weights == "balanced":  # counts go up, weights down
            sizes.append((8 * self.task.weighted_classes, 8 * self.task.weighted_classes))
        if self.task.numeric and self.settings.target_scale == target_scale.POOLED:
            sizes.append((target_scale.SENT, target_scale.RECEIVED))
        for up, down in sizes:
            for name in self.names:
                self.ledger.record(0, name, "up", "statistics", up)
                self.ledger.record(0, name, "down", "statistics", down)

    def _warn_of_a_new_head(self) -> None:
        """Warn and record that the last stage does not come from the file of weights."""
        if self._left_out:
            what = f"the last stage ({', '.join(self._left_out)}) of weights={self.settings.weights!r} does not fit"
            self.round_log.record_event("head not loaded", f"{what}: it keeps its initial weights")
            warn(f"{what}, and keeps its initial weights; all before it is taken over")

    def _warn_of_minorities(self, labels: Ints) -> None:
        """Warn that a robust rule cannot tell a malicious site from an honest one with other patients."""
        rule = self.settings.aggregate
        if rule.split("(")[0] in ("mean", "clipped") or self.server.attack.sites:
            return
        each = [np.bincount(site.labels, minlength=int(labels.max()) + 1) / site.cases for site in self.sites]
        apart = np.abs(np.stack(each) - self.shares @ np.stack(each)).sum(1) / 2
        if apart.max() > MINORITY:
            warn(
                f"aggregate={rule!r} may reject sites that merely differ: the classes at"
                f" {self.names[int(apart.argmax())]} are {apart.max():.0%} apart from those of all sites (total"
                " variation): see each site's `influence` in run.rounds before you trust the result",
                MinorityWarning,
            )

    # -- rounds ------------------------------------------------------------------------------------------------------

    def memory(self, **initial: Any) -> SimpleNamespace:
        """State of the method between rounds, which a checkpoint stores.

        Parameters
        ----------
        **initial
            Name and initial value of each: weights, dense tensors, arrays, numbers, text, or lists, tuples and dicts
            of these.

        Returns
        -------
        SimpleNamespace
            Attributes of these names; in a resumed run with the values after its last complete round.
        """
        state = self.schedule.memory(**initial)
        self.channel.begin(self.schedule.number)
        self.round_log.number = self.schedule.number
        return state

    def rounds(self, state: SimpleNamespace, *, synchronous: bool = True) -> Iterator[RoundContext]:
        """Iterate over the rounds that are left.

        Parameters
        ----------
        state : SimpleNamespace
            From `memory`.
        synchronous : bool, default True
            Whether sites take part in common rounds. With False every site trains in every round, and the settings
            of participation have no effect.

        Yields
        ------
        RoundContext
            `number` from 1, learning rate `lr`, and the positions of `available` and `reporting` sites.
        """
        if synchronous and self.participation.impossible:
            s = self.settings
            warn(
                f"no site can ever report (availability={s.availability!r}, stragglers={s.stragglers!r},"
                f" failures={s.failures!r}), so nothing is trained together: raise availability, or lower the others"
            )
        for context in self.schedule.rounds(state, synchronous):
            self.round_log.begin(context.number)
            self.channel.begin(context.number)
            self.round_log.record_participants(self.names, context.participants)
            yield context

    @property
    def round(self) -> int:
        """Number of the present round; 0 before the first one."""
        return self.schedule.number

    def log(self, name: str, value: float | Tensor, site: str | None = None) -> None:
        """Log a number of the present round for `run.rounds`.

        Parameters
        ----------
        name : str
            The metric in `run.rounds`.
        value : float or Tensor of shape ()
            A tensor on the device is read at the end of the round.
        site : str, optional
            Name of the site; by default all sites.
        """
        self.round_log.record_number(name, value, site or ALL)

    def note(self, event: str, detail: str = "", site: str = "") -> None:
        """Record an event of the present round for `run.events`.

        Parameters
        ----------
        event : str
            What happened, such as "leader".
        detail : str, optional
            More about it.
        site : str, optional
            Name of the site at which it happened.
        """
        self.round_log.record_event(event, detail, site)

    # -- local training ----------------------------------------------------------------------------------------------

    def fit(
        self,
        start: Weights,
        round: RoundContext,
        *,
        at: int | Site | None = None,
        steps: int | None = None,
        part: StepRange | None = None,
        keep_optimizer: bool | None = None,
        private: bool = False,
        **corrections: Any,
    ) -> Weights:
        """Local training at all sites, or at one.

        Parameters
        ----------
        start : Weights
            Models (m, ...) from which the sites start, or one model if `at` is given. Of a broadcast stack, sites
            that fail or are late are left out of the result.
        round : RoundContext
            The present round.
        at : int or Site, optional
            Position of the only site that trains, or `fed.union`.
        steps : int, optional
            Optimizer steps in this round; by default those of the settings.
        part : tuple, optional
            Only the steps from part[0] to part[1] of the round, as numbers of steps (int) or shares (float).
        keep_optimizer : bool, optional
            Whether the result carries the optimizer state; a start that carries one continues from it. By default
            `local_optimizer` of the settings decides for broadcast models, and others start from a new state.
        private : bool, default False
            Whether the trained model never leaves its site.
        **corrections
            What the method adds to local steps: `pull=(mu, anchor)` adds mu (w - anchor) to the gradient, `shift` is
            added to it; `rule`, `term`, `frozen`, `batches`, `weights`, `rate`, `decays` see
            `fedlab.federation.local_training.Corrections`.

        Returns
        -------
        Weights
            Trained models (m, ...), or one model if `at` is given.
        """
        options = Options(steps, part, keep_optimizer, private)
        if at is None:
            return self.trainer.fit(start, round, Corrections(**corrections), options)
        return self.trainer.fit_one(start, round, at, Corrections(**corrections), options)

    def gradient(self, models: Weights) -> tuple[Floats, Tensor]:
        """Loss (m,) and gradient (m, P) of each site's model over all its training cases.

        Parameters
        ----------
        models : Weights
            Models (m, ...) of sites.

        Returns
        -------
        tuple of ndarray (m,) and Tensor (m, P)
            With the L2 term of the optimizer.
        """
        return self.trainer.gradient(models)

    def losses(self, models: Weights) -> Floats:
        """Loss (m,) of each site's model (m, ...) over all its training cases."""
        return self.trainer.losses(models)

    def features(self, models: Weights) -> list[Features]:
        """Input of the last stage of each site's model (m, ...) for its training cases, found by their rows."""
        return self.trainer.features(models)

    # -- communication -----------------------------------------------------------------------------------------------

    def broadcast(self, w: Weights, **tensors: Tensor) -> Weights:
        """Send the shared model from the server to the available sites.

        Parameters
        ----------
        w : Weights
            One model.
        **tensors
            Tensors that are sent with it to every site; the ledger counts them under their names.

        Returns
        -------
        Weights
            A stack (m, ...) of the model as each site uses it, with its private parameters.
        """
        return self.server.broadcast(w, tensors)

    def gather(self, models: Weights, **tensors: Tensor) -> Weights:
        """Send the sites' models to the server.

        Parameters
        ----------
        models : Weights
            Trained models (m, ...).
        **tensors
            Tensors (m, ...) of which each site sends its row; the ledger counts them under their names.

        Returns
        -------
        Weights
            Models as they arrive (m, ...): malicious sites send something else, private parameters are not among
            them. Empty if there are too few for the aggregation rule.
        """
        return self.server.gather(models, tensors)

    def merge(self, w: Weights, models: Weights, weighting: str | Floats = "cases", rule: str | None = None) -> Weights:
        """Merge gathered models by the aggregation rule of the settings (the weighted mean by default).

        Parameters
        ----------
        w : Weights
            The model that was broadcast.
        models : Weights
            Gathered models (m, ...), possibly none.
        weighting : {"cases", "uniform"} or ndarray (m,), default "cases"
            n_k / N over the reporting sites, equal weights, or coefficients of the updates.
        rule : str, optional
            Replaces `aggregate` of the settings.

        Returns
        -------
        Weights
            w + C (merged - w), where C is the sum of the coefficients, usually 1; w itself if there is no model.
        """
        return self.server.merge(w, models, weighting, rule)

    def average(self, sent: Weights, round: RoundContext, weighting: str = "cases", **corrections: Any) -> Weights:
        """Train, gather and merge: one round of averaging.

        The same as `fit`, `gather` and `merge`, but large models of many sites are merged one by one if nothing needs
        all of them.

        Parameters
        ----------
        sent : Weights
            The stack from `broadcast`.
        round : RoundContext
            The present round.
        weighting : {"cases", "uniform"}, default "cases"
            See `merge`.
        **corrections
            See `fit`.

        Returns
        -------
        Weights
            The merged model. If no update arrived it is the very model that was broadcast: `mean is state.w`.
        """
        broadcast = self.server.sent
        sites = tuple(k for k in sent.owners if k in round.reporting)
        if self.execution.batches_sites or not self.server.merges_one_by_one(len(sites)):
            arrived = self.gather(self.fit(sent, round, **corrections))
            return self.merge(broadcast, arrived, weighting) if len(arrived) else broadcast
        coefficients = self.weights(sites, weighting)
        total = float(coefficients.sum())
        mean = self.trainer.fit_streaming(sent, round, Corrections(**corrections), coefficients / coefficients.sum())
        w = broadcast.without_moments()
        self.channel.send_up(w.expand(sites), lambda row, k: {})
        return self.server.step(w, mean, sites, coefficients / total, total)

    def weights(self, sites: Sequence[int], weighting: str = "cases") -> Floats:
        """Coefficients (m,) of the updates of these sites, which depend on `participation` and weighting."""
        return self.server.weights(sites, weighting)

    def site_weights(self, weighting: str) -> Floats:
        """Weights (K,) of all sites: "cases" n_k / N or "uniform" 1 / K."""
        return self.server.site_weights(weighting)

    def hand_over(self, w: Weights, to: int, *, via_server: bool = False) -> Weights:
        """Send a travelling model from the site that has it to the next one.

        Parameters
        ----------
        w : Weights
            The model, with the optimizer state that it carries. The server has the initial one.
        to : int
            Position of the next site; nothing crosses if it has the model already.
        via_server : bool, default False
            Whether it is sent to the server first, and from there to the site, even to the same one.

        Returns
        -------
        Weights
            The model as the next site uses it, with its private parameters.
        """
        if via_server:
            self.channel.hand_over_via_server(w, to)
        else:
            self.channel.hand_over(w, to)
        return self.private.at(w, to)

    def gather_at(self, leader: int, models: Weights, reference: Weights) -> Weights:
        """Send the models (m, ...) of sites to one of them, the leader.

        Parameters
        ----------
        leader : int
            Position of the leader.
        models : Weights
            Models (m, ...), the leader's among them.
        reference : Weights
            The model from which all of them started.

        Returns
        -------
        Weights
            Models as they arrive, see `gather`.
        """
        arrived = self.server.receive(models.without_moments(), reference)
        self.channel.gather_at(leader, arrived, masked=self.settings.secure_sum)
        return arrived

    def publish(self, w: Weights, leader: int, sites: Sequence[int]) -> Weights:
        """Send the leader's model to these sites; as each of them uses it: a stack (m, ...)."""
        self.channel.publish(w.without_moments(), leader, sites)
        return self.private.at_sites(w, sites)

    def exchange(self, models: Weights, neighbours: Bools) -> None:
        """Send each site's model (m, ...) to its neighbours, a symmetric matrix (m, m)."""
        self.channel.exchange(models.without_moments(), neighbours)

    # -- private parameters ------------------------------------------------------------------------------------------

    def keep_local(self, mask: Tensor) -> None:
        """Keep coordinates of the model at the sites from now on: private parameters, which never cross.

        Parameters
        ----------
        mask : Tensor of bool, shape (size,)
            Coordinates in the flat vector, such as `fed.layout.mask("batchnorm")` or `fedlab.core.stages.head`.
        """
        self.private.add(mask)

    def at_sites(self, w: Weights, sites: Sequence[int]) -> Weights:
        """A model as each of these sites uses it, with its private parameters: a stack (m, ...)."""
        return self.private.at_sites(w, sites)

    def shared(self, vectors: Tensor) -> Tensor:
        """Vectors (..., P) with zeros at the private parameters."""
        return self.private.without_private(vectors)

    # -- tensors of the model's shape --------------------------------------------------------------------------------

    def zeros(self, *rows: int) -> Tensor:
        """Zeros of the shape of a model's parameters, (P,), or of several, (rows, P)."""
        return self.start.vector.new_zeros(*rows, self.layout.trained)

    def column(self, values: ArrayLike) -> Tensor:
        """Numbers (m,) as a column (m, 1) that multiplies the rows of a stack."""
        return to_device(np.asarray(values, np.float64), self.device).to(self.start.vector.dtype)[:, None]

    # -- prediction --------------------------------------------------------------------------------------------------

    def predict(self, model: Weights | Ensemble, index: Ints) -> Floats:
        """Predict probabilities with one model or an ensemble.

        Parameters
        ----------
        model : Weights or Ensemble
            One model, not a stack.
        index : ndarray of int64, shape (n,)
            Positions of cases in `fed.partition.cases`.

        Returns
        -------
        ndarray of float64, shape (n, classes)
            Probabilities.
        """
        return self.predictor.predict([(model, index)])[0]

    def validate(self, w: Weights) -> Floats:
        """The headline metric (K,) of one model on each site's validation cases; NaN if it is undefined."""
        return np.array(self.predictor.validation_scores(w, range(len(self.sites))), np.float64)

    def score(self, w: Weights, k: int) -> float:
        """The headline metric of a model on site k's validation cases, higher is better; NaN if there are none."""
        sign = 1 if HIGHER_IS_BETTER[self.task.metrics[0]] else -1
        return sign * self.predictor.validation_scores(w, [k])[0]

    def record_visit(self, w: Weights, site: str) -> None:
        """With `watch_visits`: record how a travelling model does at every site after its visit to one."""
        self.round_log.has_visits = True
        if self.settings.watch_visits and self.schedule.evaluated:
            scores = dict(zip(self.names, self.validate(w), strict=True))
            self.round_log.record_visit(site, self.task.metrics[0], scores)
