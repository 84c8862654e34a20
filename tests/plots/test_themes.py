"""Method colours differ for readers with a colour vision deficiency, and the dark theme keeps texts legible."""

from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from test_partition_plots import comparison, matrix

from fedlab import plots
from fedlab.plots import style
from fedlab.plots.themes import LAB, LMS, linear, turned

# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
VISION = {
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
APART = 8.0  # least distance in OKLab x 100 of two methods of a figure, simulated; 2 is just noticeable


@pytest.mark.parametrize("vision", VISION)
def test_the_colours_of_all_methods_are_told_apart_by(vision):
    colors = linear(np.array([to_rgb(color) for color in (*style.HUES, style.GREY, style.BLACK)]))
    seen = (LAB @ np.cbrt(LMS @ np.clip(colors @ np.array(VISION[vision]).T, 0, 1).T)).T
    assert min(100 * np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= APART


def contrast(a, b) -> float:
    """The WCAG contrast ratio of two colours."""
    low, high = sorted(style.luminance(np.array(to_rgb(color))) for color in (a, b))
    return (high + 0.05) / (low + 0.05)


def test_a_dark_copy_keeps_every_text_legible_and_the_figure_as_it_was():
    figure = plots.local_vs_global(comparison(3)).figure
    before = figure.get_facecolor()
    copy = plots.dark(figure)
    page, texts = copy.get_facecolor(), [text for text in copy.findobj(Text) if text.get_text().strip()]
    assert style.luminance(np.array(page[:3])) < 0.02 and figure.get_facecolor() == before
    assert texts and min(contrast(text.get_color(), page[:3]) for text in texts) > 4.0
    assert [text.get_text() for text in texts] == [t.get_text() for t in figure.findobj(Text) if t.get_text().strip()]


def test_cells_that_stand_for_numbers_keep_their_colours():
    figure = plots.transfer(matrix(3)).figure
    cells = [patch.get_facecolor() for patch in figure.axes[0].patches if patch.get_gid() == "data"]
    assert len(set(cells)) > 3
    dark = [patch.get_facecolor() for patch in plots.dark(figure).axes[0].patches if patch.get_gid() == "data"]
    assert dark == cells


def page(figure) -> int:
    """The grey level, 0 to 255, of the upper left corner of what a notebook shows."""
    return Image.open(BytesIO(figure._repr_png_()[0])).convert("L").getpixel((0, 0))


def test_the_theme_holds_for_figures_that_are_shown():
    figure = plots.transfer(matrix(2)).figure
    try:
        plots.theme("dark")
        assert page(figure) < 40
    finally:
        plots.theme("light")
    assert page(figure) == 255
    with pytest.raises(ValueError, match="theme='sepia': choose one of 'light', 'dark'"):
        plots.theme("sepia")


def test_turning_keeps_hues_and_turns_black_and_white():
    black, white, blue = turned(np.array([[0, 0, 0, 1], [1, 1, 1, 0.5], [0, 0.447, 0.698, 1]]))
    assert black[:3].min() > 0.95 and white[:3].max() < 0.1 and white[3] == 0.5 and blue[:3].argmax() == 2
