"""Where the cases of the dataset went (`flow`): to the splits of the sites, or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from fedlab.core.summary import plural
from fedlab.plots import style
from fedlab.plots.inputs import SPLITS, by_size, site_labels
from fedlab.plots.names import more
from fedlab.plots.names import name as short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.21  # inches: a line of text
MOST = 12  # sites in a box
GAP = 0.35  # inches between boxes
LEFT_OUT = "left out"
NAME = 23  # characters of a site in a box


def flow(part: Any, *, ax: Axes | None = None) -> style.Drawing:
    """Draw how the cases of the dataset reach the training, validation and test sets of the sites, or are left out.

    Boxes count cases and patients; those of the splits list the sites, the largest of more than 12.

    Parameters
    ----------
    part : Partition
        The partition, as `fedlab.partition` returns it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Drawing
        (figure, table). table: that of `Partition.flow`.

    Examples
    --------
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=3)
    >>> figure, table = fedlab.plots.flow(part)
    >>> int(table["cases"].sum())
    120
    """
    table = part.flow()
    out = table[table["split"] == LEFT_OUT]
    boxes = {split: _lines(part, table, split) for split in SPLITS}
    first = [short(part.cases.name), _counted(part, table)]
    left = ["left out", *(f"{row.reason}: {row.cases:,}" for row in _by_reason(out).itertuples())]
    assigned = [plural(len(part.sites), "site"), _counted(part, table[table["split"] != LEFT_OUT])]
    heights = [
        LINE * (len(lines) + 1) for lines in (left if len(out) else first, assigned, max(boxes.values(), key=len))
    ]
    tall = sum(heights) + 2 * GAP
    with style.page(ax, 9, tall + 0.6) as ax:
        ax.set_xlim(0, 3)
        ax.set_ylim(tall, 0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        middle = heights[0] + GAP
        below = middle + heights[1] + GAP
        _arrow(ax, (1.5, LINE * 3), (1.5, middle))
        for k in range(3):
            _arrow(ax, (1.5, middle + LINE * 3), (k + 0.5, below))
        _box(ax, 1.5, 0, first)
        if len(out):
            _arrow(ax, (1.96, LINE * 1.4), (2.04, LINE * 1.4))
            _box(ax, 2.5, 0, left)
        _box(ax, 1.5, middle, assigned)
        for k, lines in enumerate(boxes.values()):
            _box(ax, k + 0.5, below, lines)
        style.headline(ax, title(table))
    return style.Drawing(style.root(ax), table)


def title(table: pd.DataFrame) -> str:
    """Say how many cases of the dataset are used, and how many are test cases."""
    cases = table.groupby("split")["cases"].sum()
    whole, out = int(cases.sum()), int(cases.get(LEFT_OUT, 0))
    used = f"{whole - out:,} of {whole:,} cases are at a site" if out else f"All {whole:,} cases are at a site"
    return f"{used}, {int(cases.get('test', 0)):,} of them are test cases"


def _by_reason(out: pd.DataFrame) -> pd.DataFrame:
    """Cases left out for each reason, most first."""
    counts = out.groupby("reason", sort=False)["cases"].sum().reset_index()
    return counts.sort_values("cases", ascending=False, kind="stable")


def _counted(part: Any, rows: pd.DataFrame) -> str:
    """Cases of some rows, and patients where there are fewer; of all rows those of the dataset."""
    cases = int(rows["cases"].sum())
    index = part.rows if cases < len(part.cases) else slice(None)
    patients = len(set(part.cases.units[index].tolist()))
    return plural(cases, "case") + (f" of {plural(patients, 'patient')}" if patients < cases else "")


def _lines(part: Any, table: pd.DataFrame, split: str) -> list[str]:
    """The name of a split with its cases, and those of its largest sites."""
    cases = table[table["split"] != LEFT_OUT].groupby("site")["cases"].sum().reindex(part.sites, fill_value=0)
    sizes = table[table["split"] == split].groupby("site")["cases"].sum().reindex(part.sites, fill_value=0)
    largest = by_size(cases)[: len(cases) if len(cases) <= MOST else MOST - 1]
    shown = sizes[[site for site in part.sites if site in largest]]
    labels = site_labels(part, shown.index, NAME)
    lines = [f"{SPLITS[split]}: {plural(int(sizes.sum()), 'case')}"]
    lines += [f"{label}: {count:,}" for label, count in zip(labels, shown, strict=True)]
    rest = sizes.drop(shown.index)
    return lines + [f"{more(len(rest), 'sites')}: {int(rest.sum()):,}"] * (len(rest) > 0)


def _box(ax: Axes, x: float, top: float, lines: list[str]) -> None:
    """Write lines in a box, the first one bold."""
    from matplotlib.patches import FancyBboxPatch

    tall = LINE * (len(lines) + 0.8)
    look: dict[str, Any] = {"boxstyle": "square,pad=0", "facecolor": "white", "edgecolor": style.GREY, "linewidth": 0.9}
    ax.add_patch(FancyBboxPatch((x - 0.46, top), 0.92, tall, **look))
    for k, line in enumerate(lines):
        weight = "normal" if k else "bold"
        ax.text(x, top + LINE * (k + 0.9), line, ha="center", va="center", fontsize=8, weight=weight, parse_math=False)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "-|>", "color": style.GREY, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)
