"""Optimizers on flat vectors of parameters: a handful of kernels a step, for any number of layers.

They work on one model (P,), or on a stack (m, P) in which each model has its own step count (m, 1), and compute what
`torch.optim` computes (a test compares them), with weight decay masked to weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.core.memory import aligned_zeros
from fedlab.learning.settings import Training

Number = float | Tensor  # a tensor () where a recorded step is replayed with other values


def add_scaled(vector: Tensor, direction: Tensor, factor: Number) -> None:
    """vector += factor * direction, in place."""
    if isinstance(factor, Tensor):
        vector.addcmul_(direction, factor.to(vector))
    else:
        vector.add_(direction, alpha=factor)


@dataclass
class Moments:
    """Optimizer state of one model: `vectors` (slots, P) and the number of steps taken.

    Of a stack: vectors (slots, m, P) and steps (m, 1) in float64.
    """

    vectors: Tensor
    steps: int | Tensor = 0


class Optimizer:
    """Steps of one kind. The state of each model is passed in.

    decay: lambda (P,), weight decay of each parameter; None without.
    """

    slots = 0

    def __init__(self, settings: Training, decays: Tensor) -> None:
        """decays: bool (P,), the parameters that weight decay acts on."""
        self.settings = settings
        self.decay = settings.weight_decay * decays.to(settings.dtype) if settings.weight_decay else None

    @property
    def l2(self) -> Tensor | None:
        """The factor lambda (P,) of the L2 term in the loss; None if there is none."""
        return self.decay

    def initial_state(self, parameters: Tensor) -> Moments:
        """State before the first step, in new memory."""
        return Moments(aligned_zeros(self.slots, *parameters.shape, dtype=parameters.dtype, device=parameters.device))

    def step(self, w: Tensor, gradient: Tensor, moments: Moments, lr: Number, decays: bool = True) -> None:
        """Change w (P,) or (m, P) in place; the gradient may be overwritten. decays: with weight decay."""
        moments.steps += 1
        if decays:
            self._decay(w, gradient, lr)
        self._move(w, gradient, moments, lr)

    def _decay(self, w: Tensor, gradient: Tensor, lr: Number) -> None:
        """Add the gradient of the L2 term."""
        if self.decay is not None:
            gradient.addcmul_(w, self.decay)

    def _move(self, w: Tensor, gradient: Tensor, moments: Moments, lr: Number) -> None:
        """Step along the gradient."""
        add_scaled(w, gradient, -lr)


class SGD(Optimizer):
    """w <- w - lr g."""


class Momentum(Optimizer):
    """v <- momentum v + g; w <- w - lr v."""

    slots = 1

    def _move(self, w: Tensor, gradient: Tensor, moments: Moments, lr: Number) -> None:
        velocity = moments.vectors[0].mul_(self.settings.momentum).add_(gradient)
        add_scaled(w, velocity, -lr)


class Adam(Optimizer):
    """Kingma & Ba 2015, arXiv:1412.6980, with bias correction; betas 0.9 and 0.999, epsilon 1e-8."""

    slots = 2

    def _move(self, w: Tensor, gradient: Tensor, moments: Moments, lr: Number) -> None:
        first, second = moments.vectors
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        spread, rate = (1 - 0.999**moments.steps) ** 0.5, lr / (1 - 0.9**moments.steps)
        if isinstance(spread, Tensor) and isinstance(rate, Tensor):
            w.sub_(first / torch.sqrt(second).div_(spread.to(w)).add_(1e-8) * rate.to(w))
        else:
            w.addcdiv_(first, torch.sqrt(second).div_(spread).add_(1e-8), value=-float(rate))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    @property
    def l2(self) -> None:
        """Decoupled decay is no part of the loss."""
        return None

    def _decay(self, w: Tensor, gradient: Tensor, lr: Number) -> None:
        if self.decay is not None:
            add_scaled(w, w * self.decay, -lr)


def optimizer_of(settings: Training, decays: Tensor) -> Optimizer:
    """The optimizer that the settings name. decays: bool (P,), the parameters that weight decay acts on."""
    if settings.optimizer == "sgd":
        return (Momentum if settings.momentum else SGD)(settings, decays)
    return {"adam": Adam, "adamw": AdamW}[settings.optimizer](settings, decays)
