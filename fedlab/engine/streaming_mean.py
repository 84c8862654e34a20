"""Streaming weighted mean: each model is added and freed, so that memory does not grow with the number of sites."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import pieces
from fedlab.core.weights import Weights

AHEAD = 16  # models that may wait for one that was begun before them
PAUSE = 0.05  # seconds between two looks at whether it is still worth waiting


class StreamingMean:
    """The weighted mean of models, and how far their parameters are from those they started from.

    Models are added in the order of `sites`, whenever they arrive, so that no bit depends on which site was faster.
    Differences to the first are summed in float64, as in `fedlab.core.weights.mix`.
    """

    def __init__(
        self, start: Weights, sites: Sequence[str], shares: NDArray[np.float64], cases: NDArray[np.float64]
    ) -> None:
        """shares: the weight of each site in the mean; cases: in the measures of the updates. Both sum to 1."""
        self.start, self.sites, self.shares, self.cases = start, list(sites), shares, cases
        self._next, self._turn = 0, threading.Condition()
        self._waiting: dict[int, Weights] = {}
        self._first, self._counts = start.vector, start.counts
        self._mean = torch.zeros_like(start.vector, dtype=torch.float64)
        self._sums = start.vector.new_zeros(3, start.layout.trained, dtype=torch.float64)
        self._squares = start.vector.new_zeros(len(self.sites), dtype=torch.float64)

    def add(self, site: str, w: Weights, go_on: Callable[[], None]) -> None:
        """The model of a site. Waits where too many wait already; go_on: raises when waiting has become pointless."""
        place = self.sites.index(site)
        with self._turn:
            while place != self._next and len(self._waiting) >= AHEAD:
                self._turn.wait(PAUSE)
                go_on()
            self._waiting[place] = w
            while self._next in self._waiting:
                self._take(self._waiting.pop(self._next), self._next)
                self._next += 1
            self._turn.notify_all()

    def _take(self, w: Weights, place: int) -> None:
        if place == 0:
            self._first = w.vector.clone()
        self._counts = torch.maximum(self._counts, w.counts)
        for piece in pieces(self._mean):
            self._mean[piece].add_(w.vector[piece] - self._first[piece].double(), alpha=float(self.shares[place]))
        for piece in pieces(self._sums[0]):
            self._squares[place] += self._moved(w, piece).square().sum()
        factor = self._squares[place].rsqrt()
        for piece in pieces(self._sums[0]):
            moved = self._moved(w, piece)
            self._sums[0, piece] += moved
            self._sums[1, piece].add_(moved, alpha=float(self.cases[place]))
            self._sums[2, piece].addcmul_(moved, factor)

    def mean(self) -> Weights:
        """The weighted mean; exact where all models agree."""
        vector = (self._mean + self._first.double()).to(self._first.dtype)
        return Weights(self.start.layout, vector, self._counts)

    def lengths(self) -> Tensor:
        """Of the updates, in the order of sites; see `fedlab.engine.update_statistics.lengths`."""
        return torch.cat([self._squares, self._sums.square().sum(1)])

    def _moved(self, w: Weights, piece: slice) -> Tensor:
        return w.parameters[piece].double() - self.start.parameters[piece].double()
