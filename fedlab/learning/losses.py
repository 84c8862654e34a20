"""Losses by name, for classification and for segmentation: one number for each case.

A loss is a function of logits and targets that returns (b,), so the gradient of a batch is the mean of the gradients of
its cases. The shapes say what the outputs mean:

| logits | targets | outputs |
|---|---|---|
| (b, C) or (b, C, height, width[, depth]), C > 1 | (b,) or (b, height, width[, depth]), class indices | classes that exclude one another, softmax |
| (b, 1, ...) | (b, ...), 0 or 1 | one class against the rest, sigmoid |
| (b, L, ...) | (b, L, ...), 0 or 1 | labels or structures that may overlap, sigmoid |

Overlap losses (Dice, Tversky) leave the background out: class 0 where classes exclude one another. Logits in half
precision are converted to float32 first. All losses work under `torch.func.vmap` and in CUDA graphs.

`@LOSSES.add` registers a further one: a function of logits, targets and class weights (None, or a tuple of numbers), and
of arguments that a user may set in the text: `loss="focal(gamma=1)"`.
"""  # noqa: E501

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlab.core.arguments import NotNegative
from fedlab.core.registry import Registry
from fedlab.data.structures import region

LOSSES = Registry("loss")
SMOOTH = 1e-5  # added to numerator and denominator of an overlap, as in MONAI
ClassWeights = Sequence[float] | None


@dataclass(frozen=True)
class Loss:
    """A loss by name, with class weights.

    Parameters
    ----------
    text : str
        A name of `LOSSES`, with arguments if wanted: "focal(gamma=1)".
    class_weights : tuple of float, optional
        One weight for each class, background included, or for each label or structure where they may overlap; two
        weights (negative, positive) for a single output.
    overlap : bool, default False
        Whether targets are masks of structures that may overlap, with one bit for each output.

    Raises
    ------
    ValueError
        If the name or an argument is unknown, or a weight is negative; when it is called, if the weights do not fit the
        outputs or the function does not return one number for each case.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.losses import Loss
    >>> logits, mask = torch.zeros(2, 3, 8, 8), torch.ones(2, 8, 8, dtype=torch.int64)
    >>> Loss("cross_entropy")(logits, mask, reduction="none")
    tensor([1.0986, 1.0986])
    >>> Loss("dice_ce")(logits, mask) > Loss("dice")(logits, mask)
    tensor(True)
    """

    text: str
    class_weights: tuple[float, ...] | None = None
    overlap: bool = False

    def __post_init__(self) -> None:
        if self.class_weights is not None and not (
            all(weight >= 0 for weight in self.class_weights) and any(weight > 0 for weight in self.class_weights)
        ):
            raise ValueError(
                f"class_weights={self.class_weights}: give numbers of at least 0, one for each class, not all of them 0"
            )
        assert callable(self._function)

    @cached_property
    def _function(self) -> Callable[..., Tensor]:
        """The loss with the arguments of its text."""
        function, values, named = LOSSES.parse(self.text, given=3)
        return partial(_called, function, tuple(values), named, self.class_weights)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name only."""
        return Loss, (self.text, self.class_weights, self.overlap)

    @property
    def voxels_only(self) -> bool:
        """Whether the loss is for segmentation only."""
        return bool(getattr(LOSSES.parse(self.text, given=3)[0], "voxels_only", False))

    @property
    def classes_only(self) -> bool:
        """Whether the loss is for classes, of cases or of voxels."""
        return bool(getattr(LOSSES.parse(self.text, given=3)[0], "classes_only", False))

    @property
    def numbers_only(self) -> bool:
        """Whether the loss is for regression only."""
        return bool(getattr(LOSSES.parse(self.text, given=3)[0], "numbers_only", False))

    @property
    def grades_only(self) -> bool:
        """Whether the loss is for ordered classes only."""
        return bool(getattr(LOSSES.parse(self.text, given=3)[0], "grades_only", False))

    def __call__(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The mean over the batch; with reduction="none" the loss of each case (b,)."""
        if self.overlap:
            targets = torch.stack([region(targets, bit + 1, True) for bit in range(logits.shape[1])], 1)
        each = self._function(logits, targets)
        if each.shape != logits.shape[:1]:
            raise ValueError(
                f"loss {self.text!r} returns {tuple(each.shape)} for {len(logits)} cases: let it return one number for"
                " each case, as by .flatten(1).mean(1)"
            )
        return each if reduction == "none" else each.mean()


def _called(
    function: Callable[..., Tensor],
    values: tuple[Any, ...],
    named: dict[str, Any],
    weights: ClassWeights,
    logits: Tensor,
    targets: Tensor,
) -> Tensor:
    """Call a loss of the registry."""
    return function(logits, targets, weights, *values, **named)


