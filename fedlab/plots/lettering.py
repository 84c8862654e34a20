"""A canvas that keeps the letters it has drawn, since most texts of a figure that follows a slider stay."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.font_manager import fontManager
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.backend_bases import GraphicsContextBase
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

MOST = 2000  # texts that are kept, a few kilobytes each
STEPS = 64  # a pixel, in which letters are placed
FONTS = ("font.", "text.")  # beginnings of the settings that choose and place letters


class Stamp(NamedTuple):
    """The picture of a text (height, width, 4), and its left and lower edge in pixels right of and below its origin."""

    left: int
    below: int
    picture: NDArray[np.uint8]


class Lettering(RendererAgg):
    """An Agg renderer that copies a text that it has drawn before in the same look, at the same fraction of a pixel."""

    def __init__(self, width: int, height: int, dpi: float) -> None:
        super().__init__(width, height, dpi)
        self.stamps: OrderedDict[Any, Stamp] = OrderedDict()

    def draw_text(
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: FontProperties,
        angle: float,
        ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:
        """Draw one line of text; a formula or a turned or transparent text as every Agg renderer does."""
        special = mtext is not None and (mtext.get_fontfeatures() or mtext.get_language())
        if ismath or angle or special or gc.get_alpha() not in (None, 1):
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        column, row = math.floor(x), math.floor(y)
        stamp = self._stamp(gc, round(STEPS * (x - column)), round(STEPS * (y - row)), s, prop)
        if stamp.picture.size:
            self.draw_image(gc, column + stamp.left, self.height - row - stamp.below, stamp.picture)

    def _stamp(self, gc: GraphicsContextBase, x: int, y: int, s: str, prop: FontProperties) -> Stamp:
        """Return the picture of a text at a fraction of a pixel, in 1 / STEPS."""
        key = (s, prop.copy(), x, y, tuple(gc.get_rgb()), gc.get_antialiased())
        if key not in self.stamps:
            self.stamps[key] = self._drawn(gc, x / STEPS, y / STEPS, s, prop)
            if len(self.stamps) > MOST:
                self.stamps.popitem(last=False)
        self.stamps.move_to_end(key)
        return self.stamps[key]

    def _drawn(self, gc: GraphicsContextBase, x: float, y: float, s: str, prop: FontProperties) -> Stamp:
        """Draw a text on paper of its own, and cut it out."""
        width, height, _ = self.get_text_width_height_descent(s, prop, False)
        margin = math.ceil(height) + 2
        paper = RendererAgg(math.ceil(width) + 2 * margin, 3 * margin, self.dpi)
        ink = paper.new_gc()
        ink.set_foreground(gc.get_rgb(), isRGBA=True)
        ink.set_antialiased(bool(gc.get_antialiased()))
        paper.draw_text(ink, margin + x, 2 * margin + y, s, prop, 0)
        pixels = np.asarray(paper.buffer_rgba())
        rows, columns = (np.flatnonzero(pixels[..., 3].any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return Stamp(0, 0, pixels[:0])
        cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        upwards = cut[::-1].copy()  # as Agg reads it
        return Stamp(int(columns[0]) - margin, int(rows[-1]) + 1 - 2 * margin, upwards)


class Canvas(FigureCanvasAgg):
    """An Agg canvas that goes on with the letters of the last one, if its figure has the same size and fonts."""

    def get_renderer(self) -> Lettering:
        """Return the renderer of the last figure, or a new one for another size or other fonts."""
        global _last
        size = (*self.get_width_height(physical=True), self.figure.dpi)
        fonts = {name: rcParams[name] for name in rcParams if name.startswith(FONTS)}  # not all: one imports pyplot
        wanted = (size, fonts, len(fontManager.ttflist))
        if _last is None or _last[0] != wanted:
            _last = (wanted, Lettering(*size))
        self.renderer = _last[1]
        return self.renderer


_last: tuple[Any, Lettering] | None = None
