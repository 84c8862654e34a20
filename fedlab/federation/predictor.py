"""Predictions of a federation's models: several at a time, in parallel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Floats, Ints
from fedlab.core.weights import Weights
from fedlab.engine.dispatch import Execution
from fedlab.federation.round_log import RoundLog
from fedlab.federation.rounds import Ensemble
from fedlab.federation.sites import LocalParameters
from fedlab.learning.metrics import METRICS
from fedlab.learning.tasks import Surfaces, Task


@dataclass(frozen=True, eq=False)
class Predictor:
    """What predicts cases with models.

    cases: positions of each site's validation cases; targets: of all cases, as the sites' annotators wrote them.
    """

    task: Task
    cases: Sequence[Ints]
    targets: ArrayLike
    private: LocalParameters
    execution: Execution
    log: RoundLog

    def predict(
        self, pairs: Sequence[tuple[Weights | Ensemble, Ints]], surfaces: Surfaces | None = None
    ) -> list[Floats]:
        """Probabilities (n, classes) of several models, each for its cases, in parallel.

        In segmentation counts of voxels (n, columns), see `fedlab.learning.mask_metrics`; surfaces: measures distances
        of masks as well. An ensemble averages probabilities, in segmentation those of each voxel.
        """
        self.log.check_finite()
        if self.task.dense and (surfaces is not None or any(isinstance(model, Ensemble) for model, _ in pairs)):
            return self.execution.predict_masks(
                [
                    (model.models, index, model.shares) if isinstance(model, Ensemble) else (model, index, None)
                    for model, index in pairs
                ],
                surfaces,
            )
        members = [
            (model.models[k], index) if isinstance(model, Ensemble) else (model, index)
            for model, index in pairs
            for k in range(len(model.models) if isinstance(model, Ensemble) else 1)
        ]
        found = iter(self.execution.predict(members))
        return [
            np.tensordot(model.shares, np.stack([next(found) for _ in model.shares]), 1)
            if isinstance(model, Ensemble)
            else next(found)
            for model, _ in pairs
        ]

    def validation_scores(self, w: Weights, sites: Sequence[int]) -> list[float]:
        """The headline metric of a model, as each of these sites uses it, on the site's validation cases."""
        found = self.predict([(self.private.at(w, k), self.cases[k]) for k in sites])
        y, measure = np.asarray(self.targets), METRICS.function(self.task.metrics[0])
        return [
            float(measure(y[self.cases[k]], p)) if len(self.cases[k]) else np.nan
            for k, p in zip(sites, found, strict=True)
        ]
