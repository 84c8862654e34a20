"""Where the cases of the dataset went (`flow`): to the splits of the sites, or left out."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedlab.core.summary import plural
from fedlab.plots import style
from fedlab.plots.inputs import SPLITS, by_size, site_labels
from fedlab.plots.names import more
from fedlab.plots.names import name as short
from fedlab.plots.paper import headline, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.21  # inches: a line of text
MOST = 12  # sites in a box
GAP = 0.35  # inches between boxes
LEFT_OUT = "left out"
NAME, NARROW_NAME = 23, 12  # characters of a site in a box
SPLIT, TOP = 19, 29  # characters of a line in a narrow figure: in the boxes of splits, and in those above
HALF, NARROW_HALF = 0.46, 0.72  # half the width of a box, of a third of the figure


def flow(part: Any, *, ax: Axes | None = None, width: float | None = None) -> style.Drawing:
    """Draw how the cases of the dataset reach the training, validation and test sets of the sites, or are left out.

    Boxes count cases and patients; those of the splits list the sites, the largest of more than 12.

    Parameters
    ----------
    part : Partition
        The partition, as `fedlab.partition` returns it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.

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
    layout = paper(width, 9, ax)
    boxes = {split: _lines(part, table, split, layout.narrow) for split in SPLITS}
    first = [short(part.cases.name), _counted(part, table)]
    left = ["left out", *(f"{row.reason}: {row.cases:,}" for row in _by_reason(out).itertuples())]
    assigned = [plural(len(part.sites), "site"), _counted(part, table[table["split"] != LEFT_OUT])]
    if layout.narrow:
        first, left, assigned = (_wrapped(lines, TOP) for lines in (first, left, assigned))
    heights = [
        LINE * (len(lines) + 1) for lines in (left if len(out) else first, assigned, max(boxes.values(), key=len))
    ]
    tall = sum(heights) + 2 * GAP
    half = NARROW_HALF if layout.narrow else HALF
    main, aside = (0.75, 2.25) if layout.narrow and len(out) else (1.5, 2.5)
    with style.page(ax, layout.width, tall + 0.6) as ax:
        ax.set_xlim(0, 3)
        ax.set_ylim(tall, 0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        middle = heights[0] + GAP
        below = middle + heights[1] + GAP
        _arrow(ax, (main, LINE * (len(first) + 1)), (main, middle))
        for k in range(3):
            _arrow(ax, (main, middle + LINE * (len(assigned) + 1)), (k + 0.5, below))
        _box(ax, main, 0, first, half)
        if len(out):
            _arrow(ax, (main + half, LINE * 1.4), (aside - half, LINE * 1.4))
            _box(ax, aside, 0, left, half)
        _box(ax, main, middle, assigned, half)
        for k, lines in enumerate(boxes.values()):
            _box(ax, k + 0.5, below, lines)
        headline(ax, layout, title(table), 8, tall)
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
    known = "patient" in part.cases.table and patients < cases
    return plural(cases, "case") + (f" of {plural(patients, 'patient')}" if known else "")


def _wrapped(lines: list[str], most: int) -> list[str]:
    """Lines of at most so many characters."""
    return [piece for line in lines for piece in textwrap.wrap(line, most)]


def _lines(part: Any, table: pd.DataFrame, split: str, narrow: bool) -> list[str]:
    """The name of a split with its cases, and those of its largest sites."""
    cases = table[table["split"] != LEFT_OUT].groupby("site")["cases"].sum().reindex(part.sites, fill_value=0)
    sizes = table[table["split"] == split].groupby("site")["cases"].sum().reindex(part.sites, fill_value=0)
    largest = by_size(cases)[: len(cases) if len(cases) <= MOST else MOST - 1]
    shown = sizes[[site for site in part.sites if site in largest]]
    labels = site_labels(part, shown.index, NARROW_NAME if narrow else NAME)
    whole = plural(int(sizes.sum()), "case")
    lines = [SPLITS[split], whole] if narrow else [f"{SPLITS[split]}: {whole}"]
    lines += [f"{label}: {count:,}" for label, count in zip(labels, shown, strict=True)]
    rest = sizes.drop(shown.index)
    others = f"+ {len(rest):,} more" if narrow else more(len(rest), "sites")
    lines += [f"{others}: {int(rest.sum()):,}"] * (len(rest) > 0)
    return _wrapped(lines, SPLIT) if narrow else lines


def _box(ax: Axes, x: float, top: float, lines: list[str], half: float = HALF) -> None:
    """Write lines in a box, the first one bold; half: of its width."""
    from matplotlib.patches import FancyBboxPatch

    tall = LINE * (len(lines) + 0.8)
    look: dict[str, Any] = {"boxstyle": "square,pad=0", "facecolor": "white", "edgecolor": style.GREY, "linewidth": 0.9}
    ax.add_patch(FancyBboxPatch((x - half, top), 2 * half, tall, **look))
    for k, line in enumerate(lines):
        weight = "normal" if k else "bold"
        ax.text(x, top + LINE * (k + 0.9), line, ha="center", va="center", fontsize=8, weight=weight, parse_math=False)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "-|>", "color": style.GREY, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)
