"""Random changes of training images, drawn anew for every image and step: "flip", "rotate(10) + shift(0.05)".

An augmentation is `f(rng, count, shape, *knobs) -> Change`: what becomes of `count` images of a height, width[, depth].
Numbers are drawn on the processor from a generator named by seed, site and step, so that every way of training sees the
same images; a whole batch is changed at once, where it is.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.registry import Registry
from fedlab.core.rng import stream
from fedlab.core.typing import Floats

AUGMENTATIONS = Registry("augmentation")
Shape = tuple[int, ...]
Place = tuple[int, str, int]  # seed, site, step


@dataclass(frozen=True)
class Change:
    """What becomes of images (count, channels, *shape); None is nothing.

    flips: bool (count, d), axes along which an image is mirrored. matrix: (count, d, d + 1), from places in the new
    image to places in the old one, the last axis first, in units of half its extent, 0 in the middle. gain, offset:
    (count,), values are multiplied by and then raised by.
    """

    flips: NDArray[np.bool_] | None = None
    matrix: Floats | None = None
    gain: Floats | None = None
    offset: Floats | None = None


@AUGMENTATIONS.add
def flip(rng: np.random.Generator, count: int, shape: Shape, axis: int = -1) -> Change:
    """Every second image mirrored, along the last axis: left and right change places."""
    flips = np.zeros((count, len(shape)), bool)
    flips[:, axis] = rng.random(count) < 0.5
    return Change(flips=flips)


@AUGMENTATIONS.add
def shift(rng: np.random.Generator, count: int, shape: Shape, share: float = 0.1) -> Change:
    """Moved along every axis by up to this share of its extent; edges are continued."""
    matrix = _identity(count, shape)
    matrix[:, :, -1] = 2 * share * rng.uniform(-1, 1, (count, len(shape)))
    return Change(matrix=matrix)


@AUGMENTATIONS.add
def zoom(rng: np.random.Generator, count: int, shape: Shape, share: float = 0.1) -> Change:
    """Larger or smaller by up to this share, alike along all axes."""
    matrix = _identity(count, shape)
    matrix[:, :, :-1] /= (1 + share * rng.uniform(-1, 1, count))[:, None, None]
    return Change(matrix=matrix)


@AUGMENTATIONS.add
def rotate(rng: np.random.Generator, count: int, shape: Shape, degrees: float = 10.0) -> Change:
    """Turned by up to so many degrees, volumes around each axis."""
    matrix, extent = _identity(count, shape), shape[::-1]
    for i, j in itertools.combinations(range(len(shape)), 2):
        angle = np.radians(degrees * rng.uniform(-1, 1, count))
        turn = _identity(count, shape)
        turn[:, i, i] = turn[:, j, j] = np.cos(angle)
        turn[:, i, j], turn[:, j, i] = np.sin(angle) * extent[j] / extent[i], -np.sin(angle) * extent[i] / extent[j]
        matrix = _after(matrix, turn)
    return Change(matrix=matrix)


@AUGMENTATIONS.add
def light(rng: np.random.Generator, count: int, shape: Shape, share: float = 0.1) -> Change:
    """Contrast changed by up to this share, and brightness by up to it in units of what the network sees."""
    gain, offset = share * rng.uniform(-1, 1, (2, count))
    return Change(gain=1 + gain, offset=offset)


def parse(text: str) -> list[Callable[..., Change]]:
    """The augmentations that a text names, none for "none"; ValueError where it cannot be read."""
    if text.strip() == "none":
        return []
    return [_known(part) for part in re.split(r"\+(?![^(]*\))", text)]


def _known(text: str) -> Callable[..., Change]:
    function, args, knobs = AUGMENTATIONS.parse(text, given=3)
    return lambda rng, count, shape: function(rng, count, shape, *args, **knobs)


class Augmentation:
    """What a text says. any: whether it says anything."""

    def __init__(self, text: str) -> None:
        self.each = parse(text)
        self.any = bool(self.each)

    def draw(self, place: Place, count: int, shape: Shape) -> Change:
        """What becomes of the images of this seed, site and step."""
        rng, whole = stream(place[0], "augmentation", *place[1:]), Change()
        for augment in self.each:
            whole = _both(whole, augment(rng, count, shape))
        return whole


def tensors(changes: list[Change], like: Tensor) -> dict[str, Tensor]:
    """The changes of several batches, one after the other, on the device and in the type of the images."""
    found = {}
    for field in fields(Change):
        each = [getattr(change, field.name) for change in changes]
        if each[0] is not None:
            whole = to_device(np.concatenate(each), like.device)
            found[field.name] = whole if field.name == "flips" else whole.to(like.dtype)
    return found


def apply(images: Tensor, change: dict[str, Tensor]) -> Tensor:
    """Images (count, channels, *axes) as changed, in the same order in memory."""
    axes = images.ndim - 2
    if "flips" in change:
        for axis in range(axes):
            mirrored = change["flips"][:, axis].view(-1, *[1] * (axes + 1))
            images = torch.where(mirrored, images.flip(axis + 2), images)
    if "matrix" in change:
        grid = F.affine_grid(change["matrix"], list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    for name, operation in (("gain", torch.mul), ("offset", torch.add)):
        if name in change:
            images = operation(images, change[name].view(-1, *[1] * (axes + 1)))
    return images.contiguous(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)


def _both(first: Change, second: Change) -> Change:
    """One change after another."""
    offset = first.offset if first.offset is None or second.gain is None else first.offset * second.gain
    return Change(
        _joined(first.flips, second.flips, np.logical_xor),
        _joined(first.matrix, second.matrix, _after),
        _joined(first.gain, second.gain, np.multiply),
        _joined(offset, second.offset, np.add),
    )


def _joined(first: Any, second: Any, join: Callable[[Any, Any], Any]) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return join(first, second)


def _after(first: Floats, second: Floats) -> Floats:
    """The matrix of one map of places after another, from new places to old ones."""
    turned, moved = first[:, :, :-1], first[:, :, -1:]
    found = turned @ second
    found[:, :, -1:] += moved
    return found


def _identity(count: int, shape: Shape) -> Floats:
    return np.tile(np.eye(len(shape), len(shape) + 1), (count, 1, 1))
