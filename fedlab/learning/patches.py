"""Patches of images that are too large to train on or to predict at once: random crops, and a sliding window.

A crop is drawn by seed, site, step and case, so that it does not depend on the other cases of a batch, nor on how sites
are trained. A sliding window predicts overlapping patches and averages their probabilities, patches counting most in
their middle, as MONAI's `sliding_window_inference` with `mode="gaussian"` does.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.rng import stream
from fedlab.core.typing import Ints

RngKey = tuple[int, str, int]  # seed, site, step
Box = tuple[Any, ...]  # index of a patch in an image: all channels, then a slice for each axis
SIGMA = 0.125  # of the weights of a window, as a share of its edges
LEAST = 1e-3  # of these weights


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
    space = masks.shape[1:]
    if len(window) != len(space) or not all(0 < edge <= whole for edge, whole in zip(window, space, strict=True)):
        raise ValueError(
            f"a crop of {_sizes(window)} does not fit into images of {_sizes(space)}: choose a smaller one"
        )
    room = np.array(space) - np.array(window)
    found = np.empty((len(masks), len(space)), np.int64)
    for row, (mask, case) in enumerate(zip(masks, cases, strict=True)):
        rng = stream(key[0], "crop", *key[1:], int(case))
        found[row] = rng.integers(0, room + 1)
        if rng.random() < foreground and mask.any():
            voxels = np.argwhere(mask == rng.choice(np.unique(mask[mask > 0])))
            found[row] = np.clip(voxels[rng.integers(len(voxels))] - np.array(window) // 2, 0, room)
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
    padded = F.pad(images, [size for pair in zip(before[::-1], after[::-1], strict=True) for size in pair])
    boxes = _boxes(padded.shape[2:], window, overlap)
    weights = _weights(window, images.device, images.dtype)
    total = padded.new_zeros(1, 1, *padded.shape[2:])
    for box in boxes:
        total[box] += weights
    result = _added(predict, padded, boxes, weights, batch) / total
    inner: Box = (..., *(slice(start, start + edge) for start, edge in zip(before, images.shape[2:], strict=True)))
    return result[inner]


def _added(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    boxes: list[Box],
    weights: Tensor,
    batch: int,
) -> Tensor:
    """The weighted sum over patches of their probabilities."""
    every = list(itertools.product(range(len(images)), boxes))
    result: Tensor | None = None
    for start in range(0, len(every), batch):
        chosen = every[start : start + batch]
        found = predict(torch.stack([images[k][box] for k, box in chosen]))
        if result is None:
            result = found.new_zeros(len(images), found.shape[1], *images.shape[2:])
        for (k, box), one in zip(chosen, found, strict=True):
            result[k][box] += one * weights
    assert result is not None
    return result


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


def _sizes(edges: Sequence[int]) -> str:
    return " x ".join(map(str, edges))
