"""Structures that may overlap: each is one binary task, stored as one bit of a mask."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.losses import DiceLoss

import fedlab
from fedlab.data.cases import Cases
from fedlab.data.structures import region
from fedlab.heterogeneity.borders import move_borders, move_overlapping_borders
from fedlab.learning import mask_metrics
from fedlab.learning.augmentation import Augmentation, apply, apply_to_masks, to_tensors
from fedlab.learning.losses import Loss
from fedlab.learning.tasks import task_of

LOSSES = ["dice", "dice_ce", "cross_entropy", "focal", "tversky(0.3, 0.7)"]
NESTED = fedlab.load("phantoms(cases=60, size=24, task='segmentation', overlap=True)")


def sample(structures=3, cases=4, space=(5, 6)):
    """(probabilities, masks): random, so that any structures overlap."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2**structures, (cases, *space)).astype(np.uint8)
    return torch.from_numpy(rng.random((cases, structures, *space))), torch.from_numpy(masks)


def task(structures=3, **card):
    """The task of a dataset with so many structures but the background."""
    names = ["background", *(f"structure {k}" for k in range(1, structures + 1))]
    given = {"name": "x", "task": "segmentation", "classes": ["any"], "structures": names, "overlap": True, **card}
    table = pd.DataFrame({"case": ["a"], "label": 0})
    return task_of(Cases(np.zeros((1, 1, 4, 4), np.uint8), table, given, np.zeros((1, 4, 4), np.uint8)))


def nested(masks):
    """Whether the second structure lies inside the first."""
    return not ((masks & 2 > 0) & (masks & 1 == 0)).any()


@pytest.mark.parametrize("name", [name for name in LOSSES if not Loss(name).numbers_only])
def test_a_loss_is_the_mean_over_structures_of_the_binary_one(name):
    probabilities, masks = sample()
    logits = probabilities.logit()
    each = [Loss(name)(logits[:, k : k + 1], (masks >> k) & 1, reduction="none") for k in range(3)]
    found = Loss(name, overlap=True)(logits, masks, reduction="none")
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    torch.testing.assert_close(Loss(name, overlap=True)(logits[:, :1], masks & 1, reduction="none"), each[0])


def test_dice_is_that_of_monai_and_weights_are_of_structures():
    probabilities, masks = sample()
    logits, planes = probabilities.logit(), torch.stack([(masks >> k) & 1 for k in range(3)], 1)
    each = DiceLoss(sigmoid=True, reduction="none")(logits, planes).flatten(1).double()
    found = Loss("dice", (1.0, 2.0, 0.0), overlap=True)(logits, masks, reduction="none")
    torch.testing.assert_close(found, (each[:, 0] + 2 * each[:, 1]) / 3, rtol=0, atol=1e-6)
    single = Loss("cross_entropy", (2.0,), overlap=True)(logits[:, :1], masks & 1)
    torch.testing.assert_close(single, 2 * Loss("cross_entropy", overlap=True)(logits[:, :1], masks & 1))


def test_counts_conserve_voxels_and_are_those_of_thresholded_probabilities():
    probabilities, masks = sample()
    stored = task().stored(probabilities, masks).numpy()
    found = mask_metrics.overlap(stored)
    for k in range(3):
        true, called = (masks >> k & 1 > 0).numpy(), (probabilities[:, k] > 0.5).numpy()
        assert np.array_equal(found.tp[:, k] + found.fn[:, k], true.sum((1, 2)))
        assert np.array_equal(found.tp[:, k] + found.fp[:, k], called.sum((1, 2)))
        assert np.array_equal(found.tp[:, k], (true & called).sum((1, 2)))


def test_a_permutation_of_structures_permutes_what_is_stored():
    probabilities, masks = sample()
    order = [2, 0, 1]
    moved = torch.stack([(masks >> old & 1) << new for new, old in enumerate(order)]).sum(0).to(torch.uint8)
    before = task().stored(probabilities, masks).unflatten(1, (3, -1))
    after = task().stored(probabilities[:, order], moved).unflatten(1, (3, -1))
    assert torch.equal(after.nan_to_num(-1), before[:, order].nan_to_num(-1))


def test_one_structure_is_that_of_masks_whose_structures_exclude_one_another():
    probabilities, masks = sample(structures=1)
    both = torch.cat([1 - probabilities, probabilities], 1)
    ours, theirs = task(1), task(1, overlap=False)
    assert (ours.outputs, theirs.outputs) == (1, 2) and ours.columns == theirs.columns
    assert torch.equal(ours.stored(probabilities, masks).nan_to_num(-1), theirs.stored(both, masks).nan_to_num(-1))


