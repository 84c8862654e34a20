"""Measured heterogeneity: shift of each axis against its null (`shift`), and shift against dose (`doses`)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.plots import style, titles
from fedlab.plots.names import more
from fedlab.plots.names import name as short_name
from fedlab.plots.sheet import Box, bars, extent, segments, sheet, short, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "quantity": "Number of cases",
    "prevalence": "Disease prevalence",
    "presentation": "Disease presentation",
    "population": "Patient population",
    "acquisition": "Image acquisition",
    "annotation": "Annotation",
    "geography": "Geography",
}
WRITTEN = {"MMD^2 within class": "MMD²", "MMD^2": "MMD²"}
MEASURES = {  # in words
    "Gini": "Gini coefficient",
    "I(S;Y)": "site–class information",
    "I(S;Z|Y)": "site–subtype information",
    "I(S;A|Y)": "site–patient information",
    "MMD^2 within class": "image discrepancy",
    "I(S;Y'|Y)": "site–error information",
    "regional share": "share between regions",
}
TICKS = (0, 1, 3, 10, 30, 100)
LEAST, MOST = -1.6, 250.0  # ends of the scale, in half-widths of the null interval
ROW, HEAD, FOOT = 0.25, 0.3, 0.6  # inches
DOSE, WORDS = 0.62, 4.4  # inches of the columns left and right of the scale
NAME = 20  # characters of a measure
MEASURE, CHANCE = 3.52, 1.16  # inches from the right: where measures and null intervals begin
NARROW, SYMBOL = 8.0, 2.1  # inches below which measures are written as symbols, and where these begin
COLUMNS = ["axis", "dose", "seed", "measured", "measure", "value", "null_low", "null", "null_high"]
ACROSS = 4  # panels of `doses` in a row
PANEL, LEFT, ABOVE, BELOW = 1.45, 0.78, 0.32, 0.5  # inches: height of such a panel, room around it
WIDTH = 10.6  # inches of `doses`


# -- shift of each axis ----------------------------------------------------------------------------------------------


def shift(thing: Any, *, ax: Axes | None = None, every: bool = False) -> style.Drawing:
    """Draw the measured shift of each axis with its 95 % interval, against its permutation null.

    Measures of different units share one scale, in multiples of what chance alone can reach: 0 is the mean of the
    null, 1x the upper end of its 95 % interval (grey). It says how surely a shift differs from random assignment, not
    how large it is; the measured value is written next to it. Filled points lie outside the null interval.

    Parameters
    ----------
    thing : Partition or pandas.DataFrame
        A partition, or the frame of its `shift`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    every : bool, default False
        Draw every measure instead of one headline measure an axis.

    Returns
    -------
    Drawing
        (figure, table). table: the rows of the frame that are drawn, with `distance` (on that scale) and `beyond`
        (outside the null interval).

    Examples
    --------
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=2, prevalence=0.9)
    >>> table = fedlab.plots.shift(part.shift(brief=True)).table
    >>> bool(table.set_index("axis").loc["prevalence", "beyond"])
    True
    """
    frame = thing if isinstance(thing, pd.DataFrame) else thing.shift()
    table = judged(frame if every else headlines(frame))
    requested = {} if isinstance(thing, pd.DataFrame) else thing.spec
    rows, _ = style.fitting(len(table), ROW, least=ROW)
    left = len(table) - rows
    height = HEAD + rows * ROW + FOOT
    with sheet(ax, 9, height + 0.25 * (left > 0), titles.shift(table)) as ax:
        draw_shift(ax, Box(0, 0, 9, height), table.iloc[:rows], requested, every)
        if left:
            write(ax, 0, height + 0.12, more(left, "rows"))
    return as_drawing(ax, table)


def headlines(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep one row an axis, in the order of `fedlab.AXES`: its headline measure, or its first if that is absent."""
    order = {axis: place for place, axis in enumerate(HEADLINES)}
    axes = list(frame["axis"])
    other = [HEADLINES.get(axis) != measure for axis, measure in zip(axes, frame["measure"], strict=True)]
    first: dict[str, int] = {}
    for row in sorted(range(len(frame)), key=other.__getitem__):
        first.setdefault(axes[row], row)
    chosen = sorted(first.values(), key=lambda row: (order.get(axes[row], len(order)), other[row]))
    return frame.iloc[chosen].reset_index(drop=True)


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the `distance` from the null in half-widths of its interval, and whether the value lies `beyond` it.

    A measure whose null has one value only is at 0 or, where it differs, at the end of the scale.
    """
    slack = 1e-9 * (1 + frame["value"].abs())
    beyond = (frame["value"] > frame["null_high"] + slack) | (frame["value"] < frame["null_low"] - slack)
    return frame.assign(distance=_distance(frame, frame["value"]), beyond=beyond).reset_index(drop=True)


def as_drawing(ax: Axes, table: pd.DataFrame) -> style.Drawing:
    """Return the figure and the judged rows, of which a notebook shows the columns that were measured."""
    table.attrs["shown"] = [column for column in table.columns if column not in ("distance", "beyond")]
    return style.Drawing(style.root(ax), table)


def _distance(frame: pd.DataFrame, value: pd.Series) -> NDArray[np.float64]:
    """Return (value - mean of the null) / (upper end of the null interval - mean of the null) of each row."""
    high, null, found = (column.to_numpy(float) for column in (frame["null_high"], frame["null"], value))
    unit, away = high - null, found - null
    away = np.where(np.abs(away) <= 1e-9 * (1 + np.abs(null)), 0.0, away)
    far = np.where(away == 0, 0.0, np.copysign(np.inf, away))
    return np.divide(away, unit, out=far, where=unit > 1e-12)


def draw_shift(ax: Axes, box: Box, table: pd.DataFrame, requested: dict[str, Any], every: bool = False) -> None:
    """Draw the rows of a judged table in a block of a sheet: name, dose, scale with null and interval, value.

    An axis that was not measured has a row without a mark.
    """
    name = 2.3 if every else 1.45
    words = box.right - box.left >= NARROW
    measure = MEASURE if words else SYMBOL
    left = box.left + name + DOSE
    right = box.right - WORDS + (MEASURE - CHANCE - 0.2 if every else MEASURE - measure)
    ys = box.top + HEAD + ROW * (np.arange(len(table)) + 0.5)
    _scale(ax, left, right, box.top + HEAD - 0.05, ys[-1] + 0.7 * ROW if len(ys) else box.top + HEAD)
    for title, x, align in (
        ("dose", left - 0.22, "right"),
        ("measured", right + 0.2, "left"),
        ("measure", box.right - measure, "left"),
        ("by chance, 95 %", box.right - CHANCE, "left"),
    ):
        if (title != "dose" or requested) and not (title == "measure" and every):
            write(ax, x, box.top + 0.12, title, align=align, color="#555555")
    for y, row in zip(ys, table.itertuples(), strict=True):
        ink, weight = ("#222222", "bold") if row.beyond else ("#555555", "normal")
        label = NAMES.get(str(row.axis), str(row.axis))
        text = f"{label}: {row.measure}" if every else label if str(row.axis) in NAMES else short(label, name)
        write(ax, box.left, y, short(text, name) if every else text, color=ink)
        room = left - 0.3 - box.left - extent(short(text, name))
        write(ax, left - 0.22, y, dose_text(requested.get(str(row.axis)), room), align="right", color=ink)
        write(ax, right + 0.2, y, value_text(row), color=ink, fontweight=weight)
        if not every and pd.notna(row.value):
            written = in_words(str(row.measure)) if words else WRITTEN.get(str(row.measure), str(row.measure))
            write(ax, box.right - measure, y, written, color="#555555")
        write(ax, box.right - CHANCE, y, null_text(row), color="#555555")
    known = table["value"].notna().to_numpy()
    _marks(ax, table[known], ys[known], left, right)


def _place(distance: ArrayLike, left: float, right: float) -> NDArray[np.float64]:
    """Place distances in inches on a scale that is linear within the null, logarithmic beyond, and clipped."""
    x = np.clip(np.nan_to_num(np.asarray(distance, float), posinf=MOST, neginf=LEAST), LEAST, MOST)
    start, end, at = (np.sign(v) * np.log1p(np.abs(v)) for v in (LEAST, MOST, x))
    return np.asarray(left + (right - left) * (at - start) / (end - start))


def _scale(ax: Axes, left: float, right: float, top: float, bottom: float) -> None:
    """Draw the grid and the label of the scale."""
    places = _place(TICKS, left, right)
    ax.vlines(places, top, bottom, color="#eceef1", lw=0.8, zorder=0)
    end = -math.inf
    for tick, place in zip(TICKS, places, strict=True):
        text = f"{tick}×" if tick else "0"
        half = extent(text, 8) / 2
        if place - half > end + 0.06:  # in a narrow figure some have no room
            write(ax, place, bottom + 0.1, text, align="center", color="#555555", size=8)
            end = place + half
    words = "measured shift, in multiples of\nwhat chance can reach (1×, grey)"
    write(ax, (left + right) / 2, bottom + 0.34, words, align="center", color="#333333")


def _marks(ax: Axes, table: pd.DataFrame, ys: NDArray[np.float64], left: float, right: float) -> None:
    """Draw null intervals, intervals and points, each as one artist."""
    if not len(table):
        return
    low, high = (_place(_distance(table, table[end]), left, right) for end in ("null_low", "null_high"))
    bands = [Box(a, y - 0.32 * ROW, b, y + 0.32 * ROW) for a, b, y in zip(low, high, ys, strict=True)]
    bars(ax, bands, facecolors=style.PALE, zorder=1)
    beyond = table["beyond"].tolist()
    colors = [style.BLUE if far else style.GREY for far in beyond]
    start, end = (_place(_distance(table, table[end]), left, right) for end in ("low", "high"))
    segments(ax, start, end, ys, colors=colors, linewidths=1.3, zorder=2)
    faces = [style.BLUE if far else "white" for far in beyond]
    at = _place(table["distance"], left, right)
    ax.scatter(at, ys, s=34, c=faces, edgecolors=colors, linewidths=1.3, zorder=3)


def dose_text(value: Any, room: float) -> str:
    """Format the requested dose or scheme of an axis in at most `room` inches."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = short(value, DOSE + 0.2)
        return text if extent(text) <= room else short(value, room)
    return f"{value:.2f}" if isinstance(value, int | float) else "given"


