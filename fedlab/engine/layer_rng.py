"""Layers that draw random numbers while they train, such as dropout: each step has a generator of its own.

What is drawn depends on the seed, the site and the step alone, so a resumed run, a split model and a run beside others
draw what the uninterrupted, whole, lonely one draws.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from fedlab.core.rng import torch_stream


class LayerRNG:
    """layer: the name of the first layer that draws; None where none does."""

    def __init__(self, model: nn.Module, device: torch.device, seed: int) -> None:
        drawing = (name for name, module in model.named_modules() if _draws(module))
        self.layer, self.device, self.seed = next(drawing, None), device, seed

    @property
    def obstacle(self) -> str | None:
        """Why steps cannot be repeated or batched as they are; None if they can."""
        if self.layer is None:
            return None
        return f"layer {self.layer!r} draws random numbers, which would be drawn differently"

    def at(self, *place: str | int) -> AbstractContextManager:
        """While it is entered, layers draw from the generator of this place."""
        return nullcontext() if self.layer is None else self._seeded(*place)

    @contextmanager
    def _seeded(self, *place: str | int) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(torch_stream(self.seed, "layers", *place).initial_seed())
            yield


def _draws(module: nn.Module) -> bool:
    """Dropout, random leaks, and whole branches that are dropped (MONAI's and others' `drop_prob`)."""
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    return dropout or isinstance(module, nn.RReLU) or getattr(module, "drop_prob", 0) > 0