def balanced(counts: Sequence[float]) -> tuple[float, ...]:
    """Class weights n / (C n_c) from the cases or voxels of each class, as in scikit-learn; 0 for an absent class.

    Parameters
    ----------
    counts : sequence of float
        Cases or voxels of each class in the training data.

    Returns
    -------
    tuple of float
        Weights whose mean over the training data is 1.

    Examples
    --------
    >>> from fedlab.learning.losses import balanced
    >>> balanced([30, 10, 0])
    (0.6666666666666666, 2.0, 0.0)
    """
    present = sum(count > 0 for count in counts)
    return tuple(float(sum(counts)) / (present * float(count)) if count > 0 else 0.0 for count in counts)


@LOSSES.add
def dice_ce(logits: Tensor, targets: Tensor, class_weights: ClassWeights = None) -> Tensor:
    """Dice loss plus cross-entropy, the usual loss of segmentation (Isensee 2021, doi:10.1038/s41592-020-01008-z).

    Parameters
    ----------
    logits, targets : Tensor
        See `fedlab.learning.losses`.
    class_weights : sequence of float, optional
        See `dice` and `cross_entropy`.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case, MONAI's `DiceCELoss` of a batch of one.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.losses import dice_ce
    >>> dice_ce(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64))
    tensor([1.0265])
    """
    return dice(logits, targets, class_weights) + cross_entropy(logits, targets, class_weights)


@LOSSES.add
def dice(logits: Tensor, targets: Tensor, class_weights: ClassWeights = None) -> Tensor:
    """Soft Dice loss 1 - (2 sum pg + s) / (sum p + sum g + s), s = 1e-5, mean over structures (Milletari 2016).

    For a case without the structure this is 1 - s / (sum p + s): near 1 as soon as a voxel is found.

    Parameters
    ----------
    logits, targets : Tensor
        See `fedlab.learning.losses`.
    class_weights : sequence of float, optional
        The mean over structures is weighted; a single structure is not.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case: MONAI's `DiceLoss(include_background=False, softmax=True, to_onehot_y=True)`.

    References
    ----------
    Milletari et al. 2016 (V-Net), arXiv:1606.04797.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.losses import dice
    >>> dice(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64))
    tensor([0.3333])
    """
    return tversky(logits, targets, class_weights, 0.5, 0.5)


@LOSSES.add
def tversky(
    logits: Tensor,
    targets: Tensor,
    class_weights: ClassWeights = None,
    alpha: NotNegative = 0.3,
    beta: NotNegative = 0.7,
) -> Tensor:
    """Tversky loss: false positives count alpha, false negatives beta; 0.5 and 0.5 is the Dice loss (Salehi 2017).

    Parameters
    ----------
    logits, targets : Tensor
        See `fedlab.learning.losses`.
    class_weights : sequence of float, optional
        The mean over structures is weighted; a single structure is not.
    alpha, beta : float
        Weights of false positives and of false negatives.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case: MONAI's `TverskyLoss` without background, with half of its smoothing.

    References
    ----------
    Salehi et al. 2017, arXiv:1706.05721.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.losses import tversky
    >>> tversky(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64), alpha=0.5, beta=0.5)
    tensor([0.3333])
    """
    logits, exclusive = _in_full_precision(logits), _exclusive(logits, targets)
    p, g = logits.softmax(1) if exclusive else logits.sigmoid(), _one_hot(logits, targets)
    if exclusive:
        p, g = p[:, 1:], g[:, 1:]
    p, g = p.flatten(2), g.flatten(2)
    both = (p * g).sum(2)
    missed, false = g.sum(2) - both, p.sum(2) - both
    each = 1 - (both + SMOOTH / 2) / (both + alpha * false + beta * missed + SMOOTH / 2)
    weights = _class_weights(class_weights, logits, targets)
    if weights is None or each.shape[1] == 1:
        return each.mean(1)
    weights = weights[1:] if exclusive else weights
    return (each * weights).sum(1) / weights.sum()


@LOSSES.add
def cross_entropy(logits: Tensor, targets: Tensor, class_weights: ClassWeights = None) -> Tensor:
    """Cross-entropy, mean over the voxels and overlapping labels of a case.

    Parameters
    ----------
    logits, targets : Tensor
        See `fedlab.learning.losses`.
    class_weights : sequence of float, optional
        A case, or a voxel, counts with the weight of its class. The mean is over their number, unlike that of PyTorch
        over the sum of the weights in the batch, so that cases of one batch do not change each other's weight.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.losses import cross_entropy
    >>> logits, labels = torch.zeros(2, 3), torch.tensor([0, 2])
    >>> cross_entropy(logits, labels, class_weights=(1, 1, 2))
    tensor([1.0986, 2.1972])
    """
    return focal(logits, targets, class_weights, 0.0)


