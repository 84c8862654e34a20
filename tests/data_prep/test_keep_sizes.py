"""`--size keep`: each image keeps its own size, and what is trained, predicted and measured is that of the image."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from own_scans import nifti
from PIL import Image

import data_prep
import fedlab
from data_prep.__main__ import main
from data_prep.importing import assemble
from fedlab.evaluation.surfaces import surfaces_of
from fedlab.learning.tasks import task_of

SHAPES = [(10, 12, 8), (16, 9, 11), (12, 12, 9)]
MM = (1.0, 2.0, 2.5)


def mask_of(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[2:6, 3:7, 2:6] = 1
    return mask


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three volumes of unequal size with masks, of three patients."""
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    for number, shape in enumerate(SHAPES):
        voxels = (rng.integers(0, 150, shape) + 100 * mask_of(shape)).astype(np.uint8)
        nifti(tmp_path / "scans" / "images" / f"{number}.nii.gz", voxels, np.diag([*MM, 1.0]))
        nifti(tmp_path / "scans" / "labels" / f"{number}.nii.gz", mask_of(shape), np.diag([*MM, 1.0]))
    return tmp_path / "scans"


def test_volumes_of_unequal_size_are_trained_on_and_measured_on_their_own_extent(scans: Path, tmp_path: Path) -> None:
    main(["import", str(scans), "--size", "keep", "--window", "0:255", "mine"])
    cases = fedlab.load("mine")
    assert cases.extents.tolist() == [list(shape) for shape in SHAPES] and cases.shape == (1, 16, 12, 11)
    assert cases.card["spacing"] == list(MM) and "--size=keep" in cases.card["command"]
    for row, shape in enumerate(SHAPES):
        assert np.array_equal(cases.mask(row), mask_of(shape))
    part = fedlab.Partition.from_sites(
        cases, cases.table[["case"]].assign(site="North", split=["train", "val", "test"])
    )
    given = {"model": "unet(width=2, depth=1)", "crop": "random(8)", "batch_size": 1, "device": "cpu"}
    run = fedlab.run(fedlab.Experiment(rounds=1, local_steps=1, **given), part, folder=tmp_path / "runs")
    test = run.predictions.query("model == 'global' and split == 'test'").iloc[0]
    assert test["tp1"] + test["fn1"] == mask_of(SHAPES[2]).sum() and 0 <= test["nsd1"] <= 1

    predicted = np.roll(mask_of(SHAPES[2]), 1, axis=0)
    task, masks = task_of(cases), torch.from_numpy(cases.mask(2)[None])
    called = torch.nn.functional.one_hot(torch.from_numpy(predicted[None]).long(), 2).movedim(-1, 1).double()
    tp, fp, fn, hd, *_ = task.stored(called, masks, surfaces_of(cases))[0].tolist()
    both = [torch.nn.functional.one_hot(each.long(), 2).movedim(-1, 1) for each in (called.argmax(1), masks)]
    assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(compute_dice(*both, include_background=False).item())
    expected = compute_hausdorff_distance(*both, percentile=95, spacing=MM)
    assert hd == pytest.approx(expected.item())


def test_a_spacing_resamples_and_sizes_follow(scans: Path) -> None:
    cases = data_prep.import_images(scans, name="two", size="keep", spacing=2.0)
    assert cases.extents.tolist() == [[5, 12, 10], [8, 9, 14], [6, 12, 11]]
    assert cases.card["spacing"] == [2.0, 2.0, 2.0]
    assert data_prep.import_images(scans, name="two", size="keep", spacing=2.0).fingerprint == cases.fingerprint


def test_unequal_spacings_need_one(scans: Path) -> None:
    odd = scans / "images" / "3.nii.gz"
    nifti(odd, np.zeros((9, 9, 9), np.uint8), np.diag([1.0, 2.0, 4.0, 1.0]))
    nifti(scans / "labels" / "3.nii.gz", mask_of((9, 9, 9)), np.diag([1.0, 2.0, 4.0, 1.0]))
    with pytest.raises(ValueError, match=r"case '0': 1 x 2 x 2.5 mm, case '3': 1 x 2 x 4 mm\): give a --spacing"):
        data_prep.import_images(scans, name="native", size="keep")
    assert len(data_prep.import_images(scans, name="one", size="keep", spacing="1x2x2")) == 4


def test_what_would_take_too_much_space_is_refused(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "MOST_BYTES", 10_000)
    with pytest.raises(
        ValueError, match=r"3 images would take 0.0 GB.*16 x 12 x 11.*the largest image: '1'.*--spacing"
    ):
        data_prep.import_images(scans, name="large", size="keep")
    with pytest.raises(ValueError, match="keep their sizes are not fitted"):
        data_prep.import_images(scans, name="large", size="keep", fit="crop")


def test_pictures_keep_their_size_and_an_export_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    rng, shapes = np.random.default_rng(0), [(9, 14), (12, 8), (10, 10), (12, 14), (8, 8), (9, 9)]
    for number, shape in enumerate(shapes):
        for folder, pixels in (("images", rng.integers(0, 256, shape)), ("labels", rng.integers(0, 2, shape))):
            (tmp_path / "scans" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "scans" / folder / f"{number}.png")
    cases = data_prep.import_images(tmp_path / "scans", name="pictures", size="keep")
    assert cases.extents.tolist() == [list(shape) for shape in shapes] and "spacing" not in cases.card
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = fedlab.partition(cases, sites=2, acquisition="generic(0.5)", annotation=1.0)
    back = data_prep.import_images(fedlab.export_sites(part, tmp_path / "out"), name="back")
    assert sorted(map(tuple, back.extents)) == sorted(shapes)
    for row, name in enumerate(back.table["case"]):
        (place,) = np.flatnonzero(cases.table["case"] == name)
        site = back.table["site"].iloc[row]
        height, width = cases.extents[place]
        assert np.array_equal(back.image(row), part.pixels([place], site)[0, :, :height, :width])
        assert np.array_equal(back.mask(row), part.training_masks([place], site)[0, :height, :width])
