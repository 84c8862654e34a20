"""What models reach at each site: local against federated (`local_vs_global`), and across sites (`transfer`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.analysis import comparison
from fedlab.evaluation.intervals.decisions import GAINS, LOSES
from fedlab.plots import style, titles
from fedlab.plots.inputs import (
    OUTSIDE,
    SUMMARIES,
    by_size,
    headline_metric,
    is_held_out,
    listed,
    row_names,
    training_sizes,
)
from fedlab.plots.names import NAME, more, names, plain
from fedlab.plots.names import name as short
from fedlab.plots.paper import Paper, headline, label_below, legend, paper, room_right_of
from fedlab.plots.sheet import Box, bars
from fedlab.plots.themes import DATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = 24.0  # height in points of the header of the gain column
SHOWN = ["method", "site", "n", "value", "low", "high", "gain", "gain_low", "gain_high", "note"]  # below the figure
CHANCE, LEAST_RANGE = 0.5, 0.4  # ends of the colour map: of a metric with best value 1 at most, and of others apart
BAR, TICKS = 0.13, 5  # inches: width of the colour bar; its numbers
METHODS = 8  # federated methods that `local_vs_global` draws
ROOM = 14.0  # inches: all rows of a figure
NUMBERS, MARKS = 0.15, 0.07  # inches a method: at least, with and without the numbers of its gain
VERSUS = 16  # characters of the reference in the heading of gains
NOTE, CHARACTER = 70, 5.0  # characters of a note; points of one
HEAD_AND_FOOT = 2.4  # inches of a page above and below the rows
CELL, COLUMN = 0.32, 0.17  # inches: height of a cell of `transfer`, and its least width
NARROW, LOW = 0.3, 0.15  # inches: least width and height of a cell that holds a value
SHARED = 20  # shared models that `transfer` draws
GAP = 0.25  # rows between the sites' own models and the shared ones


# -- local and federated models at every site ------------------------------------------------------------------------


def local_vs_global(
    runs: Any,
    metric: str | None = None,
    *,
    ax: Axes | None = None,
    method: str | None = None,
    by: str | None = None,
    width: float | None = None,
    counts_of: Any = None,
) -> style.Drawing:
    """Draw what local, federated and centralized models reach at every site, with 95 % intervals and the paired gain.

    The title counts the sites where the 95 % confidence interval of the paired gain excludes 0. It makes no correction
    for the number of sites and methods. The first eight federated methods and the largest sites are drawn, as many as
    fit, and the others counted; gains of many sites are in the table only.

    Parameters
    ----------
    runs : list of Run, or pandas.DataFrame
        Runs of one setting, or the frame that `fedlab.compare` made of them.
    metric : str, optional
        A metric of the runs; their headline metric by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    method : str, optional
        The only federated method to draw.
    by : str, optional
        A field of the experiment in which runs of one method differ.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    counts_of : list of Run, optional
        The runs of which a frame was made: their training cases, and test cases of the second class of two, are
        written next to the sites.

    Returns
    -------
    Drawing
        (figure, table). table: the rows of `fedlab.compare` with n (training cases of the site; its test cases where
        only a frame is given), gain, gain_low, gain_high (the paired difference to the reference, positive where it is
        better) and clear (1 or -1 where its interval excludes 0).

    Raises
    ------
    ValueError
        If the method or metric is not in the comparison.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(exp, method=["local", "fedavg"], folder=folder)
    ...     figure, table = fedlab.plots.local_vs_global(runs)
    >>> sorted(set(table["method"]))
    ['fedavg', 'local']
    """
    frame, sizes, counted = _compared(runs, metric, method, by, counts_of)
    table = gains(frame, sizes)
    name, federated = str(table["metric"].iloc[0]), _federated(table)
    drawn = federated[:METHODS]
    layout = paper(width, 9, ax)
    rows, pitch = _rows(table, sizes, len(drawn), layout.room(ROOM, HEAD_AND_FOOT))
    shown = table[table["site"].isin(rows) & ~table["method"].isin(federated[METHODS:])]
    left = len(set(table["site"])) - len(rows)
    places = {row: i + (1.0 if is_held_out(row) else 0.5 if row in SUMMARIES else 0.0) for i, row in enumerate(rows)}
    high = pitch * (places[rows[-1]] + 1)
    with style.page(ax, layout.width, 1.5 + high + 0.2 * (left > 0)) as ax:
        positives, positive = _positives(runs if counts_of is None else counts_of)
        labels = _row_names(table, rows, sizes, counted, positives, layout, pitch)
        _site_rows(ax, places, labels)
        counts = "training / test cases" if counted == "training cases" else counted
        counts += f" (with {positive})" if positive else ""
        label = f"{style.metric_label(name)} on the site's own test cases, 95 % interval; n: {counts}"
        roles = style.roles(table["method"])
        _marks(ax, shown, places, drawn, roles)
        head = _gain_column(ax, shown, places, drawn, roles, pitch, layout)
        _notes(ax, shown, places, layout)
        label_below(ax, layout, label + (f"\n({more(left, 'sites')} in the table)" if left else ""))
        sites = table[~table["site"].isin([*SUMMARIES, *_held_out(table)])]
        title = titles.local_vs_global(sites[sites["method"].isin(federated)] if federated else sites, name)
        pad = max(HEADER, _legend(ax, shown, roles, len(federated) - len(drawn), layout, head)) + 6
        headline(ax, layout, title, pad, high)
    table.attrs["shown"] = SHOWN
    return style.Drawing(style.root(ax), table)


def _compared(
    runs: Any, metric: str | None, method: str | None, by: str | None, counts_of: Any
) -> tuple[pd.DataFrame, pd.Series, str]:
    """Return (comparison, n of each site, what n counts)."""
    if isinstance(runs, pd.DataFrame):
        frame = runs if metric is None else runs[runs["metric"] == metric]
    else:
        counts_of = listed(runs)
        frame = comparison.compare(counts_of, headline_metric(counts_of, metric), by=by)
    inside = frame[~frame["site"].isin([*OUTSIDE, *_held_out(frame)])]
    sizes, counted = inside.groupby("site", sort=False)["cases"].max(), "test cases"
    if counts_of is not None:
        sizes, counted = training_sizes(listed(counts_of)).reindex(sizes.index, fill_value=0), "training cases"
    if method is not None:
        known = sorted(set(frame["method"]))
        if method not in known:
            raise ValueError(f"found no method {method!r} in the comparison: choose one of {known}")
        frame = frame[(frame["method"] == method) | ~frame["method"].map(style.is_federated)]
    if frame.empty:
        raise ValueError(f"the comparison holds no row of metric {metric!r}: compare the runs by it first")
    return frame, sizes, counted


def _held_out(frame: pd.DataFrame) -> list[str]:
    """Return the held-out sites of a comparison."""
    return [site for site in frame["site"].unique() if is_held_out(site)]


def gains(frame: pd.DataFrame, sizes: pd.Series) -> pd.DataFrame:
    """Add n, the gain (positive: better than the reference), its interval, and whether it is clear.

    clear: 1 or -1 where the interval excludes 0, else 0; also 0 where too few patients support a finding. Rows that
    belong to no site, summary or held-out site are left out.
    """
    rows = [*sizes.index, *(SUMMARIES if len(sizes) > 1 else ()), *_held_out(frame)]
    kept = pd.DataFrame(frame[frame["site"].isin(rows)]).reset_index(drop=True)
    up = style.rises(str(kept["metric"].iloc[0]))
    ends = ["difference_low", "difference_high"] if up else ["difference_high", "difference_low"]
    sign = 1.0 if up else -1.0
    low, high = sign * kept[ends[0]], sign * kept[ends[1]]
    clear = np.where(high > low, (low > 0).astype(int) - (high < 0), 0)
    if "finding" in kept:
        clear = clear * kept["finding"].isin([GAINS, LOSES])
    n = kept["site"].map(sizes)
    return kept.assign(n=n, gain=sign * kept["difference"], gain_low=low, gain_high=high, clear=clear)


def _rows(table: pd.DataFrame, sizes: pd.Series, methods: int, room: float) -> tuple[list[str], float]:
    """Return the sites, summaries and held-out sites that fit into the room, and the height of a row in inches."""
    rows = [s for s in SUMMARIES if s in set(table["site"])]
    sites, held = by_size(sizes), _held_out(table)
    pitch = 0.36 if methods < 2 else 0.2 + 0.17 * (methods + 1)
    total = len(sites) + len(rows) + len(held) + 1.5
    least = style.LOWEST if methods < 2 else 0.06 + MARKS * (methods + 1)
    if pitch * total > room:
        pitch = max(least, room / total) if methods < 2 else least
    most = max(2, int(room / pitch - len(rows) - 1.5))
    held = held[: max(1, most // 4, most - len(sites))]
    return [*sites[: most - len(held)], *rows, *held], pitch


def _federated(table: pd.DataFrame) -> list[str]:
    """Return the federated methods in the table's order."""
    return [str(method) for method in table["method"].unique() if style.is_federated(str(method))]


