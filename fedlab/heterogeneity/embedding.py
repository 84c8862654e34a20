"""A fixed description of images that image measures compare: deterministic, learned from no label and from no site."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COMPONENTS = 16

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Embedding:
    """Intensity quantiles, gradient energy by axis and principal components of a small copy, each of unit spread.

    It is fitted to images before any scanner touches them, so that the yardstick does not move with what it measures.
    """

    mean: Features
    components: Features
    centre: Features
    spread: Features

    @classmethod
    def fit(cls, images: NDArray[np.generic]) -> "Embedding":
        """From images (n, channels, height, width[, depth])."""
        small = _small(images)
        mean = small.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(small - mean, rowvar=False).astype(np.float64))
        components = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
        raw = np.hstack([_simple(images), (small - mean) @ components])
        spread = raw.std(axis=0)
        return cls(mean, components, raw.mean(axis=0), np.where(spread > 1e-6, spread, 1).astype(np.float32))

    def __call__(self, images: NDArray[np.generic]) -> Features:
        """(n, features)."""
        raw = np.hstack([_simple(images), (_small(images) - self.mean) @ self.components])
        return ((raw - self.centre) / self.spread).astype(np.float32)


def _unit(images: NDArray[np.generic]) -> Features:
    return images.astype(np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)


def _simple(images: NDArray[np.generic]) -> Features:
    """Quantiles and root mean squared steps along each axis, by channel: (n, channels * (5 + dimensions))."""
    x = _unit(images)
    flat = np.sort(x.reshape(*x.shape[:2], -1), axis=-1)
    at = np.rint(np.array(QUANTILES) * (flat.shape[-1] - 1)).astype(int)
    steps = [np.sqrt((np.diff(x, axis=axis) ** 2).mean(axis=tuple(range(2, x.ndim)))) for axis in range(2, x.ndim)]
    return np.hstack([flat[..., at].reshape(len(x), -1), *steps])


def _small(images: NDArray[np.generic]) -> Features:
    """Averages over 14 x 14 or 7 x 7 x 7 parts, flattened: (n, channels * parts)."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

    x = torch.from_numpy(_unit(images))
    pooled = adaptive_avg_pool2d(x, 14) if x.ndim == 4 else adaptive_avg_pool3d(x, 7)
    return pooled.flatten(1).numpy()
