"""A canvas that keeps letters draws what matplotlib's own canvas draws, in any order of figures."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fedlab.plots import lettering, picture, style

TEXTS = ["cases", "0.123 bit", "gÅjy", " ", "two\nlines", "$x^2$", "−0.4 to 1×"]


def figure(seed: int, **look) -> Figure:
    """Texts at random places, in several sizes, colours and directions."""
    rng, drawn = np.random.default_rng(seed), Figure(figsize=(3, 2.5))
    for k, text in enumerate(TEXTS * 2):
        given = {"fontsize": 8 + k % 3, "color": ("#222222", "#0072B2")[k % 2], "rotation": 90 * (k == 3), **look}
        drawn.text(*rng.random(2), text, ha=("left", "center")[k % 2], fontweight=("normal", "bold")[k % 2], **given)
    return drawn


def pixels(drawn: Figure, canvas: type[FigureCanvasAgg]) -> np.ndarray:
    there = canvas(drawn)
    there.draw()
    return np.asarray(there.buffer_rgba()).astype(int)


@pytest.mark.parametrize("look", [{}, {"alpha": 0.5}, {"antialiased": False}, {"fontfamily": "serif"}])
def test_letters_are_those_of_agg_when_they_are_new_and_when_they_are_kept(look):
    for seed in (0, 1, 0):
        assert (
            abs(pixels(figure(seed, **look), lettering.Canvas) - pixels(figure(seed, **look), FigureCanvasAgg)).max()
            <= 2  # levels of 255: it blends in another order
        )


def test_letters_are_drawn_once_for_all_places_at_the_same_fraction_of_a_pixel(monkeypatch):
    drawn, counted = Figure(figsize=(3, 2)), []
    make = lettering.Lettering._drawn
    monkeypatch.setattr(lettering.Lettering, "_drawn", lambda *given: counted.append(given[4]) or make(*given))
    for row in range(5):
        drawn.text(0.1, 0.1 + 0.1 * row, "same", fontsize=8.37)
    pixels(drawn, lettering.Canvas)
    assert counted == ["same"]
    pixels(drawn, lettering.Canvas)
    assert counted == ["same"]


def test_other_fonts_are_other_letters():
    found = []
    for family in ("sans-serif", "serif", "sans-serif"):
        with rc_context({"font.family": family}):
            found.append(pixels(figure(0), lettering.Canvas))
    assert (found[0] == found[2]).all() and (found[0] != found[1]).any()


def test_the_number_of_kept_texts_is_limited(monkeypatch):
    monkeypatch.setattr(lettering, "MOST", 3)
    renderer = lettering.Lettering(200, 100, 72)
    drawn = figure(0)
    drawn.draw(renderer)
    assert len(renderer.stamps) == 3


@pytest.mark.parametrize("face", ["white", "none"])
def test_the_fast_picture_has_the_pixels_of_the_small_one(face):
    drawn = figure(0)
    drawn.set_facecolor(face)
    with style.drawing():
        fast, small = (Image.open(BytesIO(picture.png(drawn, dpi=90, effort=effort)[0])) for effort in (1, 6))
    assert fast.mode == small.mode == ("RGB" if face == "white" else "RGBA")
    np.testing.assert_array_equal(np.asarray(fast), np.asarray(small))
