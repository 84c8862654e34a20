"""Training at a site: from what a method asks for to the engine's work, and what came of it to the journal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from fedlab.core.weights import Weights
from fedlab.engine.dispatch import Execution
from fedlab.engine.local_task import LocalJob, LocalTask, Sampler, Trained, Usage
from fedlab.engine.streaming_mean import StreamingMean
from fedlab.federation.round_log import RoundLog
from fedlab.federation.sites import RoundContext
from fedlab.learning.settings import Training


class DivergedError(RuntimeError):
    """Training at a site left the finite numbers; nothing was averaged."""


@dataclass(frozen=True)
class Corrections:
    """What a method adds to local steps, for all sites alike or in a list, one a row of the starts.

    pull: (mu, anchor) adds mu (w - anchor) to every gradient. shift: added to every gradient, (P,) or (m, P). rule,
    term, frozen, batches, weights, decays: see `fedlab.engine.local_task`. rate: factor of the learning rate.
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

    def work(self, i: int, batches: Sampler, first: int, steps: int, lr: float) -> LocalTask:
        """The local task of row i."""
        return LocalTask(
            self.batches or batches, first, steps, lr * self.rate,
            pull=self._pull(i),
            shift=self.shift if self.shift is None or self.shift.ndim == 1 else self.shift[i],
            rule=self.rule,
            term=self.term[i] if isinstance(self.term, Sequence) else self.term,
            frozen=self.frozen,
            weights=self.weights,
            decays=self.decays,
            row=i,
        )  # fmt: skip

    def _pull(self, i: int) -> tuple[float, Tensor] | None:
        if self.pull is None:
            return None
        mu, anchor = self.pull
        return float(mu if np.ndim(mu) == 0 else mu[i]), (anchor[i] if anchor.stacked else anchor).parameters


@dataclass
class LocalTraining:
    """Trains models at their sites; `last` is what the latest training took."""

    execution: Execution
    settings: Training
    journal: RoundLog
    last: list[Usage] = field(default_factory=list)

    def fit(
        self, jobs: Sequence[LocalJob], r: RoundContext, private: bool = False, running: StreamingMean | None = None
    ) -> list[Weights]:
        """The model of each job after its steps, in its room if it has one. private: none ever leaves its site.

        running: takes the models in the place of the caller. Raises DivergedError.
        """

        def done(job: LocalJob, trained: Trained, go_on: Callable[[], None]) -> Trained:
            if trained.total is None:
                trained = replace(trained, total=trained.weights.vector.sum())
            if running is None:
                return trained
            running.add(job.site, trained.weights, go_on)
            return replace(trained, weights=job.start)

        found = self.execution.train(jobs, lambda job: named(job.site, r), done)
        self.last = [trained.usage for trained in found]
        for job, trained in zip(jobs, found, strict=True):
            assert trained.total is not None
            expect_finite(self.journal, job.site, trained.usage, trained.total, r, float(job.work.lr), private)
        return [trained.weights for trained in found]


@contextmanager
def named(site: str, r: RoundContext) -> Iterator[None]:
    """Say at which site and in which round a training was refused, and what would do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{site}, round {r.number}: {error}; a batch of one case may leave batch normalisation nothing to"
            " average over: use a larger `batch_size`, larger sites, or batchnorm='group'"
        ) from error


def expect_finite(
    journal: RoundLog, site: str, usage: Usage, total: Tensor, r: RoundContext, lr: float, private: bool = False
) -> None:
    """Charge a training, and have DivergedError raised at the end of the round if its loss or weights are not finite.

    total: the sum of the weights, a number ().
    """
    loss, sum_of_weights = journal.charge(site, usage, private), journal.reads.later(total)

    def check() -> None:
        if not (np.isfinite(float(loss)) and np.isfinite(float(sum_of_weights))):
            raise DivergedError(
                f"{site}, round {r.number}: training diverged (mean loss {float(loss) / max(1, usage.steps):.3g}) at"
                f" lr={lr:g}: lower `lr` (try a tenth), or shorten local work; nothing of this round was kept"
            )

    journal.check(check)
