"""Segmentation: contours of true and predicted masks (`contours`), scores of cases (`case_scores`), and volumes
(`volume_agreement`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.analysis.alignment import of_used_models, stored_predictions
from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.data.structures import region
from fedlab.evaluation import report_metrics
from fedlab.learning import mask_metrics
from fedlab.plots import style, titles
from fedlab.plots.images import flat
from fedlab.plots.inputs import listed
from fedlab.plots.names import NAME, more, names
from fedlab.plots.names import name as short
from fedlab.plots.paper import LABEL, Paper, headline, label_below, legend, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP, HEAD = 0.08, 0.16  # between pictures, and above each for its Dice, in widths of a picture
LARGEST, SHORTEST, TALL, WIDE = 1.7, 0.7, 15.0, 9.6  # inches: width of a picture, least height of a row, all rows
TRUE, PREDICTED, LINES = "#F0E442", "#56B4E9", ("-", "--", ":")  # colours that differ on grey; of one structure each
THICK, THIN, COARSE = 1.1, 0.6, 64  # points: lines of contours; pixels of the images that get thick ones
DRAWN = 6  # methods of a figure
BAND = 0.17  # inches: the scores of a site with one method
JITTER = (0.0, 0.5, -0.5, 0.25, -0.25)  # heights of neighbouring points, in halves of a band
LIMITS = 1.96  # standard deviations: limits of agreement
EVERYWHERE = "all sites"
BETWEEN = 0.14  # between panels, in widths of a panel
HEAD_AND_FOOT = 2.0  # inches of a page above and below the rows
HIGHEST, PAD_OF_PRINT = 3.0, 42.0  # of panels in print: their height in inches, and points between them and the title


# -- contours --------------------------------------------------------------------------------------------------------


def contours(found: Any, *, ax: Axes | None = None) -> style.Drawing:
    """Draw the worst and the median test case of each site: the true contour, and that of each method with its Dice.

    Volumes show the slice with most of the true mask. At most six methods and as many cases as fit are drawn, and the
    others counted.

    Parameters
    ----------
    found : SegmentedCases
        What `fedlab.predicted_masks` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Drawing
        (figure, table). table: `found.table`, a row a case with the Dice of each method.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import fedlab
    >>> from fedlab.analysis.segmented_cases import SegmentedCases
    >>> mask = np.zeros((1, 8, 8), np.uint8)
    >>> mask[:, 2:5, 2:5] = 1
    >>> table = pd.DataFrame({"site": ["A"], "which": ["worst"], "case": ["a"], "fedavg": [1.0]})
    >>> image = np.zeros((1, 1, 8, 8), np.float32)
    >>> found = SegmentedCases(table, "fedavg", image, mask, {"fedavg": mask}, ["background", "lesion"])
    >>> len(fedlab.plots.contours(found).figure.axes[0].images)
    2
    """
    methods = list(found.predicted)[:DRAWN]
    columns = 1 + len(methods)
    shape = flat(found.images[0]).shape
    high = shape[0] / shape[1] + HEAD + GAP
    size = min(LARGEST, WIDE / (columns * (1 + GAP)))
    rows, pitch = style.fitting(len(found.table), size * high, TALL, SHORTEST)
    shown, left = found.table.iloc[:rows], len(found.table) - rows
    with style.page(ax, 2.2 + size * columns * (1 + GAP), 1.35 + pitch * rows) as ax:
        for row, case in enumerate(shown.to_dict("records")):
            masks = [found.truth[row], *(found.predicted[method][row] for method in methods)]
            image, cuts = _slices(found.images[row], masks)
            for column, cut in enumerate(cuts):
                box = column * (1 + GAP), row * high + HEAD, high - HEAD - GAP
                _picture(ax, image, cuts[0], cut if column else None, box, found)
                words = "true mask" if not column else _dice(case[methods[column - 1]])
                ax.text(box[0] + 0.5, box[1] - 0.02, words, ha="center", va="bottom", fontsize=8.5)
        ax.set_xlim(0, columns * (1 + GAP) - GAP)
        ax.set_ylim(rows * high - GAP, 0)
        ax.set_aspect("equal")
        ax.set_anchor("NW")
        called = names(shown["site"])
        labels = [f"{called[case.site]}\n{case.which} case\n{short(case.case, 24)}" for case in shown.itertuples()]
        ax.set_yticks([row * high + (high + HEAD) / 2 for row in range(rows)], labels)
        ax.xaxis.tick_top()
        heads = ["", *(short(method, 22) for method in methods)]
        ax.set_xticks([column * (1 + GAP) + 0.5 for column in range(columns)], heads)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_xlabel(_caption(found, left, len(found.predicted) - len(methods)))
        style.fit_names(ax)
        style.headline(ax, titles.contours(found.table, found.by), pad=10)
    return style.Drawing(style.root(ax), found.table)


def _slices(image: NDArray[np.float32], masks: Sequence[NDArray[np.uint8]]) -> tuple[Any, list[NDArray[np.uint8]]]:
    """Return a picture and its masks; of a volume the slice with most of the true mask, or of all masks if that is
    empty."""
    if masks[0].ndim == 2:
        return flat(image), list(masks)
    held = (masks[0] > 0).sum((0, 1))
    held = held if held.any() else np.sum([(mask > 0).sum((0, 1)) for mask in masks], axis=0)
    cut = int(held.argmax()) if held.any() else masks[0].shape[-1] // 2
    return flat(image[..., cut]), [mask[..., cut] for mask in masks]


def _picture(
    ax: Axes,
    image: Any,
    truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8] | None,
    box: tuple[float, float, float],
    found: Any,
) -> None:
    """Draw an image with the true contour, and the predicted one if there is one. box: left, top, height."""
    left, top, height = box
    extent = (left, left + 1, top + height, top)
    low, high = float(image.min()), float(image.max())
    look: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6), "interpolation": "nearest"}
    ax.imshow(image, extent=extent, **look).set_in_layout(False)
    for mask, color in ((truth, TRUE), (predicted, PREDICTED)):
        for structure in range(1, len(found.structures)) if mask is not None else ():
            own = region(mask, structure, found.overlap)
            _contour(ax, own, extent, color, LINES[(structure - 1) % len(LINES)])


def _contour(ax: Axes, mask: Any, extent: tuple[float, float, float, float], color: str, line: str) -> None:
    """Draw the border of a mask, also where it is the border of the image."""
    if not mask.any():
        return
    left, right, bottom, top = extent
    padded = np.pad(mask.astype(np.float32), 1)
    height, width = mask.shape
    x = left + (np.arange(-1, width + 1) + 0.5) * (right - left) / width
    y = top + (np.arange(-1, height + 1) + 0.5) * (bottom - top) / height
    x, y = np.clip(x, left, right), np.clip(y, top, bottom)
    look: dict[str, Any] = {"colors": color, "linewidths": THICK if max(mask.shape) <= COARSE else THIN}
    ax.contour(x, y, padded, levels=[0.5], linestyles=line, **look).set_in_layout(False)


def _dice(value: float) -> str:
    """Write the Dice of a case."""
    return f"Dice {value:.2f}" if np.isfinite(value) else "Dice undefined"


def _caption(found: Any, left: int, methods: int) -> str:
    """Explain colours and lines, and count what is not drawn."""
    text = "yellow: true contour; blue: predicted contour"
    inside = found.structures[1:]
    if len(inside) > 1:
        kinds = dict(zip(("solid", "dashed", "dotted"), inside, strict=False))
        text += "".join(f"; {kind}: {short(name, 24)}" for kind, name in kinds.items())
    missing = [more(left, "cases")] * (left > 0) + [more(methods, "methods")] * (methods > 0)
    return "; ".join([text, *missing])


# -- scores of cases -------------------------------------------------------------------------------------------------


def case_scores(
    runs: Any, metric: str | None = None, *, ax: Axes | None = None, choice: str = "last", width: float | None = None
) -> style.Drawing:
    """Draw a metric of every test case by site and method, with the median and the quartiles of each.

    Cases for which the metric is undefined are left out and counted. Of several seeds of a method, a point is the mean
    of a case. At most six methods and as many sites as fit are drawn, and the others counted.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation with a segmentation task.
    metric : str, optional
        A metric of masks, such as "dice" or "hd95", or of one structure, "dice[core]"; the headline metric of the runs
        by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    choice : {"last", "best"}, default "last"
        The models of the last round, or of the round that is best on validation cases.

    Returns
    -------
    Drawing
        (figure, table). table: site, method, cases (with a value), undefined, median, lower and upper (quartiles),
        worst.

    Raises
    ------
    ValueError
        If the task is another one, or the metric is none of masks.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(
    ...     dataset="phantoms(cases=60, size=16, task='segmentation')", sites=2, model="unet(width=2)", rounds=1
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(base, folder=folder, method=["local", "fedavg"])
    ...     fedlab.plots.case_scores(runs).table[["site", "method"]].to_numpy().tolist()
    [['Site A', 'local'], ['Site A', 'fedavg'], ['Site B', 'local'], ['Site B', 'fedavg']]
    """
    found = _segmentation(runs)
    name = metric or str(found[0].headline)
    base, structure = mask_metrics.of_structure(name)
    if base not in mask_metrics.MASK_METRICS:
        raise ValueError(f"{name!r} is no metric of masks: {nearest(base, mask_metrics.MASK_METRICS)}")
    if structure:
        report_metrics.check(name, "segmentation", found[0].structures[1:])
    scores = _scores(found, name, choice)
    table = _distributions(scores, name)
    methods, sites = list(dict.fromkeys(table["method"])), sorted(table["site"].unique(), key=natural)
    drawn = methods[:DRAWN]
    layout, band = paper(width, 9, ax), BAND * len(drawn)
    fit, pitch = style.fitting(len(sites), 0.15 + band, layout.room(style.ROOM, HEAD_AND_FOOT), 0.1 + 0.6 * band)
    rows, high = sites[:fit], pitch * min(fit, len(sites))
    with style.page(ax, layout.width, 1.5 + high) as ax:
        roles = style.roles(methods)
        for place, site in enumerate(rows):
            for k, method in enumerate(drawn):
                y = place + (k - (len(drawn) - 1) / 2) * 0.86 / len(drawn)
                rows_of = table[(table["site"] == site) & (table["method"] == method)]
                values = scores.loc[(scores["site"] == site) & (scores["method"] == method), "value"].dropna()
                _strip(ax, values.to_numpy(), y, 0.4 / len(drawn), roles[method])
                written = pitch >= 0.15 * len(drawn)
                _quartiles(ax, rows_of, y, 0.4 / len(drawn), roles[method], written, layout.narrow)
        called = names(rows, LABEL if layout.narrow else NAME)
        ax.set_yticks(range(len(rows)), [f"{called[site]}{_counted(table, site)}" for site in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        if base in mask_metrics.BOUNDED:
            ax.set_xlim(-0.02, 1.02)
        left = [more(len(sites) - fit, "sites")] * (len(sites) > fit)
        left += [more(len(methods) - DRAWN, "methods")] * (len(methods) > DRAWN)
        label_below(ax, layout, "; ".join([f"{style.metric_label(name)} of each test case; line: median", *left]))
        for line in range(1, len(rows)):
            ax.axhline(line - 0.5, color=style.PALE, lw=0.8)
        at, head = (6, "median") if layout.narrow else (12, "median (quartiles)")
        style.right_of(ax, ax.get_ylim()[1], at, head, va="bottom", color="#555555")
        headline(ax, layout, titles.case_scores(table, name), _legend(ax, drawn, roles, layout, head) + 6, high)
    return style.Drawing(style.root(ax), table)


def _segmentation(runs: Any) -> list[Any]:
    """Return the runs as a list; ValueError if they segment nothing."""
    found = listed(runs)
    if found[0].task != "segmentation":
        raise ValueError(f"these runs are for a {found[0].task} task: this figure is for segmentation")
    return found


def _stored(run: Any, choice: str) -> pd.DataFrame:
    """Return what is stored of each test case with the model that its site uses."""
    return of_used_models(stored_predictions(run, choice, "test"))


def _scores(runs: list[Any], metric: str, choice: str) -> pd.DataFrame:
    """Return columns method, site, case, value: the mean over runs of a method, NaN where it is undefined."""
    parts = []
    for run in runs:
        stored = _stored(run, choice)
        base, structure = mask_metrics.of_structure(metric)
        numbers = mask_metrics.stored_numbers(stored, len(run.structures))
        if structure:
            first = (run.structures.index(structure) - 1) * len(mask_metrics.KINDS)
            numbers = numbers[:, first : first + len(mask_metrics.KINDS)]
        values = mask_metrics.case_scores(base, numbers)
        parts.append(stored[["site", "case"]].assign(method=run.method, value=values))
    return pd.concat(parts).groupby(["method", "site", "case"], sort=False)["value"].mean().reset_index()


def _distributions(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the quartiles of each site and method, sites in natural order, methods in that of the runs."""
    rows = []
    for site in sorted(scores["site"].unique(), key=natural):
        for method in scores["method"].unique():
            values = scores.loc[(scores["site"] == site) & (scores["method"] == method), "value"]
            known = values.dropna().to_numpy()
            lower, median, upper = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else [np.nan] * 3
            worst = np.nan if not len(known) else known.min() if style.rises(metric) else known.max()
            rows.append((site, method, len(known), len(values) - len(known), median, lower, upper, worst))
    columns = ["site", "method", "cases", "undefined", "median", "lower", "upper", "worst"]
    return pd.DataFrame(rows, columns=columns)


def _strip(ax: Axes, values: NDArray[np.float64], y: float, half: float, role: style.Role) -> None:
    """Draw a point a case; neighbours in value are at different heights."""
    ordered = np.sort(values)
    heights = y + half * np.resize(JITTER, len(ordered))
    look: dict[str, Any] = {"marker": "o", "ls": "none", "markersize": 3.6, "mew": 0, "alpha": 0.55}
    ax.plot(ordered, heights, color=role.color, **look)


def _quartiles(
    ax: Axes, rows: pd.DataFrame, y: float, half: float, role: style.Role, written: bool, narrow: bool
) -> None:
    """Draw the median as a line, and write it right of the axes, with the quartiles unless the figure is narrow."""
    for row in rows.itertuples():
        if not row.cases:
            continue
        ax.plot([row.median] * 2, [y - half, y + half], color=role.ink, lw=2.2, zorder=3)
        if written:
            text = f"{row.median:.2f}" + f" ({row.lower:.2f} to {row.upper:.2f})" * (not narrow)
            style.right_of(ax, y, 6 if narrow else 12, text, va="center", color=role.ink)


def _counted(table: pd.DataFrame, site: str) -> str:
    """Say how many cases of a site have a value, and for how many it is undefined with some method."""
    rows = table[table["site"] == site]
    low, high, lacking = rows["cases"].min(), rows["cases"].max(), rows["undefined"].max()
    count = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    return f"\nn={count}" + (f", {lacking:,} undefined" if lacking else "")


def _legend(ax: Axes, methods: list[str], roles: dict[str, style.Role], layout: Paper, head: str) -> float:
    """Name the methods above the axes; return the height of the legend in points."""
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=roles[method].color, marker="o", ls="none", markersize=5) for method in methods]
    return legend(ax, layout, marks, list(names(methods).values()), head, most=3)


