"""Metrics of segmentation, from what is stored of each case: counts of voxels and lesions, distances between surfaces.

`p` of such a metric has eight columns for each structure but the background, see `columns`: voxels that are rightly
(tp) and wrongly (fp) called the structure, voxels of it that are missed (fn), the 95th percentile of the Hausdorff
distance (hd, in mm where the card states a spacing, else in voxels), the normalised surface dice (nsd), true lesions,
those of them that are found (hits), and predicted lesions that are false, see `fedlab.evaluation.lesions`. A metric of
a case is its mean over the structures for which it is defined, and the metric is the mean over cases. A structure that
neither the mask nor the prediction has is undefined there; a case without any defined structure is left out. One that
only one of both has counts as a failure: Dice, IoU and NSD are 0, and HD95 is the diagonal of the image.

The name "dice[core]" is the metric of one structure alone, where runs are compared.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import Floats
from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS

KINDS = ("tp", "fp", "fn", "hd", "nsd", "lesions", "hits", "false")
COUNTS = 3  # of the kinds; the others are known of final predictions only
FORMER = 5  # kinds that earlier versions stored
LESIONS = ("lesion_sensitivity", "false_lesions")  # metrics of what these did not store
FINAL = ("hd95", "nsd", *LESIONS)  # metrics of final predictions
OF_TRUE = ("volume_error", "lesion_sensitivity")  # metrics that are undefined where the mask is empty
ALWAYS = ("false_lesions",)  # metrics that are defined for all cases
MASK_METRICS: dict[str, Callable[[Floats], Floats]] = {}  # name -> values (n,) of stored numbers (n, columns)
BOUNDED: set[str] = set()  # metrics in 0 to 1


class Overlap(NamedTuple):
    """What is stored of n cases for each structure but the background, each (n, structures), see the module."""

    tp: Floats
    fp: Floats
    fn: Floats
    hd: Floats
    nsd: Floats
    lesions: Floats
    hits: Floats
    false: Floats


Kernel = Callable[[Overlap], Floats]


def columns(structures: int) -> tuple[str, ...]:
    """Names of the stored numbers of a case.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import columns
    >>> columns(structures=2)  # background and one more
    ('tp1', 'fp1', 'fn1', 'hd1', 'nsd1', 'lesions1', 'hits1', 'false1')
    """
    return tuple(f"{kind}{structure}" for structure in range(1, structures) for kind in KINDS)


def overlap(p: ArrayLike) -> Overlap:
    """Stored numbers (n, columns) by their kind; of fewer than eight structures also without lesions, which are NaN."""
    found = np.asarray(p, np.float64)
    width = found.shape[1] if found.ndim == 2 else 0
    kinds = next((count for count in (len(KINDS), FORMER) if width and width % count == 0), 0)
    if not kinds:
        raise ValueError(
            f"p has shape {found.shape}: wanted (n, 8 x structures), the columns {', '.join(columns(2))}, ... of"
            " run.predictions, or (n, 5 x structures), those without lesions"
        )
    each = np.full((len(found), width // kinds, len(KINDS)), np.nan)
    each[..., :kinds] = found.reshape(len(found), width // kinds, kinds)
    return Overlap(*np.moveaxis(each, 2, 0))


def stored_numbers(predictions: pd.DataFrame, structures: int) -> Floats:
    """The stored numbers (n, columns) of rows of `run.predictions`; NaN for lesions, if an earlier version stored them.

    structures: background included.
    """
    return predictions.reindex(columns=list(columns(structures))).to_numpy(np.float64)


def of_structure(metric: str) -> tuple[str, str]:
    """The metric and the structure in a name; the structure is empty in the name of a metric of all structures.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import of_structure
    >>> of_structure("dice[core]"), of_structure("dice")
    (('dice', 'core'), ('dice', ''))
    """
    name, bracket, structure = metric.partition("[")
    return (name, structure[:-1]) if bracket and structure.endswith("]") else (metric, "")


def is_finite(p: Floats) -> bool:
    """Whether a model predicted a mask of every case: counts of a diverged model are NaN."""
    return bool(np.isfinite(np.stack(overlap(p)[:COUNTS])).all())


def mask_metric(label: str, higher_is_better: bool = True, bounded: bool = False) -> Callable[[Kernel], Any]:
    """Register a metric of segmentation.

    The decorated function takes an `Overlap` and returns the metric of each case and structure, NaN where undefined.
    The registered one takes (y, p, weights) like every metric; y is not used.

    Parameters
    ----------
    label : str
        Label of the metric in figures.
    higher_is_better : bool
        False for errors and distances.
    bounded : bool
        Whether values are between 0 and 1, so that intervals are those of a bounded mean.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import BOUNDED, MASK_METRICS, mask_metric
    >>> from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS
    >>> @mask_metric("missed share", higher_is_better=False, bounded=True)
    ... def missed(found):
    ...     "Share of a structure's voxels that are missed."
    ...     return found.fn / (found.tp + found.fn)
    >>> missed(None, [[3, 0, 1, 0, 0], [1, 0, 3, 0, 0]])
    0.5

    Forget it again:

    >>> METRICS.remove("missed"), MASK_METRICS.pop("missed"), BOUNDED.remove("missed")  # doctest: +ELLIPSIS
    (None, <function ...>, None)
    >>> del HIGHER_IS_BETTER["missed"], METRIC_LABELS["missed"]
    """

    def register(kernel: Kernel) -> Callable[..., Any]:
        def per_case(p: Floats) -> Floats:
            with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 gives NaN, which means undefined
                each = np.asarray(kernel(overlap(p)), np.float64)
            known = np.isfinite(each)
            sums, counts = np.where(known, each, 0.0).sum(1), known.sum(1)
            return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

        @wraps(kernel)
        def measured(y: ArrayLike | None, p: ArrayLike, weights: ArrayLike | None = None) -> Any:
            numbers = np.asarray(p, np.float64)
            values = per_case(numbers)
            rows = np.ones((1, len(values))) if weights is None else np.asarray(weights, np.float64)
            if rows.ndim != 2 or rows.shape[1] != len(values):
                raise ValueError(f"weights have shape {rows.shape}: wanted (draws, {len(values)})")
            found = _weighted_mean(values, rows) if is_finite(numbers) else np.full(len(rows), np.nan)
            return float(found[0]) if weights is None else found

        name = kernel.__name__
        HIGHER_IS_BETTER[name], METRIC_LABELS[name], MASK_METRICS[name] = higher_is_better, label, per_case
        if bounded:
            BOUNDED.add(name)
        return METRICS.add(measured)

    return register


def _weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Weighted means (B,) of the values (n,) that are defined; NaN where none of them has a weight."""
    known = np.isfinite(values)
    total = weights[:, known].sum(1)
    sums = weights[:, known] @ values[known]
    return np.where(total > 0, sums / np.where(total > 0, total, 1.0), np.nan)