def value_text(row: Any) -> str:
    """Format a measured value with its unit."""
    if pd.isna(row.value):
        return "–"
    return three(row.value) + (" bit" if str(row.measure).startswith("I(") else "")


def in_words(measure: str) -> str:
    """Name a measure in words, with its symbol behind: "site–class information, I(S;Y)"."""
    symbol = WRITTEN.get(measure, measure)
    if measure not in MEASURES:
        return short(symbol, MEASURE - CHANCE - 0.1)
    return f"{MEASURES[measure]}, {symbol}" if re.search(r"[(²]", symbol) else MEASURES[measure]


def null_text(row: Any) -> str:
    """Format the null interval."""
    return "" if pd.isna(row.null_high) else f"{three(row.null_low)} to {three(row.null_high)}"


def three(value: float) -> str:
    """Format a value with three decimals, with one above 10."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


# -- shift against dose ----------------------------------------------------------------------------------------------


def doses(frame: pd.DataFrame, *, ax: Axes | None = None) -> style.Drawing:
    """Draw requested dose against measured shift, a panel an axis: thin lines are seeds, the thick line their median.

    The null interval is grey. A legend below the panels names all three.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `fedlab.dose_response` returned: columns axis (the one dosed), dose, seed, measured (the axis of the
        measure), measure, value, null_low, null, null_high.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Drawing
        (figure, table). table: medians over seeds by axis and dose, and `beyond`: the share of seeds outside the null
        interval.

    Raises
    ------
    ValueError
        If columns are missing, or the frame measures none of the axes that it doses.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=120, size=16)")
    >>> frame = fedlab.dose_response(cases, axes=["quantity"], doses=[0.0, 1.0], seeds=[0], sites=2)
    >>> list(fedlab.plots.doses(frame).table["dose"])
    [0.0, 1.0]
    """
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}: pass what `fedlab.dose_response` returned")
    marked = frame.assign(beyond=(frame["value"] > frame["null_high"]) | (frame["value"] < frame["null_low"]))
    own = _own(marked)
    axes = [axis for axis in HEADLINES if axis in set(own["axis"])]
    across = min(ACROSS, len(axes))
    rows = math.ceil(len(axes) / max(1, across))
    table = _medians(own)
    with style.page(ax, WIDTH, 0.7 + rows * (PANEL + ABOVE + BELOW)) as ax:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_axis_off()
        for place, axis in enumerate(axes):
            panel = ax.inset_axes(_panel_box(place, rows, across))
            _draw_panel(panel, own[own["axis"] == axis], table[table["axis"] == axis])
            panel.set_title(NAMES[axis], fontsize=9, fontweight="bold", loc="left", pad=4)
            panel.set_ylabel(_measure(own, axis), fontsize=8)
            if place + across >= len(axes):
                panel.set_xlabel("dose")
        _dose_legend(ax, int(table["seeds"].max()))
        style.headline(ax, titles.doses(table, marked[marked["measured"] != marked["axis"]]), pad=6)
    return style.Drawing(style.root(ax), table)


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of each axis's own measure: its headline, or the first if that is absent."""
    own = frame[frame["measured"] == frame["axis"]]
    if own.empty:
        raise ValueError("the frame measures no axis that it doses: keep rows where `measured` equals `axis`")
    there = own.groupby("axis")["measure"].agg(lambda names: _first(names.name, list(names)))
    return own[own["measure"] == own["axis"].map(there)]


