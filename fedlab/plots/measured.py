"""The shift that sites realise, beside what chance would make of the same cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.plots import style, titles
from fedlab.plots.sheet import Box, bars, segments, sheet, short, write

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
TICKS = (0, 1, 3, 10, 30, 100, 300)
LEAST, MOST = -1.6, 600.0  # ends of the scale, in units of the band
ROW, HEAD, FOOT = 0.25, 0.3, 0.5  # inches
DOSE, WORDS = 0.62, 2.75  # inches of the columns left and right of the scale


def shift(thing: Any, *, ax: Axes | None = None, every: bool = False) -> style.Drawing:
    """How far each axis lies from chance, with its interval: the headline measure of each axis, or every measure.

    thing: a Partition, or the frame of its `shift`. Measures of different units share one scale: 0 is what chance makes
    on average, 1 the upper end of its band, so that what lies beyond the grey band is more than chance. Returns the
    figure and the rows drawn, with the columns `distance` (on that scale) and `beyond` (outside the band).
    """
    frame = thing if isinstance(thing, pd.DataFrame) else thing.shift()
    table = judged(frame if every else headlines(frame))
    rows, asked = len(table), {} if isinstance(thing, pd.DataFrame) else thing.spec
    with sheet(ax, 9, HEAD + rows * ROW + FOOT, titles.shift(table)) as ax:
        draw_shift(ax, Box(0, 0, 9, HEAD + rows * ROW + FOOT), table, asked, every)
    return as_drawing(ax, table)


def headlines(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an axis, in the order of `fedlab.AXES`: its headline measure, or its first where that is absent."""
    order = {axis: place for place, axis in enumerate(HEADLINES)}
    wanted = frame["axis"].map(HEADLINES) == frame["measure"]
    first = frame.assign(wanted=wanted).sort_values("wanted", ascending=False, kind="stable").drop_duplicates("axis")
    return (
        first.drop(columns="wanted")
        .sort_values("axis", key=lambda axis: axis.map(order).fillna(len(order)), kind="stable")
        .reset_index(drop=True)
    )


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with `distance` from chance in units of its band, and whether they lie `beyond` it.

    A measure of which chance has one value only lies at 0 or, where it differs, at the end of the scale.
    """
    slack = 1e-9 * (1 + frame["value"].abs())
    beyond = (frame["value"] > frame["null_high"] + slack) | (frame["value"] < frame["null_low"] - slack)
    return frame.assign(distance=_distance(frame, frame["value"]), beyond=beyond).reset_index(drop=True)


def as_drawing(ax: Axes, table: pd.DataFrame) -> style.Drawing:
    """The figure and the judged rows, of which a notebook shows the columns that were measured."""
    table.attrs["shown"] = [column for column in table.columns if column not in ("distance", "beyond")]
    return style.Drawing(style.root(ax), table)


def _distance(frame: pd.DataFrame, value: pd.Series) -> NDArray[np.float64]:
    """Of each row's value from the mean of chance, in half-widths of the band towards its upper end."""
    unit = (frame["null_high"] - frame["null"]).to_numpy(float)
    away = (value - frame["null"]).to_numpy(float)
    away = np.where(np.abs(away) <= 1e-9 * (1 + np.abs(frame["null"])), 0.0, away)
    far = np.where(away == 0, 0.0, np.copysign(np.inf, away))
    return np.divide(away, unit, out=far, where=unit > 1e-12)


