"""Resampling to a size or a spacing: images by a triangle that averages what it skips, masks by the nearest voxel.

Image and mask share one grid, centred on the middle of the image, so that a mask stays where its structure is.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.importing.settings import Settings


@dataclass(frozen=True)
class Axis:
    """One axis of a grid: `inside` positions in input voxels, and where they are in an edge of `size` voxels."""

    inside: NDArray[np.float64]
    step: float
    start: int
    size: int


def axes(shape: tuple[int, ...], spacing: tuple[float, ...] | None, chosen: Settings, name: str) -> list[Axis]:
    """The grid of an image of this shape, one Axis for each.

    Raises ValueError if the choices do not fit the image: a size for another number of axes, or no spacing in mm.
    """
    size = _each(chosen.size, len(shape), "size", name)
    wanted = _each(chosen.spacing, len(shape), "spacing", name)
    if wanted is not None:
        if spacing is None:
            raise ValueError(f"{name} states no spacing in mm: give a size in pixels instead of a spacing")
        steps = [want / have for want, have in zip(wanted, spacing, strict=True)]
    elif chosen.own_size:
        steps = [1.0] * len(shape)
    else:
        steps = _scaled(shape, spacing or (1.0,) * len(shape), size or shape, chosen.fit)
    counts = [max(1, round(edge / step)) for edge, step in zip(shape, steps, strict=True)]
    if wanted is None and size is not None and chosen.fit == "stretch":
        counts = list(size)
    return [
        _axis(edge, step, count, size[place] if size is not None else count)
        for place, (edge, step, count) in enumerate(zip(shape, steps, counts, strict=True))
    ]


def image(values: NDArray[Any], grid: list[Axis]) -> NDArray[np.float32]:
    """Values (..., axes of the grid) on the grid, 0 where it reaches beyond the image."""
    found = values.astype(np.float32, copy=False)
    for place, axis in enumerate(grid, start=values.ndim - len(grid)):
        edge = found.shape[place]
        if not (axis.step == 1 and len(axis.inside) == edge):
            found = _along(found, _weights(axis.inside.tobytes(), axis.step, edge), place)
    return _placed(found, grid)


def mask(values: NDArray[np.uint8], grid: list[Axis]) -> NDArray[np.uint8]:
    """The nearest value for each voxel of the grid, 0 where it reaches beyond the image."""
    found = values
    for place, axis in enumerate(grid):
        edge = found.shape[place]
        nearest = np.clip(np.floor(axis.inside + 0.5), 0, edge - 1).astype(np.int64)
        found = np.take(found, nearest, axis=place)
    return _placed(found, grid)


def centred(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Values in the middle of a larger array of zeros."""
    framed = np.zeros(shape, values.dtype)
    starts = [(wide - edge) // 2 for wide, edge in zip(shape, values.shape, strict=True)]
    framed[tuple(slice(start, start + edge) for start, edge in zip(starts, values.shape, strict=True))] = values
    return framed


def cornered(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Values at the beginning of a larger array of zeros."""
    framed = np.zeros(shape, values.dtype)
    framed[tuple(map(slice, values.shape))] = values
    return framed


def _scaled(shape: tuple[int, ...], spacing: tuple[float, ...], size: tuple[int, ...], fit: str) -> list[float]:
    """Input voxels for each output voxel, the same length in mm along all axes unless stretched."""
    if fit == "stretch":
        return [edge / wanted for edge, wanted in zip(shape, size, strict=True)]
    lengths = [edge * each / wanted for edge, each, wanted in zip(shape, spacing, size, strict=True)]
    length = max(lengths) if fit == "pad" else min(lengths)
    return [length / each for each in spacing]


def _axis(edge: int, step: float, count: int, size: int) -> Axis:
    """`count` voxels around the middle of an edge, cut or framed to `size`; those of a step of 1 are input voxels."""
    count = size if step != 1 and count > size else count
    cut = max(count - size, 0) // 2
    kept = np.arange(cut, cut + min(count, size))
    inside = ((kept + 0.5 - count / 2) * step + edge / 2 - 0.5).astype(np.float64)
    return Axis(inside, step, max(size - count, 0) // 2, size)


@lru_cache(maxsize=32)
def _weights(inside: bytes, step: float, edge: int) -> NDArray[np.float32]:
    """Weights (output, input) of a triangle as wide as a step, or as a voxel where that is wider.

    Kept for the next image: most have the shape of the one before.
    """
    apart = np.abs(np.arange(edge) - np.clip(np.frombuffer(inside), 0, edge - 1)[:, None])
    weights = np.clip(1 - apart / max(step, 1.0), 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _along(values: NDArray[np.float32], weights: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    """Weights (output, input) applied to one axis; the values are not brought into another order in memory first."""
    front = np.moveaxis(values, place, 0)
    shape = (len(weights), *front.shape[1:])
    if front.flags.f_contiguous:
        flat = front.reshape(len(front), -1, order="F")
        found = (flat.T @ weights.T).T.reshape(shape, order="F")
    else:
        found = (weights @ front.reshape(len(front), -1)).reshape(shape)
    return np.moveaxis(found, 0, place)


def _placed(values: NDArray[Any], grid: list[Axis]) -> NDArray[Any]:
    """The values at their place in the frame of the grid."""
    lead = values.shape[: values.ndim - len(grid)]
    if all(axis.size == len(axis.inside) for axis in grid):
        return values
    framed = np.zeros((*lead, *(axis.size for axis in grid)), values.dtype)
    everything = [slice(None)] * len(lead)
    framed[(*everything, *(slice(axis.start, axis.start + len(axis.inside)) for axis in grid))] = values
    return framed


def _each(values: tuple[Any, ...] | None, count: int, what: str, name: str) -> tuple[Any, ...] | None:
    """One value for each axis."""
    if values is None or len(values) == count:
        return values
    if len(values) == 1:
        return values * count
    kind = "picture" if count == 2 else "volume"
    raise ValueError(f"{name} is a {kind} with {count} axes: wanted a {what} of {count} numbers, found {len(values)}")
