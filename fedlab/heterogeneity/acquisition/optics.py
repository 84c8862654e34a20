"""What optics, detectors and displays do to an image.

An effect takes images x (n, channels, height, width[, depth]) in [0, 1], one value and the scan, and returns new
images that may leave [0, 1]; whoever applies it clips them. Widths in pixels are those of an image of 28, so that a
larger image of the same scene is changed alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream

Array = NDArray[np.floating]
Pixels = NDArray[np.float32]

WIDTH, LEVEL = 400.0, 40.0  # Hounsfield units that a grey scale of 0..1 spans, and its middle: a soft tissue window
ENDS = 0.1  # share of the grey scale, at either end, on the way to what the window cut off
BEYOND = 1000.0  # Hounsfield units at the very ends: air is -1000, dense bone 1000
GRAIN = 0.5  # width of a speckle, in pixels


@dataclass(frozen=True)
class Scan:
    """Whose images are taken: site and seed, and the cases in order; positive: (n,) in [0, 1], 1 for the disease."""

    site: str
    seed: int
    cases: Sequence[str]
    positive: Array | None = None

    def pattern(self, effect: str) -> np.random.Generator:
        """Draws that belong to the site's scanner."""
        return stream(self.seed, "pattern", effect, self.site)

    def each(self, effect: str) -> Iterator[np.random.Generator]:
        """Draws that belong to one case each: the same in any order and any batch."""
        for case in self.cases:
            yield stream(self.seed, effect, self.site, str(case))

    def normal(self, effect: str, shape: tuple[int, ...]) -> Pixels:
        """Standard normal fields, (n, *shape)."""
        fields = np.empty((len(self.cases), *shape), np.float32)
        for field, rng in zip(fields, self.each(effect), strict=True):
            rng.standard_normal(dtype=np.float32, out=field)
        return fields

    def take(self, rows: NDArray[np.bool_]) -> "Scan":
        cases = [case for case, taken in zip(self.cases, rows, strict=True) if taken]
        return replace(self, cases=cases, positive=None if self.positive is None else self.positive[rows])


def separable(x: Pixels, matrix: Callable[[int], Array]) -> Pixels:
    """Every spatial axis of x multiplied by the (size, size) matrix of its size."""
    for axis in range(2, x.ndim):
        m = matrix(x.shape[axis]).astype(np.float32)
        if axis == x.ndim - 1:
            x = x @ m.T
        else:
            x = (m @ x.reshape(*x.shape[: axis + 1], -1)).reshape(x.shape)
    return x


@lru_cache(maxsize=256)
def point_spread(size: int, sd: float) -> Array:
    """The discrete Gaussian with reflecting ends, (size, size): the heat equation on pixels (Lindeberg 1990).

    Its variance is sd^2 pixels also below a pixel, where a sampled Gaussian spreads nothing; its rows and columns sum
    to 1, and two blurs add their variances.
    """
    k = np.arange(size)
    waves = np.cos(np.pi * np.outer(k, k + 0.5) / size) * np.sqrt(np.where(k == 0, 1, 2)[:, None] / size)
    return (waves.T * np.exp(-(sd**2) * (1 - np.cos(np.pi * k / size)))) @ waves


def _scale(x: Pixels) -> float:
    return max(x.shape[2:]) / 28


def blur(x: Pixels, sd: float, at: Scan) -> Pixels:
    """Point spread of that standard deviation in pixels."""
    spread = sd * _scale(x)
    return separable(x, lambda size: point_spread(size, spread))


def kernel(x: Pixels, sharpness: float, at: Scan) -> Pixels:
    """Reconstruction kernel: softer than it was by a blur of -sharpness pixels, or sharper, x + a (x - blurred x)."""
    if sharpness < 0:
        return blur(x, -sharpness, at)
    return x + np.float32(sharpness) * (x - blur(x, 1.0, at))


def photons(x: Pixels, count: float, at: Scan) -> Pixels:
    """Poisson noise of so many photons at full scale: mean x, variance x / count."""
    counted = np.empty_like(x)
    for shown, mean, rng in zip(counted, np.maximum(x, 0) * np.float64(count), at.each("photons"), strict=True):
        shown[...] = rng.poisson(mean)
    return counted / np.float32(count)


