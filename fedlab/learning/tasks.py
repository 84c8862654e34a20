"""Tasks: the outputs of a model, the loss, the probabilities, and the metrics reported for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.typing import Floats
from fedlab.data.cases import Cases
from fedlab.data.structures import region
from fedlab.data.target_column import REGRESSION
from fedlab.learning import mask_metrics, regression_metrics
from fedlab.learning.losses import Loss, balanced
from fedlab.learning.metrics import TASK_METRICS, targets
from fedlab.learning.target_scale import TargetScale

SEGMENTATION = "segmentation"
UNSCALED = TargetScale()
Surfaces = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Floats]  # predicted and true masks (b, *space) -> (b, S, 5)


@dataclass(frozen=True)
class Task:
    """One kind of prediction.

    name: binary, multiclass, ordinal, multilabel, segmentation or regression. classes: kinds of case, none in
    regression. outputs: numbers a model returns for a case, or for each voxel of it (b, outputs, *space) in
    segmentation. loss(logits, targets) is the mean over the cases of the batch; with reduction="none" the loss of each
    case (b,). probabilities(logits) has shape (n, classes), for binary tasks two columns, for multi-label tasks one for
    each class; in segmentation (n, structures, *space); in regression they are predictions (n, 1) in the unit of the
    target. columns: names of the numbers that are stored of a case. overlap: whether structures may overlap: outputs
    are then all structures but the background, each with a probability of its own, and masks have one bit for each.
    scale: by which the targets of a regression are standardised.
    """

    name: str
    classes: tuple[str, ...]
    outputs: int
    loss: Callable[..., Tensor]
    probabilities: Callable[[Tensor], Tensor]
    columns: tuple[str, ...] = ()
    overlap: bool = False
    scale: TargetScale = UNSCALED

    @property
    def numeric(self) -> bool:
        """Whether a model predicts a number for each case: targets are numbers (b,)."""
        return self.name == REGRESSION

    @property
    def dense(self) -> bool:
        """Whether a model predicts every voxel: targets are masks (b, *space)."""
        return self.name == SEGMENTATION

    @property
    def weighted_classes(self) -> int:
        """How many class weights there are: in segmentation of structures, with the background if they exclude it."""
        return 2 if self.name == "binary" else self.outputs

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics reported for this task; the first one selects models and heads tables."""
        return TASK_METRICS[self.name]

    @property
    def round_metrics(self) -> list[str]:
        """Those that are reported after each round; surfaces and lesions are measured at the end only."""
        return [name for name in self.metrics if not (self.dense and name in mask_metrics.FINAL)]

    def is_finite(self, stored: Floats) -> bool:
        """Whether the stored numbers (n, columns) are those of a model that did not diverge."""
        return mask_metrics.is_finite(stored) if self.dense else bool(np.isfinite(stored).all())

    def masks(self, probabilities: Tensor) -> Tensor:
        """The predicted masks (b, *space), uint8: the likeliest structure, or all above 0.5 where they may overlap."""
        if not self.overlap:
            return probabilities.argmax(1).to(torch.uint8)
        found = torch.zeros_like(probabilities[:, 0], dtype=torch.uint8)
        for bit in range(self.outputs):
            found |= (probabilities[:, bit] > 0.5).to(torch.uint8) << bit
        return found

    def voxels(self, masks: Tensor) -> Tensor:
        """How many voxels of masks have each structure that has a class weight, (weighted_classes,)."""
        if not self.overlap:
            return torch.bincount(masks.flatten().long(), minlength=self.outputs)
        return torch.stack([region(masks, bit + 1, True).sum() for bit in range(self.outputs)])

    def stored(self, probabilities: Tensor, masks: Tensor, surfaces: Surfaces | None = None) -> Tensor:
        """The numbers (b, columns) that are stored of cases, in float64: probabilities, or counts of a mask's voxels.

        masks: those that predictions are compared with, (b, *space); not used in classification. surfaces: measures the
        distances between surfaces and counts lesions, by default NaN.
        """
        if not self.dense:
            return probabilities
        predicted, inside = self.masks(probabilities), self.outputs - (not self.overlap)
        numbers = probabilities.new_full((len(masks), inside, len(mask_metrics.KINDS)), float("nan"))
        numbers[..., : mask_metrics.COUNTS] = _counts(predicted, masks, inside, self.overlap).to(numbers.dtype)
        if surfaces is not None:
            found = surfaces(*(tensor.to(torch.uint8).cpu().numpy() for tensor in (predicted, masks)))
            numbers[..., mask_metrics.COUNTS :] = torch.from_numpy(found).to(numbers)
        diverged = ~torch.isfinite(probabilities.flatten(1)).all(1)
        numbers.masked_fill_(diverged[:, None, None], float("nan"))
        return numbers.flatten(1).double()

    @property
    def highest_label(self) -> int:
        """The largest label; the label of a multi-label case has one bit for each class."""
        return 2 ** len(self.classes) - 1 if self.name == "multilabel" else len(self.classes) - 1

    def weighted_loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The mean loss of a batch; each case counts with its weight (b,) unless weights is None."""
        if weights is None:
            return self.loss(logits, targets)
        return (self.loss(logits, targets, reduction="none") * weights).mean()

    def targets(self, labels: NDArray[Any]) -> NDArray[Any]:
        """The y of metrics: class indices (n,), 0/1 of shape (n, classes) of several labels, numbers as they are."""
        return targets(labels, self.name, len(self.classes))


def task_of(cases: Cases, loss: str = "auto", class_weights: str | Sequence[float] = "none") -> Task:
    """The task of a dataset, from its card.

    Parameters
    ----------
    cases : Cases
        The dataset.
    loss : str, default "auto"
        A name in `fedlab.learning.losses.LOSSES`, with arguments; "auto" is cross-entropy, and with masks "dice_ce".
    class_weights : "none", "balanced" or sequence of float, default "none"
        See `fedlab.Experiment`. Balanced weights need the training cases, see `with_balanced_loss`.

    Raises
    ------
    ValueError
        If the loss is one for segmentation, grades or numbers, and the dataset is not, or a weight is missing.

    Examples
    --------
    >>> import fedlab
    >>> from fedlab.learning.tasks import task_of
    >>> task = task_of(fedlab.load("phantoms(cases=20)"))
    >>> task.name, task.outputs, task.classes
    ('binary', 1, ('normal', 'nodule'))
    >>> task = task_of(fedlab.load("phantoms(cases=20, task='segmentation')"))
    >>> task.name, task.outputs, task.columns
    ('segmentation', 2, ('tp1', 'fp1', 'fn1', 'hd1', 'nsd1', 'lesions1', 'hits1', 'false1'))
    """
    weights = None if isinstance(class_weights, str) else tuple(float(weight) for weight in class_weights)
    found = _task_with_usual_loss(cases)
    if found.numeric and class_weights != "none":
        raise ValueError(
            f"class_weights={class_weights!r} weighs classes, and a regression of {cases.target!r} has none: leave it"
            " out, or write a loss of your own that weighs cases by their target"
        )
    if weights is not None and len(weights) != (wanted := found.weighted_classes):
        raise ValueError(
            f"class_weights lists {len(weights)} numbers for {wanted} {'structures' if found.dense else 'classes'}:"
            " give one for each" + (", background first" if found.dense and not found.overlap else "")
        )
    return found if loss == "auto" and weights is None else _with_loss(found, loss, weights)


def with_scale(task: Task, scale: TargetScale) -> Task:
    """A regression whose targets are standardised in this way."""
    return replace(task, scale=scale, probabilities=scale)


def with_balanced_loss(task: Task, loss: str, counts: Sequence[float]) -> Task:
    """The task with class weights from the number of training cases, or voxels, of each class."""
    return _with_loss(task, loss, balanced(counts))


def _task_with_usual_loss(cases: Cases) -> Task:
    """The task with cross-entropy, with Dice and cross-entropy, or with the squared error."""
    classes = tuple(cases.classes)
    probabilities = tuple(f"p{index}" for index in range(len(classes)))
    if cases.task == SEGMENTATION:
        columns, outputs = mask_metrics.columns(len(cases.structures)), len(cases.structures) - cases.overlap
        probability, loss = torch.sigmoid if cases.overlap else _softmax, Loss("dice_ce", None, cases.overlap)
        return Task(SEGMENTATION, classes, outputs, loss, probability, columns, cases.overlap)
    if cases.task == REGRESSION:
        return Task(REGRESSION, (), 1, Loss("mse"), UNSCALED, (regression_metrics.COLUMN,))
    if cases.task == "binary":
        return Task("binary", classes, 1, _binary_loss, _both_classes, probabilities)
    if cases.task == "multilabel":
        return Task("multilabel", classes, len(classes), _multilabel_loss, torch.sigmoid, probabilities)
    return Task(cases.task, classes, len(classes), F.cross_entropy, _softmax, probabilities)


def _with_loss(task: Task, loss: str, weights: tuple[float, ...] | None) -> Task:
    """The task with another loss; ValueError if that is for another kind of task."""
    text = loss if loss != "auto" else "dice_ce" if task.dense else "cross_entropy"
    found = Loss(text, weights, task.overlap)
    if task.numeric and (found.voxels_only or found.grades_only or found.classes_only):
        raise ValueError(f"loss={text!r} compares classes, and this task is regression: use 'mse', 'mae' or 'huber'")
    if found.numbers_only and not task.numeric:
        usual = "'dice_ce' or 'dice'" if task.dense else "'cross_entropy' or 'focal'"
        raise ValueError(
            f"loss={text!r} compares numbers, and this task is {task.name}: use {usual}, or name the column that is"
            " predicted, as in target='age'"
        )
    if found.voxels_only and not task.dense:
        raise ValueError(
            f"loss={text!r} compares masks, and this task is {task.name}: use 'cross_entropy' or 'focal', or choose a"
            " segmentation dataset"
        )
    if found.grades_only and task.name != "ordinal":
        raise ValueError(
            f"loss={text!r} compares grades, and this task is {task.name}: use 'cross_entropy' or 'focal', or give the"
            " card the task 'ordinal' if its classes have an order"
        )
    return replace(task, loss=found)


def _counts(predicted: Tensor, masks: Tensor, structures: int, overlap: bool) -> Tensor:
    """Voxels (b, structures, 3) that are rightly and wrongly called each structure, and those that are missed."""
    found = []
    for structure in range(1, structures + 1):
        called, true = (region(mask, structure, overlap).flatten(1) for mask in (predicted, masks))
        found.append(torch.stack([(a & b).sum(1) for a, b in ((called, true), (called, ~true), (~called, true))], 1))
    return torch.stack(found, 1)


def _binary_loss(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy of one logit a case."""
    return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype), reduction=reduction)


def _multilabel_loss(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy, mean over classes."""
    each = F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction=reduction)
    return each if reduction == "mean" else each.mean(1)


def _both_classes(logits: Tensor) -> Tensor:
    """Probabilities of both classes from one logit, (n, 2)."""
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)


def _softmax(logits: Tensor) -> Tensor:
    """Class probabilities, (n, classes)."""
    return logits.softmax(1)
