"""Where each site stands on each axis, and how strongly an axis acts.

A site's coordinate is frozen in the dose: the same federation can be seen with one knob moved.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from fedlab.core.rng import stream
from fedlab.core.typing import Floats

COUPLED = ("prevalence", "population", "presentation", "annotation", "acquisition age")


@dataclass(frozen=True)
class SiteEffects:
    """The coordinates of a federation's sites on all axes.

    region: (sites,) number of each site's region. within: correlation of coordinates within a region. coupling:
    correlation between the axes of COUPLED, so that sites with much disease have old scanners too. With neither, every
    axis has its own order of the sites.
    """

    sites: int
    seed: int
    region: tuple[int, ...] = ()
    within: float = 0.0
    coupling: float = 0.0

    def coordinates(self, axis: str) -> Floats:
        """(sites,) in [-1, 1]: equally spaced in drawn order without correlation; a lone site is 0."""
        if self.sites == 1:
            return np.zeros(1)
        own = _ranks(self.seed, axis, self.sites)
        if not (self.within or self.coupling):
            return own
        e = self._mixed(axis, _normal(own))
        if not self.within:
            return _uniform(e)
        count = max(self.region) + 1
        g = self._mixed(axis, _normal(_ranks(self.seed, axis, count, "region")), "region")
        return _uniform(math.sqrt(self.within) * g[list(self.region)] + math.sqrt(1 - self.within) * e)

    def _mixed(self, axis: str, own: Floats, *purpose: str) -> Floats:
        """Normal scores of an axis, with the part that it shares with the other coupled axes."""
        if axis not in COUPLED or not self.coupling:
            return own
        common = _normal(_ranks(self.seed, "common", len(own), *purpose))
        return math.sqrt(self.coupling) * common + math.sqrt(1 - self.coupling) * own


def _ranks(seed: int, axis: str, count: int, *purpose: str) -> Floats:
    """Equally spaced coordinates in [-1, 1], (count,), in drawn order; a lone one is 0."""
    spaced = np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(1)
    return stream(seed, "coordinates", axis, *purpose).permutation(spaced)


def _normal(u: Floats) -> Floats:
    """Standard normal scores of coordinates; equally spaced ones lie at the middles of equal parts."""
    from scipy.special import ndtri

    return np.asarray(ndtri((1 + u * (1 - 1 / len(u))) / 2))


def _uniform(z: Floats) -> Floats:
    """The inverse of `_normal`, within [-1, 1]."""
    from scipy.special import ndtr

    return np.clip((2 * ndtr(z) - 1) / (1 - 1 / len(z)), -1.0, 1.0)


def dose(value: object, axis: str) -> float:
    """The value as a dose in [0, 1]; ValueError for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"{axis} is {value!r}: give a dose between 0 (no shift) and 1 (the strongest)")
    return float(value)
