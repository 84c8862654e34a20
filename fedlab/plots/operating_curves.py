"""Curves of test predictions, a panel for all cases and for each site: ROC, reliability, net benefit, risk-coverage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from fedlab.analysis import operating_curves as numbers
from fedlab.analysis.alignment import POOLED
from fedlab.analysis.operating_curves import ALL, NOBODY, Place
from fedlab.core.registry import nearest
from fedlab.evaluation.intervals.interval import support
from fedlab.plots import style
from fedlab.plots.inputs import listed, row_names
from fedlab.plots.names import listed as in_words
from fedlab.plots.names import more, names
from fedlab.plots.paper import LABEL, Paper, headline, legend, paper
from fedlab.plots.sheet import extent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PITCH, PANEL, ABOVE, BELOW, LEFT = 2.15, 1.55, 0.46, 0.44, 0.48  # inches: a panel with its labels, and parts of it
AROUND = PITCH - PANEL  # inches left and right of a panel
NARROW_PITCH, HIGHEST_PANEL, HEAD_AND_FOOT = 1.8, 2.6, 2.0  # inches, of a figure for a width in print
ROOMY, LETTER = 1.6, 0.075  # inches: room for a name of NAME characters; a character
ACROSS, MOST, METHODS = 4, 12, 6  # panels in a row, panels, and methods that are drawn
WITH_BANDS, IN_PANEL = 3, 3  # methods up to which each has a band, and its numbers are written into panels
TEXT, NAME = 8.0, 24  # points; characters of the name of a site
REFERENCES = {ALL: (style.BLACK, (0, (1, 1))), NOBODY: (style.GREY, "-")}
BAND = "95 % interval by patient"


def roc(
    runs: Any,
    positive: str | None = None,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    width: float | None = None,
    **options: Any,
) -> style.Drawing:
    """Draw the ROC curve of each method on all test cases and at each site.

    Crosses mark the decisions at a probability of 0.5: their arms are 95 % intervals of sensitivity and specificity.
    Curves have no band, since none holds its level for small sites. Numbers are the AUROC with its interval.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation. Seeds of a method are averaged: the mean sensitivity at each specificity.
    positive : str, optional
        The class to detect; by default class 1 of a binary task.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    site : str, optional
        Draw one panel: that of a site, or "pooled". By default the pool and the largest sites.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    **options
        `by` and `choice` of `fedlab.compare`, and `columns`, the largest number of panels in a row (4; 2 in a column).

    Returns
    -------
    Drawing
        (figure, table). table: a row for each method and place with AUROC, sensitivity and specificity at 0.5 and
        their intervals; `table.attrs["curves"]` has the points.

    Raises
    ------
    ValueError
        If the task has several classes and none is named, or there is no such class or site.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.plots.roc([fedlab.run(base, folder=folder)]).table
    >>> table["site"].tolist()
    ['pooled', 'Site A', 'Site B']
    """
    found, columns = _places(runs, positive, site, **options)
    table, points = numbers.operating_points(found), numbers.roc(found)

    def panel(ax: Axes, place: Place, roles: dict[str, style.Role]) -> None:
        ax.plot([0, 1], [0, 1], color=style.PALE, lw=0.8, zorder=1)
        texts = []
        for method, role in roles.items():
            line = points[(points["method"] == method) & (points["site"] == place.site)]
            ax.plot(line["false_positive_rate"], line["true_positive_rate"], color=role.color, ls=role.dash, lw=1.3)
            row = table[(table["method"] == method) & (table["site"] == place.site)].iloc[0]
            if method in _banded(roles):
                _cross(ax, row, role)
            texts.append((_with_interval(row["auroc"], row["auroc_low"], row["auroc_high"]), role.ink))
        _inside(ax, texts, bottom=True)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)

    first = table[table["site"] == found[0].site]
    shown = [
        f"{row.method} {_with_interval(row.auroc, row.auroc_low, row.auroc_high)}"
        for row in first.itertuples()
        if np.isfinite(row.auroc)
    ]
    of = f" of {names([positive], NAME)[positive]}" if positive is not None else ""
    title = f"AUROC{of} {_where(found[0])}: {in_words(shown, whole=True)}" if shown else "No test set has both classes"
    labels = ("1 − specificity", "sensitivity")
    drawing = _draw(ax, found, columns, width, panel, labels, title, "crosses: decisions at 0.5, 95 % intervals")
    table.attrs["curves"] = points
    table.attrs["shown"] = ["method", "site", "positives", "negatives", "auroc", "auroc_low", "auroc_high"]
    return style.Drawing(drawing, table)


def reliability(
    runs: Any,
    positive: str | None = None,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    bins: int = numbers.BINS,
    width: float | None = None,
    **options: Any,
) -> style.Drawing:
    """Draw how often cases with a predicted probability are of the class, on all test cases and at each site.

    Bins have equal numbers of cases and at least 10 patients each; lines are 95 % intervals of the observed frequency.
    Below 20 patients there is no panel, only their number. Of a task with several classes and none named, the
    probability is that of the most probable class, and the frequency how often that class is right.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation; cases of several seeds are in the same bins.
    positive : str, optional
        The class whose probability is judged; by default class 1 of a binary task.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    site : str, optional
        Draw one panel: that of a site, or "pooled".
    bins : int, default 10
        At most so many.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    **options
        As for `roc`.

    Returns
    -------
    Drawing
        (figure, table). table: a row for each method, place and bin: count, predicted, observed, low, high.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=300, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.plots.reliability([fedlab.run(base, folder=folder)]).table
    >>> bool((table["low"] <= table["observed"]).all())
    True
    """
    found, columns = _places(runs, positive, site, top_class=True, **options)
    table = numbers.reliability(found, bins)

    def panel(ax: Axes, place: Place, roles: dict[str, style.Role]) -> None:
        ax.plot([0, 1], [0, 1], color=style.PALE, lw=0.8, zorder=1)
        for method, role in roles.items():
            rows = _of(table, method, place.site)
            if len(rows) and method in _banded(roles):
                ax.vlines(rows["predicted"], rows["low"], rows["high"], colors=role.color, lw=0.9, zorder=2)
            if len(rows):
                ax.plot(rows["predicted"], rows["observed"], color=role.color, ls=role.dash, lw=0.8, zorder=2)
                ax.plot(rows["predicted"], rows["observed"], role.marker, color=role.color, ms=3, mew=0.8, zorder=3)
        if _of(table, next(iter(roles)), place.site).empty:
            _say(ax, f"{place.test.patients} patients:\ntoo few for bins")
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)

    named = positive is not None or found[0].test.classes == 2
    labels = ("predicted probability", "observed frequency" if named else "share that is right")
    title = _reliability_title(table, found[0])
    drawing = _draw(ax, found, columns, width, panel, labels, title, f"lines: {BAND}; diagonal: calibrated")
    return style.Drawing(drawing, table)


def net_benefit(
    runs: Any,
    positive: str | None = None,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    thresholds: Any = None,
    width: float | None = None,
    **options: Any,
) -> style.Drawing:
    """Draw decision curves: the net benefit of treating the cases whose probability reaches a threshold.

    The references are to treat all cases and to treat none. Bands are 95 % intervals at each threshold.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation; seeds of a method are averaged.
    positive : str, optional
        The class to treat; by default class 1 of a binary task.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    site : str, optional
        Draw one panel: that of a site, or "pooled".
    thresholds : sequence of float, optional
        Between 0 and 1; those at which a reader would act. 0.01 to 0.99 by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    **options
        As for `roc`.

    Returns
    -------
    Drawing
        (figure, table). table: a row for each method (also "treat all" and "treat none"), place and threshold.

    References
    ----------
    Vickers and Elkin 2006, Med Decis Making 26:565.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.plots.net_benefit([fedlab.run(base, folder=folder)], thresholds=[0.2, 0.5]).table
    >>> table["method"].unique().tolist()
    ['fedavg', 'treat all', 'treat none']
    """
    found, columns = _places(runs, positive, site, **options)
    table = numbers.net_benefit(found, thresholds)

    def panel(ax: Axes, place: Place, roles: dict[str, style.Role]) -> None:
        for name, (color, dash) in REFERENCES.items():
            rows = _of(table, name, place.site)
            ax.plot(rows["threshold"], rows["net_benefit"], color=color, ls=dash, lw=0.9, zorder=1)
        for method, role in roles.items():
            rows = _of(table, method, place.site)
            if method in _banded(roles):
                ax.fill_between(rows["threshold"], rows["low"], rows["high"], color=role.color, alpha=0.13, lw=0)
            ax.plot(rows["threshold"], rows["net_benefit"], color=role.color, ls=role.dash, lw=1.3, zorder=3)
        top = max(0.05, float((place.y == 1).mean()))
        ax.set_ylim(-0.25 * top, 1.15 * top)
        ax.set_xlim(0, 1)

    title = _benefit_title(table, found[0])
    labels = ("threshold probability", "net benefit")
    drawing = _draw(ax, found, columns, width, panel, labels, title, f"bands: {BAND}", REFERENCES)
    return style.Drawing(drawing, table)


def risk_coverage(
    runs: Any,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    coverages: Any = None,
    width: float | None = None,
    **options: Any,
) -> style.Drawing:
    """Draw the share of wrong decisions among the cases of which a model is most sure.

    A model that leaves its least sure cases to a reader decides the others: coverage is their share, risk is the share
    of them that is wrong. Bands are 95 % intervals. A model whose confidence says nothing has a level line.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation of a task with one class a case; seeds of a method are averaged.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    site : str, optional
        Draw one panel: that of a site, or "pooled".
    coverages : sequence of float, optional
        Shares above 0, at most 1; 0.05, 0.1, ... 1 by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    **options
        As for `roc`.

    Returns
    -------
    Drawing
        (figure, table). table: a row for each method, place and coverage: count, risk, low, high.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.plots.risk_coverage([fedlab.run(base, folder=folder)], coverages=[0.5, 1]).table
    >>> table["coverage"].tolist()[:2]
    [0.5, 1.0]
    """
    found, columns = _places(runs, None, site, top_class=True, **options)
    table = numbers.risk_coverage(found, coverages)

    def panel(ax: Axes, place: Place, roles: dict[str, style.Role]) -> None:
        for method, role in roles.items():
            rows = _of(table, method, place.site)
            if method in _banded(roles):
                ax.fill_between(rows["coverage"], rows["low"], rows["high"], color=role.color, alpha=0.13, lw=0)
            ax.plot(rows["coverage"], rows["risk"], color=role.color, ls=role.dash, lw=1.3, zorder=3)
        top = float(table["risk"].max())
        ax.set_ylim(-0.02 * max(top, 0.1), min(1.02, 1.3 * max(top, 0.1)))
        ax.set_xlim(0, 1.02)

    labels = ("share of cases decided", "share that is wrong")
    drawing = _draw(ax, found, columns, width, panel, labels, _risk_title(table, found[0]), f"bands: {BAND}")
    return style.Drawing(drawing, table)


# -- what is drawn ---------------------------------------------------------------------------------------------------


def _places(
    runs: Any,
    positive: str | None,
    site: str | None,
    top_class: bool = False,
    columns: int = ACROSS,
    by: str | None = None,
    choice: str = "best",
) -> tuple[list[Place], int]:
    """The places that are drawn, the pool first and then the largest test sets, and how many panels are in a row."""
    if isinstance(columns, bool) or not 1 <= columns <= 6:
        raise ValueError(f"columns={columns!r}: give the number of panels in a row, 1 to 6")
    given = listed(runs)
    several = top_class and positive is None and (len(given[0].classes) != 2 or given[0].task == "multilabel")
    found = numbers.places(given, positive, by=by, choice=choice, any_class=several)
    if site is not None:
        sites = [place.site for place in found]
        if site not in sites:
            raise ValueError(f"site={site!r} has no test cases: {nearest(str(site), sites)}")
        return [place for place in found if place.site == site], 1
    found.sort(key=lambda place: (place.site != POOLED, -len(place.y)))
    return found, columns


def _banded(roles: dict[str, style.Role]) -> list[str]:
    """The methods that are drawn with their intervals: all of a few, else the first federated one."""
    if len(roles) <= WITH_BANDS:
        return list(roles)
    return [method for method in roles if style.is_federated(method)][:1]


def _of(table: pd.DataFrame, method: str, site: str) -> pd.DataFrame:
    if table.empty:
        return table
    return table[(table["method"] == method) & (table["site"] == site)]


def _draw(
    ax: Axes | None,
    found: Sequence[Place],
    columns: int,
    width: float | None,
    panel: Callable[[Axes, Place, dict[str, style.Role]], None],
    labels: tuple[str, str],
    title: str,
    note: str,
    references: dict[str, tuple[str, Any]] | None = None,
) -> Any:
    """Draw the panels with their names, and the methods above them or in cells without a panel; return the figure."""
    every = list(found[0].models)
    drawn = every[:METHODS]
    roles = {method: style.roles(every)[method] for method in drawn}
    layout = paper(width, 0, ax)
    grid = _grid(len(found), columns, layout)
    shown = found[: grid.panels]
    with style.page(ax, grid.across * grid.wide, grid.rows * grid.high + (1.0 if grid.across > 2 else 1.4)) as ax:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_axis_off()
        called = dict(zip((place.site for place in shown), row_names(place.site for place in shown), strict=True))
        for k, place in enumerate(shown):
            row, column = divmod(k, grid.across)
            box = (column + LEFT / grid.wide) / grid.across, 1 - (row + 1 - BELOW / grid.high) / grid.rows
            size = (1 - AROUND / grid.wide) / grid.across, (1 - (ABOVE + BELOW) / grid.high) / grid.rows
            inner = ax.inset_axes((*box, *size))
            head = _head(place, called[place.site], grid.wide - LEFT)
            _frame(inner, head, (labels[0], labels[1] if column == 0 else ""))
            if "auroc" in str(place.test.metric) and min(place.classes) == 0:
                _say(inner, "cases of one class only")
            panel(inner, place, roles)
        left = [more(len(found) - len(shown), "sites")] * (len(found) > len(shown))
        left += [more(len(every) - len(drawn), "methods")] * (len(every) > len(drawn))
        note += f" of {_banded(roles)[0]}" * ("bands" in note and len(roles) > WITH_BANDS and bool(_banded(roles)))
        lines = style.filled("; ".join([note, *left]), lambda line: extent(line, TEXT), grid.across * grid.wide - 0.3)
        ax.annotate("\n".join(lines), (0, 0), (0, -5), xycoords="axes fraction", textcoords="offset points",
                    va="top", fontsize=TEXT, color="#555555")  # fmt: skip
        height = _legend(ax, roles, references or {}, grid)
        headline(ax, layout, title, height + 6, grid.rows * grid.high)
    return style.root(ax)


class Grid(NamedTuple):
    """Panels in rows: how many are drawn and in a row, the rows, and a cell's width and height in inches."""

    panels: int
    across: int
    rows: int
    wide: float
    high: float

    @property
    def blank(self) -> int:
        """Cells of the last row without a panel."""
        return self.across * self.rows - self.panels


