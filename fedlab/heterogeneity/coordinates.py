"""Where each site stands on each axis, and how strongly an axis acts.

A site's coordinate is frozen in the dose: the same federation can be seen with one knob moved.
"""

from numbers import Real

import numpy as np
from numpy.typing import NDArray

from fedlab.randomness import stream


def coordinates(axis: str, sites: int, seed: int) -> NDArray[np.float64]:
    """Each site's coordinate on an axis, shape (sites,): equally spaced in [-1, 1] in drawn order; a lone site is 0."""
    if sites == 1:
        return np.zeros(1)
    return stream(seed, "coordinates", axis).permutation(np.linspace(-1.0, 1.0, sites))


def dose(value: object, axis: str) -> float:
    """The value as a dose in [0, 1]; ValueError for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"{axis} is {value!r}: give a dose between 0 (no shift) and 1 (the strongest)")
    return float(value)
