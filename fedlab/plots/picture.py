"""A figure that shows itself in a notebook, even where pyplot was never imported."""

from io import BytesIO

from matplotlib.figure import Figure

from fedlab.plots.style import DRAWING

DPI = 160  # of the notebook's picture: sharp on high-density screens, shown at the figure's size in inches


def png(figure: Figure, dpi: int = DPI, effort: int = 6) -> tuple[bytes, dict[str, int]]:
    """The figure's PNG bytes and the width and height, in CSS pixels (96 an inch), at which to show it.

    effort: of compression, 1 (fast) to 9 (small).
    """
    buffer = BytesIO()
    with DRAWING:
        figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": effort})
    width, height = figure.get_size_inches() * 96
    return buffer.getvalue(), {"width": round(width), "height": round(height)}


class Picture(Figure):
    """A matplotlib figure that belongs to no window and no global state: closing it is forgetting it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return png(self)
