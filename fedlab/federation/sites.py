"""What each site has: its training data, the parameters that stay there, and its optimizer state between rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.layout import Layout
from fedlab.core.stages import StageLayout, extract, insert
from fedlab.core.weights import Weights, stack, weighted_mean
from fedlab.engine.batches import Balanced, Batches
from fedlab.learning.settings import Training

ALL = "all sites"  # name of their union
SHARED = "shared"  # key of the optimizer state that all sites share
PRIVATE_KINDS = {  # batch normalisation policy -> kinds of coordinates that stay at the sites
    "silobn": ("mean", "variance"),  # Andreux 2020, arXiv:2008.07424
    "params_only": ("mean", "variance", "buffer"),
    "fedbn": ("mean", "variance", "batchnorm"),  # Li 2021, arXiv:2102.07623
}


@dataclass(frozen=True)
class Site:
    """Training data of a site, or of the union of all sites: batches and the labels (n,) of its training cases."""

    name: str
    batches: Batches
    labels: NDArray[np.int64]

    @property
    def cases(self) -> int:
        """Number of training cases."""
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
        """Batches in which every class is equally likely."""
        return Balanced(self.batches, self.class_weights / self.class_weights.sum())


class LocalParameters:
    """Coordinates of the model that stay at the sites, and their values at each site.

    mask: bool (size,), the private coordinates. any: whether there are any. shared: bool (trained,), the parameters
    that cross; None if all do. models: each site's model (K, ...), of which only the private coordinates are used; None
    until the first training. trained: sites that have trained.
    """

    any: bool
    shared: Tensor | None

    def __init__(self, layout: Layout, policy: str, start: Weights, sites: int) -> None:
        """policy: `batchnorm` of the settings; start: initial model; sites: their number."""
        self.layout, self.start, self.sites = layout, start, sites
        self._occupied = layout.occupied.to(start.vector.device)
        self.mask = layout.mask(*PRIVATE_KINDS.get(policy, ())).to(start.vector.device)
        self.models: Weights | None = None
        self.trained: list[int] = []
        self._crossing: dict[Any, tuple[Tensor, Tensor]] = {}
        self._read_mask()

    def add(self, mask: Tensor) -> None:
        """Keep these coordinates, bool (size,), at the sites from now on."""
        self.mask = self.mask | (mask.to(self.mask.device) & self._occupied)
        self._read_mask()

    def clear(self) -> None:
        """Let whole models cross."""
        self.mask = torch.zeros_like(self.mask)
        self._read_mask()

    def _read_mask(self) -> None:
        """Derive what the mask decides, with one read from the device."""
        self._crossing.clear()
        self.any = bool(self.mask.any())
        self._counts_cross = not bool(self.mask[self.layout.trained :].any())
        trained = self.mask[: self.layout.trained]
        self.shared = self._occupied[: self.layout.trained] & ~trained if bool(trained.any()) else None

    def at(self, w: Weights, k: int) -> Weights:
        """The model, or a part of it, as site k uses it: with the site's private coordinates.

        Optimizer state of private coordinates does not travel, so it is zero.
        """
        if self.models is None:
            return w
        own = self.models[k]
        if isinstance(w.layout, StageLayout):
            own = extract(own, w.layout)
        mask = self._mask_of(w.layout)
        counts = w.counts if self._counts_cross else own.counts.clone()
        moments = None if w.moments is None else w.moments * ~mask[: w.layout.trained]
        return replace(w, vector=torch.where(mask, own.vector, w.vector), counts=counts, moments=moments)

    def at_sites(self, w: Weights, sites: Sequence[int]) -> Weights:
        """The model as each of these sites uses it: a stack (m, ...) without optimizer state."""
        w, owners = w.without_moments(), tuple(sites)
        if self.models is None or not owners:
            return w.expand(owners)
        return stack([self.at(w, k) for k in owners], owners)

    def mean(self, w: Weights, shares: NDArray[np.float64]) -> Weights:
        """The model for a site that did not take part: private coordinates are the mean over sites that have trained.

        shares: weights (K,) of all sites.
        """
        if self.models is None:
            return w
        each = shares[self.trained]
        mean = weighted_mean(self.models.only(self.trained), each / each.sum())
        counts = w.counts if self._counts_cross else mean.counts
        return replace(w, vector=torch.where(self.mask, mean.vector, w.vector), counts=counts)

    def hide(self, models: Weights, reference: Weights) -> Weights:
        """Models (m, ...) as others see them: private coordinates are those of `reference`, where training started."""
        if not self.any:
            return models
        vector = torch.where(self._mask_of(models.layout), reference.vector, models.vector)
        counts = models.counts if self._counts_cross else reference.counts.expand_as(models.counts)
        return replace(models, vector=vector, counts=counts)

    def store(self, k: int, w: Weights) -> None:
        """Store the private coordinates of site k after training the model or a part of it."""
        if not self.any:
            return
        if self.models is None:
            first = self.start.expand(self.sites)
            self.models = Weights(self.layout, first.vector.clone(), first.counts.clone())
        self.trained = sorted({*self.trained, k})
        if isinstance(w.layout, StageLayout):
            insert(w, self.models.vector[k], self.models.counts[k])
        else:
            self.models.vector[k], self.models.counts[k] = w.vector, w.counts

    def without_private(self, vectors: Tensor) -> Tensor:
        """Vectors (..., trained) with zeros at the private coordinates."""
        return vectors if self.shared is None else vectors * self.shared

    def nbytes(self, w: Weights) -> int:
        """Bytes of a model that cross, with the optimizer state that it carries."""
        places, trained = self.places(w.layout)
        slots = 0 if w.moments is None else len(w.moments)
        counts = w.counts.numel() * w.counts.element_size() if self._counts_cross else 0
        steps = 0 if w.steps is None else w.steps.nbytes
        return (len(places) + slots * len(trained)) * w.vector.element_size() + counts + steps

    def crossing(self, w: Weights) -> tuple[Tensor, ...]:
        """Tensors of a model that cross, with the optimizer state that it carries."""
        places, trained = self.places(w.layout)
        moments = None if w.moments is None else w.moments[..., trained]
        steps = None if w.steps is None else torch.as_tensor(w.steps)
        others = (w.counts if self._counts_cross else None, moments, steps)
        return (w.vector[places], *(t for t in others if t is not None))

    def places(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Places in the vector of the numbers that cross; those among them that are trained."""
        key = getattr(layout, "stages", None)
        if key not in self._crossing:
            crosses = layout.occupied.to(self.mask.device) & ~self._mask_of(layout)
            where = crosses.nonzero()[:, 0]
            self._crossing[key] = where, where[where < layout.trained]
        return self._crossing[key]

    def _mask_of(self, layout: Layout) -> Tensor:
        """The mask over the coordinates of the model or of a part."""
        if not isinstance(layout, StageLayout):
            return self.mask
        trained, buffers, _ = layout.spans
        return torch.cat([self.mask[span] for span in (*trained, *buffers)])