def _grid(panels: int, columns: int, layout: Paper) -> Grid:
    """Arrange panels in rows of at most so many, with few cells left blank, on a page or as wide as the paper."""
    panels = min(panels, MOST)
    if not layout.width:
        across = _across(panels, columns)[0]
        return Grid(
            panels, across, math.ceil(panels / across), max(1.6, across) * PITCH / across, PANEL + ABOVE + BELOW
        )
    most = max(1, min(columns, int(layout.width / NARROW_PITCH)))
    tried = (_cells(drawn, across, layout.width) for drawn in range(panels, 0, -1) for across in _across(drawn, most))
    return next(grid for grid in tried if grid.rows * grid.high <= layout.height - HEAD_AND_FOOT or grid.panels == 1)


def _cells(panels: int, across: int, width: float) -> Grid:
    """So many panels in a row of so many inches."""
    wide = width / across
    return Grid(panels, across, math.ceil(panels / across), wide, min(wide - AROUND, HIGHEST_PANEL) + ABOVE + BELOW)


def _across(panels: int, most: int) -> list[int]:
    """Panels in a row: as many as fit, or one less, down to two; first what leaves fewer cells blank."""
    return [panels] if panels <= most else sorted((most, max(min(most, 2), most - 1)), key=lambda k: -panels % k)


