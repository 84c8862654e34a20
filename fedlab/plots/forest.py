"""Paired differences to a reference, with their intervals (`differences`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import style, titles
from fedlab.plots.inputs import OUTSIDE, SUMMARIES, by_size, is_held_out, row_names
from fedlab.plots.names import NAME, more, names
from fedlab.plots.names import name as short
from fedlab.plots.paper import Paper, headline, label_below, legend, paper
from fedlab.plots.site_performance import gains

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ["method", "site", "cases", "gain", "gain_low", "gain_high", "finding", "note"]
METHODS, BAND, SPARE = 8, 0.19, 0.14  # methods; inches of a difference, and between sites
NUMBERS = 0.15  # inches of a difference whose numbers are written
HEAD_AND_FOOT = 2.0  # inches of a page above and below the rows
VERSUS = 24  # characters of the reference


def differences(compared: pd.DataFrame, *, ax: Axes | None = None, width: float | None = None) -> style.Drawing:
    """Draw the paired difference of each method to the reference, at every site and in the mean, with 95 % intervals.

    Filled marks are findings: the interval excludes 0. Differences are positive where a method is better than the
    reference. The title counts sites, without a correction for their number. The first eight methods and the sites
    with most test cases are drawn, as many as fit, and the others counted.

    Parameters
    ----------
    compared : pandas.DataFrame
        What `fedlab.compare` returned, of one metric.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.

    Returns
    -------
    Drawing
        (figure, table). table: the rows drawn, with gain, gain_low, gain_high and clear (1 or -1 where the interval
        excludes 0).

    Raises
    ------
    ValueError
        If the comparison has several metrics, or no reference.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.compare(fedlab.grid(base, folder=folder, method=["local", "fedavg"]))
    >>> fedlab.plots.differences(table).table["site"].to_list()
    ['Site A', 'Site B', 'mean of sites']
    """
    table, metric, versus = _differences(pd.DataFrame(compared))
    methods = list(dict.fromkeys(table["method"]))
    drawn = methods[:METHODS]
    wanted = SPARE + BAND * len(drawn)
    sites = list(dict.fromkeys(table["site"]))
    layout = paper(width, 9, ax)
    fit, pitch = style.fitting(len(sites), wanted, layout.room(style.ROOM, HEAD_AND_FOOT), 0.06 + 0.07 * len(drawn))
    rows = [
        *[site for site in sites if site not in SUMMARIES][: max(1, fit - 1)],
        *[s for s in sites if s in SUMMARIES],
    ]
    left = [more(len(sites) - len(rows), "sites")] * (len(sites) > len(rows))
    left += [more(len(methods) - len(drawn), "methods")] * (len(methods) > len(drawn))
    high = pitch * len(rows)
    with style.page(ax, layout.width, 1.5 + high) as ax:
        roles, written = style.roles([*methods, versus]), pitch >= NUMBERS * len(drawn)
        ax.axvline(0, color=style.GREY, lw=0.9, zorder=0)
        for place, site in enumerate(rows):
            if table.loc[table["site"] == site, "gain"].isna().all():
                look: dict[str, Any] = {"va": "center", "style": "italic", "fontsize": 8}
                ax.text(0.01, place, "undefined", transform=ax.get_yaxis_transform(), **look)
            at = table[(table["site"] == site) & table["method"].isin(drawn)].set_index("method")
            for k, method in enumerate(each for each in drawn if each in at.index):
                y = place + (k - (len(drawn) - 1) / 2) * (pitch - SPARE * pitch / wanted) / pitch / len(drawn)
                _difference(ax, at.loc[method], y, roles[method], metric, written, layout.narrow)
        if MEAN in rows:
            ax.axhline(rows.index(MEAN) - 0.5, color=style.PALE, lw=0.8)
        tests = table.groupby("site")["cases"].max()
        named = zip(rows, row_names(rows, layout.name(pitch, NAME)), strict=True)
        labels = [layout.counted(text, f"n={tests[site]:,}" * (site != MEAN), pitch) for site, text in named]
        ax.set_yticks(range(len(rows)), labels)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        unit, called = titles.unit(metric), style.metric_label(metric)
        scale = f"difference of {called} to {short(versus, VERSUS)}"
        scale += "" if titles.in_natural_unit(metric) else f", {unit}"
        label_below(ax, layout, "; ".join([f"{scale} (right: better); 95 % interval; n: test cases", *left]))
        head = "bold: 95 % CI\nexcludes 0"
        style.right_of(ax, -0.5, 6 if layout.narrow else 12, head, va="bottom", color="#555555")
        inside = table[~table["site"].isin(SUMMARIES) & ~table["site"].map(is_held_out)]
        pad = _legend(ax, drawn, roles, layout, head) + 6
        headline(ax, layout, titles.local_vs_global(inside, metric), pad, high)
    table.attrs["shown"] = [column for column in SHOWN if column in table]
    return style.Drawing(style.root(ax), table)


MEAN = SUMMARIES[0]


def _differences(frame: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """Return (rows of sites and of their mean with a difference, metric, reference)."""
    metrics = list(frame["metric"].unique())
    if len(metrics) != 1:
        raise ValueError(f"the comparison has the metrics {metrics}: pass the rows of one of them")
    versus = next(iter(frame["versus"].unique()), "")
    if not versus or frame["difference"].isna().all():
        raise ValueError("the comparison has no differences: name a method that it holds as `reference`")
    outside = frame["site"].isin(OUTSIDE) | frame["site"].map(is_held_out)
    sizes = frame[~outside].groupby("site", sort=False)["cases"].max()
    table = gains(frame, sizes)
    table = table[(table["method"] != versus) & ~table["site"].isin(SUMMARIES[1:])]
    order = {site: place for place, site in enumerate([*by_size(sizes), *SUMMARIES])}
    table = table.assign(place=table["site"].map(order).fillna(len(order)))
    kept = table.sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)
    return pd.DataFrame(kept), str(metrics[0]), str(versus)


def _difference(ax: Axes, row: Any, y: float, role: style.Role, metric: str, written: bool, narrow: bool) -> None:
    """Draw one difference with its interval, and write it right of the axes; if narrow, without its limits."""
    if not np.isfinite(row["gain"]):
        return
    factor = 1 if titles.in_natural_unit(metric) else 100
    value, low, high = (factor * row[name] for name in ("gain", "gain_low", "gain_high"))
    marker = "D" if role.marker == "|" else role.marker
    ax.plot([low, high], [y, y], color=role.color, lw=1.2, zorder=1)
    face = role.color if row["clear"] else "white"
    ax.plot(value, y, marker=marker, ms=6, mew=1.2, mfc=face, mec=role.color, ls="none", zorder=2)
    if written:
        text = titles.number(row["gain"], metric)
        if np.isfinite(low) and not narrow:
            text += f" ({titles.number(row['gain_low'], metric)} to {titles.number(row['gain_high'], metric)})"
        weight = "bold" if row["clear"] else "normal"
        style.right_of(ax, y, 6 if narrow else 12, text, va="center", color=role.ink, weight=weight)


def _legend(ax: Axes, methods: list[str], roles: dict[str, style.Role], layout: Paper, head: str) -> float:
    """Name the methods above the axes; return the height of the legend in points."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=roles[m].color, marker="D" if roles[m].marker == "|" else roles[m].marker, lw=1.2)
        for m in methods
    ]
    return max(26.0, legend(ax, layout, marks, list(names(methods).values()), head, most=4))
