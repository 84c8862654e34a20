"""Histograms of the intensities of images, a row each, against that of all rows together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Floats
from fedlab.data.extents import cut
from fedlab.data.filters import selected
from fedlab.plots import style, titles
from fedlab.plots.case_groups import (
    CASE,
    PALE,
    ROWS,
    SPACE,
    Group,
    checked_by,
    groups_of,
    heads_width,
    left_out,
    write_foot,
    write_heads,
)
from fedlab.plots.sheet import Box, length, segments, sheet, write
from fedlab.plots.thumbnails import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM, LOWEST, HIGHEST = 12.0, 0.24, 0.8  # inches: of all rows; the lowest row, and the highest
WIDTH, HEAD, AXIS, FOOT = 4.6, 0.3, 0.3, 0.22  # inches: of a histogram; above and below; of a note at the foot
LEVELS, BINS = 256, 64  # of intensities that are counted, and that are drawn
MEASURED, LEAST = 64, 4  # images of a row that are counted: at most, and of very large ones at least
EACH, BUDGET = 2**11, 2**26  # values of a channel of an image that are counted; of all images that are read, at most
HUES = {"red": "#D55E00", "green": "#009E73", "blue": "#0072B2"}  # of channels that are colours
DASHES: tuple[Any, ...] = ("-", (0, (4, 1)), (0, (1.2, 1)))
FILL = "#9dc6e0"
GREY_LINE = "grey line: all rows together"


class Intensity(NamedTuple):
    """Intensities of a row: counts (channels, 256) of values from 0 to full scale, of so many images."""

    counts: Floats
    images: int

    @property
    def shares(self) -> Floats:
        """The share of each level, (channels, 256)."""
        return np.asarray(self.counts / np.maximum(1, self.counts.sum(1, keepdims=True)))

    @property
    def mean(self) -> float:
        """The mean, in [0, 1]."""
        return float(self.shares.mean(0) @ np.linspace(0, 1, LEVELS))


def intensity(
    cases: Any,
    where: str | None = None,
    *,
    ax: Axes | None = None,
    rows: ArrayLike | None = None,
    by: str | None = None,
    channel: int | None = None,
    seed: int = 0,
) -> style.Drawing:
    """Draw the histogram of intensities of each site, with the shares of pixels at both ends of the scale.

    Up to 64 cases of each row are counted (fewer of large images). The grey line is the histogram of all rows together.

    Parameters
    ----------
    cases : Cases
        What `fedlab.load` returned.
    where : str, optional
        A condition on the table, see `cases`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    rows : array-like, optional
        Row positions, or a mask of the cases.
    by : str, optional
        A column of the table, whose values are the rows of the figure, or "class". The site by default, where there is
        one, else the class.
    channel : int, optional
        Which channel; all of colours by default, else the first.
    seed : int, default 0
        The same seed counts the same cases.

    Returns
    -------
    Drawing
        (figure, table). table: a row for each row and channel, with cases, measured (cases that were counted), and in
        [0, 1] the mean, the 5th, 50th and 95th percentile of the intensities and the shares at 0 and at full scale.

    Examples
    --------
    >>> import fedlab
    >>> table = fedlab.plots.intensity(fedlab.load("phantoms(cases=60, size=16)"), by="class").table
    >>> table[["class", "cases", "measured"]].to_dict("list")
    {'class': ['normal', 'nodule'], 'cases': [38, 22], 'measured': [38, 22]}
    """
    view = View.of(cases, None, channel, False)
    by = checked_by(cases, by)
    if by == CASE:
        raise ValueError("by='case' has no histograms: give a column of groups, such as 'site', or 'class'")
    pool = selected(cases, where, rows)
    every = groups_of(cases, pool, by)
    groups = every[:ROWS]
    found = intensities(view, groups, seed)
    ends = [_ends(one, scale(cases)) for one in found]
    pitch = min(HIGHEST, ROOM / len(groups))
    left = heads_width(groups) + SPACE
    right, bottom = left + WIDTH, HEAD + pitch * len(groups)
    width = right + SPACE + max(map(length, ends))
    title = titles.cases(len(pool), len(cases), means(groups, found))
    with sheet(ax, width, bottom + AXIS + FOOT, title) as ax:
        write_heads(ax, groups, left - SPACE, HEAD, pitch)
        draw_intensities(ax, view, groups, found, Box(left, HEAD, right, bottom))
        for line, middle in zip(ends, HEAD + pitch * (np.arange(len(groups)) + 0.5), strict=True):
            write(ax, right + SPACE, middle, line, color=PALE)
        notes = [view.channel_note, left_out(every, by), GREY_LINE if len(groups) > 1 else ""]
        write_foot(ax, bottom + AXIS + FOOT / 2, width, notes)
    return style.Drawing(style.root(ax), _table(by, groups, found))


def intensities(view: View, groups: Sequence[Group], seed: int) -> list[Intensity]:
    """Count the values of some images of each row."""
    images = view.cases.images
    most = int(np.clip(BUDGET // (len(groups) * int(np.prod(images.shape[1:]))), LEAST, MEASURED))
    found = []
    for group in groups:
        some = np.sort(stream(seed, "intensity", group.name).permutation(group.rows)[:most])
        counts = _counts(view.cases, some)
        found.append(Intensity(counts if view.channel is None else counts[view.channel : view.channel + 1], len(some)))
    return found


def _counts(cases: Any, rows: NDArray[np.int64]) -> Floats:
    """Count the values of cases by channel, (channels, 256); those of unequal size one by one."""
    images = cases.images
    if cases.extents is None:
        return _of_one_size(images, rows)
    each = (cut(images[row : row + 1], cases.extents[row]) for row in rows)
    return np.sum([_of_one_size(image, np.zeros(1, np.int64)) for image in each], axis=0)


def _of_one_size(images: NDArray[Any], rows: NDArray[np.int64]) -> Floats:
    """Count the values of images by channel, (channels, 256); of large images those of some pixels."""
    values, channels = int(np.prod(images.shape[1:])), images.shape[1]
    every = max(1, min(images.shape[2], values // (8 * EACH)))  # lines of pixels that are read: every how many
    parts = (
        [np.asarray(images[rows])] if every == 1 else [np.asarray(images[row : row + 1, :, ::every]) for row in rows]
    )
    total = np.zeros((channels, LEVELS))
    for part in parts:
        pixels = part.reshape(len(part), channels, -1)
        some = pixels[..., :: max(1, pixels.shape[-1] // EACH) | 1]  # odd: not a column of pixels alone
        flat = np.moveaxis(some, 1, 0).reshape(channels, -1)
        if flat.dtype != np.uint8:
            flat = np.rint(np.clip(flat.astype(np.float32), 0, 1) * (LEVELS - 1)).astype(np.uint8)
        total += [np.bincount(one, minlength=LEVELS) for one in flat]
    return total


def means(groups: Sequence[Group], found: Sequence[Intensity]) -> pd.Series:
    """The mean intensity of each row, in [0, 1]."""
    return pd.Series([one.mean for one in found], index=[group.name for group in groups])


def scale(cases: Any) -> tuple[str, str, str]:
    """The ends and the middle of the scale of intensities."""
    return ("0", "128", "255") if cases.images.dtype == np.uint8 else ("0", "0.5", "1")


def _ends(found: Intensity, scale: tuple[str, str, str]) -> str:
    """Describe a histogram by its mean and the shares at the ends of the scale."""
    share = found.shares.mean(0)
    dark, full = titles.percent(share[0]), titles.percent(share[-1])
    return f"mean {titles.percent(found.mean)}, {dark} at {scale[0]}, {full} at {scale[2]}"


def _table(by: str, groups: Sequence[Group], found: Sequence[Intensity]) -> pd.DataFrame:
    """A row for each row of the figure and channel, with quantiles."""
    rows = []
    for group, one in zip(groups, found, strict=True):
        for channel, share in enumerate(one.shares):
            quantiles = np.searchsorted(np.cumsum(share), np.array([0.05, 0.5, 0.95]) - 1e-12) / (LEVELS - 1)
            mean = float(share @ np.linspace(0, 1, LEVELS))
            rows.append((group.name, channel, len(group.rows), one.images, mean, *quantiles, share[0], share[-1]))
    columns = [by, "channel", "cases", "measured", "mean", "p05", "median", "p95", "at_zero", "at_full"]
    return pd.DataFrame(rows, columns=columns)


def draw_intensities(ax: Axes, view: View, groups: Sequence[Group], found: Sequence[Intensity], box: Box) -> None:
    """Draw the histogram of each row in its place, and in grey that of all rows together.

    All have one scale; bins at the ends of the intensities may be cut, since background would flatten the others.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    shares = np.stack([one.shares for one in found])
    shares = shares.reshape(len(found), -1, BINS, LEVELS // BINS).sum(-1)
    weights = np.array([len(group.rows) for group in groups], float)
    pooled = np.tensordot(weights / weights.sum(), shares.mean(1), 1)
    peaks = shares[..., 1:-1].max((1, 2))
    full = min(peaks.max(), 3 * np.median(peaks)) or shares.max()
    pitch = (box.bottom - box.top) / len(found)
    high = min(HIGHEST, pitch) - 0.06
    x = box.left + box.width * np.repeat(np.arange(BINS + 1) / BINS, 2)[1:-1]
    floors = box.top + pitch * (np.arange(len(found)) + 1) - 0.03

    def outlines(bins: Floats) -> list[Floats]:
        """A line for each row of bins, (rows, bins)."""
        heights = high * np.repeat(np.minimum(bins / full, 1), 2, axis=-1)
        return [np.column_stack([x, floor - height]) for floor, height in zip(floors, heights, strict=True)]

    segments(ax, [box.left] * len(found), [box.right] * len(found), floors, colors="#bbbbbb", linewidths=0.6)
    if shares.shape[1] == 1:
        fills = [
            np.vstack([(box.left, floor), line, (box.right, floor)])
            for line, floor in zip(outlines(shares[:, 0]), floors, strict=True)
        ]
        ax.add_collection(PolyCollection(fills, facecolors=FILL, linewidths=0), autolim=False)
    if len(found) > 1:
        grey = outlines(np.broadcast_to(pooled, (len(found), BINS)))
        ax.add_collection(LineCollection(grey, colors=style.GREY, linewidths=0.7), autolim=False)
    if shares.shape[1] > 1:
        for channel, (hue, dash) in enumerate(zip(HUES.values(), DASHES, strict=True)):
            lines = LineCollection(outlines(shares[:, channel]), colors=hue, linestyles=[dash], linewidths=0.9)
            ax.add_collection(lines, autolim=False)
    _write_axis(ax, view, box)


def _write_axis(ax: Axes, view: View, box: Box) -> None:
    """Write what the histograms are of, and the ends and the middle of their scale."""
    left = box.left
    hues = {} if view.channel is not None else {word: style.ink(hue) for word, hue in HUES.items()}
    for word, color in {"intensity" + ":" * bool(hues): PALE, **hues}.items():
        write(ax, left, box.top - 0.12, word, color=color)
        left += length(word) + 0.06
    low, middle, high = scale(view.cases)
    write(ax, box.left, box.bottom + 0.12, low, color=PALE)
    write(ax, (box.left + box.right) / 2, box.bottom + 0.12, middle, align="center", color=PALE)
    write(ax, box.right, box.bottom + 0.12, high, align="right", color=PALE)
