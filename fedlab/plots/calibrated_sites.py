"""Whether sites can trust probabilities: prediction sets (`conformal`), and the gain of `recalibration`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import POOLED
from fedlab.analysis.joining import conformal_sets
from fedlab.analysis.joining.recalibration import recalibrate
from fedlab.plots import style
from fedlab.plots.inputs import by_size
from fedlab.plots.names import listed, more, names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.5  # inches: a site
WAYS = {  # colour, marker, name of a column, name in the legend
    "pooled": ("#D55E00", "v", "pooled", "thresholds of all sites' cases"),
    "shrunken": ("#0072B2", "D", "shrunken", "of both"),
    "site": ("#009E73", "s", "own", "of own cases"),
}
COLUMN, HEADER = 52.0, 34.0  # points: a column of set sizes, and its head
NOTE = "bands: expected of own cases; n: validation / test cases"
SHOWN = ["site", "calibration", "own", "threshold", "tests", "coverage", "low", "high", "band_low", "band_high", "size"]


def conformal(
    run: Any, level: float = 0.9, score: str = "lac", *, ax: Axes | None = None, **options: Any
) -> style.Drawing:
    """Draw the coverage of prediction sets at each site for each way of calibration, and their mean size.

    Lines are 95 % intervals of the coverage. Pale bands: where 95 % of thresholds from as many exchangeable cases have
    their coverage, of own cases. Right: mean number of classes in a set. The largest test sets are on top.

    Parameters
    ----------
    run : Run or pandas.DataFrame
        A run, or frames of `fedlab.conformal` put together.
    level : float, default 0.9
        Wanted coverage; that of the frame if one is given.
    score : {"lac", "aps"}, default "lac"
        As for `fedlab.conformal`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    **options
        `shrinkage` and `choice` of `fedlab.conformal`.

    Returns
    -------
    Drawing
        (figure, table). table: those of `fedlab.conformal` for all ways of calibration.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=300, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.plots.conformal(fedlab.run(base, folder=folder), level=0.8).table
    >>> sorted(set(table["calibration"]))
    ['pooled', 'shrunken', 'site']
    """
    if isinstance(run, pd.DataFrame):
        table, level = pd.DataFrame(run), float(run.attrs.get("level", level))
    else:
        each = [conformal_sets.conformal(run, level, way, score, **options) for way in WAYS]
        table = pd.DataFrame(pd.concat(each, ignore_index=True))
    whole = table[table["class"] == conformal_sets.ALL]
    if whole.empty:
        raise ValueError("the frame has thresholds for each class: draw one of fedlab.conformal(run, by_class=False)")
    sizes = whole[whole["site"] != POOLED].groupby("site")["tests"].max()
    order = [*by_size(sizes), POOLED]
    rows, pitch = style.fitting(len(order) - 1, ROW)
    drawn = [*order[:rows], POOLED]
    ways = [way for way in WAYS if way in set(whole["calibration"])]
    with style.page(ax, 9.5, 1.8 + pitch * (rows + 2)) as ax:
        _rows(ax, drawn, len(order) - 1 - rows, whole)
        ax.axvline(level, color=style.BLACK, lw=0.8, dashes=(4, 2), zorder=1)
        for k, way in enumerate(ways):
            part = whole[whole["calibration"] == way].set_index("site").loc[drawn]
            _marks(ax, part, way, (k - (len(ways) - 1) / 2) * 0.24)
            head = f"size,\n{WAYS[way][2]}"
            style.right_of(ax, ax.get_ylim()[1], 12 + COLUMN * k, head, va="bottom", color=style.ink(WAYS[way][0]))
            for y, size in enumerate(part["size"]):
                text = f"{size:.2f}" if np.isfinite(size) else "–"
                style.right_of(ax, y, 12 + COLUMN * k, text, va="center", color=style.ink(WAYS[way][0]))
        ax.set_xlabel("share of test cases whose set contains the true class, 95 % interval;\n" + NOTE)
        style.headline(ax, title(whole, level), pad=_legend(ax, ways) + 6)
    table.attrs["shown"] = SHOWN
    return style.Drawing(style.root(ax), table)


def title(table: pd.DataFrame, level: float) -> str:
    """Count the sites whose coverage is below the wanted one by its 95 % interval, for each way of calibration."""
    sites = table[table["site"] != POOLED]
    parts = []
    for way in WAYS:
        rows = sites[sites["calibration"] == way]
        if len(rows):
            below = int((rows["high"] < level).sum())
            mean = f"{rows['size'].mean():.2f} classes"
            parts.append(f"{below or 'none'} of {len(rows)} with {WAYS[way][2]} thresholds ({mean})")
    return f"Sites covered less than {100 * level:g} % (95 % CI): {listed(parts, whole=True)}"


def _rows(ax: Axes, drawn: list[str], left: int, table: pd.DataFrame) -> None:
    """Label the rows with their validation and test cases, all sites together last."""
    counts = table.groupby("site")[["own", "tests"]].max()
    called = names(drawn)
    labels = []
    for site in drawn:
        name = "all sites" if site == POOLED else called[site]
        labels.append(f"{name}  n={counts.loc[site, 'own']:,.0f} / {counts.loc[site, 'tests']:,}")
    if left:
        labels[-1] += f"\n{more(left, 'sites')}"
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.axhline(len(labels) - 1.5, color=style.PALE, lw=0.8)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _marks(ax: Axes, part: pd.DataFrame, way: str, below: float) -> None:
    """Draw coverages with their intervals over the band of own cases."""
    color, marker, *_ = WAYS[way]
    y = np.arange(len(part)) + below
    if way == "site":
        ax.hlines(y, part["band_low"], part["band_high"], colors=style.PALE, lw=7, zorder=0)
    ax.hlines(y, part["low"], part["high"], colors=color, lw=1.2, zorder=2)
    ax.plot(part["coverage"], y, marker=marker, color=color, ls="none", ms=5.5, mew=0, zorder=3)


def _legend(ax: Axes, ways: list[str]) -> float:
    """Name the ways of calibration above the axes; return the height of legend and heads in points."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=WAYS[way][0], marker=WAYS[way][1], lw=1.1, ms=5.5, mew=0) for way in ways]
    look: dict[str, Any] = {"loc": "lower left", "borderaxespad": 0, "borderpad": 0.2, "ncols": len(ways)}
    ax.legend(handles, [WAYS[way][3] for way in ways], bbox_to_anchor=(0, 1), **look)
    return HEADER


