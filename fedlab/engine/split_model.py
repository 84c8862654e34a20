"""The client's and the server's part of a split model: each has its own stages and its own optimizer.

They exchange tensors in a protocol only (`vanilla`, `u_shaped`), through `send`: a function (tensor, direction, what)
-> the tensor that arrives. Activations at the cut layer are called smashed data in the literature.
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

Send = Callable[[Tensor, str, str], Tensor]
Autocast = Callable[[], contextlib.AbstractContextManager[object]]


class SplitPart:
    """Some stages of a model and their optimizer."""

    def __init__(self, flat: FlatModel, optimizer: Optimizer, autocast: Autocast) -> None:
        self.flat, self.optimizer, self.autocast = flat, optimizer, autocast
        self.moments = optimizer.initial_state(flat.parameters)

    @property
    def has_parameters(self) -> bool:
        """Whether there is a parameter to train."""
        return self.flat.layout.parameters > 0

    def load(self, w: Weights) -> None:
        """Load weights, with the optimizer state that they carry or a new one."""
        self.flat.load(w)
        self.flat.train()
        self.reset_optimizer()
        if w.moments is not None and w.steps is not None:
            self.moments = Moments(w.moments.clone(), int(w.steps))  # steps are in the host's memory

    def reset_optimizer(self) -> None:
        """Discard the optimizer's state."""
        self.moments = self.optimizer.initial_state(self.flat.parameters)

    def read(self, keep_optimizer: bool) -> Weights:
        """The present weights; keep_optimizer: with the optimizer's state."""
        w = self.flat.read()
        if not (keep_optimizer and self.optimizer.slots):
            return w
        return replace(w, moments=self.moments.vectors.clone(), steps=np.array(self.moments.steps))

    def step(self, lr: float) -> None:
        """One optimizer step along the gradients of the layers."""
        if self.has_parameters:
            self.flat.collect_gradients()
            with torch.no_grad():
                self.optimizer.step(self.flat.parameters, self.flat.gradient, self.moments, lr)

    def _forward(self, stages: nn.Module, received: Tensor, leaf: bool = True) -> tuple[Tensor, Tensor]:
        """(leaf, output) of some stages; leaf: the received tensor, which collects the gradient to send back."""
        entered = received.detach().requires_grad_(leaf and received.is_floating_point())
        with self.autocast():
            return entered, stages(entered.clone() if leaf else entered)  # stages may change their input in place

    def _loss(self, stages: nn.Module, received: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """(loss, its gradient with respect to the received tensor), after a forward and a backward pass."""
        entered, logits = self._forward(stages, received)
        with self.autocast():
            loss = task.loss(logits, labels)
        loss.backward()
        assert entered.grad is not None
        return loss.detach(), entered.grad


class Client(SplitPart):
    """A site: the stages before the cut layer, with a tail also the last ones. It has the images and the labels."""

    def __init__(self, flat: FlatModel, optimizer: Optimizer, autocast: Autocast, cut: int) -> None:
        super().__init__(flat, optimizer, autocast)
        stages = list(flat.model.children())
        self.front, self.tail = nn.Sequential(*stages[:cut]), nn.Sequential(*stages[cut:])
        self.trains_front = any(True for _ in self.front.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """Activations at the cut layer (smashed data)."""
        self.flat.free_gradients()
        _, self._smashed = self._forward(self.front, images, leaf=False)
        return self._smashed

    def loss(self, features: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """(loss, gradient at the second cut), with labels that stay at the site."""
        return self._loss(self.tail, features, labels, task)

    def backward(self, gradient: Tensor) -> None:
        """Backward pass through the stages before the cut layer."""
        self._smashed.backward(gradient)


class Server(SplitPart):
    """The other stages. It never receives images, nor labels if the client has a tail."""

    def loss(self, smashed: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """(loss, gradient at the cut layer), with labels that the client sent."""
        self.flat.free_gradients()
        return self._loss(self.flat.model, smashed, labels, task)

    def forward(self, smashed: Tensor) -> Tensor:
        """Features at the second cut."""
        self.flat.free_gradients()
        self._entered, self._features = self._forward(self.flat.model, smashed)
        return self._features

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient at the cut layer, from that at the second cut."""
        self._features.backward(gradient)
        assert self._entered.grad is not None
        return self._entered.grad


def vanilla(client: Client, server: Server, images: Tensor, labels: Tensor, task: Task, send: Send) -> Tensor:
    """Train on one batch with label sharing (Gupta & Raskar 2018, arXiv:1810.06060); its loss."""
    smashed = send(client.forward(images), "up", "activations")
    loss, gradient = server.loss(smashed, send(labels, "up", "labels"), task)
    if client.trains_front:
        client.backward(send(gradient, "down", "gradients"))
    return loss


def u_shaped(client: Client, server: Server, images: Tensor, labels: Tensor, task: Task, send: Send) -> Tensor:
    """Train on one batch whose labels stay at the site (Vepakomma 2018, arXiv:1812.00564); its loss."""
    features = server.forward(send(client.forward(images), "up", "activations"))
    loss, gradient = client.loss(send(features, "down", "features"), labels, task)
    gradient = server.backward(send(gradient, "up", "gradients"))
    if client.trains_front:
        client.backward(send(gradient, "down", "gradients"))
    return loss
