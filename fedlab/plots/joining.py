"""Whether sites should join: the verdict of each site (`verdict`), and what each adds (`contributions`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.analysis.joining import verdicts
from fedlab.analysis.joining.rule import CANNOT, ENSEMBLE, FREE, JOIN, STAY, VERDICTS
from fedlab.plots import style
from fedlab.plots.inputs import by_size
from fedlab.plots.names import NAME, listed, more, names
from fedlab.plots.names import name as short
from fedlab.plots.paper import LABEL, Paper, headline, label_below, legend, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW, TWO_LINES = 0.46, 0.36  # inches: a site, and one whose texts may have two lines
HEADER = 24.0  # height in points of the heads of columns
HEAD_AND_FOOT = 2.2  # inches of a page above and below the rows
NAMED = 3  # sites that a title names
WORD, COUNTS = 12.0, 132.0  # points right of the axes: the verdict and the counts behind it
INK = {JOIN: "#00614a", FREE: "#00614a", ENSEMBLE: "#8a5a00", STAY: "#a34700", CANNOT: "#606060"}
KINDS = (("gain", "", 0.0, "D", style.BLUE), ("ensemble_gain", "ensemble_", 0.22, "h", "#E69F00"),
         ("free_gain", "free_", 0.4, "^", "#009E73"))  # fmt: skip
SHOWN = ["site", "verdict", "metric", "patients", "rarer", "gain", "low", "high", "may_join", "note"]


def verdict(
    runs: Any,
    margin: float | None = None,
    metric: str | list[str] | None = None,
    *,
    ax: Axes | None = None,
    width: float | None = None,
    **options: Any,
) -> style.Drawing:
    """Draw the gain of each site with its 95 % interval, the margin, and the verdict with the counts behind it.

    Of the ensemble and of the model that is trained without the site there are smaller marks. A site that has no
    interval is named with its counts. The largest test sets are on top; sites that do not fit are counted.

    Parameters
    ----------
    runs : list of Run, or pandas.DataFrame
        As for `fedlab.verdict`, or the frame that it made.
    margin : float, optional
        As for `fedlab.verdict`; that of the frame if one is given.
    metric : str or list of str, optional
        As for `fedlab.verdict`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    **options
        `method` and `choice` of `fedlab.verdict`.

    Returns
    -------
    Drawing
        (figure, table). table: that of `fedlab.verdict`, from the largest test set to the smallest.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.plots.verdict(fedlab.grid(base, folder=folder, method=["local", "fedavg"])).table
    >>> sorted(table["site"])
    ['Site A', 'Site B']
    """
    table = pd.DataFrame(runs if isinstance(runs, pd.DataFrame) else verdicts.verdict(runs, margin, metric, **options))
    unit = str(getattr(runs, "attrs", {}).get("unit", "patient"))  # or image, where a dataset names no patients
    table = table.set_index("site").loc[by_size(table.set_index("site")["patients"])].reset_index()
    layout = paper(width, 9.4, ax)
    rows, pitch = style.fitting(len(table), ROW, layout.room(style.ROOM, HEAD_AND_FOOT))
    shown, left = table.iloc[:rows], len(table) - rows
    high = pitch * (rows + (left > 0))
    with style.page(ax, layout.width, 1.7 + high) as ax:
        _rows(ax, shown, left, pitch, layout)
        edge = float(table["margin"].iloc[0])
        ax.axvspan(-edge, edge, color=style.PALE, alpha=0.5, lw=0, zorder=0)
        ax.axvline(0, color=style.GREY, lw=0.8, zorder=1)
        _marks(ax, shown)
        ax.locator_params(axis="x", nbins=5)  # long names of sites leave little room for numbers
        for y, row in enumerate(shown.to_dict("records")):
            _word(ax, y, row, pitch, layout)
        rarer = bool(shown["rarer"].notna().any())
        measured = [style.metric_label(name) for name in dict.fromkeys(shown["metric"])]
        if not layout.narrow:
            style.right_of(ax, ax.get_ylim()[1], WORD, "verdict", va="bottom", color="#555555")
            style.right_of(
                ax, ax.get_ylim()[1], COUNTS, f"test {unit}s" + "\n(rarer class)" * rarer, va="bottom", color="#555555"
            )
        label = f"gain over the local model, {' or '.join(measured)}, 95 % interval; grey: margin of ±{edge:g}"
        counts = f"; n: test {unit}s" + " (of the rarer class)" * rarer
        label_below(ax, layout, label + counts * layout.narrow)
        headline(ax, layout, title(table), max(HEADER * (not layout.narrow), _legend(ax, shown, layout)) + 6, high)
    table.attrs["shown"] = SHOWN
    return style.Drawing(style.root(ax), table)


def title(table: pd.DataFrame) -> str:
    """Count the sites of each verdict, and say where a gain is shown after Holm."""
    counts = table["verdict"].value_counts()
    parts = [f"{word} at {counts[word]}" for word in VERDICTS if word in counts]
    sites = f"{len(table)} site{'s' * (len(table) != 1)}"
    if len(parts) == 1 and len(table) > 1:
        parts = [parts[0].replace(f"at {len(table)}", f"at all {len(table)}")]
    text = f"Verdicts of {sites}: {listed(parts, whole=True)}"
    gaining = list(table.loc[table["p_holm"] < verdicts.ONE_SIDED, "site"])
    if len(table) < 2:
        return text
    if not gaining:
        return text + "; no gain is shown (Holm)"
    where = listed(gaining) if len(gaining) <= NAMED else f"{len(gaining)} sites"
    return text + f"; a gain of {short(table['method'].iloc[0])} is shown at {where} (Holm)"


def _rows(ax: Axes, table: pd.DataFrame, left: int, pitch: float, layout: Paper) -> None:
    """Label the rows with sites, and with the metric where it is not the same at all sites."""
    called, several = names(table["site"], layout.name(pitch, NAME)), table["metric"].nunique() > 1
    labels = [
        called[site] + f"{',' if pitch < TWO_LINES else chr(10)} {style.metric_label(metric)}" * several
        for site, metric in zip(table["site"], table["metric"], strict=True)
    ]
    if layout.narrow:
        comma = [f", {style.metric_label(metric)}" * several for metric in table["metric"]]
        numbered = zip(table["site"], comma, map(_counts, table.to_dict("records")), strict=True)
        labels = [layout.counted(called[site], f"n={n}{word}", pitch) for site, word, n in numbered]
    labels += [more(left, "sites")] * (left > 0)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _counts(row: dict[str, Any]) -> str:
    """Patients of a site's test set, and those of the rarer class."""
    return f"{row['patients']:,}" + ("" if np.isnan(row["rarer"]) else f" ({row['rarer']:.0f})")


