"""Figures of cases show the cases of their table, in their place, and the intensities of their pixels."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from test_partition_plots import check_texts, texts

from fedlab import plots
from fedlab.data.cases import Cases
from fedlab.plots import style
from fedlab.plots.thumbnails import contours

ODD = ["$x$", "<script>alert(1)</script>", "Department of Radiology of a very long name, " + "x" * 60, "_a^b{ %s"]


def named(words: list[str], count: int, kind: str) -> list[str]:
    """Odd names first, then plain ones."""
    return [*words[:count], *(f"{kind} {k}" for k in range(count - len(words)))]


def made(sites: int, classes: int, shape: tuple[int, ...] = (1, 6, 6), masks: bool = False, n: int = 0) -> Cases:
    """Cases of odd names, whose pixels are the number of the case, in turn at each site and of each class."""
    n = n or max(3 * sites, 2 * classes)
    label, site = np.arange(n) % classes, np.arange(n) // 2 % sites
    table = pd.DataFrame({"case": [f"case {i}" for i in range(n)], "label": label, "age": np.arange(n)})
    table["site"] = [named(ODD, sites, "Hospital")[k] for k in site]
    images = (
        np.zeros((n, *shape), np.uint8) + (np.arange(n) % 250).astype(np.uint8)[(slice(None),) + (None,) * len(shape)]
    )
    card = {"name": "made", "task": "multiclass", "classes": named(ODD, classes, "Diagnosis")}
    drawn = None
    if masks:
        card |= {"task": "segmentation", "structures": ["background", *named(ODD, 3, "organ")]}
        drawn = np.zeros((n, *shape[1:]), np.uint8)
        drawn[:, 1:4, 2:5] = 2
    return Cases(images, table, card, drawn)


LAYOUTS = {
    **{f"{s} sites, {c} classes": (s, c, (1, 6, 6), False) for s, c in ((2, 2), (40, 30))},
    "colours and masks": (4, 4, (3, 6, 9), True),
    "two channels": (2, 3, (2, 9, 6), False),
    "volumes": (3, 2, (1, 6, 8, 5), True),
}
DRAWN = {
    "rows": lambda cases: cases.show(),
    "classes": lambda cases: cases.show(by="class"),
    "pages": lambda cases: cases.show(by="case", n=30),
    "intensity": plots.intensity,
    "duplicates": plots.duplicates,
}
SHOWN = {
    "40 sites, 30 classes": (),
    "two channels": ("classes",),
    "colours and masks": ("pages", "intensity"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_for_any_number_of_sites_classes_and_channels_and_odd_names(layout):
    sites, classes, shape, masks = LAYOUTS[layout]
    cases = made(sites, classes, shape, masks)
    for kind, draw in DRAWN.items():
        if kind not in ("rows", *SHOWN.get(layout, DRAWN)):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawing = draw(cases)
            check_texts(drawing.figure)
        width, height = drawing.figure.get_size_inches()
        assert width <= style.WIDEST and height <= style.TALLEST and len(drawing.table) + (kind == "duplicates")
        assert not any(text.get_parse_math() for text in texts(drawing.figure))
    drawing.figure.savefig(io.BytesIO(), format="svg")


def test_the_images_of_the_table_are_in_the_figure_row_by_row():
    cases = made(2, 2, n=40)
    figure, table = cases.show("age > 5", n=6, seed=3)
    pd.testing.assert_frame_equal(table, cases.show("age > 5", n=6, seed=3).table)
    assert not table.equals(cases.show("age > 5", n=6, seed=4).table)
    assert (table["age"] > 5).all() and table.groupby(["site", "class"]).size().tolist() == [3] * 4
    assert (table["class"] == [cases.classes[label] for label in table["label"]]).all()
    sizes = cases.table[cases.table["age"] > 5]["site"].value_counts()
    assert table["case"].is_unique and table["site"].map(sizes).is_monotonic_decreasing
    (image,) = figure.axes[0].images
    canvas = np.asarray(image.get_array())
    levels = pd.unique(canvas[canvas[..., 0] < 255][:, 0])  # from the left in each line of pixels, from the top
    np.testing.assert_array_equal(levels, [int(case.removeprefix("case ")) for case in table["case"]])


def test_pages_show_every_case_once_and_others_are_refused():
    cases = made(2, 2, n=40)
    for by, n, pages in (("case", 15, 3), ("site", 6, 4)):
        shown = pd.concat([cases.show(by=by, n=n, page=page).table for page in range(1, pages + 1)])
        assert sorted(shown["case"]) == sorted(cases.table["case"])
        with pytest.raises(ValueError, match=f"page={pages + 1}: there are pages 1 to {pages}"):
            cases.show(by=by, n=n, page=pages + 1)
    assert cases.show(by="case").table["case"].tolist() == cases.table["case"].tolist()[:24]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice": 5}, "slice=5: give a whole number from 0 to 4"),
        ({"channel": 1}, "channel=1: give a whole number from 0 to 0"),
        ({"by": "sit"}, "by='sit': did you mean 'site'"),
        ({"by": "age"}, "41 different numbers"),
        ({"where": "weight > 3"}, "there is no column 'weight'"),
        ({"rows": [99]}, "there are rows 0..40"),
        ({"n": 0}, "n=0"),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(2, 2, (1, 6, 6, 5), n=41).show(**options)


def test_a_slice_of_volumes_is_the_slice_that_is_asked_for():
    cases = made(2, 2, (1, 6, 6, 5), n=8)
    images = np.asarray(cases.images).copy()
    images[..., 3] = 77
    cases = Cases(images, cases.table, cases.card)
    drawn = {k: np.asarray(cases.show(slice=k).figure.axes[0].images[0].get_array())[..., 0] for k in (2, 3)}
    assert (drawn[3] == 77).any() and not (drawn[2] == 77).any()
    with pytest.raises(ValueError, match="these images are 2D"):
        made(2, 2).show(slice=1)


def test_contours_enclose_the_mask_also_at_the_edge():
    share = np.zeros((6, 8))
    share[0:3, 5:8] = 1
    (line,) = contours(share)
    x, y = line.T
    assert (x.min(), x.max(), y.min(), y.max()) == (5, 8, 0, 3)
    area = abs(np.sum(x[:-1] * np.diff(y) - y[:-1] * np.diff(x))) / 2
    assert 8 < area <= 9  # corners are cut
    figure, table = made(2, 2, (1, 6, 6), True).show()
    lines = [len(one.get_segments()) for one in figure.axes[0].collections if hasattr(one, "get_segments")]
    assert lines[0] == len(table) == 6  # one structure of each image


def test_intensities_are_those_of_the_pixels_of_each_row():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 1, 8, 8), np.uint8)
    images[3:] = images[3:] // 2
    table = pd.DataFrame({"case": list("abcdef"), "label": [0, 1] * 3, "site": ["A"] * 3 + ["B"] * 3})
    cases = Cases(images, table, {"name": "x", "task": "binary", "classes": ["no", "yes"]})
    for held in (images, (images / np.float32(255)).astype(np.float16)):
        found = plots.intensity(Cases(held, table, cases.card)).table.set_index("site")
        for site, rows in (("A", images[:3]), ("B", images[3:])):
            row = found.loc[site]
            assert (row["cases"], row["measured"]) == (3, 3)
            np.testing.assert_allclose(row["mean"], rows.mean() / 255, atol=1e-3)
            np.testing.assert_allclose(row["median"], np.median(rows) / 255, atol=0.01)
            np.testing.assert_allclose([row["at_zero"], row["at_full"]], [(rows == 0).mean(), (rows == 255).mean()])


def test_identical_images_stand_side_by_side_and_say_in_what_they_differ():
    cases = made(2, 2, n=6)
    images = np.asarray(cases.images).copy()
    images[3], images[5] = images[0], images[1]
    twins = Cases(images, cases.table, cases.card)
    figure, table = plots.duplicates(twins)
    assert table["case"].tolist() == ["case 0", "case 3", "case 1", "case 5"]
    assert table["differ"].tolist() == ["label, site"] * 2 + [""] * 2 and table["group"].tolist() == [1, 1, 2, 2]
    words = [text.get_text() for text in texts(figure)]
    assert "labels differ" in words and "copies" in words
    assert "4 of 6 images are identical to another one, in 2 groups: 1 with different labels" in figure.axes[
        0
    ].get_title(loc="left").replace("\n", " ")
    assert plots.duplicates(twins, "age == 5").table["case"].tolist() == ["case 1", "case 5"]
    assert plots.duplicates(cases).table.empty
