"""How much of a site's knowledge a travelling model loses until it comes back: the saw-tooth within a cycle."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import findings, style, titles
from fedlab.plots.reading import by_size, training_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 8  # panels


def forgetting(run: Any, *, ax: Axes | None = None) -> style.Drawing:
    """The validation metric of a travelling model at every site after every visit, a panel a site, largest first.

    run: one whose experiment says watch_visits=True. Filled marks are visits at the panel's site, the line goes through
    those elsewhere; what falls from a mark to just before the next one is forgotten, its mean stands at the right. The
    line breaks, and nothing is told of forgetting, across rounds that were not watched (evaluate_every above 1). At
    most eight panels: the largest and the smallest sites. Returns the figure and a table: site, round, visit (counted
    through), at, value, own.
    """
    table = visits_table(run)
    falls = lost(table)
    sizes = training_sizes([run])
    order = [site for site in by_size(sizes) if site in set(table["site"])]
    shown = order if len(order) <= MOST else [*order[: MOST // 2], *order[-MOST // 2 :]]
    metric = str(run.visits["metric"].iloc[0])
    with style.page(ax, 9, 0.9 + 0.85 * len(shown)) as ax:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_axis_off()
        known = table.loc[table["site"].isin(shown), "value"].dropna()
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        spare = 0.08 * max(high - low, 0.05)
        for place, site in enumerate(shown):
            panel = ax.inset_axes((0.0, 1 - (place + 1) / len(shown) + 0.02, 1.0, 1 / len(shown) - 0.05))
            _panel(panel, table[table["site"] == site], (low - spare, high + spare), f"{site}\nn={sizes[site]:,}")
            _fall(panel, falls.get(site, np.nan), metric)
            if place + 1 < len(shown):
                panel.set_xticklabels([])
            else:
                panel.set_xlabel(f"{_visits(table)}; {style.metric_label(metric)} on the validation cases of each site")
        style.headline(ax, findings.forgetting(falls, metric), pad=6)
    return style.Drawing(style.root(ax), table)


def visits_table(run: Any) -> pd.DataFrame:
    """Visits of all watched rounds in a row; own: whether the model has just been trained at that site."""
    if run.visits.empty:
        raise ValueError(
            f"{run.method!r} kept no scores between visits: run a travelling method (cyclic, split) with"
            " watch_visits=True"
        )
    frame = run.visits.sort_values(["round", "visit"], kind="stable")
    number = (frame["round"].ne(frame["round"].shift()) | frame["visit"].ne(frame["visit"].shift())).cumsum()
    own = frame["at"] == frame["site"]
    return frame.assign(visit=number, own=own)[["site", "round", "visit", "at", "value", "own"]]


def _stretches(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of one site or of all, cut wherever a round is not followed by the next one."""
    return [stretch for _, stretch in rows.groupby((rows["round"].diff() > 1).cumsum())]


def _visits(table: pd.DataFrame) -> str:
    return "visit" + (" (breaks: rounds that were not watched)" if len(_stretches(table)) > 1 else "")


def _panel(panel: Axes, rows: pd.DataFrame, limits: tuple[float, float], name: str) -> None:
    own = rows[rows["own"]]
    for stretch in _stretches(rows):
        panel.plot(stretch["visit"], stretch["value"], color=style.GREY, lw=0.9, zorder=1)
    panel.plot(own["visit"], own["value"], ls="none", marker="o", ms=4.5, color=style.BLUE, zorder=2)
    panel.set_ylim(*limits)
    panel.set_xlim(0.5, rows["visit"].max() + 0.5)
    panel.spines[["top", "right"]].set_visible(False)
    panel.locator_params(axis="x", integer=True)
    panel.locator_params(axis="y", nbins=3)
    panel.tick_params(labelsize=8)
    panel.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=28, fontsize=8.5)


def _fall(panel: Axes, fall: float, metric: str) -> None:
    """What is forgotten at this site, right of its panel."""
    if np.isfinite(fall):
        told = f"{titles.number(0.0 - fall, metric)}\n{titles.unit(metric)}"
        panel.annotate(
            told, (1.0, 0.5), xycoords="axes fraction", xytext=(10, 0), textcoords="offset points", fontsize=8,
            va="center"
        )  # fmt: skip


def lost(table: pd.DataFrame) -> pd.Series:
    """Site -> mean fall of the metric from a visit there to just before the next one, within consecutive rounds."""
    falls = {}
    for site, rows in table.groupby("site"):
        each = [fall for stretch in _stretches(rows) for fall in _falls(stretch)]
        falls[site] = float(np.nanmean(each)) if len(each) and np.isfinite(each).any() else np.nan
    return pd.Series(falls, dtype=float)


def _falls(rows: pd.DataFrame) -> list[float]:
    values, own = rows["value"].to_numpy(float), np.flatnonzero(rows["own"])
    return [float(values[first] - values[following - 1]) for first, following in pairwise(own)]
