"""Readers move the border of a segmentation mask by a share of the structure's own thickness; `shift` measures it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedlab
from fedlab.data.cases import Cases
from fedlab.heterogeneity.annotation import BORDER, Annotator
from fedlab.heterogeneity.borders import move_borders
from fedlab.heterogeneity.shift.null_intervals import HEADLINES

SHARES = st.floats(0.05, BORDER).flatmap(lambda share: st.sampled_from([share, -share]))


def bar(width: int, size: int = 96) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[:, size // 2 : size // 2 + width] = 1
    return mask


def disc(radius: float, size: int = 96) -> np.ndarray:
    at = np.arange(size) - (size - 1) / 2
    return (at[:, None] ** 2 + at**2 <= radius**2).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


def moved(mask: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    return move_borders(mask, share, np.random.default_rng(seed))


@given(SHARES, st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_area_changes_by_twice_the_share_whatever_the_shape(share, seed):
    for mask in (bar(1), bar(2), bar(5), bar(30), disc(8), disc(30)):
        drawn = moved(mask, share, seed)
        assert abs(int(drawn.sum()) - mask.sum() * (1 + 2 * share)) <= 1
        assert (drawn >= mask).all() if share > 0 else (drawn <= mask).all()
        assert dice(drawn, mask) == pytest.approx(
            1 / (1 + share) if share > 0 else (1 + 2 * share) / (1 + share), abs=0.01
        )


def test_thin_and_thick_parts_of_one_structure_change_alike():
    """A vessel tree: a trunk of eight pixels that goes over into a twig of two."""
    tree = np.zeros((128, 128), np.uint8)
    tree[:64, 60:68] = tree[64:, 63:65] = 1
    for share in (-0.2, 0.2):
        drawn = moved(tree, share)
        for rows in (slice(0, 56), slice(72, 128)):
            assert drawn[rows].sum() / tree[rows].sum() == pytest.approx(1 + 2 * share, abs=0.06)


@pytest.mark.parametrize("share", [-0.2, 0.2])
def test_a_border_moves_twice_as_far_in_an_image_of_twice_the_size(share):
    small, large = disc(16, 64), disc(32, 128)
    radii = [np.sqrt(moved(mask, share).sum() / np.pi) - np.sqrt(mask.sum() / np.pi) for mask in (small, large)]
    assert radii[1] == pytest.approx(2 * radii[0], rel=0.02) and abs(radii[0]) > 2
    far = np.hypot(*(np.argwhere(moved(large, share) != large) - 63.5).T)  # no pixel far from the border changes
    assert np.abs(far - 32).max() <= abs(radii[1]) + 2


def test_structures_that_touch_stay_where_the_lower_one_ends():
    cup = disc(20) + disc(8)  # a disc of value 1 around one of value 2
    grown, shrunk = moved(cup, 0.2), moved(cup, -0.2)
    assert (grown == 2).sum() > (cup == 2).sum() and (grown > 0).sum() > (cup > 0).sum()
    assert (grown[cup == 2] == 2).all() and (shrunk[cup == 2] > 0).all()  # what the inner one loses, the outer one gets


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (8, 8, 1), (6, 6, 6)])
@pytest.mark.parametrize("fill", ["empty", "full", "one pixel"])
def test_masks_without_a_border_or_a_structure_stay(shape, fill):
    mask = np.full(shape, fill == "full", np.uint8)
    if fill == "one pixel" and mask.size > 1:
        mask[tuple(0 for _ in shape)] = 1
    for share in (-BORDER, BORDER):
        drawn = moved(mask, share)
        assert drawn.shape == shape and drawn.dtype == np.uint8 and abs(int(drawn.sum()) - int(mask.sum())) <= 1
        assert fill == "one pixel" or (drawn == mask).all()


def segmented(n: int = 40, pad: int = 0) -> Cases:
    """A vessel of one pixel and an organ in each image, with a background as wide as desired."""
    rng, size = np.random.default_rng(0), 24 + 2 * pad
    masks = np.zeros((n, size, size), np.uint8)
    for mask in masks:
        x, y = rng.integers(2, 6), rng.integers(10, 13)
        mask[pad + 2 : pad + 22, pad + x] = 1
        mask[pad + 6 : pad + 16, pad + y : pad + y + 9] = 2
    images = np.random.default_rng(1).integers(0, 255, (n, 1, size, size)).astype(np.uint8)
    table = pd.DataFrame({"case": [f"c{i}" for i in range(n)], "label": 0, "split": ["train", "test"] * (n // 2)})
    card = {"name": "eyes", "task": "segmentation", "classes": ["eye"], "structures": ["none", "vessel", "organ"]}
    return Cases(images, table, card, masks)


def annotation(part: fedlab.Partition, **form: bool) -> pd.DataFrame:
    found = part.shift(**form)
    return found[found["axis"] == "annotation"].set_index("measure")


def test_a_mask_is_drawn_alike_in_any_batch_and_only_for_training():
    cases = segmented()
    part = fedlab.partition(cases, 2, annotation=1.0)
    for site in part.sites:
        train, test = part.index(site, "train"), part.index(site, "test")
        drawn = part.training_masks(train, site)
        assert (drawn != cases.masks[train]).any() and (part.training_masks(test, site) == cases.masks[test]).all()
        assert (part.training_masks(train[::-1], site) == drawn[::-1]).all()


def test_shift_measures_how_readers_of_masks_differ():
    cases, found = segmented(24), []
    for dose in (0.2, 0.6, 1.0):
        rows = annotation(fedlab.partition(cases, 3, annotation=dose))
        assert list(rows.index) == [HEADLINES["annotation"], "1 - Dice"]
        assert (rows["value"] > rows["null_high"]).all() and (rows["low"] <= rows["value"]).all()
        assert (rows["value"] <= rows["high"]).all()
        found.append(rows["value"])
    assert (found[0] < found[1]).all() and (found[1] < found[2]).all()
    amounts = [abs(reader.amount) for reader in fedlab.partition(cases, 3, annotation=1.0).annotators.values()]
    assert sorted(amounts) == [0.0, BORDER, BORDER]
    assert found[2]["1 - Dice"] == pytest.approx((0 + (1 - 1 / 1.25) + (1 - 0.5 / 0.75)) / 3, abs=0.03)


def test_the_measure_does_not_depend_on_the_width_of_the_background():
    near, wide = (annotation(fedlab.partition(segmented(pad=pad), 2, annotation=1.0))["value"] for pad in (0, 12))
    assert wide["1 - Dice"] == pytest.approx(near["1 - Dice"], abs=0.02)
    assert wide["I(S;Y'|Y)"] == pytest.approx(near["I(S;Y'|Y)"], rel=0.05)


def test_without_a_dose_masks_are_measured_as_true_by_the_dose_response():
    found = fedlab.dose_response(segmented(24), ["annotation"], doses=[0.0, 1.0], seeds=[0], sites=2)
    rows = found[found["measured"] == "annotation"].set_index("dose")
    assert rows["value"][0.0] == 0 and rows["value"][1.0] > rows["null_high"][1.0]


def test_readers_of_an_earlier_version_who_counted_pixels_are_refused():
    with pytest.raises(ValueError, match=r"move borders by 3 of the thickness.*make it again"):
        Annotator("Site A", 0, "outline", 3.0).annotate_masks(segmented(2).masks)
