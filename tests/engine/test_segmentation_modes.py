"""Segmentation: masks are trained on as labels are, in every mode of execution and with every method."""

import numpy as np
import pytest
import recordings
import torch
from torch import nn
from worlds import at_sites, ends, federation, last, masked_cases, parameters, partition, same, settings

import fedlab
from fedlab.algorithms import METHODS
from fedlab.algorithms.split_training import SplitModel
from fedlab.engine import cuda_graph, device_dataset
from fedlab.federation import Federation
from fedlab.learning import mask_metrics
from fedlab.learning.losses import LOSSES
from fedlab.learning.models import CONV, MODELS, NORM, build

DATA = masked_cases(36, (1, 8, 8), structures=3)
PART = partition(sizes=(10, 6), data=DATA, held_out=4)


def tiny_fcn(shape, outputs):
    """Three stages, as a plain nn.Sequential without skip connections."""
    d = len(shape) - 1
    first = nn.Sequential(CONV[d](shape[0], 4, 3, padding=1, bias=False), NORM[d](4), nn.ReLU())
    return nn.Sequential(first, nn.Sequential(CONV[d](4, 4, 3, padding=1), nn.ReLU()), CONV[d](4, outputs, 1))


@pytest.fixture(autouse=True)
def _tiny_fcn(monkeypatch):
    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "tiny_fcn": tiny_fcn})


def world(**changes) -> Federation:
    return federation(PART, "tiny_fcn", **{"local_steps": 2, "batch_size": 4, **changes})


@pytest.mark.parametrize("loss", ["auto", "tversky(alpha=0.3, beta=0.7)"])
def test_one_full_batch_step_of_fedavg_is_gradient_descent(loss):
    """On the mean over all cases of their losses; pooled over a batch it would be another function."""
    fed = world(rounds=1, local_steps=1, batch_size=None, lr=0.5, precision="float64", batchnorm="group", loss=loss)
    found = last("fedavg", fed)
    net = build("tiny_fcn", DATA.shape, 3, 0, "group", dense=True).double()
    rows = fed.union.batches.index
    images = torch.from_numpy(DATA.images[rows]).double() / 255
    logits, masks = net(images), torch.from_numpy(DATA.masks[rows])
    each = [fed.task.loss(logits[i : i + 1], masks[i : i + 1]) for i in range(len(rows))]
    torch.stack(each).mean().backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.5 * p.grad
    stepped = torch.cat([p.flatten() for p in net.parameters()])
    w = torch.cat([view.flatten() for view in fed.layout.views(found.parameters[None]).values()])
    assert torch.allclose(w, stepped, rtol=0, atol=1e-12)


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_every_method_segments(method):
    """It trains, and what its models predict is finite."""
    fed = world(rounds=1)
    found = ends(method, fed)
    assert all(torch.isfinite(w).all() for w in parameters(found))
    assert any(not torch.equal(w, fed.start.parameters.expand_as(w)) for w in parameters(found))
    model = found.get("global", found.get("local"))
    one = model[0] if getattr(model, "stacked", False) else model
    stored = fed.predict(one, fed.partition.index("Site A", "test"))
    assert stored.shape == (4, len(fed.task.columns)) and fed.task.is_finite(stored)


def test_splitfed_is_fedavg_and_turns_are_cyclic():
    for split, whole in (("splitfed(cut=2)", "fedavg"), ("splitfed(cut=1, tail=1)", "fedavg"), ("split", "cyclic")):
        assert same(last(split, world()), last(whole, world()))


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "moon", "local"])
def test_sites_are_batched_and_captured_with_the_same_numbers(method, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)
    found = {}
    for mode in ("sequential", "vmap", "cuda_graph"):
        fed = world(execution=mode, precision="float64", momentum=0.5)
        found[mode] = at_sites(method, fed)
        reason = fed.execution.fallback()
        assert fed.execution.used == {mode} or (method == "moon" and reason), (mode, reason)
    for mode in ("vmap", "cuda_graph"):
        assert torch.allclose(found[mode].vector, found["sequential"].vector, rtol=0, atol=1e-10), mode


def test_predictions_of_many_models_at_once_are_those_one_by_one():
    fed = world(execution="vmap", precision="float64")
    models, index = ends("local", fed)["local"], np.sort(PART.rows)
    together = fed.predictor.predict([(models[k], index) for k in range(2)])
    alone = [fed.execution.engine.predict(models[k], index).numpy() for k in range(2)]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(together, alone, strict=True))


def test_masks_that_do_not_fit_into_memory_are_streamed(monkeypatch):
    resident = last("fedavg", world())
    monkeypatch.setattr(device_dataset, "MEMORY_SHARE", 0.0)
    fed = world()
    assert fed.execution.engine.dataset.streamed and isinstance(
        fed.execution.engine.dataset.targets, device_dataset.MaskRows
    )
    assert same(last("fedavg", fed), resident)


