"""Training and looking at the sites: the calls by which a method makes them work."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.weights import Weights, stack
from fedlab.engine import update_statistics
from fedlab.engine.local_task import LocalJob
from fedlab.engine.streaming_mean import StreamingMean
from fedlab.engine.thread_pool import by_size
from fedlab.federation.rounds import Part, Rounds
from fedlab.federation.site_update import Corrections
from fedlab.federation.sites import RoundContext, Site
from fedlab.federation.split_training import Split

Span = tuple[int | None, Part | None]  # steps in the round, and the part of them that is meant
Keeping = tuple[bool | None, bool]  # whether to keep the optimizer's state, and whether the model is private


class Practice(Rounds):
    """A federation whose sites can train.

    done: optimizer steps (m,) that the sites of the latest side-by-side training took.
    """

    done: NDArray[np.float64] = np.zeros(0)

    def fit(
        self,
        start: Weights,
        r: RoundContext,
        *,
        at: int | Site | None = None,
        steps: int | None = None,
        part: Part | None = None,
        keep_optimizer: bool | None = None,
        private: bool = False,
        **corrections: Any,
    ) -> Weights:
        """Local training of all sites from their starts (m, ...), or of one site `at` from one start.

        Of starts that were broadcast, those of sites that fail or come too late are left out of the result.
        corrections: pull=(mu, anchor), shift, rule, term, frozen, batches, weights, rate, see `Corrections`. steps:
        optimizer steps in this round, instead of the experiment's. part: only the steps from .. to of them, or shares
        of them. keep_optimizer: whether the result carries the optimizer's state; a start that carries one goes on with
        it. Unless given, sites that start from a broadcast model do as `local_optimizer` has it, others begin afresh.
        private: a model that never leaves the site.
        """
        asked, how = Corrections(**corrections), (keep_optimizer, private)
        if at is None:
            return self._fit_all(start, r, asked, (steps, part), how)
        job = self._job(start, r, at, asked, 0, (steps, part), bool(keep_optimizer))
        (trained,) = self._train([job], r, [at], private)
        self.wire.path.train(self.local.last)
        return trained

    def _fit_all(self, start: Weights, r: RoundContext, asked: Corrections, span: Span, how: Keeping) -> Weights:
        rows = _answering(start, r)
        who = tuple(start.owners[i] for i in rows)
        state = self.optimizers if start.sites is not None and how == (None, False) else None
        keep = bool(how[0] or (state is not None and state.policy != "reset"))
        room, jobs = start.blank(None if start.sites is None else who), []
        for place, (i, k) in enumerate(zip(rows, who, strict=True)):
            begin = start[i] if state is None else state.begin(start[i], k)
            jobs.append(self._job(begin, r, k, asked, i, span, keep, room[place]))
        each = self._train(jobs, r, who, how[1])
        if state is not None:
            for k, trained in zip(who, each, strict=True):
                state.store(k, trained)
        self._note_work()
        if not how[1]:
            self._measure_updates(start if len(who) == len(start) else start.only(who), room)
        return stack(each, room.sites) if how[0] and each and each[0].moments is not None else room

    def fit_running(
        self, start: Weights, r: RoundContext, shares: NDArray[np.float64], asked: Corrections
    ) -> StreamingMean:
        """Local training of those who answer, whose models are merged as they come and let go.

        start: what was broadcast, one model to all. shares: the weight of each who answers in the mean.
        """
        rows = _answering(start, r)
        cases = self.shares[[start.owners[i] for i in rows]]
        cases = cases / cases.sum()
        jobs = [self._job(start[i], r, start.owners[i], asked, i, (None, None), False) for i in rows]
        order = by_size([job.work.steps for job in jobs])
        running = StreamingMean(start[0], [jobs[j].site for j in order], shares[order], cases[order])
        self.local.fit(jobs, r, running=running)
        self._note_work()
        if not self.journal.measured:
            self.journal.measure(running.lengths(), cases[order])
        return running

    def _note_work(self) -> None:
        """What the latest training of all sites took."""
        self.wire.path.train(self.local.last)
        self.done = np.array([usage.steps for usage in self.local.last], np.float64)

    def _job(
        self, start: Weights, r: RoundContext, at: int | Site, asked: Corrections, i: int, span: Span, keep: bool,
        room: Weights | None = None,
    ) -> LocalJob:  # fmt: skip
        """The task of a site from one start. i: the row of the starts whose corrections are meant."""
        site, k = (self.sites[at], at) if isinstance(at, int) else (at, None)
        first, last = self.span(r, site, k, *span)
        return LocalJob(site.name, start, asked.work(i, site.batches, first, last - first, r.lr), keep, room)

    def _train(self, jobs: list[LocalJob], r: RoundContext, at: Sequence[int | Site], private: bool) -> list[Weights]:
        """The jobs done; what stays at the sites is kept there."""
        each = self.local.fit(jobs, r, private)
        for k, trained in zip(at, each, strict=True):
            if isinstance(k, int) and not private:
                self.staying.store(k, trained)
        return each

    def split(self, cut: int, tail: int = 0) -> Split:
        """The model cut between institutions and a server, at a stage."""
        return Split(self, cut, tail)

    def _measure_updates(self, start: Weights, trained: Weights) -> None:
        """Of the round's first training of all sites from one start, over the parameters that they share."""
        shared = self.staying.shared
        if not self.journal.measured and len(start) > 1:
            shares = self.shares[list(start.owners)] / self.shares[list(start.owners)].sum()
            found = update_statistics.lengths(start.parameters[0], trained.parameters, shares, shared)
            self.journal.measure(found, shares, update_statistics.differing(start.parameters, shared))

    def gradient(self, at: Weights) -> tuple[NDArray[np.float64], Tensor]:
        """Loss (m,) and its gradient (m, P) over all training cases of each site, at the model of each."""
        found = self._whole(at, True)
        gradients = [gradient for _, gradient in found]
        return self._numbers(found), torch.stack(gradients) if gradients else at.parameters

    def losses(self, at: Weights) -> NDArray[np.float64]:
        """The loss (m,) over all training cases of each site, at the model of each."""
        return self._numbers(self._whole(at, False))

    def _numbers(self, found: list[Any]) -> NDArray[np.float64]:
        """The losses (m,) on the host; a training that diverged before is refused first."""
        self.settle()
        return torch.stack([loss for loss, _ in found]).cpu().numpy() if found else np.zeros(0)

    def _whole(self, at: Weights, gradient: bool) -> list[Any]:
        """(loss, gradient if wanted) of each site's model over all its training cases, side by side."""
        models = [(at[i], self.sites[k].batches) for i, k in enumerate(at.owners)]
        found = self.execution.each(lambda engine, model: engine.whole(model[0], model[1], gradient), models)
        for k, (*_, usage) in zip(at.owners, found, strict=True):
            self.journal.charge(self.sites[k].name, usage, private=True)
        self.wire.path.train(usage for *_, usage in found)
        return [both for *both, _ in found]

    def case_weights(self, k: int) -> Tensor | None:
        """The class weights of site k's training cases by their rows in the store; None where all are 1."""
        weights = self.sites[k].class_weights
        if np.all(weights == 1):
            return None
        store = self._engine.store
        each = torch.zeros(len(store.targets), dtype=store.dtype, device=self.device)
        each[store.rows(self.sites[k].batches.index)] = to_device(weights, self.device).to(each.dtype)
        return each

    def features(self, models: Weights) -> list["Features"]:
        """What enters the last stage of each model of a stack, for the training cases of its site."""
        asked = [(models[i], self.sites[k].batches.index) for i, k in enumerate(models.owners)]
        found = self.execution.each(lambda engine, model: engine.features(*model), asked)
        store = self._engine.store
        rows = [store.rows(index) for _, index in asked]
        return [Features(values, where, len(store.targets)) for values, where in zip(found, rows, strict=True)]


def _answering(start: Weights, r: RoundContext) -> list[int]:
    """The rows of those who will answer; all where nothing was broadcast."""
    answering = set(r.turnout.answering)
    return [i for i, k in enumerate(start.owners) if start.sites is None or k in answering]


class Features:
    """Representations (n, d) of a site's training cases, found by their rows in the store."""

    def __init__(self, values: Tensor, rows: Tensor, count: int) -> None:
        """count: how many rows the store has."""
        self.values = values
        self._place = torch.full((count,), -1, dtype=torch.int64, device=rows.device)
        self._place[rows] = torch.arange(len(rows), device=rows.device)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.values[self._place[rows]]
