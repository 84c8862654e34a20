"""Normalisation layers in operations that `torch.func.vmap` batches on every device and in every precision.

PyTorch's batching rules for its fused kernels refuse channels-last memory on a GPU, and batch statistics in float32
with activations in bfloat16. The same formulas in elementary operations have no such limits; they agree to rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF = (torch.bfloat16, torch.float16)


class BatchableNorms(TorchFunctionMode):
    """Inside this context, layers normalise by the functions of this module."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return NORMALISATIONS.get(function, function)(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`torch.nn.functional.batch_norm`."""
    if not training:
        assert running_mean is not None and running_var is not None
        return _normalise(x, running_mean, running_var, weight, bias, eps)
    count = x.numel() // x.shape[1]
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    variance, mean = torch.var_mean(_float32(x), [0, *range(2, x.ndim)], correction=0)
    if running_mean is not None and running_var is not None:
        running_mean.mul_(1 - momentum).add_(mean.detach(), alpha=momentum)
        running_var.mul_(1 - momentum).add_(variance.detach(), alpha=momentum * count / (count - 1))
    return _normalise(x, mean, variance, weight, bias, eps)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`torch.nn.functional.group_norm`."""
    groups = _float32(x).reshape(x.shape[0], num_groups, -1)
    variance, mean = torch.var_mean(groups, 2, correction=0, keepdim=True)
    z = ((groups - mean) * torch.rsqrt(variance + eps)).reshape(x.shape)
    return _affine(z, weight, bias, x.ndim).to(x.dtype)


def instance_norm(
    x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`torch.nn.functional.instance_norm` of layers that track no statistics, which is group normalisation."""
    if running_mean is not None or not use_input_stats:
        raise ValueError(
            "instance normalisation with tracked statistics cannot be batched: use track_running_stats=False"
        )
    return group_norm(x, x.shape[1], weight, bias, eps)


NORMALISATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
}


def _float32(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, else unchanged."""
    return x.float() if x.dtype in HALF else x


def _normalise(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """((x - mean) / SD) * weight + bias, by channel."""
    z = (_float32(x) - _channels(mean, x.ndim)) * _channels(torch.rsqrt(variance + eps), x.ndim)
    return _affine(z, weight, bias, x.ndim).to(x.dtype)


def _affine(z: Tensor, weight: Tensor | None, bias: Tensor | None, dimensions: int) -> Tensor:
    """z * weight + bias, by channel."""
    z = z if weight is None else z * _channels(weight, dimensions)
    return z if bias is None else z + _channels(bias, dimensions)


def _channels(values: Tensor, dimensions: int) -> Tensor:
    """Values (C,) as a factor of images (b, C, ...)."""
    return values.view(1, -1, *[1] * (dimensions - 2))
