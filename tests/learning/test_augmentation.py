"""Augmentation does what its text says, and the same in every execution mode."""

import numpy as np
import pytest
import torch
from worlds import CNN, cases, ends, federation, last, partition, same

import fedlab
from fedlab.learning.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    Change,
    _normal,
    apply,
    apply_to_masks,
    parse,
    to_tensors,
)

COUNT = 400
KEY = (0, "Site A", 3)
GIVEN = "flip + rotate(10) + shift(0.1) + zoom(0.1) + light(0.1)"


def images(*shape, count=COUNT, seed=0):
    found = torch.rand(count, 2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found.contiguous(memory_format=torch.channels_last if len(shape) == 2 else torch.channels_last_3d)


def changed(before, *changes):
    whole = Augmentation("none")
    whole.each = [lambda rng, count, shape, change=change: change for change in changes]
    return apply(before, to_tensors([whole.draw(KEY, len(before), tuple(before.shape[2:]))], before))


def still(d, count=COUNT):
    return np.tile(np.eye(d, d + 1), (count, 1, 1))


@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 8)])
def test_nothing_is_changed_by_what_changes_nothing(shape):
    before, d = images(*shape), len(shape)
    neutral = Change(np.zeros((COUNT, d), bool), still(d), np.ones(COUNT), np.zeros(COUNT))
    assert float((changed(before, neutral) - before).abs().max()) < 1e-12
    for text in ("shift(0)", "rotate(0)", "zoom(0)", "light(0)"):
        found = apply(before, to_tensors([Augmentation(text).draw(KEY, COUNT, shape)], before))
        assert float((found - before).abs().max()) < 1e-12, text


@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 8)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_half_of_the_images_are_mirrored_to_the_last_bit(shape, axis):
    before = images(*shape)
    found = apply(before, to_tensors([Augmentation(f"flip(axis={axis})").draw(KEY, COUNT, shape)], before))
    mirror = before.flip(axis if axis < 0 else axis + 2)
    turned = [torch.equal(a, b) for a, b in zip(found, mirror, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(found, before, strict=True)]
    assert all(a != b for a, b in zip(turned, kept, strict=True)) and 150 < sum(turned) < 250


@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 8)])
def test_a_shift_by_whole_pixels_moves_them(shape):
    before, matrix = images(*shape), still(len(shape))
    matrix[:, 0, -1] = 2 * 1 / shape[-1]  # one pixel along the last axis
    found = changed(before, Change(matrix=matrix))
    assert torch.allclose(found[..., :-1], before[..., 1:], atol=1e-12)
    assert torch.allclose(found[..., -1], before[..., -1], atol=1e-12)  # the edge is continued


def quarter(rng, count, shape):
    """A rotation by 90 degrees in the plane of the last two axes."""
    matrix = np.tile(np.eye(2, 3), (count, 1, 1))
    height, width = shape
    matrix[:, :, :2] = [[0, height / width], [-width / height, 0]]
    return Change(matrix=matrix)


def test_a_turn_by_ninety_degrees_is_numpys():
    before = images(8, 8)
    assert torch.allclose(changed(before, quarter(None, COUNT, (8, 8))), torch.rot90(before, -1, (2, 3)), atol=1e-12)


@pytest.mark.parametrize("shape", [(20, 40), (10, 20, 40)])
def test_a_rotation_keeps_distances_where_images_are_not_square(shape):
    extent = np.array(shape[::-1], float)
    matrix = AUGMENTATIONS.function("rotate")(np.random.default_rng(0), COUNT, shape, 30)
    assert np.abs(matrix.matrix[:, :, -1]).max() == 0
    turns = matrix.matrix[:, :, :-1] * extent[:, None] / extent
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), still(len(shape))[:, :, :-1], atol=1e-12)
    first = np.degrees(np.arccos(np.clip(turns[:, 0, 0], -1, 1)))
    assert 20 < first.max() < 45


