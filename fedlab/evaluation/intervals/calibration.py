"""Whether probabilities are calibrated, how far they are off, and their calibration slope and intercept."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from fedlab.core.typing import Floats
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, root, t_quantile, z_quantile
from fedlab.learning.metrics import top_label

ENOUGH = 500  # cases from which on the expected calibration error is worth a number
FEWEST = 10  # cases from which on the squared calibration error is one: two bins of five
DRAWS = 999  # sets of labels drawn from the probabilities
BLOCK = 2**22  # labels drawn at a time


class Calibration(NamedTuple):
    """A test of calibration, and the error behind it.

    p_value: of calibration. squared_error: unbiased, may be below 0. error: expected calibration error (ECE).
    by_chance: its mean for calibrated probabilities on as many cases.
    """

    p_value: float
    squared_error: float
    error: float
    by_chance: float


def calibration(
    probability: ArrayLike, label: ArrayLike, rng: np.random.Generator, bins: int = 10, draws: int = DRAWS
) -> Calibration:
    """Test by labels drawn from the probabilities themselves (Brocker and Smith 2007, Weather Forecast 22:651).

    Parameters
    ----------
    probability : array-like of float, shape (cases,)
        Of class 1.
    label : array-like of 0 and 1, shape (cases,)
        The true class.
    rng : numpy.random.Generator
        Draws the labels.
    bins : int
        Bins of equal numbers of cases; at most one for five cases.
    draws : int
        Sets of labels.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.calibration import calibration
    >>> rng = np.random.default_rng(0)
    >>> probability = rng.random(60)
    >>> found = calibration(probability, rng.random(60) < probability, np.random.default_rng(3))
    >>> round(found.p_value, 2), round(found.squared_error, 3)
    (0.57, -0.009)
    """
    p, y = np.asarray(probability, np.float64), np.asarray(label, np.float64)
    n, member = len(p), _equal_bins(p, bins)

    def error(labels: Floats) -> Floats:
        return np.asarray(np.abs((labels - p) @ member).sum(-1) / n)

    null = error((rng.random((draws, n)) < p).astype(np.float64))
    found = float(error(y))
    return Calibration(tail_probability(null, found), squared_error(p, y, bins), found, float(null.mean()))


def squared_error(probability: ArrayLike, label: ArrayLike, bins: int = 10) -> float:
    """Squared calibration error, unbiased: may be below 0 (Brocker 2012, Clim Dyn 39:655; Kumar 2019, NeurIPS).

    Examples
    --------
    >>> from fedlab.evaluation.intervals.calibration import squared_error
    >>> round(squared_error([0.1, 0.2, 0.3, 0.4, 0.4, 0.6, 0.6, 0.7, 0.8, 0.9], [0, 0, 1, 0, 0, 1, 1, 0, 1, 1]), 3)
    -0.034
    """
    p, y = np.asarray(probability, np.float64), np.asarray(label, np.float64)
    if len(p) < FEWEST:
        return float("nan")
    member = _equal_bins(p, bins)
    count = member.sum(0)
    expected, observed = p @ member / count, y @ member / count
    noise = observed * (1 - observed) / np.maximum(count - 1, 1)
    return float(np.sum(count / len(p) * ((expected - observed) ** 2 - noise)))


def calibrated_ece(probability: Floats, patient: ArrayLike, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """The expected calibration error that calibrated probabilities have on as many cases, by drawing their labels.

    Labels are drawn from the probabilities themselves (consistency resampling, Brocker and Smith 2007); images of one
    patient share the random number, so that their labels are as alike as the probabilities allow.

    Parameters
    ----------
    probability : ndarray of float, shape (cases, classes)
        Of one model.
    patient : array-like, shape (cases,)
        Ids of any kind.
    rng : numpy.random.Generator
        Draws the labels.
    draws : int
        Sets of labels.

    Returns
    -------
    ndarray of float, shape (draws,)
        The error of each set; its mean is what a small test set adds to the error of any model.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.calibration import calibrated_ece
    >>> p = np.linspace(0, 1, 60)
    >>> errors = calibrated_ece(np.column_stack([1 - p, p]), np.arange(60), np.random.default_rng(0))
    >>> errors.shape, round(float(errors.mean()), 2)
    ((999,), 0.11)
    """
    decision, confidence, member = top_label(probability)
    person = np.unique(np.asarray(patient), return_inverse=True)[1]
    n, patients = len(person), int(person.max(initial=-1)) + 1
    start = np.cumsum(probability, axis=1)[np.arange(n), decision] - confidence
    errors, step = np.empty(draws), max(1, BLOCK // max(n, 1))
    for first in range(0, draws, step):
        at = rng.random((min(step, draws - first), patients))[:, person]
        gap = ((start <= at) & (at < start + confidence)) - confidence
        errors[first : first + step] = np.abs(gap @ member).sum(1) / max(n, 1)
    return errors


def tail_probability(null: Floats, found: float) -> float:
    """P value of a statistic from its draws under the hypothesis; large values speak against it."""
    return float((1 + np.sum(null >= found - 1e-12)) / (len(null) + 1))


def intercept(
    probability: ArrayLike, label: ArrayLike, level: float = LEVEL, patient: ArrayLike | None = None
) -> tuple[float, Interval]:
    """Calibration in the large: the shift of the log-odds that makes the mean probability that of the labels.

    0 for calibrated probabilities, above 0 where they are too low; a score interval. None without both classes.
    patient: of each image, where patients have several; the variance is then that between patients, if larger.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.calibration import intercept
    >>> value, (low, high) = intercept([0.2, 0.3, 0.4, 0.6, 0.7, 0.8], [0, 0, 1, 1, 0, 1])
    >>> round(value, 2), round(low, 2), round(high, 2)
    (0.0, -1.66, 1.66)
    """
    logits, y = _logits(probability), np.asarray(label, np.float64)
    value = intercept_value(probability, label)
    if np.isnan(value):
        return value, NONE
    p = special.expit(logits + value)
    quantile = _quantile(level, patient, y, y - p, p * (1 - p))

    def score(shift: float) -> float:
        p = special.expit(logits + shift)
        return float((y - p).sum() / np.sqrt((p * (1 - p)).sum()))

    low = _crossing(lambda shift: score(shift) - quantile, value, -1)
    high = _crossing(lambda shift: score(shift) + quantile, value, 1)
    return value, Interval(low, high)


def intercept_value(probability: ArrayLike, label: ArrayLike) -> float:
    """The first result of `intercept`; NaN without both classes."""
    logits, y = _logits(probability), np.asarray(label, np.float64)
    if len(np.unique(y)) < 2:
        return float("nan")
    return root(lambda shift: float((y - special.expit(logits + shift)).sum()), -60, 60)


def slope(
    probability: ArrayLike, label: ArrayLike, level: float = LEVEL, patient: ArrayLike | None = None
) -> tuple[float, Interval]:
    """Calibration slope: below 1 where probabilities are too extreme.

    Logistic regression of the labels on the log-odds with Firth's penalty, and the profile of its likelihood (Heinze
    and Schemper 2002, Stat Med 21:2409). None without both classes.
    patient: of each image, where patients have several; the variance is then that between patients, if larger.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.intervals.calibration import slope
    >>> rng = np.random.default_rng(0)
    >>> p = rng.random(300)
    >>> value, (low, high) = slope(p, rng.random(300) < p)
    >>> bool(low < 1 < high), bool(low < value < high)
    (True, True)
    """
    fitted = _firth(probability, label)
    if fitted is None:
        return float("nan"), NONE
    from scipy import optimize  # takes long to load, and is needed here alone

    x, y, spread, (a, value), top = fitted

    def best_at(b: float) -> float:
        """Negative penalised likelihood of a given slope."""
        found = optimize.minimize_scalar(lambda a: _penalised(x, y, a, b), bracket=(-2, 2), options={"xtol": 1e-6})
        return float(found.fun)

    p = special.expit(a + value * x)
    drop = _quantile(level, patient, y, y - p, p * (1 - p), x) ** 2 / 2
    low, high = (_crossing(lambda b: drop - (best_at(b) - top), value, sign) for sign in (-1, 1))
    return value / spread, Interval(low / spread, high / spread)


def slope_value(probability: ArrayLike, label: ArrayLike) -> float:
    """The first result of `slope`; NaN without both classes."""
    fitted = _firth(probability, label)
    return float("nan") if fitted is None else fitted.parameters[1] / fitted.spread


class _Fit(NamedTuple):
    """Standardised log-odds, labels, standard deviation of the log-odds, (intercept, slope), penalised likelihood."""

    x: Floats
    y: Floats
    spread: float
    parameters: tuple[float, float]
    top: float


def _firth(probability: ArrayLike, label: ArrayLike) -> _Fit | None:
    """Fit a logistic regression of the labels on the log-odds with Firth's penalty; None where there is nothing to."""
    logits, y = _logits(probability), np.asarray(label, np.float64)
    if len(np.unique(y)) < 2 or np.ptp(logits) == 0:
        return None
    from scipy import optimize

    spread = float(logits.std())
    x = (logits - logits.mean()) / spread
    found = optimize.minimize(lambda ab: _penalised(x, y, *ab), (0.0, 0.0), method="Nelder-Mead",
                              options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 2000})  # fmt: skip
    return _Fit(x, y, spread, (float(found.x[0]), float(found.x[1])), float(found.fun))


