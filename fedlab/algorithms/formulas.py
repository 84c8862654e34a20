"""Closed forms that methods need: weight of a site's gradients, projection to the simplex, contrastive loss."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlab.core.typing import Floats
from fedlab.federation.local_training import Features


def accumulated(steps: float, momentum: float = 0.0, lr_mu: float = 0.0) -> float:
    """|a|_1: the weight of a site's gradients in its update (Wang 2020, arXiv:2007.07481, section 4).

    Plain SGD: steps. Momentum: [steps - m (1 - m^steps) / (1 - m)] / (1 - m). Pull: [1 - (1 - lr mu)^steps] / (lr mu).
    """
    velocity = total = 0.0
    for _ in range(int(steps)):
        velocity = momentum * velocity + 1 - lr_mu * total
        total += velocity
    return total


def simplex(x: Floats) -> Floats:
    """The nearest point whose coordinates are >= 0 and sum to 1 (Duchi 2008, doi:10.1145/1390156.1390191)."""
    high = np.sort(x)[::-1]
    excess = (high.cumsum() - 1) / np.arange(1, len(x) + 1)
    return np.maximum(x - excess[np.flatnonzero(high > excess)[-1]], 0)


@dataclass(frozen=True)
class Contrast:
    """mu times -log[e^(s(z, near)/T) / (e^(s(z, near)/T) + e^(s(z, far)/T))], s the cosine, mean over a batch.

    Li 2021, arXiv:2103.16257, equation 3. near, far: representations of the site's cases by two fixed models.
    """

    mu: float
    temperature: float
    near: Features
    far: Features

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        """The loss of representations z (b, d) of the cases in these rows of the device dataset."""
        similarity = [F.cosine_similarity(z, each[rows].to(z.dtype), dim=1) for each in (self.near, self.far)]
        first = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        return self.mu * F.cross_entropy(torch.stack(similarity, 1) / self.temperature, first)
