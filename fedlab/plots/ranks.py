"""Methods in the order of what they reach, with what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import findings, style, titles
from fedlab.plots.reading import headline_metric, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN, WORST = "mean of sites", "worst site"
COLUMNS = {"gain": 12.0, "megabytes": 134.0, "sequential steps": 178.0}  # points right of the axes


def ranking(
    runs: Any, metric: str | None = None, *, ax: Axes | None = None, reference: str = "local", by: str | None = None
) -> style.Drawing:
    """Every method's mean of sites with its 95 % interval, from best to worst, and its worst site as an open mark.

    runs: runs of one setting that differ in method (and seed). Beside each: the paired gain over the reference, the
    megabytes that crossed borders, and the optimizer steps that must follow one another. Returns the figure and its
    table: method, value, low, high, worst, gain, gain_low, gain_high, clear, megabytes, sequential steps.
    """
    found = listed(runs)
    name = headline_metric(found, metric)
    table = ranking_table(found, name, reference, by)
    with style.page(ax, 9, 1.2 + 0.26 * len(table)) as ax:
        roles = style.roles(table["method"])
        _marks(ax, table, roles)
        ax.set_yticks(range(len(table)), list(table["method"]))
        for text, method in zip(ax.get_yticklabels(), table["method"], strict=True):
            text.set_color(roles[method].ink)
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(
            f"{style.metric_label(name)} on test cases: mean of sites with 95 % interval, open mark: worst site"
        )
        _columns(ax, table, name, roles)
        style.headline(ax, findings.ranking(table, name), pad=26)
    return style.Drawing(style.root(ax), table)


def ranking_table(runs: list[Any], metric: str, reference: str, by: str | None) -> pd.DataFrame:
    """The numbers drawn, best first; gains are positive where a method is better than the reference."""
    from fedlab.analysis.communication import costs
    from fedlab.analysis.comparison import compare

    frame = compare(runs, metric, reference=reference, by=by)
    mean, worst = (frame[frame["site"] == row].set_index("method") for row in (MEAN, WORST))
    spent = costs(runs).assign(method=[_named(run, by) for run in runs]).groupby("method")["sequential steps"].mean()
    up = style.rises(metric)
    low, high = ("difference_low", "difference_high") if up else ("difference_high", "difference_low")
    sign = 1.0 if up else -1.0
    table = mean[["value", "low", "high", "versus", "megabytes"]].assign(
        worst=worst["value"],
        gain=sign * mean["difference"],
        gain_low=sign * mean[low],
        gain_high=sign * mean[high],
        **{"sequential steps": spent},
    )
    wide = table["gain_high"] > table["gain_low"]
    table["clear"] = np.where(wide, (table["gain_low"] > 0).astype(int) - (table["gain_high"] < 0), 0)
    return table.sort_values("value", ascending=not up, kind="stable").reset_index()


def _named(run: Any, by: str | None) -> str:
    return run.method if by is None else f"{run.method} ({by}={getattr(run.experiment, by)})"


def _marks(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role]) -> None:
    for y, row in enumerate(table.to_dict("records")):
        role = roles[row["method"]]
        marker = "D" if role.marker == "|" else role.marker
        ax.plot([row["low"], row["high"]], [y, y], color=role.color, lw=1.2, zorder=2)
        ax.plot([row["worst"], row["value"]], [y, y], color=style.PALE, lw=3.5, zorder=1)
        ax.plot(row["value"], y, marker=marker, color=role.color, ls="none", ms=6, mew=0, zorder=3)
        ax.plot(row["worst"], y, marker=marker, mfc="white", mec=role.color, ls="none", ms=5, mew=1, zorder=3)


def _columns(ax: Axes, table: pd.DataFrame, metric: str, roles: dict[str, style.Role]) -> None:
    """Gain, megabytes and sequential steps right of the axes."""
    versus = f"gain over {table['versus'].iloc[0] or '–'},\n{titles.unit(metric)} (bold: clear)"
    heads = {"gain": versus, "megabytes": "MB", "sequential steps": "steps in\na row"}
    for name, text in heads.items():
        beside(ax, -0.5, COLUMNS[name], text, va="bottom", color="#555555")
    for y, row in enumerate(table.to_dict("records")):
        ink, known = roles[row["method"]].ink, np.isfinite(row["gain"]) and row["gain_high"] > row["gain_low"]
        ends = (
            f" ({titles.number(row['gain_low'], metric)} to {titles.number(row['gain_high'], metric)})" if known else ""
        )
        look = {"va": "center", "color": ink}
        told = titles.number(row["gain"], metric) + ends
        beside(ax, y, COLUMNS["gain"], told, weight="bold" if row["clear"] else "normal", **look)
        beside(ax, y, COLUMNS["megabytes"], findings.amount(row["megabytes"]), **look)
        beside(ax, y, COLUMNS["sequential steps"], f"{row['sequential steps']:,.0f}", **look)


def beside(ax: Axes, place: float, points: float, text: str, **look: Any) -> None:
    """Text right of the axes, level with a row."""
    ax.annotate(
        text, (1.0, place), xycoords=ax.get_yaxis_transform(), xytext=(points, 0), textcoords="offset points",
        annotation_clip=False, fontsize=8, **look,
    )  # fmt: skip
