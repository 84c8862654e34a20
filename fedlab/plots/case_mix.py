"""What cases each site holds: classes (`partition`) and patients (`population`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.plots import style, titles
from fedlab.plots.inputs import SPLITS, region_spans, site_labels, site_order
from fedlab.plots.names import listed, more, names
from fedlab.plots.names import name as short_name
from fedlab.plots.paper import LABEL, headline, paper
from fedlab.plots.sheet import TEXT, Box, bars, length, segments, sheet, short, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIGIT = 0.64 * TEXT  # width of a digit in points
PADDING = 4.0  # points between a bubble and the number next to it
ROW, HEAD, FOOT = 0.4, 0.3, 0.55  # inches of `population`: a site, the heading of shares, the scale of a number
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PITCH, CLASS = 0.42, 0.17  # inches of `partition`: a site, and at least a class
SINGLE, SCREEN = 40, 8.2  # rows of `partition`: sites that have one each; inches of all of them
CLASSES = 60  # columns of `partition`: of more classes the most frequent are drawn
LETTER = 0.07  # inches of a character of a site
REGION = 24  # characters of a region's name
KINDS = 6  # levels of a column that are shown; the rarest are pooled in the last one
KIND = 20  # characters of a level
OTHERS = "other"
TINTS = ("#0072B2", "#8cc0e3", "#d5d9e0", "#a3a8b0", "#5f6670", "#e9ebee")


# -- cases by site and class -----------------------------------------------------------------------------------------


def partition(
    part: Any, *, ax: Axes | None = None, split: str | None = None, width: float | None = None
) -> style.Drawing:
    """Draw the cases of every site and class as bubbles of that area, and the cases of each site as bars.

    Sites are sorted from the largest to the smallest; sites of one region stay together, held-out sites are marked. The
    prevalence of the class that the title names is written for each site. Up to 40 sites have a row each; more sites
    are binned, neighbours in size together. Classes without a case and all but the 60 most frequent are left out and
    counted; title and table are over all.

    Parameters
    ----------
    part : Partition
        The partition, as `fedlab.partition` returns it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    split : {"train", "val", "test"}, optional
        The cases to count; all by default.

    Returns
    -------
    Drawing
        (figure, table). table: the counts, sites x classes, and the column `cases`, which differs from the sum of the
        row where a case may have several classes.

    Examples
    --------
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=3, prevalence=0.5)
    >>> figure, table = fedlab.plots.partition(part)
    >>> list(table.columns), int(table["cases"].sum())
    (['normal', 'nodule', 'cases'], 120)
    """
    counts, cases = site_counts(part, split)
    bins = binned(cases, SINGLE)
    exclusive = part.cases.task != "multilabel"
    spoken = titles.spoken_of(counts, cases, exclusive)
    drawn, sums = (each.loc[bins.index].groupby(bins, sort=False).sum() for each in (counts, cases))
    labels = site_labels(part, counts.index) if len(drawn) == len(counts) else list(drawn.index)
    layout = paper(width, 0, ax)
    _, pitch = style.fitting(len(drawn), PITCH, SCREEN)
    some = drawn.loc[:, drawn.sum() > 0]
    shown = drawn[frequent(some if some.shape[1] else drawn, CLASSES)]
    wide = 3.5 + CLASS * (shown.shape[1] + _width_of_bars(shown.shape[1]))
    if layout.narrow and len(drawn) == len(counts):
        labels = site_labels(part, counts.index, LABEL)
    words = max(map(len, labels)) + max((min(REGION, len(region)) for region in part.regions.values()), default=0)
    layout.check(LETTER * words + 0.9 + CLASS * (shown.shape[1] + _width_of_bars(shown.shape[1])), "So many classes")
    usual = max(9, wide) + 0.08 * max(0, words - 40)
    with style.page(ax, layout.width or usual, 1.3 + pitch * len(labels)) as ax:
        _frame(ax, shown, counts[shown.columns].sum(), labels)
        if left := _left_out(counts, shown):
            ax.set_xlabel(left, loc="left")
        if len(drawn) == len(counts):
            _regions(ax, region_spans(part, list(shown.index)))
        _prevalence(ax, drawn[spoken] / sums if spoken is not None else None, str(spoken))
        style.fit_names(ax)  # in the room that the prevalence leaves
        headline(ax, layout, titles.partition(counts, cases, exclusive), 18, pitch * len(labels))
        _bubbles(ax, shown, len(labels))
        _bars(ax, sums, shown.shape[1], "cases" if split is None else f"{SPLITS[split]} cases")
    return style.Drawing(style.root(ax), counts.assign(cases=cases))


def binned(cases: pd.Series, most: int) -> pd.Series:
    """Name the row of each site: its own name for at most so many sites, else that of a bin of neighbours in size.

    Bins hold the same number of sites, the last one perhaps fewer, from the largest sites to the smallest.
    """
    if len(cases) <= most:
        return pd.Series(cases.index, cases.index, dtype=object)
    order = cases.sort_values(ascending=False, kind="stable")
    rows = np.arange(len(order)) // -(-len(order) // most)
    named = {}
    for row in range(rows[-1] + 1):
        sites = order[rows == row]
        low, high = f"{sites.min():,}", f"{sites.max():,}"
        each = low if low == high else f"{low} to {high}"
        named[row] = f"{row + 1}.  {len(sites)} site{'s' * (len(sites) > 1)} of {each}"
    return pd.Series([named[int(row)] for row in rows], order.index, dtype=object)


def _left_out(counts: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Say which classes have no column: those without a case, and the less frequent of very many."""
    empty = [str(name) for name in counts.columns[counts.sum() == 0]]
    rare = counts.shape[1] - len(empty) - shown.shape[1]
    words = [f"no case of {listed(empty)}"] * bool(empty) + [more(rare, "classes")] * (rare > 0)
    return "; ".join(words)


