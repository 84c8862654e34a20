"""Attacks of malicious (Byzantine) sites, on which to try aggregation rules: what they send instead of their model.

An attack is `(models, w, rows, shares, rng) -> models`: the stack (m, P) of honest training, the model (P,) that was
broadcast, the rows of the malicious sites, the weights (m,) of the mean, and a generator.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import torch
from torch import Generator, Tensor

from fedlab.core.arguments import Count, NotNegative
from fedlab.core.memory import to_device
from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import torch_stream
from fedlab.core.typing import Floats
from fedlab.core.weights import Weights

ATTACKS = Registry("attack")
GIVEN = 5  # parameters of an attack that are not arguments of the user


@dataclass(frozen=True)
class Attack:
    """An attack and the positions of the malicious sites, which are the last `count` ones."""

    name: str
    sites: tuple[int, ...]
    send: Callable[..., Tensor]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, text: str, sites: int) -> "Attack":
        """Parse text such as "signflip(count=1)"; ValueError if no honest site would be left."""
        function, args, named = ATTACKS.parse(text, given=GIVEN)
        names = list(inspect.signature(function).parameters)[GIVEN:]
        arguments = dict(zip(names, args, strict=False)) | named
        count = arguments.pop("count", 0 if function is none else 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"attack={text!r}: count is {count!r}, give the number of malicious sites")
        if count >= sites > 0:
            raise ValueError(
                f"attack={text!r}: {count} of {sites} sites would be malicious, leave at least one honest site"
            )
        return cls(split_call(text)[0], tuple(range(max(0, sites - count), sites)), function, arguments)

    @property
    def flips_labels(self) -> bool:
        """Whether the attack changes training labels instead of models."""
        return self.name == "labelflip"

    def apply(self, models: Weights, w: Weights, shares: Floats, seed: int, number: int, merge: int = 0) -> Weights:
        """Models (m, ...) as they arrive; number, merge: the round, and the merges in it so far."""
        rows = [row for row, k in enumerate(models.owners) if k in self.sites]
        if not rows or self.send in (none, labelflip):
            return models
        rng = torch_stream(seed, "attack", number, merge)
        places = to_device(models.layout.places[: models.layout.parameters], w.vector.device)
        sent = self.send(models.parameters[:, places], w.parameters[places], rows, shares, rng, **self.arguments)
        vector = models.vector.clone()
        vector[:, places] = sent
        return replace(models, vector=vector)


@ATTACKS.add
def none(models: Tensor, w: Tensor, rows: list[int], shares: Floats, rng: Generator) -> Tensor:
    """Every site is honest."""
    return models


@ATTACKS.add
def labelflip(models: Tensor, w: Tensor, rows: list[int], shares: Floats, rng: Generator, count: Count = 1) -> Tensor:
    """Malicious sites train on reversed labels: class c becomes C - 1 - c.

    Parameters
    ----------
    count : int, default 1
        Number of malicious sites.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(attack="labelflip(count=2)").attack
    'labelflip(count=2)'
    """
    return models


@ATTACKS.add
def signflip(
    models: Tensor, w: Tensor, rows: list[int], shares: Floats, rng: Generator, count: Count = 1, boost: float = 1.0
) -> Tensor:
    """The update with the opposite sign, `boost` times as long.

    Parameters
    ----------
    count : int, default 1
        Number of malicious sites.
    boost : float, default 1.0
        Factor of the length.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(attack="signflip(boost=3.0)").attack
    'signflip(boost=3.0)'
    """
    models[rows] = w - boost * (models[rows] - w)
    return models


@ATTACKS.add
def scaled(
    models: Tensor, w: Tensor, rows: list[int], shares: Floats, rng: Generator, count: Count = 1, boost: float = 10.0
) -> Tensor:
    """The update, `boost` times as long.

    Parameters
    ----------
    count : int, default 1
        Number of malicious sites.
    boost : float, default 10.0
        Factor of the length; 1 is honest.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(attack="scaled(boost=100.0)").attack
    'scaled(boost=100.0)'
    """
    models[rows] = w + boost * (models[rows] - w)
    return models


@ATTACKS.add
def gaussian(
    models: Tensor, w: Tensor, rows: list[int], shares: Floats, rng: Generator, count: Count = 1, sd: NotNegative = 1.0
) -> Tensor:
    """The model that was broadcast plus Gaussian noise of standard deviation `sd` instead of an update.

    Parameters
    ----------
    count : int, default 1
        Number of malicious sites.
    sd : float, default 1.0
        Standard deviation of each parameter's noise.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(attack="gaussian(sd=0.1)").attack
    'gaussian(sd=0.1)'
    """
    noise = torch.randn(len(rows), len(w), generator=rng, dtype=torch.float64)
    models[rows] = w + sd * noise.to(w)
    return models


@ATTACKS.add
def replacement(models: Tensor, w: Tensor, rows: list[int], shares: Floats, rng: Generator, count: Count = 1) -> Tensor:
    """An update so long that the weighted mean becomes the malicious site's model (Bagdasaryan 2020).

    The update is divided by the weight of the malicious sites; exact if the honest sites send no update.

    Parameters
    ----------
    count : int, default 1
        Number of malicious sites.

    References
    ----------
    Bagdasaryan et al. 2020, arXiv:1807.00459.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(attack="replacement").attack
    'replacement'
    """
    share = torch.as_tensor(shares[rows].sum()).to(w)
    models[rows] = w + (models[rows] - w) / share
    return models


@ATTACKS.add
def alie(
    models: Tensor, w: Tensor, rows: list[int], shares: Floats, rng: Generator, count: Count = 1, z: float = 0.0
) -> Tensor:
    """A little is enough: as far from the honest mean as the spread of honest models hides (Baruch 2019).

    Parameters
    ----------
    count : int, default 1
        Number of malicious sites.
    z : float, default 0.0
        Standard deviations from the mean in each parameter; 0 takes the paper's value, which depends on the numbers of
        honest and malicious sites.

    References
    ----------
    Baruch et al. 2019, arXiv:1902.06156.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(attack="alie(count=2)").attack
    'alie(count=2)'
    """
    honest = [row for row in range(len(models)) if row not in rows]
    m, c = len(models), len(rows)
    if not z:
        z = NormalDist().inv_cdf(min(max((m - c - (m // 2 + 1 - c)) / max(1, m - c), 0.01), 0.99))
    spread = models[honest].std(0, unbiased=False) if honest else torch.zeros_like(w)
    models[rows] = (models[honest].mean(0) if honest else w) - z * spread
    return models
