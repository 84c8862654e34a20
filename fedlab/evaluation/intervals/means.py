"""Means of scores of patients, differences of such means, and the delete-one-patient jackknife of any other metric."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from fedlab.core.typing import Floats
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, t_quantile

TINY = 1e-12  # below it a standard error is rounding
EDGE = 1e-6  # how close to its bounds a value may come before it is transformed


class Spread(NamedTuple):
    """The standard error of an estimate, and its degrees of freedom."""

    error: float
    df: float

    @classmethod
    def of_sum(cls, parts: Sequence["Spread"], weight: float = 1.0) -> "Spread":
        """That of the weighted sum of independent estimates (Satterthwaite 1946).

        Examples
        --------
        >>> from fedlab.evaluation.intervals.means import Spread
        >>> Spread.of_sum([Spread(0.3, 9), Spread(0.4, 9)], weight=0.5)
        Spread(error=0.25, df=16.6...)
        """
        variance = sum(part.error**2 for part in parts)
        df = variance**2 / sum(part.error**4 / max(part.df, 1.0) for part in parts)
        return cls(float(weight * np.sqrt(variance)), float(df))


class Scale(NamedTuple):
    """A transformation that makes a metric's sampling distribution symmetric: itself, its inverse, its derivative."""

    forward: Callable[[float], float]
    inverse: Callable[[float], float]
    slope: Callable[[float], float]
    low: float
    high: float


def _identity(x: float) -> float:
    return x


SCALES: dict[str, Scale] = {
    "identity": Scale(_identity, _identity, lambda x: 1.0, -np.inf, np.inf),
    "logit": Scale(special.logit, special.expit, lambda x: 1 / (x * (1 - x)), EDGE, 1 - EDGE),  # in 0..1
    "atanh": Scale(np.arctanh, np.tanh, lambda x: 1 / (1 - x * x), EDGE - 1, 1 - EDGE),  # in -1..1
    "log": Scale(np.log, np.exp, lambda x: 1 / x, EDGE, np.inf),  # 0 or more
}


def jackknife(value: float, without: ArrayLike, scale: str, level: float = LEVEL, df: float | None = None) -> Interval:
    """The interval of a metric from its values without each patient, with Student's t on a transformed scale.

    The bias that the values show is part of the error: average precision of few positives lies above that of many.

    Parameters
    ----------
    value : float
        The metric of all patients.
    without : array-like of float, shape (patients,)
        The metric without each patient; values that are undefined there are left out.
    scale : {"identity", "logit", "atanh", "log"}
        "logit" for a metric in 0..1, "atanh" for a kappa, "log" for a loss.
    level : float
        Of the interval.
    df : float, optional
        Degrees of freedom, by default the number of patients less one; that of the rarer class less one for a metric
        that rests on it.

    Returns
    -------
    Interval
        None where leaving out a patient changes nothing: the sample then says nothing of the spread.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.means import jackknife
    >>> error = np.array([0.01, 0.04, 0.09, 0.36, 0.01, 0.04, 0.09, 0.04])
    >>> without = (error.sum() - error) / 7
    >>> [round(limit, 4) for limit in jackknife(error.mean(), without, "log")]
    [0.0274, 0.2641]
    """
    spread = jackknife_spread(value, without, df)
    return NONE if spread is None else around(value, t_quantile(spread.df, level) * spread.error, scale)


def jackknife_spread(value: float, without: ArrayLike, df: float | None = None) -> Spread | None:
    """The error of a metric, its bias included, from its values without each patient; None where nothing changes it."""
    left = np.asarray(without, np.float64)
    patients, left = len(left), left[np.isfinite(left)]
    if len(left) < 2 or not np.isfinite(value):
        return None
    error = jackknife_error(left, patients)
    if error <= TINY:
        return None
    bias = (patients - 1) * float(left.mean() - value)
    return Spread(float(np.hypot(error, bias)), patients - 1 if df is None else df)


