"""What each site gains from a federated method over its local model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import style, titles
from fedlab.plots.reading import (
    OUTSIDE,
    SUMMARIES,
    away_name,
    by_size,
    headline_metric,
    is_away,
    listed,
    training_sizes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = 24.0  # points that the header of the gain column takes above the axes
SHOWN = ["method", "site", "n", "value", "low", "high", "gain", "gain_low", "gain_high", "note"]  # below the figure


def local_vs_global(
    runs: Any, metric: str | None = None, *, ax: Axes | None = None, method: str | None = None, by: str | None = None
) -> style.Drawing:
    """Local-only, federated and centralized models at every site, with 95 % intervals and the paired gain.

    runs: runs of one setting, or the frame that `fedlab.compare` made of them. metric: the runs' headline if None.
    method: the only federated method to draw. by: a setting in which runs of one method differ. Returns the figure and
    its table: the frame's rows with the columns n (training cases of the site; its compared cases where only a frame is
    given) and gain, gain_low, gain_high: the difference to the reference, positive where it is better, and clear (1 or
    -1 where its interval excludes zero).
    """
    frame, sizes, counted = _read(runs, metric, method, by)
    table = gains(frame, sizes)
    name, lanes = str(table["metric"].iloc[0]), _federated(table)
    rows = [*by_size(sizes), *(s for s in SUMMARIES if s in set(table["site"])), *_away(table)]
    places = {row: i + (1.0 if is_away(row) else 0.5 if row in SUMMARIES else 0.0) for i, row in enumerate(rows)}
    pitch = 0.36 if len(lanes) < 2 else 0.2 + 0.17 * (len(lanes) + 1)
    with style.page(ax, 9, 1.5 + pitch * (places[rows[-1]] + 1)) as ax:
        _frame(ax, places, _row_names(table, rows, sizes))
        ax.set_xlabel(f"{style.metric_label(name)} on the site's own test cases, 95 % bootstrap interval; n: {counted}")
        _marks(ax, table, places, lanes)
        _notes(ax, table, places)
        _gain_column(ax, table, places, lanes)
        style.headline(ax, _finding(table, name, lanes), pad=_legend(ax, table) + 6)
    table.attrs["shown"] = SHOWN
    return style.Drawing(style.root(ax), table)


def _read(
    runs: Any, metric: str | None, method: str | None, by: str | None = None
) -> tuple[pd.DataFrame, pd.Series, str]:
    """(comparison, n of each site, what n counts)."""
    if isinstance(runs, pd.DataFrame):
        frame = runs if metric is None else runs[runs["metric"] == metric]
        sizes = frame[~frame["site"].isin([*OUTSIDE, *_away(frame)])].groupby("site", sort=False)["cases"].max()
        counted = "compared cases"
    else:
        from fedlab.analysis.comparison import compare

        found = listed(runs)
        frame = compare(found, headline_metric(found, metric), by=by)
        sites = frame.loc[~frame["site"].isin([*OUTSIDE, *_away(frame)]), "site"].unique()
        sizes, counted = training_sizes(found).reindex(sites, fill_value=0), "training cases"
    if method is not None:
        known = sorted(set(frame["method"]))
        if method not in known:
            raise ValueError(f"found no method {method!r} in the comparison: choose one of {known}")
        frame = frame[(frame["method"] == method) | ~frame["method"].map(style.is_federated)]
    if frame.empty:
        raise ValueError(f"the comparison holds no row of metric {metric!r}: compare the runs by it first")
    return frame, sizes, counted


def _away(frame: pd.DataFrame) -> list[str]:
    """Unseen sites, below all others."""
    return [site for site in frame["site"].unique() if is_away(site)]


def gains(frame: pd.DataFrame, sizes: pd.Series) -> pd.DataFrame:
    """The rows drawn, with n, the gain (positive: better than the reference), its interval, and whether it is clear.

    clear: 1 or -1 where the interval excludes zero, else 0; also 0 where the interval has no width, as at a site of so
    few test cases that they resample to themselves. Summaries of several sites and unseen sites are rows like sites;
    cases of no site are left out.
    """
    rows = [*sizes.index, *(SUMMARIES if len(sizes) > 1 else ()), *_away(frame)]
    kept = frame[frame["site"].isin(rows)].reset_index(drop=True)
    up = style.rises(str(kept["metric"].iloc[0]))
    ends = ["difference_low", "difference_high"] if up else ["difference_high", "difference_low"]
    sign = 1.0 if up else -1.0
    low, high = sign * kept[ends[0]], sign * kept[ends[1]]
    clear = np.where(high > low, (low > 0).astype(int) - (high < 0), 0)
    n = kept["site"].map(sizes)
    return kept.assign(n=n, gain=sign * kept["difference"], gain_low=low, gain_high=high, clear=clear)


def _federated(table: pd.DataFrame) -> list[str]:
    """Federated methods in the table's order."""
    return [str(method) for method in table["method"].unique() if style.is_federated(str(method))]


