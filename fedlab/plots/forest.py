"""Paired differences to a reference, with their intervals (`differences`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import style, titles
from fedlab.plots.inputs import OUTSIDE, SUMMARIES, by_size, is_held_out, row_names
from fedlab.plots.names import more, names
from fedlab.plots.names import name as short
from fedlab.plots.paper import Paper, legend
from fedlab.plots.site_performance import gains

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ["method", "site", "cases", "gain", "gain_low", "gain_high", "finding", "note"]
METHODS, BAND, SPARE = 8, 0.19, 0.14  # methods; inches of a difference, and between sites
NUMBERS = 0.15  # inches of a difference whose numbers are written
VERSUS = 24  # characters of the reference


def differences(compared: pd.DataFrame, *, ax: Axes | None = None) -> style.Drawing:
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
    fit, pitch = style.fitting(len(sites), wanted, least=0.06 + 0.07 * len(drawn))
    rows = [
        *[site for site in sites if site not in SUMMARIES][: max(1, fit - 1)],
        *[s for s in sites if s in SUMMARIES],
    ]
    left = [more(len(sites) - len(rows), "sites")] * (len(sites) > len(rows))
    left += [more(len(methods) - len(drawn), "methods")] * (len(methods) > len(drawn))
    with style.page(ax, 9, 1.5 + pitch * len(rows)) as ax:
        roles = style.roles([*methods, versus])
        ax.axvline(0, color=style.GREY, lw=0.9, zorder=0)
        for place, site in enumerate(rows):
            if table.loc[table["site"] == site, "gain"].isna().all():
                look: dict[str, Any] = {"va": "center", "style": "italic", "fontsize": 8}
                ax.text(0.01, place, "undefined", transform=ax.get_yaxis_transform(), **look)
            at = table[(table["site"] == site) & table["method"].isin(drawn)].set_index("method")
            for k, method in enumerate(each for each in drawn if each in at.index):
                y = place + (k - (len(drawn) - 1) / 2) * (pitch - SPARE * pitch / wanted) / pitch / len(drawn)
                _difference(ax, at.loc[method], y, roles[method], metric, pitch >= NUMBERS * len(drawn))
        if MEAN in rows:
            ax.axhline(rows.index(MEAN) - 0.5, color=style.PALE, lw=0.8)
        tests = table.groupby("site")["cases"].max()
        labels = zip(rows, row_names(rows), strict=True)
        ax.set_yticks(
            range(len(rows)), [f"{text}  n={tests[site]:,}" * (site != MEAN) or text for site, text in labels]
        )
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        unit, called = titles.unit(metric), style.metric_label(metric)
        scale = f"difference of {called} to {short(versus, VERSUS)}"
        scale += "" if titles.in_natural_unit(metric) else f", {unit}"
        ax.set_xlabel("; ".join([f"{scale} (right: better); 95 % interval; n: test cases", *left]))
        style.right_of(ax, -0.5, 12, "bold: 95 % CI\nexcludes 0", va="bottom", color="#555555")
        inside = table[~table["site"].isin(SUMMARIES) & ~table["site"].map(is_held_out)]
        style.headline(ax, titles.local_vs_global(inside, metric), pad=_legend(ax, drawn, roles) + 6)
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


def _difference(ax: Axes, row: Any, y: float, role: style.Role, metric: str, written: bool) -> None:
    """Draw one difference with its interval, and write it right of the axes."""
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
        if np.isfinite(low):
            text += f" ({titles.number(row['gain_low'], metric)} to {titles.number(row['gain_high'], metric)})"
        weight = "bold" if row["clear"] else "normal"
        style.right_of(ax, y, 12, text, va="center", color=role.ink, weight=weight)


def _legend(ax: Axes, methods: list[str], roles: dict[str, style.Role]) -> float:
    """Name the methods above the axes; return the height of the legend in points."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=roles[m].color, marker="D" if roles[m].marker == "|" else roles[m].marker, lw=1.2)
        for m in methods
    ]
    return max(26.0, legend(ax, Paper(0, 0, False), marks, list(names(methods).values()), most=4))
