"""Metrics of saved predictions: `metric(y, p)`, so a new metric needs no retraining.

Every metric takes

* y: (n,) class indices, or (n, L) 0/1 for a multi-label task;
* p: (n, C) probabilities (binary: C = 2, the score is p[:, 1]), or (n, L) for a multi-label task;
* weights: None for one float, or (B, n) case multiplicities for (B,) values, each equal to the metric of the cases
  repeated that often. This makes bootstraps fast.

A metric that is a mean over classes (AUROC, average precision, balanced accuracy) is the mean over the classes that are
present in y, at least two; draws that lack one of them are NaN, so that all draws are about the same classes. A
multi-label metric is the mean of the binary one over the labels for which it is defined. An undefined metric is NaN.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.registry import Registry
from fedlab.core.typing import Floats

Kernel = Callable[[NDArray[np.int64], Floats, Floats], Floats]  # (y, p, weights (B, n)) -> (B,)

METRICS = Registry("metric")
HIGHER_IS_BETTER: dict[str, bool | None] = {}  # None where some value between is best
METRIC_LABELS: dict[str, str] = {}  # name -> label of an axis

_CLASSES = ["auroc", "average_precision", "accuracy", "balanced_accuracy", "brier", "ece"]
TASK_METRICS: dict[str, list[str]] = {  # the first one selects models and heads tables
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "ordinal": ["kappa", *_CLASSES],
    "multilabel": ["auroc", "average_precision", "accuracy", "brier"],
    "segmentation": [  # see `fedlab.learning.mask_metrics`
        "dice",
        "iou",
        "hd95",
        "nsd",
        "volume_error",
        "lesion_sensitivity",
        "false_lesions",
    ],
    "regression": ["mae", "rmse", "r2", "bias"],  # see `fedlab.learning.regression_metrics`
}
BINS = 15
BLOCK = 2**18  # weights processed at a time, to stay in the CPU's cache


def metric(label: str, higher_is_better: bool = True) -> Callable[[Kernel], Callable[..., Any]]:
    """Register a metric.

    The decorated function takes single-label y (n,), p (n, C) and float weights (B, n), and returns (B,). The
    registered one also works without weights and on multi-label arrays; probabilities that are not finite (a diverged
    model) give NaN.

    Parameters
    ----------
    label : str
        Label of the metric in figures.
    higher_is_better : bool
        False for losses and errors.

    Returns
    -------
    callable
        The decorator.

    Examples
    --------
    >>> from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS, metric
    >>> @metric("precision")
    ... def precision(y, p, weights):
    ...     "Share of cases called diseased that are."
    ...     return weights @ ((p[:, 1] > 0.5) & (y == 1)) / (weights @ (p[:, 1] > 0.5))
    >>> precision([1, 1, 0], [[0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])
    0.5

    Forget it again:

    >>> METRICS.remove("precision")
    >>> del HIGHER_IS_BETTER["precision"], METRIC_LABELS["precision"]
    """

    def register(kernel: Kernel) -> Callable[..., Any]:
        @wraps(kernel)
        def measured(y: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> Any:
            truth, probabilities = _checked(y, p)
            multiplicities = _weights(weights, len(truth))
            step = max(1, BLOCK // max(1, len(truth)))
            values = np.full(len(multiplicities), np.nan)
            if np.isfinite(probabilities).all():
                for start in range(0, len(values), step):
                    block = multiplicities[start : start + step].astype(np.float64)
                    values[start : start + step] = _over_labels(kernel, truth, probabilities, block)
            return float(values[0]) if weights is None else values

        HIGHER_IS_BETTER[kernel.__name__] = higher_is_better
        METRIC_LABELS[kernel.__name__] = label
        return METRICS.add(measured)

    return register


def present_classes(y: ArrayLike, classes: int) -> NDArray[np.int64]:
    """The classes over which a metric that is a mean over classes is taken.

    Parameters
    ----------
    y : array-like
        Class indices (n,), or 0/1 of shape (n, L) of a multi-label task.
    classes : int
        How many classes there are, L in a multi-label task.

    Returns
    -------
    ndarray of int64
        Classes that have a case and lack one: in a multi-label task labels with positive and negative cases.

    Examples
    --------
    >>> from fedlab.learning.metrics import present_classes
    >>> present_classes([0, 2, 5, 2], classes=6)
    array([0, 2, 5])
    >>> present_classes([1, 1], classes=2)
    array([], dtype=int64)
    """
    truth = np.asarray(y)
    member = truth == 1 if truth.ndim == 2 else truth[:, None] == np.arange(classes)
    return np.flatnonzero(member.any(0) & ~member.all(0))


def targets(labels: ArrayLike, task: str, classes: int) -> NDArray[Any]:
    """Labels of a table as the y of metrics: (n,) class indices, (n, L) 0/1 from bit masks, numbers of a regression."""
    if task == "regression":
        return np.asarray(labels, np.float64)
    indices = np.asarray(labels, np.int64)
    return (indices[:, None] >> np.arange(classes)) & 1 if task == "multilabel" else indices


@metric("AUROC")
def auroc(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve, ties count one half (Mann-Whitney).

    Multi-class: unweighted mean of one-vs-rest over the classes that are present.

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0.5 at random, 1 for a perfect ranking; NaN unless two classes are present.

    Examples
    --------
    >>> from fedlab.learning.metrics import auroc
    >>> p = [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]
    >>> auroc([0, 0, 1, 1], p)
    0.75
    >>> auroc([0, 0, 1, 1], p, weights=[[1, 1, 1, 1], [1, 2, 1, 1]]).round(3)
    array([0.75 , 0.667])
    """
    return _one_versus_rest(_auroc, y, p, weights)


@metric("average precision")
def average_precision(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Area under the precision-recall steps; its floor is the prevalence, so do not compare it across prevalences.

    Multi-class: unweighted mean of one-vs-rest over the classes that are present.

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        The prevalence at random, 1 for a perfect ranking; NaN unless two classes are present.

    Examples
    --------
    >>> from fedlab.learning.metrics import average_precision
    >>> p = [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]
    >>> round(average_precision([0, 0, 1, 1], p), 3)
    0.833
    """
    return _one_versus_rest(_average_precision, y, p, weights)


@metric("accuracy")
def accuracy(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Share of correctly classified cases: binary p[:, 1] > 0.5 strictly, else the largest p (as MedMNIST does).

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 to 1.

    Examples
    --------
    >>> from fedlab.learning.metrics import accuracy
    >>> p = [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]
    >>> accuracy([0, 0, 1, 1], p)
    0.5
    """
    return weights @ (_decision(p) == y) / weights.sum(1)


@metric("balanced accuracy")
def balanced_accuracy(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Mean over the classes present of the share of its cases that are correctly classified (macro-averaged recall).

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 to 1; NaN unless two classes are present.

    Examples
    --------
    >>> from fedlab.learning.metrics import balanced_accuracy
    >>> p = [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]
    >>> balanced_accuracy([0, 0, 1, 1], p)
    0.5
    """
    if not len(present := present_classes(y, p.shape[1])):
        return np.full(len(weights), np.nan)
    member = _one_hot(y, p.shape[1])
    right = member * (_decision(p) == y)[:, None]
    return np.take((weights @ right) / (weights @ member), present, axis=1).mean(1)


@metric("Brier score", higher_is_better=False)
def brier(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Squared error of the probabilities: binary (p1 - y)^2, multi-class summed over classes (Brier 1950).

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 for perfect predictions; at most 1 for a binary task, 2 for more classes.

    Examples
    --------
    >>> from fedlab.learning.metrics import brier
    >>> p = [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]
    >>> round(brier([0, 0, 1, 1], p), 3)
    0.165
    """
    if p.shape[1] == 2:
        error = (p[:, 1] - y) ** 2
    else:
        error = ((p - _one_hot(y, p.shape[1])) ** 2).sum(1)
    return weights @ error / weights.sum(1)


@metric("expected calibration error", higher_is_better=False)
def ece(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Expected calibration error of the top label, 15 equal-width bins (Guo 2017, arXiv:1706.04599).

    Biased upwards for few cases: compare at equal n. `fedlab.compare` says what it is for calibrated probabilities.

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 to 1, 0 for perfect calibration.

    Examples
    --------
    >>> from fedlab.learning.metrics import ece
    >>> p = [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]
    >>> round(ece([0, 0, 1, 1], p), 3)
    0.35
    """
    decision, confidence, member = top_label(p)
    gap = (decision == y) - confidence
    return np.abs(weights @ (member * gap[:, None])).sum(1) / weights.sum(1)


@metric("quadratic kappa")
def kappa(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Cohen's kappa with quadratic weights, for grades (Cohen 1968): 1 perfect, 0 as by chance.

    A single predicted class gives 0, even if it is the only true class.

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        -1 to 1.

    Examples
    --------
    >>> from fedlab.learning.metrics import kappa
    >>> p = [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7], [0.1, 0.7, 0.2]]
    >>> kappa([0, 1, 2, 2], p)
    0.8
    """
    grade, total = _decision(p), weights.sum(1)
    observed = (weights @ (y - grade) ** 2) * total
    by_chance = (weights @ (y**2 + grade**2)) * total - 2 * (weights @ y) * (weights @ grade)
    value = np.where(by_chance > 1e-12 * total**2, 1 - observed / by_chance, 0.0)
    return np.where(total > 0, value, np.nan)


@metric("log loss", higher_is_better=False)
def log_loss(y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Mean of -ln p of the true class, p clipped to at least 2.2e-16.

    Parameters
    ----------
    y, p, weights : array-like
        Labels, probabilities and optional case multiplicities, see `fedlab.learning.metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 for perfect predictions, at most 36.04.

    Examples
    --------
    >>> from fedlab.learning.metrics import log_loss
    >>> p = [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]
    >>> round(log_loss([0, 0, 1, 1], p), 3)
    0.484
    """
    surprise = -np.log(np.maximum(p[np.arange(len(p)), y], np.finfo(np.float64).eps))
    return weights @ surprise / weights.sum(1)


def top_label(p: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """The decision of each case (n,), its probability (n,), and the bin of the ECE that it is in (n, BINS)."""
    decision = _decision(p)
    confidence = p[np.arange(len(p)), decision]
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return decision, confidence, _one_hot(bins, BINS)


def _auroc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """Share of correctly ordered (positive, negative) pairs, ties one half, (B,)."""
    order = np.argsort(score, kind="stable")
    above, below = order[positive[order]], order[~positive[order]]
    first = np.searchsorted(score[below], score[above], "left")
    last = np.searchsorted(score[below], score[above], "right")
    beaten = _cumulative(weights, below)
    ranks = beaten[:, first] if (first == last).all() else (beaten[:, first] + beaten[:, last]) / 2
    mass = weights[:, above]
    return np.einsum("bi,bi->b", mass, ranks) / (mass.sum(1) * beaten[:, -1])


def _average_precision(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """Mean over positives of the precision at their own score, tied cases included, (B,)."""
    order = np.argsort(-score, kind="stable")
    found = order[positive[order]]
    at_least = np.searchsorted(-score[order], -score[found], "right")
    hits_at_least = np.searchsorted(-score[found], -score[found], "right")
    called, hits = _cumulative(weights, order), _cumulative(weights, found)
    # the precision of a positive of weight zero above all others is undefined, and not needed
    precision = hits[:, hits_at_least] / np.maximum(called[:, at_least], np.finfo(np.float64).tiny)
    total = hits[:, -1]
    value = np.einsum("bi,bi->b", weights[:, found], precision) / total
    return np.where(called[:, -1] > total, value, np.nan)


def _one_versus_rest(
    binary: Callable[[NDArray[np.bool_], Floats, Floats], Floats], y: NDArray[np.int64], p: Floats, weights: Floats
) -> Floats:
    """The binary metric of class 1; for more classes the mean of one against the rest over those that are present."""
    wanted = [1] if p.shape[1] == 2 else present_classes(y, p.shape[1])
    if not len(wanted):
        return np.full(len(weights), np.nan)
    return np.mean([binary(y == c, p[:, c], weights) for c in wanted], axis=0)


def _over_labels(kernel: Kernel, y: NDArray[np.int64], p: Floats, weights: Floats) -> Floats:
    """Apply a metric; to a multi-label task label by label, and average those for which it is defined."""
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 gives NaN, which means undefined
        if y.ndim == 1:
            return kernel(y, p, weights)
        labels = [(truth, np.column_stack([1 - q, q])) for truth, q in zip(y.T, p.T, strict=True)]
        once = np.ones((1, len(y)))
        defined = [label for label in labels if np.isfinite(kernel(*label, once)).all()]
        if not defined:
            return np.full(len(weights), np.nan)
        return np.mean([kernel(*label, weights) for label in defined], axis=0)


def _decision(p: Floats) -> NDArray[np.int64]:
    """The predicted class, (n,)."""
    return (p[:, 1] > 0.5).astype(np.int64) if p.shape[1] == 2 else p.argmax(1)


def _one_hot(index: NDArray[np.int64], size: int) -> Floats:
    """Class membership as 0 and 1, (n, size)."""
    return (index[:, None] == np.arange(size)).astype(np.float64)


def _cumulative(weights: Floats, order: NDArray[np.int64]) -> Floats:
    """Running sums of the weights in this order, starting at zero, (B, len(order) + 1)."""
    sums = np.zeros((len(weights), len(order) + 1))
    np.cumsum(weights[:, order], axis=1, out=sums[:, 1:])
    return sums


def _weights(weights: ArrayLike | None, cases: int) -> NDArray[Any]:
    """Check multiplicities (B, n); one row of ones if there are none."""
    rows = np.ones((1, cases)) if weights is None else np.asarray(weights)
    if rows.ndim != 2 or rows.shape[1] != cases:
        raise ValueError(f"weights have shape {rows.shape}: wanted (draws, {cases}), one multiplicity for each case")
    return rows


def _checked(y: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Check shapes and range of labels and probabilities."""
    truth, probabilities = np.asarray(y), np.asarray(p, np.float64)
    if probabilities.ndim != 2 or len(truth) != len(probabilities):
        raise ValueError(
            f"y has shape {truth.shape} and p {probabilities.shape}: wanted (n,) and (n, classes), or (n, labels) twice"
        )
    classes = probabilities.shape[1]
    if truth.ndim == 2 and truth.shape != probabilities.shape:
        raise ValueError(f"multi-label y has shape {truth.shape} and p {probabilities.shape}: wanted the same")
    if truth.ndim == 1 and classes < 2:
        raise ValueError("p has one column: wanted one for each class, (n, 2) for a binary task; stack [1 - p, p]")
    limit = classes if truth.ndim == 1 else 2
    if len(truth) and not (truth.min() >= 0 and truth.max() < limit):
        raise ValueError(f"y holds {truth.min()}..{truth.max()}: wanted 0..{limit - 1}, or as many columns in p")
    return truth.astype(np.int64), probabilities
