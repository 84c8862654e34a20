"""Images of unequal size: all that reads whole images or masks sees those of the case, never what is beyond them."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from unequal_worlds import padded, unequal
from worlds import masked_cases

import fedlab
from fedlab.data.cases import Cases
from fedlab.data.class_choice import only_classes
from fedlab.data.thumbnails import middle
from fedlab.partitioning import validation

DATA = unequal(24, site=["North", "South"] * 12)
LOOSE = padded(DATA)


def pixels(drawing):
    """All bitmaps of a figure."""
    return [np.asarray(image.get_array()) for ax in drawing.figure.axes for image in ax.images]


@cache
def partition(cases):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few cases
        return fedlab.partition(cases, sites=2, acquisition=0.6, annotation=1.0, population=0.5)


READERS = {
    "fingerprint": lambda cases: [cases.fingerprint],
    "hashes": lambda cases: [cases.pixel_hashes],
    "summary": lambda cases: [repr(cases), cases._repr_html_()],
    "audit": lambda cases: [cases.audit().to_string(), str(cases.duplicates())],
    "pictures": lambda cases: pixels(cases.show(n=4)),
    "intensities": lambda cases: [fedlab.plots.intensity(cases, by="site").table.to_numpy(object)],
    "samples": lambda cases: pixels(fedlab.plots.samples(cases, n=4)),
    "acquired": lambda cases: [part.pixels(part.rows, "Site A") for part in [partition(cases)]],
    "drawn masks": lambda cases: [part.training_masks(part.rows, "Site A") for part in [partition(cases)]],
    "shift": lambda cases: [partition(cases).shift(brief=True).to_numpy(object)],
    "overview": lambda cases: [partition(cases)._repr_html_()],
    "samples of sites": lambda cases: pixels(fedlab.plots.samples(partition(cases), n=2)),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_what_is_beyond_the_extent_is_never_read(reader):
    for tight, loose in zip(reader(DATA), reader(LOOSE), strict=True):
        np.testing.assert_array_equal(tight, loose)


def test_scanners_and_readers_see_the_case_alone():
    part = partition(DATA)
    for site in part.sites:
        row = part.index(site, "train")[0]
        at = tuple(map(slice, DATA.extents[row]))
        shown = part.covariate.show(DATA.image(row)[None], part._of_case("covariate")[[row]])
        shown = part.scanners[site].apply(shown, [DATA.table["case"][row]], np.zeros(1))
        drawn = part.annotators[site].annotate_masks(DATA.mask(row)[None])
        assert np.array_equal(part.pixels([row], site)[0, 0][at], shown[0, 0])
        assert np.array_equal(part.training_masks([row], site)[0][at], drawn[0])


def test_the_array_is_as_large_as_the_largest_edges_and_a_folder_keeps_it(tmp_path):
    assert LOOSE.shape == DATA.shape == (1, 14, 12)
    back = fedlab.load(LOOSE.save(tmp_path / "loose"))
    assert back.fingerprint == DATA.fingerprint and np.array_equal(back.extents, DATA.extents)
    few = back.take([3, 1])
    assert few.shape == (1, *DATA.extents[[3, 1]].max(axis=0)) and np.array_equal(few.mask(0), DATA.mask(3))
    alone = back.take([2])
    assert alone.extents is None and np.array_equal(alone.images[0], DATA.image(2))
    with (tmp_path / "loose" / "extents.npy").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\x02")
    with pytest.raises(ValueError, match=r"extents\.npy"):
        fedlab.load(tmp_path / "loose")


def test_a_target_and_a_choice_of_classes_keep_the_extents():
    table, card = DATA.table.assign(size=np.arange(24.0), label=np.arange(24) % 3), {**DATA.card, "task": "multiclass"}
    data = Cases(DATA.images, table, {**card, "classes": ["a", "b", "c"]}, extents=DATA.extents)
    assert np.array_equal(data.with_target("size").extents, DATA.extents)
    some = only_classes(data, ["a", "c"])
    rows = np.flatnonzero(data.labels != 1)
    assert np.array_equal(some.extents, DATA.extents[rows]) and some.labels.tolist() == [0, 1] * 8
    assert all(np.array_equal(some.image(place), DATA.image(row)) for place, row in enumerate(rows))


def test_equal_images_are_duplicates_whatever_is_beyond_them_and_other_sizes_are_not():
    images, extents = LOOSE.images.copy(), DATA.extents.copy()
    for row, extent in {4: (8, 6), 5: (8, 6), 6: (6, 8)}.items():
        images[row, 0, : extent[0], : extent[1]], extents[row] = 7, extent
    cases = Cases(images, DATA.table, DATA.card, np.zeros_like(LOOSE.masks), extents)
    assert [group.rows.tolist() for group in cases.duplicates()] == [[4, 5]]


def test_intensities_and_frames_are_those_of_the_case():
    images = np.full((2, 1, 8, 8, 6), 255, np.uint8)
    images[0, :, :4, :6, :2], images[1] = 51, 102
    table = pd.DataFrame({"case": ["small", "large"], "label": [0, 1]})
    card = {"name": "two", "task": "binary", "classes": ["a", "b"]}
    cases = Cases(images, table, card, None, np.array([[4, 6, 2], [8, 8, 6]]))
    assert fedlab.plots.intensity(cases, by="class").table["mean"].round(6).tolist() == [0.2, 0.4]
    frame = cases.framed(0)
    assert frame.sum() == 51 * 48 and (frame[0, 2:6, 1:7, 2:4] == 51).all()
    assert frame[..., middle(cases.shape)].any()  # the middle slice is that of the case
    assert repr(cases).startswith("Cases of 'two': 2 grey volumes of 4 x 6 x 2 to 8 x 8 x 6")


def test_values_beyond_the_extent_need_not_be_valid_and_wrong_extents_are_refused():
    whole = masked_cases(4, (1, 8, 8))
    extents = np.array([[8, 8], [4, 4], [4, 8], [8, 4]])
    images, masks = (whole.images / 255).astype(np.float16), whole.masks.copy()
    images[1, :, 5:], masks[1, 5:] = np.nan, 99
    cases = Cases(images, whole.table, whole.card, masks, extents)
    part = fedlab.Partition.from_sites(cases, whole.table[["case"]].assign(site="North", split="train"))
    validation.check(part)
    for wrong, message in [
        (extents[:3], r"extents have shape \(3, 2\): wanted \(4, 2\)"),
        (extents.astype(float), "extents are float64: give an array of whole numbers"),
        (np.array([[8, 8], [4, 9], [4, 8], [8, 4]]), "case 'case-0001' has the extent 4 x 9 in an array of 8 x 8"),
        (np.array([[8, 8], [4, 0], [4, 8], [8, 4]]), "case 'case-0001' has the extent 4 x 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Cases(images, whole.table, whole.card, masks, wrong)
    masks[1, 3, 3] = 99
    with pytest.raises(ValueError, match="mask of case 'case-0001' holds the value 99"):
        Cases(images, whole.table, whole.card, masks, extents)
