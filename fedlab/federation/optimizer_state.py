"""What becomes of the sites' optimizers between rounds: begun afresh, kept at each site, or averaged like weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.weights import Weights
from fedlab.federation.local_parameters import LocalParameters

SHARED = "shared"


class OptimizerState:
    """Moments of each site's optimizer in training that starts from a shared model.

    policy: "reset" forgets them after every round; "keep" leaves each site its own; "share" averages them with the
    weights, with which they cross; of what stays at a site its moments stay, too. held: site, or "shared" -> [moments
    (slots, P), clock]. used: whether a method ever trained sites side by side from a shared model.
    """

    def __init__(self, policy: str, staying: LocalParameters) -> None:
        self.policy, self.staying = policy, staying
        self.held: dict[str, list[Any]] = {}
        self.used = False

    def begin(self, w: Weights, k: int) -> Weights:
        """The start of site k with the optimizer state that it goes on with."""
        self.used = True
        found = self._averaged_at(k) if self.policy == "share" else self.held.get(str(k))
        return w if found is None else replace(w, moments=found[0], clock=found[1])

    def _averaged_at(self, k: int) -> list[Any] | None:
        """The state of all sites, with site k's own where coordinates stay there."""
        found, leaves = self.held.get(SHARED), self.staying.shared
        if found is None:
            return self.held.get(str(k))
        if leaves is None:
            return found
        own = self.held[str(k)][0] if str(k) in self.held else torch.zeros_like(found[0])
        return [torch.where(leaves, found[0], own), found[1]]

    def store(self, k: int, trained: Weights) -> None:
        """Keep what site k's optimizer knows."""
        if trained.moments is not None and trained.clock is not None:
            self.held[str(k)] = [trained.moments, trained.clock]

    def average(self, who: tuple[int, ...], shares: NDArray[np.float64]) -> None:
        """One state for all sites, if it is shared: the mean of those that took part, in float64."""
        each = [self.held[str(k)] for k in who if str(k) in self.held]
        if self.policy == "share" and each:
            mean = sum(float(p) * moments.double() for p, (moments, _) in zip(shares, each, strict=True))
            kept = {} if self.staying.shared is None else self.held
            self.held = {**kept, SHARED: [mean.to(each[0][0].dtype), max(clock for _, clock in each)]}  # type: ignore[union-attr]

    def crossing(self, k: int | None = None) -> list[Tensor]:
        """What crosses a border with a model: site k's own state, or that of all."""
        found = self.held.get(SHARED if k is None else str(k)) if self.policy == "share" else None
        return [] if found is None else [found[0], torch.as_tensor(found[1])]
