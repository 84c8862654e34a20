"""The client's and the server's part of a split model: each has its own stages and its own optimizer.

They exchange tensors in a protocol only (`vanilla`, `u_shaped`), through `send`: a function (tensors, direction, what)
-> the tensors that arrive. Activations at the cut layer are called smashed data in the literature. In a network with
skip connections they are a tuple: what the next stage gets, and the skip connections that cross the cut. With a tail
the client keeps what its last stages get as its first ones made it, see `Passed`: an empty tensor is in its place. No
gradient is sent for frozen stages: down for what they made, up where the tail alone is trained.
"""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core.weights import Weights
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.optimizers import Moments, Optimizer
from fedlab.learning.tasks import Task

Crossing = Tensor | tuple[Tensor, ...]  # activations at a cut, or their gradients, with those of skip connections
Send = Callable[[Crossing, str, str], Crossing]
Autocast = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Passed:
    """Tensors that the server passes on to the client's last stages as it got them, so that the client keeps them.

    places: position at the second cut -> at the first one. unused: those, by their position at the first cut, that the
    server's stages do not use, so that neither they nor their gradients leave the site. The gradients of the others are
    sent to the server, which adds its own in the order of the whole model, so that sums are the same to the last bit.
    """

    places: dict[int, int] = field(default_factory=dict)
    unused: frozenset[int] = frozenset()


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
        if not (keep_optimizer and self.optimizer.slots and self.has_parameters):
            return w
        return replace(w, moments=self.moments.vectors.clone(), steps=np.array(self.moments.steps))

    def step(self, lr: float) -> None:
        """One optimizer step along the gradients of the layers."""
        if self.has_parameters:
            self.flat.collect_gradients()
            with torch.no_grad():
                self.optimizer.step(self.flat.parameters, self.flat.gradient, self.moments, lr)

    def _forward(self, stages: nn.Module, received: Crossing, leaf: bool = True) -> tuple[Crossing, Any]:
        """(leaf, output) of some stages; leaf: the received tensors, which collect the gradient to send back."""
        entered = each(lambda t: t.detach().requires_grad_(leaf and t.is_floating_point()), received)
        with self.autocast():
            return entered, stages(each(Tensor.clone, entered) if leaf else entered)  # stages may change their input

    def _loss(self, stages: nn.Module, received: Crossing, labels: Tensor, task: Task) -> tuple[Tensor, Crossing]:
        """(loss, its gradient with respect to the received tensors), after a forward and a backward pass."""
        entered, logits = self._forward(stages, received)
        with self.autocast():
            loss = task.loss(logits, labels)
        loss.backward()
        return loss.detach(), each(_gradient, entered)


class Client(SplitPart):
    """A site: the stages before the cut layer, with a tail also the last ones. It has the images and the labels."""

    def __init__(
        self, flat: FlatModel, optimizer: Optimizer, autocast: Autocast, cut: int, passed: Passed | None = None
    ) -> None:
        super().__init__(flat, optimizer, autocast)
        self.passed, self._kept_gradients = passed or Passed(), dict[int, Tensor]()
        stages = list(flat.model.children())
        self.front, self.tail = nn.Sequential(*stages[:cut]), nn.Sequential(*stages[cut:])
        self.trains_front = any(parameter.requires_grad for parameter in self.front.parameters())

    def forward(self, images: Tensor) -> Crossing:
        """Activations at the cut layer (smashed data)."""
        self.flat.free_gradients()
        _, self._smashed = self._forward(self.front, images, leaf=False)
        return without(self._smashed, self.passed.unused)

    def needed(self, gradient: Crossing) -> Crossing:
        """What the client needs of the gradient at the cut layer: nothing for what frozen stages made."""
        return without(gradient, [at for at, made in enumerate(_parts(self._smashed)) if not made.requires_grad])

    def loss(self, features: Crossing, labels: Tensor, task: Task) -> tuple[Tensor, Crossing]:
        """(loss, gradient at the second cut), with labels that stay at the site."""
        smashed, places = _parts(self._smashed), self.passed.places
        received = _replaced(features, {second: smashed[first] for second, first in places.items()})
        loss, gradient = self._loss(self.tail, received, labels, task)
        kept = {second: first for second, first in places.items() if first in self.passed.unused}
        self._kept_gradients = {first: _parts(gradient)[second] for second, first in kept.items()}
        return loss, without(gradient, kept)

    def backward(self, gradient: Crossing) -> None:
        """Backward pass through the stages before the cut layer."""
        _backward(self._smashed, _replaced(gradient, self._kept_gradients))


