"""Several seeds on the same test cases, several splits of one pool, and the best of several methods."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Floats
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, t_quantile
from fedlab.evaluation.intervals.proportions import wilson

SEEDS = 3  # from which on seeds get an interval: with two it is three times as wide


def over_seeds(values: Sequence[float] | Floats, limits: Interval, level: float = LEVEL) -> Interval:
    """The mean over seeds of training, for new seeds and new cases, from its interval over cases (Howe 1974).

    The squared half-widths of seeds (Student's t) and of cases are added on either side (Howe 1974, JASA 69:789).

    Parameters
    ----------
    values : sequence of float
        The metric of each seed on the same cases.
    limits : Interval
        The interval of their mean over cases alone, around `mean(values)`.
    level : float
        Of the interval.

    Returns
    -------
    Interval
        `limits` for one seed, which then is about this trained model alone; none for two.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import Interval
    >>> from fedlab.evaluation.intervals.repeats import over_seeds
    >>> [round(limit, 3) for limit in over_seeds([0.84, 0.86, 0.83], Interval(0.78, 0.9))]
    [0.77, 0.912]
    >>> over_seeds([0.84, 0.86], Interval(0.78, 0.9))
    Interval(low=nan, high=nan)
    """
    if len(values) == 1:
        return limits
    if len(values) < SEEDS:
        return NONE
    mean = float(np.mean(values))
    seeds = t_quantile(len(values) - 1, level) ** 2 * float(np.var(values, ddof=1)) / len(values)
    below, above = np.sqrt(seeds + (mean - limits.low) ** 2), np.sqrt(seeds + (limits.high - mean) ** 2)
    return Interval(float(mean - below), float(mean + above))


def over_splits(values: ArrayLike, n_test: int, n_train: int, level: float = LEVEL) -> Interval:
    """The mean over random splits of one pool of cases (Nadeau and Bengio 2003, Mach Learn 52:239).

    Parameters
    ----------
    values : array-like of float
        The metric, or the difference of two methods, of each split.
    n_test, n_train : int
        Cases in the two parts of a split.
    level : float
        Of the interval.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.repeats import over_splits
    >>> [round(limit, 4) for limit in over_splits([0.02, -0.01, 0.03, 0.0, 0.01], 20, 80)]
    [-0.0194, 0.0394]
    """
    found = np.asarray(values, np.float64)
    if len(found) < 2:
        return NONE
    error = np.sqrt(found.var(ddof=1) * (1 / len(found) + n_test / n_train))
    half = t_quantile(len(found) - 1, level) * float(error)
    return Interval(float(found.mean() - half), float(found.mean() + half))


def best_out_of_bag(scores: Floats, rng: np.random.Generator, draws: int = 500) -> float:
    """The mean score of the method that is best on a test set, without the optimism of having been picked there.

    Picked on the cases of each bootstrap draw, scored on the cases outside (Tsamardinos 2018, Mach Learn 107:1895).
    Picking on validation cases needs no correction and is better.

    Parameters
    ----------
    scores : ndarray, shape (cases, methods)
        A score of each case, larger is better, such as 0 or 1 for correct.
    rng : numpy.random.Generator
        Draws the resamples.
    draws : int
        How many.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.repeats import best_out_of_bag
    >>> right = (np.random.default_rng(0).random((100, 10)) < 0.8) * 1.0
    >>> bool(best_out_of_bag(right, np.random.default_rng(1)) < right.mean(0).max())
    True
    """
    n, methods = scores.shape
    outside = []
    for _ in range(draws):
        count = rng.multinomial(n, np.full(n, 1 / n))
        best = int(np.argmax(count @ scores + 1e-9 * rng.random(methods)))
        outside.append(scores[count == 0, best].mean())
    return float(np.mean(outside))


def best_accuracy(right: Floats, rng: np.random.Generator, draws: int = 999, level: float = LEVEL) -> Interval:
    """The accuracy of the method that is best on a test set: Wilson's interval at the quantile of the largest error.

    Parameters
    ----------
    right : ndarray of 0 and 1, shape (cases, methods)
        Whether each method classifies each case correctly.
    rng : numpy.random.Generator
        Draws the resamples.
    draws : int
        How many.
    level : float
        Of the interval.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.repeats import best_accuracy
    >>> right = (np.random.default_rng(0).random((100, 10)) < 0.8) * 1.0
    >>> low, high = best_accuracy(right, np.random.default_rng(1))
    >>> bool(low < 0.8 < high)
    True
    """
    n, shares = len(right), right.mean(0)
    error = np.sqrt(np.maximum(shares * (1 - shares), 1e-6) / n)
    resampled = rng.multinomial(n, np.full(n, 1 / n), draws) @ right / n
    quantile = float(np.quantile(np.max(np.abs(resampled - shares) / error, axis=1), level))
    return wilson(float(shares.max()), n, quantile)
