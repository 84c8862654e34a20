"""Random changes of training images, drawn for every image and step: "flip", "rotate(10) + shift(0.05)".

An augmentation is `f(rng, count, shape, *arguments) -> Change`: the changes of `count` images of this height, width[,
depth]. Numbers are drawn on the CPU from a generator named by seed, site and step, so that every execution mode sees
the same images; a whole batch is then changed at once on its device.
"""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.arguments import Bounds, NotNegative, Share
from fedlab.core.memory import to_device
from fedlab.core.registry import Registry
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints

AUGMENTATIONS = Registry("augmentation")
Shape = tuple[int, ...]
Degrees = Annotated[float, Bounds(0, 180)]
RngKey = tuple[int, str, int]  # seed, site, step


@dataclass(frozen=True)
class Change:
    """Changes of images (count, channels, *shape); None means no change.

    flips: bool (count, d), axes along which an image is mirrored. matrix: (count, d, d + 1), from positions in the new
    image to positions in the old one, the last axis first, in units of half its extent, 0 in the middle. gain, offset:
    (count,), values are multiplied by gain, then offset is added. noise, noise_seed: (count,), the standard deviation
    of Gaussian noise that is added last, and the whole number from which it is computed.
    """

    flips: NDArray[np.bool_] | None = None
    matrix: Floats | None = None
    gain: Floats | None = None
    offset: Floats | None = None
    noise: Floats | None = None
    noise_seed: Ints | None = None


@AUGMENTATIONS.add
def flip(rng: np.random.Generator, count: int, shape: Shape, axis: Literal[-1, -2, -3, 0, 1, 2] = -1) -> Change:
    """Mirror half of the images, along the last axis: left and right change places.

    Parameters
    ----------
    rng, count, shape : numpy.random.Generator, int, tuple of int
        Random generator, number of images and their (height, width[, depth]).
    axis : int
        Axis of the image: -1 (width), -2 or -3, or 0 (height), 1 or 2.

    Returns
    -------
    Change
        The drawn changes.

    Examples
    --------
    >>> from fedlab.core.rng import stream
    >>> from fedlab.learning.augmentation import flip
    >>> flip(stream(0, "example"), 4, (28, 28)).flips[:, -1]
    array([False, False,  True,  True])
    """
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"augment='flip(axis={axis})': images have {len(shape)} axes, choose -1 to -{len(shape)}")
    flips = np.zeros((count, len(shape)), bool)
    flips[:, axis] = rng.random(count) < 0.5
    return Change(flips=flips)


@AUGMENTATIONS.add
def shift(rng: np.random.Generator, count: int, shape: Shape, share: Share = 0.1) -> Change:
    """Shift along every axis by up to this share of its extent; the border is repeated.

    Parameters
    ----------
    rng, count, shape : numpy.random.Generator, int, tuple of int
        Random generator, number of images and their (height, width[, depth]).
    share : float
        Largest shift, 0 to 1.

    Returns
    -------
    Change
        The drawn changes.

    Examples
    --------
    >>> from fedlab.core.rng import stream
    >>> from fedlab.learning.augmentation import shift
    >>> shift(stream(0, "example"), 1, (28, 28), share=0.05).matrix.round(3)
    array([[[1.   , 0.   , 0.061],
            [0.   , 1.   , 0.083]]])
    """
    matrix = _identity(count, shape)
    matrix[:, :, -1] = 2 * share * rng.uniform(-1, 1, (count, len(shape)))
    return Change(matrix=matrix)


@AUGMENTATIONS.add
def zoom(rng: np.random.Generator, count: int, shape: Shape, share: Share = 0.1) -> Change:
    """Enlarge or shrink by up to this share, by the same factor along all axes.

    Parameters
    ----------
    rng, count, shape : numpy.random.Generator, int, tuple of int
        Random generator, number of images and their (height, width[, depth]).
    share : float
        Largest change of size, 0 to 1.

    Returns
    -------
    Change
        The drawn changes.

    Examples
    --------
    >>> from fedlab.core.rng import stream
    >>> from fedlab.learning.augmentation import zoom
    >>> zoom(stream(0, "example"), 1, (28, 28)).matrix.round(3)
    array([[[0.942, 0.   , 0.   ],
            [0.   , 0.942, 0.   ]]])
    """
    matrix = _identity(count, shape)
    matrix[:, :, :-1] /= (1 + share * rng.uniform(-1, 1, count))[:, None, None]
    return Change(matrix=matrix)


