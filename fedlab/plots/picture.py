"""A figure that shows itself in a notebook, even where pyplot was never imported."""

from io import BytesIO

from matplotlib.figure import Figure

DPI = 160  # of the notebook's picture: sharp on high-density screens, shown at the figure's size in inches


def png(figure: Figure, dpi: int = DPI) -> tuple[bytes, dict[str, int]]:
    """The figure's PNG bytes and the width and height, in CSS pixels (96 an inch), at which to show it."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    width, height = figure.get_size_inches() * 96
    return buffer.getvalue(), {"width": round(width), "height": round(height)}


class Picture(Figure):
    """A matplotlib figure that belongs to no window and no global state: closing it is forgetting it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return png(self)