def test_zoom_and_shift_stay_within_their_shares():
    draw = {name: Augmentation(f"{name}(0.2)").draw(KEY, COUNT, (8, 8)).matrix for name in ("zoom", "shift")}
    factors, moved = 1 / draw["zoom"][:, 0, 0], draw["shift"][:, :, -1] / 2
    assert 0.8 <= factors.min() < 0.82 and 1.18 < factors.max() <= 1.2
    assert -0.2 <= moved.min() < -0.18 and 0.18 < moved.max() <= 0.2


def test_one_change_after_another_is_both():
    before, rng = images(8, 8), np.random.default_rng(0)
    a = Change(gain=rng.uniform(1, 2, COUNT), offset=rng.uniform(0, 1, COUNT))
    b = Change(gain=rng.uniform(1, 2, COUNT), offset=rng.uniform(0, 1, COUNT))
    assert torch.allclose(changed(before, a, b), changed(changed(before, a), b), atol=1e-12)
    left, up = still(2), still(2)
    left[:, 0, -1], up[:, 1, -1] = 2 / 8, 2 / 8
    once = changed(before, Change(matrix=left), quarter(None, COUNT, (8, 8)), Change(matrix=up))
    each = changed(before, Change(matrix=left))
    each = changed(changed(each, quarter(None, COUNT, (8, 8))), Change(matrix=up))
    inside = slice(2, -2)
    assert torch.allclose(once[..., inside, inside], each[..., inside, inside], atol=1e-12)
    twice = changed(before, Change(flips=np.ones((COUNT, 2), bool)), Change(flips=np.ones((COUNT, 2), bool)))
    assert torch.equal(twice, before)


@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 8)])
def test_masks_move_with_their_images(shape):
    """A structure of value k, where the image has the value k: after any change they still agree."""
    masks = torch.zeros(COUNT, *shape, dtype=torch.uint8)
    masks[:, 1:4, 2:5] = 3
    change = to_tensors(
        [Augmentation("flip + flip(axis=0) + rotate(20) + shift(0.2) + zoom(0.2)").draw(KEY, COUNT, shape)],
        images(*shape),
    )
    moved = apply_to_masks(masks, change)
    nearest = apply(masks[:, None].double(), change)[
        :, 0
    ]  # linear: on the side of the nearer voxel, in the middle of 3
    assert moved.dtype == torch.uint8 and {*moved.unique().tolist()} == {0, 3}
    inside, outside = nearest > 2.99, nearest < 0.01
    assert (moved[inside] == 3).all() and (moved[outside] == 0).all() and not torch.equal(moved, masks)
    still = to_tensors([Augmentation("light(0.1) + noise(0.1)").draw(KEY, COUNT, shape)], images(*shape))
    assert apply_to_masks(masks, still) is masks
    mirrored = to_tensors([Augmentation("flip").draw(KEY, COUNT, shape)], images(*shape))
    assert torch.equal(apply_to_masks(masks, mirrored), apply(masks[:, None].double(), mirrored)[:, 0].to(torch.uint8))


def test_noise_is_normal_and_independent():
    from scipy.stats import kstest

    seeds = torch.from_numpy(np.random.default_rng(0).integers(0, 2**62, 40))
    found = _normal(seeds, torch.zeros(40, 2, 16, 16, dtype=torch.float64)).numpy()
    assert kstest(found.ravel(), "norm").pvalue > 1e-3
    flat = found.reshape(40, -1)
    assert (
        np.abs(np.corrcoef(flat) - np.eye(40)).max() < 0.2
        and abs(np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1]) < 0.03
    )
    before = torch.zeros(COUNT, 2, 8, 8, dtype=torch.float64)
    drawn = Augmentation("noise(0.2)").draw(KEY, COUNT, (8, 8))
    spread = apply(before, to_tensors([drawn], before)).flatten(1).std(1).numpy()
    assert drawn.noise.max() < 0.2 and np.corrcoef(spread, drawn.noise)[0, 1] > 0.97
    louder = Augmentation("noise(0.2) + light(0.5)").draw(KEY, COUNT, (8, 8))
    np.testing.assert_allclose(louder.noise, drawn.noise * louder.gain)


