"""Training on images of unequal size: padding never matters, crops stay inside, every mode does the same."""

import numpy as np
import pandas as pd
import pytest
import recordings
import torch
from interruptions import PowerCut, interrupt
from unequal_worlds import padded, unequal
from worlds import at_sites, cases, federation, last, masked_cases, partition, same

import fedlab
from fedlab.data.cases import Cases
from fedlab.engine import cuda_graph, device_dataset, loop
from fedlab.engine.model_inputs import ModelInputs
from fedlab.evaluation.surface_distances import surface_measures
from fedlab.evaluation.surfaces import surfaces_of

DATA = unequal(20)
SIZES = (8, 4)
WINDOW = (8, 6)  # some cases are shorter
GIVEN = {"local_steps": 2, "batch_size": 4, "crop": "random((8, 6), foreground=0.7)", "rounds": 1}
UNET = "unet(width=2, depth=1, norm='batch')"
EXPERIMENT = fedlab.Experiment(model=UNET, lr=0.05, device="cpu", optimizer="adam", **GIVEN)


def sited(data, **axes):
    """Two sites with training, validation and test cases, and what their scanners and readers do."""
    return fedlab.Partition.from_sites(data, partition(sizes=SIZES, data=data, held_out=2).table, **axes)


def world(data=DATA, **changes):
    return federation(partition(sizes=SIZES, data=data, held_out=2), UNET, **{**GIVEN, **changes})


@pytest.mark.parametrize(
    "stored, changes, axes",
    [
        (False, {"normalisation": "image", "method": "splitfed(cut=1)"}, {"acquisition": 0.5, "annotation": 0.5}),
        (True, {"normalisation": "site", "class_weights": "balanced", "augment": "flip + rotate(10)"}, {}),
    ],
)
def test_padding_of_any_size_and_value_changes_no_bit(stored, changes, axes, tmp_path):
    found, seen = [], []
    for name, data in {"tight": DATA, "padded": padded(DATA)}.items():
        data = fedlab.load(data.save(tmp_path / name)) if stored else data
        part = sited(data, **axes)
        found.append(fedlab.run(EXPERIMENT.with_(**changes), part, folder=tmp_path / f"{name} run"))
        seen.append(fedlab.predicted_masks(found[-1:], partition=part))
    np.testing.assert_array_equal(seen[0].truth, seen[1].truth)
    np.testing.assert_array_equal(seen[0].images, seen[1].images)
    np.testing.assert_array_equal(*(next(iter(each.predicted.values())) for each in seen))
    tight, loose = found
    pd.testing.assert_frame_equal(tight.predictions, loose.predictions, check_exact=True)
    untimed = tight.rounds.columns.drop("seconds", errors="ignore")
    pd.testing.assert_frame_equal(tight.rounds[untimed], loose.rounds[untimed], check_exact=True)
    for name, tensor in tight.weights("global").items():
        assert torch.equal(tensor, loose.weights("global")[name])