def _positives(runs: Any) -> tuple[dict[str, int], str]:
    """Return the test cases of each site with the second of two classes, and its name; empty for other tasks."""
    if isinstance(runs, pd.DataFrame) or (first := listed(runs)[0]).task != "binary":
        return {}, ""
    stored = first.predictions
    tests = stored[stored["split"] == "test"].drop_duplicates("case")
    counts = (tests["label"] == 1).groupby(tests["site"].astype(str)).sum()
    return {site: int(n) for site, n in counts.items()}, short(first.classes[1], VERSUS)


def _row_names(
    table: pd.DataFrame,
    rows: Sequence[str],
    sizes: pd.Series,
    counted: str,
    positives: dict[str, int],
    layout: Paper,
    pitch: float,
) -> list[str]:
    """Name sites with their n; the macro-average says over how many sites it is if it is not over all."""
    tests = table.groupby("site")["cases"].max()
    defined = table[table["site"].isin(sizes.index)].groupby("site")["value"].apply(lambda v: v.notna().any())
    macro = f"macro-average over {defined.sum()} of {len(sizes)} sites"
    both = counted == "training cases"
    n = {
        row: f"n={sizes[row]:,}"
        + (f" / {tests[row]:,}" if both else "")
        + (f" ({positives[row]:,})" if row in positives else "")
        for row in rows
        if row in sizes.index
    }
    called = zip(rows, row_names(rows, layout.name(pitch, NAME)), strict=True)
    return [
        layout.counted(macro if row == SUMMARIES[0] and not defined.all() else name, n.get(row, ""), pitch)
        for row, name in called
    ]


