"""A fixed description of images that image measures compare: deterministic, learned from no label and from no site."""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.data.cases import Cases

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COMPONENTS = 16
CHUNK = 256  # images looked at in one go
MOST = 1000  # images of a dataset that its embedding is fitted to

Features = NDArray[np.float32]
Images = NDArray[np.generic]


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
    def fit(cls, images: Images) -> "Embedding":
        """From images (n, channels, height, width[, depth])."""
        small = _by_chunk(_small, images)
        mean = small.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(small - mean, rowvar=False).astype(np.float64))
        components = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
        raw = np.hstack([_by_chunk(_simple, images), (small - mean) @ components])
        spread = raw.std(axis=0)
        return cls(mean, components, raw.mean(axis=0), np.where(spread > 1e-6, spread, 1).astype(np.float32))

    def __call__(self, images: Images) -> Features:
        """(n, features)."""
        return _by_chunk(self._described, images)

    def _described(self, images: Images) -> Features:
        raw = np.hstack([_simple(images), (_small(images) - self.mean) @ self.components])
        return ((raw - self.centre) / self.spread).astype(np.float32)


class Yardstick:
    """The embedding of a dataset, fitted once to MOST of its images, and the features of those it has described."""

    def __init__(self, images: Images) -> None:
        some = np.sort(stream(0, "embedding").permutation(len(images))[:MOST])
        self.images, self.embedding = images, Embedding.fit(np.asarray(images[some]))
        self._known = np.full((len(images), len(self.embedding.centre)), np.nan, np.float32)

    def plain(self, rows: NDArray[np.int64]) -> Features:
        """(n, features) of these images of the dataset as they are; each is read once."""
        new = np.unique(rows[np.isnan(self._known[rows, 0])])
        for begun in range(0, len(new), CHUNK):
            part = new[begun : begun + CHUNK]
            self._known[part] = self.embedding(np.asarray(self.images[part]))
        return self._known[rows]

    def shown(self, images: Images) -> Features:
        """(n, features) of any images of that kind."""
        return self.embedding(images)


_yardsticks: WeakKeyDictionary[Cases, Yardstick] = WeakKeyDictionary()


def yardstick(cases: Cases) -> Yardstick:
    """The yardstick of these cases, made when first asked for and kept as long as they are."""
    if cases not in _yardsticks:
        _yardsticks[cases] = Yardstick(cases.images)
    return _yardsticks[cases]


def _by_chunk(describe: Callable[[Images], Features], images: Images) -> Features:
    """Of huge images a few at a time, so that floats of all of them need not fit in memory."""
    return np.concatenate([describe(images[i : i + CHUNK]) for i in range(0, max(1, len(images)), CHUNK)])


def _unit(images: Images) -> Features:
    return images.astype(np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)


def _simple(images: Images) -> Features:
    """Quantiles and root mean squared steps along each axis, by channel: (n, channels * (5 + dimensions))."""
    x = _unit(images)
    flat = np.sort(images.reshape(*x.shape[:2], -1), axis=-1, kind="stable")  # whole numbers: by digits
    at = np.rint(np.array(QUANTILES) * (flat.shape[-1] - 1)).astype(int)
    steps = [np.sqrt((np.diff(x, axis=axis) ** 2).mean(axis=tuple(range(2, x.ndim)))) for axis in range(2, x.ndim)]
    return np.hstack([_unit(flat[..., at]).reshape(len(x), -1), *steps])


def _small(images: Images) -> Features:
    """Averages over 14 x 14 or 7 x 7 x 7 parts, flattened: (n, channels * parts)."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

    x = torch.from_numpy(_unit(images))
    pooled = adaptive_avg_pool2d(x, 14) if x.ndim == 4 else adaptive_avg_pool3d(x, 7)
    return pooled.flatten(1).numpy()
