"""Whether the measured shift between sites predicts what a method loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.evaluation.intervals.rank_correlation import RankCorrelation, spearman
from fedlab.plots import style
from fedlab.plots.names import listed, names
from fedlab.plots.names import name as short
from fedlab.plots.paper import paper
from fedlab.plots.sheet import extent
from fedlab.plots.study_table import (
    AXES,
    axis_name,
    base,
    counted,
    digits,
    filled,
    mean_rows,
    measure_name,
    over,
    sentence,
    subject,
    unit,
    written,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, LINE, LEAST = 10.0, 4.6, 0.16, 7.0  # inches; least width in print
MARKERS = ("o", "s", "D", "^", "v", "P", "X", ">", "<", "h", "p")
MOST, AXIS, MEASURE = 20, 24, 8  # axes that are drawn; characters of an axis and of a measure
WITHIN = 4  # doses from which on an axis has its own correlation
APART = 6.5  # points between marks
SIZE, INK = 8.0, "#555555"
SHOWN = ["axis", "dose", "measure", "distance", "cost", "cost_low", "cost_high", "clear"]  # below the figure


def distance(
    study: Any,
    metric: str | None = None,
    *,
    method: str | None = None,
    ax: Axes | None = None,
    width: float | None = None,
) -> style.Drawing:
    """Draw what one method loses against the measured shift between sites, a mark for each axis and dose of a study.

    The shift of an axis is its realised shift minus its mean under random assignment (0: no shift beyond chance),
    divided by the largest of the axis, so that measures of different units share a scale. The cost is against the
    first dose of the axis, which is left out. Marks that would cover each other are moved apart sideways. The title
    states Spearman's rank correlation over all marks; an axis of at least four doses besides the first has its own.
    Their intervals take doses as independent, although those of an axis share their first dose.

    Parameters
    ----------
    study : Study or pandas.DataFrame
        A study, or its `table`.
    metric : str, optional
        A metric of the study; its headline metric, or the first one in the table, by default.
    method : str, optional
        The method; by default the first one in the table that is neither local nor centralized.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.

    Returns
    -------
    Drawing
        (figure, table). table: the rows drawn of the study's table, with `clear` (1 where the dose is shown to cost, -1
        to gain), `beyond` (shift minus shift_null), `distance` (the same by the largest of its axis), the rank
        correlation over all rows (`rho`, `rho_low`, `rho_high`) and within the axis (`axis_rho`, `axis_rho_low`,
        `axis_rho_high`).

    Raises
    ------
    ValueError
        If the table lacks columns, has no row of the mean of sites, or does not hold the method.

    References
    ----------
    Bonett and Wright 2000, Psychometrika 65:23 (interval of the rank correlation).

    Examples
    --------
    >>> import pandas as pd
    >>> import fedlab
    >>> table = pd.DataFrame({"dose": [0, 1, 2, 3, 4, 5, 6, 7], "cost": [0, 1, 3, 2, 4, 5, 7, 6]}) / 10
    >>> table = table.assign(axis="prevalence", method="fedavg", site="mean of sites", metric="auroc", value=0.8)
    >>> figure, drawn = fedlab.plots.distance(table.assign(shift=table["dose"], shift_null=0.0))
    >>> drawn[["rho", "rho_low", "rho_high"]].round(2).iloc[0].tolist()
    [0.93, 0.44, 0.99]
    """
    rows = mean_rows(study, metric)
    known = list(dict.fromkeys(rows["method"]))
    if method is not None and method not in known:
        raise ValueError(f"found no method {method!r} in the study: choose one of {known}")
    chosen, name = method or subject(rows), str(rows["metric"].iloc[0])
    own = placed(rows[(rows["method"] == chosen) & ~base(rows)])
    table = correlated(own)
    axes = list(dict.fromkeys(table["axis"]))
    drawn = table[table["axis"].isin(axes[:MOST])]
    own_page, layout = ax is None, paper(width, WIDTH, ax)
    layout.check(LEAST, "The shift and the correlation of each axis")
    with style.page(ax, layout.width, HEIGHT) as ax:
        label = style.metric_label(name)
        ax.set_xlabel("measured shift beyond chance, relative to the largest of its axis")
        ax.set_ylabel(f"cost for {short(chosen)}:\n{'loss' if style.rises(name) else 'increase'} of {label}")
        _note(ax, _notes(own, table, len(axes) - MOST), layout.width - 0.5 if own_page else style.inches(ax)[0] + 0.6)
        style.headline(ax, title(table, name, short(chosen)), pad=26 if len(axes) else 8)
        ends = _marks(ax, drawn, style.roles([chosen])[chosen])
        _columns(ax, drawn, style.end_labels(ax, ends, most=AXIS, things="axes"))
    table.attrs["shown"] = [column for column in SHOWN if column in table]
    return style.Drawing(style.root(ax), table)


def placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the shift beyond chance, and the same by the largest of its axis; 0 where no dose of an axis has any."""
    beyond = rows["shift"] - rows["shift_null"]
    largest = beyond.groupby(rows["axis"]).transform("max")
    scaled = (beyond / largest.where(largest > 0)).where(largest > 0, beyond.where(beyond.isna(), 0.0))
    return rows.assign(beyond=beyond, distance=scaled)


