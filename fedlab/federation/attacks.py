"""Hostile sites, to try aggregation rules on: what they send in the place of what they learnt.

An attack is `(models, w, who, shares, rng) -> models`: the stack that honest training gave, the model that was sent
out, the rows of the hostile sites, the weights of the mean, and a generator.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import torch_stream
from fedlab.core.typing import Floats
from fedlab.core.weights import Weights

ATTACKS = Registry("attack")


@dataclass(frozen=True)
class Attack:
    """Who attacks, as positions in the federation's sites, and how; the last `count` sites do."""

    name: str
    who: tuple[int, ...]
    send: Callable[..., Tensor]
    knobs: dict[str, Any]

    @classmethod
    def of(cls, text: str, sites: int) -> "Attack":
        """What `text` describes, such as "signflip(count=1)"; ValueError where no honest site would be left."""
        function, args, knobs = ATTACKS.parse(text, given=5)
        named = dict(zip(_knobs(function), args, strict=False)) | knobs
        count = named.pop("count", 0 if function is none else 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"attack={text!r}: count is {count!r}, give the number of hostile sites")
        if count >= sites > 0:
            raise ValueError(f"attack={text!r}: {count} of {sites} sites would be hostile, leave at least one honest")
        return cls(split_call(text)[0], tuple(range(sites - count, sites)), function, named)

    @property
    def flips_labels(self) -> bool:
        return self.name == "labelflip"

    def apply(self, models: Weights, w: Weights, shares: Floats, seed: int, number: int, turn: int = 0) -> Weights:
        """What arrives at the server of a stack of models; number, turn: the round, and the merge in it."""
        rows = [i for i, k in enumerate(models.owners) if k in self.who]
        if not rows or self.send in (none, labelflip):
            return models
        rng = torch_stream(seed, "attack", number, turn)
        held = to_device(models.layout.places[: models.layout.parameters], w.vector.device)
        sent = self.send(models.parameters[:, held], w.parameters[held], rows, shares, rng, **self.knobs)
        vector = models.vector.clone()
        vector[:, held] = sent
        return replace(models, vector=vector)


def _knobs(function: Callable[..., Any]) -> list[str]:
    import inspect

    return list(inspect.signature(function).parameters)[5:]


@ATTACKS.add
def none(models: Tensor, w: Tensor, who: list[int], shares: Floats, rng: torch.Generator) -> Tensor:
    """Every site is honest."""
    return models


@ATTACKS.add
def labelflip(
    models: Tensor, w: Tensor, who: list[int], shares: Floats, rng: torch.Generator, count: int = 1
) -> Tensor:
    """Hostile sites train on reversed labels: class c becomes C - 1 - c."""
    return models


@ATTACKS.add
def signflip(
    models: Tensor, w: Tensor, who: list[int], shares: Floats, rng: torch.Generator, count: int = 1, boost: float = 1.0
) -> Tensor:
    """The update, turned round and `boost` times as long."""
    models[who] = w - boost * (models[who] - w)
    return models


@ATTACKS.add
def scaled(
    models: Tensor, w: Tensor, who: list[int], shares: Floats, rng: torch.Generator, count: int = 1, boost: float = 10.0
) -> Tensor:
    """The update, `boost` times as long."""
    models[who] = w + boost * (models[who] - w)
    return models


@ATTACKS.add
def gaussian(
    models: Tensor, w: Tensor, who: list[int], shares: Floats, rng: torch.Generator, count: int = 1, sd: float = 1.0
) -> Tensor:
    """The model that was sent out, with noise of standard deviation `sd` in the place of an update."""
    noise = torch.randn(len(who), len(w), generator=rng, dtype=torch.float64)
    models[who] = w + sd * noise.to(w)
    return models


@ATTACKS.add
def replacement(
    models: Tensor, w: Tensor, who: list[int], shares: Floats, rng: torch.Generator, count: int = 1
) -> Tensor:
    """An update so long that the mean becomes the hostile site's model (Bagdasaryan 2020, arXiv:1807.00459)."""
    held = torch.as_tensor(shares[who].sum()).to(w)
    models[who] = w + (models[who] - w) / held
    return models


@ATTACKS.add
def alie(
    models: Tensor, w: Tensor, who: list[int], shares: Floats, rng: torch.Generator, count: int = 1, z: float = 0.0
) -> Tensor:
    """As far from the honest mean as hides in their spread (Baruch 2019, arXiv:1902.06156).

    z: standard deviations, per coordinate; 0 takes the paper's, which depends on how many sites are hostile.
    """
    honest = [i for i in range(len(models)) if i not in who]
    m, c = len(models), len(who)
    if not z:
        z = NormalDist().inv_cdf(min(max((m - c - (m // 2 + 1 - c)) / max(1, m - c), 0.01), 0.99))
    spread = models[honest].std(0, unbiased=False) if honest else torch.zeros_like(w)
    models[who] = (models[honest].mean(0) if honest else w) - z * spread
    return models
