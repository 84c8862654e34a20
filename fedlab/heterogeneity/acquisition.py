"""Acquisition: sites differ in how their scanners render the same patient.

A scanner is drawn once a site and then applied deterministically to all of that site's cases, train and test alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fedlab.heterogeneity.coordinates import Atlas, dose
from fedlab.randomness import stream

CHUNK = 2**21  # pixels in work at a time, so that a large site fits in memory

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """How one site renders an image x in [0, 1]; the defaults change nothing.

    blur: sd of the point spread, in pixels of a 28-pixel image. bias: coefficients of the low-order Legendre terms of
    the log intensity field. contrast: gain about mid-grey; offset: added. gamma: exponent. noise: sd of Gaussian noise
    in the rendered image, drawn from (seed, site, case).
    """

    site: str = ""
    seed: int = 0
    blur: float = 0.0
    bias: tuple[float, ...] = ()
    contrast: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0

    @property
    def neutral(self) -> bool:
        return self == Scanner(self.site, self.seed)

    def apply(self, images: NDArray[np.generic], case_ids: Sequence[str]) -> NDArray[np.generic]:
        """The images (n, channels, height, width[, depth]) as this scanner renders them, in their own dtype.

        uint8 stands for 0..1 in steps of 1/255 and is rounded back. A case looks the same in any order and any batch. A
        neutral scanner returns the very same array.
        """
        if self.neutral or not len(images):
            return images
        step = max(1, CHUNK // int(np.prod(images.shape[1:])))
        rendered = np.empty_like(images)
        for start in range(0, len(images), step):
            part = images[start : start + step]
            full = np.float32(255 if part.dtype == np.uint8 else 1)
            shown = self._render(part.astype(np.float32) / full, case_ids[start : start + step])
            rendered[start : start + step] = np.rint(shown * full) if full == 255 else shown
        return rendered

    def _render(self, x: Pixels, case_ids: Sequence[str]) -> Pixels:
        """Optics first, then illumination, then the display curve, then readout noise."""
        from scipy.ndimage import gaussian_filter

        if self.blur:
            spread = self.blur * max(x.shape[2:]) / 28
            x = gaussian_filter(x, (0, 0) + (spread,) * (x.ndim - 2), mode="nearest", truncate=3.0)
        if self.bias:
            x = x * intensity_field(self.bias, x.shape[2:])
        if self.contrast != 1.0 or self.offset:
            x = self.contrast * (x - np.float32(0.5)) + np.float32(0.5 + self.offset)
        x = np.clip(x, 0, 1)
        if self.gamma != 1.0:
            x = np.power(x, np.float32(self.gamma))
        if self.noise:
            x = np.clip(x + self._grain(x.shape, case_ids), 0, 1)
        return x

    def _grain(self, shape: tuple[int, ...], case_ids: Sequence[str]) -> Pixels:
        grain = np.empty(shape, np.float32)
        for one, case in zip(grain, case_ids, strict=True):
            stream(self.seed, "noise", self.site, str(case)).standard_normal(dtype=np.float32, out=one)
        return np.float32(self.noise) * grain


def draw(sites: Sequence[str], value: float, atlas: Atlas) -> dict[str, Scanner]:
    """A scanner for each site at dose h; every effect has its own order of the sites' coordinates u in [-1, 1].

    At |h u| = 1: gamma 1/2 or 2, contrast 1/1.4 or 1.4, offset 0.05, bias field coefficients up to 0.3; noise and blur
    run from none at u = -1 to sd 0.1 and 1 pixel in 28 at u = 1. No sites differ at h = 0: no scanner then, and
    identical bytes.
    """
    h = dose(value, "acquisition")
    if h == 0.0:
        return {}
    u = {effect: atlas.coordinates(f"acquisition {effect}") for effect in EFFECTS}
    return {
        site: _scanner(site, h, {effect: float(u[effect][k]) for effect in EFFECTS}, atlas.seed)
        for k, site in enumerate(sites)
    }


EFFECTS = ("blur", "bias", "contrast", "offset", "gamma", "noise")


def _scanner(site: str, h: float, u: dict[str, float], seed: int) -> Scanner:
    pattern = stream(seed, "bias", site).uniform(-1.0, 1.0, 9)  # enough for three dimensions
    return Scanner(
        site=site,
        seed=seed,
        blur=h * (1 + u["blur"]) / 2,
        bias=tuple(float(c) for c in 0.3 * h * u["bias"] * pattern),
        contrast=1.4 ** (h * u["contrast"]),
        offset=0.05 * h * u["offset"],
        gamma=2.0 ** (h * u["gamma"]),
        noise=0.1 * h * (1 + u["noise"]) / 2,
    )


def intensity_field(coefficients: Sequence[float], size: tuple[int, ...]) -> Pixels:
    """exp of a sum of Legendre products of total order 1 and 2, shape `size`, with geometric mean 1 (no net gain)."""
    axes = [np.polynomial.legendre.legvander(np.linspace(-1, 1, n), 2) for n in size]  # (n, order)
    orders = [o for o in product(range(3), repeat=len(size)) if 1 <= sum(o) <= 2]
    log_field = np.zeros(size)
    for c, order in zip(coefficients, orders, strict=False):
        term = np.ones(())
        for axis, o in zip(axes, order, strict=True):
            term = np.multiply.outer(term, axis[:, o])
        log_field += c * term
    return np.exp(log_field - log_field.mean()).astype(np.float32)