def test_each_image_step_site_and_seed_is_changed_differently():
    draw = Augmentation("shift")
    keys = [KEY, (1, "Site A", 3), (0, "Site B", 3), (0, "Site A", 4)]
    found = [draw.draw(key, 2, (8, 8)).matrix for key in keys]
    again = draw.draw(KEY, 2, (8, 8)).matrix
    assert np.array_equal(found[0], again)
    assert len({matrix[i].tobytes() for matrix in found for i in range(2)}) == 8


def test_memory_order_and_type_stay():
    before = images(8, 8).float().contiguous(memory_format=torch.channels_last)
    found = apply(before, to_tensors([Augmentation(GIVEN).draw(KEY, COUNT, (8, 8))], before))
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(1, 12, 12), (1, 8, 8, 8)], ids=["2D", "3D"])
def test_cores_change_no_bit(shape):
    part = partition((12, 20, 9), data=cases(12 + 20 + 9 + 3 * 16, shape))
    found = []
    for workers in (1, 3):
        fed = federation(part, CNN, augment=GIVEN)
        fed.execution.pool.count = workers
        found.append(last("fedavg", fed))
    assert same(*found)
    assert not same(found[0], last("fedavg", federation(part, CNN)))


@pytest.mark.parametrize("changes", [{}, {"batch_size": None}], ids=repr)
def test_a_split_model_sees_what_the_whole_one_sees(changes):
    a, b = (federation(augment=GIVEN, **changes) for _ in range(2))
    assert same(last("split(cut=1)", a), last("cyclic", b))


def test_a_full_batch_is_changed_anew_in_every_step(monkeypatch):
    seen, draw = [], Augmentation.draw
    monkeypatch.setattr(Augmentation, "draw", lambda self, key, *given: (seen.append(key), draw(self, key, *given))[1])
    ends("fedavg", federation(augment="shift", batch_size=None, local_steps=3, rounds=2))
    assert len(seen) == len(set(seen)) == 4 * 3 * 2


def test_only_training_sees_changed_images():
    fed, plain = federation(augment=GIVEN), federation()
    index = fed.partition.index("Site A", "test")
    np.testing.assert_array_equal(fed.predict(fed.start, index), plain.predict(plain.start, index))
    a, b = fed.losses(fed.start.expand(4)), plain.losses(plain.start.expand(4))
    np.testing.assert_array_equal(a, b)


def test_it_is_part_of_what_a_run_is(tmp_path):
    base = fedlab.Experiment(dataset="phantoms(cases=160)", model=CNN, rounds=1, batch_size=16, device="cpu")
    a, b = (fedlab.run(base.with_(augment=text), folder=tmp_path) for text in ("none", "flip"))
    assert a.folder != b.folder and b.experiment.augment == "flip"


def test_ones_own_augmentation(tmp_path):
    def darker(rng, count, shape, share=0.5):
        """Every image darker."""
        return Change(gain=np.full(count, 1 - share))

    AUGMENTATIONS.add(darker)
    try:
        experiment = fedlab.Experiment(augment="flip + darker(0.2)")
        assert ("augment", "darker") in experiment.user_names() and "Every image darker" in experiment.user_code()[0]
        change = Augmentation("light(0) + darker(0.2)").draw(KEY, 2, (8, 8))
        np.testing.assert_allclose(change.gain, 0.8)
    finally:
        AUGMENTATIONS.remove("darker")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filp", "unknown augmentation 'filp': did you mean 'flip'"),
        ("rotate(angle=3)", "augmentation 'rotate' has no argument 'angle'"),
        ("flip +", "cannot read augmentation ''"),
        ("flip, rotate", "cannot read augmentation"),
    ],
)
def test_what_cannot_be_read_is_reported(text, expected):
    with pytest.raises(ValueError, match=expected):
        fedlab.Experiment(augment=text)


def test_texts_are_read():
    assert len(parse("flip + rotate(degrees=1e+1) + shift(0.1)")) == 3 and parse(" none ") == []
