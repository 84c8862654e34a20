"""What is asked of each axis against what comes out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.plots import style, titles
from fedlab.plots.measured import NAMES, WRITTEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ["axis", "dose", "seed", "measured", "measure", "value", "null_low", "null", "null_high"]
ACROSS = 4  # panels in a row
PANEL, LEFT, ABOVE, BELOW = 1.45, 0.62, 0.32, 0.5  # inches: height of a panel, room around it
WIDTH = 10.0


def doses(frame: pd.DataFrame, *, ax: Axes | None = None) -> style.Drawing:
    """Requested dose against realised shift and its null band, a panel an axis: thin lines are seeds, thick the median.

    frame: columns axis (the one dosed), dose, seed, measured (the axis of the measure), measure, value, null_low, null,
    null_high, as `fedlab.dose_response` makes it. Returns the figure and the medians drawn, with `beyond`: the share of
    seeds outside the band.
    """
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}: pass what the dose response returned")
    marked = frame.assign(beyond=(frame["value"] > frame["null_high"]) | (frame["value"] < frame["null_low"]))
    own = _own(marked)
    axes = [axis for axis in HEADLINES if axis in set(own["axis"])]
    across = min(ACROSS, len(axes))
    rows = math.ceil(len(axes) / max(1, across))
    table = _medians(own)
    with style.page(ax, WIDTH, 0.45 + rows * (PANEL + ABOVE + BELOW)) as ax:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_axis_off()
        for place, axis in enumerate(axes):
            panel = ax.inset_axes(_box(place, rows, across))
            _draw(panel, own[own["axis"] == axis], table[table["axis"] == axis])
            panel.set_title(NAMES[axis], fontsize=9, fontweight="bold", loc="left", pad=4)
            panel.set_ylabel(_measure(own, axis), fontsize=8.5)
            if place + across >= len(axes):
                panel.set_xlabel("dose")
        style.headline(ax, titles.doses(table, marked[marked["measured"] != marked["axis"]]), pad=6)
    return style.Drawing(style.root(ax), table)


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each axis's own measure: its headline, or the first where that is absent."""
    own = frame[frame["measured"] == frame["axis"]]
    if own.empty:
        raise ValueError("the frame measures no axis that it doses: keep rows where `measured` equals `axis`")
    there = own.groupby("axis")["measure"].agg(lambda names: _first(names.name, list(names)))
    return own[own["measure"] == own["axis"].map(there)]


def _first(axis: Any, names: list[str]) -> str:
    return HEADLINES[str(axis)] if HEADLINES.get(str(axis)) in names else names[0]


def _measure(own: pd.DataFrame, axis: str) -> str:
    name = str(own.loc[own["axis"] == axis, "measure"].iloc[0])
    return WRITTEN.get(name, name) + (", bit" if name.startswith("I(") else "")


def _medians(own: pd.DataFrame) -> pd.DataFrame:
    """A row an axis and dose: medians over seeds of value and band, share of seeds beyond it, number of seeds."""
    wanted = {name: (name, "median") for name in ("value", "null_low", "null", "null_high")}
    grouped = own.groupby(["axis", "measure", "dose"], sort=False)
    table = grouped.agg(**wanted, beyond=("beyond", "mean"), seeds=("seed", "nunique")).reset_index()
    order = {axis: place for place, axis in enumerate(HEADLINES)}
    return table.sort_values(["axis", "dose"], key=lambda c: c.map(order) if c.name == "axis" else c, ignore_index=True)


def _box(place: int, rows: int, across: int) -> tuple[float, float, float, float]:
    """Where a panel stands, as fractions of the page: left, bottom, width, height."""
    row, column = divmod(place, across)
    pitch = 1 / rows
    high = PANEL + ABOVE + BELOW
    wide = 1 / across
    margin = LEFT / WIDTH
    return (
        column * wide + margin,
        1 - (row + 1) * pitch + pitch * BELOW / high,
        wide - margin - 0.01,
        pitch * PANEL / high,
    )


def _draw(panel: Axes, own: pd.DataFrame, medians: pd.DataFrame) -> None:
    x = medians["dose"].to_numpy()
    panel.fill_between(x, medians["null_low"], medians["null_high"], color=style.PALE, lw=0, zorder=1)
    for _, rows in own.sort_values("dose").groupby("seed"):
        panel.plot(rows["dose"], rows["value"], color=style.BLUE, lw=0.6, alpha=0.4, zorder=2)
    panel.plot(x, medians["value"], color=style.BLUE, marker="o", ms=3, zorder=3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlim(-0.02, 1.02)
    panel.set_ylim(bottom=min(0.0, float(medians["null_low"].min()), float(own["value"].min())))
    panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panel.locator_params(axis="y", nbins=4)
    panel.tick_params(labelsize=8)
