"""Texts that are drawn twenty times as fast, for figures that follow a slider.

On a bitmap matplotlib lays out and renders every glyph of every text anew, a millisecond a text; Pillow renders the
same font in a fraction of that. On paper (SVG, PDF) stamps are ordinary texts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.artist import Artist, allow_rasterization
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = "lp"  # what a line of text is as high as, whatever its letters: rows of numbers and names stand level
ACROSS = {"left": 0.0, "center": 0.5, "right": 1.0}
UP = {"bottom": 0.0, "center": 0.5, "top": 1.0}
_of: WeakKeyDictionary[Axes, FastTexts] = WeakKeyDictionary()


class FastTexts(Artist):
    """All texts of one axes as one artist: of one line each, level or turned by a quarter, without mathematics."""

    def __init__(self, ax: Axes) -> None:
        super().__init__()
        self.set_zorder(4)
        self.set_in_layout(False)
        self._written: list[tuple[float, float, str, dict[str, Any]]] = []
        ax.add_artist(self)
        _of[ax] = self

    def add(self, x: float, y: float, text: str, look: dict[str, Any]) -> None:
        """look: ha, va, fontsize, color, and fontweight or rotation where they are not the ordinary ones."""
        self._written.append((x, y, text, look))

    def texts(self) -> list[Text]:
        """The same as matplotlib's texts."""
        found = [Text(x, y, text, parse_math=False, **look) for x, y, text, look in self._written]
        for text in found:
            text.set_figure(self.figure)  # type: ignore[arg-type]
            text.set_transform(self.get_transform())
        return found

    @allow_rasterization
    def draw(self, renderer: Any) -> None:
        if not isinstance(renderer, RendererAgg):
            for text in self.texts():
                text.draw(renderer)
            return
        places = self.get_transform().transform([(float(x), float(y)) for x, y, _, _ in self._written])
        context = renderer.new_gc()
        for (x, y), (_, _, words, look) in zip(places, self._written, strict=True):
            size = float(renderer.points_to_pixels(look["fontsize"]))
            ink = _inked(words, size, look.get("fontweight") == "bold", look["color"], bool(look.get("rotation")))
            height, width = ink.shape[:2]
            left, bottom = x - width * ACROSS[look["ha"]], y - height * UP[look["va"]]
            renderer.draw_image(context, round(left), round(bottom), ink)
        context.restore()
        self.stale = False


def stamps_of(ax: Axes) -> FastTexts | None:
    """Where the texts of these axes are gathered, if they are."""
    return _of.get(ax)


@lru_cache(4096)
def _inked(text: str, size: float, bold: bool, color: str, turned: bool) -> NDArray[np.uint8]:
    """The text in its colour, (height, width, 4), rows from below; a line high, or more where letters reach beyond."""
    font = _font(size, bold)
    _, top, _, low = font.getbbox(LINE, anchor="ls")
    left, first, right, last = font.getbbox(text, anchor="ls")
    above, below = int(max(-top, -first)), int(max(low, last))
    page = Image.new("L", (max(1, int(right - min(left, 0))), above + below))
    ImageDraw.Draw(page).text((-min(left, 0), above), text, fill=255, font=font, anchor="ls")
    mask = np.rot90(np.asarray(page)) if turned else np.asarray(page)
    ink = np.empty((*mask.shape, 4), np.uint8)
    ink[..., :3] = np.rint(255 * np.array(to_rgb(color)))
    ink[..., 3] = mask
    return ink[::-1]


@lru_cache(32)
def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    path = findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal"))
    return ImageFont.truetype(path, size)
