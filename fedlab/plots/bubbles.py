"""Who holds which cases: a grid of sites and classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.plots import style, titles
from fedlab.plots.reading import SPLITS, region_spans, site_name, site_order
from fedlab.plots.sheet import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT = 8.5
DIGIT = 0.64 * TEXT  # points that a digit is wide
PADDING = 4.0  # points between a bubble and the number beside it


def partition(part: Any, *, ax: Axes | None = None, split: str | None = None) -> style.Drawing:
    """Cases of every site and class as bubbles of that area, sites from the largest to the smallest, totals as bars.

    part: a Partition; its regions stay together, its unseen sites are marked. split: train, val, test or None for all.
    Returns the figure and the counts: sites x classes and the column `cases` (which differs from the row's sum where a
    case may have several classes).
    """
    counts, cases = site_counts(part, split)
    with style.page(ax, 9, 1.3 + 0.42 * len(counts)) as ax:
        _frame(ax, counts, cases, [site_name(part, site) for site in counts.index])
        _regions(ax, region_spans(part, list(counts.index)))
        style.headline(ax, titles.partition(counts, cases, part.cases.task != "multilabel"), pad=18)
        _bubbles(ax, counts)
        _bars(ax, cases, counts.shape[1], "cases" if split is None else f"{SPLITS[split]} cases")
    return style.Drawing(style.root(ax), counts.assign(cases=cases))


def site_counts(part: Any, split: str | None) -> tuple[pd.DataFrame, pd.Series]:
    """(sites x classes, cases of each site), in the order in which sites are drawn."""
    counts = part.counts(split)
    dealt = part.table if split is None else part.table[part.table["split"] == split]
    cases = dealt["site"].value_counts().reindex(counts.index, fill_value=0)
    order = site_order(part, cases)
    return counts.loc[order], cases.loc[order]


def _width_of_bars(classes: int) -> float:
    """Columns of the grid that the bars take: a quarter of the page at least."""
    return max(1.3, classes / 3)


def _frame(ax: Axes, counts: pd.DataFrame, cases: pd.Series, names: list[str]) -> None:
    sites, classes = counts.shape
    ax.set_xlim(-0.5, classes + _width_of_bars(classes))
    ax.set_ylim(sites - 0.5, -0.5)
    ax.set_yticks(range(sites), names)
    ax.set_xticks(range(classes), [f"{name}\n{total:,}" for name, total in counts.sum().items()])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    style.fit_names(ax)


def _regions(ax: Axes, spans: list[tuple[str, int, int]]) -> None:
    """A line and a name beside the sites of each region, left of their names."""
    from matplotlib.transforms import offset_copy

    if not spans:
        return
    figure = style.root(ax)
    figure.draw_without_rendering()
    names = max(label.get_window_extent().width for label in ax.get_yticklabels()) * style.POINTS / figure.dpi
    line, text = (
        offset_copy(ax.get_yaxis_transform(), figure, x=-names - out, y=0, units="points") for out in (12, 18)
    )
    for name, first, last in spans:
        ax.plot([0, 0], [first - 0.3, last + 0.3], color=style.GREY, lw=1.2, transform=line, clip_on=False)
        ax.text(0, (first + last) / 2, name, ha="right", va="center", fontsize=TEXT, color="#555555", transform=text)


def _bubbles(ax: Axes, counts: pd.DataFrame) -> None:
    width, height = style.inches(ax)
    column = style.POINTS * width / float(np.diff(ax.get_xlim())[0])
    row = style.POINTS * height / len(counts)
    place_bubbles(ax, counts.to_numpy(), np.arange(counts.shape[1]), np.arange(len(counts)), column, row, 1 / column)


def place_bubbles(
    ax: Axes,
    counts: NDArray[np.int64],
    xs: NDArray[np.generic],
    ys: NDArray[np.generic],
    column: float,
    row: float,
    point: float,
) -> None:
    """A bubble of that area for each count (sites, classes) at (xs[class], ys[site]).

    column, row: their size in points; point: how much of x a point is.

    Numbers stand inside bubbles that can hold them and beside the others; over pale bubbles where columns are narrow.
    Columns narrower than a number have none. A dash for zero.
    """
    largest = counts.max(initial=1)
    wide = DIGIT * (len(f"{largest:,}") + 0.5)
    biggest = min(0.92 * row, 0.8 * column)
    narrow = column < biggest / 2 + 1.5 * wide + 2 * PADDING  # a bubble beside the widest number beside another
    sites, classes = np.nonzero(counts)
    diameters = biggest * np.sqrt(counts[sites, classes] / largest)
    ax.scatter(xs[classes], ys[sites], s=diameters**2, color="#b3d4e8" if narrow else style.BLUE, linewidths=0)
    for site, kind, diameter in zip(sites, classes, diameters, strict=True) if column > wide else ():
        text = f"{counts[site, kind]:,}"
        inside = narrow or diameter > DIGIT * (len(text) + 0.6)
        color = "white" if inside and not narrow else "#222222"
        x = xs[kind] + (0 if inside else (diameter / 2 + PADDING) * point)
        write(ax, x, ys[site], text, align="center" if inside else "left", color=color)
    none = np.argwhere(counts == 0)
    ax.plot(xs[none[:, 1]], ys[none[:, 0]], ls="none", marker="_", ms=4, mew=0.8, color=style.GREY)


def _bars(ax: Axes, cases: pd.Series, classes: int, unit: str) -> None:
    """Cases of each site, to the right of the grid, drawn in the grid's own columns."""
    room = _width_of_bars(classes)
    start, longest = classes - 0.5 + 0.12 * room, 0.7 * room
    lengths = longest * cases.to_numpy() / max(1, cases.max())
    ax.barh(range(len(cases)), lengths, left=start, height=0.5, color=style.PALE)
    for y, (length, n) in enumerate(zip(lengths, cases, strict=True)):
        ax.annotate(
            f"{n:,}", (start + length, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=TEXT
        )
    ax.annotate(unit, (start, -0.5), xytext=(0, 4), textcoords="offset points", color="#555555", fontsize=TEXT)
