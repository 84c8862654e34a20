"""The annotation rows of segmentation masks: how the masks that readers draw differ from the true ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.data.structures import region
from fedlab.heterogeneity.shift.divergences import mean_defined, mutual_information, within_layers
from fedlab.heterogeneity.shift.image_rows import sample_positions
from fedlab.heterogeneity.shift.null_intervals import Resampling, Row, recentred, row
from fedlab.heterogeneity.shift.observed import Observed, batch_sizes

SHARE = 4  # a fourth as many masks as images are compared
CHUNK = 64  # masks drawn at a time

Masks = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]  # a list, if they have unequal sizes


@dataclass(frozen=True)
class LoadMasks:
    """pairs: maps positions of cases to their true and drawn masks; overlap: whether structures may overlap."""

    pairs: Callable[[Ints], tuple[Masks, Masks]]
    overlap: bool = False


def mask_rows(cases: Observed, load: LoadMasks, resampling: Resampling) -> Iterator[Row]:
    """Yield the information of drawn masks about the site beyond the true ones, and the mean of 1 - Dice.

    The information I(S;Y'|Y) is that of a pixel, in bits for each pixel of a structure, so that the size of the
    background does not matter. Under the null sites are permuted over cases, or no mask is changed.

    load: the true and drawn masks (n, height, width[, depth]) of cases.
    """
    sample = sample_positions(cases, resampling.images // SHARE)
    few = cases.select(sample)
    pixels, dice = _compare(sample, load)
    width = pixels.shape[1]
    by_group = np.zeros((len(few.start), width * width))
    np.add.at(by_group, few.group, pixels.reshape(len(sample), -1))
    structures = pixels[:, 1:].sum()
    if not structures:
        return

    def information(tables: Floats) -> Floats:
        layered = tables.reshape(*tables.shape[:2], width, width)
        return within_layers(mutual_information, layered) * pixels.sum() / structures

    own = few.site[few.first]
    value = float(information(_tables(own[None], by_group, few.sites))[0])
    null = [
        information(_tables(moved, by_group, few.sites))
        for moved in few.permuted(few.strata(given=few.labels), resampling.permutations, "masks", by_group.size)
    ]
    weights = _resampled(few, resampling.resamples)
    blocks = np.split(weights, np.cumsum(list(batch_sizes(len(weights), few.sites * by_group.size)))[:-1])
    resampled = [information(_tables(own[None], by_group, few.sites, block)) for block in blocks]
    interval = np.maximum(recentred(value, np.concatenate(resampled)), 0)
    yield row("annotation", "I(S;Y'|Y)", value, np.concatenate(null), interval, 0.0)
    if resampling.includes("annotation", "1 - Dice"):
        drawn = mean_defined(1 - dice, weights[:, few.group])
        yield row("annotation", "1 - Dice", float(mean_defined(1 - dice)), np.zeros(1), drawn, 0.0)


def _compare(sample: Ints, load: LoadMasks) -> tuple[Floats, Floats]:
    """Return the pixels by true and drawn value (n, values, values), and the mean Dice over structures (n,)."""
    counted = []
    for start in range(0, len(sample), CHUNK):
        true, drawn = load.pairs(sample[start : start + CHUNK])
        width = int(max(mask.max(initial=0) for masks in (true, drawn) for mask in masks)) + 1
        pairs = (one.astype(np.int64) * width + other for one, other in zip(true, drawn, strict=True))
        counts = [np.bincount(pair.ravel(), minlength=width * width).reshape(width, width) for pair in pairs]
        counted += counts
    most = max(2, *(len(each) for each in counted)) if counted else 2
    pixels = np.zeros((len(sample), most, most))
    for case, each in enumerate(counted):
        pixels[case, : len(each), : len(each)] = each
    inside = _inside(most, load.overlap)
    both = np.einsum("ntd,ts,ds->ns", pixels, inside, inside)
    sizes = (pixels.sum(axis=1) + pixels.sum(axis=2)) @ inside
    return pixels, mean_defined(np.divide(2 * both, sizes, out=np.full(both.shape, np.nan), where=sizes > 0))


def _inside(values: int, overlap: bool) -> Floats:
    """Return which values of masks belong to which structure but the background, (values, structures), 0 or 1."""
    structures = (values - 1).bit_length() if overlap else values - 1
    each = [region(np.arange(values), structure, overlap) for structure in range(1, structures + 1)]
    return np.stack(each, 1).astype(np.float64)


def _tables(site: Ints, by_group: Floats, sites: int, weights: Floats | float = 1.0) -> Floats:
    """Return pixels summed over the groups of each site, (draws, sites, columns); site: (draws, groups)."""
    return np.stack([((site == k) * weights) @ by_group for k in range(sites)], axis=1)


def _resampled(cases: Observed, draws: int) -> Floats:
    """Return how often each group is drawn in each bootstrap resample, (draws, groups)."""
    groups = len(cases.start)
    rng = stream(cases.seed, "shift", "bootstrap", "masks")
    return rng.multinomial(groups, np.full(groups, 1 / groups), draws).astype(np.float64)
