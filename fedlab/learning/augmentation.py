"""Random changes of training images, drawn for every image and step: "flip", "rotate(10) + shift(0.05)".

An augmentation is `f(rng, count, shape, *arguments) -> Change`: the changes of `count` images of this height, width[,
depth]. Numbers are drawn on the CPU from a generator named by seed, site and step, so that every execution mode sees
the same images; a whole batch is then changed at once on its device. Masks move with their images: each voxel takes the
value of the nearest one, so that no value is new.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
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
from fedlab.learning import case_transforms
from fedlab.learning.case_transforms import CaseTransform

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


@AUGMENTATIONS.add
def monai(rng: np.random.Generator, count: int, shape: Shape, *transforms: Any) -> Change:
    """Transforms of MONAI, case by case on the CPU: "monai(RandGaussianNoise(prob=0.5, std=0.1))".

    Slower than the others, which change a whole batch on its device. Transforms of positions move masks with their
    images. The random state is set by seed, site, step and case.

    Parameters
    ----------
    rng, count, shape : numpy.random.Generator, int, tuple of int
        As for all augmentations; not used.
    *transforms
        Names of MONAI's intensity and spatial transforms, with their arguments.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.augmentation import Augmentation
    >>> found = Augmentation("monai(RandFlip(prob=1.0, spatial_axis=1))", masks=False)
    >>> images, _ = found.of_cases(torch.arange(4.0).view(1, 1, 2, 2), None, [[7]], [(0, "Site A", 1)])
    >>> images[0, 0]
    tensor([[1., 0.],
            [3., 2.]])
    """
    raise TypeError("transforms of MONAI change single cases: write them in a text, see `parse`")


def by_case(rng: np.random.Generator, count: int, shape: Shape, *, transform: Any) -> Change:
    """A transform of single cases that was registered by `add_transforms`."""
    raise TypeError("a transform of single cases draws no changes of a batch")


def add_transforms(name: str, transform: Any, *, version: Any = "") -> None:
    """Register transforms of single cases, such as a `Compose` of MONAI's dictionary transforms.

    Parameters
    ----------
    name : str
        Name by which `augment=` calls them.
    transform : callable
        A function of {"image": (channels, *space), "mask": (1, *space)} that returns these keys, and has
        `set_random_state`. Without masks there is no key "mask". Masks must stay whole numbers. Register it before you
        try it out: what MONAI's transforms keep of their last image counts as another version of them.
    version : str or int, optional
        Change it by hand when something changes that the fingerprint of a run does not see, such as files.

    Raises
    ------
    ValueError
        If the random state of the transform cannot be set.

    Examples
    --------
    >>> from monai.transforms import Compose, RandFlipd
    >>> from fedlab.learning.augmentation import AUGMENTATIONS, add_transforms
    >>> add_transforms("mirrored", Compose([RandFlipd(["image", "mask"], prob=0.5, spatial_axis=0)]))
    >>> import fedlab
    >>> fedlab.Experiment(augment="mirrored + noise(0.1)").augment
    'mirrored + noise(0.1)'
    >>> AUGMENTATIONS.remove("mirrored")
    """
    fixed = case_transforms.of_transform(name, transform)
    meaning = f"Transforms of single cases, registered as {name!r}."
    AUGMENTATIONS.add(partial(by_case, transform=fixed), name=name, meaning=meaning, version=version)


Draw = Callable[..., Change]
Augment = Draw | CaseTransform


def parse(text: str, masks: bool = True) -> list[Augment]:
    """The augmentations of a text, none for "none"; ValueError if it cannot be read.

    masks: whether transforms of MONAI move masks with their images.
    """
    if text.strip() == "none":
        return []
    return [_parsed(part, masks) for part in _terms(text)]


def _terms(text: str) -> list[str]:
    """The terms of a sum, split where no bracket is open."""
    depth, found = 0, [""]
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "+" and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return found


def _parsed(text: str, masks: bool) -> Augment:
    """One augmentation with its arguments: a function of (rng, count, shape), or a transform of single cases."""
    if re.match(r"\s*monai\s*(\(|$)", text):
        return case_transforms.of_text(text, masks)
    function, values, named = AUGMENTATIONS.parse(text, given=3)
    if isinstance(function, partial) and function.func is by_case:
        return CaseTransform(text.strip(), function.keywords["transform"])
    return lambda rng, count, shape: function(rng, count, shape, *values, **named)


class Augmentation:
    """The augmentations of a text, applied in their order.

    active: whether there are any. by_case: whether some are transforms of single cases.
    """

    def __init__(self, text: str, masks: bool = False) -> None:
        """masks: whether images have masks, which move with them."""
        self.each = parse(text, masks)
        self.active = bool(self.each)
        self.by_case = any(isinstance(one, CaseTransform) for one in self.each)
        self._stages = _stages(self.each)

    def draw(self, key: RngKey, count: int, shape: Shape) -> Change:
        """Draw the changes of `count` images at this seed, site and step; there are no transforms of single cases."""
        rng, whole = stream(key[0], "augmentation", *key[1:]), Change()
        for augment in self.each:
            assert not isinstance(augment, CaseTransform)
            whole = _composed(whole, augment(rng, count, shape))
        return whole

    def of_cases(
        self, images: Tensor, masks: Tensor | None, index: Sequence[Ints], keys: Sequence[RngKey]
    ) -> tuple[Tensor, Tensor | None]:
        """Augmented images and masks of several batches with these cases and random keys, equally many in each."""
        rngs = [stream(key[0], "augmentation", *key[1:]) for key in keys]
        for number, stage in enumerate(self._stages):
            if isinstance(stage, CaseTransform):
                call = partial(stage, number=number)
                images, masks = _by_case(call, images, masks, index, keys)
            else:
                drawn = to_tensors([_drawn(stage, rng, len(images) // len(keys), images) for rng in rngs], images)
                images, masks = apply(images, drawn), None if masks is None else apply_to_masks(masks, drawn)
        return images, masks


def _stages(each: list[Augment]) -> list[CaseTransform | list[Draw]]:
    """Transforms of single cases, and between them the functions whose changes are applied as one."""
    found: list[CaseTransform | list[Draw]] = []
    for augment in each:
        if isinstance(augment, CaseTransform):
            found.append(augment)
        elif found and isinstance(found[-1], list):
            found[-1].append(augment)
        else:
            found.append([augment])
    return found


def _drawn(stage: list[Draw], rng: np.random.Generator, count: int, images: Tensor) -> Change:
    """The changes of a batch by several functions, as one."""
    whole = Change()
    for draw in stage:
        whole = _composed(whole, draw(rng, count, tuple(images.shape[2:])))
    return whole


def _by_case(
    transform: Callable[..., Any], images: Tensor, masks: Tensor | None, index: Sequence[Ints], keys: Sequence[RngKey]
) -> tuple[Tensor, Tensor | None]:
    """Images and masks of several batches, transformed case by case."""
    cut = [None] * len(keys) if masks is None else masks.chunk(len(keys))
    parts = zip(images.chunk(len(keys)), cut, index, keys, strict=True)
    changed, moved = zip(*(transform(*part) for part in parts), strict=True)
    return torch.cat(changed), None if masks is None else torch.cat(moved)


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
