"""Remembered texts are drawn as matplotlib draws them, to the pixel."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from fedlab.plots.drawn_text import Canvas, Line


def pixels(canvas_of, kind, places):
    figure = Figure(figsize=(3, 2), dpi=113)
    ax = figure.add_axes((0, 0, 1, 1))
    for number, (x, y) in enumerate(places):
        look = {
            "rotation": 90 * (number % 2),
            "color": "#224466",
            "horizontalalignment": ["left", "center"][number % 2],
        }
        ax.add_artist(kind(x, y, "Site Äg\n12,345"[: None if number else 7], parse_math=False, **look))
    canvas = canvas_of(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def test_a_text_is_the_same_where_it_is_drawn_first_again_and_elsewhere():
    rng = np.random.default_rng(0)
    for places in (first := rng.uniform(0.2, 0.8, (4, 2)), first, rng.uniform(0.2, 0.8, (4, 2))):
        plain = pixels(FigureCanvasAgg, Text, places)
        assert plain.min() < 200
        np.testing.assert_array_equal(pixels(Canvas, Line, places), plain)
