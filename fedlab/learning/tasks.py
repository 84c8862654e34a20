"""Tasks: the outputs of a model, the loss, the probabilities, and the metrics reported for them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlab.data.cases import Cases
from fedlab.learning.metrics import TASK_METRICS, targets


@dataclass(frozen=True)
class Task:
    """One kind of prediction.

    name: binary, multiclass, ordinal or multilabel. outputs: numbers a model returns for a case. loss(logits, targets)
    is the mean over the batch; with reduction="none" the loss of each case (b,). probabilities(logits) has shape
    (n, classes); for binary tasks two columns, for multi-label tasks one for each class.
    """

    name: str
    classes: tuple[str, ...]
    outputs: int
    loss: Callable[..., Tensor]
    probabilities: Callable[[Tensor], Tensor]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics reported for this task; the first one selects models and heads tables."""
        return TASK_METRICS[self.name]

    @property
    def highest_label(self) -> int:
        """The largest label; the label of a multi-label case has one bit for each class."""
        return 2 ** len(self.classes) - 1 if self.name == "multilabel" else len(self.classes) - 1

    def weighted_loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The mean loss of a batch; each case counts with its weight (b,) unless weights is None."""
        if weights is None:
            return self.loss(logits, targets)
        return (self.loss(logits, targets, reduction="none") * weights).mean()

    def targets(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The y of metrics: class indices (n,), or for multi-label tasks 0/1 of shape (n, classes)."""
        return targets(labels, self.name, len(self.classes))


def task_of(cases: Cases) -> Task:
    """The task of a dataset, from its card.

    Raises ValueError for segmentation, which no method trains yet.

    Examples
    --------
    >>> import fedlab
    >>> from fedlab.learning.tasks import task_of
    >>> task = task_of(fedlab.load("phantoms(cases=20)"))
    >>> task.name, task.outputs, task.classes
    ('binary', 1, ('normal', 'nodule'))
    """
    classes = tuple(cases.classes)
    if cases.task == "segmentation":
        raise ValueError(
            f"dataset {cases.name!r} is for segmentation, which cannot be trained yet: choose a classification dataset"
            " (a segmentation dataset can be partitioned, its shift measured, its images rendered by scanners)"
        )
    if cases.task == "binary":
        return Task("binary", classes, 1, _binary_loss, _both_classes)
    if cases.task == "multilabel":
        return Task("multilabel", classes, len(classes), _multilabel_loss, torch.sigmoid)
    return Task(cases.task, classes, len(classes), F.cross_entropy, _softmax)


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