def _finding(table: pd.DataFrame, metric: str, lanes: list[str]) -> str:
    """The title, of the federated method with the best mean over sites."""
    sites = table[~table["site"].isin([*SUMMARIES, *_away(table)])]
    candidates = lanes or [str(table["method"].iloc[-1])]
    means = sites.groupby("method")["value"].mean()[candidates].fillna(-np.inf if style.rises(metric) else np.inf)
    best = str(means.idxmax() if style.rises(metric) else means.idxmin())
    return titles.local_vs_global(sites[sites["method"] == best], metric, best, max(1, len(lanes)))


def _row_names(table: pd.DataFrame, rows: Sequence[str], sizes: pd.Series) -> list[str]:
    """Sites with their n; a mean says how many sites it is of."""
    defined = table[table["site"].isin(sizes.index)].groupby("site")["value"].apply(lambda v: v.notna().any())
    mean = "mean of sites" if defined.all() else f"mean of {defined.sum()} of {len(sizes)} sites"
    return [
        f"{row}  n={sizes[row]:,}" if row in sizes.index else mean if row == "mean of sites" else away_name(row)
        for row in rows
    ]


def _frame(ax: Axes, places: dict[str, float], names: list[str]) -> None:
    ax.set_yticks(list(places.values()), names)
    ax.set_ylim(max(places.values()) + 0.6, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for block in ([row for row in places if row in SUMMARIES], [row for row in places if is_away(row)]):
        if block:
            ax.axhline(places[block[0]] - 0.75, color=style.PALE, lw=0.8)


def _offsets(methods: Sequence[str], lanes: list[str]) -> dict[str, tuple[float, float]]:
    """(marker, interval) of each method below the row's middle, in rows.

    One federated method shares the line with the local one, intervals beside it; several get a lane each. The
    centralized interval lies above all, on top of its tick.
    """
    if len(lanes) < 2:
        apart = {"local": 0.17, "centralized": -0.3}
        return {m: (0.0, apart.get(style.family(m), -0.17)) for m in methods}
    order = [m for m in methods if style.family(m) == "local"] + lanes
    step = 0.8 / len(order)
    found = {m: ((i - (len(order) - 1) / 2) * step,) * 2 for i, m in enumerate(order)}
    return found | {m: (0.0, -0.44) for m in methods if style.family(m) == "centralized"}


def _marks(ax: Axes, table: pd.DataFrame, places: dict[str, float], lanes: list[str]) -> None:
    """Intervals and markers, over bars from the local to each federated value."""
    roles = style.roles(table["method"])
    offsets = _offsets(list(roles), lanes)
    local = table[table["method"].map(style.family) == "local"].set_index("site")["value"]
    for row in table.itertuples():
        method, role = str(row.method), roles[str(row.method)]
        marker, interval = (places[str(row.site)] + offset for offset in offsets[method])
        ax.plot([row.low, row.high], [interval] * 2, color=role.color, lw=1.1, zorder=2)
        if style.family(method) == "centralized":
            ax.plot(
                [row.value] * 2, [interval, 2 * marker - interval], color=role.color, lw=1.8, zorder=2, gid=_gid(row)
            )
            continue
        if method in lanes and row.site in local:
            ax.plot([local[row.site], row.value], [marker] * 2, color=style.PALE, lw=4.5, zorder=1)
        ax.plot(
            row.value, marker, marker=role.marker, markersize=6.5, mew=0, color=role.color, ls="none", gid=_gid(row)
        )


def _gid(row: Any) -> str:
    """The name of a mark in the figure and in its SVG file."""
    return f"{row.method} at {row.site}"


def _notes(ax: Axes, table: pd.DataFrame, places: dict[str, float]) -> None:
    """Sites where no method has a value say why."""
    for site, rows in table.groupby("site", sort=False):
        if rows["value"].notna().any():
            continue
        note = next((text for text in rows["note"].astype(str) if text.strip() and text != "nan"), "")
        text = f"undefined: {note}" if note else "undefined"
        ax.text(
            0.01, places[str(site)], text, transform=ax.get_yaxis_transform(), va="center", style="italic", fontsize=8
        )


def _gain_column(ax: Axes, table: pd.DataFrame, places: dict[str, float], lanes: list[str]) -> None:
    """The paired gain and its interval, right of the axes; bold where the interval excludes zero."""
    drawn = table[table["method"].isin(lanes) & table["gain"].notna()]
    if drawn.empty:
        return
    metric, versus = str(drawn["metric"].iloc[0]), drawn["versus"].iloc[0]
    roles = style.roles(table["method"])
    offsets = _offsets(list(roles), lanes)
    for row in drawn.itertuples():
        ends = f"{titles.number(row.gain_low, metric)} to {titles.number(row.gain_high, metric)}"
        place = places[str(row.site)] + (offsets[str(row.method)][0])
        look = {"va": "center", "fontsize": 8, "color": roles[str(row.method)].ink}
        _beside(ax, place, 12, titles.number(row.gain, metric), weight="bold" if row.clear else "normal", **look)
        _beside(ax, place, 50, ends, **look)
    header = f"gain over {versus}, {titles.unit(metric)}\n(bold: interval excludes 0)"
    _beside(ax, ax.get_ylim()[1], 12, header, va="bottom", fontsize=8, color="#555555")


def _beside(ax: Axes, place: float, points: float, text: str, **look: Any) -> None:
    """Text right of the axes, level with a row."""
    ax.annotate(
        text,
        (1.0, place),
        xycoords=ax.get_yaxis_transform(),
        xytext=(points, 0),
        textcoords="offset points",
        annotation_clip=False,
        **look,
    )


def _legend(ax: Axes, table: pd.DataFrame) -> float:
    """Names of the methods above the axes, in as few lines as fit; returns the points that they and the header take."""
    from matplotlib.lines import Line2D

    roles = style.roles(table["method"])
    names = sorted(table["method"].unique(), key=lambda m: {"local": 0, "centralized": 2}.get(style.family(m), 1))
    handles = [
        Line2D([], [], color=role.color, marker=role.marker, lw=1.1, markersize=6.5, mew=1.8 * (role.marker == "|"))
        for role in (roles[name] for name in names)
    ]
    look: dict[str, Any] = {"loc": "lower left", "borderaxespad": 0, "borderpad": 0.2, "columnspacing": 1.4}
    dpi, room = style.root(ax).dpi, 0.95 * style.inches(ax)[0]
    for columns in range(len(names), 0, -1):
        box = ax.legend(handles, names, bbox_to_anchor=(0, 1), ncols=columns, **look).get_window_extent()
        if box.width <= room * dpi:
            break
    return max(HEADER, float(box.height / dpi * style.POINTS))
