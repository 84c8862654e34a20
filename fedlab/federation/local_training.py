"""Local training: runs the steps that a method requests at its sites, and the passes over their training cases."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.typing import Floats, Ints
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights, stack, weighted_mean
from fedlab.engine import update_statistics
from fedlab.engine.batches import Batches
from fedlab.engine.dispatch import Execution
from fedlab.engine.local_task import LocalJob, LocalTask, Sampler, Trained, Usage
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.streaming_mean import StreamingMean
from fedlab.engine.thread_pool import largest_first
from fedlab.federation.channel import Channel
from fedlab.federation.round_log import RoundLog
from fedlab.federation.rounds import RoundContext
from fedlab.federation.settings import FederationSettings
from fedlab.federation.sites import LocalParameters, OptimizerStates, Site

SINGLE_CASES = (
    "batch normalisation cannot average over a batch of one case: use a larger `batch_size`, larger sites, or"
    " batchnorm='group'"
)
StepRange = tuple[int, int] | tuple[float, float]  # first and last + 1 of a round's steps, counted or as shares


@dataclass(frozen=True)
class Corrections:
    """What a method adds to local steps, for all sites or as one item for each row of the starts.

    pull: (mu, anchor) adds mu (w - anchor) to every gradient. shift: added to every gradient, (P,) or (m, P). rule,
    term, frozen, batches, weights, decays: see `fedlab.engine.local_task`. rate: factor of the learning rate.
    """

    pull: tuple[Any, Weights] | None = None
    shift: Tensor | None = None
    rule: Any = None  # a Rule
    term: Any = None  # a Term, or one for each row
    frozen: Tensor | None = None
    batches: Sampler | None = None
    weights: Tensor | None = None
    rate: float = 1.0
    decays: bool = True

    def task(self, row: int, batches: Sampler, first: int, steps: int, lr: float) -> LocalTask:
        """The local task of one row."""
        return LocalTask(
            batches=self.batches or batches,
            first=first,
            steps=steps,
            lr=lr * self.rate,
            pull=self._pull(row),
            shift=self.shift if self.shift is None or self.shift.ndim == 1 else self.shift[row],
            rule=self.rule,
            term=self.term[row] if isinstance(self.term, Sequence) else self.term,
            frozen=self.frozen,
            weights=self.weights,
            decays=self.decays,
            row=row,
        )

    def _pull(self, row: int) -> tuple[float, Tensor] | None:
        """(mu, anchor) of one row."""
        if self.pull is None:
            return None
        mu, anchor = self.pull
        return float(mu if np.ndim(mu) == 0 else mu[row]), (anchor[row] if anchor.stacked else anchor).parameters


@dataclass(frozen=True)
class Options:
    """How sites train, see `LocalTraining.fit`."""

    steps: int | None = None
    part: StepRange | None = None
    keep_optimizer: bool | None = None
    private: bool = False


class Features:
    """Representations (n, d) of a site's training cases, found by their rows in the device dataset."""

    def __init__(self, values: Tensor, rows: Tensor, count: int) -> None:
        """count: number of rows of the dataset."""
        self.values = values
        self._place = torch.full((count,), -1, dtype=torch.int64, device=rows.device)
        self._place[rows] = torch.arange(len(rows), device=rows.device)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.values[self._place[rows]]


