"""What magnetic resonance and tomography do on the way from the body to the image: coil, voxels and k-space."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fedlab.heterogeneity.acquisition.optics import Array, Pixels, Scan, separable

ORDER = 3  # highest total order of the Legendre terms of a bias field
CENTRE = 0.32  # share of k-space lines always kept, times the undersampling: .08 at fourfold (fastMRI)


def bias(x: Pixels, strength: float, at: Scan) -> Pixels:
    """Uneven sensitivity of the receive coil: a smooth field of the site's own pattern, coefficients up to strength."""
    orders = _orders(x.ndim - 2)
    pattern = at.pattern("bias").uniform(-1, 1, len(orders))
    return x * intensity_field(strength * pattern, x.shape[2:])


def intensity_field(coefficients: Sequence[float] | Array, size: tuple[int, ...]) -> Pixels:
    """exp of a sum of Legendre products of total order 1 to 3, shape `size`, with geometric mean 1 (no net gain).

    Fewer coefficients than terms leave out the last ones.
    """
    axes = [np.polynomial.legendre.legvander(np.linspace(-1, 1, n), ORDER) for n in size]  # (n, order)
    log_field = np.zeros(size)
    for c, order in zip(coefficients, _orders(len(size)), strict=False):
        term = np.ones(())
        for axis, o in zip(axes, order, strict=True):
            term = np.multiply.outer(term, axis[:, o])
        log_field += c * term
    return np.exp(log_field - log_field.mean()).astype(np.float32)


def _orders(dimensions: int) -> list[tuple[int, ...]]:
    """Orders along the axes of each term, low total orders first."""
    every = [o for o in product(range(ORDER + 1), repeat=dimensions) if 1 <= sum(o) <= ORDER]
    return sorted(every, key=sum)


def voxels(x: Pixels, factor: float, at: Scan) -> Pixels:
    """Voxels `factor` (1 to 2) pixels wide, seen on the old grid: averages over them, then linear interpolation."""
    return separable(x, lambda size: resampling(size, factor))


@lru_cache(maxsize=256)
def resampling(size: int, factor: float) -> Array:
    """(size, size): averages over voxels of that many pixels, and back by linear interpolation; rows sum to 1.

    Every pixel lies (factor - 1) / 2 off the middle of its voxel, on either side alike. With voxels of two pixels that
    is so in any grid; in between a fixed grid would blur by the distance from it, already when it is hardly coarser.
    """
    pixel, off = np.arange(size), (factor - 1) / 2
    rows = np.zeros((size, size))
    for side in (1, -1):
        own, next_one = pixel + side * off, pixel + side * (off - factor)
        rows += (1 - off / factor) * _averages(own, factor) + off / factor * _averages(next_one, factor)
    return rows / 2


def _averages(centres: Array, width: float) -> Array:
    """(centres, pixels): averages of as many pixels as there are centres, over voxels kept inside the image."""
    pixel = np.arange(len(centres))
    middle = np.clip(centres, (width - 1) / 2, len(centres) - (width + 1) / 2)[:, None]
    inside = np.minimum(middle + width / 2, pixel + 0.5) - np.maximum(middle - width / 2, pixel - 0.5)
    return np.clip(inside, 0, None) / width


def undersampling(x: Pixels, acceleration: float, at: Scan) -> Pixels:
    """|F^-1 M F x| with one in `acceleration` phase-encoding lines (rows of k-space) kept, and the central ones.

    Which lines is drawn once a site (Zbontar 2018, arXiv:1811.08839); a faster scan drops further ones. Zero-filled.
    """
    lines = sampled(x.shape[2], acceleration, at.pattern("undersampling"))
    wave = np.fft.fft(np.eye(x.shape[2]))
    operator = (wave.conj().T * lines) @ wave / x.shape[2]  # along the height
    rows = x.reshape(*x.shape[:3], -1)
    seen = np.hypot(operator.real.astype(np.float32) @ rows, operator.imag.astype(np.float32) @ rows)
    return seen.reshape(x.shape)


def sampled(size: int, acceleration: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which lines of k-space are measured, (size,), in the order of numpy.fft; all of them at acceleration 1."""
    central = np.abs(np.fft.fftfreq(size)) <= CENTRE / acceleration / 2
    return central | (rng.random(size) < 1 / acceleration)


def gibbs(x: Pixels, cut: float, at: Scan) -> Pixels:
    """Ringing from k-space cut off at the radius (1 - cut) max(size) / sqrt(2): MONAI's GibbsNoise."""
    from scipy import fft

    space = tuple(range(2, x.ndim))
    mask = _low_frequencies(x.shape[2:], cut)
    spectrum = fft.rfftn(x, axes=space) * mask
    return np.asarray(fft.irfftn(spectrum, s=x.shape[2:], axes=space), np.float32)


@lru_cache(maxsize=64)
def _low_frequencies(size: tuple[int, ...], cut: float) -> Pixels:
    """What is kept of each frequency of a real transform; the disc is not centred on 0 where a size is even, and the
    real part of the image is that of the mask's even part."""
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    disc = sum(grid**2 for grid in grids) <= ((1 - cut) * max(size)) ** 2 / 2
    mask = np.fft.ifftshift(disc).astype(np.float32)
    axes = tuple(range(len(size)))
    even = (mask + np.roll(np.flip(mask, axes), 1, axes)) / 2
    return np.asarray(even[..., : size[-1] // 2 + 1], np.float32)