@pytest.mark.parametrize("space", [(6, 8), (4, 6, 8)])
def test_masks_move_with_their_images_and_no_value_is_new(space):
    values = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 3, 200], (50, *space)).astype(np.uint8))
    draw = Augmentation("flip + rotate(40) + shift(0.2) + light(0.3)").draw((0, "Site A", 1), 50, space)
    change = to_tensors([draw], torch.zeros(1, dtype=torch.float64))
    moved = apply_to_masks(values, change)
    assert moved.dtype == torch.uint8 and moved.shape == values.shape and not torch.equal(moved, values)
    assert set(moved.unique().tolist()) == {0, 1, 3, 200}
    turned = {name: change[name] for name in ("flips",)}
    images = apply(values[:, None].double(), turned)[:, 0]
    assert torch.equal(apply_to_masks(values, turned).double(), images)


def test_a_mask_follows_its_image_where_interpolation_does_not_blur():
    """Far from borders a smooth image and its mask agree after any motion."""
    at = torch.linspace(-1, 1, 40, dtype=torch.float64)
    image = (0.6 - (at[:, None] ** 2 + (at - 0.2) ** 2).sqrt()).expand(20, 1, 40, 40)
    draw = Augmentation("flip + rotate(30) + shift(0.1) + zoom(0.2)").draw((0, "Site A", 1), 20, (40, 40))
    change = to_tensors([draw], image)
    moved, mask = apply(image, change)[:, 0], apply_to_masks((image[:, 0] > 0).to(torch.uint8), change)
    sure = moved.abs() > 0.08  # more than a pixel from the border
    assert torch.equal(mask[sure] == 1, moved[sure] > 0) and sure.double().mean() > 0.5


def test_nested_structures_stay_nested():
    """Under augmentation, readers and scanners."""
    assert nested(NESTED.masks) and (NESTED.masks & 2 > 0).any()
    draw = Augmentation("flip + rotate(40) + zoom(0.2)").draw((0, "Site A", 1), 60, (24, 24))
    assert nested(apply_to_masks(torch.from_numpy(NESTED.masks), to_tensors([draw], torch.zeros(1))).numpy())
    part = fedlab.partition(NESTED, sites=2, annotation=1.0, acquisition=1.0)
    for site in part.sites:
        rows = part.index(site, "train")
        drawn, true = part.training_masks(rows, site), NESTED.masks[rows]
        assert nested(drawn)
        for bit in (1, 2):  # each is moved, in the same direction
            change = int((drawn & bit > 0).sum()) - int((true & bit > 0).sum())
            assert change * np.sign(part.annotators[site].amount) > 0
    table = part.shift(brief=True).query("axis == 'annotation'")
    assert (table["value"] > table["null_high"]).all()


def test_readers_move_one_structure_as_one_that_excludes_others():
    mask = NESTED.masks[NESTED.labels == 1][0] & 1
    for share in (0.2, -0.2):
        one, other = (move(mask, share, np.random.default_rng(0)) for move in (move_borders, move_overlapping_borders))
        assert np.array_equal(one, other) and not np.array_equal(one, mask)


def test_structures_are_another_dataset_if_they_overlap():
    exclusive = {**NESTED.card, "overlap": False, "structures": ["background", "a", "b", "c"]}
    plain = Cases(NESTED.images, NESTED.table, exclusive, NESTED.masks)
    assert plain.fingerprint != NESTED.fingerprint
    without = {key: value for key, value in exclusive.items() if key != "overlap"}  # as older folders are
    assert Cases(NESTED.images, NESTED.table, without, NESTED.masks).fingerprint == plain.fingerprint
    assert np.array_equal(region(NESTED.masks, 3, overlap=False), region(NESTED.masks, 2, overlap=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": "yes"}, r"overlap='yes' and 2 structures.*write true or false"),
        ({"structures": [str(k) for k in range(10)]}, r"overlap=True and 9 structures.*at most 8"),
        ({"structures": ["background", "nodule"]}, r"holds the value 3.*one bit, 0..1 in all"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Cases(NESTED.images, NESTED.table, {**NESTED.card, **changes}, NESTED.masks)
    with pytest.raises(ValueError, match="choose task='segmentation'"):
        fedlab.load("phantoms(cases=20, overlap=True)")
