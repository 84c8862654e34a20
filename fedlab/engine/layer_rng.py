"""Random numbers of layers that draw in training, such as dropout: each step has its own generator.

What is drawn depends on the seed, the site and the step alone, so a resumed run, a split model and runs in parallel
draw the same numbers as an uninterrupted, unsplit, single run.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from fedlab.core.rng import seed_global, torch_stream


class LayerRNG:
    """Generators of a model's random layers. layer: the name of the first one; None if the model has none."""

    def __init__(self, model: nn.Module, device: torch.device, seed: int, draws: bool = False) -> None:
        """draws: whether the model was seen to draw, in a layer that does not show it."""
        drawing = (name for name, module in model.named_modules() if _is_random(module))
        self.layer, self.device, self.seed = next(drawing, type(model).__name__ if draws else None), device, seed

    @property
    def obstacle(self) -> str | None:
        """Why steps cannot be batched over sites; None if they can."""
        if self.layer is None:
            return None
        return f"layer {self.layer!r} draws random numbers, which would be drawn differently"

    def at(self, *key: str | int) -> AbstractContextManager[None]:
        """Let layers draw from the generator of this key."""
        return nullcontext() if self.layer is None else self._seeded(*key)

    @contextmanager
    def _seeded(self, *key: str | int) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            seed_global(torch_stream(self.seed, "layers", *key).initial_seed(), self.device)
            yield


def _is_random(module: nn.Module) -> bool:
    """Whether it is dropout, a random leak, or a branch that is dropped at random (`drop_prob` of MONAI and timm)."""
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    return dropout or isinstance(module, nn.RReLU) or getattr(module, "drop_prob", 0) > 0
