"""What a site is asked to do in a round, and what it cost: the engine's only vocabulary of methods.

A method changes a local step by a vector expression on the flat gradient (`pull`, `shift`), by the point at which
gradients are taken (`rule`), by a term of the loss (`term`), by which coordinates move (`frozen`), or by how cases are
drawn and weighed (`batches`, `weights`). It never has a loop of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedlab.engine.batches import Batches

Gradient = Callable[..., Tensor]  # grad(point, own=None, decay=False): gradient (P,) of the batch's loss elsewhere
Rule = Callable[[Tensor, Tensor, Gradient], Tensor]  # rule(w, gradient at w, grad) -> the gradient to step along
Term = Callable[[Tensor, Tensor], Tensor]  # term(representation (b, d), rows) -> a scalar beside the loss


class Sampler(Protocol):
    """Which cases a step sees."""

    per_epoch: int

    def at(self, step: int): ...


@dataclass(frozen=True)
class Work:
    """Steps `first`, `first + 1`, ... of a site's batches, and what the method adds to each.

    pull: (mu, anchor (P,)) adds mu (w - anchor) to the gradient. shift: (P,) is added to it. frozen: bool (P + Q,), the
    coordinates that stay as they are. weights: of each row of the store, for the mean loss of a batch. decays: whether
    the optimizer applies weight decay.
    """

    batches: Sampler
    first: int
    steps: int
    lr: float
    pull: tuple[float, Tensor] | None = None
    shift: Tensor | None = None
    rule: Rule | None = None
    term: Term | None = None
    frozen: Tensor | None = None
    weights: Tensor | None = None
    decays: bool = True


@dataclass(frozen=True)
class Cost:
    """What it took: mean training loss, optimizer steps, cases whose gradient was computed, seconds."""

    loss: float
    steps: int
    samples: int
    seconds: float


__all__ = ["Batches", "Cost", "Gradient", "Rule", "Sampler", "Term", "Work"]