def draw_shift(ax: Axes, box: Box, table: pd.DataFrame, asked: dict[str, Any], every: bool = False) -> None:
    """The rows of a judged table in a block of a sheet: name, dose, scale with band and interval, value in words.

    An axis that was not measured has a row without a mark.
    """
    name = 2.3 if every else 1.45
    left, right = box.left + name + DOSE, box.right - WORDS
    ys = box.top + HEAD + ROW * (np.arange(len(table)) + 0.5)
    _scale(ax, left, right, box.top + HEAD - 0.05, ys[-1] + 0.7 * ROW if len(ys) else box.top + HEAD)
    for title, x, align in (
        ("dose", left - 0.22, "right"),
        ("measured", right + 0.2, "left"),
        ("chance, 95 %", box.right - 1.12, "left"),
    ):
        if title != "dose" or asked:
            write(ax, x, box.top + 0.12, title, align=align, color="#555555")
    for y, row in zip(ys, table.itertuples(), strict=True):
        ink, weight = ("#222222", "bold") if row.beyond else ("#555555", "normal")
        label = NAMES.get(str(row.axis), str(row.axis))
        write(ax, box.left, y, short(f"{label}: {row.measure}", name) if every else label, color=ink)
        write(ax, left - 0.22, y, dose_text(asked.get(str(row.axis))), align="right", color=ink)
        write(ax, right + 0.2, y, value_text(row), color=ink, fontweight=weight)
        write(ax, box.right - 1.12, y, band_text(row), color="#555555")
    known = table["value"].notna().to_numpy()
    _marks(ax, table[known], ys[known], left, right)


def _place(distance: ArrayLike, left: float, right: float) -> NDArray[np.float64]:
    """Inches of distances on a scale that is linear within the band and logarithmic beyond, kept within its ends."""
    x = np.clip(np.nan_to_num(np.asarray(distance, float), posinf=MOST, neginf=LEAST), LEAST, MOST)
    start, end, at = (np.sign(v) * np.log1p(np.abs(v)) for v in (LEAST, MOST, x))
    return np.asarray(left + (right - left) * (at - start) / (end - start))


def _scale(ax: Axes, left: float, right: float, top: float, bottom: float) -> None:
    places = _place(TICKS, left, right)
    ax.vlines(places, top, bottom, color="#eceef1", lw=0.8, zorder=0)
    for tick, place in zip(TICKS, places, strict=True):
        write(ax, place, bottom + 0.1, str(tick), align="center", color="#555555", size=8)
    words = "distance from chance (0: its mean, 1: the end of its band)"
    write(ax, (left + right) / 2, bottom + 0.28, words, align="center", color="#333333")


def _marks(ax: Axes, table: pd.DataFrame, ys: NDArray[np.float64], left: float, right: float) -> None:
    """Bands, intervals and points, each as one artist."""
    if not len(table):
        return
    low, high = (_place(_distance(table, table[end]), left, right) for end in ("null_low", "null_high"))
    bands = [Box(a, y - 0.32 * ROW, b, y + 0.32 * ROW) for a, b, y in zip(low, high, ys, strict=True)]
    bars(ax, bands, facecolors=style.PALE, zorder=1)
    colors = [style.BLUE if beyond else style.GREY for beyond in table["beyond"]]
    start, end = (_place(_distance(table, table[end]), left, right) for end in ("low", "high"))
    segments(ax, start, end, ys, colors=colors, linewidths=1.3, zorder=2)
    faces = [style.BLUE if beyond else "white" for beyond in table["beyond"]]
    at = _place(table["distance"], left, right)
    ax.scatter(at, ys, s=34, c=faces, edgecolors=colors, linewidths=1.3, zorder=3)


def dose_text(value: Any) -> str:
    """What was asked of an axis, as short as it can be read."""
    if value is None:
        return ""
    if isinstance(value, str):
        return short(value, DOSE + 0.2)
    return f"{value:.2f}" if isinstance(value, int | float) else "given"


def value_text(row: Any) -> str:
    if pd.isna(row.value):
        return "–"
    unit = " bit" if str(row.measure).startswith("I(") else ""
    return f"{WRITTEN.get(str(row.measure), row.measure)} {three(row.value)}{unit}"


def band_text(row: Any) -> str:
    return "" if pd.isna(row.null_high) else f"{three(row.null_low)} to {three(row.null_high)}"


def three(value: float) -> str:
    """Three decimals, as far as they are needed."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return "0" if float(text) == 0 else text.replace("-", "−")