def _frame(ax: Axes, head: tuple[str, str], labels: tuple[str, str]) -> None:
    """Name a panel, with how many patients support it."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=TEXT, length=2.5, pad=2)
    ax.set_xlabel(labels[0], fontsize=TEXT, labelpad=1)
    ax.set_ylabel(labels[1], fontsize=TEXT, labelpad=2)
    ax.set_title(head[0], fontsize=TEXT + 0.5, fontweight="bold", loc="left", pad=13)
    ax.annotate(head[1], (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points",
                fontsize=TEXT, color="#555555", va="bottom")  # fmt: skip
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.locator_params(axis="y", nbins=4)


def _head(place: Place, name: str, room: float) -> tuple[str, str]:
    """The name of a panel, and how many patients it rests on, in a room of so many inches."""
    most = NAME if room > ROOMY else LABEL
    return names([name], most)[name], _fitting(_counted(place), room)


def _fitting(texts: Sequence[str], room: float) -> str:
    """The first text that is no wider than so many inches, or the last one."""
    return next((text for text in texts if extent(text, TEXT) <= room), texts[-1])


def _counted(place: Place) -> list[str]:
    """How many patients a panel rests on, and what that means; the most words first."""
    whole = f"n={place.test.patients:,}"
    if place.test.metric != "auroc":
        return [whole]
    first, _ = place.classes
    mark = support(min(place.classes))
    end = f"; {mark}" * bool(mark)
    return [f"{whole}, {first:,} positive{end}", whole + end, whole]


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=TEXT, color="#555555")


def _inside(ax: Axes, texts: Sequence[tuple[str, str]], bottom: bool) -> None:
    """Write the numbers of a few methods into a corner of a panel."""
    if len(texts) > IN_PANEL:
        return
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
    for k, (text, color) in enumerate(texts):
        y = 0.03 + 0.105 * (len(texts) - 1 - k) if bottom else 0.97 - 0.105 * k
        ax.text(0.99, y, text, transform=ax.transAxes, ha="right", fontsize=TEXT, color=color,
                va="bottom" if bottom else "top", bbox=paper)  # fmt: skip


def _with_interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.2f}" + ("" if np.isnan(low) else f" ({low:.2f} to {high:.2f})")


def _cross(ax: Axes, row: pd.Series, role: style.Role) -> None:
    """Mark the decisions at 0.5 with the intervals of both rates."""
    if np.isnan(row["sensitivity"]):
        return
    x, y = 1 - row["specificity"], row["sensitivity"]
    ax.plot([x], [y], role.marker, color=role.color, ms=3.5, mew=0.8, zorder=4)
    if np.isfinite(row["sensitivity_low"]):
        ax.vlines(x, row["sensitivity_low"], row["sensitivity_high"], colors=role.color, lw=0.8, zorder=3)
    if np.isfinite(row["specificity_low"]):
        ax.hlines(y, 1 - row["specificity_high"], 1 - row["specificity_low"], colors=role.color, lw=0.8, zorder=3)


def _legend(ax: Axes, roles: dict[str, style.Role], references: dict[str, tuple[str, Any]], grid: Grid) -> float:
    """Name the methods above the panels in few lines, or in blank cells; return the height above in points."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=r.color, ls=r.dash, marker=r.marker, lw=1.2, ms=3.5, mew=0.8) for r in roles.values()
    ]
    handles += [Line2D([], [], color=color, ls=dash, lw=0.9) for color, dash in references.values()]
    aside = grid.blank * grid.wide  # inches right of the last panel
    labels = [*names(roles, min(28, int((aside or 9) / LETTER) - 6)).values(), *references]
    look: dict[str, Any] = {"fontsize": TEXT, "handlelength": 2.2, "columnspacing": 1.2, "labelspacing": 0.25}
    height = legend(ax, Paper(0, 0, False), handles, labels, most=1 if aside else 99, **look)
    if not aside:
        return height
    drawn: Any = ax.get_legend()
    drawn.set_loc("upper left")
    corner = 1 - (grid.blank - LEFT / grid.wide) / grid.across, (1 - ABOVE / grid.high) / grid.rows
    drawn.set_bbox_to_anchor(corner, transform=ax.transAxes)
    return 0.0


