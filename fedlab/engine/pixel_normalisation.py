"""Normalisation of pixels: what of the differences between scanners survives into training.

One affine map a case and channel, applied when a batch is gathered: the dataset stays in memory as it is on disk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

POLICIES = ("none", "image", "site", "global")
PIECE = 2**22  # pixels in work at a time
CONSTANT = 1e-6  # of the full range: an image or a site whose pixels spread less has its mean subtracted, no more
STATISTIC = 8  # bytes of a number that crosses, in float64 or int64


@dataclass(frozen=True)
class Group:
    """Rows of one site's cases in the store, and those of its training cases; `trains` unless the site is unseen."""

    rows: Tensor
    train: Tensor
    trains: bool = True


@dataclass(frozen=True)
class Affine:
    """z = (x - centre) * scale with both of shape (cases, channels), in units of stored pixels."""

    centre: Tensor
    scale: Tensor

    def apply(self, batch: Tensor, rows: Tensor) -> Tensor:
        """The batch (b, channels, height, width[, depth]) of the cases in these rows, changed in place."""
        shape = (*batch.shape[:2], *[1] * (batch.ndim - 2))
        return batch.sub_(self.centre[rows].view(shape)).mul_(self.scale[rows].view(shape))


def affine(policy: str, pixels: Tensor, groups: Sequence[Group], full: float, dtype: torch.dtype) -> Affine:
    """Mean 0 and standard deviation 1 a channel, over the pixels that the policy names.

    "image": of each image alone. "site": of the site's training cases, whoever trains on them; an unseen site's too,
    since it has images though no labels are asked of it. "global": of all training cases, so that it is the same for
    the union of the sites. Cases of no site, and sites without a training case, take the global values. pixels:
    (n, height, width[, depth], channels). full: the highest pixel value there may be.
    """
    each = sums(pixels).to(groups[0].rows.device)
    pooled = _total(each[torch.cat([group.train for group in groups if group.trains])])
    totals = each if policy == "image" else pooled.expand_as(each).clone()
    if policy == "site":
        for group in groups:
            if len(group.train):
                totals[group.rows] = _total(each[group.train])
    mean = totals[:, 1] / totals[:, 0]
    spread = (totals[:, 2] / totals[:, 0] - mean**2).clamp(min=0).sqrt()
    spread[spread <= CONSTANT * full] = full
    return Affine(mean.to(dtype), (1 / spread).to(dtype))


def sums(pixels: Tensor) -> Tensor:
    """Per case and channel: how many pixels, their sum and the sum of their squares; float64 (n, 3, channels).

    Exact for bytes.
    """
    n, *space, channels = pixels.shape
    count = math.prod(space)
    found = torch.full((n, 3, channels), float(count), dtype=torch.float64, device=pixels.device)
    step = max(1, PIECE // (count * channels))
    for start in range(0, n, step):
        flat = pixels[start : start + step].reshape(-1, count, channels).double()
        found[start : start + step, 1] = flat.sum(1)
        found[start : start + step, 2] = flat.square_().sum(1)
    return found


def crossing(channels: int) -> tuple[int, int]:
    """Bytes that "global" makes cross a site's border once: up a count and two sums a channel, down mean and spread."""
    return STATISTIC * (1 + 2 * channels), STATISTIC * 2 * channels


def _total(each: Tensor) -> Tensor:
    """The sums over cases, (1, 3, channels)."""
    return each.sum(0, keepdim=True)
