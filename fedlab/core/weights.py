"""A model's state as one contiguous vector, and the verbs on it.

`fedlab.core.layout` places trainable parameters first, then floating buffers, with padding between tensors.
Integer buffers are kept apart in `counts`: they are never averaged. A stack of K site models has a leading axis, so
`mix` is one weighted sum and a personal layer is a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.layout import Layout
from fedlab.core.memory import pieces, to_device


@dataclass(frozen=True, eq=False, repr=False)
class Weights:
    """One model, or a stack of them.

    vector: (..., size), see `Layout`. counts: (..., integer buffers) int64. moments: optimizer state
    (..., slots, trained), kept only where a method lets it travel. clock: optimizer steps behind those moments (...,)
    int64, in the host's memory. sites: whose model each row of a stack is, as positions in the federation's sites,
    ascending; None where it is one a site.
    """

    layout: Layout
    vector: Tensor
    counts: Tensor
    moments: Tensor | None = None
    clock: NDArray[np.int64] | None = None
    sites: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.vector.shape[0]

    def __getitem__(self, k: int) -> "Weights":
        """The model in row k of a stack."""
        moments = None if self.moments is None else self.moments[k]
        clock = None if self.clock is None else self.clock[k, ...]
        return Weights(self.layout, self.vector[k], self.counts[k], moments, clock)

    def __repr__(self) -> str:
        return f"Weights({', '.join(f'{name} {tuple(t.shape)}' for name, t in self.tensors().items())})"

    @property
    def stacked(self) -> bool:
        return self.vector.ndim == 2

    @property
    def parameters(self) -> Tensor:
        """The trainable part (..., trained), padding included."""
        return self.vector[..., : self.layout.trained]

    @property
    def numbers(self) -> Tensor:
        """All parameters and floating buffers without padding, a copy (..., P + Q)."""
        return self.vector[..., to_device(self.layout.places, self.vector.device)]

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers of these weights, optimizer state included, padding not."""
        models, slots = self.vector[..., 0].numel(), 0 if self.moments is None else self.moments.shape[-2]
        numbers = models * (self.layout.coordinates + slots * self.layout.parameters)
        beside = self.counts.numel() * self.counts.element_size() + (0 if self.clock is None else self.clock.nbytes)
        return numbers * self.vector.element_size() + beside

    def tensors(self) -> dict[str, Tensor]:
        """Name -> what is on the device."""
        named = {"vector": self.vector, "counts": self.counts, "moments": self.moments}
        return {name: t for name, t in named.items() if t is not None}

    @property
    def owners(self) -> tuple[int, ...]:
        """Whose model each row of a stack is."""
        return tuple(range(len(self))) if self.sites is None else self.sites

    def expand(self, sites: int | tuple[int, ...]) -> "Weights":
        """The same model at each of K sites, or at those named, shape (K, ...), without a copy."""
        who, count = (sites, len(sites)) if isinstance(sites, tuple) else (None, sites)
        clock = None if self.clock is None else np.broadcast_to(self.clock, (count, *self.clock.shape))
        return replace(self._each(lambda t: t.expand(count, *t.shape)), clock=clock, sites=who)

    def only(self, sites: Sequence[int]) -> "Weights":
        """The rows of a stack that belong to these sites."""
        rows = self.rows(sites)
        clock = None if self.clock is None else self.clock[rows]
        return replace(self._each(lambda t: t[rows]), clock=clock, sites=tuple(sites))

    def rows(self, sites: Sequence[int]) -> list[int]:
        """The rows of a stack that belong to these sites, in their order."""
        place = {site: row for row, site in enumerate(self.owners)}
        return [place[site] for site in sites]

    def put(self, rows: "Weights") -> "Weights":
        """A stack in which the sites that `rows` belong to have those models; the others keep theirs.

        Optimizer state that only `rows` carry is zero for the others.
        """
        places = self.rows(rows.owners)
        changed = {name: t.clone() for name, t in self.tensors().items()}
        for name, tensor in rows.tensors().items():
            if name not in changed:
                changed[name] = tensor.new_zeros(len(self), *tensor.shape[1:])
            changed[name][places] = tensor.to(changed[name].device)
        clock = self.clock
        if rows.clock is not None:
            clock = np.zeros(len(self), np.int64) if clock is None else np.array(clock)
            clock[places] = rows.clock
        return Weights(self.layout, **changed, clock=clock, sites=self.sites)

    def with_parameters(self, parameters: Tensor) -> "Weights":
        """These weights with other trainable parameters (..., trained)."""
        vector = torch.cat([parameters, self.vector[..., self.layout.trained :]], -1)
        return replace(self, vector=vector)

    def blank(self, sites: tuple[int, ...] | None = None) -> "Weights":
        """Unset weights for these sites, or in the same shape, in memory of their own, without optimizer state."""
        rows = self.vector.shape[:-1] if sites is None else (len(sites),)
        vector = self.vector.new_empty(*rows, self.vector.shape[-1])
        counts = self.counts.new_empty(*rows, self.counts.shape[-1])
        return Weights(self.layout, vector, counts, sites=self.sites if sites is None else sites)

    def bare(self) -> "Weights":
        """Without optimizer state."""
        return replace(self, moments=None, clock=None)

    def pooling(self) -> "Weights":
        """The same weights, to be mixed with variances as those of the union."""
        return replace(self, layout=replace(self.layout, pooled=True))

    def to(self, device: torch.device | str) -> "Weights":
        return self._each(lambda t: t.to(device))

    def _each(self, change) -> "Weights":
        return replace(self, **{name: change(t) for name, t in self.tensors().items()})