def _prevalence(ax: Axes, shares: pd.Series | None, name: str) -> None:
    """Write the prevalence of a class at each site right of its cases."""
    if shares is None:
        return
    for y, share in enumerate(shares):
        style.right_of(ax, y, 8, titles.percent(share) if np.isfinite(share) else "–", va="center", color="#222222")
    style.right_of(ax, -0.5, 8, short_name(name, 16), va="bottom", color="#555555")


def frequent(counts: pd.DataFrame, most: int) -> list[Any]:
    """Return at most that many columns of (sites x classes), the most frequent classes, in their order."""
    common = counts.sum().to_numpy().argsort(kind="stable")[::-1][:most]
    return list(counts.columns[np.sort(common)])


def site_counts(part: Any, split: str | None) -> tuple[pd.DataFrame, pd.Series]:
    """Return (sites x classes, cases of each site), in the order in which sites are drawn."""
    counts = part.counts(split)
    rows = part.table if split is None else part.table[part.table["split"] == split]
    cases = rows["site"].value_counts().reindex(counts.index, fill_value=0)
    order = site_order(part, cases)
    return counts.loc[order], cases.loc[order]


def _width_of_bars(classes: int) -> float:
    """Return how many columns of the grid the bars take: a quarter of the figure, of fewer than 25 classes."""
    return max(1.3, min(classes / 3, 8.0))


def _frame(ax: Axes, counts: pd.DataFrame, totals: pd.Series, labels: list[str]) -> None:
    """Label rows with sites and columns with classes and their totals over all sites."""
    classes = counts.shape[1]
    ax.set_xlim(-0.5, classes + _width_of_bars(classes))
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks(range(len(labels)), labels)
    called = names(counts.columns)
    ax.set_xticks(range(classes), [f"{called[str(name)]}\n{total:,}" for name, total in totals.items()])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _regions(ax: Axes, spans: list[tuple[str, int, int]]) -> None:
    """Draw a line and a name left of the names of each region's sites."""
    from matplotlib.transforms import offset_copy

    if not spans:
        return
    figure = style.lay_out(ax)
    widest = max(label.get_window_extent().width for label in ax.get_yticklabels()) * style.POINTS / figure.dpi
    line, text = (
        offset_copy(ax.get_yaxis_transform(), figure, x=-widest - out, y=0, units="points") for out in (12, 18)
    )
    for name, first, last in spans:
        ax.plot([0, 0], [first - 0.3, last + 0.3], color=style.GREY, lw=1.2, transform=line, clip_on=False)
        look: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": TEXT, "color": "#555555"}
        ax.text(0, (first + last) / 2, short_name(name, REGION), transform=text, **look)


