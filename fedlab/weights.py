"""A model's state as one contiguous vector, and the verbs on it.

The vector holds the P trainable parameters in the order of the model's stages, then the Q floating buffers
(normalisation statistics). Integer buffers stand apart in `counts`: they are never averaged. A stack of K site models
has a leading axis, so `mix` is one weighted sum and a personal layer is a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)  # by type: names tell nothing ("downsample.1" is one, too)
PIECE = 2**16  # coordinates mixed at a time
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Entry:
    """One tensor of the model and its place in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    kind: (
        str  # weight (decays) | bias | norm | batchnorm (scale and offset) | mean | variance (of a batch norm) | buffer
    )

    @property
    def stop(self) -> int:
        return self.start + int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each tensor of one architecture stands in the vector.

    parameters: P. size: P + Q. counters: names of integer buffers. pooled: merge variances as those of the union.
    """

    entries: tuple[Entry, ...]
    counters: tuple[str, ...]
    parameters: int
    size: int
    pooled: bool = False

    @classmethod
    def of(cls, model: nn.Module, *, pooled: bool = False) -> "Layout":
        """The layout of a model: parameters in stage order, then floating buffers."""
        kinds = _kinds(model)
        parameters = [(name, p.shape, kinds[name]) for name, p in model.named_parameters()]
        floating = [(name, b.shape, kinds[name]) for name, b in model.named_buffers() if b.is_floating_point()]
        counters = tuple(name for name, b in model.named_buffers() if not b.is_floating_point())
        entries, start = [], 0
        for name, shape, kind in parameters + floating:
            entries.append(Entry(name, tuple(shape), start, kind))
            start = entries[-1].stop
        count = entries[len(parameters) - 1].stop if parameters else 0
        return cls(tuple(entries), counters, count, start, pooled)

    def mask(self, *kinds: str) -> Tensor:
        """Which coordinates of the vector are of these kinds, bool of shape (P + Q,)."""
        chosen = torch.zeros(self.size, dtype=torch.bool)
        for entry in self.entries:
            if entry.kind in kinds:
                chosen[entry.start : entry.stop] = True
        return chosen

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Name -> view of the vector or, with an axis before it, of a stack; kernels in channels-last memory order.

        Of vectors (..., P) without buffers, views of the parameters.
        """
        return {entry.name: _view(vector, entry) for entry in self.entries if entry.stop <= vector.shape[-1]}

    def state(self, weights: "Weights") -> dict[str, Tensor]:
        """Name -> tensor, as PyTorch's `state_dict` has it."""
        named = {name: view.contiguous() for name, view in self.views(weights.vector).items()}
        return named | {name: weights.counts[i].clone() for i, name in enumerate(self.counters)}