def correlated(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows with a distance and a cost, and add the rank correlations over all of them and within each axis."""
    table = rows.dropna(subset=["distance", "cost"]).reset_index(drop=True)
    whole = spearman(table["distance"], table["cost"])
    table = table.assign(rho=whole.rho, rho_low=whole.low, rho_high=whole.high)
    within = {axis: _within(rows) for axis, rows in table.groupby("axis")}
    for column, field in (("axis_rho", "rho"), ("axis_rho_low", "low"), ("axis_rho_high", "high")):
        table[column] = [getattr(within[axis], field) for axis in table["axis"]]
    return table


def _within(rows: pd.DataFrame) -> RankCorrelation:
    """Return the correlation of the doses of one axis, NaN if there are too few."""
    if len(rows) < WITHIN:
        return RankCorrelation(np.nan, np.nan, np.nan, len(rows))
    return spearman(rows["distance"], rows["cost"])


# -- marks -----------------------------------------------------------------------------------------------------------


def _marks(ax: Axes, table: pd.DataFrame, role: style.Role) -> list[tuple[float, float, str, str]]:
    """Draw marks with their intervals, joined within an axis; return the last mark of each axis with its name."""
    ax.set_xlim(min(-0.08, float(table["distance"].min()) - 0.08) if len(table) else -0.08, 1.1)
    known = table[["cost", "cost_low", "cost_high"]].to_numpy(float)
    known = np.append(known[np.isfinite(known)], 0.0)
    spare = 0.06 * max(float(np.ptp(known)), 0.01)
    ax.set_ylim(known.min() - spare, known.max() + spare)
    ax.axhline(0, color="#b9bec6", lw=0.9, zorder=0)
    ax.axvline(0, color="#b9bec6", lw=0.9, ls=(0, (3, 3)), zorder=0)
    ax.grid(axis="y", color="#e9ebee", lw=0.7)
    left, right = ax.get_xlim()
    gap = APART / style.POINTS / style.inches(ax)[0] * (right - left)
    table = table.assign(x=style.spread(list(table["distance"]), gap))
    if len(table):
        ax.set_xlim(left, max(right, float(table["x"].max()) + gap))
    ends = []
    for k, (axis, rows) in enumerate(table.groupby("axis", sort=False)):
        rows = rows.sort_values("x", kind="stable")
        ax.plot(rows["x"], rows["cost"], color=style.PALE, lw=1.1, zorder=1)
        ax.vlines(rows["x"], rows["cost_low"], rows["cost_high"], color=role.color, lw=0.9, alpha=0.75, zorder=2)
        faces = [role.color if clear else "white" for clear in rows["clear"]]
        look: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "s": 26, "edgecolors": role.color}
        ax.scatter(rows["x"], rows["cost"], c=faces, linewidths=1.1, zorder=3, gid=str(axis), **look)
        ends.append((float(rows["x"].iloc[-1]) + gap / 2, float(rows["cost"].iloc[-1]), _name(str(axis)), "#404040"))
    return ends


def _columns(ax: Axes, table: pd.DataFrame, heights: dict[str, float]) -> None:
    """Write the largest shift and the correlation of each axis right of its name."""
    if table.empty:
        return
    first = 14 + 8 + style.POINTS * max(extent(text, 8.5) for text in names(heights, AXIS).values())
    shifts = {_name(str(axis)): _largest(rows) for axis, rows in table.groupby("axis", sort=False)}
    second = first + 12 + style.POINTS * max(extent(text, SIZE) for text in ["shift beyond", *shifts.values()])
    within = {_name(str(axis)): _rho(rows) for axis, rows in table.groupby("axis", sort=False)}
    for at, head, cells in (
        (first, "shift beyond\nchance at 1", shifts),
        (second, "rank correlation\nwithin the axis", within),
    ):
        style.right_of(ax, ax.get_ylim()[1], at, head, va="bottom", color=INK)
        for text in heights.keys() & cells.keys():
            style.right_of(ax, heights[text], at, cells[text], va="center", color=INK)


def _name(axis: str) -> str:
    return AXES.get(axis, axis)


def _rho(rows: pd.DataFrame) -> str:
    """Format the correlation within an axis."""
    rho, low, high = rows[["axis_rho", "axis_rho_low", "axis_rho_high"]].iloc[0]
    return _number(rho) + _interval(low, high, "")


def _largest(rows: pd.DataFrame) -> str:
    """Format the largest shift of an axis beyond chance with its unit."""
    most = float(rows["beyond"].max())
    known = rows["measure"].dropna()
    text = (unit(known.iloc[0]) or measure_name(known.iloc[0])) if len(known) else ""
    return f"{written(most, digits([most]))} {text if len(text) <= MEASURE else ''}".rstrip()


# -- words -----------------------------------------------------------------------------------------------------------


def _note(ax: Axes, text: str, width: float) -> None:
    """Write a note below the label of the x axis, in lines of a width in inches."""
    lines = style.filled(text, lambda line: extent(line, SIZE), width)
    look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    for k, line in enumerate(lines):
        ax.annotate(line, (0, 0), (-48, -46 - k * style.POINTS * LINE), fontsize=SIZE, color=INK, **look)


def _notes(own: pd.DataFrame, table: pd.DataFrame, left: int) -> str:
    """State test cases, what varied, what filled marks mean, and what is not drawn."""
    parts = counted(table, table)
    if table[["cost_low", "cost_high"]].notna().all(axis=1).any():
        parts.append(f"bars: 95 % intervals{over(table)}")
    if len(table):
        parts.append(f"{filled(table)} from the first dose of their axis")
    if table[["rho_low", "axis_rho_low"]].notna().any(axis=None):
        parts.append("intervals of correlations take doses as independent")
    lost = own[own["distance"].isna() | own["cost"].isna()]
    gone = [axis for axis in dict.fromkeys(lost["axis"]) if axis not in set(table["axis"])]
    if gone:
        parts.append(f"without a measured shift or a cost: {listed(axis_name(axis).lower() for axis in gone)}")
    if few := int((~lost["axis"].isin(gone)).sum()):
        parts.append(f"{few} other dose{'s' * (few > 1)} without one")
    return sentence(parts + [f"+ {left} more ax{'is' if left == 1 else 'es'}"] * (left > 0))


def title(table: pd.DataFrame, metric: str, method: str) -> str:
    """State the rank correlation of cost and measured shift with its interval and number of doses."""
    label = style.metric_label(metric)
    if table.empty:
        return f"No dose has both a measured shift and a cost for {method}"
    rho, low, high = table[["rho", "rho_low", "rho_high"]].iloc[0]
    axes = table["axis"].nunique()
    over = f"{len(table)} dose{'s' * (len(table) > 1)} of {axes} ax{'is' if axes == 1 else 'es'}"
    if not np.isfinite(rho):
        return f"The rank correlation of measured shift and cost for {method} is undefined over {over}"
    if not np.isfinite(low):
        text = f"Rank correlation of measured shift and cost for {method}: {_number(rho)} over {over}"
        return f"{text}, too few for an interval"
    found = f"{_number(rho)}{_interval(low, high, '95 % CI ')} over {over}"
    if low <= 0 <= high:
        lost = f"what {method} loses in {label}" if style.rises(metric) else f"the increase of {label} of {method}"
        return f"This study does not show that the measured shift predicts {lost}: rank correlation {found}"
    worse = "falls" if style.rises(metric) == (rho > 0) else "rises"
    what = f"{label[0].upper()}{label[1:]} of {method} {worse} as the measured shift rises"
    return f"{what}: rank correlation of shift and cost {found}"


def _number(rho: float) -> str:
    """Format a correlation with two decimals."""
    return written(rho, 2)


def _interval(low: float, high: float, kind: str) -> str:
    """Format the interval of a correlation; empty if there is none."""
    return f" ({kind}{_number(low)} to {_number(high)})" if np.isfinite(low) else ""