# -- recalibration ---------------------------------------------------------------------------------------------------

LOOK = {"temperature": (style.BLUE, "D"), "intercept": ("#D55E00", "v")}


def recalibration(run: Any, *, ax: Axes | None = None, choice: str = "best") -> style.Drawing:
    """Draw what recalibration on the validation cases of each site gains in log loss on its test cases.

    Lines are 95 % intervals. Right: the calibration slope before and after (1 is best), of binary tasks. The largest
    test sets are on top.

    Parameters
    ----------
    run : Run or pandas.DataFrame
        A run, or frames of `fedlab.analysis.joining.recalibration.recalibrate` put together.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    choice : {"best", "last"}, default "best"
        Model of the round that is best on validation cases, or of the last round.

    Returns
    -------
    Drawing
        (figure, table). table: a row for each site and way, see `recalibrate`.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=300, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.plots.recalibration(fedlab.run(base, folder=folder)).table
    >>> sorted(set(table["by"]))
    ['intercept', 'temperature']
    """
    if isinstance(run, pd.DataFrame):
        table = pd.DataFrame(run)
    else:
        ways = LOOK if run.task == "binary" else ["temperature"]
        table = pd.concat([recalibrate(run, way, choice=choice) for way in ways], ignore_index=True)
    sizes = table.groupby("site")["tests"].max()
    order = by_size(sizes)
    rows, pitch = style.fitting(len(order), ROW)
    drawn, ways = order[:rows], [way for way in LOOK if way in set(table["by"])]
    with style.page(ax, 9, 1.7 + pitch * (rows + (len(order) > rows))) as ax:
        called = names(drawn)
        labels = [f"{called[site]}  n={sizes[site]:,}" for site in drawn]
        labels += [more(len(order) - rows, "sites")] * (len(order) > rows)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.axvline(0, color=style.GREY, lw=0.8, zorder=1)
        for k, way in enumerate(ways):
            part = table[table["by"] == way].set_index("site").loc[drawn]
            _gains(ax, part, way, (k - (len(ways) - 1) / 2) * 0.3)
        ax.set_xlabel("gain in log loss on test cases (right of 0: better), 95 % interval; n: test patients")
        style.headline(ax, recalibration_title(table), pad=_ways(ax, ways) + 6)
    table.attrs["shown"] = [name for name in REPAIRED if name in table]
    return style.Drawing(style.root(ax), table)


REPAIRED = ["site", "by", "cases", "parameter", "tests", "log_loss_before", "log_loss_after", "log_loss_finding",
            "slope_before", "slope_after", "note"]  # fmt: skip


def _gains(ax: Axes, part: pd.DataFrame, way: str, below: float) -> None:
    """Draw the gains of one way with their intervals, and write the slopes right of the axes."""
    color, marker = LOOK[way]
    y = np.arange(len(part)) + below
    ax.hlines(y, part["log_loss_low"], part["log_loss_high"], colors=color, lw=1.2)
    known = part["log_loss_gain"].where(part["log_loss_low"].notna())
    ax.plot(known, y, marker=marker, color=color, ls="none", ms=5.5, mew=0)
    if way == "temperature" and "slope_before" in part:  # a shift leaves the slope as it is
        for place, before, after in zip(y, part["slope_before"], part["slope_after"], strict=True):
            text = f"{before:.2f} → {after:.2f}" if np.isfinite(before) else "–"
            style.right_of(ax, place, 12, text, va="center", color=style.ink(color))
        head = "calibration slope,\nwith temperature"
        style.right_of(ax, ax.get_ylim()[1], 12, head, va="bottom", color="#555555")


def _ways(ax: Axes, ways: list[str]) -> float:
    """Name the ways above the axes; return the height of the legend in points."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=LOOK[way][0], marker=LOOK[way][1], lw=1.1, ms=5.5, mew=0) for way in ways]
    look: dict[str, Any] = {"loc": "lower left", "borderaxespad": 0, "borderpad": 0.2, "ncols": len(ways)}
    ax.legend(handles, ways, bbox_to_anchor=(0, 1), **look)
    return HEADER * 0.7


def recalibration_title(table: pd.DataFrame) -> str:
    """Count the sites at which each way improves or worsens the log loss, by the 95 % interval."""
    parts = []
    for way, rows in table.groupby("by", sort=False):
        better, worse = int((rows["log_loss_low"] > 0).sum()), int((rows["log_loss_high"] < 0).sum())
        text = f"{better or 'none'} of {len(rows)} sites by {way}"
        parts.append(text + (f" (worse at {worse})" if worse else ""))
    return f"Recalibration improves the log loss at {listed(parts, whole=True)} (95 % CI)"