def _bubbles(ax: Axes, counts: pd.DataFrame, rows: int) -> None:
    """Draw the bubbles of the grid, whose height is that of so many rows."""
    width, height = style.inches(ax)
    column = style.POINTS * width / float(np.diff(ax.get_xlim())[0])
    row = style.POINTS * height / rows
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
    """Draw a bubble of that area for each count (sites, classes) at (xs[class], ys[site]), a dash for zero.

    column, row: size of the grid's cells in points; point: one point in units of x. Numbers are inside bubbles that can
    hold them and to the right of the others; over pale bubbles where columns are narrow, omitted where too narrow.
    """
    largest = counts.max(initial=1)
    wide = DIGIT * (len(f"{largest:,}") + 0.5)
    biggest = min(0.92 * row, 0.8 * column)
    narrow = column < biggest / 2 + 1.5 * wide + 2 * PADDING  # a bubble, the widest number and half a bubble
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
    """Draw the cases of each site as bars in columns right of the grid."""
    room = _width_of_bars(classes)
    start, longest = classes - 0.5 + 0.12 * room, 0.7 * room
    lengths = longest * cases.to_numpy() / max(1, cases.max())
    ax.barh(range(len(cases)), lengths, left=start, height=0.5, color=style.PALE)
    for y, (end, n) in enumerate(zip(start + lengths, cases, strict=True)):
        ax.annotate(f"{n:,}", (end, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=TEXT)
    ax.annotate(unit, (start, -0.5), xytext=(0, 4), textcoords="offset points", color="#555555", fontsize=TEXT)


# -- patients by site ------------------------------------------------------------------------------------------------


def population(
    part: Any, column: str | None = None, *, ax: Axes | None = None, split: str | None = "train"
) -> style.Drawing:
    """Draw a patient characteristic by site: median, quartiles and 5 to 95 % of a number, or shares of levels.

    Parameters
    ----------
    part : Partition
        The partition, as `fedlab.partition` returns it.
    column : str, optional
        A column of the cases' table. By default the one that the population axis acts on, else age or sex.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    split : {"train", "val", "test"}, default "train"
        The cases to describe; None for all.

    Returns
    -------
    Drawing
        (figure, table). table: a row a site with n (cases with a value) and quantiles ("5 %" to "95 %") or shares.

    Raises
    ------
    ValueError
        If the cases have no such column, or neither age nor sex and `column` is not given.

    Examples
    --------
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=3, population=0.5)
    >>> list(fedlab.plots.population(part, "age").table.columns)
    ['n', '5 %', '25 %', '50 %', '75 %', '95 %']
    """
    name = column or population_column(part)
    table = by_site(part, name, split)
    number = "50 %" in table
    head, foot = (0.05, FOOT) if number else (HEAD, 0.05)
    rows, row = style.fitting(len(table), ROW)
    shown, left = table.iloc[:rows], len(table) - rows
    size = (9.0, head + row * rows + foot + 0.25 * (left > 0))
    with sheet(ax, *size, titles.population(table, name)) as ax:
        labels = site_labels(part, shown.index)
        wide = max(map(length, labels)) + 0.15
        ys = np.asarray(head + row * (np.arange(rows) + 0.5), np.float64)
        for y, label in zip(ys, labels, strict=True):
            write(ax, 0, y, label, color="#222222")
        if left:
            write(ax, 0, size[1] - 0.12, more(left, "sites"), color="#222222")
        box = Box(wide + 0.75, 0, size[0], size[1])
        for y, n in zip(ys, shown["n"], strict=True):
            write(ax, wide + 0.6, y, f"n={n:,}", align="right", color="#555555")
        draw_population(ax, box, shown, name, ys, row, "all cases" if split is None else f"{SPLITS[split]} cases")
    return style.Drawing(style.root(ax), table)


def population_column(part: Any, fallback: bool = False) -> str:
    """Return the column that the population axis acts on; ValueError (or "" as a fallback) if the cases have none."""
    levels = getattr(part, "levels", {})
    if "population" in levels:
        return str(levels["population"].name)
    known = [name for name in ("age", "sex") if name in part.cases.table]
    if known or fallback:
        return known[0] if known else ""
    raise ValueError(f"the cases have neither age nor sex: name a column, one of {_columns(part)}")


def _columns(part: Any) -> list[str]:
    return [name for name in part.cases.table if name not in ("case", "label", "patient", "split", "site")]


def by_site(part: Any, name: str, split: str | None, order: Sequence[str] = ()) -> pd.DataFrame:
    """Describe a column by site, in order of size or as given: n, then quantiles of a number or shares of levels."""
    values = _values(part, name)
    known, number = values.notna().to_numpy(), numeric(values)
    content = values.to_numpy(np.float64) if number else _kinds(values).to_numpy(object)
    rows = {site: _rows(part, site, split) for site in part.sites}
    seen = {site: content[index][known[index]] for site, index in rows.items()}
    sizes = pd.Series({site: len(index) for site, index in rows.items()})
    names = [f"{100 * q:.0f} %" for q in QUANTILES] if number else _levels(np.concatenate(list(seen.values())))
    describe = _quantiles if number else _shares_of(names)
    lines = [(len(seen[site]), *describe(seen[site])) for site in order or site_order(part, sizes)]
    return pd.DataFrame(lines, columns=["n", *names], index=pd.Index(order or site_order(part, sizes), name="site"))


def _rows(part: Any, site: str, split: str | None) -> NDArray[np.int64]:
    return np.concatenate([part.index(site, one) for one in (SPLITS if split is None else (split,))])


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)