def around(value: float, half: float, scale: str) -> Interval:
    """The interval of a value, symmetric on a scale, where half its width is `half` times the slope of the scale.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.means import around
    >>> [round(limit, 3) for limit in around(0.9, 0.1, "logit")]
    [0.748, 0.965]
    """
    by = SCALES[scale]
    at = float(np.clip(value, by.low, by.high))
    half = half * by.slope(at)
    return Interval(float(by.inverse(by.forward(at) - half)), float(by.inverse(by.forward(at) + half)))


def effective_number(values: ArrayLike) -> float:
    """How many patients an average of errors rests on: (sum)² / sum of squares, their number if all errors are equal.

    Few large errors make it small; it sets the degrees of freedom of an interval of their mean.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.means import effective_number
    >>> effective_number([2, 2, 2, 2]), round(effective_number([1, 1, 1, 9]), 2)
    (4.0, 1.71)
    """
    v = np.asarray(values, np.float64)
    squares = float((v**2).sum())
    return float(v.sum() ** 2 / squares) if squares > 0 else float(len(v))


def jackknife_error(without: Floats, patients: int) -> float:
    """The standard error of a metric from its values without each patient."""
    return float(np.sqrt((patients - 1) / patients * np.sum((without - without.mean()) ** 2)))


def bounded_mean(values: ArrayLike, low: float = 0.0, high: float = 1.0, level: float = LEVEL) -> Interval:
    """The mean of a bounded score of patients, such as Dice, with rare failures.

    Two pseudo-patients of weight one half, at the two bounds, then Student's t on the logit scale.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.means import bounded_mean
    >>> found = bounded_mean([0.91, 0.88, 0.85, 0.92, 0.10, 0.87, 0.9, 0.83, 0.89, 0.86])
    >>> [round(limit, 4) for limit in found]
    [0.5175, 0.9159]
    """
    if len(np.asarray(values)) < 2:
        return NONE
    mean, spread = bounded_spread(values, low, high)
    limits = around((mean - low) / (high - low), t_quantile(spread.df, level) * spread.error / (high - low), "logit")
    return Interval(*(low + (high - low) * limit for limit in limits))


def bounded_spread(values: ArrayLike, low: float = 0.0, high: float = 1.0) -> tuple[float, Spread]:
    """The mean of a bounded score of two patients or more, with two pseudo-patients, and its error."""
    v = np.asarray(values, np.float64)
    n = len(v)
    mean = float((v.sum() + (low + high) / 2) / (n + 1))
    squares = float(np.sum((v - mean) ** 2) + 0.5 * (mean - low) ** 2 + 0.5 * (high - mean) ** 2)
    return mean, Spread(float(np.sqrt(squares / (n * (n + 1)))), n - 1)


def paired_mean(differences: ArrayLike, half_range: float | None = None, level: float = LEVEL) -> Interval:
    """The mean of differences of patients between two models.

    Parameters
    ----------
    differences : array-like of float, shape (patients,)
        One for each patient.
    half_range : float, optional
        0.5 for a score with rare failures, such as Dice: two pseudo-patients of weight one half at plus and minus this
        value. By default the paired t interval, for errors without failures, such as the Brier score.
    level : float
        Of the interval.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.means import paired_mean
    >>> dice = [0.02, 0.01, -0.01, 0.03, 0.5, 0, 0.02, -0.02, 0.01, 0.0]
    >>> [round(limit, 4) for limit in paired_mean(dice, 0.5)]
    [-0.0976, 0.1994]
    """
    d = np.asarray(differences, np.float64)
    n = len(d)
    if n < 2:
        return NONE
    if half_range is None:
        mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(n))
    else:
        mean = float(d.sum() / (n + 1))
        ends = 0.5 * (half_range - mean) ** 2 + 0.5 * (half_range + mean) ** 2
        error = float(np.sqrt((np.sum((d - mean) ** 2) + ends) / (n * (n + 1))))
    half = t_quantile(n - 1, level) * error
    return Interval(mean - half, mean + half)
