"""A figure that shows itself in a notebook, even where pyplot was never imported."""

from io import BytesIO
from threading import RLock

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 160  # of the notebook's picture: sharp on high-density screens, shown at the figure's size in inches
LOCK = RLock()  # matplotlib's settings are global to the process: only one thread may draw at a time


def png(figure: Figure, dpi: int = DPI, effort: int = 6) -> tuple[bytes, dict[str, int]]:
    """Return the figure's PNG bytes and the width and height, in CSS pixels (96 an inch), at which to show it.

    effort: of compression, 1 (fast) to 9 (small).
    """
    before, owner, buffer = figure.dpi, figure.canvas, BytesIO()
    with LOCK, rc_context({"text.hinting": "none"}):  # hinting would take a quarter of the time
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)  # savefig would take half as long again
        canvas.draw()
        figure.set_dpi(before)
        figure.set_canvas(owner)
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(buffer, "png", compress_level=effort)
    width, height = figure.get_size_inches() * 96
    return buffer.getvalue(), {"width": round(width), "height": round(height)}


class Picture(Figure):
    """A matplotlib figure without a window or global state: it is freed with its last reference."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return png(self)