# -- volumes ---------------------------------------------------------------------------------------------------------


def volume_agreement(
    runs: Any,
    structure: str | None = None,
    *,
    ax: Axes | None = None,
    spacing: Sequence[float] | None = None,
    choice: str = "last",
    width: float | None = None,
) -> style.Drawing:
    """Draw predicted minus true volume of each test case against their mean (Bland and Altman 1986), a panel a method.

    Lines are the mean difference (bias) and the limits of agreement, 1.96 standard deviations around it, over the cases
    of all sites. Cases without the structure in mask and prediction are left out. At most six methods are drawn.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation with a segmentation task; of each method the first one counts.
    structure : str, optional
        The structure; by default the first one after the background.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    spacing : sequence of float, optional
        Edges of a voxel in mm: volumes are then in ml, areas of 2D masks in mm². By default in voxels.
    choice : {"last", "best"}, default "last"
        The models of the last round, or of the round that is best on validation cases.

    Returns
    -------
    Drawing
        (figure, table). table: method, site (also "all sites"), cases, true (mean volume), bias, low, high (limits of
        agreement), unit.

    Raises
    ------
    ValueError
        If the task is another one, or there is no such structure.

    References
    ----------
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(
    ...     dataset="phantoms(cases=60, size=16, task='segmentation')", sites=2, model="unet(width=2)", rounds=1
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(base, folder=folder, method=["local", "fedavg"])
    ...     sorted(set(fedlab.plots.volume_agreement(runs).table["site"]))
    ['Site A', 'Site B', 'all sites']
    """
    found = list({run.method: run for run in reversed(_segmentation(runs))}.values())[::-1]
    inside = found[0].structures[1:]
    wanted = inside[0] if structure is None else structure
    if wanted not in inside:
        raise ValueError(f"structure is {structure!r}, which no mask has: {nearest(str(structure), inside)}")
    factor, unit = _unit(spacing)
    volumes = {run.method: _volumes(run, inside.index(wanted) + 1, factor, choice) for run in found}
    table = pd.DataFrame([row for method, cases in volumes.items() for row in _agreement(method, cases)])
    table["unit"] = unit
    layout = paper(width, 0, ax)
    drawn = list(volumes)[: layout.panels(DRAWN)]
    with style.page(ax, layout.width or min(style.WIDEST, 2.4 + 2.3 * len(drawn)), 4.2) as ax:
        largest = max((float(cases["mean"].max()) for cases in volumes.values() if len(cases)), default=1.0) or 1.0
        ticks: list[tuple[float, str]] = []
        for k, method in enumerate(drawn):
            ticks += _panel(ax, k, volumes[method], table, method, largest, layout)
        ax.set_xlim(-0.05, len(drawn) * (1 + BETWEEN) - BETWEEN + 0.05)
        ax.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        left = [more(len(volumes) - len(drawn), "methods")] * (len(volumes) > len(drawn))
        label_below(ax, layout, "; ".join([f"mean of predicted and true volume of {short(wanted)}, {unit}", *left]))
        ax.set_ylabel(f"predicted minus true, {unit}")
        title = titles.volume_agreement(table[table["site"] == EVERYWHERE], wanted, unit)
        high = min(HIGHEST, style.inches(ax)[0] / len(drawn))
        headline(ax, layout, title, PAD_OF_PRINT if layout.printed else 30, high)
    return style.Drawing(style.root(ax), table)


