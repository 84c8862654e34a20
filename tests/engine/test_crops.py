"""Training on crops: the same crops in every mode, and whole images in evaluation; a whole crop changes nothing."""

import numpy as np
import pytest
import recordings
import torch
from interruptions import PowerCut, interrupt
from monai.inferers import sliding_window_inference
from worlds import at_sites, cases, ends, federation, last, masked_cases, parameters, partition, same

import fedlab
from fedlab.algorithms import METHODS
from fedlab.engine import cuda_graph, device_dataset
from fedlab.engine.model_inputs import ModelInputs

DATA = masked_cases(36, (1, 12, 10), structures=3)
PART = partition(sizes=(10, 6), data=DATA, held_out=4)
CLASSES = partition(sizes=(10, 6), data=cases(32, (1, 12, 12)), held_out=4)
CROP = "random((8, 6), foreground=0.7)"
BATCHNORM = "unet(width=2, depth=1, norm='batch')"
UNET = "unet(width=2, depth=1)"
CNN = "small_cnn(width=2, depth=1)"
CUTS = {"split": "split(cut=1, tail=1)", "splitfed": "splitfed(cut=1)"}


def world(part=PART, model=UNET, **changes):
    return federation(part, model, **{"local_steps": 2, "batch_size": 4, "crop": CROP, "rounds": 1, **changes})


def stored(fed, model):
    return fed.predict(model, fed.partition.index("Site A", "test"))


@pytest.mark.every_method
@pytest.mark.parametrize(
    "part, model, method",
    [(PART, UNET, method) for method in METHODS] + [(CLASSES, CNN, method) for method in ("moon", "split")],
)
def test_every_method_trains_on_crops(part, model, method):
    fed = world(part, model, crop="random((8, 8))")
    found = ends(CUTS.get(method, method), fed)
    assert all(torch.isfinite(w).all() for w in parameters(found))
    assert any(not torch.equal(w, fed.start.parameters.expand_as(w)) for w in parameters(found))
    assert fed.task.is_finite(stored(fed, fed.start))


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "moon", "split(cut=1, tail=1)"])
@pytest.mark.parametrize("part, model", [(PART, UNET), (CLASSES, CNN)], ids=["masks", "classes"])
def test_a_crop_of_the_whole_image_is_plain_training_and_evaluation(part, model, method, monkeypatch):
    size = tuple(part.cases.shape[1:])
    plain = world(part, model, crop="none")
    expected = last(method, plain)
    assert same(last(method, world(part, model, crop=f"random({size})")), expected)
    monkeypatch.setattr(device_dataset.patches, "crop_of", lambda *_: device_dataset.patches.Crop(size))
    fed = world(part, model)  # the same through crops and windows
    assert fed.execution.engine.inputs.crops and same(last(method, fed), expected)
    np.testing.assert_array_equal(stored(fed, expected), stored(plain, expected))


@pytest.mark.parametrize("augment", ["none", "flip + rotate(10) + noise(0.1)"])
@pytest.mark.parametrize("batch_size", [4, None])
def test_every_mode_trains_on_the_same_crops(augment, batch_size, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)
    found, given = {}, {"precision": "float64", "augment": augment, "batch_size": batch_size, "model": BATCHNORM}
    for mode in ("sequential", "vmap", "cuda_graph"):
        fed = world(execution=mode, **given)
        found[mode] = at_sites("fedavg", fed)
        assert fed.execution.used == {mode}
    for mode in ("vmap", "cuda_graph"):
        assert torch.allclose(found[mode].vector, found["sequential"].vector, rtol=0, atol=1e-10), mode
    again = world(**given)
    again.execution.pool.count = 2
    assert same(at_sites("fedavg", again), found["sequential"])
    assert same(last("splitfed(cut=1)", world(augment=augment)), last("fedavg", world(augment=augment)))


def test_streamed_crops_are_the_same(monkeypatch):
    resident = last("fedavg", world())
    monkeypatch.setattr(device_dataset, "MEMORY_SHARE", 0.0)
    fed = world()
    assert fed.execution.engine.dataset.streamed and same(last("fedavg", fed), resident)


def test_a_step_trains_on_the_crops_of_its_seed_site_step_and_cases(monkeypatch):
    seen, gather = [], ModelInputs.gather

    def watched(self, rows, index, keys):
        images, masks = gather(self, rows, index, keys)
        seen.append((keys[0], index[0], images, masks))
        return images, masks

    monkeypatch.setattr(ModelInputs, "gather", watched)
    ends("fedavg", world(rounds=2))
    for key, index, images, masks in seen:
        starts = device_dataset.patches.crop_starts(DATA.masks[index], (8, 6), key, index, 0.7)
        for case, start, image, mask in zip(index, starts, images, masks, strict=True):
            at = tuple(slice(low, low + edge) for low, edge in zip(start, (8, 6), strict=True))
            assert np.array_equal(mask.numpy(), DATA.masks[(case, *at)])
            np.testing.assert_allclose(image[0].numpy(), DATA.images[(case, 0, *at)] / np.float32(255), rtol=1e-6)
    assert len({(key, start.tobytes()) for key, start, *_ in seen}) == 2 * 2 * 2  # sites, steps, rounds


