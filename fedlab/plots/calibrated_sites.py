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
from fedlab.plots.names import NAME, listed, more, names
from fedlab.plots.paper import Paper, headline, label_below, legend, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.5  # inches: a site
WAYS = {  # colour, marker, name of a column, name in the legend
    "pooled": ("#D55E00", "v", "pooled", "thresholds of all sites' cases"),
    "shrunken": ("#0072B2", "D", "shrunken", "of both"),
    "site": ("#009E73", "s", "own", "of own cases"),
}
COLUMN, COLUMN_OF_NARROW, HEADER = 52.0, 36.0, 34.0  # points: a column of set sizes, also in a narrow figure; its head
HEAD_AND_FOOT = 2.6  # inches of a page above and below the rows
SLOPE = "calibration slope,\nwith temperature"
NOTE = "bands: expected of own cases; n: validation / test cases"
SHOWN = ["site", "calibration", "own", "threshold", "tests", "coverage", "low", "high", "band_low", "band_high", "size"]


def conformal(
    run: Any,
    level: float = 0.9,
    score: str = "lac",
    *,
    ax: Axes | None = None,
    width: float | None = None,
    **options: Any,
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
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
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
    layout = paper(width, 9.5, ax)
    rows, pitch = style.fitting(len(order) - 1, ROW, layout.room(style.ROOM, HEAD_AND_FOOT))
    drawn = [*order[:rows], POOLED]
    ways = [way for way in WAYS if way in set(whole["calibration"])]
    with style.page(ax, layout.width, 1.8 + pitch * (rows + 2)) as ax:
        _rows(ax, drawn, len(order) - 1 - rows, whole, pitch, layout)
        left, column = (5, COLUMN_OF_NARROW) if layout.narrow else (12, COLUMN)
        ax.axvline(level, color=style.BLACK, lw=0.8, dashes=(4, 2), zorder=1)
        for k, way in enumerate(ways):
            part = whole[whole["calibration"] == way].set_index("site").loc[drawn]
            _marks(ax, part, way, (k - (len(ways) - 1) / 2) * 0.24)
            at, color, head = left + column * k, style.ink(WAYS[way][0]), f"size,\n{WAYS[way][2]}"
            style.right_of(ax, ax.get_ylim()[1], at, head, va="bottom", color=color)
            for y, size in enumerate(part["size"]):
                text = f"{size:.2f}" if np.isfinite(size) else "–"
                style.right_of(ax, y, at, text, va="center", color=color)
        cut = " " if layout.narrow else "\n"
        label_below(ax, layout, f"share of test cases whose set contains the true class, 95 % interval;{cut}{NOTE}")
        marks = {WAYS[way][3]: WAYS[way][:2] for way in ways}
        pad = max(HEADER, _legend(ax, marks, layout, "size,\nown")) + 6
        headline(ax, layout, title(whole, level), pad, pitch * (rows + 1))
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


def _rows(ax: Axes, drawn: list[str], left: int, table: pd.DataFrame, pitch: float, layout: Paper) -> None:
    """Label the rows with their validation and test cases, all sites together last."""
    counts = table.groupby("site")[["own", "tests"]].max()
    called = names(drawn, layout.name(pitch, NAME))
    labels = []
    for site in drawn:
        name = "all sites" if site == POOLED else called[site]
        n = f"n={counts.loc[site, 'own']:,.0f} / {counts.loc[site, 'tests']:,}"
        labels.append(layout.counted(name, n, pitch))
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


def _legend(ax: Axes, marks: dict[str, tuple[str, str]], layout: Paper, head: str) -> float:
    """Name what has a colour and a marker above the axes; return the height of legend and head in points."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, marker=marker, lw=1.1, ms=5.5, mew=0) for color, marker in marks.values()]
    return legend(ax, layout, handles, list(marks), head)


# -- recalibration ---------------------------------------------------------------------------------------------------

LOOK = {"temperature": (style.BLUE, "D"), "intercept": ("#D55E00", "v")}


def recalibration(
    run: Any, *, ax: Axes | None = None, choice: str = "best", width: float | None = None
) -> style.Drawing:
    """Draw what recalibration on the validation cases of each site gains in log loss on its test cases.

    Lines are 95 % intervals. Right: the calibration slope before and after (1 is best), of binary tasks. The largest
    test sets are on top.

    Parameters
    ----------
    run : Run or pandas.DataFrame
        A run, or frames of `fedlab.analysis.joining.recalibration.recalibrate` put together.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
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
    layout = paper(width, 9, ax)
    rows, pitch = style.fitting(len(order), ROW, layout.room(style.ROOM, HEAD_AND_FOOT))
    drawn, ways = order[:rows], [way for way in LOOK if way in set(table["by"])]
    high = pitch * (rows + (len(order) > rows))
    with style.page(ax, layout.width, 1.7 + high) as ax:
        called = names(drawn, layout.name(pitch, NAME))
        labels = [layout.counted(called[site], f"n={sizes[site]:,}", pitch) for site in drawn]
        labels += [more(len(order) - rows, "sites")] * (len(order) > rows)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.axvline(0, color=style.GREY, lw=0.8, zorder=1)
        for k, way in enumerate(ways):
            part = table[table["by"] == way].set_index("site").loc[drawn]
            _gains(ax, part, way, (k - (len(ways) - 1) / 2) * 0.3, 5 if layout.narrow else 12)
        label = "gain in log loss on test cases (right of 0: better), 95 % interval; n: test patients"
        label_below(ax, layout, label)
        head = SLOPE * ("temperature" in ways and "slope_before" in table)
        pad = max(0.7 * HEADER, _legend(ax, {way: LOOK[way] for way in ways}, layout, head)) + 6
        headline(ax, layout, recalibration_title(table), pad, high)
    table.attrs["shown"] = [name for name in REPAIRED if name in table]
    return style.Drawing(style.root(ax), table)


REPAIRED = ["site", "by", "cases", "parameter", "tests", "log_loss_before", "log_loss_after", "log_loss_finding",
            "slope_before", "slope_after", "note"]  # fmt: skip


def _gains(ax: Axes, part: pd.DataFrame, way: str, below: float, at: float) -> None:
    """Draw the gains of one way with their intervals, and write the slopes so many points right of the axes."""
    color, marker = LOOK[way]
    y = np.arange(len(part)) + below
    ax.hlines(y, part["log_loss_low"], part["log_loss_high"], colors=color, lw=1.2)
    known = part["log_loss_gain"].where(part["log_loss_low"].notna())
    ax.plot(known, y, marker=marker, color=color, ls="none", ms=5.5, mew=0)
    if way == "temperature" and "slope_before" in part:  # a shift leaves the slope as it is
        for place, before, after in zip(y, part["slope_before"], part["slope_after"], strict=True):
            text = f"{before:.2f} → {after:.2f}" if np.isfinite(before) else "–"
            style.right_of(ax, place, at, text, va="center", color=style.ink(color))
        style.right_of(ax, ax.get_ylim()[1], at, SLOPE, va="bottom", color="#555555")


def recalibration_title(table: pd.DataFrame) -> str:
    """Count the sites at which each way improves or worsens the log loss, by the 95 % interval."""
    parts = []
    for way, rows in table.groupby("by", sort=False):
        better, worse = int((rows["log_loss_low"] > 0).sum()), int((rows["log_loss_high"] < 0).sum())
        text = f"{better or 'none'} of {len(rows)} sites by {way}"
        parts.append(text + (f" (worse at {worse})" if worse else ""))
    return f"Recalibration improves the log loss at {listed(parts, whole=True)} (95 % CI)"
