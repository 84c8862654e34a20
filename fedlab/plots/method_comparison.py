"""Methods compared: what they reach (`ranking`), and at what communication cost (`communication_cost`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.analysis.communication import costs
from fedlab.analysis.comparison import compare
from fedlab.evaluation.report_metrics import higher_is_better
from fedlab.learning.regression_metrics import REGRESSION_METRICS
from fedlab.plots import style, titles
from fedlab.plots.inputs import SUMMARIES, headline_metric, listed
from fedlab.plots.names import NAME, more, names
from fedlab.plots.names import name as short
from fedlab.plots.paper import Paper, headline, label_below, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MACRO, _, WORST = SUMMARIES
COLUMNS = {"gain": 12.0, "megabytes": 134.0, "sequential steps": 178.0}  # points right of the axes
CERTAIN = 0.05  # adjusted p-value below which a gain is one
ROW, STACKED, HEAD_AND_FOOT = 0.26, 0.34, 2.2  # inches: a method; with counts below its name; above and below rows
VERSUS = 14  # characters of the reference in the heading of gains
AXES = {"megabytes": "megabytes between sites and server", "estimated minutes": "estimated minutes"}


# -- ranking ---------------------------------------------------------------------------------------------------------


def ranking(
    runs: Any,
    metric: str | None = None,
    *,
    ax: Axes | None = None,
    reference: str = "local",
    by: str | None = None,
    width: float | None = None,
) -> style.Drawing:
    """Draw every method's macro-average over sites with its 95 % interval, and the 95 % interval of its worst site.

    Right of the marks: the paired gain over the reference, the megabytes sent, and the sequential optimizer steps.
    The order is that of the point estimates; the title counts the methods whose gain differs from 0 at 5 % after a
    correction for their number (Holm). The worst site has no mark, since the worst observed value is biased.

    Parameters
    ----------
    runs : list of Run
        Runs of one setting that differ in method (and seed).
    metric : str, optional
        A metric of the runs; their headline metric by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    reference : str, default "local"
        The method that gains are relative to.
    by : str, optional
        A field of the experiment in which runs of one method differ.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.

    Returns
    -------
    Drawing
        (figure, table). table, best first: method, value, low, high, worst_low, worst_high, gain, gain_low, gain_high
        (positive where the method is better), clear (1 or -1 where p_holm is below 0.05), versus, megabytes,
        sequential steps.

    Raises
    ------
    ValueError
        If the metric is best at a value between, such as calibration_slope.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(exp, method=["local", "fedavg"], folder=folder)
    ...     table = fedlab.plots.ranking(runs).table
    >>> sorted(table["method"])
    ['fedavg', 'local']
    """
    found = listed(runs)
    name = headline_metric(found, metric)
    if higher_is_better(name) is None:
        usual = "'mae' or 'rmse'" if name in REGRESSION_METRICS else "'brier' or 'auroc'"
        raise ValueError(
            f"metric={name!r} is best at a value between, so that it ranks no methods: rank them by {usual},"
            f" and draw {name} with fedlab.plots.local_vs_global(runs, {name!r})"
        )
    table = ranking_table(found, name, reference, by)
    layout = paper(width, 9, ax)
    room, least = layout.room(style.ROOM, HEAD_AND_FOOT), STACKED if layout.narrow else style.LOWEST
    rows, pitch = style.fitting(len(table), STACKED if layout.narrow else ROW, room, least)
    shown, left = table.iloc[:rows], [more(len(table) - rows, "methods")] * (len(table) > rows)
    labels = [*_labels(shown, layout, pitch), *left]
    high = pitch * len(labels)
    with style.page(ax, layout.width, 1.2 + high) as ax:
        roles = style.roles(table["method"])
        _marks(ax, shown, roles)
        ax.set_yticks(range(len(labels)), labels)
        for text, method in zip(ax.get_yticklabels(), shown["method"], strict=False):
            text.set_color(roles[method].ink)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        label = style.metric_label(name)
        pad = _columns(ax, shown, name, roles, layout)
        label = f"{label} on test cases: macro-average over sites with 95 % interval; grey: worst site"
        label_below(ax, layout, label + "; below names: what is sent, and sequential steps" * layout.narrow)
        headline(ax, layout, titles.ranking(table, name), pad, high)
    return style.Drawing(style.root(ax), table)


def ranking_table(runs: list[Any], metric: str, reference: str, by: str | None) -> pd.DataFrame:
    """Compute the numbers drawn, best first; gains are positive where a method is better than the reference."""
    frame = compare(runs, metric, reference=reference, by=by)
    mean, worst = (frame[frame["site"] == row].set_index("method") for row in (MACRO, WORST))
    spent = costs(runs).assign(method=[_named(run, by) for run in runs]).groupby("method")["sequential steps"].mean()
    up = style.rises(metric)
    low, high = ("difference_low", "difference_high") if up else ("difference_high", "difference_low")
    sign = 1.0 if up else -1.0
    table = mean[["value", "low", "high", "versus", "megabytes"]].assign(
        worst_low=worst["low"],
        worst_high=worst["high"],
        gain=sign * mean["difference"],
        gain_low=sign * mean[low],
        gain_high=sign * mean[high],
        **{"sequential steps": spent},
    )
    table["clear"] = np.where(mean["p_holm"] < CERTAIN, np.sign(table["gain"]), 0).astype(int)
    return pd.DataFrame(table).sort_values("value", ascending=not up, kind="stable").reset_index()


def _named(run: Any, by: str | None) -> str:
    """Return the method's name as `compare` writes it."""
    return run.method if by is None else f"{run.method} ({by}={getattr(run.experiment, by)})"


