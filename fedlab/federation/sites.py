"""An institution as methods see it: its name, its batches, how much work a round is, and how to weigh its classes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlab.engine.batches import Balanced, Batches
from fedlab.federation.participation import Participants
from fedlab.learning.settings import Training

ALL = "all sites"  # the name of their union


@dataclass(frozen=True)
class Site:
    """An institution, or the union of all of them: its training batches and the labels of its training cases."""

    name: str
    batches: Batches
    labels: NDArray[np.int64]

    @property
    def cases(self) -> int:
        return len(self.batches.index)

    def steps(self, settings: Training) -> int:
        """Optimizer steps in one round: the budget that every method keeps."""
        return settings.local_steps or settings.local_epochs * self.batches.per_epoch

    @cached_property
    def class_weights(self) -> NDArray[np.float64]:
        """n_k / (C_k n_k,y) of each training case, where C_k classes are present; mean 1.

        Balachandar 2020, doi:10.1093/jamia/ocaa017.
        """
        _, place, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        return len(self.labels) / (len(counts) * counts[place])

    @cached_property
    def balanced(self) -> Balanced:
        """Batches in which every class is met alike."""
        return Balanced(self.batches, self.class_weights / self.class_weights.sum())


@dataclass(frozen=True)
class RoundContext:
    """The present round, counted from 1, its learning rate, and who takes part.

    turn: the round whose batches are meant, where it is another one.
    """

    number: int
    lr: float
    turnout: Participants
    turn: int | None = None

    @property
    def sites(self) -> tuple[int, ...]:
        """The sites that take part, as positions, ascending."""
        return self.turnout.present
