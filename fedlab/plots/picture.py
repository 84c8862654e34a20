"""A figure that shows itself in a notebook, even where pyplot was never imported."""

from io import BytesIO
from threading import RLock
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 160  # of the notebook's picture: sharp on high-density screens, shown at the figure's size in inches
WORDS = 600  # characters of a description
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
    pixels = np.asarray(canvas.buffer_rgba())
    opaque = pixels[..., 3].min(initial=255) == 255
    Image.fromarray(np.ascontiguousarray(pixels[..., :3]) if opaque else pixels).save(
        buffer, "png", compress_level=effort
    )
    width, height = figure.get_size_inches() * 96
    return buffer.getvalue(), {"width": round(width), "height": round(height)}


class Picture(Figure):
    """A matplotlib figure without a window or global state: it is freed with its last reference."""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """Return the picture, its size, and the text that replaces it for readers who do not see it."""
        from fedlab.plots.themes import shown

        data, size = png(shown(self))
        return data, {**size, "alt": described(self)}


def described(figure: Figure) -> str:
    """Describe a figure in words: its titles, then the labels of its axes, each once.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from fedlab.plots.picture import described
    >>> ax = Figure().subplots()
    >>> _ = ax.set_title("Local is better", loc="left"), ax.set_xlabel("AUROC")
    >>> described(ax.figure)
    'Local is better. Horizontal axis: AUROC.'
    """
    panels: list[Any] = [each for ax in figure.axes for each in (ax, *ax.child_axes)]
    titles = [ax.get_title(loc=place) for ax in panels for place in ("left", "center")]
    labels = [f"Horizontal axis: {ax.get_xlabel()}" for ax in panels if ax.get_xlabel()]
    labels += [f"Vertical axis: {ax.get_ylabel()}" for ax in panels if ax.get_ylabel()]
    lines = [" ".join(text.split()) for text in (*titles, *labels) if text.strip()]
    text = " ".join(line if line.endswith((".", "?")) else f"{line}." for line in dict.fromkeys(lines))
    return text if len(text) <= WORDS else f"{text[: WORDS - 1]}…"