def _marks(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role]) -> None:
    """Draw the mean with its interval, and the interval of the worst site in grey below it."""
    for y, row in enumerate(table.to_dict("records")):
        role = roles[row["method"]]
        marker = "D" if role.marker == "|" else role.marker
        ax.plot([row["low"], row["high"]], [y, y], color=role.color, lw=1.2, zorder=2)
        ax.plot([row["worst_low"], row["worst_high"]], [y + 0.22] * 2, color=style.PALE, lw=3.5, zorder=1)
        ax.plot(row["value"], y, marker=marker, color=role.color, ls="none", ms=6, mew=0, zorder=3)


def _labels(table: pd.DataFrame, layout: Paper, pitch: float) -> list[str]:
    """The names of methods; in a narrow figure with their costs below."""
    called = names(table["method"], layout.name(pitch, NAME)).values()
    if not layout.narrow:
        return list(called)
    costs = [
        f"{titles.megabytes(sent)}{' MB' * (sent < 1000)}, {steps:,.0f} steps" if sent else f"{steps:,.0f} steps"
        for sent, steps in zip(table["megabytes"], table["sequential steps"], strict=True)
    ]
    return [layout.counted(name, cost, pitch) for name, cost in zip(called, costs, strict=True)]


def _columns(ax: Axes, table: pd.DataFrame, metric: str, roles: dict[str, style.Role], layout: Paper) -> float:
    """Write gain, megabytes and sequential steps right of the axes; return the points above them.

    A narrow figure has the gain only.
    """
    cut = "\n" if layout.narrow else " "
    reference = short(table["versus"].iloc[0], VERSUS) or "–"
    versus = f"gain over {reference},\n{titles.unit(metric)}{cut}(bold: p < 0.05,\nHolm)"
    heads = {"gain": versus, "megabytes": "MB", "sequential steps": "sequential\nsteps"}
    at = {"gain": COLUMNS["gain"] / 2} if layout.narrow else COLUMNS
    for name in at:
        style.right_of(ax, -0.5, at[name], heads[name], va="bottom", color="#555555")
    for y, row in enumerate(table.to_dict("records")):
        look = {"va": "center", "color": roles[row["method"]].ink}
        gain = titles.number(row["gain"], metric)
        if np.isfinite(row["gain"]) and row["gain_high"] > row["gain_low"]:
            ends = f"({titles.number(row['gain_low'], metric)} to {titles.number(row['gain_high'], metric)})"
            gain += ("\n" if layout.narrow else " ") + ends
        if row["method"] == row["versus"]:
            gain = "reference"
        style.right_of(ax, y, at["gain"], gain, weight="bold" if row["clear"] else "normal", **look)
        if not layout.narrow:
            style.right_of(ax, y, at["megabytes"], titles.megabytes(row["megabytes"]), **look)
            style.right_of(ax, y, at["sequential steps"], f"{row['sequential steps']:,.0f}", **look)
    return 48.0 if layout.narrow else 36.0


# -- communication cost ----------------------------------------------------------------------------------------------


