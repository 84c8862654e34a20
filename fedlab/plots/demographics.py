"""Whom each site treats: age or any other column, site by site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.plots import style, titles
from fedlab.plots.reading import SPLITS as SPLIT_NAMES
from fedlab.plots.reading import site_name, site_order
from fedlab.plots.sheet import TEXT, Box, bars, length, segments, sheet, short, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW, HEAD, FOOT = 0.4, 0.3, 0.55  # inches: of a site, of the heading of shares, of the scale of a number
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
KINDS = 6  # levels of a column that are told apart; the rarest share the last one
OTHERS = "other"
TINTS = ("#0072B2", "#8cc0e3", "#d5d9e0", "#a3a8b0", "#5f6670", "#e9ebee")


def population(
    part: Any, column: str | None = None, *, ax: Axes | None = None, split: str | None = "train"
) -> style.Drawing:
    """A column of the cases' table by site: the median and the middle half and 90 % of a number, or shares of levels.

    part: a Partition. column: what the population axis acts on if None (age or sex where the cases have them). split:
    None for all cases. Returns the figure and its table, a row a site: n (cases with a value) and quantiles or shares.
    """
    name = column or population_column(part)
    table = by_site(part, name, split)
    number = "50 %" in table
    head, foot = (0.05, FOOT) if number else (HEAD, 0.05)
    size = (9.0, head + ROW * len(table) + foot)
    with sheet(ax, *size, titles.population(table, name)) as ax:
        names = max(length(site_name(part, site)) for site in table.index) + 0.15
        ys = np.asarray(head + ROW * (np.arange(len(table)) + 0.5), np.float64)
        for y, site in zip(ys, table.index, strict=True):
            write(ax, 0, y, site_name(part, str(site)), color="#222222")
        box = Box(names + 0.75, 0, size[0], size[1])
        for y, n in zip(ys, table["n"], strict=True):
            write(ax, names + 0.6, y, f"n={n:,}", align="right", color="#555555")
        draw_population(ax, box, table, name, ys, ROW, "all cases" if split is None else f"{SPLIT_NAMES[split]} cases")
    return style.Drawing(style.root(ax), table)


def population_column(part: Any, fallback: bool = False) -> str:
    """The column that the population axis looks at; ValueError (or "" as a fallback) where the cases have none."""
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
    """A row a site, in order of size or as given: n, then quantiles of a number or shares of levels."""
    values = _values(part, name)
    known, number = values.notna().to_numpy(), numeric(values)
    content = values.to_numpy(np.float64) if number else _kinds(values).to_numpy(object)
    rows = {site: _rows(part, site, split) for site in part.sites}
    seen = {site: content[index][known[index]] for site, index in rows.items()}
    sizes = pd.Series({site: len(index) for site, index in rows.items()})
    names = [f"{100 * q:.0f} %" for q in QUANTILES] if number else _levels(np.concatenate(list(seen.values())))
    told = _quantiles if number else _shares_of(names)
    lines = [(len(seen[site]), *told(seen[site])) for site in order or site_order(part, sizes)]
    return pd.DataFrame(lines, columns=["n", *names], index=pd.Index(order or site_order(part, sizes), name="site"))


def _rows(part: Any, site: str, split: str | None) -> NDArray[np.int64]:
    return np.concatenate([part.index(site, one) for one in (SPLIT_NAMES if split is None else (split,))])


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)


def _levels(values: NDArray[np.object_]) -> list[str]:
    return sorted(set(values), key=lambda kind: (kind == OTHERS, kind))


def _shares_of(names: list[str]) -> Callable[[NDArray[np.object_]], list[float]]:
    return lambda values: [float((values == name).mean()) if len(values) else np.nan for name in names]


def numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.nunique() > 2


def _values(part: Any, name: str) -> pd.Series:
    """(n,) values of all cases, of a column or of the synthetic covariate."""
    levels = getattr(part, "levels", {}).get("population")
    if name not in part.cases.table and levels is not None and levels.name == name:
        return pd.Series(np.array(levels.names, object)[levels.of])
    if name not in part.cases.table:
        raise ValueError(f"the cases have no column {name!r}: {nearest(name, _columns(part) or ['none'])}")
    return part.cases.table[name]


def _kinds(values: pd.Series) -> pd.Series:
    """Levels as text, the rarest beyond KINDS as one."""
    values = values.astype(str)
    common = values.value_counts().index
    return values if len(common) <= KINDS else values.where(values.isin(common[: KINDS - 1]), OTHERS)


def draw_population(
    ax: Axes, box: Box, table: pd.DataFrame, name: str, ys: NDArray[np.float64], row: float, of: str = ""
) -> None:
    """The table in a block of a sheet, a row a site; of: whom a scale below tells of, else a heading stands above."""
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
        write(ax, box.left, box.top + 0.12, f"{name}{unit}", color="#555555")
        _ends(ax, box, at, low + spare, high - spare, ys[-1] + 0.62 * row)
        return
    bottom = ys[-1] + 0.6 * row
    ax.hlines(bottom, box.left, box.right, color="#666666", lw=0.8)
    for tick in _round_numbers(low, high):
        ax.vlines(at(tick), bottom, bottom + 0.05, color="#666666", lw=0.8)
        write(ax, float(at(tick)), bottom + 0.14, f"{tick:g}", align="center", color="#333333")
    words = f"{name}{unit}: median, middle half and middle 90 % of {of}"
    write(ax, (box.left + box.right) / 2, bottom + 0.34, words, align="center", color="#333333")


def _ends(ax: Axes, box: Box, at: Any, low: float, high: float, y: float) -> None:
    """Two round numbers under the boxes of a small block."""
    inner = list(_round_numbers(low, high))
    for tick in (inner[0], inner[-1]) if len(inner) > 1 else inner:
        write(ax, float(at(tick)), y, f"{tick:g}", align="center", color="#555555", size=8)


def _round_numbers(low: float, high: float) -> NDArray[np.float64]:
    from matplotlib.ticker import MaxNLocator

    ticks = np.asarray(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high), np.float64)
    return ticks[(ticks >= low) & (ticks <= high)]


def _shares(ax: Axes, box: Box, table: pd.DataFrame, name: str, ys: NDArray[np.float64], row: float) -> None:
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
    write(ax, x, box.top + 0.12, short(f"{name}:", room), color="#555555")
    x += length(name) + 0.12
    for k, kind in enumerate(kinds):
        if x + length(kind) + 0.2 > box.right + 0.01:
            break
        bars(ax, [Box(x, box.top + 0.06, x + 0.12, box.top + 0.18)], facecolors=TINTS[k % len(TINTS)])
        write(ax, x + 0.17, box.top + 0.12, kind, color="#555555", size=TEXT)
        x += length(kind) + 0.27