def case_scores(metric: str, p: Floats) -> Floats:
    """A metric of segmentation for each case, (n,); NaN where it is undefined.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import case_scores
    >>> case_scores("dice", [[4, 1, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 5, 9, 0]])
    array([0.8, nan, 0. ])
    """
    return MASK_METRICS[metric](np.asarray(p, np.float64))


@mask_metric("Dice", bounded=True)
def dice(found: Overlap) -> Floats:
    """Dice coefficient 2 TP / (2 TP + FP + FN): mean over structures, then over cases.

    Parameters
    ----------
    y : ignored
    p : array-like of shape (n, 8 x structures)
        Stored numbers of each case, see `fedlab.learning.mask_metrics`.
    weights : array-like of shape (B, n), optional
        Multiplicities of cases.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 to 1; NaN where no case has the structure in mask or prediction.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import dice
    >>> dice(None, [[4, 1, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 5, 9, 0]])  # the second is left out: both are empty
    0.4
    """
    return 2 * found.tp / (2 * found.tp + found.fp + found.fn)


@mask_metric("IoU", bounded=True)
def iou(found: Overlap) -> Floats:
    """Intersection over union TP / (TP + FP + FN) (Jaccard): mean over structures, then over cases.

    Parameters
    ----------
    y, p, weights
        See `dice`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 to 1; NaN where no case has the structure in mask or prediction.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import iou
    >>> round(iou(None, [[4, 1, 1, 0, 1]]), 3)
    0.667
    """
    return found.tp / (found.tp + found.fp + found.fn)


