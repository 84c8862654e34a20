"""The two sides of a split model: each has its own stages, its own optimizer, and nothing of the other.

They meet in a protocol, where everything that one side gives the other goes through `wire`: a function (tensor,
direction, what) -> the tensor that arrives.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core.weights import Weights
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.optimizers import Moments, Optimizer
from fedlab.learning.tasks import Task

Channel = Callable[[Tensor, str, str], Tensor]
Autocast = Callable[[], contextlib.AbstractContextManager]


class Side:
    """Some stages of a model and their optimizer.

    entered: what came from the other side, as the leaf whose gradient goes back. left: what was made of it.
    """

    def __init__(self, flat: FlatModel, optimizer: Optimizer, autocast: Autocast) -> None:
        self.flat, self.optimizer, self.autocast = flat, optimizer, autocast
        self.moments = optimizer.fresh(flat.parameters)

    @property
    def learns(self) -> bool:
        """Whether there is a parameter to learn."""
        return self.flat.layout.parameters > 0

    def load(self, w: Weights) -> None:
        """Take on weights, with the optimizer state that they carry or a fresh one."""
        self.flat.load(w)
        self.flat.train()
        self.forget_moments()
        if w.moments is not None and w.clock is not None:
            self.moments = Moments(w.moments.clone(), int(w.clock))  # of the host

    def forget_moments(self) -> None:
        """Begin the optimizer afresh."""
        self.moments = self.optimizer.fresh(self.flat.parameters)

    def read(self, keep: bool) -> Weights:
        """The present weights; keep: with the optimizer's state."""
        w = self.flat.read()
        if not (keep and self.optimizer.slots):
            return w
        return replace(w, moments=self.moments.vectors.clone(), clock=np.array(self.moments.clock))

    def run(self, stages: nn.Module, given: Tensor, leaf: bool = True) -> tuple[Tensor, Tensor]:
        """(leaf, output) of some stages; the leaf collects the gradient that goes back to whoever sent `given`."""
        entered = given.detach().requires_grad_(leaf and given.is_floating_point())
        with self.autocast():
            return entered, stages(entered.clone() if leaf else entered)  # stages may write on what they are given

    def judged(self, stages: nn.Module, given: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """(loss, gradient of what was given) where the prediction of these stages meets the labels."""
        entered, logits = self.run(stages, given)
        with self.autocast():
            loss = task.loss(logits, labels)
        loss.backward()
        assert entered.grad is not None
        return loss.detach(), entered.grad

    def step(self, lr: float) -> None:
        """One step along the gradients that were collected in the layers."""
        if self.learns:
            self.flat.collect()
            with torch.no_grad():
                self.optimizer.step(self.flat.parameters, self.flat.gradient, self.moments, lr)


class Client(Side):
    """An institution: the first stages, and with a tail the last ones; images and labels are here."""

    def __init__(self, flat: FlatModel, optimizer: Optimizer, autocast: Autocast, cut: int) -> None:
        super().__init__(flat, optimizer, autocast)
        stages = list(flat.model.children())
        self.front, self.tail = nn.Sequential(*stages[:cut]), nn.Sequential(*stages[cut:])
        self.front_learns = any(True for _ in self.front.parameters())

    def start(self, images: Tensor) -> Tensor:
        """Activations at the cut."""
        self.flat.forget()
        _, self.left = self.run(self.front, images, leaf=False)
        return self.left

    def judge(self, features: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """(loss, gradient at the second cut): the labels meet the prediction at the institution."""
        return self.judged(self.tail, features, labels, task)

    def finish(self, gradient: Tensor) -> None:
        """Back through the first stages."""
        self.left.backward(gradient)


class Server(Side):
    """The other stages; neither images nor, with a tail at the client, labels ever come here."""

    def learn(self, activations: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """(loss, gradient at the cut) with labels that were sent along."""
        self.flat.forget()
        return self.judged(self.flat.model, activations, labels, task)

    def pass_on(self, activations: Tensor) -> Tensor:
        """Features at the second cut."""
        self.flat.forget()
        self.entered, self.left = self.run(self.flat.model, activations)
        return self.left

    def turn_back(self, gradient: Tensor) -> Tensor:
        """The gradient at the first cut, from that at the second."""
        self.left.backward(gradient)
        assert self.entered.grad is not None
        return self.entered.grad


def vanilla(client: Client, server: Server, images: Tensor, labels: Tensor, task: Task, wire: Channel) -> Tensor:
    """One batch with label sharing (Gupta & Raskar 2018, arXiv:1810.06060); its loss."""
    activations = wire(client.start(images), "up", "activations")
    loss, gradient = server.learn(activations, wire(labels, "up", "labels"), task)
    if client.front_learns:
        client.finish(wire(gradient, "down", "gradients"))
    return loss


def u_shaped(client: Client, server: Server, images: Tensor, labels: Tensor, task: Task, wire: Channel) -> Tensor:
    """One batch whose labels never leave (Vepakomma 2018, arXiv:1812.00564); its loss."""
    features = server.pass_on(wire(client.start(images), "up", "activations"))
    loss, gradient = client.judge(wire(features, "down", "features"), labels, task)
    gradient = server.turn_back(wire(gradient, "up", "gradients"))
    if client.front_learns:
        client.finish(wire(gradient, "down", "gradients"))
    return loss
