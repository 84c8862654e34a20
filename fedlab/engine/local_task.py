"""What a site is asked to do in a round, and what it cost: the engine's only vocabulary of methods.

A method changes a local step by a vector expression on the flat gradient (`pull`, `shift`), by the point at which
gradients are taken (`rule`), by a term of the loss (`term`), by which coordinates move (`frozen`), or by how cases are
drawn and weighed (`batches`, `weights`). It never has a loop of its own.

A rule works on the models of m sites at once, since the engine may train them one by one or as one batch:
`rule(w (m, P), gradient at w (m, P), grad, rows (m,)) -> the gradients to step along`, where `rows` are the models'
places among the starts, and `grad(points (m, P), own=None, decay=False)` gives gradients (m, P) of the batches' losses
elsewhere; own: normalisation statistics (m, Q) to use and update there; decay: with the L2 term. Vectors have the
padding of `fedlab.core.weights.Layout`, which is zero.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.weights import Weights
from fedlab.engine.batches import Batches
from fedlab.engine.optimizers import Number

Gradient = Callable[..., Tensor]
Rule = Callable[[Tensor, Tensor, Gradient, Tensor], Tensor]
Term = Callable[[Tensor, Tensor], Tensor]  # term(representation (b, d), rows) -> a scalar beside the loss


class Sampler(Protocol):
    """Which cases of a site a step sees."""

    seed: int
    site: str
    per_epoch: int

    def at(self, step: int) -> NDArray[np.int64]: ...

    def length(self, step: int) -> int: ...


@dataclass(frozen=True)
class LocalTask:
    """Steps `first`, `first + 1`, ... of a site's batches, and what the method adds to each.

    pull: (mu, anchor (P,)) adds mu (w - anchor) to the gradient. shift: (P,) is added to it. frozen: bool (P + Q,), the
    coordinates that stay as they are. weights: of each row of the store, for the mean loss of a batch. decays: whether
    the optimizer applies weight decay. row: the model's place among the starts, by which a rule knows it.
    """

    batches: Sampler
    first: int
    steps: int
    lr: Number
    pull: tuple[Number, Tensor] | None = None
    shift: Tensor | None = None
    rule: Rule | None = None
    term: Term | None = None
    frozen: Tensor | None = None
    weights: Tensor | None = None
    decays: bool = True
    row: int = 0

    def place(self, step: int) -> tuple[int, str, int]:
        """By which what is drawn at random in a step is named."""
        return self.batches.seed, self.batches.site, step


@dataclass(frozen=True)
class Usage:
    """What a training took.

    loss: the sum over its steps, a number () on the device. steps: of the optimizer. samples: cases whose gradient was
    computed. seconds: a call, since work on a GPU is known to be over only later.
    """

    loss: Tensor
    steps: int
    samples: int
    seconds: Callable[[], float]


@dataclass(frozen=True)
class LocalJob:
    """One model to train at one site.

    keep: the result carries the optimizer's state. room: where to write it.
    """

    site: str
    start: Weights
    work: LocalTask
    keep: bool = False
    room: Weights | None = None


@dataclass(frozen=True)
class Trained:
    """The result of a job. total: the sum () of its weights, which is finite if they are; None where not computed."""

    weights: Weights
    usage: Usage
    total: Tensor | None = None


Named = Callable[[LocalJob], AbstractContextManager]

__all__ = ["Batches", "Gradient", "LocalJob", "LocalTask", "Named", "Rule", "Sampler", "Term", "Trained", "Usage"]