def _marks(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the gains of the sites with their intervals."""
    crowded = table[["ensemble_low", "free_low"]].notna().any(axis=1)
    top = np.arange(len(table)) - 0.12 * crowded.to_numpy(float)
    for name, prefix, below, marker, color in KINDS:
        main = not below
        ax.hlines(top + below, table[prefix + "low"], table[prefix + "high"], colors=color, lw=1.6 if main else 0.9)
        known = table[name].where(table[prefix + "low"].notna())
        ax.plot(known, top + below, marker=marker, color=color, ls="none", ms=6.5 if main else 4.5, mew=0)


def _word(ax: Axes, y: int, row: dict[str, Any], pitch: float, layout: Paper) -> None:
    """Write the verdict right of the axes, and the counts behind it if the figure is wide."""
    harmed = row["negative_transfer"] and row["verdict"] == STAY and pitch >= TWO_LINES
    word = row["verdict"].replace("without ", "without\n") if layout.stacked(pitch) else row["verdict"]
    word += "\n(negative transfer)" * harmed
    bold = "normal" if row["verdict"] == CANNOT or (harmed and layout.narrow) else "bold"
    at = WORD / 2 if layout.narrow else WORD
    style.right_of(ax, y, at, word, va="center", color=INK[row["verdict"]], weight=bold)
    if not layout.narrow:
        style.right_of(ax, y, COUNTS, _counts(row), va="center", color="#333333")


def _legend(ax: Axes, table: pd.DataFrame, layout: Paper) -> float:
    """Name the marks above the axes; return the height of the legend in points."""
    from matplotlib.lines import Line2D

    method = names(table["method"], LABEL if layout.narrow else NAME)[str(table["method"].iloc[0])]
    texts = {"gain": method, "ensemble_gain": "ensemble of local models", "free_gain": f"{method} without the site"}
    drawn = [kind for kind in KINDS if table[kind[1] + "low"].notna().any() or kind[0] == "gain"]
    handles = [Line2D([], [], color=color, marker=marker, lw=1.1, ms=5.5, mew=0) for *_, marker, color in drawn]
    return legend(ax, layout, handles, [texts[kind] for kind, *_ in drawn], columnspacing=2.0)


# -- contributions ---------------------------------------------------------------------------------------------------

PARTS = {  # limits, marker, colour, names in the legend and in the title
    "leave_one_out": ("low", "high", "^", "#009E73", "lost without the site", "a loss without the site"),
    "shapley": ("shapley_low", "shapley_high", "D", style.BLUE, "Shapley value", "a Shapley value above 0"),
}


def contributions(table: pd.DataFrame, *, ax: Axes | None = None, width: float | None = None) -> style.Drawing:
    """Draw what each site contributes: what is lost without it, and its Shapley value, with 95 % intervals.

    The sites with most training cases are on top; those that do not fit are counted.

    Parameters
    ----------
    table : pandas.DataFrame
        The frame of `fedlab.contributions`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.

    Returns
    -------
    Drawing
        (figure, table). table: the frame, from the largest site to the smallest.

    Examples
    --------
    >>> import pandas as pd
    >>> import fedlab
    >>> lost = {"leave_one_out": [0.02, 0.01], "low": [0.01, -0.01], "high": [0.03, 0.03], "metric": "auroc"}
    >>> frame = pd.DataFrame({"site": ["A", "B"], "cases": [50, 90], **lost, "patients": 40, "seeds": 3})
    >>> fedlab.plots.contributions(frame).table["site"].tolist()
    ['B', 'A']
    """
    from matplotlib.lines import Line2D

    found = pd.DataFrame(table)
    found = found.set_index("site").loc[by_size(found.set_index("site")["cases"])].reset_index()
    layout = paper(width, 8.5, ax)
    rows, pitch = style.fitting(len(found), ROW, layout.room(style.ROOM, HEAD_AND_FOOT))
    shown, left = found.iloc[:rows], len(found) - rows
    parts = [part for part in PARTS if part in found and found[part].notna().any()]
    high = pitch * (rows + (left > 0))
    with style.page(ax, layout.width, 1.7 + high) as ax:
        called, counts = names(shown["site"], layout.name(pitch, NAME)), zip(shown["site"], shown["cases"], strict=True)
        labels = [layout.counted(called[site], f"n={n:,}", pitch) for site, n in counts]
        labels += [more(left, "sites")] * (left > 0)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.axvline(0, color=style.GREY, lw=0.8, zorder=1)
        for k, part in enumerate(parts):
            low, top, marker, color, *_ = PARTS[part]
            y = np.arange(rows) + (k - (len(parts) - 1) / 2) * 0.3
            ax.hlines(y, shown[low], shown[top], colors=color, lw=1.2)
            ax.plot(shown[part], y, marker=marker, color=color, ls="none", ms=5.5, mew=0)
        label = style.metric_label(str(found["metric"].iloc[0]))
        support = f"{found['patients'].iloc[0]:,} validation patients of all sites"
        cut = " " if layout.narrow else "\n"
        scale = f"contribution to {label} (right of 0: better), 95 % interval;{cut}{support}; n: training cases"
        label_below(ax, layout, scale)
        marks = [
            Line2D([], [], color=color, marker=marker, ls="none", ms=5.5, mew=0)
            for _, _, marker, color, *_ in (PARTS[part] for part in parts)
        ]
        height = legend(ax, layout, marks, [PARTS[part][4] for part in parts])
        headline(ax, layout, contributions_title(found, parts), height + 6, high)
    return style.Drawing(style.root(ax), found)


def contributions_title(table: pd.DataFrame, parts: list[str]) -> str:
    """Count the sites whose contribution differs from 0, by the 95 % interval."""
    said = []
    for part in parts:
        low, high, *_, shown = PARTS[part]
        helps, harms = int((table[low] > 0).sum()), int((table[high] < 0).sum())
        harm = f", below 0 at {harms}" if harms else ""
        said.append(f"{shown} is shown at {helps or 'none'} of {len(table)} sites{harm}")
    title = "; ".join(said) or "Contributions of sites"
    return f"{title[0].upper()}{title[1:]} (95 % CI)"
