"""Losses of regression: one number for each case, from outputs (b, 1) and standardised targets (b,).

Targets are standardised, see `target_scale` of `fedlab.Experiment`, so that a loss is in standard deviations of the
target, unless `target_scale="none"`. Class weights have no meaning and are refused.
"""

import torch.nn.functional as F
from torch import Tensor

from fedlab.core.arguments import Positive
from fedlab.learning.losses import LOSSES, ClassWeights, _in_full_precision


@LOSSES.add
def mse(outputs: Tensor, targets: Tensor, class_weights: ClassWeights = None) -> Tensor:
    """Squared error, whose best prediction is the mean.

    Parameters
    ----------
    outputs, targets : Tensor
        (b, 1) and (b,), see `fedlab.learning.regression_losses`.
    class_weights : None
        Not used.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.regression_losses import mse
    >>> mse(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0]))
    tensor([1., 9.])
    """
    return _errors(outputs, targets) ** 2


@LOSSES.add
def mae(outputs: Tensor, targets: Tensor, class_weights: ClassWeights = None) -> Tensor:
    """Absolute error, whose best prediction is the median; far-off cases count less than with the squared error.

    Parameters
    ----------
    outputs, targets, class_weights
        See `mse`.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.regression_losses import mae
    >>> mae(torch.tensor([[1.0], [-3.0]]), torch.tensor([0.0, 0.0]))
    tensor([1., 3.])
    """
    return _errors(outputs, targets).abs()


@LOSSES.add
def huber(outputs: Tensor, targets: Tensor, class_weights: ClassWeights = None, delta: Positive = 1.0) -> Tensor:
    """Huber loss: half the squared error up to delta, and delta (|error| - delta / 2) beyond (Huber 1964).

    Parameters
    ----------
    outputs, targets, class_weights
        See `mse`.
    delta : float
        In standard deviations of the target; a large one is half the squared error.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case, that of `torch.nn.HuberLoss`.

    References
    ----------
    Huber 1964, doi:10.1214/aoms/1177703732.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.regression_losses import huber
    >>> huber(torch.tensor([[0.5], [3.0]]), torch.tensor([0.0, 0.0]))
    tensor([0.1250, 2.5000])
    """
    error = _errors(outputs, targets)
    return F.huber_loss(error, error.new_zeros(()).expand_as(error), reduction="none", delta=delta)


def _errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Output less target (b,), in full precision."""
    found = _in_full_precision(outputs)[:, 0]
    return found - targets.to(found.dtype)


for _loss in (mse, mae, huber):
    _loss.numbers_only = True  # type: ignore[attr-defined]
