"""Training at a site: from what a method asks for to the engine's work, and what came of it to the journal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.engine.execution import Execution
from fedlab.engine.running import Running
from fedlab.engine.work import Cost, Job, Sampler, Trained, Work
from fedlab.federation.journal import Journal
from fedlab.federation.sites import Clock
from fedlab.training import Training
from fedlab.weights import Weights


class DivergedError(RuntimeError):
    """Training at a site left the finite numbers; nothing was averaged."""


@dataclass(frozen=True)
class Corrections:
    """What a method adds to local steps, for all sites alike or in a list, one a row of the starts.

    pull: (mu, anchor) adds mu (w - anchor) to every gradient. shift: added to every gradient, (P,) or (m, P). rule,
    term, frozen, batches, weights, decays: see `fedlab.engine.work`. rate: factor of the learning rate.
    """

    pull: tuple[Any, Weights] | None = None
    shift: Tensor | None = None
    rule: Any = None  # a Rule
    term: Any = None  # a Term, or one a row
    frozen: Tensor | None = None
    batches: Sampler | None = None
    weights: Tensor | None = None
    rate: float = 1.0
    decays: bool = True
    row: int = 0

    def of(self, i: int) -> "Corrections":
        """Those of row i."""
        pull = self.pull
        if pull is not None:
            mu, anchor = pull
            pull = (float(mu if np.ndim(mu) == 0 else mu[i]), anchor[i] if anchor.stacked else anchor)
        shift = self.shift if self.shift is None or self.shift.ndim == 1 else self.shift[i]
        term = self.term[i] if isinstance(self.term, Sequence) else self.term
        return replace(self, pull=pull, shift=shift, term=term, row=i)

    def work(self, batches: Sampler, first: int, steps: int, lr: float) -> Work:
        """What the engine is asked for."""
        pull = None if self.pull is None else (self.pull[0], self.pull[1].parameters)
        asked = (pull, self.shift, self.rule, self.term, self.frozen, self.weights, self.decays, self.row)
        return Work(self.batches or batches, first, steps, lr * self.rate, *asked)


@dataclass
class LocalTraining:
    """Trains models at their sites; `last` is what the latest training took."""

    execution: Execution
    settings: Training
    journal: Journal
    last: list[Cost] = field(default_factory=list)

    def fit(
        self, jobs: Sequence[Job], r: Clock, private: bool = False, running: Running | None = None
    ) -> list[Weights]:
        """The model of each job after its steps, in its room if it has one. private: none ever leaves its site.

        running: takes the models in the place of the caller. Raises DivergedError.
        """

        def done(job: Job, trained: Trained, go_on: Callable[[], None]) -> Trained:
            check_finite(trained.cost.loss, trained.weights.vector, r, job.site, float(job.work.lr))
            if running is None:
                return trained
            running.add(job.site, trained.weights, go_on)
            return replace(trained, weights=job.start)

        found = self.execution.train(jobs, lambda job: named(job.site, r), done)
        self.last = [trained.cost for trained in found]
        for job, trained in zip(jobs, found, strict=True):
            self.journal.charge(job.site, trained.cost, private)
        return [trained.weights for trained in found]


@contextmanager
def named(site: str, r: Clock) -> Iterator[None]:
    """Say at which site and in which round a training was refused, and what would do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{site}, round {r.number}: {error}; a batch of one case may leave batch normalisation nothing to"
            " average over: use a larger `batch_size`, larger sites, or batchnorm='group'"
        ) from error


def check_finite(loss: float, vector: Tensor, r: Clock, site: str, lr: float) -> None:
    """Raise DivergedError where a loss or weights are no longer finite."""
    if not (np.isfinite(loss) and bool(torch.isfinite(vector.sum()))):
        raise DivergedError(
            f"{site}, round {r.number}: training diverged (mean loss {loss:.3g}) at lr={lr:g}: lower `lr` (try a"
            " tenth), or shorten local work; nothing of this round was averaged"
        )
