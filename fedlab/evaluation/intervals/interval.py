"""An interval, the quantile behind it, and how much support a test set gives."""

from collections.abc import Callable
from typing import NamedTuple

from scipy import special

LEVEL = 0.95
SUPPORT = ((2, "not estimable"), (5, "uninformative"), (10, "low support"))  # below that many patients of a class


class Interval(NamedTuple):
    """The limits of an interval; NaN where none can be given.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import Interval
    >>> Interval(0.2, 0.4).width
    0.2
    """

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def clipped(self, low: float, high: float) -> "Interval":
        """The part within a range."""
        return Interval(max(low, self.low), min(high, self.high))


NONE = Interval(float("nan"), float("nan"))


def t_quantile(df: float, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t; at least one degree of freedom.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import t_quantile
    >>> round(t_quantile(9), 3)
    2.262
    """
    return float(special.stdtrit(max(df, 1.0), 0.5 + level / 2))


def z_quantile(level: float = LEVEL) -> float:
    """Two-sided quantile of the normal distribution."""
    return float(special.ndtri(0.5 + level / 2))


def support(patients: int) -> str:
    """What an interval means that rests on so many patients of the rarer class.

    Returns
    -------
    str
        "not estimable" below 2 (show no interval), "uninformative" below 5, "low support" below 10, else "".

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import support
    >>> [support(patients) for patients in (1, 4, 9, 10)]
    ['not estimable', 'uninformative', 'low support', '']
    """
    return next((word for below, word in SUPPORT if patients < below), "")


def root(function: Callable[[float], float], low: float, high: float, precision: float = 2e-12) -> float:
    """Where a function changes sign between two points (Brent's method).

    Examples
    --------
    >>> from fedlab.evaluation.intervals.interval import root
    >>> round(root(lambda x: x * x - 2, 0, 2), 6)
    1.414214
    """
    from scipy.optimize import brentq  # takes long to load, and is not needed before intervals are

    return float(brentq(function, low, high, xtol=precision))
