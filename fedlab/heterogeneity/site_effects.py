"""Site effects: the position u of each site on each axis, and the dose, the strength with which an axis acts.

A site effect does not depend on the dose, so that the same federation can be compared at several doses of one axis.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from fedlab.core.arguments import shown
from fedlab.core.rng import stream
from fedlab.core.typing import Floats

COUPLED = ("prevalence", "population", "presentation", "annotation", "acquisition age")


@dataclass(frozen=True)
class SiteEffects:
    """The effects u of a federation's sites on all axes.

    Without correlation each axis has a random order of the sites, and u is equally spaced in [-1, 1] in that order.

    Parameters
    ----------
    sites : int
        Number of sites, at least 1.
    seed : int
        Seed of the partition.
    region : tuple of int, default ()
        Number of the region of each site, (sites,); empty without regions.
    within : float, default 0.0
        Correlation of the normal scores of sites of the same region, 0 to 1.
    coupling : float, default 0.0
        Correlation, 0 to 1, between the axes in COUPLED, so that for example sites with a high prevalence have old
        scanners.

    Examples
    --------
    >>> SiteEffects(sites=3, seed=0).of("prevalence").tolist()
    [0.0, -1.0, 1.0]
    """

    sites: int
    seed: int
    region: tuple[int, ...] = ()
    within: float = 0.0
    coupling: float = 0.0

    def of(self, axis: str) -> Floats:
        """Effects u of all sites on an axis, (sites,), in [-1, 1]; 0 for a single site."""
        if self.sites == 1:
            return np.zeros(1)
        own = _permuted_grid(self.seed, axis, self.sites)
        if not (self.within or self.coupling):
            return own
        e = self._couple(axis, _normal_scores(own))
        if not self.within:
            return _uniform_scores(e)
        count = max(self.region) + 1
        g = self._couple(axis, _normal_scores(_permuted_grid(self.seed, axis, count, "region")), "region")
        return _uniform_scores(math.sqrt(self.within) * g[list(self.region)] + math.sqrt(1 - self.within) * e)

    def _couple(self, axis: str, own: Floats, *purpose: str) -> Floats:
        """Add to the normal scores of a coupled axis the part that it shares with the other coupled axes."""
        if axis not in COUPLED or not self.coupling:
            return own
        common = _normal_scores(_permuted_grid(self.seed, "common", len(own), *purpose))
        return math.sqrt(self.coupling) * common + math.sqrt(1 - self.coupling) * own


def _permuted_grid(seed: int, axis: str, count: int, *purpose: str) -> Floats:
    """Return equally spaced values in [-1, 1], (count,), in random order; 0 if there is only one."""
    spaced = np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(1)
    return stream(seed, "coordinates", axis, *purpose).permutation(spaced)


def _normal_scores(u: Floats) -> Floats:
    """Map u in [-1, 1] to standard normal scores; an equally spaced grid maps to the midpoints of equal quantiles."""
    from scipy.special import ndtri

    return np.asarray(ndtri((1 + u * (1 - 1 / len(u))) / 2))


def _uniform_scores(z: Floats) -> Floats:
    """Invert `_normal_scores` and clip to [-1, 1]."""
    from scipy.special import ndtr

    return np.clip((2 * ndtr(z) - 1) / (1 - 1 / len(z)), -1.0, 1.0)


def dose(value: object, axis: str) -> float:
    """Return the value as a dose in [0, 1]; raise ValueError for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{axis} is {shown(value)}: give a dose between 0 (no shift) and 1 (the strongest)")
    return float(value)