def _quantile(
    level: float, patient: ArrayLike | None, y: Floats, residual: Floats, weight: Floats, x: Floats | None = None
) -> float:
    """The quantile of an interval, widened by the square root of what several images a patient add to the variance.

    Student's t with as many degrees of freedom as the rarer class has patients, less one. residual, weight: of each
    image, (images,); x: the covariate of a slope.
    """
    if patient is None:
        return z_quantile(level)
    person = np.unique(np.asarray(patient), return_inverse=True)[1]
    patients = int(person.max()) + 1
    design = np.ones((len(y), 1)) if x is None else np.column_stack([np.ones_like(x), x])
    sums = np.array([np.bincount(person, residual * column, patients) for column in design.T])
    information = design.T @ (weight[:, None] * design)
    if patients <= design.shape[1] or np.linalg.cond(information) > 1e12:
        return float("inf")
    naive = np.linalg.inv(information)
    robust = naive @ (sums @ sums.T) @ naive * patients / (patients - design.shape[1])
    rarer = min(len(np.unique(person[y == label])) for label in (0, 1))
    return t_quantile(rarer - 1, level) * float(np.sqrt(max(1.0, robust[-1, -1] / naive[-1, -1])))


def _penalised(x: Floats, y: Floats, a: float, b: float) -> float:
    """Firth's negative penalised log-likelihood of intercept a and slope b."""
    eta = a + b * x
    p = special.expit(eta)
    weight = np.maximum(p * (1 - p), 1e-300)
    information = weight.sum() * (weight * x * x).sum() - (weight * x).sum() ** 2
    return float(np.logaddexp(0, eta).sum() - (y * eta).sum() - 0.5 * np.log(max(information, 1e-300)))


def _equal_bins(p: Floats, bins: int) -> Floats:
    """Bins of equal numbers of cases as 0 and 1, (cases, bins); at most one for five cases."""
    bins = max(2, min(bins, len(p) // 5))
    place = np.empty(len(p), int)
    place[np.argsort(p, kind="stable")] = np.arange(len(p)) * bins // len(p)
    return np.eye(bins)[place]


def _logits(probability: ArrayLike) -> Floats:
    """Log-odds of probabilities that may be 0 or 1."""
    return np.asarray(special.logit(np.clip(np.asarray(probability, np.float64), 1e-9, 1 - 1e-9)))


def _crossing(function: Callable[[float], float], start: float, sign: int) -> float:
    """The zero of a function in one direction from a point; infinite if there is none."""
    step = 0.5
    for _ in range(40):
        if function(start) * function(start + sign * step) < 0:
            return root(function, *sorted((start, start + sign * step)))
        step *= 2
        if step > 1e4:
            break
    return sign * float("inf")