def stack(models: Sequence[Weights], sites: tuple[int, ...] | None = None) -> Weights:
    """K models -> one stack (K, ...); sites: whose they are."""
    first = models[0]
    parts = {name: torch.stack([m.tensors()[name] for m in models]) for name in first.tensors()}
    clock = None if first.clock is None else np.stack([m.clock for m in models])  # type: ignore[misc]
    return Weights(first.layout, **parts, clock=clock, sites=sites)


def toward(w: Weights, goal: Weights, rate: float) -> Weights:
    """w + rate (goal - w) in the trainable parameters; normalisation statistics are the goal's."""
    if rate == 1:
        return goal
    return goal.with_parameters(w.parameters + rate * (goal.parameters - w.parameters))


def mix(models: Weights, shares: np.ndarray | Sequence[float]) -> Weights:
    """Sum over sites of shares[k] * model k, shares summing to 1; the update of FedAvg (arXiv:1602.05629).

    Differences to the first model are summed in float64, sites in the order given: identical models mix to themselves
    bit for bit, and the result does not depend on when a site answered. Integer buffers: the largest, never a mean.
    Where only some sites are in the stack, shares of all sites are renormalised over them.
    """
    weights = np.asarray(shares, np.float64)
    if not len(models):
        raise ValueError("a mean of no models: ask whether anybody answered, `if len(back)`, before merging")
    if models.sites is not None and len(models) < len(weights) > max(models.sites):  # of the sites that take part
        weights = weights[list(models.sites)] / weights[list(models.sites)].sum()
    if len(weights) != len(models) or not abs(weights.sum() - 1) <= 1e-9 or (weights < 0).any():
        raise ValueError(f"shares {weights} must be {len(models)} non-negative numbers that sum to 1")
    vector = torch.empty_like(models.vector[0])
    for piece in pieces(vector, len(models)):
        vector[piece] = _mean(models.vector[:, piece], weights)
    if models.layout.pooled:
        _pool_variances(vector, models, weights)
    return Weights(models.layout, vector, models.counts.amax(0))


def distances(models: Weights) -> np.ndarray:
    """Squared distances between the trainable parameters of each two models of a stack, float64 (m, m)."""
    m, vectors = len(models), models.parameters
    apart = vectors.new_zeros(m, m, dtype=torch.float64)
    for k in range(m):
        for piece in pieces(vectors[0], m):
            apart[k, k + 1 :] += (vectors[k + 1 :, piece].double() - vectors[k, piece].double()).square().sum(1)
    found = apart.cpu().numpy()
    return found + found.T


def _mean(rows: Tensor, weights: np.ndarray) -> Tensor:
    """Weighted mean over the first axis in float64, exact where all rows agree."""
    first = rows[0].double()
    if rows.device.type != "cpu":  # a few kernels, however many rows
        return (rows[1:] - first).mul_(to_device(weights[1:, None], rows.device)).sum(0).add_(first)
    total = torch.zeros_like(first)
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total.add_(row - first, alpha=float(weight))  # in float64, whatever the models are in
    return total.add_(first)


def _pool_variances(vector: Tensor, models: Weights, weights: np.ndarray) -> None:
    """v = sum p (v_k + (mu_k - mu)^2): the variance of the union, in place."""
    for mean, variance in pairwise(models.layout.entries):
        if (mean.kind, variance.kind) == ("mean", "variance"):
            centres = models.vector[:, mean.start : mean.stop].double()
            spread = (centres - _mean(centres, weights)) ** 2
            within = models.vector[:, variance.start : variance.stop].double()
            vector[variance.start : variance.stop] = _mean(within + spread, weights)