# -- titles ----------------------------------------------------------------------------------------------------------


def _where(place: Place) -> str:
    return "on all test cases" if place.site == POOLED else f"at {row_names([place.site])[0]}"


def _first_federated(methods: Sequence[str]) -> str:
    return next((method for method in methods if style.is_federated(method)), methods[0])


def _reliability_title(table: pd.DataFrame, place: Place) -> str:
    """Count the bins whose interval leaves out the predicted probability."""
    parts = []
    for method in place.models:
        rows = _of(table, method, place.site)
        if len(rows):
            off = int(((rows["low"] > rows["predicted"]) | (rows["high"] < rows["predicted"])).sum())
            parts.append(f"{off or 'none'} of {len(rows)} bins of {method}")
    if not parts:
        return f"Reliability {_where(place)} cannot be drawn: fewer than 20 patients"
    counts = in_words(parts, whole=True)
    return f"The observed frequency {_where(place)} differs from the predicted one (95 % CI) in {counts}"


def _benefit_title(table: pd.DataFrame, place: Place) -> str:
    """The thresholds at which a method is better than both references, by the intervals of both differences."""
    method = _first_federated(list(place.models))
    rows = _of(table, method, place.site)
    better = rows[(rows["low"] > 0) & (rows["over_all_low"] > 0)]["threshold"]
    if better.empty:
        return f"At no threshold is {method} better than treating all and treating none {_where(place)} (95 % CI)"
    span = f"thresholds {better.min():.2f} to {better.max():.2f}"
    which = f"the threshold {better.iloc[0]:.2f}" if len(better) == 1 else span
    if _gaps(rows, better):
        which = f"{len(better)} of the {span}"
    return f"{method} is better than treating all and treating none {_where(place)} at {which} (95 % CI of each)"


def _gaps(rows: pd.DataFrame, better: pd.Series) -> bool:
    """Whether some thresholds in the span are not among those."""
    inside = rows["threshold"].between(better.min(), better.max())
    return bool(inside.sum() > len(better))


def _risk_title(table: pd.DataFrame, place: Place) -> str:
    """The risk of all cases, and of the half of which the model is most sure."""
    method = _first_federated(list(place.models))
    rows = _of(table, method, place.site).set_index("coverage")["risk"]
    least = min(rows.index, key=lambda coverage: abs(coverage - 0.5))
    cases = "all test cases" if place.site == POOLED else f"test cases {_where(place)}"
    whole = cases if rows.index[-1] == 1 else f"the surest {100 * rows.index[-1]:.0f} % of {cases}"
    half = "half" if least == 0.5 else f"{100 * least:.0f} %"
    return (
        f"{method} errs in {100 * rows.iloc[-1]:.1f} % of {whole}, and in {100 * rows[least]:.1f} % of the {half} of"
        " which it is most sure"
    )
