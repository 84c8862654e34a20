"""Images of unequal size, and the same images in a larger array with noise beyond them."""

from typing import Any

import numpy as np
from worlds import masked_cases

from fedlab.data.cases import Cases

LEAST = 5  # voxels along the shortest axis


def unequal(
    n: int = 24, shape: tuple[int, ...] = (1, 14, 12), structures: int = 3, seed: int = 0, **columns: Any
) -> Cases:
    """Random images with blocks, each of its own size, and nothing but 0 beyond it."""
    rng, whole = np.random.default_rng(seed), masked_cases(n, shape, structures, seed, **columns)
    extents = np.stack([rng.integers(LEAST, edge + 1, n) for edge in shape[1:]], axis=1)
    extents[0] = shape[1:]
    images, masks = np.zeros_like(whole.images), np.zeros_like(whole.masks)
    for case, extent in enumerate(extents):
        at = (case, ..., *map(slice, extent))
        images[at], masks[at] = whole.images[at], whole.masks[at]
    return Cases(images, whole.table, whole.card, masks, extents)


def padded(cases: Cases, more: int = 3, seed: int = 1) -> Cases:
    """The same cases in a larger array, with noise beyond their extents."""
    rng, shape = np.random.default_rng(seed), tuple(edge + more for edge in cases.shape[1:])
    images = rng.integers(0, 256, (len(cases), cases.shape[0], *shape), np.uint8)
    masks = rng.integers(0, 256, (len(cases), *shape), np.uint8)
    for case, extent in enumerate(cases.extents):
        at = (..., *map(slice, extent))
        images[case][at], masks[case][at] = cases.image(case), cases.mask(case)
    return Cases(images, cases.table, cases.card, masks, cases.extents)
