"""Image transforms of magnetic resonance and tomography: coil sensitivity, voxel size and k-space sampling."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from fedlab.core.typing import Bools
from fedlab.heterogeneity.acquisition.optics import Array, Pixels, ScanContext, separable

ORDER = 3  # highest total order of the Legendre terms of a bias field
CENTRE = 0.32  # share of central k-space lines always kept, times the acceleration: 0.08 at fourfold (fastMRI)


def bias(x: Pixels, strength: float, scan: ScanContext) -> Pixels:
    """Bias field of the receive coil: a smooth multiplicative field with a pattern of the site.

    strength: largest coefficient of the log field.
    """
    orders = _orders(x.ndim - 2)
    pattern = scan.site_rng("bias").uniform(-1, 1, len(orders))
    return x * intensity_field(strength * pattern, x.shape[2:])


def intensity_field(coefficients: Sequence[float] | Array, size: tuple[int, ...]) -> Pixels:
    """Return exp of a sum of Legendre products of total order 1 to 3, shape `size`, with geometric mean 1.

    With fewer coefficients than terms the last terms are left out.
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
    """Return the orders along the axes of each term, low total orders first."""
    every = [o for o in product(range(ORDER + 1), repeat=dimensions) if 1 <= sum(o) <= ORDER]
    return sorted(every, key=sum)


def voxels(x: Pixels, factor: float, scan: ScanContext) -> Pixels:
    """Larger voxels, `factor` (1 to 2) pixels wide: averages over voxels, linearly interpolated to the old grid."""
    return separable(x, lambda size: resampling(size, factor))


@lru_cache(maxsize=256)
def resampling(size: int, factor: float) -> Array:
    """Return the (size, size) matrix that averages over voxels of `factor` pixels and interpolates back; rows sum to 1.

    Every pixel lies (factor - 1) / 2 off the centre of its voxel, equally on both sides. With voxels of two pixels that
    holds for any grid; in between, a fixed grid would blur each pixel by its distance from the grid.
    """
    pixel, off = np.arange(size), (factor - 1) / 2
    rows = np.zeros((size, size))
    for side in (1, -1):
        own, next_one = pixel + side * off, pixel + side * (off - factor)
        rows += (1 - off / factor) * _averages(own, factor) + off / factor * _averages(next_one, factor)
    return rows / 2


def _averages(centres: Array, width: float) -> Array:
    """Return the matrix (centres, pixels) of averages over voxels of this width, kept inside the image."""
    pixel = np.arange(len(centres))
    middle = np.clip(centres, (width - 1) / 2, len(centres) - (width + 1) / 2)[:, None]
    inside = np.minimum(middle + width / 2, pixel + 0.5) - np.maximum(middle - width / 2, pixel - 0.5)
    return np.clip(inside, 0, None) / width


def undersampling(x: Pixels, acceleration: float, scan: ScanContext) -> Pixels:
    """Zero-filled reconstruction |F^-1 M F x| from one in `acceleration` phase-encoding lines and the central ones.

    The lines (rows of k-space) are drawn once per site (Zbontar 2018, arXiv:1811.08839); a faster scan drops further
    lines of the same order.
    """
    lines = sampled(x.shape[2], acceleration, scan.site_rng("undersampling"))
    wave = np.fft.fft(np.eye(x.shape[2]))
    operator = (wave.conj().T * lines) @ wave / x.shape[2]  # along the height
    rows = x.reshape(*x.shape[:3], -1)
    magnitude = np.hypot(operator.real.astype(np.float32) @ rows, operator.imag.astype(np.float32) @ rows)
    return magnitude.reshape(x.shape)


def sampled(size: int, acceleration: float, rng: np.random.Generator) -> Bools:
    """Return which lines of k-space are measured, (size,), in the order of numpy.fft; all at acceleration 1."""
    central = np.abs(np.fft.fftfreq(size)) <= CENTRE / acceleration / 2
    return central | (rng.random(size) < 1 / acceleration)


def gibbs(x: Pixels, cut: float, scan: ScanContext) -> Pixels:
    """Gibbs ringing: k-space cut off at the radius (1 - cut) max(size) / sqrt(2), as MONAI's GibbsNoise."""
    from scipy import fft

    space = tuple(range(2, x.ndim))
    mask = _low_frequencies(x.shape[2:], cut)
    spectrum = fft.rfftn(x, axes=space) * mask
    return np.asarray(fft.irfftn(spectrum, s=x.shape[2:], axes=space), np.float32)


@lru_cache(maxsize=64)
def _low_frequencies(size: tuple[int, ...], cut: float) -> Pixels:
    """Return the mask of a real Fourier transform.

    The disc is not centred on 0 where a size is even; the real part of the image depends on the mask's even part only.
    """
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    disc = sum(grid**2 for grid in grids) <= ((1 - cut) * max(size)) ** 2 / 2
    mask = np.fft.ifftshift(disc).astype(np.float32)
    axes = tuple(range(len(size)))
    even = (mask + np.roll(np.flip(mask, axes), 1, axes)) / 2
    return np.asarray(even[..., : size[-1] // 2 + 1], np.float32)