def _unit(spacing: Sequence[float] | None) -> tuple[float, str]:
    """Return the volume of a voxel and its unit."""
    if spacing is None:
        return 1.0, "voxels"
    size = float(np.prod([float(edge) for edge in spacing]))
    return (size / 1000, "ml") if len(spacing) == 3 else (size, "mm²")


def _volumes(run: Any, structure: int, factor: float, choice: str) -> pd.DataFrame:
    """Return columns site, true, mean, difference of the cases with the structure in mask or prediction."""
    stored = _stored(run, choice)
    tp, fp, fn = (stored[f"{kind}{structure}"] for kind in ("tp", "fp", "fn"))
    found = stored[["site"]].assign(true=factor * (tp + fn), difference=factor * (fp - fn))
    found["mean"] = found["true"] + found["difference"] / 2
    return pd.DataFrame(found[(tp + fp + fn) > 0])


def _agreement(method: str, cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the bias and the limits of agreement at each site and over all."""
    sites = sorted(cases["site"].unique(), key=natural)
    parts = {site: cases[cases["site"] == site] for site in sites} | {EVERYWHERE: cases}
    rows = []
    for site, some in parts.items():
        bias, spread = some["difference"].mean(), LIMITS * some["difference"].std(ddof=1)
        ends = {"true": some["true"].mean(), "bias": bias, "low": bias - spread, "high": bias + spread}
        rows.append({"method": method, "site": site, "cases": len(some), **ends})
    return rows


def _panel(
    ax: Axes, k: int, cases: pd.DataFrame, table: pd.DataFrame, method: str, largest: float, layout: Paper
) -> list[tuple[float, str]]:
    """Draw the panel of a method; return the places and texts of its ticks."""
    from matplotlib.ticker import MaxNLocator

    start, role = k * (1 + BETWEEN), style.roles(table["method"])[method]
    (row,) = table[(table["method"] == method) & (table["site"] == EVERYWHERE)].itertuples()
    ax.plot([start, start + 1], [0, 0], color=style.PALE, lw=0.8, zorder=1)
    for value, dash in ((row.bias, "-"), (row.low, (0, (4, 2))), (row.high, (0, (4, 2)))):
        if np.isfinite(value):
            ax.plot([start, start + 1], [value] * 2, color=role.ink, lw=1.2, ls=dash, zorder=2)
    look: dict[str, Any] = {"marker": "o", "ls": "none", "markersize": 3.8, "mew": 0, "alpha": 0.55}
    ax.plot(start + cases["mean"].to_numpy() / largest, cases["difference"].to_numpy(), color=role.color, **look)
    ax.annotate(
        f"{short(method, layout.panel_name(24))}\nbias {titles.signed(row.bias)}{layout.cut}"
        f"({titles.signed(row.low)} to {titles.signed(row.high)})",
        (start, 1.0),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        va="bottom",
        fontsize=8,
        color=role.ink,
        annotation_clip=False,
    )
    values = [value for value in MaxNLocator(3).tick_values(0, largest) if 0 <= value <= largest]
    return [(start + value / largest, f"{value:g}") for value in values]