def _site_rows(ax: Axes, places: dict[str, float], names: list[str]) -> None:
    """Label the rows, with lines above the summaries and above the held-out sites."""
    ax.set_yticks(list(places.values()), names)
    ax.set_ylim(max(places.values()) + 0.6, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for block in ([row for row in places if row in SUMMARIES], [row for row in places if is_held_out(row)]):
        if block:
            ax.axhline(places[block[0]] - 0.75, color=style.PALE, lw=0.8)


def _offsets(methods: Sequence[str], federated: list[str]) -> dict[str, float]:
    """Return the offset of each method below the middle of its row, in rows; the centralized one is on top."""
    order = [m for m in methods if style.family(m) == "local"] + federated
    step = (0.8 if len(federated) > 1 else 0.6) / max(1, len(order))
    found = {m: (i - (len(order) - 1) / 2) * step for i, m in enumerate(order)}
    return found | {m: -0.44 for m in methods if style.family(m) == "centralized"}


def _marks(
    ax: Axes, table: pd.DataFrame, places: dict[str, float], federated: list[str], roles: dict[str, style.Role]
) -> None:
    """Draw markers on their intervals, over bars from the local to each federated value."""
    offsets = _offsets(list(roles), federated)
    local = table[table["method"].map(style.family) == "local"].set_index("site")["value"]
    for row in table.itertuples():
        method, role = str(row.method), roles[str(row.method)]
        middle = places[str(row.site)]
        y = middle + offsets[method]
        ax.plot([row.low, row.high], [y] * 2, color=role.color, lw=1.1, zorder=2)
        if style.family(method) == "centralized":
            ax.plot([row.value] * 2, [y, 2 * middle - y], color=role.color, lw=1.8, zorder=2, gid=_gid(row))
            continue
        if method in federated and row.site in local:
            ax.plot([local[row.site], row.value], [y] * 2, color=style.PALE, lw=4.5, zorder=1)
        ax.plot(row.value, y, marker=role.marker, markersize=6.5, mew=0, color=role.color, ls="none", gid=_gid(row))


def _gid(row: Any) -> str:
    """Return the name of a mark in the figure and in its SVG file."""
    return plain(f"{row.method} at {row.site}")


def _notes(ax: Axes, table: pd.DataFrame, places: dict[str, float], layout: Paper) -> None:
    """Write the reason at sites where no method has a value, nor an interval as the worst site has."""
    most = NOTE
    if layout.narrow:
        style.lay_out(ax)
        most = int(room_right_of(ax, 0) / style.root(ax).dpi * style.POINTS / CHARACTER) - len("undefined: ")
    for site, rows in table.groupby("site", sort=False):
        if rows[["value", "low"]].notna().any(axis=None):
            continue
        note = next((text for text in rows["note"].astype(str) if text.strip() and text != "nan"), "")
        text = f"undefined: {short(note, most)}" if note else "undefined"
        ax.text(
            0.01, places[str(site)], text, transform=ax.get_yaxis_transform(), va="center", style="italic", fontsize=8
        )


def _gain_column(
    ax: Axes,
    table: pd.DataFrame,
    places: dict[str, float],
    federated: list[str],
    roles: dict[str, style.Role],
    pitch: float,
    layout: Paper,
) -> str:
    """Write the paired gain and its interval right of the axes where rows are high enough; bold: it excludes 0.

    Return the head of the column, "" if there is none.
    """
    drawn = table[table["method"].isin(federated) & table["gain"].notna()]
    if drawn.empty or pitch < NUMBERS * (len(federated) + (len(federated) > 1)):
        return ""
    metric, versus = str(drawn["metric"].iloc[0]), short(drawn["versus"].iloc[0], VERSUS)
    offsets = _offsets(list(roles), federated) if len(federated) > 1 else dict.fromkeys(federated, 0.0)
    columns = (6, 37) if layout.narrow else (12, 50)  # points
    for row in drawn.itertuples():
        ends = f"{titles.number(row.gain_low, metric)} to {titles.number(row.gain_high, metric)}"
        ends = ends if np.isfinite(row.gain_low) else ""
        place = places[str(row.site)] + offsets[str(row.method)]
        look = {"va": "center", "color": roles[str(row.method)].ink}
        weight = "bold" if row.clear else "normal"
        style.right_of(ax, place, columns[0], titles.number(row.gain, metric), weight=weight, **look)
        style.right_of(ax, place, columns[1], ends, **look)
    cut = "\n" if layout.narrow else " "
    head = f"gain over {versus},{cut}{titles.unit(metric)}\n(bold: 95 % CI{cut}excludes 0)"
    style.right_of(ax, ax.get_ylim()[1], columns[0], head, va="bottom", color="#555555")
    return head


def _legend(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role], left: int, layout: Paper, head: str) -> float:
    """Name the methods above the axes; return the height of the legend in points.

    left: how many methods are not drawn.
    """
    from matplotlib.lines import Line2D

    methods = sorted(table["method"].unique(), key=lambda m: {"local": 0, "centralized": 2}.get(style.family(m), 1))
    handles = [
        Line2D([], [], color=role.color, marker=role.marker, lw=1.1, markersize=6.5, mew=1.8 * (role.marker == "|"))
        for role in (roles[method] for method in methods)
    ]
    labels = list(names(methods).values())
    if left:
        handles, labels = [*handles, Line2D([], [], ls="none")], [*labels, more(left, "methods")]
    return legend(ax, layout, handles, labels, head)


