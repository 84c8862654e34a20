"""Laws of patches: a sliding window is that of MONAI, crops depend on their case alone and show structures."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from scipy.stats import chisquare

from fedlab.learning.patches import crop, crop_starts, sliding_window

IMAGES = {"2D": ((19, 30), (8, 12)), "3D": ((10, 9, 13), (4, 6, 5)), "smaller than the window": ((7, 30), (12, 8))}
KEY = (3, "Site A", 7)


def network(space, outputs=2):
    kind = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[len(space)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = kind(1, outputs, 3, padding=1).double()
    return lambda x: net(x).softmax(1).detach()  # borders of patches make a difference


def images(space, cases=2):
    return torch.rand(cases, 1, *space, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.0])
@pytest.mark.parametrize("space, window", IMAGES.values(), ids=IMAGES)
def test_a_sliding_window_is_that_of_monai(space, window, overlap):
    x, predict = images(space), network(space)
    expected = sliding_window_inference(x, window, 4, predict, overlap=overlap, mode="gaussian", sigma_scale=0.125)
    for batch in (1, 4):
        torch.testing.assert_close(sliding_window(predict, x, window, overlap, batch), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("space", [(8, 10), (4, 6, 5)])
def test_one_window_that_covers_the_image_is_the_plain_prediction(space):
    x, predict = images(space), network(space)
    torch.testing.assert_close(sliding_window(predict, x, space), predict(x))


def test_a_crop_depends_on_its_seed_site_step_and_case_alone():
    masks = np.zeros((3, 20, 30), np.uint8)
    masks[:2, 4:9, 20:] = 1
    found = crop_starts(masks, (8, 8), KEY, [4, 5, 6])
    assert np.array_equal(crop_starts(masks[::-1], (8, 8), KEY, [6, 5, 4])[::-1], found)
    assert np.array_equal(crop_starts(masks[1:2], (8, 8), KEY, [5])[0], found[1])
    for key in ((4, "Site A", 7), (3, "Site B", 7), (3, "Site A", 8)):
        assert not np.array_equal(crop_starts(masks, (8, 8), key, [4, 5, 6]), found)


@pytest.mark.parametrize("window", [(8, 8), (7, 5)])
def test_crops_of_structures_hold_one_and_structures_are_equally_likely(window):
    masks = np.zeros((400, 32, 32), np.uint8)
    masks[:, 4:20, 2:10] = 1  # large
    masks[:, 30, 30] = 2  # at the border
    starts = crop_starts(masks, window, KEY, range(400), foreground=1.0)
    held = crop(torch.from_numpy(masks), starts, window).flatten(1).amax(1).numpy()
    assert (held > 0).all()
    assert chisquare(np.bincount(held, minlength=3)[1:]).pvalue > 1e-3


def test_other_crops_are_anywhere_and_the_share_of_structures_is_as_asked():
    masks = np.zeros((2000, 12, 9), np.uint8)
    starts = crop_starts(masks, (8, 8), KEY, range(2000))  # empty masks
    assert chisquare(np.unique(starts, axis=0, return_counts=True)[1]).pvalue > 1e-3
    assert len(np.unique(starts, axis=0)) == 5 * 2
    wide = np.zeros((2000, 400), np.uint8)[:, None] * np.ones((1, 8, 1), np.uint8)
    wide[:, 4, 390] = 1
    held = crop(torch.from_numpy(wide), crop_starts(wide, (8, 4), KEY, range(2000), foreground=0.3), (8, 4))
    assert abs(float((held > 0).flatten(1).any(1).float().mean()) - 0.31) < 0.04


def test_crops_are_the_voxels_from_their_start():
    x = images((9, 10))
    starts = np.array([[0, 3], [5, 6]])
    found = crop(x, starts, (4, 4))
    assert torch.equal(found[0], x[0, :, 0:4, 3:7]) and torch.equal(found[1], x[1, :, 5:9, 6:10])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a crop of 9 x 4 does not fit into images of 8 x 8"):
        crop_starts(np.zeros((1, 8, 8), np.uint8), (9, 4), KEY, [0])
    with pytest.raises(ValueError, match="from 0 to below 1"):
        sliding_window(network((8, 8)), images((8, 8)), (4, 4), overlap=1.0)
    with pytest.raises(ValueError, match="one size an axis"):
        sliding_window(network((8, 8)), images((8, 8)), (4,))
