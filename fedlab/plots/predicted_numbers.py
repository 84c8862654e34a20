"""Regression: predicted against true numbers of the test cases (`predicted_vs_true`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import of_used_models, stored_predictions
from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.learning.metrics import METRICS
from fedlab.plots import style, titles
from fedlab.plots.inputs import listed
from fedlab.plots.names import more
from fedlab.plots.names import name as short
from fedlab.plots.paper import Paper, headline, label_below, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = 6  # methods of a figure
LIMITS = 1.96  # standard deviations: limits of agreement
EVERYWHERE = "all sites"
BETWEEN = 0.14  # between panels, in widths of a panel
HIGHEST, PAD_OF_PRINT = 3.0, 54.0  # of a figure for print: inches of a panel, and points between it and the title
MARGIN = 0.04  # around the points, in the range of the numbers


def predicted_vs_true(
    runs: Any,
    site: str | None = None,
    *,
    ax: Axes | None = None,
    choice: str = "best",
    width: float | None = None,
) -> style.Drawing:
    """Draw the predicted against the true number of each test case, a panel a method, with the model that sites use.

    The line is a perfect prediction. Above each panel are the mean absolute error, the bias (mean of predicted minus
    true) and the limits of agreement, 1.96 standard deviations around the bias (Bland and Altman 1986). At most six
    methods are drawn, and the others counted.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation with a regression task; of each method the first one counts.
    site : str, optional
        The site whose test cases are drawn; those of all training sites by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    choice : {"best", "last"}, default "best"
        The models of the round that is best on validation cases, or of the last round.

    Returns
    -------
    Drawing
        (figure, table). table: method, site (also "all sites"), cases, mae, bias, low, high (limits of agreement), r2.

    Raises
    ------
    ValueError
        If the task is another one, or there is no such site.

    References
    ----------
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(
    ...     dataset="phantoms(cases=120, size=16)", target="age", sites=2, model="logistic", rounds=1
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(base, folder=folder, method=["local", "fedavg"])
    ...     fedlab.plots.predicted_vs_true(runs).table["site"].tolist()
    ['Site A', 'Site B', 'all sites', 'Site A', 'Site B', 'all sites']
    """
    found = list({run.method: run for run in reversed(listed(runs))}.values())[::-1]
    if found[0].task != "regression":
        raise ValueError(f"these runs are for a {found[0].task} task: this figure is for regression, see `target`")
    cases = {run.method: of_used_models(stored_predictions(run, choice, "test")) for run in found}
    table = pd.DataFrame([row for method, each in cases.items() for row in _rows(method, each)])
    sites = [name for name in table["site"].unique() if name != EVERYWHERE]
    if site is not None and site not in sites:
        raise ValueError(f"site={site!r} has no test cases here: {nearest(str(site), sites)}")
    drawn = {method: each if site is None else each[each["site"] == site] for method, each in cases.items()}
    shown = table[table["site"] == (site or EVERYWHERE)]
    layout = paper(width, 0, ax)
    methods, target = list(drawn)[: layout.panels(DRAWN)], short(str(found[0].target), 30)
    with style.page(ax, layout.width or min(style.WIDEST, 2.4 + 2.3 * len(methods)), 4.2) as ax:
        low, high = _range([drawn[method] for method in methods])
        ticks: list[tuple[float, str]] = []
        for k, method in enumerate(methods):
            (row,) = shown[shown["method"] == method].itertuples()
            ticks += _panel(ax, k, drawn[method], row, style.roles(list(cases))[method], (low, high), layout)
        ax.set_xlim(-0.05, len(methods) * (1 + BETWEEN) - BETWEEN + 0.05)
        ax.set_ylim(low, high)
        ax.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        left = [more(len(cases) - len(methods), "methods")] * (len(cases) > len(methods))
        where = f" of the test cases of {short(site, 24)}" if site else " of each test case"
        label = f"true {target}{where}; line: equal; in brackets: 95 % limits of agreement"
        label_below(ax, layout, "; ".join([label, *left]))
        ax.set_ylabel(f"predicted {target}")
        high = min(HIGHEST, style.inches(ax)[0] / len(methods))
        headline(ax, layout, titles.predicted_vs_true(shown, target), PAD_OF_PRINT if layout.printed else 42, high)
    return style.Drawing(style.root(ax), table)


def _rows(method: str, cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Return errors, bias and limits of agreement at each site and over all."""
    sites = sorted(cases["site"].unique(), key=natural)
    parts = {site: cases[cases["site"] == site] for site in sites} | {EVERYWHERE: cases}
    rows = []
    for site, some in parts.items():
        y, p = some["target"].to_numpy(), some["prediction"].to_numpy()
        mae, bias, r2 = (METRICS.function(name)(y, p) for name in ("mae", "bias", "r2"))
        spread = LIMITS * float(np.std(p - y, ddof=1)) if len(y) > 1 else float("nan")
        ends = {"mae": mae, "bias": bias, "low": bias - spread, "high": bias + spread, "r2": r2}
        rows.append({"method": method, "site": site, "cases": len(some), **ends})
    return rows


def _range(cases: list[pd.DataFrame]) -> tuple[float, float]:
    """Return the ends of both axes."""
    values = np.concatenate([each[["target", "prediction"]].to_numpy(np.float64).ravel() for each in cases])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = MARGIN * (high - low) or 0.5
    return low - margin, high + margin


def _panel(
    ax: Axes, k: int, cases: pd.DataFrame, row: Any, role: style.Role, ends: tuple[float, float], layout: Paper
) -> list[tuple[float, str]]:
    """Draw the panel of a method; return the places and texts of its ticks."""
    from matplotlib.ticker import MaxNLocator

    start, (low, high) = k * (1 + BETWEEN), ends
    ax.plot([start, start + 1], [low, high], color="#999999", lw=0.8, zorder=1)
    look: dict[str, Any] = {"marker": "o", "ls": "none", "markersize": 3.8, "mew": 0, "alpha": 0.55}
    places = start + (cases["target"].to_numpy() - low) / (high - low)
    ax.plot(places, cases["prediction"].to_numpy(), color=role.color, **look)
    bias, low_end, high_end = map(titles.signed, (row.bias, row.low, row.high))
    ax.annotate(
        f"{short(row.method, layout.panel_name(24))}\nMAE {titles.digits(row.mae)}\n"
        f"bias {bias}{layout.cut}({low_end} to {high_end})",
        (start, 1.0),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        va="bottom",
        fontsize=8,
        color=role.ink,
        annotation_clip=False,
    )
    values = [value for value in MaxNLocator(3).tick_values(low, high) if low <= value <= high]
    return [(start + (value - low) / (high - low), f"{value:g}") for value in values]
