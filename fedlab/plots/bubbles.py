"""Who holds which cases: a grid of sites and classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import style, titles
from fedlab.plots.reading import SPLITS, by_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT = 8.5
DIGIT = 0.64 * TEXT  # points that a digit is wide
PADDING = 4.0  # points between a bubble and the number beside it


def partition(part: Any, *, ax: Axes | None = None, split: str | None = None) -> style.Drawing:
    """Cases of every site and class as bubbles of that area, sites from the largest to the smallest, totals as bars.

    part: a Partition. split: train, val, test or None for all. Returns the figure and the counts: sites x classes and
    the column `cases` (which differs from the row's sum where a case may have several classes).
    """
    counts = part.counts(split)
    dealt = part.table if split is None else part.table[part.table["split"] == split]
    cases = dealt["site"].value_counts().reindex(counts.index, fill_value=0)
    order = by_size(cases)
    counts, cases = counts.loc[order], cases.loc[order]
    with style.page(ax, 9, 1.3 + 0.42 * len(counts)) as ax:
        _frame(ax, counts, cases)
        style.headline(ax, titles.partition(counts, cases, part.cases.task != "multilabel"), pad=18)
        _bubbles(ax, counts)
        _bars(ax, cases, counts.shape[1], "cases" if split is None else f"{SPLITS[split]} cases")
    return style.Drawing(style.root(ax), counts.assign(cases=cases))


def _width_of_bars(classes: int) -> float:
    """Columns of the grid that the bars take: a quarter of the page at least."""
    return max(1.3, classes / 3)


def _frame(ax: Axes, counts: pd.DataFrame, cases: pd.Series) -> None:
    sites, classes = counts.shape
    ax.set_xlim(-0.5, classes + _width_of_bars(classes))
    ax.set_ylim(sites - 0.5, -0.5)
    ax.set_yticks(range(sites), counts.index)
    names = [f"{name}\n{total:,}" for name, total in counts.sum().items()]
    ax.set_xticks(range(classes), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    style.fit_names(ax)


def _bubbles(ax: Axes, counts: pd.DataFrame) -> None:
    """Numbers inside bubbles that can hold them and beside the others; over pale bubbles where columns are narrow."""
    width, height = style.inches(ax)
    column = style.POINTS * width / float(np.diff(ax.get_xlim())[0])
    row = style.POINTS * height / len(counts)
    largest = counts.to_numpy().max(initial=1)
    biggest = min(0.92 * row, 0.8 * column)
    narrow = column < biggest + 2 * (PADDING + DIGIT * (len(f"{largest:,}") + 0.5))
    ys, xs = np.nonzero(counts.to_numpy())
    n = counts.to_numpy()[ys, xs]
    diameters = biggest * np.sqrt(n / largest)
    ax.scatter(xs, ys, s=diameters**2, color="#b3d4e8" if narrow else style.BLUE, linewidths=0)
    for x, y, value, diameter in zip(xs, ys, n, diameters, strict=True):
        text = f"{value:,}"
        inside = narrow or diameter > DIGIT * (len(text) + 0.6)
        offset = 0 if inside else diameter / 2 + PADDING
        color = "white" if inside and not narrow else "#222222"
        ax.annotate(
            text,
            (x, y),
            xytext=(offset, 0),
            textcoords="offset points",
            ha="center" if inside else "left",
            va="center",
            fontsize=TEXT,
            color=color,
            in_layout=False,
        )
    for y, x in zip(*np.nonzero(counts.to_numpy() == 0), strict=True):
        ax.text(x, y, "–", ha="center", va="center", color=style.GREY, fontsize=TEXT, in_layout=False)


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
