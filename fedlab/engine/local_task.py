"""Local tasks: what a site trains in a round, and what that cost. All that the engine knows of a method.

A method changes a local step by a vector expression on the flat gradient (`pull`, `shift`), by the point at which
gradients are taken (`rule`), by a term of the loss (`term`), by which coordinates move (`frozen`), or by how cases are
drawn and weighed (`batches`, `weights`). It has no training loop.

A rule works on the models of m sites at once, since the engine may train them one by one or as one batch:
`rule(w (m, P), gradient at w (m, P), grad, rows (m,)) -> gradients (m, P) to step along`, where `rows` are the models'
positions among the starts, and `grad(points (m, P), own=None, decay=False)` gives gradients (m, P) of the batches'
losses at other points. own: normalisation statistics (m, Q) to use and update there. decay: add the L2 term. Vectors
have the padding of `fedlab.core.layout.Layout`, which is zero.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedlab.core.typing import Ints
from fedlab.core.weights import Weights
from fedlab.engine.optimizers import Number

Gradient = Callable[..., Tensor]
Rule = Callable[[Tensor, Tensor, Gradient, Tensor], Tensor]
Term = Callable[[Tensor, Tensor], Tensor]  # term(representation (b, d), rows (b,)) -> a scalar added to the loss


class Sampler(Protocol):
    """Which cases of a site a step sees."""

    seed: int
    site: str
    per_epoch: int

    def at(self, step: int) -> Ints: ...

    def length(self, step: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class LocalTask:
    """Optimizer steps on a site's batches, and what the method adds to each of them.

    Steps: `first`, `first + 1`, ..., `first + steps - 1` of `batches`, with learning rate `lr`; weight decay applies if
    `decays`.
    Gradient: pull = (mu, anchor (P,)) adds mu (w - anchor). shift (P,) is added. rule: see the module.
    Loss: term is added to it. weights: of each row of the device dataset, for the weighted mean loss of a batch.
    Coordinates: frozen, bool (P + Q,), those that do not move.
    row: the model's position among the starts, by which a rule or a term identifies it.
    """

    batches: Sampler
    first: int
    steps: int
    lr: Number
    decays: bool = True

    pull: tuple[Number, Tensor] | None = None
    shift: Tensor | None = None
    rule: Rule | None = None

    term: Term | None = None
    weights: Tensor | None = None

    frozen: Tensor | None = None
    row: int = 0

    def rng_key(self, step: int) -> tuple[int, str, int]:
        """(seed, site, step): the key of the random numbers that are drawn in a step."""
        return self.batches.seed, self.batches.site, step


@dataclass(frozen=True)
class Usage:
    """What a training took.

    loss: the sum over its steps, a number () on the device. steps: of the optimizer. samples: cases whose gradient was
    computed. seconds: a call, since a GPU reports the time of its work only when it is done.
    """

    loss: Tensor
    steps: int
    samples: int
    seconds: Callable[[], float]


@dataclass(frozen=True)
class LocalJob:
    """One model to train at one site.

    keep_optimizer: the result carries the optimizer's state. out: weights whose memory receives the result.
    """

    site: str
    start: Weights
    local_task: LocalTask
    keep_optimizer: bool = False
    out: Weights | None = None


@dataclass(frozen=True)
class Trained:
    """The result of a job. total: the sum () of its weights, which is finite if they are; None if not computed."""

    weights: Weights
    usage: Usage
    total: Tensor | None = None


ErrorContext = Callable[[LocalJob], AbstractContextManager[None]]  # in which errors of a job get the site's name
CheckStopped = Callable[[], None]  # raises StoppedError where the training was stopped from outside
OnTrained = Callable[[LocalJob, Trained, CheckStopped], Trained]  # may refuse a result, or keep less of it