@AUGMENTATIONS.add
def rotate(rng: np.random.Generator, count: int, shape: Shape, degrees: Degrees = 10.0) -> Change:
    """Rotate by up to so many degrees; volumes around each axis.

    Parameters
    ----------
    rng, count, shape : numpy.random.Generator, int, tuple of int
        Random generator, number of images and their (height, width[, depth]).
    degrees : float
        Largest angle, 0 to 180.

    Returns
    -------
    Change
        The drawn changes.

    Examples
    --------
    >>> from fedlab.core.rng import stream
    >>> from fedlab.learning.augmentation import rotate
    >>> rotate(stream(0, "example"), 1, (28, 28)).matrix.round(3)
    array([[[ 0.994,  0.107,  0.   ],
            [-0.107,  0.994,  0.   ]]])
    """
    matrix, extent = _identity(count, shape), shape[::-1]
    for i, j in itertools.combinations(range(len(shape)), 2):
        angle = np.radians(degrees * rng.uniform(-1, 1, count))
        turn = _identity(count, shape)
        turn[:, i, i] = turn[:, j, j] = np.cos(angle)
        turn[:, i, j], turn[:, j, i] = np.sin(angle) * extent[j] / extent[i], -np.sin(angle) * extent[i] / extent[j]
        matrix = _composed_maps(matrix, turn)
    return Change(matrix=matrix)


@AUGMENTATIONS.add
def light(rng: np.random.Generator, count: int, shape: Shape, share: Share = 0.1) -> Change:
    """Change contrast by up to this share, and brightness by up to this much in units of the network's input.

    Parameters
    ----------
    rng, count, shape : numpy.random.Generator, int, tuple of int
        Random generator, number of images and their (height, width[, depth]).
    share : float
        Largest change, 0 to 1.

    Returns
    -------
    Change
        The drawn changes.

    Examples
    --------
    >>> from fedlab.core.rng import stream
    >>> from fedlab.learning.augmentation import light
    >>> change = light(stream(0, "example"), 2, (28, 28))
    >>> change.gain.round(3), change.offset.round(3)
    (array([1.061, 1.083]), array([-0.083, -0.005]))
    """
    gain, offset = share * rng.uniform(-1, 1, (2, count))
    return Change(gain=1 + gain, offset=offset)


@AUGMENTATIONS.add
def noise(rng: np.random.Generator, count: int, shape: Shape, std: NotNegative = 0.05) -> Change:
    """Add Gaussian noise with a standard deviation of up to this much, in units of the network's input.

    Parameters
    ----------
    rng, count, shape : numpy.random.Generator, int, tuple of int
        Random generator, number of images and their (height, width[, depth]).
    std : float
        Largest standard deviation, 0 or more.

    Returns
    -------
    Change
        The drawn changes.

    Examples
    --------
    >>> from fedlab.core.rng import stream
    >>> from fedlab.learning.augmentation import noise
    >>> noise(stream(0, "example"), 2, (28, 28)).noise.round(3)
    array([0.04 , 0.046])
    """
    return Change(noise=std * rng.uniform(0, 1, count), noise_seed=rng.integers(0, 2**62, count))


def parse(text: str) -> list[Callable[..., Change]]:
    """The augmentations of a text, none for "none"; ValueError if it cannot be read."""
    if text.strip() == "none":
        return []
    return [_parsed(part) for part in re.split(r"\+(?![^(]*\))", text)]


def _parsed(text: str) -> Callable[..., Change]:
    """One augmentation with its arguments, a function of (rng, count, shape)."""
    function, values, named = AUGMENTATIONS.parse(text, given=3)
    return lambda rng, count, shape: function(rng, count, shape, *values, **named)


class Augmentation:
    """The augmentations of a text, applied in their order. active: whether there are any."""

    def __init__(self, text: str) -> None:
        self.each = parse(text)
        self.active = bool(self.each)

    def draw(self, key: RngKey, count: int, shape: Shape) -> Change:
        """Draw the changes of `count` images at this seed, site and step."""
        rng, whole = stream(key[0], "augmentation", *key[1:]), Change()
        for augment in self.each:
            whole = _composed(whole, augment(rng, count, shape))
        return whole


