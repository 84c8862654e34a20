"""Laws of distances between surfaces: those of MONAI, translations, masks that are empty."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from fedlab.core.rng import stream
from fedlab.evaluation.surface_distances import hd95, surface_dice, surface_measures

IMAGES = {"2D": ((30, 40), (0.7, 1.3)), "3D": ((14, 18, 11), (0.8, 1.1, 2.5))}


def blobs(shape, seed):
    """A mask of a few boxes, some at the border, some cut by it."""
    rng = stream(seed, "blobs")
    mask = np.zeros(shape, bool)
    for _ in range(4):
        corner = [int(rng.integers(-2, edge - 2)) for edge in shape]
        mask[tuple(slice(max(0, start), start + int(rng.integers(2, 9))) for start in corner)] = True
    return mask


def half(shape, end):
    return np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) + np.zeros(shape) < end


@pytest.mark.parametrize("shape, spacing", IMAGES.values(), ids=IMAGES)
def test_they_are_those_of_monai_with_anisotropic_spacing(shape, spacing):
    for seed in range(6):
        predicted, truth = blobs(shape, seed), blobs(shape, seed + 100)
        given = [torch.from_numpy(mask)[None, None] for mask in (predicted, truth)]
        expected = float(compute_hausdorff_distance(*given, percentile=95, spacing=spacing))
        assert hd95(predicted, truth, spacing) == pytest.approx(expected, rel=1e-6)
        for tolerance in (0.5, 1.0, 3.0):
            expected = float(compute_surface_dice(*given, [tolerance], spacing=spacing))
            assert surface_dice(predicted, truth, spacing, tolerance) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape, spacing", IMAGES.values(), ids=IMAGES)
def test_a_half_space_moved_by_voxels_is_as_far_away_as_they_are_long(shape, spacing):
    for moved in range(4):
        masks = half(shape, 5), half(shape, 5 + moved)
        assert hd95(*masks, spacing) == pytest.approx(moved * spacing[0])
        assert hd95(*masks[::-1], spacing) == pytest.approx(moved * spacing[0])
        assert hd95(*masks) == moved
        assert surface_dice(*masks, spacing, moved * spacing[0]) == 1  # a distance of the tolerance is within it
        if moved:
            assert surface_dice(*masks, spacing, (moved - 0.1) * spacing[0]) < 1


def test_of_masks_that_are_empty_one_is_a_failure_and_two_are_undefined():
    empty, mask = np.zeros((30, 40), np.uint8), np.eye(30, 40, dtype=np.uint8) * 2
    for pair in ((empty, mask), (mask, empty)):
        assert surface_measures(*pair, spacing=(2.0, 0.5)) == (pytest.approx(math.hypot(60, 20)), 0.0)
    assert all(map(math.isnan, surface_measures(empty, empty)))
    assert surface_measures(mask, mask) == (0.0, 1.0)


def test_a_margin_around_the_structures_changes_nothing():
    predicted, truth = (blobs((12, 9), seed) for seed in (1, 2))
    wide = [np.pad(mask, ((30, 4), (0, 50))) for mask in (predicted, truth)]
    assert surface_measures(*wide, (2, 1), 1.5) == surface_measures(predicted, truth, (2, 1), 1.5)


def test_what_does_not_fit_is_refused():
    mask = np.ones((4, 5))
    with pytest.raises(ValueError, match=r"shapes \(4, 5\) and \(5, 4\)"):
        hd95(mask, mask.T)
    for spacing in ((1, 1, 1), (1,), (1, 0), -1.0, (1, math.nan)):
        with pytest.raises(ValueError, match="give 2 lengths in mm above 0"):
            hd95(mask, mask, spacing)
    with pytest.raises(ValueError, match="tolerance"):
        surface_dice(mask, mask, tolerance=-1)
