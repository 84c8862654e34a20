"""The AUROC of small test sets: one model, two models on the same cases.

Obuchowski 1997, Biometrics 53:567 (clustered variance); Newcombe 2006, Stat Med 25:559 (method 5); Zou and Donner 2008,
Stat Med 27:1693 (MOVER). Intervals from DeLong's variance and from any bootstrap fail near 1, and are not offered.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import Floats
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, root, t_quantile

TINY = 1e-15  # below it a variance is rounding


@dataclass(frozen=True, eq=False)
class AurocParts:
    """An AUROC, what each patient adds to it, and how many patients there are.

    positive, negative: (patients,) contributions of a patient's positive and negative images, each summing to 0.
    """

    value: float
    positive: Floats
    negative: Floats
    positives: int
    negatives: int

    @property
    def patients(self) -> int:
        return len(self.positive)

    @property
    def rarer(self) -> int:
        """Patients of the rarer class."""
        return min(self.positives, self.negatives)

    @property
    def variances(self) -> tuple[float, float]:
        """The variance that is due to positive and to negative patients."""
        scales = (count / max(count - 1, 1) for count in (self.positives, self.negatives))
        first, second = (
            scale * float(np.sum(part**2)) for scale, part in zip(scales, (self.positive, self.negative), strict=True)
        )
        return first, second

    @property
    def variance(self) -> float:
        """Obuchowski's variance: patients with images of both classes add a covariance."""
        shared = 2 * self.patients / max(self.patients - 1, 1) * float(np.sum(self.positive * self.negative))
        return max(sum(self.variances) + shared, 0.0)

    @property
    def df(self) -> float:
        """Satterthwaite's degrees of freedom."""
        if self.variance <= TINY or self.value in (0.0, 1.0):
            return self.rarer - 1
        first, second = self.variances
        found = self.variance**2 / (first**2 / (self.positives - 1) + second**2 / (self.negatives - 1))
        return float(min(max(found, self.rarer - 1), self.patients - 2))


def newcombe_variance(theta: float | Floats, positives: float | Floats, negatives: float | Floats) -> Floats:
    """The variance of an AUROC theta, from its value and the numbers of patients alone (Newcombe's method 5)."""
    half = (np.asarray(positives) + negatives) / 2 - 1
    shape = 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return np.asarray(theta * (1 - theta) / (np.asarray(positives) * negatives) * shape, np.float64)


def auroc_parts(score: ArrayLike, label: ArrayLike, patient: ArrayLike) -> AurocParts:
    """The AUROC of images, and the contribution of each patient.

    Parameters
    ----------
    score : array-like of float, shape (images,)
        Larger for positives.
    label : array-like of bool, shape (images,)
        Both classes must be there.
    patient : array-like, shape (images,)
        Ids of any kind.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.auroc import auroc_parts
    >>> parts = auroc_parts([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0], ["a", "b", "c", "d"])
    >>> parts.value, round(parts.variance, 4), parts.rarer
    (0.75, 0.125, 2)
    """
    scores, positive = np.asarray(score, np.float64), np.asarray(label).astype(bool)
    person = np.unique(np.asarray(patient), return_inverse=True)[1]
    above = _placements(scores[~positive], scores[positive])  # share of negatives below each positive
    below = 1 - _placements(scores[positive], scores[~positive])  # share of positives above each negative
    value, patients = float(above.mean()), int(person.max()) + 1
    parts = [
        np.bincount(person[rows], (shares - value) / len(shares), patients).astype(np.float64)
        for rows, shares in ((positive, above), (~positive, below))
    ]
    counts = [len(np.unique(person[rows])) for rows in (positive, ~positive)]
    return AurocParts(value, parts[0], parts[1], counts[0], counts[1])


def mean_parts(models: list[AurocParts]) -> AurocParts:
    """The parts of the mean AUROC of several models (seeds) on the same cases."""
    first = models[0]
    value, positive, negative = (
        np.mean([getattr(parts, name) for parts in models], axis=0) for name in ("value", "positive", "negative")
    )
    return AurocParts(float(value), positive, negative, first.positives, first.negatives)


def auroc_interval(parts: AurocParts, level: float = LEVEL) -> Interval:
    """Newcombe's method 5 on patients, its variance inflated to Obuchowski's where that is larger, with Student's t.

    Returns
    -------
    Interval
        Within 0 and 1, also for an AUROC of 1; none with fewer than two patients of a class.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.auroc import auroc_interval, auroc_parts
    >>> score = np.r_[np.linspace(0.6, 0.9, 5), np.linspace(0, 0.5, 10)]
    >>> found = auroc_interval(auroc_parts(score, np.arange(15) < 5, np.arange(15)))
    >>> [round(limit, 4) for limit in found]
    [0.5492, 1.0]
    """
    if parts.rarer < 2:
        return NONE
    value, quantile = parts.value, t_quantile(parts.df, level)
    inside = 0 < value < 1 and parts.variance > TINY
    inflation = max(1.0, parts.variance / _own_variance(parts, value)) if inside else 1.0
    factor = quantile**2 * inflation

    def gap(theta: float) -> float:
        return (value - theta) ** 2 - factor * _own_variance(parts, theta)

    low = 0.0 if value <= 0 else _root(gap, 1e-9 if value >= 1 else 0.0, 1 - 1e-9 if value >= 1 else value)
    high = 1.0 if value >= 1 else _root(gap, 1e-9 if value <= 0 else value, 1 - 1e-9 if value <= 0 else 1.0)
    return Interval(low, high)


def paired_auroc_interval(first: AurocParts, second: AurocParts, level: float = LEVEL) -> Interval:
    """The difference of two AUROCs on the same cases, first minus second, by MOVER from their two intervals.

    The only interval that keeps the level of a non-inferiority decision where an AUROC may be 1; it is wide.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.auroc import auroc_parts, paired_auroc_interval
    >>> label, score = np.arange(15) < 5, np.r_[np.linspace(0.6, 0.9, 5), np.linspace(0, 0.5, 10)]
    >>> parts = auroc_parts(score, label, np.arange(15))
    >>> [round(limit, 2) for limit in paired_auroc_interval(parts, parts)]
    [-0.45, 0.45]
    """
    limits = [auroc_interval(parts, level) for parts in (first, second)]
    if np.isnan(limits[0].low) or np.isnan(limits[1].low):
        return NONE
    u, v = first.positive + first.negative, second.positive + second.negative
    norm = float(np.sqrt(np.sum(u**2) * np.sum(v**2)))
    r = 0.0 if norm < TINY else float(np.clip(np.sum(u * v) / norm, 0, 1))

    def joined(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2 * r * a * b + b * b, 0.0)))

    difference = first.value - second.value
    below = joined(first.value - limits[0].low, limits[1].high - second.value)
    above = joined(limits[0].high - first.value, second.value - limits[1].low)
    return Interval(difference - below, difference + above)


def _own_variance(parts: AurocParts, theta: float) -> float:
    """`newcombe_variance` of one AUROC, without arrays."""
    m, n = parts.positives, parts.negatives
    shape = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return theta * (1 - theta) / (m * n) * shape


def _placements(others: NDArray[np.float64], at: NDArray[np.float64]) -> Floats:
    """The share of the others that lie below each value of `at`, ties one half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")) / (2 * len(ordered))


def _root(gap: Callable[[float], float], low: float, high: float) -> float:
    """Where gap changes sign between low and high; the end with the value where it does not."""
    if gap(low) * gap(high) >= 0:
        return low if abs(gap(low)) < abs(gap(high)) else high
    return root(gap, low, high, 1e-14)