def test_classes_are_predicted_without_padding():
    plain = cases(20, (1, 14, 12))
    found = []
    for more, value in ((0, 0), (3, 200)):
        images = np.full((20, 1, 14 + more, 12 + more), value, np.uint8)
        for case, extent in enumerate(DATA.extents):
            at = (case, ..., *map(slice, extent))
            images[at] = plain.images[at]
        part = partition(sizes=SIZES, data=Cases(images, plain.table, plain.card, None, DATA.extents), held_out=2)
        fed = federation(part, "small_cnn(width=2, depth=1)", **{**GIVEN, "crop": "random((8, 6))"})
        model = last("fedavg", fed)
        found.append((model, fed.predict(model, part.index("Site A", "test"))))
    assert same(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_extents_of_the_full_size_are_no_extents(dtype, monkeypatch):
    whole = masked_cases(20, (1, 14, 12), structures=3)
    images = whole.images if dtype == np.uint8 else (whole.images / 255).astype(dtype)
    plain, full = (
        Cases(images, whole.table, whole.card, whole.masks, extents)
        for extents in (None, np.full((20, 2), (14, 12), np.int64))
    )
    assert full.extents is None and full.fingerprint == plain.fingerprint
    object.__setattr__(full, "extents", np.full((20, 2), (14, 12), np.int64))  # the code of unequal images
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 1)
    found = []
    for data in (plain, full):
        fed = world(data, normalisation="site")
        model = last("fedavg", fed)
        found.append((model, fed.predict(model, fed.partition.index("Site A", "test"))))
    assert same(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_crops_stay_inside_their_case_and_short_cases_are_followed_by_zero(monkeypatch):
    seen, gather = [], ModelInputs.gather

    def watched(self, rows, index, keys):
        images, masks = gather(self, rows, index, keys)
        seen.append((index[0], self.starts(index, keys), images, masks))
        return images, masks

    monkeypatch.setattr(ModelInputs, "gather", watched)
    last("fedavg", world(padded(DATA), local_steps=8))
    short = 0
    for index, starts, images, masks in seen:
        for case, start, image, mask in zip(index, starts, images.numpy(), masks.numpy(), strict=True):
            extent, window = DATA.extents[case], np.array(WINDOW)
            assert (start >= 0).all() and (start + window <= np.maximum(extent, window)).all()
            inside = tuple(slice(0, edge) for edge in np.minimum(window, extent - start))
            at = tuple(slice(low, low + edge) for low, edge in zip(start, WINDOW, strict=True))
            expected, drawn = np.zeros(WINDOW, np.float32), np.zeros(WINDOW, np.uint8)
            expected[inside], drawn[inside] = DATA.image(case)[(0, *at)] / np.float32(255), DATA.mask(case)[at]
            np.testing.assert_allclose(image[0], expected, rtol=1e-6)
            assert np.array_equal(mask, drawn)
            short += bool((extent < window).any())
    assert 0 < short < sum(len(index) for index, *_ in seen)


def test_every_mode_trains_and_predicts_the_same(monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)
    found = {}
    for mode in ("sequential", "vmap", "cuda_graph", "auto"):
        fed = world(execution=mode, precision="float64")
        models = at_sites("fedavg", fed)
        found[mode] = models, fed.predict(models[0], fed.partition.index("Site B", "test"))
        assert fed.execution.used == {mode} or mode == "auto"
    for mode, (models, stored) in found.items():
        assert torch.allclose(models.vector, found["sequential"][0].vector, rtol=0, atol=1e-10), mode
        np.testing.assert_array_equal(stored, found["sequential"][1])
    assert same(found["auto"][0], found["sequential"][0])


def test_images_that_are_read_from_files_as_needed_are_the_same(monkeypatch):
    resident = last("fedavg", world())
    monkeypatch.setattr(device_dataset, "MEMORY_SHARE", 0.0)
    fed = world()
    assert fed.execution.dataset.streamed and same(last("fedavg", fed), resident)


def test_a_killed_run_ends_as_one_that_was_not(tmp_path, monkeypatch):
    part, experiment = sited(DATA), EXPERIMENT.with_(rounds=2)
    whole = fedlab.run(experiment, part, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, after=3)
        with pytest.raises(PowerCut):
            fedlab.run(experiment, part, folder=tmp_path / "cut")
    resumed = fedlab.run(experiment, part, folder=tmp_path / "cut")
    pd.testing.assert_frame_equal(whole.predictions, resumed.predictions, check_exact=True)


def test_metrics_are_those_of_the_extent():
    """Everything is called structure 1: its counts and distances are those of the case alone, in mm."""
    card = {**DATA.card, "spacing": [2.0, 0.5]}
    data = padded(Cases(DATA.images, DATA.table, card, DATA.masks, DATA.extents))
    fed = world(data)
    engine, index = fed.execution.engine, fed.partition.index("Site A", "test")
    for case in index:
        rows, extent = engine.dataset.rows(np.array([case])), DATA.extents[case]
        images, masks = engine.dataset.images(rows), engine.masks(np.array([case]))[0].numpy()
        assert tuple(images.shape[2:]) == tuple(extent) and masks.shape == (14, 12)
        assert not masks[extent[0] :].any() and not masks[:, extent[1] :].any()
        called = torch.zeros(1, 3, *extent)
        called[:, 1] = 1
        tp, fp, fn, hd, nsd, *_ = engine._stored(called, rows, surfaces_of(data))[0].tolist()
        true = DATA.mask(case) == 1
        assert (tp, fp, fn) == (true.sum(), true.size - true.sum(), 0)
        expected = surface_measures(np.ones(extent, bool), true, (2.0, 0.5), 2.0)
        np.testing.assert_allclose((hd, nsd), expected)


def test_whole_images_of_unequal_size_are_refused_before_training(tmp_path):
    sizes = "5 x 5 to 14 x 12"
    for call in (
        lambda e: fedlab.run(e, sited(DATA), folder=tmp_path),
        lambda e: fedlab.grid(e, partition=sited(DATA), folder=tmp_path, lr=[0.1, 0.2]),
    ):
        with pytest.raises(ValueError, match=rf"unequal sizes, {sizes}.*crop='random\(\(4, 4\)\)'.*--size"):
            call(EXPERIMENT.with_(crop="none"))
    assert not list(tmp_path.glob("[!.]*"))