@dataclass
class LocalTraining:
    """Trains models at sites and passes over their training cases.

    steps: optimizer steps (m,) of each site in the latest training of several sites.
    """

    execution: Execution
    settings: FederationSettings
    sites: Sequence[Site]
    shares: Floats
    private: LocalParameters
    optimizers: OptimizerStates
    channel: Channel
    log: RoundLog
    steps: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def engine(self) -> SequentialEngine:
        """Engine that holds the model and the device dataset."""
        return self.execution.engine

    def fit(self, start: Weights, round: RoundContext, corrections: Corrections, options: Options) -> Weights:
        """Train at all sites from their starts (m, ...); of broadcast starts only at sites that report."""
        rows = _reporting(start, round)
        owners = tuple(start.owners[row] for row in rows)
        resumes = start.sites is not None and options.keep_optimizer is None and not options.private
        keep = bool(options.keep_optimizer or (resumes and self.optimizers.policy != "reset"))
        trained, jobs = start.empty_like(None if start.sites is None else owners), []
        for place, (row, k) in enumerate(zip(rows, owners, strict=True)):
            begin = self.optimizers.load(start[row], k) if resumes else start[row]
            task = self._task(self.sites[k], k, round, corrections, row, options)
            jobs.append(LocalJob(self.sites[k].name, begin, task, keep, trained[place]))
        each, usages = self._train(jobs, round, options.private)
        self._record_usage(usages)
        for k, w in zip(owners, each, strict=True):
            if not options.private:
                self.private.store(k, w)
            if resumes:
                self.optimizers.store(k, w)
        if not options.private:
            self._record_updates(start if len(owners) == len(start) else start.only(owners), trained)
        if options.keep_optimizer and each and each[0].moments is not None:
            return stack(each, trained.sites)
        return trained

    def fit_one(
        self, start: Weights, round: RoundContext, at: int | Site, corrections: Corrections, options: Options
    ) -> Weights:
        """Train at one site, or on the union of all sites, from one start."""
        site, k = (self.sites[at], at) if isinstance(at, int) else (at, None)
        task = self._task(site, k, round, corrections, 0, options)
        job = LocalJob(site.name, start, task, bool(options.keep_optimizer))
        (trained,), usages = self._train([job], round, options.private)
        if k is not None and not options.private:
            self.private.store(k, trained)
        self.channel.path.add_training(usages)
        return trained

    def fit_streaming(self, start: Weights, round: RoundContext, corrections: Corrections, shares: Floats) -> Weights:
        """The weighted mean of the models of reporting sites, each of which is freed once it is added.

        start: as broadcast. shares: weights (m,) of the reporting sites in the mean.
        """
        rows = _reporting(start, round)
        owners = [start.owners[row] for row in rows]
        cases = self.shares[owners] / self.shares[owners].sum()
        jobs = []
        for row, k in zip(rows, owners, strict=True):
            task = self._task(self.sites[k], k, round, corrections, row, Options())
            jobs.append(LocalJob(self.sites[k].name, start[row], task))
        order = largest_first([job.local_task.steps for job in jobs])
        mean = StreamingMean(start[0], [jobs[j].site for j in order], shares[order], cases[order])
        _, usages = self._train(jobs, round, private=False, streaming=mean)
        self._record_usage(usages)
        if not self.log.has_updates:
            self.log.record_updates(mean.squared_norms(), cases[order])
        return mean.mean()

    def step_range(
        self, site: Site, k: int | None, round: RoundContext, steps: int | None = None, part: StepRange | None = None
    ) -> tuple[int, int]:
        """The first step of a site's batches and the last + 1, counted over all rounds.

        A straggler does only its share of the steps.
        """
        if k is not None and self.engine.needs.single:
            self._refuse_single_cases(round)
        total = steps or site.steps(self.settings)
        share = 1.0 if k is None else round.participants.work.get(k, 1.0)
        most = total if share == 1 else max(1, int(total * share))
        first, last = (int(end * most + 1e-9) if isinstance(end, float) else end for end in part or (0, total))
        base = ((round.data_round or round.number) - 1) * total
        return base + min(first, most), base + min(last, most)

    def _refuse_single_cases(self, round: RoundContext) -> None:
        """Refuse a model that cannot train on one case, where any site has such a batch."""
        found = ", ".join(site.name for site in self.sites if site.batches.size == 1)
        if found:
            why = self.engine.needs.single
            raise ValueError(f"{found}, round {round.number}: {why}; {SINGLE_CASES}")

    def _task(
        self, site: Site, k: int | None, round: RoundContext, corrections: Corrections, row: int, options: Options
    ) -> LocalTask:
        """The local task of a site."""
        first, last = self.step_range(site, k, round, options.steps, options.part)
        return corrections.task(row, site.batches, first, last - first, round.lr)

    def _train(
        self, jobs: Sequence[LocalJob], round: RoundContext, private: bool, streaming: StreamingMean | None = None
    ) -> tuple[list[Weights], list[Usage]]:
        """Run the jobs; their models, unless they are added to a streaming mean, and what each took."""

        def on_trained(job: LocalJob, trained: Trained, check_stopped: Callable[[], None]) -> Trained:
            if trained.total is None:
                trained = replace(trained, total=trained.weights.vector.sum())
            if streaming is None:
                return trained
            streaming.add(job.site, trained.weights, check_stopped)
            return replace(trained, weights=job.start)

        found = self.execution.train(jobs, lambda job: naming_site(job.site, round), on_trained)
        for job, trained in zip(jobs, found, strict=True):
            assert trained.total is not None
            lr = float(job.local_task.lr)
            self.log.record_checked_training(job.site, trained.usage, trained.total, lr=lr, private=private)
        return [trained.weights for trained in found], [trained.usage for trained in found]

    def _record_usage(self, usages: Sequence[Usage]) -> None:
        """Record a training of several sites, which work in parallel."""
        self.channel.path.add_training(usages)
        self.steps = np.array([usage.steps for usage in usages], np.float64)

    def _record_updates(self, start: Weights, trained: Weights) -> None:
        """Record statistics of the first updates of a round, over the parameters that sites share."""
        shared = self.private.shared
        if not self.log.has_updates and len(start) > 1:
            shares = self.shares[list(start.owners)] / self.shares[list(start.owners)].sum()
            norms = update_statistics.squared_norms(start.parameters[0], trained.parameters, shares, shared)
            self.log.record_updates(norms, shares, update_statistics.count_different(start.parameters, shared))

    # -- passes over the training cases ------------------------------------------------------------------------------

    def gradient(self, models: Weights) -> tuple[Floats, Tensor]:
        """Loss (m,) and its gradient (m, P) of each site's model over all its training cases."""
        found = self._full_pass(models, True)
        gradients = [gradient for _, gradient in found]
        return self._losses(found), torch.stack(gradients) if gradients else models.parameters

    def losses(self, models: Weights) -> Floats:
        """Loss (m,) of each site's model over all its training cases."""
        return self._losses(self._full_pass(models, False))

    def _losses(self, found: list[Any]) -> Floats:
        """The losses on the host; an earlier training that diverged is refused first."""
        self.log.check_finite()
        return torch.stack([loss for loss, _ in found]).cpu().numpy() if found else np.zeros(0)

    def _full_pass(self, models: Weights, gradient: bool) -> list[Any]:
        """(loss, gradient or None) of each site's model over all its training cases."""
        each = [(models[row], self.sites[k].batches) for row, k in enumerate(models.owners)]
        number = self.log.number
        found = self.execution.map(lambda engine, one: engine.full_loss(one[0], one[1], gradient, number), each)
        for k, (*_, usage) in zip(models.owners, found, strict=True):
            self.log.record_training(self.sites[k].name, usage, private=True)
        self.channel.path.add_training(usage for *_, usage in found)
        return [both for *both, _ in found]

    def features(self, models: Weights) -> list[Features]:
        """The input of the last stage of each site's model for its training cases."""
        each = [(models[row], self.sites[k].batches.index) for row, k in enumerate(models.owners)]
        found = self.execution.map(lambda engine, one: engine.features(*one), each)
        dataset = self.execution.dataset
        rows = [dataset.rows(index) for _, index in each]
        return [Features(values, where, len(dataset.targets)) for values, where in zip(found, rows, strict=True)]

    def case_weights(self, k: int) -> Tensor | None:
        """Class weights of site k's training cases by their rows in the device dataset; None if all are 1."""
        weights = self.sites[k].class_weights
        if np.all(weights == 1):
            return None
        dataset, device = self.execution.dataset, self.execution.device
        each = torch.zeros(len(dataset.targets), dtype=dataset.dtype, device=device)
        each[dataset.rows(self.sites[k].batches.index)] = to_device(weights, device).to(each.dtype)
        return each

    # -- statistics of batch normalisation ---------------------------------------------------------------------------

    @property
    def shares_statistics(self) -> bool:
        """Whether the model has estimated normalisation statistics that cross."""
        layout, mask = self.private.layout, self.private.mask
        estimated = layout.mask("mean", "variance").to(mask.device) & ~mask
        return self.settings.batchnorm != "frozen" and bool(estimated.any())

    def recalibrate(self, w: Weights, sites: Sequence[int]) -> Weights:
        """The travelling model with normalisation statistics pooled over these sites, which it visits without training.

        The same model if sites share no statistics. The model is then where it was before.
        """
        if not self.shares_statistics or not len(sites):
            return w
        holder, found = self.channel.holder, []
        for k in sites:
            self.channel.hand_over(w.without_moments(), to=k)
            here = self.private.at(w.without_moments(), k)
            found.append(self.engine.recalibrate(here, list(self.sites[k].batches.sweep())))
        self.channel.holder = holder
        shares = self.shares[list(sites)]
        union = weighted_mean(stack(found).with_pooled_variances(), shares / shares.sum())
        return Weights(self.private.layout, union.vector, union.counts)

    def adapt_batchnorm(self, w: Weights, index: Ints) -> Weights:
        """The model with normalisation statistics of these cases; the same model if it has none or they are frozen."""
        if not len(index):
            return w.without_moments()
        size = self.settings.batch_size or len(index)
        try:
            return self.engine.recalibrate(w, list(Batches("", index, size, 0).sweep()))
        except ValueError as error:  # one case, or batch_size=1
            warn(f"batch normalisation is not adapted to one case at a time ({error}): its statistics stay as they are")
            return w.without_moments()


@contextmanager
def naming_site(site: str, round: RoundContext) -> Iterator[None]:
    """Name site and round in the error of a local training that cannot run, and the remedy where it is known."""
    try:
        yield
    except ValueError as error:
        remedy = f"; {SINGLE_CASES}" if "more than 1" in str(error) else ""
        raise ValueError(f"{site}, round {round.number}: {error}{remedy}") from error


def _reporting(start: Weights, round: RoundContext) -> list[int]:
    """Rows of the starts whose sites report; all rows if nothing was broadcast."""
    return [row for row, k in enumerate(start.owners) if start.sites is None or k in round.reporting]
