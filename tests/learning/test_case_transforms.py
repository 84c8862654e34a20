"""Transforms of single cases, such as MONAI's: the same images in every mode, masks that stay whole numbers."""

import numpy as np
import pytest
import recordings
import torch
from monai.transforms import Compose, Lambdad, RandAffined, RandFlip, RandFlipd, RandGaussianNoised
from worlds import CNN, at_sites, federation, last, masked_cases, partition, same

import fedlab
from fedlab.core.own_code import fingerprint
from fedlab.core.rng import stream
from fedlab.engine import cuda_graph
from fedlab.learning.augmentation import AUGMENTATIONS, Augmentation, add_transforms

PART = partition(sizes=(10, 6), data=masked_cases(36, (1, 12, 10), structures=3), held_out=4)
UNET = "unet(width=2, depth=1, norm='batch')"
KEY = (0, "Site A", 3)
GIVEN = "light(0.1) + monai(RandGaussianNoise(prob=0.7, std=0.1), RandAffine(prob=0.7, rotate_range=0.5)) + flip + mine"
BOTH = ["image", "mask"]


@pytest.fixture(autouse=True)
def _mine():
    add_transforms("mine", Compose([RandFlipd(BOTH, prob=0.5, spatial_axis=0)]))
    yield
    AUGMENTATIONS.remove("mine")


def world(**changes):
    return federation(PART, UNET, **{"local_steps": 2, "batch_size": 4, "rounds": 1, "augment": GIVEN, **changes})


def images(count=6, shape=(8, 9)):
    found = torch.rand(count, 2, *shape, generator=torch.Generator().manual_seed(0))
    masks = (found[:, 0] > 0.5).to(torch.uint8) * 3
    return found.contiguous(memory_format=torch.channels_last if len(shape) == 2 else torch.channels_last_3d), masks


def augmented(text, given=None, cases=(5, 6, 7, 8, 9, 10), key=KEY, masks=True):
    x, m = given or images(len(cases))
    return Augmentation(text, masks).of_cases(x, m if masks else None, [np.array(cases)], [key])


@pytest.mark.parametrize("batch_size, crop", [(4, "none"), (None, "none"), (4, "random((8, 6))")])
def test_every_mode_sees_the_same_images(batch_size, crop, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)
    found, given = {}, {"precision": "float64", "batch_size": batch_size, "crop": crop}
    for mode in ("sequential", "vmap", "cuda_graph"):
        fed = world(execution=mode, **given)
        found[mode] = at_sites("fedavg", fed)
        assert fed.execution.used == {mode}
    for mode in ("vmap", "cuda_graph"):
        assert torch.allclose(found[mode].vector, found["sequential"].vector, rtol=0, atol=1e-10), mode
    several = world(**given)
    several.execution.pool.count = 2
    assert same(at_sites("fedavg", several), found["sequential"])
    shared = found["sequential"][0]
    assert same(last("splitfed(cut=1, tail=1)", world(**given)), shared)
    assert not same(last("fedavg", world(augment="none", **given)), shared)


def test_a_case_is_transformed_by_its_seed_site_step_and_number_alone():
    x, m = images()
    text = "monai(RandGaussianNoise(prob=1.0, std=0.1), RandFlip(prob=0.5, spatial_axis=0))"
    found, moved = augmented(text, (x, m))
    other, turned = augmented(text, (x.flip(0), m.flip(0)), (10, 9, 8, 7, 6, 5))
    assert torch.equal(other.flip(0), found) and torch.equal(turned.flip(0), moved)
    for key in ((1, "Site A", 3), (0, "Site B", 3), (0, "Site A", 4)):
        assert not torch.equal(augmented(text, (x, m), key=key)[0], found)


