"""What a run trains of its network: all of it, the head, named parts, or low-rank adapters.

What is frozen is the same at every site, which has the file of weights (or draws the initial ones from the seed). It
never travels, and is no part of norms, noise, attacks or means, see `fedlab.core.layout`. Modules that hold frozen
parameters only stay in evaluation mode, so that the statistics of their batch normalisation never move.
"""

import fnmatch
import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fedlab.core.arguments import Bounds, Positive
from fedlab.core.layout import FACTORS
from fedlab.core.registry import Registry, nearest
from fedlab.core.rng import torch_stream

TRAINABLE = Registry("trainable")
Rank = Annotated[int, Bounds(1, 4096)]
SCALE = "lora_scale"  # buffer with alpha / rank, by which a file of weights says how to merge its adapters
LISTED = 12  # names that an error lists


@partial(TRAINABLE.add, name="all")
def everything(model: nn.Module, generator: torch.Generator) -> set[str]:
    """Every parameter, except those that the network itself freezes."""
    return {name for name, _ in model.named_parameters()}


@TRAINABLE.add
def head(model: nn.Module, generator: torch.Generator) -> set[str]:
    """The last stage with parameters: a linear probe."""
    return set(head_names(model))


@TRAINABLE.add
def lora(model: nn.Module, generator: torch.Generator, rank: Rank = 4, alpha: Positive = 8.0) -> set[str]:
    """Low-rank adapters of the linear and convolution layers before the last stage, and the last stage (Hu 2021).

    A layer with weights W (o, i) computes with W + (alpha/rank) B A, where A (rank, i) is random and B (o, rank) zero
    at the start, so that training starts at the unchanged function. i counts the numbers that enter an output: input
    channels times the size of the kernel. Grouped and transposed convolutions, attention and recurrent layers have no
    adapter and stay frozen.

    A and B are averaged one by one. The mean of B_k A_k is not the mean of B_k times the mean of A_k, so that a round
    is not the average of the sites' functions; there is no exact merge, since its rank would grow with every round.

    Parameters
    ----------
    rank : int, default 4
        Rank r of the update. A model sends 4 r (o + i) bytes a layer in float32, up and down.
    alpha : float, default 8.0
        The update is scaled by alpha / rank.

    References
    ----------
    Hu et al. 2021, arXiv:2106.09685; Sun et al. 2024 (averaging of factors), arXiv:2403.12313.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(trainable="lora(rank=2, alpha=4)").trainable
    'lora(rank=2, alpha=4)'
    """
    kept = set(head_names(model))
    adapted = _adapt(model, {}, kept, rank, alpha / rank, generator)
    if not adapted:
        raise ValueError("the model has no linear or convolution layer before its last stage: choose trainable='head'")
    return kept | {name for name, _ in model.named_parameters() if name.rpartition(".")[2] in FACTORS}


def check(text: str) -> None:
    """Refuse text that is neither a name with its arguments nor names of stages and parameters; ValueError."""
    if _is_call(text):
        TRAINABLE.parse(text, given=2)
    elif not text.replace(",", " ").strip():
        raise ValueError(f"trainable={text!r} names nothing to train: write 'all', 'head', or names of stages")


def version(text: str) -> str:
    """What identifies a function of the user's own that the text names; empty without one."""
    name = text.partition("(")[0].strip()
    return TRAINABLE.fingerprint(name) if name in TRAINABLE else ""


def restrict(model: nn.Module, text: str, seed: int) -> None:
    """Freeze what is not trained, and add the adapters, in place.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU, with its initial weights.
    text : str
        "all", "head", "lora(rank=4, alpha=8)", or names of stages, modules and parameters, with wildcards and commas:
        "3, 4*.conv1, head".
    seed : int
        Seed of the adapters' initial weights.

    Raises
    ------
    ValueError
        If a name is no part of the model, or nothing is left to train.

    Examples
    --------
    >>> from fedlab.learning.models import build
    >>> from fedlab.learning.trainable import restrict
    >>> model = build("small_cnn(width=4)", (1, 16, 16), outputs=2, seed=0)
    >>> restrict(model, "2, head", seed=0)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['2.0.weight', '2.1.weight', '2.1.bias', '4.weight', '4.bias']
    """
    if text.strip() == "all":
        return
    if _is_call(text):
        function, values, named = TRAINABLE.parse(text, given=2)
        chosen = function(model, torch_stream(seed, "adapters"), *values, **named)
    else:
        chosen = _named(model, text)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in chosen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"trainable={text!r} leaves nothing to train: the network itself freezes what it names")