def _levels(values: NDArray[np.object_]) -> list[str]:
    return sorted(set(values), key=lambda kind: (kind == OTHERS, kind))


def _shares_of(names: list[str]) -> Callable[[NDArray[np.object_]], list[float]]:
    return lambda values: [float((values == name).mean()) if len(values) else np.nan for name in names]


def numeric(values: pd.Series) -> bool:
    """Return whether a column is a number with more than two values."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.nunique() > 2


def _values(part: Any, name: str) -> pd.Series:
    """Return (n,) values of all cases, of a column or of the synthetic covariate."""
    levels = getattr(part, "levels", {}).get("population")
    if name not in part.cases.table and levels is not None and levels.name == name:
        return pd.Series(np.array(levels.names, object)[levels.of])
    if name not in part.cases.table:
        raise ValueError(f"the cases have no column {name!r}: {nearest(name, _columns(part) or ['none'])}")
    return part.cases.table[name]


def _kinds(values: pd.Series) -> pd.Series:
    """Convert levels to text, the rarest beyond KINDS pooled."""
    values = values.astype(str)
    common = values.value_counts().index
    return values if len(common) <= KINDS else values.where(values.isin(common[: KINDS - 1]), OTHERS)


def draw_population(
    ax: Axes, box: Box, table: pd.DataFrame, name: str, ys: NDArray[np.float64], row: float, of: str = ""
) -> None:
    """Draw the table in a block of a sheet; of: the cases described, written at a scale below, else a heading."""
    if "50 %" in table:
        _boxes(ax, box, table, name, ys, row, of)
    else:
        _shares(ax, box, table, name, ys, row)


def _boxes(ax: Axes, box: Box, table: pd.DataFrame, name: str, ys: NDArray[np.float64], row: float, of: str) -> None:
    low, high = float(np.nanmin(table["5 %"])), float(np.nanmax(table["95 %"]))
    spare = 0.04 * (high - low or 1.0)
    low, high = low - spare, high + spare

    def at(values: Any) -> NDArray[np.float64]:
        return box.left + box.width * (np.asarray(values, float) - low) / (high - low)

    known = table["n"].to_numpy() > 0
    x = {column: at(table[column])[known] for column in ("5 %", "25 %", "50 %", "75 %", "95 %")}
    segments(ax, x["5 %"], x["95 %"], ys[known], colors=style.GREY, linewidths=1.0)
    half = min(0.13, 0.28 * row)
    boxes = [Box(a, y - half, b, y + half) for a, b, y in zip(x["25 %"], x["75 %"], ys[known], strict=True)]
    bars(ax, boxes, facecolors="#b3d4e8", zorder=2)
    ax.vlines(x["50 %"], ys[known] - half, ys[known] + half, color=style.BLUE, lw=2.0, zorder=3)
    unit = ", years" if name == "age" else ""
    if not of:
        write(ax, box.left, box.top + 0.12, short(f"{name}{unit}", box.width), color="#555555")
        _ends(ax, box, at, low + spare, high - spare, ys[-1] + 0.62 * row)
        return
    bottom = ys[-1] + 0.6 * row
    ax.hlines(bottom, box.left, box.right, color="#666666", lw=0.8)
    for tick in _round_numbers(low, high):
        ax.vlines(at(tick), bottom, bottom + 0.05, color="#666666", lw=0.8)
        write(ax, float(at(tick)), bottom + 0.14, f"{tick:g}", align="center", color="#333333")
    words = f"{short_name(name, REGION)}{unit}: median, interquartile range and 5 to 95 % of {of}"
    fits = length(words) < box.width
    middle, align = ((box.left + box.right) / 2, "center") if fits else (box.right, "right")
    write(ax, middle, bottom + 0.34, words, align=align, color="#333333")


def _ends(ax: Axes, box: Box, at: Any, low: float, high: float, y: float) -> None:
    """Write two round numbers under the boxes of a small block."""
    inner = list(_round_numbers(low, high))
    for tick in (inner[0], inner[-1]) if len(inner) > 1 else inner:
        write(ax, float(at(tick)), y, f"{tick:g}", align="center", color="#555555", size=8)


def _round_numbers(low: float, high: float) -> NDArray[np.float64]:
    from matplotlib.ticker import MaxNLocator

    ticks = np.asarray(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high), np.float64)
    return ticks[(ticks >= low) & (ticks <= high)]


def _shares(ax: Axes, box: Box, table: pd.DataFrame, name: str, ys: NDArray[np.float64], row: float) -> None:
    """Draw shares of levels as stacked bars under a legend."""
    kinds = [column for column in table if column != "n"]
    half, known = min(0.13, 0.28 * row), table["n"].to_numpy() > 0
    edges = box.left + box.width * np.column_stack([np.zeros(len(table)), table[kinds].fillna(0).cumsum(axis=1)])
    for k, kind in enumerate(kinds):
        parts = [Box(edges[i, k], y - half, edges[i, k + 1], y + half) for i, y in enumerate(ys) if known[i]]
        bars(ax, parts, facecolors=TINTS[k % len(TINTS)])
        for i, y in enumerate(ys):
            if known[i] and edges[i, k + 1] - edges[i, k] > length("100 %") and len(ys) <= 12 and k < 2:
                color = "white" if k == 0 else "#222222"
                middle = (edges[i, k] + edges[i, k + 1]) / 2
                write(ax, middle, y, titles.percent(table[kind].iloc[i]), align="center", color=color, size=8)
    x, room = box.left, box.width
    heading = short(f"{name}:", room / 2)
    write(ax, x, box.top + 0.12, heading, color="#555555")
    x += length(heading) - length(":") + 0.12
    called = list(names(kinds, KIND).values())
    ends = x + np.cumsum([length(text) + 0.27 for text in called]) - 0.07
    whole = bool(ends[-1] <= box.right + 0.01) if kinds else True
    for k, text in enumerate(called):
        rest = f"+ {len(kinds) - k} more"
        if not whole and (k + 1 == len(kinds) or ends[k] + 0.07 + length(rest) > box.right):
            if x + length(rest) <= box.right + 0.05:
                write(ax, x, box.top + 0.12, rest, color="#555555")
            break
        bars(ax, [Box(x, box.top + 0.06, x + 0.12, box.top + 0.18)], facecolors=TINTS[k % len(TINTS)])
        write(ax, x + 0.17, box.top + 0.12, text, color="#555555", size=TEXT)
        x += length(text) + 0.27
