"""What is predicted: the outputs a model needs, the loss, the probabilities, and the metrics that judge them."""

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

    outputs: numbers a model returns for a case. loss(logits, targets) is the mean over the batch; with reduction="none"
    the loss of each case (b,). probabilities(logits) has shape (n, classes); for binary tasks both columns, for
    multi-label one a class.
    """

    name: str
    classes: tuple[str, ...]
    outputs: int
    loss: Callable[..., Tensor]
    probabilities: Callable[[Tensor], Tensor]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics reported for this task, the headline first."""
        return TASK_METRICS[self.name]

    @property
    def highest_label(self) -> int:
        """Labels run from 0 to this; a label of a multi-label case has one bit a class."""
        return 2 ** len(self.classes) - 1 if self.name == "multilabel" else len(self.classes) - 1

    def weighed(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The mean loss of a batch, with a weight for each case (b,) if there are any."""
        if weights is None:
            return self.loss(logits, targets)
        return (self.loss(logits, targets, reduction="none") * weights).mean()

    def targets(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """What a metric compares with: class indices (n,), or for multi-label 0/1 of shape (n, classes)."""
        return targets(labels, self.name, len(self.classes))


def task_of(cases: Cases) -> Task:
    """The task that a dataset's card names. Raises ValueError for segmentation, which no method trains yet."""
    classes = tuple(cases.classes)
    if cases.task == "segmentation":
        raise ValueError(
            f"dataset {cases.name!r} is for segmentation, which is not trainable yet: choose a classification dataset"
            " (dealing it, its shift and its scanners work all the same)"
        )
    if cases.task == "binary":
        return Task("binary", classes, 1, _binary_loss, _both_classes)
    if cases.task == "multilabel":
        return Task("multilabel", classes, len(classes), _multilabel_loss, torch.sigmoid)
    return Task(cases.task, classes, len(classes), F.cross_entropy, _softmax)


def _binary_loss(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype), reduction=reduction)


def _multilabel_loss(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    each = F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction=reduction)
    return each if reduction == "mean" else each.mean(1)


def _both_classes(logits: Tensor) -> Tensor:
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)