def test_an_ensemble_averages_the_probabilities_of_each_voxel():
    fed = world(precision="float64")
    ensemble, index = ends("ensemble", fed)["global"], fed.partition.index("Site A", "test")
    mean, engine = 0.0, fed.execution.engine
    for k, share in enumerate(ensemble.shares):
        engine.flat.load(ensemble.models[k])
        engine.flat.model.eval()
        with torch.no_grad():
            mean = mean + share * engine.flat.model(engine.dataset.images(engine.dataset.rows(index))).softmax(1)
    predicted, true = mean.argmax(1).numpy(), DATA.masks[index]
    found = mask_metrics.overlap(fed.predict(ensemble, index))
    for structure in (1, 2):
        both = ((predicted == structure) & (true == structure)).reshape(len(index), -1).sum(1)
        assert found.tp[:, structure - 1].tolist() == both.tolist()


def test_sites_learn_from_the_masks_of_their_readers_and_are_judged_on_true_ones():
    noisy = fedlab.Partition.from_sites(DATA, PART.table, annotation=1.0)
    fed = Federation(noisy, "tiny_fcn", settings())
    for site in fed.names:
        for split, true in (("train", False), ("val", False), ("test", True)):
            index = noisy.index(site, split)
            masks = fed.execution.engine.dataset.targets[fed.execution.engine.dataset.rows(index)].numpy()
            assert np.array_equal(masks, noisy.training_masks(index, site))
            assert np.array_equal(masks, DATA.masks[index]) == (true or not noisy.annotators[site].amount)


def test_the_representation_of_a_case_is_the_mean_of_each_channel():
    fed = world()
    (first, _) = fed.features(fed.start.expand(2))
    assert first.values.shape == (10, 4)
    fed = federation(PART, "unet(width=2, depth=1)")  # the last stage gets a skip connection, too
    assert fed.features(fed.start.expand(2))[0].values.shape == (10, 4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_balanced_weights_are_those_of_all_training_voxels(precision):
    fed = world(class_weights="balanced", precision=precision)
    counts = np.bincount(DATA.masks[fed.union.batches.index].ravel(), minlength=3)
    assert np.allclose(fed.task.loss.class_weights, counts.sum() / (3 * counts))
    assert not same(last("fedavg", fed), last("fedavg", world(precision=precision)))
    exchanged = fed.ledger.frame().query("what == 'statistics'").groupby("direction")["bytes"].sum()
    assert exchanged.to_dict() == {"down": 2 * 3 * 8, "up": 2 * 3 * 8}


def test_a_loss_of_ones_own_is_trained_with():
    def squares(logits, targets, weights, power: float = 2.0):
        """Distance of probabilities and masks."""
        wanted = torch.stack([targets == c for c in range(logits.shape[1])], 1)
        return ((logits.softmax(1) - wanted.to(logits.dtype)).abs() ** power).flatten(1).mean(1)

    LOSSES.add(squares)
    try:
        assert torch.isfinite(last("fedavg", world(loss="squares(power=1.5)")).vector).all()
    finally:
        LOSSES.remove("squares")


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, "small_cnn(width=2, depth=1)", r"returns \(3,\) for a case.*needs \(3, 8, 8\).*model='unet'"),
        ({"attack": "labelflip"}, "tiny_fcn", "flips the labels of cases, and a segmentation task learns from masks"),
        ({"class_weights": [1.0, 2.0]}, "tiny_fcn", "2 numbers for 3 structures: give one for each, background first"),
    ],
)
def test_what_does_not_suit_masks_is_refused(changes, model, message):
    with pytest.raises(ValueError, match=message):
        federation(PART, model, **changes)


def test_what_does_not_suit_labels_is_refused():
    with pytest.raises(ValueError, match=r"'unet' segments.*choose a model that classifies"):
        build("unet", (1, 16, 16), 1, seed=0)
    with pytest.raises(ValueError, match="loss='dice' compares masks, and this task is binary"):
        federation(loss="dice")


def test_both_sides_of_a_split_segment_at_every_cut_of_a_network_with_skip_connections():
    """Several steps, so that optimizer state and statistics of both sides are those of the whole, too."""
    whole = last("cyclic", federation(PART, "unet(width=2, depth=1)", optimizer="adam", rounds=1))
    fed = federation(PART, "unet(width=2, depth=1)", optimizer="adam", rounds=1)
    assert SplitModel(fed, 1, 1)._client.passed.places == {1: 0}
    assert same(last("split(cut=1, tail=1)", fed), whole)
