"""Images of unequal size in one array: each begins at the first voxel and has an extent; what is beyond is padding.

An extent is a row of whole numbers, the voxels of a case along each axis, (height, width[, depth]). Padding may hold
anything, since nothing reads it: images and masks are cut to their extent first. Cut-outs are copied into memory of
their own, because sums over a view of a larger array may be rounded in another order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.typing import Ints

Array = NDArray[Any]


def check_extents(extents: Any, images: Array, table: pd.DataFrame) -> None:
    """Refuse extents that are not a row of whole numbers for each case, from 1 to the edges of the array."""
    if not isinstance(extents, np.ndarray) or extents.dtype.kind not in "iu":
        found = extents.dtype if isinstance(extents, np.ndarray) else type(extents).__name__
        raise ValueError(
            f"extents are {found}: give an array of whole numbers, the voxels of each case along each axis"
        )
    space = images.shape[2:]
    if extents.shape != (len(table), len(space)):
        raise ValueError(
            f"extents have shape {extents.shape}: wanted {(len(table), len(space))}, the voxels of each case along each"
            f" of {len(space)} axes"
        )
    wrong = np.flatnonzero(((extents < 1) | (extents > np.array(space))).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"case {table['case'].iloc[wrong[0]]!r} has the extent {sizes(extents[wrong[0]])} in an array of"
            f" {sizes(space)}: give from 1 to as many voxels as the array has along each axis"
        )


def trimmed(images: Array, masks: Array | None, extents: Ints) -> tuple[Array, Array | None, Ints | None]:
    """Images and masks without the padding that all share; no extents if none is left."""
    largest = extents.max(axis=0)
    if not np.array_equal(largest, images.shape[2:]):
        images, masks = cut(images, largest), None if masks is None else cut(masks, largest)
    return images, masks, None if (extents == largest).all() else extents.astype(np.int64)


def cut(array: Array, extent: Sequence[int] | Ints) -> Array:
    """The view of an array (..., *space) within an extent."""
    index: Any = (..., *(slice(int(edge)) for edge in extent))
    return array[index]


def cut_out(array: Array, extent: Ints | None) -> Array:
    """An image or mask (..., *space) within its extent, in memory of its own; all of it without an extent."""
    return np.asarray(array) if extent is None else np.ascontiguousarray(cut(array, extent))


def cut_outs(arrays: Array, extents: Ints | None) -> Array | list[Array]:
    """Images (n, ...) as they are without extents, else each within its own."""
    return arrays if extents is None else [cut_out(one, extent) for one, extent in zip(arrays, extents, strict=True)]


def groups(extents: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Positions of the cases of each extent, and that extent."""
    kinds, group = np.unique(extents, axis=0, return_inverse=True)
    for number, extent in enumerate(kinds):
        yield np.flatnonzero(group.reshape(-1) == number), extent


def within(call: Callable[[Array, Ints], Array], arrays: Array, extents: Ints | None) -> Array:
    """call(arrays, positions) of all arrays (n, ...); with extents of those of each extent, with padding of 0."""
    if extents is None:
        return call(arrays, np.arange(len(arrays)))
    found = np.zeros(arrays.shape, arrays.dtype)
    for place, extent in groups(extents):
        index: Any = (place, ..., *map(slice, extent.tolist()))
        found[index] = call(cut_out(arrays[place], extent), place)
    return found


def framed(arrays: Array, extents: Ints | None) -> Array:
    """Arrays (n, ..., *space) with each case in the middle, and 0 around it; as they are without extents."""
    if extents is None:
        return np.asarray(arrays)
    found = np.zeros(arrays.shape, arrays.dtype)
    space = np.array(arrays.shape[-extents.shape[1] :])
    for own, one, extent in zip(found, arrays, extents, strict=True):
        first = (space - extent) // 2
        index: Any = (..., *map(slice, first.tolist(), (first + extent).tolist()))
        own[index] = cut(one, extent)
    return found


def sizes(edges: Sequence[int] | Ints) -> str:
    """`512 x 512 x 90`"""
    return " x ".join(str(int(edge)) for edge in edges)


def size_of(cases: Any) -> str:
    """The size of the images of `Cases`: `64 x 64`, or `40 x 52 to 64 x 60` of unequal images, axis by axis."""
    if cases.extents is None:
        return sizes(cases.shape[1:])
    return f"{sizes(cases.extents.min(axis=0))} to {sizes(cases.shape[1:])}"