def communication_cost(
    runs: Any, against: str = "megabytes", *, ax: Axes | None = None, bandwidth: float = 100.0, latency: float = 0.05
) -> style.Drawing:
    """Draw the headline metric of each method against its communication cost on a logarithmic axis.

    Values are macro-averages over sites and means over seeds, without intervals: `ranking` has those. Methods that
    send no model are dashed lines. A pale line joins the methods that no other dominates (as good, as cheap, and better
    in one of the two) by these point estimates. Methods without a value are named in the title.

    Parameters
    ----------
    runs : list of Run
        Runs of one setting that differ in method (and seed).
    against : {"megabytes", "estimated minutes"}
        The cost, see `fedlab.costs`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    bandwidth : float, default 100
        Megabits a second of each link, for estimated minutes.
    latency : float, default 0.05
        Seconds a message, for estimated minutes.

    Returns
    -------
    Drawing
        (figure, table). table: method, value, cost, and best: whether no other method dominates it.

    Raises
    ------
    ValueError
        If `against` is neither of the two costs.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(exp, method=["local", "fedavg"], folder=folder)
    ...     table = fedlab.plots.communication_cost(runs).table
    >>> list(table["method"][table["best"]])
    ['fedavg']
    """
    if against not in AXES:
        raise ValueError(f"against={against!r}: choose one of {', '.join(map(repr, AXES))}")
    table = cost_table(listed(runs), against, bandwidth, latency)
    metric = str(listed(runs)[0].headline)
    with style.page(ax, 8, max(4.2, 1.7 + style.LINE * len(table))) as ax:
        roles, drawn = style.roles(table["method"]), table.dropna(subset=["value", "cost"])
        sends = drawn[drawn["cost"] > 0]
        frontier = sends[sends["best"]].sort_values("cost")
        ax.plot(frontier["cost"], frontier["value"], color=style.PALE, lw=3, zorder=1)
        for row in sends.itertuples():
            role = roles[str(row.method)]
            ax.plot(row.cost, row.value, marker=role.marker, color=role.color, ls="none", ms=8, zorder=3)
        _logarithmic(ax)
        _margins(ax, drawn)
        silent = drawn[drawn["cost"] <= 0]
        for row in silent.itertuples():
            ax.axhline(row.value, color=roles[str(row.method)].color, lw=1.2, dashes=(4, 2), zorder=1)
        _names(ax, drawn, roles)
        links = f" at {bandwidth:g} Mbit/s and {latency:g} s a message" if against == "estimated minutes" else ""
        moved = "; centralized training moves the images" if "centralized" in set(silent["method"]) else ""
        ax.set_xlabel(AXES[against] + links + (f"\n(dashed: sends no model{moved})" if len(silent) else ""))
        ax.set_ylabel(f"{style.metric_label(metric)} on test cases,\nmacro-average over sites")
        style.headline(ax, titles.communication_cost(table, against))
    return style.Drawing(style.root(ax), table)


def cost_table(runs: list[Any], against: str, bandwidth: float, latency: float) -> pd.DataFrame:
    """Compute the numbers drawn, NaN if one seed has none; best: sends models, and no other method dominates it."""
    frame = costs(runs, bandwidth=bandwidth, latency=latency, choice="best")
    (value,) = [column for column in frame if str(column).endswith(f", {MACRO}")]
    up = style.rises(str(value).split(",")[0])
    methods = frame.groupby("method", sort=False)
    sends = methods["megabytes"].max() > 0
    table = methods[[value, against]].agg(lambda seeds: seeds.mean(skipna=False)).set_axis(["value", "cost"], axis=1)
    table["cost"] = table["cost"].where(sends, 0.0)
    known = sends & table.notna().all(axis=1)
    table["best"] = known & undominated(table["value"] if up else -table["value"], table["cost"], known)
    return table.reset_index()


def undominated(score: pd.Series, cost: pd.Series, among: pd.Series) -> pd.Series:
    """Return whether no method `among` is at least as good and as cheap, and strictly better in one of the two.

    Costs within a factor of `titles.TIE` are equal.
    """
    dominated = [
        (among & (score >= s) & (cost <= titles.TIE * c) & ((score > s) | (titles.TIE * cost < c))).any()
        for s, c in zip(score, cost, strict=True)
    ]
    return ~pd.Series(dominated, score.index, dtype=bool)


def _logarithmic(ax: Axes) -> None:
    """Scale costs by their ratio, labelled in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _margins(ax: Axes, drawn: pd.DataFrame) -> None:
    """Make the axes a little wider than the marks and lines."""
    sends = drawn.loc[drawn["cost"] > 0, "cost"]
    if len(sends):
        ax.set_xlim(sends.min() / 2, sends.max() * 2)
    if len(drawn):
        spare = max(0.01, 0.08 * float(np.ptp(drawn["value"])))
        ax.set_ylim(drawn["value"].min() - spare, drawn["value"].max() + spare)


def _names(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role]) -> None:
    """Write names at the right edge, joined to their marks or level with their lines."""
    right = ax.get_xlim()[1]
    ends = [(r.cost if r.cost > 0 else right, r.value, r.method, roles[r.method].ink) for r in table.itertuples()]
    style.end_labels(ax, ends)
