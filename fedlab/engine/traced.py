"""A network's pass as one call into PyTorch instead of one for each layer.

Sites that train side by side in threads wait for each other whenever one is between two layers, which takes up to a
tenth of a round of small models on two cores; inside the one call nobody waits. The operations are the same, and so are
their results to the last bit. A trace keeps what a network did once, so only networks made of layers that always do the
same are traced.
"""

import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedlab.models import OWN

ALWAYS_ALIKE = (
    nn.Sequential, nn.Identity, nn.Flatten, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d,
    nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh,
    nn.Dropout, nn.Dropout2d, nn.Dropout3d, *OWN,
)  # fmt: skip
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_one_at_a_time = threading.Lock()


def traceable(model: nn.Module) -> bool:
    """Whether a network does the same with every batch of more than one case."""
    return all(
        type(module) in ALWAYS_ALIKE
        and getattr(module, "momentum", 0) is not None  # else a layer's mean over all batches, in Python's numbers
        and not any(getattr(module, name) for name in HOOKS)
        for module in model.modules()
    )


def traced(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """The network in its present mode; it is run once on the images, which may change its statistics.

    Where PyTorch cannot trace it, or no longer traces, it is the network as it is.
    """
    with _one_at_a_time, warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # PyTorch means to replace traces, one day
        try:
            network = torch.jit.trace(model, images, check_trace=False)
        except Exception:
            return model

    def call(images: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):  # which has formulas of its own for some gradients
            return network(images)

    return call
