"""A model's state as one contiguous vector, and operations on it.

`fedlab.core.layout` places trainable parameters first, then floating buffers, with padding between tensors.
Integer buffers are separate, in `counts`, since they are never averaged. A stack of K site models has a leading axis,
so aggregation is one weighted sum and a personal layer is a mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.layout import Layout
from fedlab.core.memory import chunks, to_device


@dataclass(frozen=True, eq=False, repr=False)
class Weights:
    """One model, or a stack of them.

    vector: (..., size), see `Layout`. counts: (..., integer buffers) int64. moments: optimizer state
    (..., slots, trained), present only where a method transmits it. steps: optimizer steps behind those moments (...,)
    int64, in host memory. sites: for each row of a stack, the position of its site in the federation, ascending; None
    if there is one row for every site.
    """

    layout: Layout
    vector: Tensor
    counts: Tensor
    moments: Tensor | None = None
    steps: NDArray[np.int64] | None = None
    sites: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """The number of models in a stack."""
        return self.vector.shape[0]

    def __getitem__(self, k: int) -> "Weights":
        """The model in row k of a stack."""
        moments = None if self.moments is None else self.moments[k]
        steps = None if self.steps is None else self.steps[k, ...]
        return Weights(self.layout, self.vector[k], self.counts[k], moments, steps)

    def __repr__(self) -> str:
        return f"Weights({', '.join(f'{name} {tuple(t.shape)}' for name, t in self.tensors().items())})"

    @property
    def stacked(self) -> bool:
        """Whether this is a stack of models."""
        return self.vector.ndim == 2

    @property
    def parameters(self) -> Tensor:
        """The trainable part (..., trained), padding included."""
        return self.vector[..., : self.layout.trained]

    @property
    def numbers(self) -> Tensor:
        """Copy of all parameters and floating buffers without padding, (..., P + Q)."""
        return self.vector[..., to_device(self.layout.places, self.vector.device)]

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers, with optimizer state and without padding."""
        models, slots = self.vector[..., 0].numel(), 0 if self.moments is None else self.moments.shape[-2]
        numbers = models * (self.layout.coordinates + slots * self.layout.parameters)
        others = self.counts.numel() * self.counts.element_size() + (0 if self.steps is None else self.steps.nbytes)
        return numbers * self.vector.element_size() + others

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor on the device."""
        named = {"vector": self.vector, "counts": self.counts, "moments": self.moments}
        return {name: t for name, t in named.items() if t is not None}

    @property
    def owners(self) -> tuple[int, ...]:
        """For each row of a stack, the position of its site in the federation."""
        return tuple(range(len(self))) if self.sites is None else self.sites

    def expand(self, sites: int | tuple[int, ...]) -> "Weights":
        """Repeat the model for K sites, or for the given ones, shape (K, ...), without a copy."""
        owners, count = (sites, len(sites)) if isinstance(sites, tuple) else (None, sites)
        steps = None if self.steps is None else np.broadcast_to(self.steps, (count, *self.steps.shape))
        return replace(self._each(lambda t: t.expand(count, *t.shape)), steps=steps, sites=owners)

    def only(self, sites: Sequence[int]) -> "Weights":
        """Select the rows of a stack that belong to these sites."""
        rows = self.rows(sites)
        steps = None if self.steps is None else self.steps[rows]
        return replace(self._each(lambda t: t[rows]), steps=steps, sites=tuple(sites))

    def rows(self, sites: Sequence[int]) -> list[int]:
        """Row numbers of these sites in a stack, in the order given."""
        place = {site: row for row, site in enumerate(self.owners)}
        return [place[site] for site in sites]

    def with_rows(self, rows: "Weights") -> "Weights":
        """A copy of a stack in which `rows` replace the models of their sites.

        If only `rows` have optimizer state, that of the other sites is zero.
        """
        places = self.rows(rows.owners)
        changed = {name: t.clone() for name, t in self.tensors().items()}
        for name, tensor in rows.tensors().items():
            if name not in changed:
                changed[name] = tensor.new_zeros(len(self), *tensor.shape[1:])
            changed[name][places] = tensor.to(changed[name].device)
        steps = self.steps
        if rows.steps is not None:
            steps = np.zeros(len(self), np.int64) if steps is None else np.array(steps)
            steps[places] = rows.steps
        return Weights(self.layout, **changed, steps=steps, sites=self.sites)

    def with_parameters(self, parameters: Tensor) -> "Weights":
        """A copy with other trainable parameters (..., trained)."""
        vector = torch.cat([parameters, self.vector[..., self.layout.trained :]], -1)
        return replace(self, vector=vector)

    def empty_like(self, sites: tuple[int, ...] | None = None) -> "Weights":
        """Uninitialised weights of the same shape, or one row for each of these sites, without optimizer state."""
        rows = self.vector.shape[:-1] if sites is None else (len(sites),)
        vector = self.vector.new_empty(*rows, self.vector.shape[-1])
        counts = self.counts.new_empty(*rows, self.counts.shape[-1])
        return Weights(self.layout, vector, counts, sites=self.sites if sites is None else sites)

    def without_moments(self) -> "Weights":
        """The same weights without optimizer state."""
        return replace(self, moments=None, steps=None)

    def with_pooled_variances(self) -> "Weights":
        """The same weights, whose running variances are averaged as the variance of the union of all sites."""
        return replace(self, layout=replace(self.layout, pooled=True))

    def to(self, device: torch.device | str) -> "Weights":
        """Move all tensors to a device."""
        return self._each(lambda t: t.to(device))

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> tensor of one model, as in PyTorch's `Module.state_dict`."""
        named = {name: view.contiguous() for name, view in self.layout.views(self.vector).items()}
        return named | {name: self.counts[i].clone() for i, name in enumerate(self.layout.counters)}

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Weights":
        """Apply a function to every tensor."""
        changed: dict[str, Any] = {name: change(t) for name, t in self.tensors().items()}
        return replace(self, **changed)


