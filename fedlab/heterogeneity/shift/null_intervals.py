"""A row of the table of shifts: a value, its null interval and its confidence interval."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlab.core.typing import Floats
from fedlab.heterogeneity.shift.divergences import mean_defined

Row = tuple[str, str, float, float, float, float, float, float]

DIGITS = 12
COLUMNS = ("axis", "measure", "value", "null_low", "null", "null_high", "low", "high")
HEADLINES = {
    "quantity": "Gini",
    "prevalence": "I(S;Y)",
    "presentation": "I(S;Z|Y)",
    "population": "I(S;A|Y)",
    "acquisition": "MMD^2 within class",
    "annotation": "I(S;Y'|Y)",
    "geography": "regional share",
}


@dataclass(frozen=True)
class Resampling:
    """Numbers of permutations, bootstrap resamples and images; headlines: only the headline measure of each axis."""

    permutations: int
    resamples: int
    images: int
    headlines: bool = False

    def includes(self, axis: str, measure: str) -> bool:
        """Tell whether a measure is computed."""
        return not self.headlines or HEADLINES[axis] == measure


FULL, BRIEF = Resampling(200, 300, 1500), Resampling(100, 100, 400, headlines=True)


def row(axis: str, measure: str, value: float, null: Floats, resampled: Floats, even: float) -> Row:
    """Return a row from draws under the null and resampled values, each (draws,).

    even: the value of a perfectly even assignment, up to which the null interval is extended. Rounded to DIGITS, so
    that rounding errors are no shift.
    """
    # quantiles at (draws + 1) p: a further null draw exceeds the interval with exactly the nominal probability
    (null_low, null_high), (low, high) = _quantiles(null, "weibull"), _quantiles(resampled, "linear")
    interval = min(null_low, even), float(mean_defined(null)), max(null_high, even)
    numbers = [round(number, DIGITS) for number in (value, *interval, min(low, value), max(high, value))]
    return axis, measure, *numbers  # type: ignore[return-value]


def recentred(value: float, resampled: Floats) -> Floats:
    """Centre resampled values on the value instead of on their mean."""
    return value + resampled - mean_defined(resampled)


def _quantiles(draws: Floats, method: Literal["weibull", "linear"]) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of what is defined."""
    defined = draws[~np.isnan(draws)]
    low, high = np.quantile(defined, [0.025, 0.975], method=method) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)
