"""An Agg canvas that remembers drawn texts: figures that follow a slider repeat most of theirs, to the pixel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.text import Text

MOST = 4096  # texts that are remembered
_layouts: dict[tuple[Any, ...], Any] = {}
_glyphs: dict[tuple[Any, ...], list[Glyph]] = {}
_sizes: dict[tuple[Any, ...], tuple[float, float, float]] = {}


class Glyph(NamedTuple):
    """The bitmap of a character and its place in pixels, from the whole pixel in which its text begins."""

    bitmap: Any
    left: int
    bottom: int


class Recorder:
    """Takes the place of the part of a renderer that draws, and keeps the bitmaps of characters."""

    def __init__(self) -> None:
        self.glyphs: list[Glyph] = []

    def draw_text_image(self, bitmap: Any, x: int, y: int, angle: float, gc: Any) -> None:
        """Keep a bitmap whose lower left corner is at (x, y)."""
        self.glyphs.append(Glyph(bitmap, x, y))


class Renderer(RendererAgg):
    """Draws what matplotlib's renderer draws; what was drawn before, at the same fraction of a pixel, is copied."""

    def __init__(self, width: float, height: float, dpi: float) -> None:
        super().__init__(width, height, dpi)
        self.look = (dpi, rcParams["text.hinting"], *rcParams["font.family"], *rcParams["font.sans-serif"])

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        """Draw a text whose baseline begins at (x, y)."""
        plain = mtext is not None and not mtext.get_fontfeatures() and not mtext.get_language()
        if ismath or not plain or not gc.get_antialiased():
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        column, row = math.floor(x), math.floor(y)
        key = (s, prop.copy(), angle, round(x - column, 6), round(y - row, 6), self.height % 1, *self.look)
        if key not in _glyphs:
            drawn, recorder = self._renderer, Recorder()
            self._renderer = recorder
            try:
                super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            finally:
                self._renderer = drawn
            _keep(_glyphs, key, [Glyph(g.bitmap, g.left - column, g.bottom - row) for g in recorder.glyphs])
        for glyph in _glyphs[key]:
            self._renderer.draw_text_image(glyph.bitmap, glyph.left + column, glyph.bottom + row, 0, gc)

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        """Return the size of a text in pixels."""
        key = (s, prop.copy(), ismath, *self.look)
        if key not in _sizes:
            _keep(_sizes, key, super().get_text_width_height_descent(s, prop, ismath))
        return _sizes[key]


class Canvas(FigureCanvasAgg):
    """Draws a figure with that renderer."""

    def get_renderer(self) -> RendererAgg:
        """Return the renderer of this canvas, made at the first call."""
        if not isinstance(getattr(self, "renderer", None), Renderer):
            self.renderer = Renderer(*self.get_width_height(physical=True), self.figure.dpi)
        return self.renderer


class Line(Text):
    """A text that nothing clips, and whose layout is remembered."""

    def set_clip_path(self, path: Any, transform: Any = None) -> None:
        """Do nothing."""

    def _get_layout(self, renderer: Any) -> Any:
        """Return the layout, which does not depend on the place of the text."""
        lay_out = super()._get_layout  # type: ignore[misc]
        if not isinstance(renderer, Renderer) or self.get_wrap() or self.get_usetex():
            return lay_out(renderer)
        text: Any = self
        place = self.get_horizontalalignment(), self.get_verticalalignment(), self.get_rotation(), text._linespacing
        key = (self.get_text(), self.get_fontproperties().copy(), *place, *renderer.look)
        if key not in _layouts:
            _keep(_layouts, key, lay_out(renderer))
        return _layouts[key]


def _keep(memory: dict[Any, Any], key: Any, value: Any) -> None:
    """Remember a value; a full memory starts from nothing."""
    if len(memory) >= MOST:
        memory.clear()
    memory[key] = value
