"""`save_for_print`: a figure as PDF and TIFF at the width at which a journal prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedlab.core.files import resolve
from fedlab.plots.paper import HIGHEST
from fedlab.plots.style import POINTS, drawing, stem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 85, 180  # mm: one column, and both
SMALLEST = 6.0  # points of text in print
NARROWEST, WIDEST = 40, 300  # mm
DPI = 600  # of the TIFF
INCH = 25.4  # mm
BEYOND = 0.02  # inches of a figure that may be cut


def save_for_print(
    figure: Figure, folder: str | Path, name: str, width: float = PAGE, dpi: int = DPI
) -> tuple[Path, Path]:
    """Write a figure as name.pdf and name.tiff, as wide as it is printed.

    The whole figure is scaled, its texts with it. Texts in the PDF stay texts.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What a plot returned as `figure`.
    folder : str or Path
        Where to write; made if missing.
    name : str
        File name without extension; characters that a file name cannot hold become `_`.
    width : float, default 180
        Width in mm: 85 for a column and 180 for a page of most journals.
    dpi : int, default 600
        Of the TIFF, in dots an inch of the printed figure.

    Returns
    -------
    tuple of Path
        The PDF and the TIFF (LZW).

    Raises
    ------
    ValueError
        If the width is not between 40 and 300 mm, a text would be smaller than 6 points, the figure would be higher
        than a page (230 mm), or part of it is beyond its edges.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = fedlab.plots.save_for_print(fedlab.plots.population(part).figure, folder, "ages", dpi=100)
    ...     [path.name for path in files]
    ['ages.pdf', 'ages.tiff']
    """
    if isinstance(width, bool) or not NARROWEST <= width <= WIDEST:
        raise ValueError(f"width={width!r}: give the width in print in mm, {NARROWEST} to {WIDEST}, such as 85 or 180")
    scale = width / INCH / float(figure.get_size_inches()[0])
    smallest = smallest_text(figure)
    if smallest * scale < SMALLEST - 0.01:
        needed = width * SMALLEST / (smallest * scale)
        raise ValueError(
            f"at {width:g} mm the smallest text would have {smallest * scale:.1f} points, below {SMALLEST:g}: give a"
            f" width of {needed:.0f} mm or more, or draw the figure for this width, with `width={width:g}`"
        )
    if (high := float(figure.get_size_inches()[1]) * scale * INCH) > HIGHEST + 0.5:
        raise ValueError(
            f"at {width:g} mm the figure would be {high:.0f} mm high, more than a page ({HIGHEST:g} mm): draw it with"
            f" `width={width:g}` or fewer sites, or give a width of {width * HIGHEST / high:.0f} mm or less"
        )
    if (beyond := _beyond(figure)) > BEYOND:
        raise ValueError(
            f"{beyond * scale * INCH:.1f} mm of the figure are beyond its edges and would be cut: make it larger, or"
            ' with layout="constrained"'
        )
    target = resolve(folder or ".")
    target.mkdir(parents=True, exist_ok=True)
    pdf, tiff = target / f"{stem(name)}.pdf", target / f"{stem(name)}.tiff"
    with drawing():
        _pdf(figure, pdf, scale)
        _tiff(figure, tiff, scale, dpi)
    return pdf, tiff


def smallest_text(figure: Figure) -> float:
    """The size of the smallest text that is seen, in points."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return min((float(text.get_fontsize()) for text in seen), default=SMALLEST)


def _beyond(figure: Figure) -> float:
    """How many inches what is drawn reaches beyond the edges of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    owner = figure.canvas
    try:
        box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    finally:
        figure.set_canvas(owner)
    width, height = figure.get_size_inches()
    return float(max(-box.x0, -box.y0, box.x1 - width, box.y1 - height))


def _pdf(figure: Figure, path: Path, scale: float) -> None:
    """Write one page on which everything is scaled."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_mixed import MixedModeRenderer
    from matplotlib.backends.backend_pdf import Op, PdfFile, RendererPdf

    before = figure.dpi
    width, height = figure.get_size_inches()
    with rc_context({"pdf.fonttype": 42}):
        file = PdfFile(str(path), metadata={"CreationDate": None})
        try:
            figure.set_dpi(POINTS)
            file.newPage(width * scale, height * scale)
            file.width, file.height = width, height  # beyond which lines are cut, in the units of the figure
            file.output(scale, 0, 0, scale, 0, 0, Op.concat_matrix)
            pixels = 300 * scale  # of what is drawn as an image, in an inch of the figure
            renderer = MixedModeRenderer(figure, width, height, pixels, RendererPdf(file, pixels, height, width))
            figure.draw(renderer)  # type: ignore[arg-type]
            renderer.finalize()
            file.finalize()
        finally:
            figure.set_dpi(before)
            file.close()


def _tiff(figure: Figure, path: Path, scale: float, dpi: int) -> None:
    """Write the pixels, with the resolution that makes them as wide as in print."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    from fedlab.plots.picture import resolution

    with resolution(figure, dpi * scale):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).save(path, compression="tiff_lzw", dpi=(dpi, dpi))
