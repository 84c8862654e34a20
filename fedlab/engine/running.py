"""The mean of models that come one at a time and are let go, so that memory does not grow with the number of sites."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.engine.updates import Lengths
from fedlab.weights import PIECE, Weights

AHEAD = 16  # models that may wait for one that was begun before them
PAUSE = 0.05  # seconds between two looks at whether it is still worth waiting


class Running:
    """The weighted mean of models, and how far their parameters are from those they started from.

    Models are taken in the order of `sites`, whenever they come, so that no bit depends on who was how fast.
    Differences to the first are summed in float64, as in `fedlab.weights.mix`.
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
        self._sums = start.vector.new_zeros(3, start.layout.parameters, dtype=torch.float64)
        self._squares = np.zeros(len(self.sites))

    def add(self, site: str, w: Weights, go_on: Callable[[], None]) -> None:
        """The model of a site. Waits where too many wait already; go_on: raises when waiting has become vain."""
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
        for piece in _pieces(self._mean):
            self._mean[piece].add_(w.vector[piece] - self._first[piece].double(), alpha=float(self.shares[place]))
        square = sum(float(moved.square().sum()) for _, moved in self._moved(w))
        self._squares[place] = square
        for piece, moved in self._moved(w):
            for total, factor in zip(
                self._sums, (1.0, self.cases[place], square**-0.5 if square else np.nan), strict=True
            ):
                total[piece].add_(moved, alpha=float(factor))

    def mean(self) -> Weights:
        """The weighted mean; exact where all models agree."""
        vector = (self._mean + self._first.double()).to(self._first.dtype)
        return Weights(self.start.layout, vector, self._counts)

    def lengths(self) -> Lengths:
        """Of the updates, in the order of sites; see `fedlab.engine.updates`."""
        return Lengths(self._squares, *self._sums.square().sum(1).tolist())

    def _moved(self, w: Weights) -> Iterator[tuple[slice, Tensor]]:
        for piece in _pieces(self._sums[0]):
            yield piece, w.parameters[piece].double() - self.start.parameters[piece].double()


def _pieces(vector: Tensor) -> Iterator[slice]:
    return (slice(first, first + PIECE) for first in range(0, len(vector), PIECE))