def test_crops_see_the_masks_of_training_cases_alone():
    noisy = fedlab.Partition.from_sites(DATA, PART.table, annotation=1.0)
    dataset = world(noisy).execution.engine.dataset
    train = np.concatenate([noisy.index(site, "train") for site in noisy.sites])
    assert {*dataset._voxels} == {*train.tolist()}
    for site in noisy.sites:
        index = noisy.index(site, "train")
        for case, mask in zip(index, noisy.training_masks(index, site), strict=True):
            assert np.array_equal(np.sort(np.concatenate([*dataset._voxels[case], []])), np.flatnonzero(mask))


def test_evaluation_is_the_sliding_window_of_monai():
    fed = world(precision="float64", model=BATCHNORM)
    w, engine = last("fedavg", fed), fed.execution.engine
    index = PART.index("Site B", "test")
    found = fed.predict(w, index)
    engine.flat.load(w)
    net = engine.flat.model.eval()
    x = torch.from_numpy(DATA.images[index]).double() / 255
    with torch.no_grad():
        p = sliding_window_inference(x, (8, 6), 4, lambda x: net(x).softmax(1), overlap=0.5, mode="gaussian")
    expected = fed.task.stored(p, torch.from_numpy(DATA.masks[index])).numpy()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(engine.masks(index).numpy(), p.argmax(1).numpy())
    many = federation(PART, BATCHNORM, crop=CROP, execution="vmap", precision="float64")
    for one in many.predictor.predict([(w, index), (w, index)]):
        np.testing.assert_array_equal(one, expected)


def test_classes_are_predicted_by_the_mean_over_windows():
    fed = world(CLASSES, CNN, crop="random(8)", precision="float64")
    index = CLASSES.index("Site A", "test")
    found, net = stored(fed, fed.start), fed.execution.engine.flat.model.eval()
    x = torch.from_numpy(CLASSES.cases.images[index]).double() / 255
    with torch.no_grad():
        windows = [net(x[..., a : a + 8, b : b + 8]).sigmoid() for a in (0, 4) for b in (0, 4)]
    np.testing.assert_allclose(found[:, 1], torch.stack(windows).mean(0)[:, 0], atol=1e-12)


def test_the_ledger_of_split_training_counts_crops_and_no_inference():
    rows = {}
    for crop in ("none", "random((8, 6))"):
        fed = world(crop=crop)
        last("splitfed(cut=1, tail=1)", fed)
        stored(fed, fed.start)
        rows[crop] = (
            sum(n for *_, what, n in fed.ledger.rows if what == "activations"),
            fed.round_log.costs["Site A"].samples,
        )
    assert rows["random((8, 6))"][0] * 12 * 10 == rows["none"][0] * 8 * 6
    assert rows["random((8, 6))"][1] == rows["none"][1] == 2 * 4


def test_a_resumed_run_sees_the_crops_of_the_uninterrupted_one(tmp_path, monkeypatch):
    given = {
        "model": UNET,
        "local_steps": 2,
        "batch_size": 4,
        "rounds": 2,
        "crop": CROP,
        "augment": "flip + noise(0.1)",
    }
    experiment = fedlab.Experiment(device="cpu", optimizer="adam", lr=0.01, **given)
    whole = fedlab.run(experiment, PART, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        interrupt(patch, after=3)
        fedlab.run(experiment, PART, folder=tmp_path / "cut")
    resumed = fedlab.run(experiment, PART, folder=tmp_path / "cut")
    for name, tensor in whole.weights("global", "last").items():
        assert torch.equal(tensor, resumed.weights("global", "last")[name])
    assert whole.predictions.equals(resumed.predictions)
    shown = fedlab.predicted_masks([whole], partition=PART)
    scores = [
        [2 * ((p == s) & (t == s)).sum() / ((p == s).sum() + (t == s).sum()) for s in (1, 2)]
        for p, t in zip(shown.predicted["fedavg"], shown.truth, strict=True)
    ]
    np.testing.assert_allclose(np.nanmean(scores, 1), shown.table["fedavg"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64", "cannot read crop '64'"),
        ("randm(64)", "unknown crop 'randm': did you mean 'random'"),
        ("random(0)", "size=0: give a whole number"),
        ("random(8, foreground=2)", "foreground=2: give a number from 0 to 1"),
        ("random(8, overlap=1)", "overlap=1: give a number from 0 to below 1"),
        ("random", "missing a required argument: 'size'"),
    ],
)
def test_what_cannot_be_read_is_reported(text, expected):
    with pytest.raises(ValueError, match=expected):
        fedlab.Experiment(crop=text)


def test_what_does_not_fit_is_refused_before_training():
    base = fedlab.Experiment(dataset="phantoms(cases=40, size=16)", crop="random((8, 32))")
    with pytest.raises(
        ValueError, match=r"a crop of 8 x 32 does not fit .* 16 x 16: choose a smaller one, such as \(8, 16\)"
    ):
        fedlab.run(base)
