"""The federation that an algorithm acts on: sites, one shared model, and the calls that move and train weights.

An algorithm sees `fed.fit`, the wire (`broadcast`, `gather`, `hand_over`), `fed.merge`, `fed.memory` and `fed.rounds`;
where the pixels are, how steps are executed, who takes part, what stays at a site and how models are merged is decided
below, for every algorithm alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlab.core.weights import Weights, stack
from fedlab.engine.batches import Batches
from fedlab.federation.channel import Ledger
from fedlab.federation.communication import Exchange
from fedlab.federation.round_log import Cost
from fedlab.federation.round_result import Ensemble, Localised, Model
from fedlab.learning.metrics import HIGHER_IS_BETTER, METRICS

ATTENDANCE = ("participation", "availability", "stragglers", "failures")  # settings of rounds in which sites meet


class Federation(Exchange):
    """Sites of a partition with one architecture, on one device.

    sites: those that train, in ascending order; unseen ones are not among them. shares: n_k / N, float64 (K,). start:
    initial weights, alike everywhere. union: all training cases as one site. labels: (cases,) as the sites' readers
    wrote them. wire: what crossed. journal: what the present round cost and what happened so far.
    """

    watched = False

    @property
    def ledger(self) -> Ledger:
        """What crossed institutions' borders so far."""
        return self.wire.ledger

    @property
    def costs(self) -> dict[str, Cost]:
        """What the present round took at each site."""
        return self.journal.costs

    @property
    def updates(self) -> dict[str, float]:
        """How far the sites' updates of the present round point apart, see `fedlab.engine.update_statistics`."""
        return self.journal.updates

    def without_effect(self) -> list[str]:
        """Settings that the method, having gone its rounds, did not heed, though models crossed."""
        asked = self.settings
        idle = {
            "aggregate": asked.aggregate != "mean" and not self.merger.used,
            "secure_sum": asked.secure_sum and not self.merger.used,
            "attack": self.attack.who and not self.attack.flips_labels and not self.attackable,
            "local_optimizer": asked.local_optimizer != "reset" and not self.optimizers.used,
            "watch_visits": asked.watch_visits and not self.watched,
            "batchnorm": asked.batchnorm == "pooled" and not (self.merger.used or self.mixing),
        }
        fields = type(asked).model_fields
        idle |= {n: getattr(asked, n) != fields[n].default and not self.together for n in ATTENDANCE}
        crossed = any(row[4] == "weights" for row in self.ledger.rows)
        return [f"{name}={getattr(asked, name)!r}" for name, is_idle in idle.items() if is_idle and crossed]

    def localised(self, model: Weights | Ensemble) -> Model:
        """The model to evaluate: together with what it is at each site, where sites keep a part of it to themselves."""
        if isinstance(model, Ensemble):
            return Ensemble(model.models.bare(), model.shares)
        model = model.bare()
        if not self.staying.any or model.stacked or self.union.name in self.journal.charged:
            return model
        anywhere = self.staying.mean(model, self.shares)
        return Localised(anywhere, stack([self.at_site(model, k) for k in range(len(self.sites))]))

    def acquainted(self, w: Weights, index: NDArray[np.int64]) -> Weights:
        """A model whose batch normalisation statistics are those of these images, for which no label is needed.

        The same model where it has none, or where they are frozen.
        """
        size = self.settings.batch_size or max(1, len(index))
        pieces = Batches("", index, size, 0).sweep() if len(index) else iter(())
        return self._engine.recalibrate(w, list(pieces))

    def predict(self, model: Weights | Ensemble, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities (n, classes) of one model or an ensemble for these cases."""
        return self.predict_each([(model, index)])[0]

    def predict_each(self, asked: Sequence[tuple[Weights | Ensemble, NDArray[np.int64]]]) -> list[NDArray[np.float64]]:
        """Probabilities (n, classes) of several models, of each for its cases, side by side."""
        members = [
            (model.models[k], index) if isinstance(model, Ensemble) else (model, index)
            for model, index in asked
            for k in range(len(model.models) if isinstance(model, Ensemble) else 1)
        ]
        self.settle()
        found = iter(self.execution.predict(members))
        return [
            np.tensordot(model.shares, np.stack([next(found) for _ in model.shares]), 1)
            if isinstance(model, Ensemble)
            else next(found)
            for model, _ in asked
        ]

    def validate(self, w: Weights) -> NDArray[np.float64]:
        """The headline metric (K,) of one model on each site's validation cases; NaN where it is undefined."""
        return np.array(self._validated(w, range(len(self.sites))), np.float64)

    def _validated(self, w: Weights, who: Sequence[int]) -> list[float]:
        each = [self.partition.index(self.names[k], "val") for k in who]
        found = self.predict_each([(self.at_site(w, k), index) for k, index in zip(who, each, strict=True)])
        y, measure = self.task.targets(self.labels), METRICS.function(self.task.metrics[0])
        return [float(measure(y[i], p)) if len(i) else np.nan for i, p in zip(each, found, strict=True)]

    def score(self, w: Weights, k: int) -> float:
        """The headline metric of a model on site k's validation cases, such that higher is better; NaN without any."""
        sign = 1 if HIGHER_IS_BETTER[self.task.metrics[0]] else -1
        return sign * self._validated(w, [k])[0]

    def watch(self, w: Weights, at: str) -> None:
        """Record how a travelling model does on every site's validation cases after a visit, if that is wanted."""
        self.watched = True
        if self.settings.watch_visits and self.due:
            self.journal.visit(
                self.round, at, self.task.metrics[0], dict(zip(self.names, self.validate(w), strict=True))
            )
