"""A figure that shows itself in a notebook, even where pyplot was never imported."""

from io import BytesIO

from matplotlib.figure import Figure

DPI = 160  # of the notebook's picture: sharp on high-density screens, shown at the figure's size in inches


def png(figure: Figure, dpi: int = DPI) -> tuple[bytes, dict[str, int | str]]:
    """The figure's PNG bytes; width and height in CSS pixels (96 an inch); its title for readers who do not see it."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    width, height = figure.get_size_inches() * 96
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes]
    words = "; ".join(title for title in titles if title)
    return buffer.getvalue(), {"width": round(width), "height": round(height), "alt": words or "figure"}


class Picture(Figure):
    """A matplotlib figure that belongs to no window and no global state: closing it is forgetting it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int | str]]:
        return png(self)