def stack(models: Sequence[Weights], sites: tuple[int, ...] | None = None) -> Weights:
    """Stack K models (K, ...). sites: positions of their sites in the federation."""
    first = models[0]
    parts = {name: torch.stack([m.tensors()[name] for m in models]) for name in first.tensors()}
    steps = None if first.steps is None else np.stack([m.steps for m in models])  # type: ignore[misc]
    return Weights(first.layout, **parts, steps=steps, sites=sites)


def interpolate(w: Weights, goal: Weights, rate: float) -> Weights:
    """w + rate (goal - w) for the trainable parameters; normalisation statistics are the goal's."""
    if rate == 1:
        return goal
    return goal.with_parameters(w.parameters + rate * (goal.parameters - w.parameters))


def weighted_mean(models: Weights, shares: np.ndarray | Sequence[float]) -> Weights:
    """Sum over sites of shares[k] * model k: the aggregation of FedAvg (McMahan et al. 2017, arXiv:1602.05629).

    Differences to the first model are summed in float64, in the order of the rows: the mean of identical models is
    that model bit for bit, and the result does not depend on the order in which updates arrive. Integer buffers: the
    largest, never a mean. If the stack has only some of the sites, their shares are renormalised.

    Parameters
    ----------
    models : Weights
        A stack of K models.
    shares : array-like of float, shape (K,) or (number of sites,)
        Non-negative, summing to 1; one for each model, or one for each site of the federation.

    Returns
    -------
    Weights
        One model, without optimizer state.

    Raises
    ------
    ValueError
        If there is no model, or if the shares do not describe a mean of these models.

    Examples
    --------
    >>> import torch
    >>> from fedlab.core.layout import Layout
    >>> from fedlab.core.weights import Weights, weighted_mean
    >>> layout = Layout.of(torch.nn.Linear(1, 1))
    >>> vectors = torch.zeros(2, layout.size)
    >>> vectors[:, layout.places] = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> mean = weighted_mean(Weights(layout, vectors, torch.zeros(2, 0, dtype=torch.int64)), [0.75, 0.25])
    >>> mean.numbers
    tensor([1.5000, 3.0000])
    """
    weights = np.asarray(shares, np.float64)
    if not len(models):
        raise ValueError("there is no model to average: check `if len(models)` before merging")
    if models.sites is not None and len(models) < len(weights) > max(models.sites):  # of the participating sites
        weights = weights[list(models.sites)] / weights[list(models.sites)].sum()
    if len(weights) != len(models) or not abs(weights.sum() - 1) <= 1e-9 or (weights < 0).any():
        raise ValueError(f"shares {weights} must be {len(models)} non-negative numbers that sum to 1")
    vector = torch.empty_like(models.vector[0])
    for piece in chunks(vector, len(models)):
        vector[piece] = _mean(models.vector[:, piece], weights)
    if models.layout.pooled:
        _pool_variances(vector, models, weights)
    return Weights(models.layout, vector, models.counts.amax(0))


def squared_distances(models: Weights) -> np.ndarray:
    """Squared distances between the trainable parameters of all pairs of models, float64 (m, m)."""
    m, vectors = len(models), models.parameters
    apart = vectors.new_zeros(m, m, dtype=torch.float64)
    for k in range(m):
        for piece in chunks(vectors[0], m):
            apart[k, k + 1 :] += (vectors[k + 1 :, piece].double() - vectors[k, piece].double()).square().sum(1)
    found = apart.cpu().numpy()
    return found + found.T


def _mean(rows: Tensor, weights: np.ndarray) -> Tensor:
    """Weighted mean over the first axis in float64, exact where all rows agree."""
    first = rows[0].double()
    if rows.device.type != "cpu":  # few kernels, independent of the number of rows
        return (rows[1:] - first).mul_(to_device(weights[1:, None], rows.device)).sum(0).add_(first)
    total = torch.zeros_like(first)
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total.add_(row - first, alpha=float(weight))  # in float64 for every precision of the models
    return total.add_(first)


def _pool_variances(vector: Tensor, models: Weights, weights: np.ndarray) -> None:
    """Set v = sum p (v_k + (mu_k - mu)^2), the variance of the union, in place."""
    for mean, variance in pairwise(models.layout.entries):
        if (mean.kind, variance.kind) == ("mean", "variance"):
            centres = models.vector[:, mean.start : mean.stop].double()
            spread = (centres - _mean(centres, weights)) ** 2
            within = models.vector[:, variance.start : variance.stop].double()
            vector[variance.start : variance.stop] = _mean(within + spread, weights)
