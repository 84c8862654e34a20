"""Whether what one site learned holds at another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.plots import style, titles
from fedlab.plots.reading import OUTSIDE, away_name, by_size, headline_metric, is_away, listed, training_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_RANGE = 0.1  # values closer than this share nearly one colour: the map must not paint noise
GAP = 0.25  # rows between the sites' own models and the global ones


def transfer(runs: Any, metric: str | None = None, *, ax: Axes | None = None) -> style.Drawing:
    """Each site's own model (rows) on each site's test cases (columns); global methods as rows below.

    runs: runs of one setting, or the frame that `fedlab.analysis.comparison.transfer` made of them. Returns the figure
    and the values drawn: models x sites, from the largest site to the smallest.
    """
    frame, sizes, counted = _read(runs, metric)
    name = metric or str(frame["metric"].iloc[0])
    sites = sorted(by_size(sizes), key=is_away)
    values = frame.pivot(index="trained_at", columns="tested_on", values="value")
    methods = [str(model) for model in frame["trained_at"].unique() if model not in sizes.index]
    values = values.reindex([*(site for site in sites if site in values.index), *methods])[sites]
    own = len(values) - len(methods)
    with style.page(ax, 9, 1.7 + 0.32 * len(values)) as ax:
        norm, colors = _scale(values, name)
        tops = np.arange(len(values)) + GAP * (np.arange(len(values)) >= own) * (own > 0)
        _frame(ax, values, tops, sizes, f"tested on ({style.metric_label(name)}; n: {counted})")
        _cells(ax, values, tops, norm, colors)
        style.headline(ax, titles.transfer(values, name))
    return style.Drawing(style.root(ax), values)


def _read(runs: Any, metric: str | None) -> tuple[pd.DataFrame, pd.Series, str]:
    """(transfer frame of training sites, n of each site, what n counts)."""
    if isinstance(runs, pd.DataFrame):
        frame = runs if metric is None or "metric" not in runs else runs[runs["metric"] == metric]
    else:
        from fedlab.analysis import comparison

        found = listed(runs)
        frame = comparison.transfer(found, headline_metric(found, metric))
    frame = frame[~frame["tested_on"].isin(OUTSIDE)]
    if isinstance(runs, pd.DataFrame):
        return frame, frame.groupby("tested_on", sort=False)["cases"].max(), "test cases"
    return frame, training_sizes(found).reindex(frame["tested_on"].unique(), fill_value=0), "training cases"


def _scale(values: pd.DataFrame, metric: str) -> tuple[Any, Any]:
    """(norm, map): dark is good, whichever way the metric runs."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    known = values.to_numpy()[np.isfinite(values.to_numpy())]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    spare = max(0.0, LEAST_RANGE - (high - low)) / 2
    return Normalize(low - spare, high + spare), colormaps["YlGnBu" if style.rises(metric) else "YlGnBu_r"]


def _frame(ax: Axes, values: pd.DataFrame, tops: np.ndarray, sizes: pd.Series, xlabel: str) -> None:
    ax.set_xlim(0, values.shape[1])
    ax.set_ylim(tops[-1] + 1.08, -0.08)
    ax.set_yticks(tops + 0.5, [f"{row}  n={sizes[row]:,}" if row in sizes.index else str(row) for row in values.index])
    ax.set_xticks(np.arange(values.shape[1]) + 0.5, [away_name(site).replace(" (", "\n(") for site in values.columns])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(xlabel)
    own = values.index.isin(values.columns)
    if own.any():
        low, high = ax.get_ylim()
        ax.set_ylabel("trained at", y=((tops + 0.5)[own].mean() - low) / (high - low))
    style.fit_names(ax)


def _cells(ax: Axes, values: pd.DataFrame, tops: np.ndarray, norm: Any, colors: Any) -> None:
    from matplotlib.patches import Rectangle

    for top, (row, line) in zip(tops, values.iterrows(), strict=True):
        for x, (column, value) in enumerate(line.items()):
            known = bool(np.isfinite(value))
            color = colors(norm(value)) if known else (0.93, 0.93, 0.93, 1.0)
            ax.add_patch(Rectangle((x, top), 1, 1, facecolor=color, edgecolor="white", lw=0.6))
            light = style.luminance(np.array(color[:3])) > 0.18
            ink = "#222222" if light else "white"
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5, "color": ink, "in_layout": False}
            ax.text(x + 0.5, top + 0.5, short(value), **look)
            if row == column:
                ax.add_patch(Rectangle((x, top), 1, 1, fill=False, edgecolor=style.BLACK, lw=1.6, zorder=2))


def short(value: float) -> str:
    """Two decimals without the leading zero, as in a table of correlations: ".87"; a dash if undefined."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.2f}"
    return (text.replace("0.", ".", 1) if abs(float(text)) < 1 else text).replace("-", "−")
