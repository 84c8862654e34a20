"""A network whose parameters, buffers and gradients are views of flat vectors.

Loading a site's model is one copy, and an optimizer step or a correction is a vector expression over all parameters.
"""

from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedlab.core.layout import Layout
from fedlab.core.memory import aligned, counters
from fedlab.core.weights import Weights
from fedlab.engine.threads import SMALL


class FlatModel:
    """`model` bound to `vector` (size,), `gradient` (trained,) and `counts` (integer buffers,), see `Layout`."""

    def __init__(
        self, model: nn.Sequential, layout: Layout, like: Tensor | None = None, *, frozen_norm: bool = False
    ) -> None:
        """like: a tensor of the type and on the device to use, for a model that may have no parameter.

        parameters: the trainable part of the vector, a view of it. buffers: the other part, normalisation statistics.
        """
        self.model, self.layout, self.frozen_norm = model, layout, frozen_norm
        reference = next(model.parameters()) if like is None else like
        self.vector = aligned(layout.size, dtype=reference.dtype, device=reference.device)
        self.parameters, self.buffers = self.vector.tensor_split((layout.trained,))
        self.gradient = aligned(layout.trained, dtype=reference.dtype, device=reference.device)
        self._trains: WeakSet[nn.Module] = WeakSet()  # models that were put into the mode of training here
        self.counts = counters(len(layout.counters), device=reference.device)
        self._bind()

    def norms(self) -> list[_BatchNorm]:
        """The batch normalisation layers."""
        return norms(self.model)

    def load(self, weights: Weights) -> None:
        """Take on these weights (one model, not a stack)."""
        self.vector.copy_(weights.vector)
        self.counts.copy_(weights.counts)

    def read(self, into: Weights | None = None) -> Weights:
        """A copy of the present weights, in memory of its own or in that of `into`."""
        if into is None:
            return Weights(self.layout, self.vector.clone(), self.counts.clone())
        into.vector.copy_(self.vector)
        into.counts.copy_(self.counts)
        return into

    def differentiate(self, loss: Tensor) -> None:
        """Set `gradient` to that of the loss.

        Small models' layers add to it in place, in the one call of the backward pass. Large ones allocate their
        gradients, which are copied once: that takes less of the memory's time. They are freed in the next step, so that
        their memory is used again.
        """
        if self._in_place:
            self.gradient.zero_()
            loss.backward()
        else:
            self.forget()
            loss.backward()
            self.collect()

    def forget(self) -> None:
        """Free the layers' gradients."""
        for leaf in self._leaves:
            leaf.grad = None

    def collect(self) -> None:
        """Copy the layers' gradients into `gradient`; zero for parameters that the loss does not depend on."""
        if any(leaf.grad is not None for leaf in self._leaves):
            each = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self._leaves]
            torch._foreach_copy_(self._slots, each)

    def train(self, model: nn.Module | None = None) -> None:
        """Put this model, or another of its architecture, into the mode of training."""
        model = self.model if model is None else model
        if model in self._trains and model.training:
            return  # to visit every module would take most of the host's time for a small site
        self._trains.add(model)
        model.train()
        if self.frozen_norm:
            for module in norms(model):
                module.eval()

    def _bind(self) -> None:
        """Move every tensor of the model into the flat buffers, keeping its value."""
        values = self.layout.views(self.vector)
        for name, parameter in self.model.named_parameters():
            values[name].copy_(parameter.detach())
            parameter.data = values[name]
        self._leaves = list(self.model.parameters())
        slots = self.layout.views(self.gradient)
        self._slots = [slots[name] for name, _ in self.model.named_parameters()]
        self._in_place = self.vector.device.type == "cpu" and self.layout.parameters < SMALL
        if self._in_place:
            for leaf, slot in zip(self._leaves, self._slots, strict=True):
                leaf.grad = slot
        numbers = {name: self.counts[i] for i, name in enumerate(self.layout.counters)}
        for name, buffer in list(self.model.named_buffers()):
            view = values[name] if name in values else numbers[name]
            view.copy_(buffer)
            owner, _, own_name = name.rpartition(".")
            self.model.get_submodule(owner)._buffers[own_name] = view


def norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisation layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