class Server(SplitPart):
    """The other stages. It never receives images, nor labels if the client has a tail."""

    passed = Passed()

    def loss(self, smashed: Crossing, labels: Tensor, task: Task) -> tuple[Tensor, Crossing]:
        """(loss, gradient at the cut layer), with labels that the client sent."""
        self.flat.free_gradients()
        return self._loss(self.flat.model, smashed, labels, task)

    def forward(self, smashed: Crossing) -> Crossing:
        """Features at the second cut."""
        self.flat.free_gradients()
        self._entered, self._features = self._forward(self.flat.model, smashed)
        return without(self._features, self.passed.places)

    def backward(self, gradient: Crossing) -> Crossing:
        """The gradient at the cut layer, from that at the second cut."""
        _backward(self._features, gradient)
        return each(_gradient, self._entered)


def each(function: Callable[[Tensor], Tensor], crossing: Crossing) -> Crossing:
    """The function of a tensor, or of each tensor of a tuple."""
    return function(crossing) if isinstance(crossing, Tensor) else tuple(function(tensor) for tensor in crossing)


def passed_on(front: nn.Module, middle: nn.Module, images: Tensor) -> Passed:
    """What the middle stages get from the front ones and pass on as it is.

    Found by trying copies of the stages, in training mode, on images.
    """
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        with torch.no_grad():
            smashed = front.train()(images)
        leaves = [tensor.detach().requires_grad_() for tensor in _parts(smashed)]
        given = tuple(leaf.clone() for leaf in leaves)
        found = _parts(middle.train()(given[0] if isinstance(smashed, Tensor) else given))
    first_of = {id(tensor): first for first, tensor in enumerate(given)}
    places = {second: first_of[id(out)] for second, out in enumerate(found) if id(out) in first_of}
    rest = [out.sum() for out in found if id(out) not in first_of]
    if not rest:
        return Passed()
    gradients = torch.autograd.grad(torch.stack(rest).sum(), leaves, allow_unused=True)
    unused = [first for first in places.values() if gradients[first] is None]
    return Passed(places, frozenset(unused))


def without(crossing: Crossing, places: Collection[int]) -> Crossing:
    """The tuple with an empty tensor in some places."""
    return _replaced(crossing, {place: _parts(crossing)[place].new_empty(0) for place in places})


def _parts(crossing: Crossing) -> tuple[Tensor, ...]:
    """The tensors of a crossing."""
    return (crossing,) if isinstance(crossing, Tensor) else crossing


def _gradient(leaf: Tensor) -> Tensor:
    """The gradient that a received tensor collected; zero if it was not used."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _backward(outputs: Crossing, gradients: Crossing) -> None:
    """Backward pass from outputs with these gradients."""
    pairs = zip(_parts(outputs), _parts(gradients), strict=True)
    used = [(out, gradient) for out, gradient in pairs if out.requires_grad and gradient.numel()]
    torch.autograd.backward([out for out, _ in used], [gradient for _, gradient in used])


def _replaced(crossing: Crossing, places: dict[int, Tensor]) -> Crossing:
    """The tuple with other tensors in some places."""
    if isinstance(crossing, Tensor):
        return places.get(0, crossing)
    return tuple(places.get(place, tensor) for place, tensor in enumerate(crossing))


def vanilla(client: Client, server: Server, images: Tensor, labels: Tensor, task: Task, send: Send) -> Tensor:
    """Train on one batch with label sharing (Gupta & Raskar 2018, arXiv:1810.06060); its loss."""
    smashed, sent = send(client.forward(images), "up", "activations"), send(labels, "up", "labels")
    assert isinstance(sent, Tensor)
    loss, gradient = server.loss(smashed, sent, task)
    if client.trains_front:
        client.backward(send(client.needed(gradient), "down", "gradients"))
    return loss


def u_shaped(client: Client, server: Server, images: Tensor, labels: Tensor, task: Task, send: Send) -> Tensor:
    """Train on one batch whose labels stay at the site (Vepakomma 2018, arXiv:1812.00564); its loss."""
    features = server.forward(send(client.forward(images), "up", "activations"))
    loss, gradient = client.loss(send(features, "down", "features"), labels, task)
    if server.has_parameters or client.trains_front:
        gradient = server.backward(send(gradient, "up", "gradients"))
    if client.trains_front:
        client.backward(send(client.needed(gradient), "down", "gradients"))
    return loss