# -- models across sites ---------------------------------------------------------------------------------------------


def transfer(runs: Any, metric: str | None = None, *, ax: Axes | None = None) -> style.Drawing:
    """Draw cross-site generalization: each site's own model (rows) on each site's test cases (columns).

    Shared models are rows below. Boxes mark models at their own site. At most the 60 largest sites and 20 shared models
    are drawn, and the others counted; where cells are narrow, they have a colour and no number. The scale of colours is
    the same in all figures of a metric that ends at 1, so that small differences look small.

    Parameters
    ----------
    runs : list of Run, or pandas.DataFrame
        Runs of one setting, or the frame that `fedlab.analysis.comparison.transfer` made of them.
    metric : str, optional
        A metric of the runs; their headline metric by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Drawing
        (figure, table). table: the values, models x sites, from the largest site to the smallest.

    Examples
    --------
    >>> import pandas as pd
    >>> import fedlab
    >>> frame = pd.DataFrame({"trained_at": list("AABB"), "tested_on": list("ABAB"), "value": [0.9, 0.6, 0.7, 0.8]})
    >>> float(fedlab.plots.transfer(frame.assign(metric="auroc", cases=50)).table.loc["A", "B"])
    0.6
    """
    frame, sizes, tests = _cross_site(runs, metric)
    name = metric or str(frame["metric"].iloc[0])
    sites = sorted(by_size(sizes), key=is_held_out)
    values = frame.pivot(index="trained_at", columns="tested_on", values="value")
    methods = [str(model) for model in frame["trained_at"].unique() if model not in sizes.index]
    values = values.reindex([*(site for site in sites if site in values.index), *methods])[sites]
    most, _ = style.fitting(len(sites), CELL)
    shown = values.loc[[row for row in values.index if row in sites[:most] or row in methods[:SHARED]], sites[:most]]
    own = sum(row in sites for row in shown.index)
    pitch = min(CELL, ROOM / max(1, len(shown)))
    with style.page(ax, max(9, 4 + COLUMN * len(shown.columns)), 1.9 + pitch * len(shown)) as ax:
        norm, colors = _scale(shown, name)
        tops = np.arange(len(shown)) + GAP * (np.arange(len(shown)) >= own) * (own > 0)
        _matrix_frame(ax, shown, tops, None if sizes is tests else sizes, tests, name)
        left = [more(len(sites) - most, "sites")] * (len(sites) > most)
        left += [more(len(methods) - SHARED, "shared models")] * (len(methods) > SHARED)
        width, height = style.inches(ax)
        narrow = width < NARROW * len(shown.columns) or height < LOW * len(shown)
        if left:
            ax.set_xlabel(f"{ax.get_xlabel()}\n{'; '.join(left)}")
        _cells(ax, shown, tops, norm, colors, not narrow)
        _colour_bar(ax, norm, colors, width)
        style.headline(ax, titles.transfer(values, name))
    return style.Drawing(style.root(ax), values)


