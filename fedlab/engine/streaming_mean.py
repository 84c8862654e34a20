"""Streaming weighted mean: each model is added and freed, so that memory does not grow with the number of sites."""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedlab.core.memory import chunks
from fedlab.core.typing import Floats
from fedlab.core.weights import Weights

MAX_WAITING = 16  # models that may wait for one that comes before them
POLL_SECONDS = 0.05  # between two checks whether training was stopped


class StreamingMean:
    """The weighted mean of models, and the norms of their updates.

    Models may arrive in any order and are added in the order of `sites`, so that no bit depends on which site was
    faster. Differences to the first are summed in float64, as in `fedlab.core.weights.weighted_mean`.
    """

    def __init__(self, start: Weights, sites: Sequence[str], shares: Floats, cases: Floats) -> None:
        """shares: the weight of each site in the mean; cases: in the update statistics. Both sum to 1."""
        self.start, self.sites, self.shares, self.cases = start, list(sites), shares, cases
        self._next, self._turn = 0, threading.Condition()
        self._waiting: dict[int, Weights] = {}
        self._first, self._counts = start.vector, start.counts
        self._mean = torch.zeros_like(start.vector, dtype=torch.float64)
        self._sums = start.vector.new_zeros(3, start.layout.trained, dtype=torch.float64)
        self._squares = start.vector.new_zeros(len(self.sites), dtype=torch.float64)

    def add(self, site: str, w: Weights, check_stopped: Callable[[], None]) -> None:
        """Add the model of a site; wait if too many others wait already.

        check_stopped: raises an error if training was stopped, so that waiting ends.
        """
        position = self.sites.index(site)
        with self._turn:
            while position != self._next and len(self._waiting) >= MAX_WAITING:
                self._turn.wait(POLL_SECONDS)
                check_stopped()
            self._waiting[position] = w
            while self._next in self._waiting:
                self._accumulate(self._waiting.pop(self._next), self._next)
                self._next += 1
            self._turn.notify_all()

    def _accumulate(self, w: Weights, position: int) -> None:
        """Add one model to all sums."""
        if position == 0:
            self._first = w.vector.clone()
        self._counts = torch.maximum(self._counts, w.counts)
        for chunk in chunks(self._mean):
            self._mean[chunk].add_(w.vector[chunk] - self._first[chunk].double(), alpha=float(self.shares[position]))
        for chunk in chunks(self._sums[0]):
            self._squares[position] += self._update(w, chunk).square().sum()
        factor = self._squares[position].rsqrt()
        for chunk in chunks(self._sums[0]):
            update = self._update(w, chunk)
            self._sums[0, chunk] += update
            self._sums[1, chunk].add_(update, alpha=float(self.cases[position]))
            self._sums[2, chunk].addcmul_(update, factor)

    def mean(self) -> Weights:
        """The weighted mean; exact if all models are equal."""
        vector = (self._mean + self._first.double()).to(self._first.dtype)
        return Weights(self.start.layout, vector, self._counts)

    def squared_norms(self) -> Tensor:
        """Of the updates, in the order of sites; see `fedlab.engine.update_statistics.squared_norms`."""
        return torch.cat([self._squares, self._sums.square().sum(1)])

    def _update(self, w: Weights, chunk: slice) -> Tensor:
        """Trained minus starting parameters, in float64."""
        return w.parameters[chunk].double() - self.start.parameters[chunk].double()