@dataclass(frozen=True, eq=False, repr=False)
class Weights:
    """One model, or a stack of them.

    vector: (..., P + Q). counts: (..., integer buffers) int64. moments: optimizer state (..., slots, P), kept only
    where a method lets it travel. clock: optimizer steps behind those moments (...,) int64. sites: whose model each row
    of a stack is, as positions in the federation's sites, ascending; None where it is one a site.
    """

    layout: Layout
    vector: Tensor
    counts: Tensor
    moments: Tensor | None = None
    clock: Tensor | None = None
    sites: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.vector.shape[0]

    def __getitem__(self, k: int) -> "Weights":
        """The model in row k of a stack."""
        return replace(self._each(lambda t: t[k]), sites=None)

    def __repr__(self) -> str:
        return f"Weights({', '.join(f'{name} {tuple(t.shape)}' for name, t in self.tensors().items())})"

    @property
    def stacked(self) -> bool:
        return self.vector.ndim == 2

    @property
    def parameters(self) -> Tensor:
        """The trainable part, (..., P)."""
        return self.vector[..., : self.layout.parameters]

    @property
    def nbytes(self) -> int:
        """Bytes of everything these weights hold, optimizer state included."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        named = {"vector": self.vector, "counts": self.counts, "moments": self.moments, "clock": self.clock}
        return {name: t for name, t in named.items() if t is not None}

    @property
    def owners(self) -> tuple[int, ...]:
        """Whose model each row of a stack is."""
        return tuple(range(len(self))) if self.sites is None else self.sites

    def expand(self, sites: int | tuple[int, ...]) -> "Weights":
        """The same model at each of K sites, or at those named, shape (K, ...), without a copy."""
        who = sites if isinstance(sites, tuple) else None
        count = len(who) if who is not None else sites
        return replace(self._each(lambda t: t.expand(count, *t.shape)), sites=who)

    def only(self, sites: Sequence[int]) -> "Weights":
        """The rows of a stack that belong to these sites."""
        rows = [self.owners.index(site) for site in sites]
        return replace(self._each(lambda t: t[rows]), sites=tuple(sites))

    def put(self, rows: "Weights") -> "Weights":
        """A stack in which the sites that `rows` belong to have those models; the others keep theirs.

        Optimizer state that only `rows` carry is zero for the others.
        """
        places = [self.owners.index(site) for site in rows.owners]
        changed = {name: t.clone() for name, t in self.tensors().items()}
        for name, tensor in rows.tensors().items():
            if name not in changed:
                changed[name] = tensor.new_zeros(len(self), *tensor.shape[1:])
            changed[name][places] = tensor.to(changed[name].device)
        return Weights(self.layout, **changed, sites=self.sites)

    def with_parameters(self, parameters: Tensor) -> "Weights":
        """These weights with other trainable parameters (P,)."""
        vector = torch.cat([parameters, self.vector[..., self.layout.parameters :]], -1)
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
        return Weights(self.layout, **{name: change(t) for name, t in self.tensors().items()}, sites=self.sites)


def stack(models: Sequence[Weights], sites: tuple[int, ...] | None = None) -> Weights:
    """K models -> one stack (K, ...); sites: whose they are."""
    first = models[0]
    parts = {name: torch.stack([m.tensors()[name] for m in models]) for name in first.tensors()}
    return Weights(first.layout, **parts, sites=sites)


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
    for piece, rows in zip(vector.split(PIECE), models.vector.split(PIECE, dim=1), strict=True):
        piece.copy_(_mean(rows, weights))  # piece by piece, to stay in cache
    if models.layout.pooled:
        _pool_variances(vector, models, weights)
    return Weights(models.layout, vector, models.counts.amax(0))


def distances(models: Weights) -> np.ndarray:
    """Squared distances between the trainable parameters of each two models of a stack, float64 (m, m)."""
    m = len(models)
    apart = np.zeros((m, m))
    for k in range(m):
        for piece in models.parameters.split(PIECE, dim=1):
            ahead = piece[k + 1 :].double() - piece[k].double()
            apart[k, k + 1 :] += ahead.square().sum(1).cpu().numpy()
    return apart + apart.T


def _mean(rows: Tensor, weights: np.ndarray) -> Tensor:
    """Weighted mean over the first axis in float64, exact where all rows agree."""
    first = rows[0].double()
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


def _kinds(model: nn.Module) -> dict[str, str]:
    """Name of each parameter and buffer -> its kind, told by the type of its module."""
    kinds = {}
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False):
            plain = "bias" if name == "bias" or parameter.ndim < 2 else "weight"
            kinds[dot + name] = _norm_kind(module) or plain
        for name, _ in module.named_buffers(recurse=False):
            statistics = {"running_mean": "mean", "running_var": "variance"} if isinstance(module, BATCH_NORMS) else {}
            kinds[dot + name] = statistics.get(name, "buffer")
    return kinds


def _norm_kind(module: nn.Module) -> str:
    if isinstance(module, BATCH_NORMS):
        return "batchnorm"
    return "norm" if isinstance(module, NORMS) else ""


def in_memory_order(tensor: Tensor, many: int = 0) -> Tensor:
    """A convolution kernel with its channels last, as vectors have it; many: axes before it, of a stack."""
    return tensor.movedim(1 + many, -1) if tensor.ndim > 3 + many else tensor


def _view(vector: Tensor, entry: Entry) -> Tensor:
    flat, many = vector[..., entry.start : entry.stop], vector.shape[:-1]
    if len(entry.shape) < 4:
        return flat.view(*many, *entry.shape)
    outputs, inputs, *kernel = entry.shape
    return flat.view(*many, outputs, *kernel, inputs).movedim(-1, len(many) + 1)