def _cross_site(runs: Any, metric: str | None) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Return (transfer frame, training cases of each site, test cases of each site); only test cases for a frame."""
    if isinstance(runs, pd.DataFrame):
        frame = runs if metric is None or "metric" not in runs else runs[runs["metric"] == metric]
    else:
        found = listed(runs)
        frame = comparison.transfer(found, headline_metric(found, metric))
    frame = frame[~frame["tested_on"].isin(OUTSIDE)]
    tests = frame.groupby("tested_on", sort=False)["cases"].max()
    if isinstance(runs, pd.DataFrame):
        return frame, tests, tests
    return frame, training_sizes(found).reindex(frame["tested_on"].unique(), fill_value=0), tests


def _scale(values: pd.DataFrame, metric: str) -> tuple[Any, Any]:
    """Return (norm, colour map): dark is good, whether the metric rises or falls.

    A metric that ends at 1 has one scale in all figures, from CHANCE or, where values are lower, from the tenth below.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    known = values.to_numpy()[np.isfinite(values.to_numpy())]
    low, high = (known.min(), known.max()) if len(known) else (CHANCE, 1.0)
    if style.rises(metric) and low >= 0 and high <= 1:
        return Normalize(min(CHANCE, np.floor(10 * low) / 10), 1.0), colormaps["YlGnBu"]
    spare = max(0.0, LEAST_RANGE - (high - low)) / 2
    return Normalize(low - spare, high + spare), colormaps["YlGnBu" if style.rises(metric) else "YlGnBu_r"]


