"""Image transforms of optics, detectors and displays.

A transform takes images x (n, channels, height, width[, depth]) in [0, 1], one physical value and the scan context, and
returns new images that may exceed [0, 1]; the scanner clips them. Widths in pixels refer to an image of 28 pixels, so
that a larger image of the same scene is changed in the same way.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Bools

Array = NDArray[np.floating]
Pixels = NDArray[np.float32]

WIDTH, LEVEL = 400.0, 40.0  # Hounsfield units that a grey scale of 0..1 spans, and its middle: a soft tissue window
ENDS = 0.1  # share of the grey scale, at either end, that is mapped to intensities outside the window
BEYOND = 1000.0  # Hounsfield units at the ends of the grey scale: air is -1000, dense bone 1000
GRAIN = 0.5  # width of a speckle, in pixels


@dataclass(frozen=True)
class ScanContext:
    """The site, the seed and the cases of a batch of images, from which random numbers are derived.

    cases: (n,) identifiers, in the order of the images. positive: (n,) in [0, 1], 1 for the disease.
    """

    site: str
    seed: int
    cases: Sequence[str]
    positive: Array | None = None

    def site_rng(self, transform: str) -> np.random.Generator:
        """Random numbers of the site's scanner."""
        return stream(self.seed, "pattern", transform, self.site)

    def case_rngs(self, transform: str) -> Iterator[np.random.Generator]:
        """Random numbers of each case: the same in any order and any batch."""
        for case in self.cases:
            yield stream(self.seed, transform, self.site, str(case))

    def normal_fields(self, transform: str, shape: tuple[int, ...]) -> Pixels:
        """Standard normal fields, (n, *shape)."""
        fields = np.empty((len(self.cases), *shape), np.float32)
        for field, rng in zip(fields, self.case_rngs(transform), strict=True):
            rng.standard_normal(dtype=np.float32, out=field)
        return fields

    def select(self, rows: Bools) -> "ScanContext":
        """The context of some of the cases."""
        cases = [case for case, taken in zip(self.cases, rows, strict=True) if taken]
        return replace(self, cases=cases, positive=None if self.positive is None else self.positive[rows])


def separable(x: Pixels, matrix: Callable[[int], Array]) -> Pixels:
    """Multiply every spatial axis of x by the (size, size) matrix of its size."""
    for axis in range(2, x.ndim):
        m = matrix(x.shape[axis]).astype(np.float32)
        if axis == x.ndim - 1:
            x = x @ m.T
        else:
            x = (m @ x.reshape(*x.shape[: axis + 1], -1)).reshape(x.shape)
    return x


@lru_cache(maxsize=256)
def point_spread(size: int, sd: float) -> Array:
    """Discrete Gaussian kernel with reflecting ends, (size, size): the heat equation on pixels (Lindeberg 1990).

    Its variance is sd^2 pixels also for sd below one pixel, where a sampled Gaussian does not blur; its rows and
    columns sum to 1, and the variances of two blurs add up. sd = 0 is the identity.
    """
    k = np.arange(size)
    waves = np.cos(np.pi * np.outer(k, k + 0.5) / size) * np.sqrt(np.where(k == 0, 1, 2)[:, None] / size)
    return (waves.T * np.exp(-(sd**2) * (1 - np.cos(np.pi * k / size)))) @ waves


def _scale(x: Pixels) -> float:
    """Return the size of the image relative to 28 pixels."""
    return max(x.shape[2:]) / 28


def blur(x: Pixels, sd: float, scan: ScanContext) -> Pixels:
    """Blur with a point spread function of this standard deviation in pixels."""
    spread = sd * _scale(x)
    return separable(x, lambda size: point_spread(size, spread))


def kernel(x: Pixels, sharpness: float, scan: ScanContext) -> Pixels:
    """Reconstruction kernel: softer by a blur of -sharpness pixels, or sharper, x + sharpness (x - blurred x)."""
    if sharpness < 0:
        return blur(x, -sharpness, scan)
    return x + np.float32(sharpness) * (x - blur(x, 1.0, scan))


def photons(x: Pixels, count: float, scan: ScanContext) -> Pixels:
    """Poisson noise with `count` photons at full scale: mean x, variance x / count."""
    counted = np.empty_like(x)
    for drawn, mean, rng in zip(counted, np.maximum(x, 0) * np.float64(count), scan.case_rngs("photons"), strict=True):
        drawn[...] = rng.poisson(mean)
    return counted / np.float32(count)


