"""What a method reaches against what has to be sent, or how long it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import findings, style
from fedlab.plots.reading import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"megabytes": "megabytes that crossed institutions' borders", "estimated minutes": "estimated minutes"}


def price(
    runs: Any, against: str = "megabytes", *, ax: Axes | None = None, bandwidth: float = 100.0, latency: float = 0.05
) -> style.Drawing:
    """The headline metric of each method, mean of sites and seeds, against its cost on a logarithmic axis.

    runs: runs of one setting. against: "megabytes", or "estimated minutes" with links of `bandwidth` megabits a second
    and `latency` seconds a message, see `fedlab.costs`. Methods that send nothing are dashed lines across. Marks joined
    by a line are those that no other method beats in both. Returns the figure and a table: method, value, cost, best.
    """
    if against not in AXES:
        raise ValueError(f"against={against!r}: choose one of {', '.join(map(repr, AXES))}")
    table = price_table(listed(runs), against, bandwidth, latency)
    metric = str(listed(runs)[0].headline)
    with style.page(ax, 8, 4.2) as ax:
        roles = style.roles(table["method"])
        sends = table[table["cost"] > 0]
        frontier = sends[sends["best"]].sort_values("cost")
        ax.plot(frontier["cost"], frontier["value"], color=style.PALE, lw=3, zorder=1)
        for row in sends.itertuples():
            role = roles[str(row.method)]
            ax.plot(row.cost, row.value, marker=role.marker, color=role.color, ls="none", ms=8, zorder=3)
        ax.set_xscale("log")
        _room(ax, sends)
        for row in table[table["cost"] <= 0].itertuples():
            ax.axhline(row.value, color=roles[str(row.method)].color, lw=1.2, dashes=(4, 2), zorder=1)
        _names(ax, table, roles)
        ax.set_xlabel(
            AXES[against] + (f" at {bandwidth:g} Mbit/s and {latency:g} s a message" if "h" in against[-5:] else "")
        )
        ax.set_ylabel(f"{style.metric_label(metric)} on test cases,\nmean over sites")
        style.headline(ax, findings.price(table, metric, against))
    return style.Drawing(style.root(ax), table)


def price_table(runs: list[Any], against: str, bandwidth: float, latency: float) -> pd.DataFrame:
    """The numbers drawn; best: sends something, and no other method that does is as good and as cheap."""
    from fedlab.costs import costs

    frame = costs(runs, bandwidth=bandwidth, latency=latency, choice="best")
    (value,) = [column for column in frame if str(column).endswith(", mean of sites")]
    up = style.rises(str(value).split(",")[0])
    sends = frame.groupby("method", sort=False)["megabytes"].mean() > 0
    table = frame.groupby("method", sort=False)[[value, against]].mean().set_axis(["value", "cost"], axis=1)
    table["cost"] = table["cost"].where(sends, 0.0)
    score = table["value"] if up else -table["value"]
    table["best"] = [
        bool(sends[method]) and not ((score >= score[method]) & (table["cost"] <= table["cost"][method]) & sends)
        .drop(method).any()
        for method in table.index
    ]  # fmt: skip
    return table.reset_index()


def _room(ax: Axes, sends: pd.DataFrame) -> None:
    if len(sends):
        ax.set_xlim(sends["cost"].min() / 2, sends["cost"].max() * 2)
    values = sends["value"].dropna()
    if len(values):
        spare = max(0.01, 0.12 * float(np.ptp(values)))
        ax.set_ylim(values.min() - spare, values.max() + spare)


def _names(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role]) -> None:
    """Names at the right edge, joined to their marks; those of lines level with them."""
    right = ax.get_xlim()[1]
    low, high = ax.get_ylim()
    low, high = min(low, table["value"].min()), max(high, table["value"].max())
    ax.set_ylim(low, high)
    known = table.dropna(subset="value")
    ends = [(r.cost if r.cost > 0 else right, r.value, r.method, roles[r.method].ink) for r in known.itertuples()]
    style.end_labels(ax, ends)