@LOSSES.add
def focal(logits: Tensor, targets: Tensor, class_weights: ClassWeights = None, gamma: NotNegative = 2.0) -> Tensor:
    """Focal loss -(1 - p)**gamma log p of the true class: what is predicted well counts less (Lin 2017).

    Parameters
    ----------
    logits, targets : Tensor
        See `fedlab.learning.losses`.
    class_weights : sequence of float, optional
        As for `cross_entropy`.
    gamma : float
        0 is cross-entropy.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case. MONAI's `FocalLoss` with softmax is this divided by the number of classes.

    References
    ----------
    Lin et al. 2017, arXiv:1708.02002.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.losses import focal
    >>> focal(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor([0.1733, 0.1733])
    """
    logits, exclusive = _in_full_precision(logits), _exclusive(logits, targets)
    if exclusive:
        each = F.cross_entropy(logits, targets.long(), reduction="none")
    else:
        each = F.binary_cross_entropy_with_logits(logits, _one_hot(logits, targets), reduction="none")
    if gamma:
        uncertain = -torch.expm1(-each)  # 1 - p of the true class
        each = each * uncertain.clamp(min=torch.finfo(each.dtype).tiny) ** gamma  # 0**gamma may have no derivative
    weights = _class_weights(class_weights, logits, targets)
    if weights is not None:
        each = each * _of_each(weights, targets, targets.ndim < logits.ndim).reshape_as(each)
    return each.flatten(1).mean(1) if each.ndim > 1 else each


@LOSSES.add
def ordinal(logits: Tensor, targets: Tensor, class_weights: ClassWeights = None) -> Tensor:
    """Squared earth mover's distance of predicted and true grade: grades far from the true one cost more (Hou 2016).

    The sum over grades of the squared difference of both cumulative distributions, with softmax probabilities. A
    prediction that is sure of grade k costs |k - true grade|. With two grades it is (1 - p)**2, p that of the true one.

    Parameters
    ----------
    logits, targets : Tensor
        (b, C) and class indices (b,), see `fedlab.learning.losses`; for ordinal tasks.
    class_weights : sequence of float, optional
        A case counts with the weight of its grade.

    Returns
    -------
    Tensor of shape (b,)
        The loss of each case, 0 to C - 1.

    References
    ----------
    Hou, Yu & Samaras 2016, arXiv:1611.05916.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.losses import ordinal
    >>> sure = 200 * torch.eye(4)[:3]  # of grades 0, 1 and 2
    >>> ordinal(sure, torch.tensor([0, 0, 0]))
    tensor([0., 1., 2.])
    """
    logits = _in_full_precision(logits)
    apart = (logits.softmax(1) - _one_hot(logits, targets)).cumsum(1)[:, :-1]  # the last is 0
    weights = _class_weights(class_weights, logits, targets)
    each = (apart**2).sum(1)
    each = each if weights is None else each * weights[targets.long()]
    return each.flatten(1).mean(1) if each.ndim > 1 else each


dice_ce.voxels_only = dice.voxels_only = tversky.voxels_only = True  # type: ignore[attr-defined]
ordinal.grades_only = True  # type: ignore[attr-defined]
cross_entropy.classes_only = focal.classes_only = True  # type: ignore[attr-defined]


def _exclusive(logits: Tensor, targets: Tensor) -> bool:
    """Whether the targets are indices of classes that exclude one another, so that softmax gives probabilities."""
    return targets.ndim < logits.ndim and logits.shape[1] > 1


def _in_full_precision(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 if they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _one_hot(logits: Tensor, targets: Tensor) -> Tensor:
    """Targets in the shape of the logits, 0 or 1."""
    if targets.ndim == logits.ndim:
        return targets.to(logits.dtype)
    if logits.shape[1] == 1:
        return targets.unsqueeze(1).to(logits.dtype)
    classes = torch.arange(logits.shape[1], device=targets.device).view(-1, *[1] * (targets.ndim - 1))
    return (targets.unsqueeze(1) == classes).to(logits.dtype)


def _class_weights(weights: ClassWeights, logits: Tensor, targets: Tensor) -> Tensor | None:
    """The weights on the device of the logits, made there, as a CUDA graph requires; ValueError if they do not fit."""
    if weights is None:
        return None
    single = targets.ndim < logits.ndim and logits.shape[1] == 1
    wanted = 2 if single else logits.shape[1]
    if len(weights) != wanted:
        raise ValueError(
            f"class_weights has {len(weights)} numbers, the model has {logits.shape[1]} outputs: give {wanted}"
            + (" (negative, positive)" if single else ", one for each")
        )
    made = [torch.full((), float(weight), dtype=logits.dtype, device=logits.device) for weight in weights]
    return torch.stack(made)


def _of_each(weights: Tensor, targets: Tensor, indexed: bool) -> Tensor:
    """The weight of each case or voxel by its class; of each label where labels may overlap."""
    if indexed:
        return weights[targets.long()]
    return weights.view(-1, *[1] * (targets.ndim - 2)).expand(targets.shape)