def rician(x: Pixels, sd: float, scan: ScanContext) -> Pixels:
    """Rician noise: magnitude of a signal with Gaussian noise in both channels (Gudbjartsson 1995).

    E[x'^2] = x^2 + 2 sd^2; without signal the mean is sd sqrt(pi / 2).
    """
    noise = np.float32(sd) * scan.normal_fields("rician", (2, *x.shape[1:]))
    return np.hypot(x + noise[:, 0], noise[:, 1])


def noise(x: Pixels, sd: float, scan: ScanContext) -> Pixels:
    """Gaussian noise of the detector electronics with this standard deviation."""
    return x + np.float32(sd) * scan.normal_fields("noise", x.shape[1:])


def speckle(x: Pixels, contrast: float, scan: ScanContext) -> Pixels:
    """Speckle, multiplicative noise of coherent scatter: gain |sqrt(1 - w) + sqrt(w / 2) (n1 + i n2)|.

    w = 2 contrast^2 (Burckhardt 1978; w = 1 is Rayleigh). The mean square gain is 1; for small contrast its standard
    deviation is the contrast. Black pixels stay black.
    """
    spread, weight = GRAIN * _scale(x), np.float32(2 * contrast**2)
    grains = scan.normal_fields("speckle", (2, *x.shape[1:])).reshape(-1, *x.shape[1:])
    smooth = separable(grains, lambda size: _unit_rows(point_spread(size, spread)))
    pairs = smooth.reshape(len(x), 2, *x.shape[1:])
    return x * np.hypot(np.sqrt(1 - weight) + np.sqrt(weight / 2) * pairs[:, 0], np.sqrt(weight / 2) * pairs[:, 1])


def _unit_rows(matrix: Array) -> Array:
    """Normalize rows to length 1, so that white noise keeps its variance."""
    return matrix / np.sqrt((matrix**2).sum(axis=1, keepdims=True))


def depth(x: Pixels, steepness: float, scan: ScanContext) -> Pixels:
    """Mismatched time-gain compensation: gain exp(steepness y) from the probe (y = -1, top) to the bottom (y = 1)."""
    y = np.linspace(-1, 1, x.shape[2], dtype=np.float32).reshape(-1, *(1,) * (x.ndim - 3))
    return x * np.exp(np.float32(steepness) * y)


def gain(x: Pixels, factor: float, scan: ScanContext) -> Pixels:
    """Exposure: multiply every intensity."""
    return x * np.float32(factor)


def offset(x: Pixels, amount: float, scan: ScanContext) -> Pixels:
    """Scatter or black level: add to every intensity."""
    return x + np.float32(amount)


def gamma(x: Pixels, exponent: float, scan: ScanContext) -> Pixels:
    """Display curve on the range of each image, ((x - min) / range)^exponent range + min, as MONAI's AdjustContrast."""
    space = tuple(range(1, x.ndim))
    low = x.min(axis=space, keepdims=True)
    span = x.max(axis=space, keepdims=True) - low
    return ((x - low) / (span + np.float32(1e-7))) ** np.float32(exponent) * span + low


def window(x: Pixels, factor: float, scan: ScanContext) -> Pixels:
    """CT window `factor` times as wide, x' = (HU - L) / (factor W) + 1/2: wide windows have low contrast."""
    return (hounsfield(x) - np.float32(LEVEL)) / np.float32(factor * WIDTH) + np.float32(0.5)


def level(x: Pixels, units: float, scan: ScanContext) -> Pixels:
    """CT window level raised by this number of Hounsfield units: the image gets darker."""
    return (hounsfield(x) - np.float32(LEVEL + units)) / np.float32(WIDTH) + np.float32(0.5)


def hounsfield(x: Pixels) -> Pixels:
    """Hounsfield units of grey values: linear over the soft tissue window, steeper towards black and white.

    The steep ends keep air and bone, which the original window had cut off, black and white when the window moves.
    """
    linear = (x - np.float32(0.5)) * np.float32(WIDTH) + np.float32(LEVEL)
    black, white = (np.clip(1 - part / np.float32(ENDS), 0, 1) ** 4 for part in (x, 1 - x))
    return linear - np.float32(BEYOND + LEVEL - WIDTH / 2) * black + np.float32(BEYOND - LEVEL - WIDTH / 2) * white