def _colour_bar(ax: Axes, norm: Any, colors: Any, width: float) -> None:
    """Draw the scale of the colours right of the matrix, which is `width` inches wide."""
    from matplotlib.ticker import MaxNLocator

    bar = ax.inset_axes((1 + 0.2 / width, 0, BAR / width, 1))
    steps = np.linspace(norm.vmin, norm.vmax, 200)
    look: dict[str, Any] = {"cmap": colors, "norm": norm, "aspect": "auto", "origin": "lower"}
    bar.imshow(steps[:, None], extent=(0, 1, norm.vmin, norm.vmax), **look)
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.yaxis.set_major_locator(MaxNLocator(TICKS))
    bar.tick_params(labelsize=8, length=2)
    bar.spines[:].set_visible(False)


def _matrix_frame(
    ax: Axes,
    values: pd.DataFrame,
    tops: NDArray[np.float64],
    sizes: pd.Series | None,
    tests: pd.Series,
    metric: str,
) -> None:
    """Label rows and columns, own models with their training cases and sites with their test cases."""
    ax.set_xlim(0, values.shape[1])
    ax.set_ylim(tops[-1] + 1.08, -0.08)
    called = names(values.index)
    ax.set_yticks(tops + 0.5, [_model_name(str(row), called[str(row)], values, sizes) for row in values.index])
    columns = [
        f"{name}\nn={tests[site]:,}".replace(" (held out)\n", "\n(held out)\n")
        for site, name in zip(values.columns, row_names(values.columns), strict=True)
    ]
    ax.set_xticks(np.arange(values.shape[1]) + 0.5, columns)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"tested on ({style.metric_label(metric)}; n: test cases)")
    own = values.index.isin(values.columns)
    if own.any():
        low, high = ax.get_ylim()
        label = "trained at" + ("\n(n: training cases)" if sizes is not None and own.sum() > 2 else "")
        ax.set_ylabel(label, y=((tops + 0.5)[own].mean() - low) / (high - low))
    style.fit_names(ax)


def _model_name(row: str, name: str, values: pd.DataFrame, sizes: pd.Series | None) -> str:
    """Name a row: a site's own model with its training cases, a method's shared model."""
    if row in values.columns:
        return name if sizes is None else f"{name}  n={sizes[row]:,}"
    return name if style.family(row) in ("centralized", "ensemble") else f"{name} (shared model)"


def _cells(
    ax: Axes, values: pd.DataFrame, tops: NDArray[np.float64], norm: Any, colors: Any, written: bool = True
) -> None:
    """Draw the coloured cells with their values, and boxes around models at their own site.

    Without their values, all cells are one artist: there are very many.
    """
    from matplotlib.patches import Rectangle

    shades = [
        [colors(norm(v)) if np.isfinite(v) else (0.93, 0.93, 0.93, 1.0) for v in row] for row in values.to_numpy()
    ]
    if not written:
        boxes = [Box(x, top, x + 1, top + 1) for top in tops for x in range(values.shape[1])]
        bars(ax, boxes, facecolors=[shade for row in shades for shade in row], zorder=0, gid=DATA)
    for top, (row, line), shade in zip(tops, values.iterrows(), shades, strict=True):
        for x, (column, value) in enumerate(line.items()):
            color = shade[x]
            if written:
                ax.add_patch(Rectangle((x, top), 1, 1, facecolor=color, edgecolor="white", lw=0.6, gid=DATA))
                light = style.luminance(np.array(color[:3])) > 0.21  # where dark and white ink have the same contrast
                look: dict[str, Any] = {"color": "#222222" if light else "white", "in_layout": False, "gid": DATA}
                ax.text(x + 0.5, top + 0.5, two_decimals(value), ha="center", va="center", fontsize=8.5, **look)
            if row == column:
                ax.add_patch(
                    Rectangle((x + 0.02, top + 0.04), 0.96, 0.92, fill=False, edgecolor=style.BLACK, lw=1.6, gid=DATA)
                )


def two_decimals(value: float) -> str:
    """Format a value with two decimals and without the leading zero: ".87"; a dash if undefined."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.2f}"
    return (text.replace("0.", ".", 1) if abs(float(text)) < 1 else text).replace("-", "−")
