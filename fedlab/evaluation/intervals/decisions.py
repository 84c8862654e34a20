"""What an interval of a gain allows one to say, and p-values of several hypotheses."""

from collections.abc import Sequence

import numpy as np

from fedlab.core.typing import Floats
from fedlab.evaluation.intervals.interval import Interval

GAINS, LOSES, SAME, UNKNOWN = "gains", "loses", "no different", "cannot tell"


def finding(at_95: Interval, at_90: Interval, margin: float) -> str:
    """What can be said of a gain (larger is better) from its 95 % and 90 % intervals and a margin set beforehand.

    Two one-sided tests at 5 % show that a gain is no different from zero within the margin (Schuirmann 1987).

    Parameters
    ----------
    at_95, at_90 : Interval
        Of the gain.
    margin : float
        The largest difference that would not matter, above 0.

    Returns
    -------
    {"gains", "loses", "no different", "cannot tell", ""}
        Empty where there is no interval.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.decisions import finding
    >>> from fedlab.evaluation.intervals.interval import Interval
    >>> finding(Interval(0.01, 0.05), Interval(0.02, 0.04), 0.02)
    'gains'
    >>> finding(Interval(-0.03, 0.03), Interval(-0.015, 0.018), 0.02)
    'no different'
    """
    if np.isnan(at_95.low):
        return ""
    if at_95.low > 0:
        return GAINS
    if at_95.high < 0:
        return LOSES
    return SAME if -margin < at_90.low and at_90.high < margin else UNKNOWN


def holm(p_values: Sequence[float]) -> Floats:
    """P values adjusted so that any false rejection among them has the level (Holm 1979, Scand J Stat 6:65).

    Parameters
    ----------
    p_values : sequence of float
        NaN where there is none; it stays and is not counted.

    Examples
    --------
    >>> from fedlab.evaluation.intervals.decisions import holm
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else []
    return adjusted