@pytest.mark.parametrize("shape", [(8, 9), (6, 8, 9)])
def test_masks_move_with_their_images_and_stay_whole(shape):
    """An image that is its mask: they agree after transforms of positions, of which the nearest voxel is taken."""
    _, m = images(shape=shape)
    x = m[:, None].float()
    nearest = "rotate_range=0.6, translate_range=2, mode='nearest'"
    rotated = "" if len(shape) == 3 else ", RandRotate(prob=1.0, range_x=0.5, mode='nearest', padding_mode='zeros')"
    text = f"monai(RandFlip(prob=0.5, spatial_axis=1), RandAffine(prob=1.0, padding_mode='zeros', {nearest}){rotated})"
    found, moved = augmented(text, (x, m))
    assert moved.dtype == torch.uint8 and torch.equal(found[:, 0], moved.float()) and not torch.equal(moved, m)
    linear, same_masks = augmented(text.replace("mode='nearest'", "mode='bilinear'"), (x, m))
    assert torch.equal(same_masks, moved) and not torch.equal(linear[:, 0], moved.float())
    alone, none = augmented(text, (x, m), masks=False)
    assert none is None and torch.equal(alone, found)


def test_it_is_the_transform_of_monai():
    x, m = images(1)
    transform = Compose([RandAffined(BOTH, prob=1.0, rotate_range=0.5, mode=("bilinear", "nearest"))])
    text = "monai(RandAffine(prob=1.0, rotate_range=0.5))"
    found, moved = augmented(text, (x, m), (5,))
    transform.set_random_state(seed=int(stream(0, "transforms", "Site A", 3, 5, 0).integers(2**32)))
    expected = transform({"image": x[0].contiguous(), "mask": m})
    assert torch.equal(found[0], torch.as_tensor(expected["image"])) and torch.equal(
        moved, torch.as_tensor(expected["mask"]).to(torch.uint8)
    )


def test_parameters_and_nothing_else_are_in_the_fingerprint():
    texts = set()
    for prob in (0.5, 0.5, 0.6):
        transform = Compose([RandFlipd(BOTH, prob=prob), RandGaussianNoised(["image"], prob=0.1)])
        add_transforms("mine", transform)
        assert AUGMENTATIONS.is_own("mine")
        texts.add(AUGMENTATIONS.fingerprint("mine"))
        experiment = fedlab.Experiment(augment="flip + mine")
        assert experiment.user_names() == [("augment", "mine")]
    assert len(texts) == 2 and fingerprint(AUGMENTATIONS.function("mine"))[1] == []


def refusing(transform):
    add_transforms("mine", Compose([transform]))
    augmented("mine")


def test_what_would_spoil_a_run_is_refused():
    with pytest.raises(ValueError, match="interpolates masks"):
        refusing(RandAffined(BOTH, prob=1.0, rotate_range=0.5, mode="bilinear"))
    with pytest.raises(ValueError, match=r"returns the shape \(2, 4, 9\) for \(2, 8, 9\)"):
        refusing(Lambdad(["image"], lambda x: x[:, :4]))
    with pytest.raises(ValueError, match="gives another image when it is run again"):
        refusing(Lambdad(["image"], lambda x: x + float(np.random.default_rng().random())))
    with pytest.raises(ValueError, match=r"fails on a case with 'image' of shape .2, 8, 9. and 'mask'"):
        refusing(RandFlip(prob=1.0))
    with pytest.raises(ValueError, match="is a function without set_random_state"):
        add_transforms("mine", lambda case: case)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("monai(RandGausianNoise(prob=1.0))", "no transform 'RandGausianNoise' .* did you mean 'RandGaussianNoise'"),
        ("monai(RandSpatialCrop(roi_size=4))", "the field `crop`|did you mean"),
        ("monai(RandFlip(probability=1.0))", "'RandFlip' refuses its arguments .* it has prob, spatial_axis"),
        ("monai()", "cannot read the transforms"),
        ("flip + monai(RandFlip(prob=open('x')))", "cannot read the transforms"),
        ("monai", "'monai'"),
    ],
)
def test_what_cannot_be_read_is_reported(text, expected):
    with pytest.raises(ValueError, match=expected):
        fedlab.Experiment(augment=text)


def test_a_run_is_resumed_and_classes_need_no_masks(tmp_path):
    text = "monai(RandGaussianNoise(prob=0.5, std=0.1)) + flip"
    base = fedlab.Experiment(dataset="phantoms(cases=60, size=16)", model=CNN, rounds=1, device="cpu", augment=text)
    run = fedlab.run(base, folder=tmp_path)
    assert run.experiment.augment == text and fedlab.run(base, folder=tmp_path).folder == run.folder