@mask_metric("95 % Hausdorff distance", higher_is_better=False)
def hd95(found: Overlap) -> Floats:
    """95th percentile of the Hausdorff distance of the surfaces, in mm, or in voxels without a spacing on the card.

    Only final predictions have it.

    Parameters
    ----------
    y, p, weights
        See `dice`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 where all surfaces are equal; the diagonal of the image where one of both is empty.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import hd95
    >>> hd95(None, [[4, 1, 1, 2.0, 1], [4, 1, 1, 1.0, 1]])
    1.5
    """
    return found.hd


@mask_metric("normalised surface dice", bounded=True)
def nsd(found: Overlap) -> Floats:
    """Normalised surface dice: share of both surfaces that is within a tolerance of the other one.

    Only final predictions have it; the tolerance is `tolerance` of the card, by default one voxel edge.

    Parameters
    ----------
    y, p, weights
        See `dice`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 to 1.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import nsd
    >>> nsd(None, [[4, 1, 1, 2.0, 0.5], [4, 1, 1, 1.0, 1.0]])
    0.75
    """
    return found.nsd


@mask_metric("lesion sensitivity", bounded=True)
def lesion_sensitivity(found: Overlap) -> Floats:
    """Share of true lesions that are found: mean over structures, then over cases.

    A lesion is a connected component (voxels touch by a face, edge or corner). It is found if the predicted mask covers
    at least the share `lesion_overlap` of the card of its voxels, by default any of them. Only final predictions have
    it. Undefined, and so left out, where the mask is empty. Each case counts the same, however many lesions it has.

    Parameters
    ----------
    y, p, weights
        See `dice`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 to 1; NaN where no case has a lesion.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import lesion_sensitivity
    >>> lesion_sensitivity(None, [[4, 1, 1, 0, 1, 2, 1, 0], [0, 3, 0, 9, 0, 0, 0, 1]])  # the second has no lesion
    0.5
    """
    return found.hits / found.lesions


@mask_metric("false lesions a case", higher_is_better=False)
def false_lesions(found: Overlap) -> Floats:
    """Predicted lesions without a voxel of a true one: mean number over structures, then over all cases.

    A lesion is a connected component (voxels touch by a face, edge or corner). Only final predictions have it. A case
    whose mask and prediction are empty has 0.

    Parameters
    ----------
    y, p, weights
        See `dice`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 or more.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import false_lesions
    >>> false_lesions(None, [[4, 1, 1, 0, 1, 2, 1, 0], [0, 3, 0, 9, 0, 0, 0, 3]])
    1.5
    """
    return found.false


@mask_metric("relative volume error", higher_is_better=False)
def volume_error(found: Overlap) -> Floats:
    """Absolute error of the volume as a share of the true one, |FP - FN| / (TP + FN).

    Undefined, and so left out, where the mask is empty.

    Parameters
    ----------
    y, p, weights
        See `dice`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 where all volumes are right; not bounded.

    Examples
    --------
    >>> from fedlab.learning.mask_metrics import volume_error
    >>> volume_error(None, [[4, 3, 1, 0, 1]])
    0.4
    """
    true = found.tp + found.fn
    return np.where(true > 0, np.abs(found.fp - found.fn) / true, np.nan)


def undefined(metric: str, p: Floats) -> NDArray[np.bool_]:
    """The cases (n,) that a metric leaves out."""
    return ~np.isfinite(case_scores(metric, p))
