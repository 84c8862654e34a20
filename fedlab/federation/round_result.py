"""What a round leaves behind: one model, several that answer together, or a shared one with each site's own part."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.core.weights import Weights


@dataclass(frozen=True)
class Ensemble:
    """Several models that answer together by the weighted mean of their probabilities."""

    models: Weights
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Localised:
    """A shared model and, as a stack (K, ...), what it is at each site with the part that stays there."""

    shared: Weights
    sites: Weights


Model = Weights | Ensemble | Localised


@dataclass(frozen=True)
class Round:
    """What a round leaves behind. "global": a model or an ensemble for all sites; "local": each site's own (K, ...)."""

    models: dict[str, Weights | Ensemble]
