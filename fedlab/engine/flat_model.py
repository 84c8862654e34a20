"""A network whose parameters, buffers and gradients are views of flat vectors.

Loading a site's model is one copy, and an optimizer step or a correction is a vector expression over all parameters.
"""

from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedlab.core.layout import Layout, frozen_modules
from fedlab.core.memory import aligned_counters, aligned_zeros
from fedlab.core.weights import Weights

SMALL_MODEL = 1_000_000  # parameters below which a step uses little of a GPU or of several cores


class FlatModel:
    """A model bound to flat vectors, see `fedlab.core.layout.Layout`.

    vector (size,): all trained parameters and floating buffers. parameters, buffers: views of its trainable part and of
    the rest, which are normalisation statistics. gradient (trained,). counts (integer buffers,).
    """

    def __init__(
        self, model: nn.Sequential, layout: Layout, like: Tensor | None = None, *, frozen_norm: bool = False
    ) -> None:
        """like: a tensor of the type and device to use, for a model that may have no parameter.

        frozen_norm: batch normalisation stays in evaluation mode while the model trains.
        """
        self.model, self.layout, self.frozen_norm = model, layout, frozen_norm
        reference = next(model.parameters()) if like is None else like
        self.vector = aligned_zeros(layout.size, dtype=reference.dtype, device=reference.device)
        self.parameters, self.buffers = self.vector.tensor_split((layout.trained,))
        self.gradient = aligned_zeros(layout.trained, dtype=reference.dtype, device=reference.device)
        self._in_training: WeakSet[nn.Module] = WeakSet()  # models that `train` has put into training mode
        self.counts = aligned_counters(len(layout.counters), device=reference.device)
        self._bind()

    def batch_norms(self) -> list[_BatchNorm]:
        """The batch normalisation layers that are not frozen with the module that holds them."""
        frozen = {id(each) for module in frozen_modules(self.model) for each in module.modules()}
        return [norm for norm in batch_norms(self.model) if id(norm) not in frozen]

    def load(self, weights: Weights) -> None:
        """Copy the weights of one model (not of a stack) into this one."""
        self.vector.copy_(weights.vector)
        self.counts.copy_(weights.counts)

    def read(self, out: Weights | None = None) -> Weights:
        """A copy of the present weights, in new memory or in that of `out`."""
        if out is None:
            return Weights(self.layout, self.vector.clone(), self.counts.clone())
        out.vector.copy_(self.vector)
        out.counts.copy_(self.counts)
        return out

    def state_dict(self, weights: Weights) -> dict[str, Tensor]:
        """Name -> tensor in the host's memory, all that the model's `load_state_dict` wants: also frozen tensors,
        tables of integers and the second names of shared tensors, which weights do not have.
        """
        self.load(weights)
        found, whole = weights.to("cpu").state_dict(), self.model.state_dict()
        kept = whole.keys() | dict(self.model.named_parameters()).keys()  # not buffers that are never stored
        extra = {name: _kept(tensor) for name, tensor in whole.items() if name not in found}
        return {name: tensor for name, tensor in found.items() if name in kept} | extra

    def differentiate(self, loss: Tensor) -> None:
        """Set `gradient` to that of the loss.

        The layers of small models add to it in place, in the one call of the backward pass. Large models allocate
        their gradients, which are copied once: that moves less memory. The next step frees them, and their memory is
        used again.
        """
        if self._in_place:
            self.gradient.zero_()
            loss.backward()
        else:
            self.free_gradients()
            loss.backward()
            self.collect_gradients()

    def free_gradients(self) -> None:
        """Free the layers' gradients."""
        for leaf in self._leaves:
            leaf.grad = None

    def collect_gradients(self) -> None:
        """Copy the layers' gradients into `gradient`; zero for parameters that the loss does not depend on."""
        if any(leaf.grad is not None for leaf in self._leaves):
            gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self._leaves]
            torch._foreach_copy_(self._slots, gradients)

    def train(self, model: nn.Module | None = None) -> None:
        """Put this model, or another of its architecture, into training mode, except for what is frozen."""
        model = self.model if model is None else model
        if model in self._in_training and model.training:
            return  # visiting every module would take most of the host's time for a small site
        self._in_training.add(model)
        model.train()
        for module in frozen_modules(model):
            module.eval()
        if self.frozen_norm:
            for module in batch_norms(model):
                module.eval()

    def _bind(self) -> None:
        """Move every tensor of the model that is not frozen into the flat vectors, keeping its value."""
        values = self.layout.views(self.vector)
        self._arrange_frozen()
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if elsewhere := parameters.keys() - values.keys():
            raise ValueError(
                f"stages of the model share {', '.join(sorted(elsewhere))}, so it cannot be cut between them: give each"
                " stage its own layers, or use a method that does not cut the model"
            )
        for name, parameter in parameters.items():
            values[name].copy_(parameter.detach())
            parameter.data = values[name]
        slots = self.layout.views(self.gradient)
        self._leaves = [parameters[name] for name in slots]
        self._slots = list(slots.values())
        self._in_place = self.vector.device.type == "cpu" and self.layout.parameters < SMALL_MODEL
        if self._in_place:
            for leaf, slot in zip(self._leaves, self._slots, strict=True):
                leaf.grad = slot
        values |= {name: self.counts[i] for i, name in enumerate(self.layout.counters)}
        places = {id(buffer): values.get(name) for name, buffer in self.model.named_buffers()}
        for name, buffer in list(self.model.named_buffers(remove_duplicate=False)):
            view = places[id(buffer)]
            if view is not None:
                view.copy_(buffer)
                module, _, attribute = name.rpartition(".")
                self.model.get_submodule(module)._buffers[attribute] = view

    def _arrange_frozen(self) -> None:
        """Put frozen convolution kernels into the memory format of the others."""
        for parameter in self.model.parameters():
            if not parameter.requires_grad and parameter.ndim > 3 and self.layout.channels_last:
                parameter.data = parameter.detach().movedim(1, -1).contiguous().movedim(-1, 1)


def share_frozen(source: nn.Module, target: nn.Module) -> None:
    """Let a copy of a model use the memory of the frozen parameters of `source`, and copy all buffers."""
    known, buffers = dict(source.named_parameters()), dict(source.named_buffers())
    for name, parameter in target.named_parameters():
        if not parameter.requires_grad:
            parameter.data = known[name].detach()
    for name, buffer in target.named_buffers():
        buffer.copy_(buffers[name])


def parameter_count(model: nn.Module) -> int:
    """The number of parameters that a step computes with, trained or frozen."""
    return sum(parameter.numel() for parameter in model.parameters())


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisation layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _kept(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, in its usual order."""
    return tensor.to("cpu").clone(memory_format=torch.contiguous_format)
