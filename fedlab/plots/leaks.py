"""What leaves the building at each cut of a split model, as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.plots import findings, style
from fedlab.plots.strips import flat
from fedlab.plots.titles import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 0.08  # between pictures, in picture widths


def leakage(found: Any, *, ax: Axes | None = None, n: int = 5) -> style.Drawing:
    """Images that an attacker rebuilds from the activations at each cut, below the originals, with what each cut tells.

    found: what `fedlab.leakage` returned. Columns are cases that the attacker never saw. Returns the figure and its
    table.
    """
    originals = np.asarray(found.images)[:n]
    rows = [("what stays", originals), *((_name(row), found.rebuilt[row.cut][:n]) for row in found.table.itertuples())]
    width = 6.0 / max(1, len(originals))
    tall = min(1.15, width) * len(rows) * (1 + GAP)
    with style.page(ax, 9, 0.7 + tall) as ax:
        for y, (_, pictures) in enumerate(rows):
            for x, picture in enumerate(pictures):
                _draw(ax, x, y, picture)
        ax.set_xlim(0, len(originals) * (1 + GAP))
        ax.set_ylim(len(rows) * (1 + GAP), 0)
        ax.set_aspect("equal")
        ax.set_yticks([(y + 0.5) * (1 + GAP) for y in range(len(rows))], [name for name, _ in rows])
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        style.headline(ax, findings.leakage(found.table), pad=6)
    return style.Drawing(style.root(ax), found.table)


def _name(row: Any) -> str:
    size = f"{row.kilobytes:,.1f}" if row.kilobytes >= 0.1 else f"{row.kilobytes:.2f}"
    told = f"correlation {row.correlation:.2f}\n{percent(row.unexplained)} lost"
    return f"sent at cut {row.cut}\n{size} kB a case, each way\n{told}"


def _draw(ax: Axes, x: int, y: int, picture: np.ndarray) -> None:
    left, top = x * (1 + GAP), y * (1 + GAP)
    shown: Any = np.clip(flat(picture), 0, 1)
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(left, left + 1, top + 1, top), interpolation="nearest")
