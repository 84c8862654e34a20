"""What a method reaches against what has to be sent, or how long it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import findings, style
from fedlab.plots.reading import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALIKE = 1.01  # factor between costs that are told apart
AXES = {"megabytes": "megabytes that crossed institutions' borders", "estimated minutes": "estimated minutes"}


def price(
    runs: Any, against: str = "megabytes", *, ax: Axes | None = None, bandwidth: float = 100.0, latency: float = 0.05
) -> style.Drawing:
    """The headline metric of each method, mean of sites and seeds, against its cost on a logarithmic axis.

    runs: runs of one setting. against: "megabytes", or "estimated minutes" with links of `bandwidth` megabits a second
    and `latency` seconds a message, see `fedlab.costs`. Methods that send nothing are dashed lines across. Marks joined
    by a line are those that no other method beats: as good, as cheap, and better in one of the two. Methods without a
    value are not drawn; the title names them. Returns the figure and a table: method, value, cost, best.
    """
    if against not in AXES:
        raise ValueError(f"against={against!r}: choose one of {', '.join(map(repr, AXES))}")
    table = price_table(listed(runs), against, bandwidth, latency)
    metric = str(listed(runs)[0].headline)
    with style.page(ax, 8, 4.2) as ax:
        roles, drawn = style.roles(table["method"]), table.dropna(subset=["value", "cost"])
        sends = drawn[drawn["cost"] > 0]
        frontier = sends[sends["best"]].sort_values("cost")
        ax.plot(frontier["cost"], frontier["value"], color=style.PALE, lw=3, zorder=1)
        for row in sends.itertuples():
            role = roles[str(row.method)]
            ax.plot(row.cost, row.value, marker=role.marker, color=role.color, ls="none", ms=8, zorder=3)
        _logarithmic(ax)
        _room(ax, drawn)
        for row in drawn[drawn["cost"] <= 0].itertuples():
            ax.axhline(row.value, color=roles[str(row.method)].color, lw=1.2, dashes=(4, 2), zorder=1)
        _names(ax, drawn, roles)
        links = f" at {bandwidth:g} Mbit/s and {latency:g} s a message" if against == "estimated minutes" else ""
        ax.set_xlabel(AXES[against] + links)
        ax.set_ylabel(f"{style.metric_label(metric)} on test cases,\nmean over sites")
        style.headline(ax, findings.price(table, metric, against))
    return style.Drawing(style.root(ax), table)


def price_table(runs: list[Any], against: str, bandwidth: float, latency: float) -> pd.DataFrame:
    """The numbers drawn, NaN if one seed has none; best: sends something, and no other method that does beats it."""
    from fedlab.analysis.communication import costs

    frame = costs(runs, bandwidth=bandwidth, latency=latency, choice="best")
    (value,) = [column for column in frame if str(column).endswith(", mean of sites")]
    up = style.rises(str(value).split(",")[0])
    methods = frame.groupby("method", sort=False)
    sends = methods["megabytes"].max() > 0
    table = methods[[value, against]].agg(lambda seeds: seeds.mean(skipna=False)).set_axis(["value", "cost"], axis=1)
    table["cost"] = table["cost"].where(sends, 0.0)
    known = sends & table.notna().all(axis=1)
    table["best"] = known & unbeaten(table["value"] if up else -table["value"], table["cost"], known)
    return table.reset_index()


def unbeaten(score: pd.Series, cost: pd.Series, among: pd.Series) -> pd.Series:
    """Whether none of the methods `among` is at least as good and as cheap, and strictly better in one of the two.

    Costs within a hundredth of each other are alike.
    """
    beaten = [
        (among & (score >= s) & (cost <= ALIKE * c) & ((score > s) | (ALIKE * cost < c))).any()
        for s, c in zip(score, cost, strict=True)
    ]
    return ~pd.Series(beaten, score.index, dtype=bool)


def _logarithmic(ax: Axes) -> None:
    """Costs by their ratio, labelled in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _room(ax: Axes, drawn: pd.DataFrame) -> None:
    """Axes a little wider than the marks and lines."""
    sends = drawn.loc[drawn["cost"] > 0, "cost"]
    if len(sends):
        ax.set_xlim(sends.min() / 2, sends.max() * 2)
    if len(drawn):
        spare = max(0.01, 0.08 * float(np.ptp(drawn["value"])))
        ax.set_ylim(drawn["value"].min() - spare, drawn["value"].max() + spare)


def _names(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role]) -> None:
    """Names at the right edge, joined to their marks; those of lines level with them."""
    right = ax.get_xlim()[1]
    ends = [(r.cost if r.cost > 0 else right, r.value, r.method, roles[r.method].ink) for r in table.itertuples()]
    style.end_labels(ax, ends)
