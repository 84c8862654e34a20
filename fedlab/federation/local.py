"""Training at a site: from what a method asks for to the engine's work, and what came of it to the journal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.engine.serial import Serial
from fedlab.engine.work import Cost, Sampler, Work
from fedlab.federation.journal import Journal
from fedlab.federation.sites import Clock, Site
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
    rule: Any = None  # a Rule, or one a row
    term: Any = None  # a Term, or one a row
    frozen: Tensor | None = None
    batches: Sampler | None = None
    weights: Tensor | None = None
    rate: float = 1.0
    decays: bool = True

    def of(self, i: int) -> "Corrections":
        """Those of row i."""
        pull = self.pull
        if pull is not None:
            mu, anchor = pull
            pull = (float(mu if np.ndim(mu) == 0 else mu[i]), anchor[i] if anchor.stacked else anchor)
        shift = self.shift if self.shift is None or self.shift.ndim == 1 else self.shift[i]
        rule, term = (each[i] if isinstance(each, Sequence) else each for each in (self.rule, self.term))
        return replace(self, pull=pull, shift=shift, rule=rule, term=term)

    def work(self, batches: Sampler, first: int, steps: int, lr: float) -> Work:
        """What the engine is asked for."""
        pull = None if self.pull is None else (self.pull[0], self.pull[1].parameters)
        asked = (pull, self.shift, self.rule, self.term, self.frozen, self.weights, self.decays)
        return Work(self.batches or batches, first, steps, lr * self.rate, *asked)


@dataclass
class LocalTraining:
    """Trains one model at one site; `last` is what the latest training took."""

    engine: Serial
    settings: Training
    journal: Journal
    last: Cost = field(default_factory=lambda: Cost(0.0, 0, 0, 0.0))

    def fit(
        self,
        start: Weights,
        r: Clock,
        site: Site,
        corrections: Corrections,
        span: tuple[int, int],
        keep: bool = False,
        private: bool = False,
        room: Weights | None = None,
    ) -> Weights:
        """The model after the steps `span` (first, last + 1) of the site's batches; written into `room` if given.

        keep: with the optimizer's state. private: the model never leaves the site. Raises DivergedError.
        """
        work = corrections.work(site.batches, span[0], span[1] - span[0], r.lr)
        with named(site, r):
            result = self.engine.fit(start, work, keep)
        self.last = result.cost
        check_finite(result.cost.loss, self.engine.flat.vector, r, site, work.lr)
        self.journal.charge(site.name, result.cost, private)
        trained = self.engine.flat.read(into=room)
        if result.moments is None:
            return trained
        return replace(trained, moments=result.moments.vectors, clock=torch.tensor(result.moments.clock))


@contextmanager
def named(site: Site, r: Clock) -> Iterator[None]:
    """Say at which site and in which round a training was refused, and what would do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{site.name}, round {r.number}: {error}; a batch of one case may leave batch normalisation nothing to"
            " average over: use a larger `batch_size`, larger sites, or batchnorm='group'"
        ) from error


def check_finite(loss: float, vector: Tensor, r: Clock, site: Site, lr: float) -> None:
    """Raise DivergedError where a loss or weights are no longer finite."""
    if not (np.isfinite(loss) and bool(torch.isfinite(vector.sum()))):
        raise DivergedError(
            f"{site.name}, round {r.number}: training diverged (mean loss {loss:.3g}) at lr={lr:g}: lower `lr` (try a"
            " tenth), or shorten local work; nothing of this round was averaged"
        )
