"""What never leaves a site: its own normalisation, or a personal part of the model."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.layout import Layout
from fedlab.core.stages import Part, spread, take
from fedlab.core.weights import Weights, mix

KINDS = {  # batch normalisation policy -> kinds of coordinates that stay (SiloBN arXiv:2008.07424, FedBN
    "silobn": ("mean", "variance"),  # arXiv:2102.07623)
    "params_only": ("mean", "variance", "buffer"),
    "fedbn": ("mean", "variance", "batchnorm"),
}


class LocalParameters:
    """The coordinates that stay, and what they are at each site.

    mask: bool (size,). any: whether there are any. shared: bool (trained,), the parameters that leave; None where all
    do. own: each site's model (K, ...), of which only these coordinates are meant; None until the first training.
    trained: the sites that have trained.
    """

    any: bool
    shared: Tensor | None

    def __init__(self, layout: Layout, policy: str, start: Weights, sites: int) -> None:
        self.layout, self.start, self.sites = layout, start, sites
        self._used = layout.occupied.to(start.vector.device)
        self.mask = layout.mask(*KINDS.get(policy, ())).to(start.vector.device)
        self.own: Weights | None = None
        self.trained: list[int] = []
        self._leaving: dict[Any, tuple[Tensor, Tensor]] = {}
        self._look()

    def add(self, mask: Tensor) -> None:
        """These coordinates stay, too."""
        self.mask = self.mask | (mask.to(self.mask.device) & self._used)
        self._look()

    def add_none(self) -> None:
        """Nothing stays."""
        self.mask = torch.zeros_like(self.mask)
        self._look()

    def _look(self) -> None:
        """What the mask says, read from the device once."""
        self._leaving.clear()
        self.any = bool(self.mask.any())
        self._counts_leave = not bool(self.mask[self.layout.trained :].any())
        trained = self.mask[: self.layout.trained]
        self.shared = self._used[: self.layout.trained] & ~trained if bool(trained.any()) else None

    def at(self, w: Weights, k: int) -> Weights:
        """A model, or a part of one, as site k uses it: with what stays there, of which no optimizer state travels."""
        if self.own is None:
            return w
        own, mask = (
            (take(self.own[k], w.layout) if isinstance(w.layout, Part) else self.own[k]),
            self._mask_of(w.layout),
        )
        counts = w.counts if self._counts_leave else own.counts.clone()
        moments = None if w.moments is None else w.moments * ~mask[: w.layout.trained]
        return replace(w, vector=torch.where(mask, own.vector, w.vector), counts=counts, moments=moments)

    def mean(self, w: Weights, shares: NDArray[np.float64]) -> Weights:
        """A model for an institution that took no part: with the mean of what stays at the sites that have trained.

        shares: the weights of all sites, (K,).
        """
        if self.own is None:
            return w
        each = shares[self.trained]
        mean = mix(self.own.only(self.trained), each / each.sum())
        counts = w.counts if self._counts_leave else mean.counts
        return replace(w, vector=torch.where(self.mask, mean.vector, w.vector), counts=counts)

    def hidden(self, models: Weights, since: Weights) -> Weights:
        """Models (m, ...) as others see them: what stays at sites is that of the model that they started from."""
        if not self.any:
            return models
        vector = torch.where(self._mask_of(models.layout), since.vector, models.vector)
        counts = models.counts if self._counts_leave else since.counts.expand_as(models.counts)
        return replace(models, vector=vector, counts=counts)

    def store(self, k: int, w: Weights) -> None:
        """Keep what site k has learnt, of the whole model or of a part."""
        if not self.any:
            return
        if self.own is None:
            first = self.start.expand(self.sites)
            self.own = Weights(self.layout, first.vector.clone(), first.counts.clone())
        self.trained = sorted({*self.trained, k})
        if isinstance(w.layout, Part):
            spread(w, self.own.vector[k], self.own.counts[k])
        else:
            self.own.vector[k], self.own.counts[k] = w.vector, w.counts

    def nbytes(self, w: Weights) -> int:
        """Bytes of a model without what stays, with the optimizer state that it carries."""
        places, trained = self.places(w.layout)
        slots = 0 if w.moments is None else len(w.moments)
        beside = w.counts.numel() * w.counts.element_size() if self._counts_leave else 0
        clock = 0 if w.clock is None else w.clock.nbytes
        return (len(places) + slots * len(trained)) * w.vector.element_size() + beside + clock

    def leaving(self, w: Weights) -> tuple[Tensor, ...]:
        """The tensors of a model that leave a site."""
        places, trained = self.places(w.layout)
        moments = None if w.moments is None else w.moments[..., trained]
        clock = None if w.clock is None else torch.as_tensor(w.clock)
        beside = (w.counts if self._counts_leave else None, moments, clock)
        return (w.vector[places], *(t for t in beside if t is not None))

    def places(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Where the numbers of a model that leave a site are in its vector; those among them that are trained."""
        key = getattr(layout, "stages", None)
        if key not in self._leaving:
            leaves = layout.occupied.to(self.mask.device) & ~self._mask_of(layout)
            where = leaves.nonzero()[:, 0]
            self._leaving[key] = where, where[where < layout.trained]
        return self._leaving[key]

    def _mask_of(self, layout: Layout) -> Tensor:
        if not isinstance(layout, Part):
            return self.mask
        trained, buffers, _ = layout.spans
        return torch.cat([self.mask[span] for span in (*trained, *buffers)])
