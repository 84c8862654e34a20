"""Positions of a model's tensors in its flat vector.

The vector holds the P trained parameters in the order of the model's stages, then the Q other floating numbers
(normalisation statistics). Each tensor starts at a multiple of 256 bytes, as a GPU's vectorised kernels need; the gaps
between tensors are padding, which is always zero and never counted, sent or saved.

Frozen tensors are no part of the vector: parameters with requires_grad=False, and the buffers of modules that hold
frozen parameters only. Every copy of a model has the same ones, so they are never sent, averaged, clipped or attacked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core.memory import ALIGNMENT

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)  # by type, since names do not tell ("downsample.1")
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)
FACTORS = ("lora_a", "lora_b")  # of low-rank adapters, which do not make the module that holds them a trained one


@dataclass(frozen=True)
class Entry:
    """One tensor of the model and its position in the vector.

    kind: weight (decays), bias, norm, batchnorm (scale and offset), mean or variance (running statistics of a batch
    norm), or buffer (others).
    """

    name: str
    shape: tuple[int, ...]
    start: int
    kind: str

    @property
    def stop(self) -> int:
        """The position after its last number."""
        return self.start + self.size

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Layout:
    """The positions of all tensors of one architecture.

    counters: names of buffers that hold one integer. trained: length of the vector's trainable part, padding included.
    size: length of the vector, padding included. pooled: average running variances as the variance of the union of all
    sites. channels_last: convolution kernels are in channels-last memory.
    """

    entries: tuple[Entry, ...]
    counters: tuple[str, ...]
    trained: int
    size: int
    pooled: bool = False
    channels_last: bool = True

    @classmethod
    def of(cls, model: nn.Module, *, pooled: bool = False, channels_last: bool = True) -> "Layout":
        """Lay out a model: trained parameters in stage order, then floating buffers.

        Frozen tensors and tables of integers are no part of it: they are the same in every copy of the model.
        """
        kinds, frozen = _kinds(model), {id(b) for module in frozen_modules(model) for b in module.buffers()}
        buffers = {name: b for name, b in model.named_buffers() if id(b) not in frozen}
        parameters = [(name, p.shape, kinds[name]) for name, p in model.named_parameters() if p.requires_grad]
        floating = [(name, b.shape, kinds[name]) for name, b in buffers.items() if b.is_floating_point()]
        counters = tuple(name for name, b in buffers.items() if not b.is_floating_point() and not b.ndim)
        found = [Entry(name, tuple(shape), 0, kind) for name, shape, kind in parameters + floating]
        entries, trained, size = place(found, len(parameters))
        return cls(entries, counters, trained, size, pooled, channels_last)

    @cached_property
    def parameters(self) -> int:
        """The number of trainable parameters P."""
        return sum(entry.size for entry in self.entries if entry.start < self.trained)

    @cached_property
    def coordinates(self) -> int:
        """The number of parameters and floating buffers P + Q."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def occupied(self) -> Tensor:
        """Marks the coordinates that belong to the model, bool (size,); the others are padding."""
        return self.mask(*{entry.kind for entry in self.entries})

    @cached_property
    def places(self) -> Tensor:
        """Indices of the coordinates that belong to the model, (P + Q,)."""
        return self.occupied.nonzero()[:, 0]

    def mask(self, *kinds: str) -> Tensor:
        """Mark the coordinates of tensors of these kinds, bool (size,)."""
        chosen = torch.zeros(self.size, dtype=torch.bool)
        for entry in self.entries:
            if entry.kind in kinds:
                chosen[entry.start : entry.stop] = True
        return chosen

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Name -> view of a vector (..., size), or of its trainable part (..., trained) without buffers.

        Convolution kernels are in channels-last memory order, unless `channels_last` is False.
        """
        inside = [entry for entry in self.entries if entry.stop <= vector.shape[-1]]
        return {entry.name: _view(vector, entry, self.channels_last) for entry in inside}


def frozen_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that hold frozen parameters only, factors of adapters aside; those inside them are not listed.

    They stay in evaluation mode, so that their statistics never move and their dropout is off.
    """
    own = [p for name, p in model.named_parameters() if name.rpartition(".")[2] not in FACTORS]
    if own and not any(p.requires_grad for p in own):
        yield model
        return
    for child in model.children():
        yield from frozen_modules(child)


def place(found: Sequence[Entry], trainable: int) -> tuple[tuple[Entry, ...], int, int]:
    """Place tensors one after another, the first `trainable` of them trained: (entries, trained, size)."""
    entries, starts = [], [0]
    for entry in found:
        entries.append(replace(entry, start=starts[-1]))
        starts.append(after(entries[-1]))
    return tuple(entries), starts[trainable], starts[-1]


def after(entry: Entry) -> int:
    """The first position at which the next tensor may begin."""
    return -(-entry.stop // ALIGNMENT) * ALIGNMENT


def _kinds(model: nn.Module) -> dict[str, str]:
    """Name of each parameter and buffer -> its kind, derived from the type of its module."""
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
    """The kind of a normalisation layer's scale and offset, "" for other layers."""
    if isinstance(module, BATCH_NORMS):
        return "batchnorm"
    return "norm" if isinstance(module, NORMS) else ""


def _view(vector: Tensor, entry: Entry, channels_last: bool) -> Tensor:
    """One tensor as a view of the vector."""
    flat, many = vector[..., entry.start : entry.stop], vector.shape[:-1]
    if len(entry.shape) < 4 or not channels_last:
        return flat.view((*many, *entry.shape))
    outputs, inputs, *kernel = entry.shape
    return flat.view(*many, outputs, *kernel, inputs).movedim(-1, len(many) + 1)
