"""Borders of segmentation masks: structures grow or shrink by a share of their own thickness.

Thickness is twice the area over the length of the border (in volumes, over the surface): the width of a long strip, the
radius of a disc. Moving a border by the share s of the thickness changes the area by the share 2 s, whatever the shape
and the size of the image, so that thin vessels and large organs are affected likewise.
"""

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Bools, Floats, Ints
from fedlab.data.structures import region

Masks = NDArray[np.uint8]

LARGEST = 0.5  # of the thickness: shrinking by more would leave nothing
STEADY = 1 / 32  # of the extent of an image, over which a reader's hand errs in the same way


def move_borders(mask: Masks, share: float, rng: np.random.Generator) -> Masks:
    """Move the border of every structure outwards (share > 0) or inwards by a share of its thickness.

    The area changes by the share ``2 share`` in every part of a structure of about equal thickness, rounded at random,
    where there is room. Pixels nearest the border change first, of equally near ones those where a smooth random field
    is low: borders move by fractions of a pixel on average. Where structures touch, the one of higher value wins.

    mask: (height, width[, depth]), 0 for background.
    """
    return _moved(mask, share, _smooth_field(mask.shape, rng), rng)


def move_overlapping_borders(mask: Masks, share: float, rng: np.random.Generator) -> Masks:
    """Move the borders of structures that may overlap, each as if it were alone, by the same errors of the hand.

    A structure that lies inside another one stays inside it.

    mask: (height, width[, depth]), one bit for each structure.
    """
    hand, bits = _smooth_field(mask.shape, rng), range(int(mask.max(initial=0)).bit_length())
    own = [region(mask, bit + 1, True) for bit in bits]
    moved = [_moved(each.astype(np.uint8), share, hand, rng) > 0 for each in own]
    drawn = np.zeros_like(mask)
    for bit in bits:
        around = [moved[other] for other in bits if not (own[bit] & ~own[other]).any()]
        drawn |= np.logical_and.reduce(around).astype(np.uint8) << np.uint8(bit)
    return drawn


def _moved(mask: Masks, share: float, hand: Floats, rng: np.random.Generator) -> Masks:
    """Return the mask with moved borders; hand: where they move less, (height, width[, depth])."""
    drawn = mask.copy()
    for value in np.unique(mask[mask > 0]):
        box = _box(mask == value)
        change, to = _changes(mask[box], int(value), share, hand[box], rng.random())
        drawn[box][change] = to
    return drawn


def _changes(mask: Masks, value: int, share: float, hand: Floats, spare: float) -> tuple[Bools, NDArray[np.uint8]]:
    """Return which pixels change and their new values, for one structure in its part of the mask."""
    from scipy.ndimage import distance_transform_edt

    own, below = mask == value, mask < value
    if not below.any():  # the structure fills its part of the image, so that it has no border
        return np.zeros(mask.shape, bool), mask[:0].ravel()
    depth, part = _parts(own)
    far, nearest = distance_transform_edt(~(own if share > 0 else below), return_indices=True)
    near = mask[tuple(nearest)]
    if share > 0:
        free, part, near = below & (far <= depth.max() + 1), part[tuple(nearest)], np.full_like(mask, value)
    else:
        free = own
    wanted = np.cumsum(2 * abs(share) * np.bincount(part[own]))  # whole numbers of pixels, exact in total
    count = np.diff(np.floor(wanted + spare), prepend=0)
    change = np.zeros(mask.shape, bool)
    change[free] = _first(part[free], (far + hand)[free], count)
    return change, near[change]


def _parts(own: Bools) -> tuple[Floats, Ints]:
    """Return the depth of each pixel of a structure, and the part it belongs to: connected and about equally thick.

    The thickness at a pixel is the depth of the nearest pixel on the ridge, where the depth is largest; parts differ
    by a factor of the square root of two.
    """
    from scipy.ndimage import distance_transform_edt, label, maximum_filter

    depth = distance_transform_edt(own)
    ridge = own & (depth >= maximum_filter(depth, size=3))
    nearest = distance_transform_edt(~ridge, return_distances=False, return_indices=True)
    thick = np.rint(2 * np.log2(np.maximum(depth[tuple(nearest)], 1))).astype(np.int64)
    connected, _ = label(own, structure=np.ones((3,) * own.ndim))
    part = np.zeros(own.shape, np.int64)
    pair = connected.astype(np.int64) * (int(thick.max()) + 1) + thick
    part[own] = np.unique(pair[own], return_inverse=True)[1].reshape(-1)
    return depth, part


def _first(part: Ints, key: Floats, count: Floats) -> Bools:
    """Tell which pixels (n,) are among the first `count` (parts,) of their part, by ascending key."""
    order = np.lexsort((key, part))
    size = np.bincount(part, minlength=len(count))
    rank = np.arange(len(part)) - np.repeat(np.cumsum(size) - size, size)
    found = np.zeros(len(part), bool)
    found[order] = rank < np.repeat(count, size)
    return found


def _smooth_field(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Return a smooth random field of this shape, uniform in [0, 1)."""
    from scipy.ndimage import gaussian_filter

    rough = gaussian_filter(rng.standard_normal(shape), STEADY * max(shape), mode="wrap")
    field = np.empty(rough.size)
    field[np.argsort(rough, axis=None, kind="stable")] = np.arange(rough.size) / rough.size
    return field.reshape(shape)


def _box(own: Bools) -> tuple[slice, ...]:
    """Return the part of the mask that holds a structure and all pixels to which it can grow."""
    places = [np.flatnonzero(own.any(axis=tuple(a for a in range(own.ndim) if a != axis))) for axis in range(own.ndim)]
    margin = 2 + min(int(place[-1] - place[0]) + 1 for place in places)
    return tuple(slice(max(0, int(place[0]) - margin), int(place[-1]) + margin + 1) for place in places)