def head_names(model: nn.Module) -> list[str]:
    """Names of all tensors in the last stage that has parameters: the last child of the model."""
    for name, child in reversed(list(model.named_children())):
        if next(child.parameters(), None) is not None:
            return [f"{name}.{each}" for each in child.state_dict()]
    return list(model.state_dict())


def _is_call(text: str) -> bool:
    """Whether a text is a registered name, or a call."""
    return "(" in text or text.strip() in TRAINABLE


def _named(model: nn.Module, text: str) -> set[str]:
    """The parameters that a text names."""
    parameters = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for pattern in filter(None, (part.strip() for part in text.split(","))):
        found = head_names(model) if pattern == "head" else [name for name in parameters if _matches(name, pattern)]
        if not found:
            names = list(dict.fromkeys([*(name.partition(".")[0] for name in parameters), *parameters]))
            known = nearest(pattern, names) if len(names) <= LISTED else f"it has {', '.join(names[:LISTED])}, ..."
            raise ValueError(f"trainable={text!r}: the model has no stage or parameter {pattern!r}: {known}")
        chosen.update(found)
    return chosen & set(parameters)


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a parameter or a module that holds it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


class LowRankLinear(nn.Linear):
    """A linear layer with a low-rank update: x (W + s B A)' + b."""

    lora_a: Tensor
    lora_b: Tensor
    lora_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        update = nn.functional.linear(nn.functional.linear(x, self.lora_a), self.lora_b)
        return super().forward(x) + self.lora_scale * update


class _LowRankConv(nn.Module):
    """A convolution with a low-rank update: A is a convolution to `rank` channels, B mixes these."""

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self
        kernel = conv.lora_a.view(-1, *conv.weight.shape[1:])
        inner = conv._conv_forward(x, kernel, None)
        mix = conv.lora_b.view(*conv.lora_b.shape, *[1] * (inner.ndim - 2))
        update = CONVOLUTIONS[inner.ndim - 2](inner, mix)
        return super().forward(x) + conv.lora_scale * update  # type: ignore[misc,no-any-return]


class LowRankConv1d(_LowRankConv, nn.Conv1d):
    """A convolution of sequences with a low-rank update."""


class LowRankConv2d(_LowRankConv, nn.Conv2d):
    """A convolution of images with a low-rank update."""


class LowRankConv3d(_LowRankConv, nn.Conv3d):
    """A convolution of volumes with a low-rank update."""


CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {
    1: nn.functional.conv1d,
    2: nn.functional.conv2d,
    3: nn.functional.conv3d,
}
ADAPTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: LowRankLinear,
    nn.Conv1d: LowRankConv1d,
    nn.Conv2d: LowRankConv2d,
    nn.Conv3d: LowRankConv3d,
}


def _adapt(
    module: nn.Module, known: dict[nn.Module, nn.Module], kept: Collection[str], rank: int, scale: float,
    generator: torch.Generator, prefix: str = "",
) -> int:  # fmt: skip
    """Replace layers by those with an adapter, in place, in the order of the model; how many there are.

    known: the replacement of each layer so far, since a layer may be in several places. kept: names of tensors whose
    layers have no adapter.
    """
    count = 0
    for name, child in module._modules.items():
        path = f"{prefix}{name}"
        if child is None or f"{path}.weight" in kept:
            continue
        if type(child) in ADAPTED and getattr(child, "groups", 1) == 1:
            if child not in known:
                known[child] = _low_rank(child, rank, scale, generator)
            module._modules[name], count = known[child], count + 1
        else:
            count += _adapt(child, known, kept, rank, scale, generator, f"{path}.")
    return count


def _low_rank(layer: Any, rank: int, scale: float, generator: torch.Generator) -> nn.Module:
    """The layer with an adapter; its weights keep their memory and their names."""
    weight = layer.weight
    outputs, inputs = weight.shape[0], weight[0].numel()
    first = torch.empty(rank, inputs).uniform_(-1, 1, generator=generator) / math.sqrt(inputs)  # as a linear layer's
    adapted: Any = ADAPTED[type(layer)].__new__(ADAPTED[type(layer)])
    adapted.__dict__.update(layer.__dict__)
    adapted._parameters, adapted._buffers = dict(layer._parameters), dict(layer._buffers)
    adapted.lora_a = nn.Parameter(first.to(weight))
    adapted.lora_b = nn.Parameter(torch.zeros(outputs, rank).to(weight))
    adapted.register_buffer(SCALE, torch.tensor(scale, dtype=weight.dtype))
    return adapted  # type: ignore[no-any-return]