class OptimizerStates:
    """State of the sites' optimizers between rounds, for training that starts from a broadcast model.

    policy: "reset" discards it after every round; "keep" leaves each site its own; "share" averages it with the
    weights, with which it crosses; the state of private coordinates stays at the site. states: site, or "shared" ->
    [moments (slots, P), steps]. used: whether a method ever trained sites from a broadcast model.
    """

    def __init__(self, policy: str, private: LocalParameters) -> None:
        self.policy, self.private = policy, private
        self.states: dict[str, list[Any]] = {}
        self.used = False

    def load(self, w: Weights, k: int) -> Weights:
        """The start of site k with the optimizer state from which it continues."""
        self.used = True
        found = self._shared_at(k) if self.policy == "share" else self.states.get(str(k))
        return w if found is None else replace(w, moments=found[0], steps=found[1])

    def _shared_at(self, k: int) -> list[Any] | None:
        """The shared state, with that of site k for private coordinates."""
        found, shared = self.states.get(SHARED), self.private.shared
        if found is None:
            return self.states.get(str(k))
        if shared is None:
            return found
        own = self.states[str(k)][0] if str(k) in self.states else torch.zeros_like(found[0])
        return [torch.where(shared, found[0], own), found[1]]

    def store(self, k: int, trained: Weights) -> None:
        """Store the optimizer state of site k after training."""
        if trained.moments is not None and trained.steps is not None:
            self.states[str(k)] = [trained.moments, trained.steps]

    def average(self, sites: Sequence[int], shares: NDArray[np.float64]) -> None:
        """With policy "share": average the state of participating sites in float64."""
        each = [self.states[str(k)] for k in sites if str(k) in self.states]
        if self.policy == "share" and each:
            mean = torch.zeros_like(each[0][0], dtype=torch.float64)
            for share, (moments, _) in zip(shares, each, strict=True):
                mean = mean + float(share) * moments.double()
            kept = {} if self.private.shared is None else self.states
            self.states = {**kept, SHARED: [mean.to(each[0][0].dtype), max(steps for _, steps in each)]}

    def crossing(self, k: int | None = None) -> list[Tensor]:
        """Tensors that cross with a model: site k's own state, or the shared one."""
        found = self.states.get(SHARED if k is None else str(k)) if self.policy == "share" else None
        return [] if found is None else [found[0], torch.as_tensor(found[1])]
