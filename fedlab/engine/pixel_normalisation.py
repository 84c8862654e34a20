"""Normalisation of pixels, which decides how much of the differences between scanners reaches training.

One affine map per case and channel, applied when a batch is gathered: the dataset stays in memory as it is on disk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.core.typing import Ints

POLICIES = ("none", "image", "site", "global")
CHUNK = 2**22  # pixels processed at a time
CONSTANT = 1e-6  # of the full range: an image or site whose pixels spread less has its mean subtracted, no more
STATISTIC_BYTES = 8  # of a number that sites exchange, in float64 or int64


@dataclass(frozen=True)
class SiteRows:
    """Rows of the device dataset: all cases of a site, and its training cases. participates: False if held out."""

    rows: Tensor
    train: Tensor
    participates: bool = True


@dataclass(frozen=True)
class Affine:
    """z = (x - centre) * scale with both of shape (cases, channels), in units of stored pixels."""

    centre: Tensor
    scale: Tensor

    def apply(self, batch: Tensor, rows: Tensor) -> Tensor:
        """Normalise the batch (b, channels, height, width[, depth]) of the cases in these rows, in place."""
        shape = (*batch.shape[:2], *[1] * (batch.ndim - 2))
        return batch.sub_(self.centre[rows].view(shape)).mul_(self.scale[rows].view(shape))


def affine(
    policy: str,
    pixels: Tensor,
    sites: Sequence[SiteRows],
    full: float,
    dtype: torch.dtype,
    extents: Ints | None = None,
) -> Affine:
    """Mean 0 and standard deviation 1 per channel, over the pixels that the policy names.

    "image": of each image alone. "site": of the site's training cases; of a held-out site its test cases, since this
    needs images but no labels. "global": of all training cases, the same as for the union of the sites. Cases of no
    site, and sites without a training case, take the global values.

    pixels: (n, height, width[, depth], channels). full: the highest possible pixel value. extents: of images of unequal
    size, whose padding does not count.
    """
    by_case = pixel_sums(pixels, extents).to(sites[0].rows.device)
    pooled = _total(by_case[torch.cat([site.train for site in sites if site.participates])])
    totals = by_case if policy == "image" else pooled.expand_as(by_case).clone()
    if policy == "site":
        for site in sites:
            if len(site.train):
                totals[site.rows] = _total(by_case[site.train])
    mean = totals[:, 1] / totals[:, 0]
    spread = (totals[:, 2] / totals[:, 0] - mean**2).clamp(min=0).sqrt()
    spread[spread <= CONSTANT * full] = full
    return Affine(mean.to(dtype), (1 / spread).to(dtype))


def pixel_sums(pixels: Tensor, extents: Ints | None = None) -> Tensor:
    """Count, sum and sum of squares of the pixels of each case and channel; float64 (n, 3, channels), exact for bytes.

    pixels: (n, height, width[, depth], channels). extents: of images of unequal size, (n, d).
    """
    if extents is not None:
        return torch.cat([pixel_sums(_cut(pixels, row, extent)) for row, extent in enumerate(extents)])
    n, *space, channels = pixels.shape
    count = math.prod(space)
    found = torch.full((n, 3, channels), float(count), dtype=torch.float64, device=pixels.device)
    step = max(1, CHUNK // (count * channels))
    for start in range(0, n, step):
        flat = pixels[start : start + step].reshape(-1, count, channels).double()
        found[start : start + step, 1] = flat.sum(1)
        found[start : start + step, 2] = flat.square_().sum(1)
    return found


def _cut(pixels: Tensor, row: int, extent: Ints) -> Tensor:
    """One image (1, *extent, channels) without its padding."""
    return pixels[row : row + 1][(slice(None), *map(slice, extent.tolist()))].contiguous()


def statistics_bytes(channels: int) -> tuple[int, int]:
    """Bytes that a site sends and receives once for "global": up a count and two sums a channel, down mean and SD."""
    return STATISTIC_BYTES * (1 + 2 * channels), STATISTIC_BYTES * 2 * channels


def _total(sums: Tensor) -> Tensor:
    """The sums over cases, (1, 3, channels)."""
    return sums.sum(0, keepdim=True)
