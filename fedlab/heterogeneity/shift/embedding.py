"""A fixed embedding of images for image distances and clusters: deterministic, fitted without labels and sites."""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Ints
from fedlab.data.cases import Cases
from fedlab.data.extents import cut_outs

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COMPONENTS = 16
CHUNK = 256  # images processed at a time
MAX_FITTED = 1000  # images of a dataset on which its embedding is fitted

Features = NDArray[np.float32]
Images = NDArray[np.generic] | list[NDArray[np.generic]]  # a list of images of unequal size, each (channels, *space)


@dataclass(frozen=True)
class Embedding:
    """Intensity quantiles, gradient energy by axis, and principal components of a small copy, standardised.

    It is fitted to images before any scanner, so that it does not depend on the shift that it measures.
    """

    mean: Features
    components: Features
    centre: Features
    spread: Features

    @classmethod
    def fit(cls, images: Images) -> "Embedding":
        """Fit to images (n, channels, height, width[, depth])."""
        small = _in_chunks(_small_copy, images)
        mean = small.mean(axis=0)
        spreads = np.cov(small - mean, rowvar=False) if len(small) > 1 else np.zeros((small.shape[1],) * 2)
        _, vectors = np.linalg.eigh(spreads.astype(np.float64))
        components = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
        raw = np.hstack([_in_chunks(_intensity_features, images), (small - mean) @ components])
        spread = raw.std(axis=0)
        return cls(mean, components, raw.mean(axis=0), np.where(spread > 1e-6, spread, 1).astype(np.float32))

    def __call__(self, images: Images) -> Features:
        """Features (n, d) of images."""
        return _in_chunks(self._embed, images)

    def _embed(self, images: NDArray[np.generic]) -> Features:
        """Return standardised features of one chunk."""
        raw = np.hstack([_intensity_features(images), (_small_copy(images) - self.mean) @ self.components])
        return ((raw - self.centre) / self.spread).astype(np.float32)


class DatasetEmbedding:
    """The embedding of a dataset, fitted once on at most MAX_FITTED of its images, with a cache of its features."""

    def __init__(self, images: NDArray[np.generic], extents: Ints | None = None) -> None:
        """extents: of images of unequal size, see `Cases`."""
        some = np.sort(stream(0, "embedding").permutation(len(images))[:MAX_FITTED])
        self.images, self.extents = images, extents
        self.embedding = Embedding.fit(self._read(some))
        self._cache = np.full((len(images), len(self.embedding.centre)), np.nan, np.float32)

    def of_rows(self, rows: Ints) -> Features:
        """Features (n, d) of these images of the dataset, without a scanner; each image is read once."""
        new = np.unique(rows[np.isnan(self._cache[rows, 0])])
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            self._cache[part] = self.embedding(self._read(part))
        return self._cache[rows]

    def _read(self, rows: Ints) -> Images:
        """These images, without the padding of those of unequal size."""
        return cut_outs(np.asarray(self.images[rows]), None if self.extents is None else self.extents[rows])

    def of_images(self, images: Images) -> Features:
        """Features (n, d) of any images of the same shape, or of a list of images of unequal size."""
        return self.embedding(images)


_embeddings: WeakKeyDictionary[Cases, DatasetEmbedding] = WeakKeyDictionary()


def dataset_embedding(cases: Cases) -> DatasetEmbedding:
    """Return the embedding of these cases, fitted on first use and kept as long as the cases."""
    if cases not in _embeddings:
        _embeddings[cases] = DatasetEmbedding(cases.images, cases.extents)
    return _embeddings[cases]


def _in_chunks(describe: Callable[[NDArray[np.generic]], Features], images: Images) -> Features:
    """Describe images in chunks, so that floats of all of them need not fit in memory; of unequal size one by one."""
    if isinstance(images, list):
        return np.concatenate([describe(image[None]) for image in images])
    return np.concatenate([describe(images[i : i + CHUNK]) for i in range(0, max(1, len(images)), CHUNK)])


def _unit_range(images: NDArray[np.generic]) -> Features:
    """Convert images to float in [0, 1]."""
    return images.astype(np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)


def _intensity_features(images: NDArray[np.generic]) -> Features:
    """Return quantiles and root mean squared differences along each axis, (n, channels * (5 + dimensions)).

    An axis of length one has no differences: 0.
    """
    x = _unit_range(images)
    flat = np.sort(images.reshape(*x.shape[:2], -1), axis=-1, kind="stable")  # uint8: radix sort
    at = np.rint(np.array(QUANTILES) * (flat.shape[-1] - 1)).astype(int)
    space = tuple(range(2, x.ndim))
    steps = [np.sqrt((np.diff(x, axis=axis) ** 2).mean(axis=space)) for axis in space if x.shape[axis] > 1]
    steps += [np.zeros(x.shape[:2], np.float32)] * (len(space) - len(steps))
    return np.hstack([_unit_range(flat[..., at]).reshape(len(x), -1), *steps])


def _small_copy(images: NDArray[np.generic]) -> Features:
    """Return averages over 14 x 14 or 7 x 7 x 7 parts, flattened, (n, channels * parts)."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

    x = torch.from_numpy(_unit_range(images))
    pooled = adaptive_avg_pool2d(x, 14) if x.ndim == 4 else adaptive_avg_pool3d(x, 7)
    return pooled.flatten(1).numpy()
