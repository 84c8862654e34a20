"""What each heterogeneity costs: performance of every method against the dose of each axis of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.plots import style, titles
from fedlab.plots.names import more, names
from fedlab.plots.names import name as short
from fedlab.plots.paper import Paper, headline, legend, paper
from fedlab.plots.sheet import extent
from fedlab.plots.study_table import (
    UNCLEAR,
    Scale,
    axis_name,
    base,
    counted,
    digits,
    filled,
    has_p,
    in_sentence,
    mean_rows,
    measure_name,
    over,
    scale,
    sentence,
    subject,
    unit,
    written,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS, METHODS, PANELS = 4, 12, 16  # panels in a row; methods and panels that are drawn
PANEL, GAP, LEFT = 1.9, 0.24, 0.72  # inches: height of a panel, and room between, left and right of them
WIDTHS = {1: 3.8, 2: 3.0, 3: 2.5, 4: 2.2}  # inches of a panel, by panels in a row
LEAST = 7.0  # inches: width of the figure
ABOVE, LINE, TICK = 0.26, 0.16, 0.17  # inches: name of a panel, a line of text, a row of numbers on a scale
RIGHT, LEAST_PANEL, ROWS_OF_PRINT = 0.1, 1.2, 3  # inches, in print: right of panels, a panel; rows of panels
CHANCE = "chance: "
METHOD, SIZE = 26, 8.0  # characters of a method; points of small text
NUDGE = 0.065  # inches between the marks of two methods at one dose
INK = "#555555"
SHOWN = ("axis", "dose", "shift", "method", "value", "low", "high")  # columns of the table that a notebook shows


class Panel(NamedTuple):
    """One axis of the study: its doses, the labels that fit below them, and the realised shift above them."""

    axis: str
    scale: Scale
    below: list[str]
    upright: bool
    depth: float  # inches of the labels below
    above: list[str]
    measure: str


def costs_of_heterogeneity(
    study: Any, metric: str | None = None, *, ax: Axes | None = None, width: float | None = None
) -> style.Drawing:
    """Draw performance against dose, a panel for each axis of a study and a line for each method.

    Values are macro-averages over sites with their 95 % intervals; methods are a little apart, so that intervals do not
    cover each other. The scale above a panel gives the realised shift at each dose. A mark is filled where the dose is
    shown to cost (or gain) something against the first dose of its axis. The title is about the highest dose of each
    axis and the first federated method.

    Parameters
    ----------
    study : Study or pandas.DataFrame
        A study, or its `table`.
    metric : str, optional
        A metric of the study; its headline metric, or the first one in the table, by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.

    Returns
    -------
    Drawing
        (figure, table). table: the rows of the study's table for the mean of sites, and `clear`: 1 where the dose
        costs, -1 where it gains (p < 0.05 after Holm, or, without p-values, an interval without 0), else 0.

    Raises
    ------
    ValueError
        If the table lacks columns, or has no row or several rows of the mean of sites.

    Examples
    --------
    >>> import pandas as pd
    >>> import fedlab
    >>> table = pd.DataFrame({"axis": "prevalence", "dose": [0.0, 1.0], "value": [0.86, 0.81], "cost": [0.0, 0.05]})
    >>> table = table.assign(method="fedavg", site="mean of sites", metric="auroc", cost_low=[None, 0.02])
    >>> figure, drawn = fedlab.plots.costs_of_heterogeneity(table.assign(cost_high=[None, 0.08]))
    >>> print(figure.axes[0].get_title(loc="left"))
    At the highest dose, heterogeneity in disease prevalence
    costs fedavg 5.0 points of AUROC (95 % CI 2.0 to 8.0)
    >>> drawn["clear"].tolist()
    [0, 1]
    """
    table = mean_rows(study, metric)
    name = str(table["metric"].iloc[0])
    methods = list(dict.fromkeys(table["method"]))
    layout = paper(width, 0, ax)
    called = names(methods[:METHODS], METHOD).values()
    right = RIGHT if layout.narrow else max(extent(text, 8.5) for text in called) + 0.36
    most = max(1, min(ACROSS, int((layout.width - LEFT - right) / LEAST_PANEL))) if layout.printed else ACROSS
    axes = list(dict.fromkeys(table["axis"]))[: min(PANELS, most * ROWS_OF_PRINT) if layout.printed else PANELS]
    shown = table[table["method"].isin(methods[:METHODS]) & table["axis"].isin(axes)]
    rows = math.ceil(len(axes) / most)
    across = math.ceil(len(axes) / rows)
    wide = layout.width or max(across * (WIDTHS[across] + GAP) + LEFT + right - GAP, LEAST)
    panels = _panels(shown, axes, (wide - 0.16 - LEFT - right + GAP) / across - GAP)
    lines = style.filled(
        notes(table, len(axes), any(CHANCE in panel.measure for panel in panels)),
        lambda line: extent(line, SIZE),
        wide - 0.4,
    )
    fixed = _fixed(panels, across, len(lines))
    with style.page(ax, wide, 0.5 + fixed + rows * PANEL) as ax:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_axis_off()
        pad = _legend(ax, methods[:METHODS], layout) if layout.narrow else 0
        headline(ax, layout, title(table, name), pad + 6, fixed + rows * PANEL)
        broad, height = style.inches(ax)
        high = max(0.3, (height - fixed) / rows)
        room = max(0.3, (broad - LEFT - right + GAP) / across - GAP)
        panels = _panels(shown, axes, room)
        _draw(ax, shown, panels, (across, room, high), not layout.narrow)
        for k, line in enumerate(lines):
            y = (len(lines) - k - 0.5) * LINE / height
            ax.text(0, y, line, transform=ax.transAxes, fontsize=SIZE, color=INK, va="center", in_layout=False)
    table.attrs["shown"] = [column for column in SHOWN if column in table]
    return style.Drawing(style.root(ax), table)


# -- layout ----------------------------------------------------------------------------------------------------------


def _panels(table: pd.DataFrame, axes: Sequence[str], width: float) -> list[Panel]:
    """Choose the labels of each axis that fit into panels of a width in inches."""
    return [_panel(axis, table[table["axis"] == axis], width) for axis in axes]


def _panel(axis: str, rows: pd.DataFrame, width: float) -> Panel:
    found = scale(axis, rows["dose"])
    at = _inches(found.places, width, rows["method"].nunique())
    by_dose = rows.assign(dose=rows["dose"].astype(str)).groupby("dose", sort=False)["shift"].mean()
    shifts = by_dose.to_numpy(float)
    decimals = digits(shifts)
    above = thinned([written(value, decimals) for value in shifts], at) if np.isfinite(shifts).any() else []
    broken = [word.replace("(", "\n(", 1) for word in found.words]
    if found.numeric:
        below, upright, depth = thinned(found.words, at), False, TICK
    elif _apart(found.words, at):
        below, upright, depth = found.words, False, TICK
    elif _apart(broken, at):
        below, upright, depth = broken, False, TICK + 0.12
    else:
        below = _thinned_rows(found.words, at)
        upright, depth = True, max(extent(word, SIZE) for word in below) + 0.08
    return Panel(axis, found, below, upright, depth, above, _measure(rows, decimals, width) if above else "")


def _inches(places: NDArray[np.float64], width: float, methods: int) -> NDArray[np.float64]:
    """Return where places are in a panel, in inches from its left edge."""
    pad = _pad(methods, width)
    span = float(np.ptp(places))
    return pad + (width - 2 * pad) * ((places - places.min()) / span if span else np.full(len(places), 0.5))


def _pad(methods: int, width: float) -> float:
    """Return the room between the edge of a panel and its first dose, in inches."""
    return min(0.12 + NUDGE * methods / 2, 0.25 * width)


def _apart(words: Sequence[str], at: NDArray[np.float64]) -> bool:
    """Tell whether words centred at places in inches do not touch."""
    half = [max(extent(line, SIZE) for line in word.split("\n")) / 2 for word in words]
    order = np.argsort(at, kind="stable")
    return all(at[b] - half[b] - at[a] - half[a] >= 0.06 for a, b in pairwise(order))


def thinned(words: Sequence[str], at: NDArray[np.float64]) -> list[str]:
    """Leave out every second (third, ...) word, but never the last, until those left do not touch."""
    rank = np.argsort(np.argsort(at, kind="stable"), kind="stable")
    for every in range(1, len(words) + 1):
        kept = np.flatnonzero((len(words) - 1 - rank) % every == 0)
        if _apart([words[int(k)] for k in kept], at[kept]):
            break
    return [word if k in kept else "" for k, word in enumerate(words)]


def _thinned_rows(words: Sequence[str], at: NDArray[np.float64]) -> list[str]:
    """Leave out words that would touch the next one even when upright."""
    step = float(np.diff(at).min()) if len(at) > 1 else 1.0
    every = max(1, math.ceil(LINE / max(step, 1e-6)))
    return [word if (len(words) - 1 - k) % every == 0 else "" for k, word in enumerate(words)]


def _measure(rows: pd.DataFrame, decimals: int, width: float) -> str:
    """Name the measure of an axis with its unit, and its mean by chance if the panel has room for it."""
    known = rows["measure"].dropna()
    text = measure_name(known.iloc[0]) if len(known) else "shift"
    text += ", bit" if len(known) and unit(known.iloc[0]) else ""
    null = rows["shift_null"].mean()
    whole = text + (f" ({CHANCE}{written(null, max(decimals, digits([null])))})" if np.isfinite(null) else "")
    return whole if extent(whole, SIZE) < width + GAP - 0.06 else text


def _heads(panels: Sequence[Panel]) -> float:
    """Return the room above the panels of a row, in inches."""
    return ABOVE + (LINE + TICK) * any(panel.above for panel in panels)


def _feet(panels: Sequence[Panel]) -> float:
    """Return the room below the panels of a row, in inches."""
    return max(panel.depth for panel in panels) + LINE + 0.14


def _lines(panels: Sequence[Panel], across: int) -> list[Sequence[Panel]]:
    return [panels[k : k + across] for k in range(0, len(panels), across)]


def _fixed(panels: Sequence[Panel], across: int, notes: int) -> float:
    """Return the height of everything but the panels, in inches."""
    return sum(_heads(row) + _feet(row) for row in _lines(panels, across)) + LINE * notes + 0.04


# -- marks -----------------------------------------------------------------------------------------------------------


def _legend(ax: Axes, methods: Sequence[str], layout: Paper) -> float:
    """Name the methods above the panels; return the height of the legend in points."""
    from matplotlib.lines import Line2D

    roles = style.roles(methods)
    looks = {text: roles[method] for method, text in names(methods, METHOD).items()}
    marks = {text: "o" if role.marker == "|" else role.marker for text, role in looks.items()}
    handles = [
        Line2D([], [], color=role.color, ls=role.dash, marker=marks[text], lw=1.2, ms=4.5)
        for text, role in looks.items()
    ]
    return legend(ax, layout, handles, list(looks))


def _draw(ax: Axes, table: pd.DataFrame, panels: Sequence[Panel], size: tuple[int, float, float], named: bool) -> None:
    """Draw rows of panels; size: panels in a row, width and height of a panel in inches; named: lines at their ends."""
    across, room, high = size
    width, height = style.inches(ax)
    metric, limits, top = str(table["metric"].iloc[0]), _limits(table), height
    for row in _lines(panels, across):
        top -= _heads(row)
        for column, panel in enumerate(row):
            left = LEFT + column * (room + GAP)
            box = (left / width, (top - high) / height, room / width, high / height)
            inner = ax.inset_axes(box)
            inner.set_in_layout(False)  # all of it lies within the axes
            rows = table[table["axis"] == panel.axis]
            inner.set_ylim(*limits)
            ends = _marks(inner, rows, panel, room)
            _dress(inner, panel, metric if column == 0 else None, _heads(row))
        if named:
            style.end_labels(inner, ends, most=METHOD, height=high * style.POINTS)
        top -= high + _feet(row)


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Return the range of all values and intervals, with a margin."""
    known = table[["value", "low", "high"]].to_numpy(float)
    known = known[np.isfinite(known)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    spare = 0.06 * max(high - low, 0.02)
    return low - spare, high + spare


def _marks(panel: Axes, rows: pd.DataFrame, shown: Panel, width: float) -> list[tuple[float, float, str, str]]:
    """Draw lines, intervals and marks of each method; return the end of each line with the method's name and ink."""
    methods = list(dict.fromkeys(rows["method"]))
    roles, places = style.roles(methods), shown.scale.places
    pad, span = _pad(len(methods), width), float(np.ptp(places)) or 1.0
    an_inch = span / (width - 2 * pad)
    gap = float(np.diff(np.sort(places)).min()) / an_inch if len(places) > 1 else width
    step = min(NUDGE, 0.8 * gap / len(methods)) * an_inch
    panel.set_xlim(places.min() - pad * an_inch, places.max() + pad * an_inch)
    if len(places) == 1:
        panel.set_xlim(places[0] - width * an_inch / 2, places[0] + width * an_inch / 2)
    order, ends = np.argsort(places, kind="stable"), []
    for k, method in enumerate(methods):
        own = rows[rows["method"] == method]
        own = own.set_index(own["dose"].astype(str)).reindex(shown.scale.doses).iloc[order]
        x = places[order] + (k - (len(methods) - 1) / 2) * step
        role, over = roles[method], 3 if style.is_federated(method) else 2
        panel.plot(x, own["value"], color=role.color, linestyle=role.dash, lw=1.2, zorder=over)
        panel.vlines(x, own["low"], own["high"], color=role.color, lw=1.0, zorder=over)
        faces = [role.color if clear in (1, -1) else "white" for clear in own["clear"]]
        marker = "o" if role.marker == "|" else role.marker
        look: dict[str, Any] = {"marker": marker, "s": 17, "edgecolors": role.color, "linewidths": 1.1}
        panel.scatter(x, own["value"], c=faces, zorder=over + 2, gid=f"{method} on {shown.axis}", **look)
        known = np.flatnonzero(own["value"].notna())
        if len(known):
            ends.append((float(x[known[-1]]), float(own["value"].iloc[known[-1]]), method, role.ink))
    return ends


def _dress(panel: Axes, shown: Panel, metric: str | None, head: float) -> None:
    """Write the name, the doses, the realised shift and, in the first panel of a row, the metric."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xticks(shown.scale.places, shown.below, rotation=90 if shown.upright else 0)
    panel.tick_params(labelsize=SIZE, length=2.5, pad=2.5)
    panel.grid(axis="y", color="#e9ebee", lw=0.7)
    panel.locator_params(axis="y", nbins=6)
    panel.set_xlabel("sites" if shown.axis == "sites" else "dose", fontsize=8.5, labelpad=1.5)
    lift = 4.0 + (head - ABOVE) * style.POINTS
    panel.set_title(axis_name(shown.axis), fontsize=8.5, fontweight="bold", loc="left", pad=lift)
    if head > ABOVE:
        look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
        text, lift = shown.measure or "shift not measured", 4.5 + TICK * style.POINTS
        panel.annotate(text, (0, 1), (0, lift), fontsize=SIZE, color=INK, **look)
    if shown.above:
        upper = panel.secondary_xaxis("top")
        upper.set_xticks(shown.scale.places, shown.above)
        upper.tick_params(labelsize=SIZE, length=2.5, pad=1.5, color="#9aa0a8", labelcolor=INK)
        upper.spines["top"].set(color="#9aa0a8", linewidth=0.8)
    if metric is None:
        panel.tick_params(axis="y", labelleft=False, length=0)
        panel.spines["left"].set_visible(False)
        return
    lower = "" if style.rises(metric) else " (lower is better)"
    panel.set_ylabel(f"{style.metric_label(metric)}{lower},\nmacro-average over sites", fontsize=8.5)


# -- words -----------------------------------------------------------------------------------------------------------


def notes(table: pd.DataFrame, panels: int = PANELS, by_chance: bool = True) -> str:
    """State the test cases, what varied, what filled marks mean, and what is not drawn."""
    parts = counted(table, table[~base(table)])
    if table[["low", "high"]].notna().all(axis=1).any():
        parts.append(f"bars: 95 % intervals{over(table)}")
    if table["cost"].notna().any() and not base(table).all():
        parts.append(f"{filled(table)} from the first dose of their axis")
    if table["shift"].notna().any():
        chance = "; chance: its mean under random assignment" if by_chance and table["shift_null"].notna().any() else ""
        parts.append(f"upper scales: realised shift{chance}")
    for column, most, things in (("method", METHODS, "methods"), ("axis", panels, "panels")):
        left = table[column].nunique() - most
        parts += [more(left, things)] * (left > 0)
    return sentence(parts)


def title(table: pd.DataFrame, metric: str) -> str:
    """State on how many axes the highest dose is shown to cost the first federated method anything, and how much."""
    method = subject(table)
    doses = table["dose"].astype(str)
    ends = table["axis"].map(doses.groupby(table["axis"], sort=False).last())
    own = table[(table["method"] == method) & (doses == ends) & ~base(table)]
    known = own[own[["cost_low", "cost_high"]].notna().all(axis=1) | own["cost_p_holm"].notna()]
    if known.empty:
        return _range(table[table["method"] == method], metric, short(method))
    better = int((known["clear"] < 0).sum())
    unknown = table.loc[~base(table), "axis"].nunique() - len(known)
    tail = f"; {_axes(better)} improve{'s' * (better == 1)} it" if better else ""
    tail += f"; not determined on {_axes(unknown)}" if unknown else ""
    return f"At the {_last(table)} dose, {_finding(known, metric, short(method), has_p(table))}{tail}"


def _axes(count: int) -> str:
    return f"{count} ax{'is' if count == 1 else 'es'}"


def _last(table: pd.DataFrame) -> str:
    """Return "highest" if the last dose of every axis is a number and the highest, else "last"."""
    scales = [scale(str(axis), doses) for axis, doses in table.groupby("axis", sort=False)["dose"]]
    return "highest" if all(one.numeric and one.places[-1] == one.places.max() for one in scales) else "last"


def _finding(known: pd.DataFrame, metric: str, method: str, p: bool) -> str:
    """Say which costs at the last dose are shown; known: a row an axis; p: whether they rest on p-values."""
    clear, total, label = known[known["clear"] > 0], len(known), style.metric_label(metric)
    up = style.rises(metric)
    what = f"cost {method} {label}" if up else f"raise the {label} of {method}"
    if clear.empty and total == 1:
        row = known.iloc[0]
        return f"{in_sentence(row['axis'])} is not shown to {what}: {_amount(row, metric)}{_interval(row, metric)}"
    if clear.empty:
        return f"none of {total} axes is shown to {what} {titles.UNLIKELY if p else UNCLEAR}"
    most = clear.loc[clear["cost"].idxmax()]
    amount, interval, name = _amount(most, metric), _interval(most, metric), in_sentence(most["axis"])
    cost = f"costs {method} {amount} of {label}" if up else f"raises the {label} of {method} by {amount}"
    rest = f"; no other axis of {total} is shown to {'cost it any' if up else 'raise it'}" if total > 1 else ""
    if len(clear) > 1:
        others = "the other axis" if total == 2 else titles.count(len(clear) - 1, total - 1, "other axes")
        one = total == 2 or others.startswith("1 ")
        verb = f"cost{'s' * one} {label}" if up else f"raise{'s' * one} it"
        rest = f", the largest estimate; {others} also {verb} {titles.LIKELY if p else titles.SUPPORTED}"
    return f"{name} {cost}{interval}{rest}"


def _amount(row: pd.Series, metric: str) -> str:
    """Format a cost: "4.1 points", or a bare number where the metric has its own unit."""
    size = titles.number(row["cost"], metric).removeprefix("+")
    return size if titles.in_natural_unit(metric) else f"{size} {titles.unit(metric)}"


def _interval(row: pd.Series, metric: str) -> str:
    """Format the interval of a cost, or its p-value if there is none."""
    if not np.isfinite(row["cost_low"]):
        return f" (p = {row['cost_p_holm']:.2g}, Holm)"
    low, high = (titles.number(row[end], metric).removeprefix("+") for end in ("cost_low", "cost_high"))
    return f" (95 % CI {low} to {high})"


def _range(own: pd.DataFrame, metric: str, method: str) -> str:
    """State the range of a method's metric where no cost is known."""
    label, known = style.metric_label(metric), own["value"].dropna()
    if known.empty:
        return f"{label} of {method} is undefined at every dose"
    low, high = (f"{value:.3f}" for value in (known.min(), known.max()))
    span = f"is {low}" if low == high else f"ranges from {low} to {high}"
    axes = list(dict.fromkeys(own["axis"]))
    if len(axes) < len(own):
        return f"{label} of {method} {span} over all doses; no cost is determined"
    where = axis_name(axes[0]).lower() if len(axes) == 1 else _axes(len(axes))
    return f"{label} of {method} {span} at one dose of {where}; a cost needs two doses"