def rician(x: Pixels, sd: float, at: Scan) -> Pixels:
    """Magnitude of a signal with Gaussian noise in both channels (Gudbjartsson 1995): E[x'^2] = x^2 + 2 sd^2; where
    there is no signal, mean sd sqrt(pi / 2)."""
    noise = np.float32(sd) * at.normal("rician", (2, *x.shape[1:]))
    return np.hypot(x + noise[:, 0], noise[:, 1])


def noise(x: Pixels, sd: float, at: Scan) -> Pixels:
    """Gaussian noise of the detector's electronics."""
    return x + np.float32(sd) * at.normal("noise", x.shape[1:])


def speckle(x: Pixels, contrast: float, at: Scan) -> Pixels:
    """Coherent scatter that multiplies the echo: |sqrt(1 - w) + sqrt(w / 2) (n1 + i n2)|, w = 2 contrast^2 (Burckhardt
    1978; w = 1 is Rayleigh).

    The mean square gain is 1; for small contrast its standard deviation is the contrast. Nothing echoes in black.
    """
    spread, weight = GRAIN * _scale(x), np.float32(2 * contrast**2)
    grains = at.normal("speckle", (2, *x.shape[1:])).reshape(-1, *x.shape[1:])
    smooth = separable(grains, lambda size: _unit_rows(point_spread(size, spread)))
    pairs = smooth.reshape(len(x), 2, *x.shape[1:])
    return x * np.hypot(np.sqrt(1 - weight) + np.sqrt(weight / 2) * pairs[:, 0], np.sqrt(weight / 2) * pairs[:, 1])


def _unit_rows(matrix: Array) -> Array:
    """Rows of length 1: white noise keeps its variance."""
    return matrix / np.sqrt((matrix**2).sum(axis=1, keepdims=True))


def depth(x: Pixels, steepness: float, at: Scan) -> Pixels:
    """Gain that grows exponentially from the probe (top) to the bottom, 1 in the middle: mismatched time gain."""
    y = np.linspace(-1, 1, x.shape[2], dtype=np.float32).reshape(-1, *(1,) * (x.ndim - 3))
    return x * np.exp(np.float32(steepness) * y)


def gain(x: Pixels, factor: float, at: Scan) -> Pixels:
    """Exposure: every intensity multiplied."""
    return x * np.float32(factor)


def offset(x: Pixels, amount: float, at: Scan) -> Pixels:
    """Scatter or black level: added to every intensity."""
    return x + np.float32(amount)


def gamma(x: Pixels, exponent: float, at: Scan) -> Pixels:
    """Display curve on each image's own range, ((x - min) / range)^exponent range + min: MONAI's AdjustContrast."""
    space = tuple(range(1, x.ndim))
    low = x.min(axis=space, keepdims=True)
    span = x.max(axis=space, keepdims=True) - low
    return ((x - low) / (span + np.float32(1e-7))) ** np.float32(exponent) * span + low


def window(x: Pixels, factor: float, at: Scan) -> Pixels:
    """The CT window `factor` times as wide, x' = (HU - L) / (factor W) + 1/2: wide windows are flat."""
    return (hounsfield(x) - np.float32(LEVEL)) / np.float32(factor * WIDTH) + np.float32(0.5)


def level(x: Pixels, units: float, at: Scan) -> Pixels:
    """The CT window moved up by so many Hounsfield units: the image gets darker."""
    return (hounsfield(x) - np.float32(LEVEL + units)) / np.float32(WIDTH) + np.float32(0.5)


def hounsfield(x: Pixels) -> Pixels:
    """Hounsfield units of grey values: linear over the soft tissue window, and ever steeper towards black and white, so
    that the air and bone which the window had cut off stay black and white when it moves."""
    linear = (x - np.float32(0.5)) * np.float32(WIDTH) + np.float32(LEVEL)
    black, white = (np.clip(1 - part / np.float32(ENDS), 0, 1) ** 4 for part in (x, 1 - x))
    return linear - np.float32(BEYOND + LEVEL - WIDTH / 2) * black + np.float32(BEYOND - LEVEL - WIDTH / 2) * white
