"""Small pictures of images: the slice of a volume, a channel or colours, fewer pixels, as bytes that a screen shows."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.data.structures import MOST, region

Pixels = NDArray[np.uint8]
RAS = "RAS"  # the card's orientation of volumes whose axes point right, to the front and up


def middle(shape: tuple[int, ...]) -> int | None:
    """The middle slice of a volume (channels, height, width, depth); None for an image."""
    return shape[3] // 2 if len(shape) == 4 else None


def check_slice(slice: int | None, shape: tuple[int, ...]) -> int | None:
    """The slice to show, the middle one by default; ValueError if images have no such slice."""
    if slice is None:
        return middle(shape)
    if len(shape) != 4:
        raise ValueError(f"slice={slice!r}, but these images are 2D: leave it out")
    if isinstance(slice, bool) or not isinstance(slice, int | np.integer) or not 0 <= slice < shape[3]:
        raise ValueError(f"slice={slice!r}: give a whole number from 0 to {shape[3] - 1}, the slices of these volumes")
    return int(slice)


def check_channel(channel: int | None, channels: int) -> int | None:
    """The channel to show, None for the colours of three channels, else the first by default."""
    if channel is None:
        return None if channels == 3 else 0
    if isinstance(channel, bool) or not isinstance(channel, int | np.integer) or not 0 <= channel < channels:
        raise ValueError(
            f"channel={channel!r}: give a whole number from 0 to {channels - 1}, the channels of the images"
        )
    return int(channel)


def thumbnail(image: NDArray[Any], slice: int | None, channel: int | None, most: int, upright: bool = False) -> Pixels:
    """The picture (height, width, 3) of an image (channels, height, width[, depth]), at most about `most` pixels wide.

    channel: None for the colours of three channels. upright: turn a volume in RAS so that its front is at the top and
    the patient's right at the left, as radiologists see it.
    """
    one = image if channel is None else image[channel : channel + 1]
    shown = _shrunk(plane(one, slice, upright), most)
    if image.dtype != np.uint8:
        shown = np.clip(shown.astype(np.float32) * 255, 0, 255)
    rounded = shown if shown.dtype == np.uint8 else np.rint(shown).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(rounded, 0, -1), (*rounded.shape[1:], 3)))


def outlines(
    mask: Pixels, slice: int | None, most: int, upright: bool = False, overlap: bool = False
) -> dict[int, Floats]:
    """Structure -> the share of it in each pixel of the thumbnail, (height, width), for those in a mask but background.

    mask: (height, width[, depth]). overlap: whether structures may overlap, with one bit for each.
    """
    flat = plane(mask[None], slice, upright)[0]
    values = np.unique(flat[flat > 0]).tolist()
    numbers = [bit + 1 for bit in range(MOST) if any(value >> bit & 1 for value in values)] if overlap else values
    return {number: _shrunk(region(flat, number, overlap)[None].astype(np.float64), most)[0] for number in numbers}


def plane(image: NDArray[Any], slice: int | None, upright: bool) -> NDArray[Any]:
    """A slice (channels, height, width) of an image or volume."""
    if slice is None:
        return np.asarray(image)
    flat = np.asarray(image[..., slice])
    return flat.transpose(0, 2, 1)[:, ::-1, ::-1] if upright else flat


def _shrunk(image: NDArray[Any], most: int) -> NDArray[Any]:
    """Means of blocks of pixels, so that the longer side has less than twice as many as `most`."""
    step = max(1, max(image.shape[1:]) // most)
    if step == 1:
        return image
    height, width = (max(1, length // step) for length in image.shape[1:])
    rows, columns = min(step, image.shape[1]), min(step, image.shape[2])
    cut = image[:, : height * rows, : width * columns]
    return cut.reshape(len(image), height, rows, width, columns).mean((2, 4), dtype=np.float32)


def examples(labels: Ints, count: int, multilabel: bool) -> list[int]:
    """Positions of a first case of each class, at most `count`; with fewer classes than that, of further cases."""
    if multilabel:
        firsts = [np.flatnonzero(labels >> bit & 1)[:1] for bit in range(min(62, count))]
        found = [int(first[0]) for first in firsts if len(first)]
    else:
        found = np.sort(np.unique(labels, return_index=True)[1])[:count].tolist()
    rest = [position for position in range(min(len(labels), 2 * count)) if position not in found]
    return sorted({*found, *rest[: count - len(set(found))]})


def strip(pictures: Sequence[Pixels], most: int, gap: int = 2) -> bytes:
    """PNG, at most `most` pixels high, of pictures of one size side by side, transparent between them."""
    from PIL import Image

    height, width, _ = pictures[0].shape
    whole = np.zeros((height, len(pictures) * (width + gap) - gap, 4), np.uint8)
    for number, picture in enumerate(pictures):
        left = number * (width + gap)
        whole[:, left : left + width, :3], whole[:, left : left + width, 3] = picture, 255
    buffer = io.BytesIO()
    drawn = Image.fromarray(whole)
    if height > most:
        drawn = drawn.resize((max(1, whole.shape[1] * most // height), most), Image.Resampling.BOX)
    drawn.quantize(255, Image.Quantize.FASTOCTREE).save(buffer, "png", optimize=True)  # a third of the size
    return buffer.getvalue()
