"""The width in print for which a figure is drawn, and the form of figures as narrow as one column of a journal.

A figure is drawn 8/7 as wide as it is printed: texts of 8 points then have 7. In a narrow figure the counts of a row
are below its name, and title, legend and the label of the horizontal axis have the width of the whole figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fedlab.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCH = 25.4  # mm
ENLARGED = 8 / 7  # inches drawn for an inch in print
NARROWEST, WIDEST, HIGHEST = 80.0, 200.0, 230.0  # mm in print
NARROW = 6.5  # inches: a figure that is narrower has the form of a column
TWO_LINES = 0.3  # inches: a row whose counts are below its name
LABEL, SHORT = 20, 12  # characters: a name in a narrow figure, and one next to its counts
PANEL, LEFT_OF_PANELS = 1.35, 0.9  # inches: least width of a panel, and room for its labels
SECOND = re.compile(r" (?=over (?:sites|\d)|\(held out\)$)")  # before the second line of a name without counts
LEADING = 1.25  # height of a line in sizes of its text
TITLE = 9.5  # points of a title in a narrow figure
TICK = 0.5  # inches of an axis for each number below it, at least
GAP = 6.0  # points between axes and texts


class Paper(NamedTuple):
    """How large a figure is drawn, in inches, whether it has the form of a column, and whether it is for print."""

    width: float
    height: float
    narrow: bool
    printed: bool = False

    def room(self, usual: float, fixed: float) -> float:
        """Inches for all rows: as many as usual, or what a page has left for them."""
        return min(usual, self.height - fixed)

    def stacked(self, pitch: float) -> bool:
        """Whether the counts of a row are below its name."""
        return self.narrow and pitch >= TWO_LINES

    def name(self, pitch: float, usual: int) -> int:
        """Characters of a row's name."""
        return min(usual, LABEL if self.stacked(pitch) else SHORT) if self.narrow else usual

    def check(self, inches: float, what: str) -> None:
        """Refuse a width in which a figure has no room; inches: those that it needs."""
        if self.printed and self.width < inches:
            raise ValueError(
                f"{what} cannot be drawn for {self.width * INCH / ENLARGED:.0f} mm: give a width of"
                f" {math.ceil(inches * INCH / ENLARGED)} mm or more"
            )

    def panels(self, most: int) -> int:
        """Panels in one row: at most so many, and as many as fit."""
        return min(most, int((self.width - LEFT_OF_PANELS) / PANEL)) if self.printed else most

    def panel_name(self, usual: int) -> int:
        """Characters of a panel's name."""
        return LABEL if self.printed else usual

    @property
    def cut(self) -> str:
        """What is between a number and its interval above a panel: in print a line break."""
        return "\n" if self.printed else " "

    def counted(self, name: str, counts: str, pitch: float) -> str:
        """The label of a row: its name with its counts; a name without counts may have two lines."""
        if self.narrow and not counts:
            return SECOND.sub("\n", name) if pitch >= TWO_LINES else name
        return f"{name}\n{counts}" if self.stacked(pitch) else f"{name}  {counts}".rstrip()


def paper(width: float | None, usual: float, ax: Axes | None) -> Paper:
    """The paper of a figure that is printed in a width of so many mm; by default one of the usual width in inches."""
    if width is None:
        return Paper(usual, style.TALLEST, False)
    if ax is not None:
        raise ValueError("both `ax` and `width` are given: axes have their own size, so leave out one of the two")
    if isinstance(width, bool) or not NARROWEST <= width <= WIDEST:
        raise ValueError(
            f"width={width!r}: give the width in print in mm, {NARROWEST:g} to {WIDEST:g}: 85 for a column of most"
            " journals, 180 for a page"
        )
    drawn = width / INCH * ENLARGED
    return Paper(drawn, HIGHEST / INCH * ENLARGED, drawn < NARROW, True)


def left_edge(ax: Axes, layout: Paper) -> float:
    """Where title, legend and label begin, in points right of the axes' left edge: at the names if it is narrow."""
    if not layout.narrow:
        return 0.0
    figure: Any = style.lay_out(ax)
    names = min((label.get_window_extent().x0 for label in ax.get_yticklabels()), default=ax.bbox.x0)
    return float(min(names - ax.bbox.x0, 0) / figure.dpi * style.POINTS)


def moved(ax: Axes, x: float, y: float = 0.0) -> Any:
    """A transform that moves by so many points."""
    from matplotlib.transforms import ScaledTranslation

    return ScaledTranslation(x / style.POINTS, y / style.POINTS, style.root(ax).dpi_scale_trans)


def room_right_of(ax: Axes, points: float) -> float:
    """Pixels from a place, in points right of the axes' left edge, to the right edge of the figure."""
    figure: Any = style.root(ax)
    return float(figure.bbox.x1 - ax.bbox.x0 - points * figure.dpi / style.POINTS)


def label_below(ax: Axes, layout: Paper, text: str) -> None:
    """Label the horizontal axis; in a narrow figure with few ticks, in lines from the figure's left edge on."""
    from matplotlib.ticker import MaxNLocator

    label = ax.set_xlabel(text)
    if not layout.narrow:
        return
    left = left_edge(ax, layout)
    label.set(x=0, ha="left", fontsize=8, transform=label.get_transform() + moved(ax, left))

    def width(line: str) -> float:
        label.set_text(line)
        return float(label.get_window_extent().width)

    label.set_text("\n".join(style.filled(text, width, 0.95 * room_right_of(ax, left))))
    if isinstance(ax.xaxis.get_major_locator(), MaxNLocator):
        ax.locator_params(axis="x", nbins=max(1, int(style.inches(ax)[0] / TICK)))


def legend(
    ax: Axes, layout: Paper, handles: Sequence[Any], labels: Sequence[str], head: str = "", most: int = 99, **look: Any
) -> float:
    """Name what is drawn above the axes, in as few lines as fit; return the height of legend and head in points.

    head: text right of the legend, or below it in a narrow figure; most: names in a line.
    """
    figure: Any = style.root(ax)
    left = left_edge(ax, layout)
    above = ((head.count("\n") + 1) * 8 * LEADING + GAP) * bool(head) * layout.narrow
    room = room_right_of(ax, left) if layout.narrow else style.inches(ax)[0] * figure.dpi
    form: dict[str, Any] = {"loc": "lower left", "borderaxespad": 0, "borderpad": 0.2, "columnspacing": 1.4, **look}
    if layout.narrow:
        form["bbox_transform"] = ax.transAxes + moved(ax, left, above)
    for columns in range(min(most, len(labels)), 0, -1):
        drawn = ax.legend(handles, ["-"] * len(labels), bbox_to_anchor=(0, 1), ncols=columns, **form)
        for text, label in zip(drawn.get_texts(), labels, strict=True):
            text.set_text(label)  # given to the legend, a label that begins with "_" would be left out
        style.lend_fonts(drawn)
        box = drawn.get_window_extent()
        if box.width <= 0.95 * room:
            break
    return float(above + box.height / figure.dpi * style.POINTS)


def headline(ax: Axes, layout: Paper, text: str, pad: float, height: float) -> None:
    """Write the title; a figure for print becomes as high as axes of so many inches need, at most a page."""
    style.headline(ax, text, pad, left_edge(ax, layout), TITLE if layout.narrow else None)
    if not layout.printed:
        return
    figure = style.root(ax)
    fixed = float(figure.get_size_inches()[1]) - style.inches(ax)[1]
    figure.set_size_inches(layout.width, min(layout.height, fixed + height))
