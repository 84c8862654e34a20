"""A row of the table of shifts: a value, the band that chance and evenness span, and an interval."""

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
class Effort:
    """How many permutations and resamples to draw, how many images to look at, and whether to give headlines alone."""

    permutations: int
    resamples: int
    images: int
    headlines: bool = False

    def asks(self, axis: str, name: str) -> bool:
        return not self.headlines or HEADLINES[axis] == name


FULL, BRIEF = Effort(200, 300, 1500), Effort(100, 100, 400, headlines=True)


def row(axis: str, name: str, value: float, chance: Floats, interval: Floats, even: float) -> Row:
    """chance, interval: (draws,). even: what a perfectly even deal would give, up to which the band reaches.

    Rounded to DIGITS, so that rounding errors are no shift.
    """
    # (draws + 1) p: a value that is one more draw lies above the band as often as it says, however few draws there are
    (null_low, null_high), (low, high) = _ends(chance, "weibull"), _ends(interval, "linear")
    band = min(null_low, even), float(mean_defined(chance)), max(null_high, even)
    numbers = [round(number, DIGITS) for number in (value, *band, min(low, value), max(high, value))]
    return axis, name, *numbers  # type: ignore[return-value]


def recentred(value: float, again: Floats) -> Floats:
    """Resampled values about the value instead of about their mean."""
    return value + again - mean_defined(again)


def _ends(draws: Floats, method: Literal["weibull", "linear"]) -> tuple[float, float]:
    there = draws[~np.isnan(draws)]
    low, high = np.quantile(there, [0.025, 0.975], method=method) if len(there) else (np.nan, np.nan)
    return float(low), float(high)
