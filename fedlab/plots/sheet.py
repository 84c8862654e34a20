"""One axes whose data units are inches, for figures of several blocks that follow a slider.

A fixed layout in few artists is drawn in a tenth of the time that laying out several axes takes. y points downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedlab.plots import style
from fedlab.plots.names import FONT, glyphs, lend_fonts, name, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import TransformedPath

TEXT = 8.5  # points
EM = 0.62  # mean width of a character as a fraction of the text's size
BOLD = 0.63  # the same in a bold face
MARGIN = 0.12  # inches around the sheet
TITLE = 11.0  # points


class Box(NamedTuple):
    """A block of a sheet, in inches from the sheet's upper left corner."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left


@contextmanager
def sheet(ax: Axes | None, width: float, height: float, title: str, lines: int = 1) -> Iterator[Axes]:
    """Yield axes of (width, height) inches below a title; the sheet is scaled to fit axes that a caller gives.

    lines: of the title for which there is room at least.
    """
    words = in_lines(title, width)
    with style.drawing():
        if ax is None:
            ax = _paper(width, height, max(lines, len(words)))
        ax.set_xlim(0, width)
        ax.set_ylim(height, 0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_axis_off()
        entitle(ax, words)
        yield ax
        lend_to_texts(ax)


def in_lines(title: str, width: float) -> list[str]:
    """Return the lines of a title over so many inches."""
    return wrapped(name(" ".join(map(name, plain(title).split())), style.TITLE), width)


def entitle(ax: Axes, lines: Sequence[str]) -> None:
    """Write the lines of a title; the title of the axes is kept for readers of the figure, and not shown."""
    ax.set_title("\n".join(lines), loc="left", parse_math=False).set_visible(False)
    for k, line in enumerate(reversed(lines)):
        write(ax, 0, -0.13 - k * TITLE * 1.25 / style.POINTS, line, size=TITLE, fontweight="bold")


def lend_to_texts(ax: Axes) -> None:
    """Lend fonts to characters that the texts' own font lacks."""
    for text in ax.texts:  # a search in the axes would make their ticks, which are not drawn
        lend_fonts(text)


def _paper(width: float, height: float, lines: int) -> Axes:
    """Make a figure without a layout engine, with axes below room for a title of so many lines."""
    from fedlab.plots.picture import Picture

    head = MARGIN + lines * TITLE * 1.25 / style.POINTS
    full = (width + 2 * MARGIN, height + head + MARGIN)
    figure = Picture(figsize=full)
    figure.set_layout_engine("none")
    return figure.add_axes((MARGIN / full[0], MARGIN / full[1], width / full[0], height / full[1]))


def wrapped(title: str, width: float) -> list[str]:
    """Break a title into lines of similar length that fit the width, in inches."""
    room = width * style.POINTS / (BOLD * TITLE)
    lines = style.filled(title, len, room)
    return style.filled(title, len, max(math.ceil(1.1 * len(title) / len(lines)), 1)) if len(lines) > 1 else lines


def write(ax: Axes, x: float, y: float, text: str, *, align: str = "left", size: float = TEXT, **look: Any) -> None:
    """Write one text, vertically centred at y unless `look` says otherwise."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

    font = FontProperties(size=size, weight=look.pop("fontweight", None))
    place = {"horizontalalignment": align, "verticalalignment": look.pop("va", "center")}  # in full: faster
    look = {"color": "#222222", **place, **look}
    written = Text(x, y, text, fontproperties=font, parse_math=False, **look)
    written.set_transform(ax.transData)
    written.set_clip_on(False)
    written.set_in_layout(False)
    written.set_clip_path(_unclipped())  # `Axes.text` would make a path for each text, in most of its time
    ax.add_artist(written)


@cache
def _unclipped() -> TransformedPath:
    """Return a path for texts, which are never clipped."""
    from matplotlib.path import Path
    from matplotlib.transforms import IdentityTransform, TransformedPath

    return TransformedPath(Path.unit_rectangle(), IdentityTransform())


def length(text: str, size: float = TEXT) -> float:
    """Estimate the width of a text, in inches."""
    return size * max((max(EM * len(line), _advance(line)) for line in text.split("\n")), default=0) / style.POINTS


def extent(line: str, size: float = TEXT) -> float:
    """Return the width of a line, in inches, without a margin for the estimate."""
    return _advance(line) * size / style.POINTS


def _advance(line: str) -> float:
    """Return the width of a line as a fraction of its size: more than EM a character for capitals and emoji."""
    return sum(map(_width, line))


@cache
def _width(character: str) -> float:
    """Return the width of a character of DejaVu Sans as a fraction of its size, EM for digits, 1 if it lacks it."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.ft2font import LoadFlags

    if character not in glyphs(FONT) or character in "0123456789":
        return EM if character.isascii() else 1.0
    font = get_font(findfont(FONT))
    font.set_size(1000, 72)
    return float(font.load_char(ord(character), LoadFlags.NO_HINTING).linearHoriAdvance / 65536 / 1000)


def short(text: str, width: float, size: float = TEXT) -> str:
    """Write a text in one line, cut with an ellipsis if it is longer than `width` inches."""
    line = plain(text)
    most = max(2, int(width * style.POINTS / (EM * size)))
    cut = line if len(line) <= most else line[: most - 1].rstrip() + "…"
    while len(cut) > 2 and _advance(cut) * size / style.POINTS > max(width, 2 * EM * size / style.POINTS):
        cut = cut[:-2].rstrip() + "…"
    return cut


def segments(ax: Axes, left: ArrayLike, right: ArrayLike, y: ArrayLike, **look: Any) -> None:
    """Draw horizontal lines from left to right at height y as one artist; look: colors, linewidths."""
    from matplotlib.collections import LineCollection

    left, right, y = (np.asarray(values, float) for values in (left, right, y))
    ends = np.stack([np.column_stack([left, y]), np.column_stack([right, y])], axis=1)
    ax.add_collection(LineCollection(list(ends), **look), autolim=False)


def bars(ax: Axes, boxes: Sequence[Box], **look: Any) -> None:
    """Draw filled rectangles as one artist."""
    from matplotlib.collections import PolyCollection

    corners = [[(b.left, b.top), (b.right, b.top), (b.right, b.bottom), (b.left, b.bottom)] for b in boxes]
    ax.add_collection(PolyCollection(corners, linewidths=0, **look), autolim=False)
