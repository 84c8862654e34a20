"""A figure that shows itself in a notebook, even where pyplot was never imported."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from struct import pack
from threading import RLock
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from fedlab.plots.lettering import Canvas

DPI = 160  # of the notebook's picture: sharp on high-density screens, shown at the figure's size in inches
WORDS = 600  # characters of a description
LOCK = RLock()  # matplotlib's settings are global to the process: only one thread may draw at a time


def png(figure: Figure, dpi: int = DPI, effort: int = 6) -> tuple[bytes, dict[str, int]]:
    """Return the figure's PNG bytes and the width and height, in CSS pixels (96 an inch), at which to show it.

    effort: of compression, 1 (fast) to 9 (small).
    """
    with LOCK, rc_context({"text.hinting": "none"}):  # hinting would take a quarter of the time
        with resolution(figure, dpi):
            canvas = Canvas(figure)  # savefig would take half as long again
            canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
        image = Image.fromarray(pixels).convert("RGB" if pixels[..., 3].min(initial=255) == 255 else "RGBA")
    width, height = figure.get_size_inches() * 96
    return _fast(image) if effort == 1 else _small(image, effort), {"width": round(width), "height": round(height)}


@contextmanager
def resolution(figure: Figure, dpi: float) -> Iterator[None]:
    """Give a figure another resolution, for other canvases; it gets back its own, also after an error."""
    before, owner = figure.dpi, figure.canvas
    try:
        figure.set_dpi(dpi)
        yield
    finally:
        figure.set_dpi(before)
        figure.set_canvas(owner)


@contextmanager
def as_laid_out(figure: Figure, dpi: float) -> Iterator[None]:
    """Lay a figure out at another resolution, once for all files that are written there.

    Texts are not hinted, as in `png`, so that they have the same widths; an SVG keeps each image, since to join them
    takes longer than to write them.
    """
    drawn_so = rc_context({"text.hinting": "none", "image.composite_image": False})
    with LOCK, drawn_so, resolution(figure, dpi):
        engine = figure.get_layout_engine()
        if engine is None:
            yield
            return
        engine.execute(figure)
        figure.set_layout_engine("none")
        try:
            yield
        finally:
            figure.set_layout_engine(engine)


def _small(image: Image.Image, effort: int) -> bytes:
    """Encode an image as PNG with the filter of each line that suits it best."""
    buffer = BytesIO()
    image.save(buffer, "png", compress_level=effort)
    return buffer.getvalue()


def _fast(image: Image.Image) -> bytes:
    """Encode an image as PNG without filters, which takes half the time; figures are as small."""
    pixels = np.asarray(image)
    height, width, channels = pixels.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, 0 for none
    lines[:, 1:] = pixels.reshape(height, -1)
    header = pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b"")]
    chunks = [pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


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