def to_tensors(changes: list[Change], like: Tensor) -> dict[str, Tensor]:
    """The changes of several batches, concatenated, on the device and in the type of the images."""
    found = {}
    for field in fields(Change):
        each = [getattr(change, field.name) for change in changes]
        if each[0] is not None:
            whole = to_device(np.concatenate(each), like.device)
            found[field.name] = whole.to(like.dtype) if whole.is_floating_point() else whole
    return found


def apply(images: Tensor, change: dict[str, Tensor]) -> Tensor:
    """Apply changes to images (count, channels, *axes); their memory order stays."""
    axes = images.ndim - 2
    if "flips" in change:
        images = _mirrored(images, change["flips"])
    if "matrix" in change:
        grid = F.affine_grid(change["matrix"], list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    for name, operation in (("gain", torch.mul), ("offset", torch.add)):
        if name in change:
            images = operation(images, change[name].view(-1, *[1] * (axes + 1)))
    if "noise" in change:
        images = images + _normal(change["noise_seed"], images) * change["noise"].view(-1, *[1] * (axes + 1))
    return images.contiguous(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)


def apply_to_masks(masks: Tensor, change: dict[str, Tensor]) -> Tensor:
    """Move masks (count, *axes) as their images; each voxel gets the structure of the nearest one."""
    if "flips" not in change and "matrix" not in change:
        return masks
    images = masks.unsqueeze(1)
    if "flips" in change:
        images = _mirrored(images, change["flips"])
    if "matrix" in change:
        grid = F.affine_grid(change["matrix"], list(images.shape), align_corners=False)
        moved = F.grid_sample(images.to(grid.dtype), grid, "nearest", "border", align_corners=False)
        images = moved.to(masks.dtype)
    return images.squeeze(1)


def _mirrored(images: Tensor, flips: Tensor) -> Tensor:
    """Images (count, channels, *axes), mirrored along the axes that `flips` (count, d) states for each."""
    axes = images.ndim - 2
    for axis in range(axes):
        images = torch.where(flips[:, axis].view(-1, *[1] * (axes + 1)), images.flip(axis + 2), images)
    return images


def _normal(seeds: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers for each voxel of each image, computed from the image's seed (count,).

    SplitMix64 of seed and position (Steele et al. 2014, doi:10.1145/2660193.2660195), then Box-Muller: the same in
    every execution mode, without the state of a generator.
    """
    position = torch.arange(like[0].numel(), device=like.device).view(1, *like.shape[1:])
    x = seeds.view(-1, *[1] * (like.ndim - 1)) + (position + 1) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    x = x ^ ((x >> 31) & (2**33 - 1))
    radius, angle = (((x >> 32) & 0xFFFFFFFF) + 1).to(like.dtype) / 2**32, (x & 0xFFFFFFFF).to(like.dtype) / 2**32
    return torch.sqrt(-2 * torch.log(radius)) * torch.cos(2 * math.pi * angle)


def _composed(first: Change, second: Change) -> Change:
    """One change after another, as one; noise stays the last."""
    noise = first.noise if first.noise is None or second.gain is None else first.noise * np.abs(second.gain)
    offset = first.offset if first.offset is None or second.gain is None else first.offset * second.gain
    return Change(
        _combined(first.flips, second.flips, np.logical_xor),
        _combined(first.matrix, second.matrix, _composed_maps),
        _combined(first.gain, second.gain, np.multiply),
        _combined(offset, second.offset, np.add),
        _combined(noise, second.noise, np.hypot),
        _combined(first.noise_seed, second.noise_seed, np.bitwise_xor),
    )


def _combined(first: Any, second: Any, join: Callable[[Any, Any], Any]) -> Any:
    """join(first, second), or the one that is not None."""
    if first is None or second is None:
        return second if first is None else first
    return join(first, second)


def _composed_maps(first: Floats, second: Floats) -> Floats:
    """The matrix of one map of positions after another, from new positions to old ones."""
    turned, moved = first[:, :, :-1], first[:, :, -1:]
    found = turned @ second
    found[:, :, -1:] += moved
    return found


def _identity(count: int, shape: Shape) -> Floats:
    """Matrices that leave every position where it is, (count, d, d + 1)."""
    return np.tile(np.eye(len(shape), len(shape) + 1), (count, 1, 1))