def _first(axis: Any, names: list[str]) -> str:
    return HEADLINES[str(axis)] if HEADLINES.get(str(axis)) in names else names[0]


def _measure(own: pd.DataFrame, axis: str) -> str:
    name = str(own.loc[own["axis"] == axis, "measure"].iloc[0])
    symbol = WRITTEN.get(name, short_name(name, NAME)) + (", bit" if name.startswith("I(") else "")
    return "\n".join([MEASURES.get(name, ""), symbol if symbol not in MEASURES else ""]).strip()


def _dose_legend(ax: Axes, seeds: int) -> None:
    """Explain thick and thin lines and the band, below the panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: dict[str, Any] = {f"median of {seeds} partitions": Line2D([], [], color=style.BLUE, marker="o", ms=3)}
    if seeds > 1:
        marks["one partition (seed)"] = Line2D([], [], color=style.BLUE, lw=0.6, alpha=0.4)
    else:
        marks = {"one partition": marks.popitem()[1]}
    marks["expected by chance, 95 %"] = Patch(color=style.PALE)
    look: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 0, "ncols": 3}
    ax.legend(list(marks.values()), list(marks), **look)


def _medians(own: pd.DataFrame) -> pd.DataFrame:
    """Compute by axis and dose the medians over seeds of value and null, the share of seeds beyond it, and seeds."""
    wanted = {name: (name, "median") for name in ("value", "null_low", "null", "null_high")}
    grouped = own.groupby(["axis", "measure", "dose"], sort=False)
    table = grouped.agg(**wanted, beyond=("beyond", "mean"), seeds=("seed", "nunique")).reset_index()
    order = {axis: place for place, axis in enumerate(HEADLINES)}
    return table.sort_values(["axis", "dose"], key=lambda c: c.map(order) if c.name == "axis" else c, ignore_index=True)


def _panel_box(place: int, rows: int, across: int) -> tuple[float, float, float, float]:
    """Return a panel's left, bottom, width and height as fractions of the figure."""
    row, column = divmod(place, across)
    pitch = 1 / rows
    high = PANEL + ABOVE + BELOW
    wide = 1 / across
    margin = LEFT / WIDTH
    return (
        column * wide + margin,
        1 - (row + 1) * pitch + pitch * BELOW / high,
        wide - margin - 0.01,
        pitch * PANEL / high,
    )


def _draw_panel(panel: Axes, own: pd.DataFrame, medians: pd.DataFrame) -> None:
    x = medians["dose"].to_numpy()
    panel.fill_between(x, medians["null_low"], medians["null_high"], color=style.PALE, lw=0, zorder=1)
    for _, rows in own.sort_values("dose").groupby("seed"):
        panel.plot(rows["dose"], rows["value"], color=style.BLUE, lw=0.6, alpha=0.4, zorder=2)
    panel.plot(x, medians["value"], color=style.BLUE, marker="o", ms=3, zorder=3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlim(-0.02, 1.02)
    panel.set_ylim(bottom=min(0.0, float(medians["null_low"].min()), float(own["value"].min())))
    panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panel.locator_params(axis="y", nbins=4)
    panel.tick_params(labelsize=8)
