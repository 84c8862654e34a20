"""Patches of images that are too large to train on or to predict at once: random crops, and a sliding window.

A crop is drawn by seed, site, step and case, so that it does not depend on the other cases of a batch, nor on how sites
are trained. A sliding window predicts overlapping patches and averages their probabilities, patches counting most in
their middle, as MONAI's `sliding_window_inference` with `mode="gaussian"` does.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.arguments import Fraction, Share, Whole
from fedlab.core.registry import Registry
from fedlab.core.rng import stream
from fedlab.core.typing import Ints
from fedlab.data.cases import Cases
from fedlab.data.extents import size_of

CROPS = Registry("crop")
RngKey = tuple[int, str, int]  # seed, site, step
Box = tuple[Any, ...]  # index of a patch in an image: all channels, then a slice for each axis
SIGMA = 0.125  # of the weights of a window, as a share of its edges
LEAST = 1e-3  # of these weights
USUAL = 128  # longest edge of a crop that is suggested
MOST_VOXELS = 10_000  # of a structure in a case that crops may be centred on, as in nnU-Net


@dataclass(frozen=True)
class Crop:
    """Crops that a model trains on, and windows that it predicts, as `Experiment.crop` states them.

    edges: of a crop, in voxels. foreground: share of crops that are centred on a structure. overlap: share of an edge
    by which neighbouring windows of a prediction overlap.
    """

    edges: tuple[int, ...]
    foreground: float = 0.5
    overlap: float = 0.5


@CROPS.add
def random(size: Whole | list[Whole], foreground: Share = 0.5, overlap: Fraction = 0.5) -> Crop:
    """Crops at random positions, a share of them centred on a structure.

    Parameters
    ----------
    size : int or tuple of int
        Edges of a crop in voxels: one number for all axes, or one for each.
    foreground : float, default 0.5
        Share of crops that are centred on a structure of the mask, 0 to 1. Without masks crops are anywhere.
    overlap : float, default 0.5
        Share of an edge by which neighbouring windows of a prediction overlap, from 0 to below 1.

    Returns
    -------
    Crop

    Examples
    --------
    >>> from fedlab.learning.patches import random
    >>> random((64, 64, 32), foreground=0.3)
    Crop(edges=(64, 64, 32), foreground=0.3, overlap=0.5)
    """
    return Crop((size,) if isinstance(size, int) else tuple(size), foreground, overlap)


def check(text: str) -> None:
    """Refuse a text that states no crop; ValueError."""
    if text.strip() != "none":
        _stated(text)


def _stated(text: str) -> Crop:
    """The crop that a text states, for images of any size."""
    function, values, named = CROPS.parse(text)
    found = function(*values, **named)
    if not isinstance(found, Crop) or not all(isinstance(edge, int) and edge > 0 for edge in found.edges):
        raise ValueError(
            f"crop={text!r} gives {found!r}: return a fedlab.learning.patches.Crop, whose edges are whole numbers"
        )
    return found


def check_sizes(cases: Cases, text: str) -> None:
    """Refuse to train on whole images of unequal size; ValueError that names the sizes and the remedies."""
    if cases.extents is not None and text.strip() == "none":
        edges = [min(2 ** (edge.bit_length() - 1), USUAL) for edge in cases.extents.min(axis=0).tolist()]
        raise ValueError(
            f"the images of {cases.name} have unequal sizes, {size_of(cases)}, and crop='none' trains on whole images,"
            f" which must have one: train on crops, such as crop='random({tuple(edges)})', or import the images with a"
            " size in pixels or voxels (--size)"
        )


def crop_of(text: str, space: Sequence[int], unequal: bool = False) -> Crop | None:
    """The crop that a text states for images of this size; None for "none" and for crops of the whole image.

    unequal: whether this is the largest size of several, so that a crop of it is not the whole of all images. Raises
    ValueError if the crop does not fit into the images.
    """
    if text.strip() == "none":
        return None
    found = _stated(text)
    edges = found.edges * len(space) if len(found.edges) == 1 else found.edges
    _check_fit(edges, space)
    return None if edges == tuple(space) and not unequal else Crop(edges, found.foreground, found.overlap)


def input_shape(shape: Sequence[int], text: str) -> tuple[int, ...]:
    """The shape (channels, height, width[, depth]) of what a model trains on: of a crop, or of the image.

    Examples
    --------
    >>> from fedlab.learning.patches import input_shape
    >>> input_shape((1, 96, 96, 40), "random((64, 64, 32))")
    (1, 64, 64, 32)
    >>> input_shape((1, 96, 96, 40), "none")
    (1, 96, 96, 40)
    """
    found = crop_of(text, shape[1:])
    return tuple(shape) if found is None else (shape[0], *found.edges)


def structure_voxels(mask: NDArray[np.uint8], case: int) -> list[Ints]:
    """The voxels of each structure of a mask, as positions in the flattened mask.

    Of a structure with more than MOST_VOXELS voxels, so many of them, drawn by the number of the case.
    """
    flat, found = mask.reshape(-1), []
    inside = np.flatnonzero(flat)
    for structure in np.unique(flat[inside]):
        voxels = inside[flat[inside] == structure]
        if len(voxels) > MOST_VOXELS:
            rng = stream(0, "voxels of a structure", case, int(structure))
            voxels = voxels[rng.choice(len(voxels), MOST_VOXELS, replace=False)]
        found.append(voxels)
    return found


def crop_starts(
    masks: NDArray[np.uint8], window: Sequence[int], key: RngKey, cases: Sequence[int], foreground: float = 0.5
) -> Ints:
    """Draw where the crops of a batch begin.

    A share of the crops is centred on a voxel of a structure, as far as the image allows: every structure of the mask
    is equally likely, and so is every voxel of it. The other crops, and those of an empty mask, are anywhere.

    Parameters
    ----------
    masks : ndarray of uint8, shape (b, height, width[, depth])
        Masks of the cases, 0 for the background.
    window : sequence of int
        Edges of a crop, at most those of the image.
    key : tuple
        Seed, site and step.
    cases : sequence of int
        Number of each case, by which its crop is drawn.
    foreground : float, default 0.5
        Share of crops that are centred on a structure, 0 to 1.

    Returns
    -------
    ndarray of int64, shape (b, d)
        First voxel of each crop.

    Raises
    ------
    ValueError
        If the window does not fit into the images.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.learning.patches import crop_starts
    >>> masks = np.zeros((2, 32, 32), np.uint8)
    >>> masks[:, 28:, 0] = 1
    >>> crop_starts(masks, (8, 8), key=(0, "Site A", 1), cases=[5, 9], foreground=1.0)
    array([[24,  0],
           [24,  0]])
    """
    voxels = [structure_voxels(mask, int(case)) for mask, case in zip(masks, cases, strict=True)]
    return starts_of(voxels, masks.shape[1:], window, key, cases, foreground)


def starts_of(
    voxels: Sequence[Sequence[Ints]],
    space: Sequence[int] | Ints,
    window: Sequence[int],
    key: RngKey,
    cases: Sequence[int] | Ints,
    foreground: float,
) -> Ints:
    """As `crop_starts`, from the voxels of each case's structures, see `structure_voxels`.

    space: of all images, or (b, d), the extent of each. Where an axis is shorter than a crop, the crop begins at 0.
    """
    spaces = np.asarray(space)
    if spaces.ndim == 1:
        _check_fit(window, spaces.tolist())
    spaces, half = np.broadcast_to(spaces, (len(voxels), len(window))), np.array(window) // 2
    rooms = np.maximum(spaces - np.array(window), 0)
    found = np.empty(spaces.shape, np.int64)
    for row, (structures, case, extent, room) in enumerate(zip(voxels, cases, spaces, rooms, strict=True)):
        rng = stream(key[0], "crop", *key[1:], int(case))
        found[row] = rng.integers(0, room + 1)
        if rng.random() < foreground and structures:
            inside = structures[int(rng.integers(len(structures)))]
            centre = np.array(np.unravel_index(inside[rng.integers(len(inside))], tuple(extent.tolist())))
            found[row] = np.clip(centre - half, 0, room)
    return found


def crop(images: Tensor, starts: Ints, window: Sequence[int]) -> Tensor:
    """Cut a crop out of each image or mask.

    Parameters
    ----------
    images : Tensor of shape (b, ..., height, width[, depth])
        Images, or masks.
    starts : ndarray of int, shape (b, d)
        First voxel of each crop.
    window : sequence of int
        Edges of a crop.

    Returns
    -------
    Tensor of shape (b, ..., *window)
        The crops.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from fedlab.learning.patches import crop
    >>> crop(torch.arange(16).view(1, 4, 4), np.array([[1, 2]]), (2, 2))
    tensor([[[ 6,  7],
             [10, 11]]])
    """
    ends = np.asarray(starts) + np.asarray(window)
    boxes = [tuple(map(slice, first, last)) for first, last in zip(starts.tolist(), ends.tolist(), strict=True)]
    return torch.stack([image[(..., *box)] for image, box in zip(images, boxes, strict=True)])


def sliding_window(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    window: Sequence[int],
    overlap: float = 0.5,
    batch: int = 4,
) -> Tensor:
    """Predict images patch by patch; probabilities of overlapping patches are averaged with Gaussian weights.

    Parameters
    ----------
    predict : callable
        Probabilities (n, outputs, *window) of patches (n, channels, *window).
    images : Tensor of shape (b, channels, height, width[, depth])
        Images; where the window is larger, they are padded with zeros.
    window : sequence of int
        Edges of a patch. If it covers the image, the result is that of `predict`.
    overlap : float, default 0.5
        Share of an edge by which neighbouring patches overlap, from 0 to below 1.
    batch : int, default 4
        Patches that are predicted at a time.

    Returns
    -------
    Tensor of shape (b, outputs, height, width[, depth])
        Averaged probabilities.

    Raises
    ------
    ValueError
        If window or overlap are impossible.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.patches import sliding_window
    >>> images = torch.rand(1, 1, 20, 30)
    >>> found = sliding_window(torch.sigmoid, images, window=(8, 8))
    >>> torch.allclose(found, torch.sigmoid(images))  # voxel by voxel, patches make no difference
    True
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap}: give a share of an edge from 0 to below 1")
    if len(window) != images.ndim - 2 or min(window) < 1:
        raise ValueError(
            f"a window of {_sizes(window)} for images of {_sizes(images.shape[2:])}: give one size an axis"
        )
    before = [max(0, edge - whole) // 2 for edge, whole in zip(window, images.shape[2:], strict=True)]
    after = [max(0, e - w) - b for e, w, b in zip(window, images.shape[2:], before, strict=True)]
    if tuple(window) == tuple(images.shape[2:]):
        return predict(images)
    padded = F.pad(images, [size for pair in zip(before[::-1], after[::-1], strict=True) for size in pair])
    boxes = _boxes(padded.shape[2:], window, overlap)
    weights = _weights(window, images.device, images.dtype)
    total, result = padded.new_zeros(1, 1, *padded.shape[2:]), None
    for box, found in zip(boxes, _patch_by_patch(predict, padded, boxes, batch), strict=True):
        if result is None:
            result = found.new_zeros(*found.shape[:2], *padded.shape[2:])
        result[box] += found * weights
        total[box] += weights
    assert result is not None
    inner: Box = (..., *(slice(start, start + edge) for start, edge in zip(before, images.shape[2:], strict=True)))
    return result[inner] / total[inner]


def window_mean(
    predict: Callable[[Tensor], Tensor], images: Tensor, window: Sequence[int], overlap: float = 0.5, batch: int = 4
) -> Tensor:
    """Mean over the windows of an image of what is computed of each, such as probabilities of classes.

    Parameters
    ----------
    predict : callable
        Numbers (n, outputs) of patches (n, channels, *window).
    images : Tensor of shape (b, channels, height, width[, depth])
        Images, at least as large as the window.
    window : sequence of int
        Edges of a patch. If it covers the image, the result is that of `predict`.
    overlap : float, default 0.5
        Share of an edge by which neighbouring patches overlap, from 0 to below 1.
    batch : int, default 4
        Patches that are predicted at a time.

    Returns
    -------
    Tensor of shape (b, outputs)
        The means.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.patches import window_mean
    >>> window_mean(lambda patches: patches.flatten(2).mean(2), torch.ones(1, 3, 8, 12), (4, 4))
    tensor([[1., 1., 1.]])
    """
    boxes = _boxes(images.shape[2:], window, overlap)
    if len(boxes) == 1:
        return predict(images)
    return torch.stack(list(_patch_by_patch(predict, images, boxes, batch))).mean(0)


def _patch_by_patch(
    predict: Callable[[Tensor], Tensor], images: Tensor, boxes: list[Box], batch: int
) -> Iterator[Tensor]:
    """What is predicted of one patch of all images after another; about `batch` patches at a time."""
    count = max(1, batch // len(images))
    for start in range(0, len(boxes), count):
        chosen = boxes[start : start + count]
        yield from predict(torch.cat([images[box] for box in chosen])).unflatten(0, (len(chosen), len(images)))


def _boxes(space: Sequence[int], window: Sequence[int], overlap: float) -> list[Box]:
    """Where patches are: they begin at equal distances, the last one ends with the image."""
    starts = []
    for whole, edge in zip(space, window, strict=True):
        step = max(1, int(edge * (1 - overlap)))
        count = 1 + math.ceil((whole - edge) / step)
        starts.append([min(k * step, whole - edge) for k in range(count)])
    return [(..., *(slice(s, s + e) for s, e in zip(each, window, strict=True))) for each in itertools.product(*starts)]


def _weights(window: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weights of a patch's voxels: a Gaussian around its middle, at least LEAST."""
    weights = torch.ones((), device=device)
    for edge in window:
        x = torch.arange(edge, dtype=torch.float32, device=device) - (edge - 1) / 2
        weights = weights.unsqueeze(-1) * torch.exp(-(x**2) / (2 * (SIGMA * edge) ** 2))
    return weights.clamp(min=LEAST).to(dtype)


def _check_fit(window: Sequence[int], space: Sequence[int]) -> None:
    """Refuse a crop that does not fit into the images."""
    if len(window) != len(space) or not all(0 < edge <= whole for edge, whole in zip(window, space, strict=True)):
        raise ValueError(
            f"a crop of {_sizes(window)} does not fit into images of {_sizes(space)}: choose a smaller one, such as"
            f" {tuple(min(edge, whole) for edge, whole in zip([*window, *space][: len(space)], space, strict=True))}"
        )


def _sizes(edges: Sequence[int]) -> str:
    return " x ".join(map(str, edges))
