"""Whether probabilities are calibrated, how far they are off, and their calibration slope and intercept."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from fedlab.core.typing import Floats
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, root, z_quantile

ENOUGH = 500  # cases from which on the expected calibration error is worth a number


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
    probability: ArrayLike, label: ArrayLike, rng: np.random.Generator, bins: int = 10, draws: int = 999
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
    n = len(p)
    bins = max(2, min(bins, n // 5))
    place = np.empty(n, int)
    place[np.argsort(p, kind="stable")] = np.arange(n) * bins // n
    member = np.eye(bins)[place]

    def error(labels: Floats) -> Floats:
        return np.asarray(np.abs((labels - p) @ member).sum(-1) / n)

    null = error((rng.random((draws, n)) < p).astype(np.float64))
    count = member.sum(0)
    expected, observed = p @ member / count, y @ member / count
    noise = observed * (1 - observed) / np.maximum(count - 1, 1)
    squared = float(np.sum(count / n * ((expected - observed) ** 2 - noise)))
    found = float(error(y))
    return Calibration(float((1 + np.sum(null >= found - 1e-12)) / (draws + 1)), squared, found, float(null.mean()))


def intercept(probability: ArrayLike, label: ArrayLike, level: float = LEVEL) -> tuple[float, Interval]:
    """Calibration in the large: the shift of the log-odds that makes the mean probability that of the labels.

    0 for calibrated probabilities, above 0 where they are too low; a score interval. None without both classes.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.calibration import intercept
    >>> value, (low, high) = intercept([0.2, 0.3, 0.4, 0.6, 0.7, 0.8], [0, 0, 1, 1, 0, 1])
    >>> round(value, 2), round(low, 2), round(high, 2)
    (0.0, -1.66, 1.66)
    """
    logits, y = _logits(probability), np.asarray(label, np.float64)
    if y.min() == y.max():
        return float("nan"), NONE
    quantile = z_quantile(level)

    def score(shift: float) -> float:
        p = special.expit(logits + shift)
        return float((y - p).sum() / np.sqrt((p * (1 - p)).sum()))

    value = root(lambda shift: float((y - special.expit(logits + shift)).sum()), -60, 60)
    low = _crossing(lambda shift: score(shift) - quantile, value, -1)
    high = _crossing(lambda shift: score(shift) + quantile, value, 1)
    return float(value), Interval(low, high)


def slope(probability: ArrayLike, label: ArrayLike, level: float = LEVEL) -> tuple[float, Interval]:
    """Calibration slope: below 1 where probabilities are too extreme.

    Logistic regression of the labels on the log-odds with Firth's penalty, and the profile of its likelihood (Heinze
    and Schemper 2002, Stat Med 21:2409). None without both classes.

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
    logits, y = _logits(probability), np.asarray(label, np.float64)
    if y.min() == y.max() or np.ptp(logits) == 0:
        return float("nan"), NONE
    from scipy import optimize  # takes long to load, and is needed here alone

    spread = float(logits.std())
    x = (logits - logits.mean()) / spread

    def best_at(b: float) -> tuple[float, float]:
        """Intercept, and negative penalised likelihood, of a given slope."""
        found = optimize.minimize_scalar(lambda a: _penalised(x, y, a, b), bracket=(-2, 2), options={"xtol": 1e-10})
        return float(found.x), float(found.fun)

    start = optimize.minimize(lambda ab: _penalised(x, y, *ab), (0.0, 0.0), method="Nelder-Mead",
                              options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 2000})  # fmt: skip
    value, top = float(start.x[1]), float(start.fun)
    drop = float(special.chdtri(1, 1 - level)) / 2
    low, high = (_crossing(lambda b: drop - (best_at(b)[1] - top), value, sign) for sign in (-1, 1))
    return value / spread, Interval(low / spread, high / spread)


def _penalised(x: Floats, y: Floats, a: float, b: float) -> float:
    """Firth's negative penalised log-likelihood of intercept a and slope b."""
    eta = a + b * x
    p = special.expit(eta)
    weight = np.maximum(p * (1 - p), 1e-300)
    information = weight.sum() * (weight * x * x).sum() - (weight * x).sum() ** 2
    return float(np.logaddexp(0, eta).sum() - (y * eta).sum() - 0.5 * np.log(max(information, 1e-300)))


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
