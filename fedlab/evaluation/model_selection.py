"""Choose the best round of each model on validation cases, never on test cases."""

from dataclasses import dataclass, field, replace

import numpy as np

from fedlab.core.weights import Weights
from fedlab.evaluation.evaluate import Models
from fedlab.federation import Model
from fedlab.learning.metrics import HIGHER_IS_BETTER

Scores = list[tuple[str, str, str, str, float]]


@dataclass
class Selection:
    """The best models so far.

    A global model is chosen by the sample-weighted mean of the sites' validation metric, a site's own model by the
    validation metric of that site. Sites whose metric is undefined are left out of the mean; if no metric is defined,
    the last round is the best.
    """

    sites: list[str]
    metric: str
    cases: dict[str, int]  # validation cases of each site
    models: Models = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)  # by owner: "global" or a site
    round: dict[str, int] = field(default_factory=dict)
    mean: list[float] = field(default_factory=list)  # of the sites' validation metric, one value an evaluation

    def consider(self, models: Models, scores: Scores, number: int) -> None:
        """Keep each model that is better than the best before it."""
        found: dict[str, dict[str, float]] = {}  # by model and site
        for name, site, split, metric, value in scores:
            if (split, metric) == ("val", self.metric):
                found.setdefault(name, {})[site] = value
        used = [found["local"]] if "local" in found else list(found.values())  # own models if there are any
        self.mean.append(self._mean(used))
        for name, model in models.items():
            values = found.get(name, {})
            if isinstance(model, Weights) and model.stacked:
                for k, site in enumerate(self.sites):
                    if self._improves(site, values[site], number):
                        self.models[name] = _with_row(self.models.get(name, model), model, k)
            elif self._improves(name, self._mean([values]), number):
                self.models[name] = model

    def stale(self, patience: int | None) -> bool:
        """Whether the mean validation metric has not improved for `patience` evaluations."""
        if patience is None or len(self.mean) <= patience or np.isnan(self.mean).all():
            return False
        values = np.array(self.mean) * (1 if HIGHER_IS_BETTER[self.metric] else -1)
        return len(values) - 1 - int(np.nanargmax(values)) >= patience

    def _mean(self, found: list[dict[str, float]]) -> float:
        known = [(value, self.cases[site]) for each in found for site, value in each.items() if not np.isnan(value)]
        if not known:
            return float("nan")
        values, counts = np.array(known, np.float64).T
        return float(np.average(values, weights=counts))

    def _improves(self, owner: str, score: float, number: int) -> bool:
        """Remember a better score; an undefined score replaces only an undefined one."""
        before = self.score.get(owner, float("nan"))
        sign = 1 if HIGHER_IS_BETTER[self.metric] else -1
        better = np.isnan(before) or (not np.isnan(score) and sign * score > sign * before)
        if better:
            self.score[owner], self.round[owner] = float(score), number
        return bool(better)


def _with_row(best: Model, new: Weights, k: int) -> Weights:
    """Copy `best` with the model of site k replaced."""
    assert isinstance(best, Weights)
    vector, counts = best.vector.clone(), best.counts.clone()
    vector[k], counts[k] = new.vector[k], new.counts[k]
    return replace(best.without_moments(), vector=vector, counts=counts)
