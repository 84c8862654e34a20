"""Which cases a site trains on at each of its steps, as a pure function of the step's number.

The order of an epoch is drawn by (seed, site, epoch), so a site with a fixed number of steps continues where its last
round stopped, a resumed run sees the batches of the uninterrupted one, and all execution modes see the same batches.
"""

from collections.abc import Iterator

import numpy as np

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints


class Batches:
    """The batches of one site: `at(step)` gives row positions.

    A last partial batch is kept; if it holds a single case it joins the batch before it, since one case has no batch
    statistics.
    """

    def __init__(self, site: str, index: Ints, batch_size: int | None, seed: int) -> None:
        self.site, self.index, self.seed = site, index, seed
        self.size = min(batch_size or len(index), len(index))
        self.per_epoch = max(1, -(-len(index) // self.size) - (len(index) % self.size == 1 and self.size > 1))
        self._epoch, self._order = -1, index

    def at(self, step: int) -> Ints:
        """Row positions of the site's `step`-th batch, counted from 0 over all rounds."""
        epoch, position = divmod(step, self.per_epoch)
        if self.per_epoch == 1:
            return self.index  # full batch: the same sum in every step, bit for bit
        if epoch != self._epoch:
            self._order = stream(self.seed, "batches", self.site, epoch).permutation(self.index)
            self._epoch = epoch
        start = position * self.size
        return self._order[start:] if position == self.per_epoch - 1 else self._order[start : start + self.size]

    def length(self, step: int) -> int:
        """How many cases that batch has."""
        last = step % self.per_epoch == self.per_epoch - 1
        return len(self.index) - (self.per_epoch - 1) * self.size if last else self.size

    def sweep(self) -> Iterator[Ints]:
        """All cases once, in the order of the index, in parts of the batch size; no part of a single case."""
        ends = [position * self.size for position in range(1, self.per_epoch)]
        yield from np.split(self.index, ends)


class Balanced:
    """Batches drawn with replacement and all classes of the site equally likely: case i with 1 / (C_k n_k,y_i).

    Locally weighted minibatch sampling (Balachandar 2020, doi:10.1093/jamia/ocaa017); as many and as large as those of
    `Batches`. probabilities: of the cases in `batches.index`, summing to 1.
    """

    def __init__(self, batches: Batches, probabilities: Floats) -> None:
        self.seed, self.site = batches.seed, batches.site
        self.plain, self.probabilities, self.per_epoch = batches, probabilities, max(2, batches.per_epoch)

    def at(self, step: int) -> Ints:
        """Row positions of the `step`-th batch."""
        count = self.length(step)
        rng = stream(self.seed, "balanced batches", self.site, step)
        return rng.choice(self.plain.index, count, p=self.probabilities)

    def length(self, step: int) -> int:
        """How many cases that batch has."""
        return self.plain.length(step)
