"""All sites before training in one figure: cases, patients, images and measured shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.data.thumbnails import check_slice
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.plots import style, titles
from fedlab.plots.case_mix import (
    by_site,
    draw_population,
    frequent,
    numeric,
    place_bubbles,
    population_column,
    site_counts,
)
from fedlab.plots.images import chosen_images
from fedlab.plots.inputs import region_spans, site_labels
from fedlab.plots.measured_shift import FOOT, HEAD, as_drawing, draw_shift, headlines, judged
from fedlab.plots.measured_shift import ROW as SHIFT_ROW
from fedlab.plots.names import more, names
from fedlab.plots.sheet import Box, bars, entitle, in_lines, lend_to_texts, length, sheet, short, write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

WIDTH, NARROW = 10.6, 8.0  # inches: by default; below NARROW patients get less room
ROWS = (0.52, 3.6)  # inches: the highest row of a site, and all rows together unless there are very many
LOWEST, MOST = style.LOWEST, 60  # inches: a row of text; sites that are drawn
COLUMN = 0.13  # inches: the narrowest column of a class
NAME, REGION = 23, 1.2  # characters of a site's name, inches of a region's
IMAGES = 56  # of all sites together at most, but at least one of each class
UNMEASURED = "Measuring the shift of each axis …"  # a title
TILE = 64  # pixels of the longer side of an image: more would not be visible


def sites(
    part: Any,
    *,
    ax: Axes | None = None,
    measured: pd.DataFrame | None = None,
    slice: int | None = None,
    width: float = WIDTH,
) -> style.Drawing:
    """Draw the cases of each site by class, its patients, example images, and the shift of each axis against its null.

    At most the 60 largest sites and the most frequent classes are drawn, and the others counted.

    Parameters
    ----------
    part : Partition
        The partition, as `fedlab.partition` returns it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    measured : pandas.DataFrame, optional
        The frame of `part.shift()`; `part.shift(brief=True)` by default.
    slice : int, optional
        Which slice of volumes; the middle one by default.
    width : float, default 10.6
        Inches, at least 6.

    Returns
    -------
    Drawing
        (figure, table). table: the rows of the measured shift, see `shift`.

    Examples
    --------
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=2, prevalence=0.9)
    >>> table = fedlab.plots.sites(part).table
    >>> bool(table.set_index("axis").loc["prevalence", "beyond"])
    True
    """
    table = judged(headlines(part.shift(brief=True) if measured is None else measured))
    return as_drawing(_drawn(part, table, titles.shift(table), ax, slice, width).axes, table)


class Begun(NamedTuple):
    """A figure of sites: its axes, the block of the shift with a row for each of some axes, and what may be replaced.

    lines: of the title for which there is room; changing: the artists of the title and of the shift.
    """

    axes: Axes
    block: Box
    rows: list[str]
    lines: int
    changing: list[Artist]


def begin(part: Any, like: style.Drawing, *, slice: int | None = None, width: float = WIDTH) -> Begun:
    """Draw what `sites` draws before the shift is measured: its rows have no values yet.

    like: the drawing before, whose axes and room for the title are kept, so that the picture keeps its size.
    """
    table = like.table.assign(beyond=False, **{c: np.nan for c in like.table if c not in ("axis", "beyond")})
    lines = like.figure.axes[0].get_title(loc="left").count("\n") + 1
    return _drawn(part, table, UNMEASURED, None, slice, width, lines)


def complete(begun: Begun, part: Any, *, slice: int | None = None) -> style.Drawing:
    """Measure the shift and put it into a figure that was begun; draw another one if that has no room for it."""
    measured, width = part.shift(brief=True), begun.block.right
    table = judged(headlines(measured))
    shown, words = _every_axis(table, part.spec), in_lines(titles.shift(table), width)
    if list(shown["axis"]) != begun.rows or len(words) > begun.lines:
        return sites(part, measured=measured, slice=slice, width=width)
    for artist in begun.changing:
        artist.remove()
    with style.drawing():
        entitle(begun.axes, words)
        draw_shift(begun.axes, begun.block, shown, part.spec)
        lend_to_texts(begun.axes)
    return as_drawing(begun.axes, table)


def _drawn(
    part: Any, table: pd.DataFrame, title: str, ax: Axes | None, slice: int | None, width: float, lines: int = 1
) -> Begun:
    """Draw all blocks; table: a judged row an axis."""
    every, cases = site_counts(part, None)
    counts, cases = every.iloc[:MOST], cases.iloc[:MOST]
    left = len(every) - len(counts)
    shown = _every_axis(table, part.spec)
    row = max(LOWEST, min(ROWS[0], ROWS[1] / len(counts)))
    plan = _plan(part, counts, width)
    counts = counts[frequent(every, int((plan.totals - plan.grid) / COLUMN))]
    below = plan.head + row * len(counts) + plan.foot + 0.25 * (left > 0)
    height = below + HEAD + SHIFT_ROW * len(shown) + FOOT
    block = Box(0, below, width, height)
    with sheet(ax, width, height, title, lines) as ax:
        heading = list(ax.texts)
        ys = np.asarray(plan.head + row * (np.arange(len(counts)) + 0.5), np.float64)
        _names(ax, part, counts.index, ys)
        words = [more(left, "sites")] * (left > 0)
        words += [more(every.shape[1] - counts.shape[1], "classes")] * (every.shape[1] > counts.shape[1])
        if words:
            write(ax, 0, ys[-1] + row / 2 + 0.12, ", ".join(words))
        _grid(ax, Box(plan.grid, 0, plan.totals, plan.head), counts, ys, row)
        _totals(ax, Box(plan.totals, 0, plan.people, plan.head), cases, ys, row)
        if plan.column:
            people = by_site(part, plan.column, None, list(counts.index))
            draw_population(
                ax, Box(plan.people, plan.head - HEAD, plan.images - 0.3, below), people, plan.column, ys, row
            )
        middle = check_slice(slice, part.cases.shape)
        _strips(ax, Box(plan.images, 0, width, plan.head), part, list(counts.index), ys, row, middle)
        before = set(ax.get_children())
        draw_shift(ax, block, shown, part.spec)
        changing = heading + [artist for artist in ax.get_children() if artist not in before]
    return Begun(ax, block, list(shown["axis"]), max(lines, len(in_lines(title, width))), changing)


def _every_axis(table: pd.DataFrame, requested: dict[str, Any]) -> pd.DataFrame:
    """Add a row for each requested axis that was not measured, so that the figure keeps its size."""
    axes = [axis for axis in HEADLINES if axis in requested or axis in set(table["axis"])]
    rows = table.set_index("axis").reindex(axes).rename_axis("axis").reset_index()
    return rows.assign(beyond=rows["beyond"].eq(True))


class Plan(NamedTuple):
    """Left ends of the blocks right of the sites' names, and heights above and below the sites' rows, in inches."""

    grid: float
    totals: float
    people: float
    images: float
    head: float
    foot: float
    column: str


def _plan(part: Any, counts: pd.DataFrame, width: float) -> Plan:
    """Share the width that names, totals and population leave between bubbles and images."""
    column = population_column(part, fallback=True)
    regions = max((length(short(region, REGION)) + 0.16 for region in part.regions.values()), default=0.0)
    grid = regions + max(map(length, site_labels(part, counts.index, NAME))) + 0.1
    classes = counts.shape[1]
    people, years = (
        ((1.7 if width > NARROW else 1.35) if column else 0.0),
        column in part.cases.table and numeric(part.cases.table[column]),
    )
    totals = grid + min(0.2 + 1.2 * classes, 0.55 * (width - grid - 1.15 - people))
    longest = max(length(short(str(name), 1.5, 8), 8) for name in counts)
    upright = longest > (totals - grid) / classes - 0.05
    head = HEAD + (min(longest, 1.3) - 0.1 if upright else 0.0)
    return Plan(grid, totals, totals + 1.15, totals + 1.15 + people, head, 0.42 if years else 0.22, column)


def _names(ax: Axes, part: Any, sites: pd.Index, ys: NDArray[np.float64]) -> None:
    """Write the sites, and regions left of them."""
    spans = region_spans(part, list(sites))
    left = max((length(short(region, REGION)) for region, _, _ in spans), default=0.0)
    half = (ys[1] - ys[0]) / 2 if len(ys) > 1 else 0.2
    for region, first, last in spans:
        write(ax, 0, (ys[first] + ys[last]) / 2, short(region, REGION), color="#555555")
        ax.vlines(left + 0.06, ys[first] - 0.7 * half, ys[last] + 0.7 * half, color=style.GREY, lw=1.2)
    for y, label in zip(ys, site_labels(part, sites, NAME), strict=True):
        write(ax, left + (0.16 if spans else 0.0), y, label, color="#222222")


def _grid(ax: Axes, box: Box, counts: pd.DataFrame, ys: NDArray[np.float64], row: float) -> None:
    """Draw bubbles of all classes below their names, which are upright where columns are narrow."""
    column = box.width / counts.shape[1]
    xs = box.left + column * (np.arange(counts.shape[1]) + 0.4)
    point = 1 / style.POINTS
    place_bubbles(ax, counts.to_numpy(), xs, ys, column / point, row / point, point)
    upright = box.bottom > HEAD
    room = box.bottom - 0.1 if upright else column
    called = names(counts.columns, max(3, int(room / length("x", 8))) if upright else NAME)
    for x, name in zip(xs, counts.columns, strict=True):
        text = short(called[str(name)], room, 8)
        place = {"y": box.bottom - 0.05, "va": "bottom", "rotation": 90} if upright else {"y": 0.12}
        write(ax, x, text=text, align="center", color="#333333", size=8, **place)


def _totals(ax: Axes, box: Box, cases: pd.Series, ys: NDArray[np.float64], row: float) -> None:
    """Draw the cases of each site as bars."""
    number = length(f"{cases.max():,}") + 0.05
    ends = box.left + (box.width - number - 0.12) * cases.to_numpy() / max(1, cases.max())
    half = min(0.13, 0.28 * row)
    bars(ax, [Box(box.left, y - half, x, y + half) for x, y in zip(ends, ys, strict=True)], facecolors=style.PALE)
    for x, y, n in zip(ends, ys, cases, strict=True):
        write(ax, x + 0.05, y, f"{n:,}", color="#222222")
    write(ax, box.left, box.bottom - 0.18, "all cases", color="#555555")


def _strips(
    ax: Axes, box: Box, part: Any, sites: list[str], ys: NDArray[np.float64], row: float, slice: int | None
) -> None:
    """Draw images of each site as its scanner acquires them, in one bitmap, as many as the width holds."""
    tile, gap = row * 0.94, row * 0.06
    shape = part.cases.shape
    wide = tile * shape[2] / shape[1]
    most = int((box.width + gap) / (wide + gap))
    if row < 2 * LOWEST / 1.5 or most < 1:
        return
    images, names = chosen_images(part, sites, min(most, max(len(part.cases.classes), IMAGES // len(sites))), slice)
    columns = len(names)
    height, width = _size(shape)
    space = max(1, round(height * gap / tile))
    canvas = np.ones((len(sites) * (height + space), columns * (width + space), 3), np.float32)
    for i, line in enumerate(images):
        for k, image in enumerate(line):
            if image is not None:
                y, x = i * (height + space), k * (width + space)
                canvas[y : y + height, x : x + width] = _sized(image, height, width)
    top = ys[0] - row / 2 + gap / 2
    extent = (box.left, box.left + columns * (wide + gap), top + row * len(sites), top)
    pixels = (canvas * 255).astype(np.uint8)
    ax.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto")
    _groups(ax, box, wide + gap, names, len(part.cases.classes))


def _groups(ax: Axes, box: Box, pitch: float, names: list[str], classes: int) -> None:
    """Write each class above its images, or one line about all classes where names are much too long."""
    starts = [k for k, name in enumerate(names) if k == 0 or names[k - 1] != name]
    each = len(names) // len(starts)
    if max(length(name, 8) for name in names) > 1.5 * each * pitch:
        some = "each class" if len(starts) == classes else f"the first {len(starts)} of {classes} classes"
        words = f"{each if each > 1 else 'one'} of {some}"
        ordered = f"{words}, in their order"
        words = ordered if length(ordered, 8) < box.width else short(words, box.width, 8)
        write(ax, box.left, box.bottom - 0.18, words, color="#555555", size=8)
        return
    for start in starts:
        text = short(names[start], each * pitch - 0.06, 8)
        write(ax, box.left + start * pitch, box.bottom - 0.18, text, color="#555555", size=8)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (height, width) of an image's tile in pixels."""
    scale = min(1.0, TILE / max(shape[1:3]))
    return max(1, round(shape[1] * scale)), max(1, round(shape[2] * scale))


def _sized(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return (height, width, 3), every n-th pixel of a larger image."""
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    small = image[rows][:, columns]
    return np.repeat(small[..., None], 3, axis=2) if small.ndim == 2 else small
