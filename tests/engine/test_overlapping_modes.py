"""Structures that may overlap are trained with every method, in every mode of execution, and resumed."""

import numpy as np
import pandas as pd
import pytest
import recordings
import torch
from interruptions import PowerCut, interrupt
from test_segmentation_modes import tiny_fcn
from torch import nn
from worlds import at_sites, ends, federation, last, parameters, partition, same

import fedlab
from fedlab.algorithms import METHODS
from fedlab.data.cases import Cases
from fedlab.engine import cuda_graph
from fedlab.federation import Federation
from fedlab.learning.models import MODELS, build

DATA = fedlab.load("phantoms(cases=36, size=16, task='segmentation', overlap=True)")
PART = partition(sizes=(10, 6), data=DATA, held_out=4)


@pytest.fixture(autouse=True)
def _tiny_fcn(monkeypatch):
    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "tiny_fcn": tiny_fcn})


def world(**changes) -> Federation:
    return federation(PART, "tiny_fcn", **{"local_steps": 2, "batch_size": 4, **changes})


def test_one_full_batch_step_of_fedavg_is_gradient_descent():
    fed = world(rounds=1, local_steps=1, batch_size=None, lr=0.5, precision="float64", batchnorm="group")
    found = last("fedavg", fed)
    net = build("tiny_fcn", DATA.shape, 2, 0, "group", dense=True).double()
    rows = fed.union.batches.index
    images, masks = torch.from_numpy(DATA.images[rows]).double() / 255, torch.from_numpy(DATA.masks[rows])
    p, g = net(images).sigmoid().flatten(2), torch.stack([masks & 1, masks >> 1], 1).double().flatten(2)
    dice = 1 - (2 * (p * g).sum(2) + 1e-5) / (p.sum(2) + g.sum(2) + 1e-5)  # by hand, not by fedlab's losses
    (dice.mean() + nn.functional.binary_cross_entropy(p, g)).backward()
    with torch.no_grad():
        for w in net.parameters():
            w -= 0.5 * w.grad
    stepped = torch.cat([w.flatten() for w in net.parameters()])
    w = torch.cat([view.flatten() for view in fed.layout.views(found.parameters[None]).values()])
    assert torch.allclose(w, stepped, rtol=0, atol=1e-12)


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_every_method_segments_structures_that_overlap(method):
    fed = world(rounds=1)
    found = ends(method, fed)
    assert all(torch.isfinite(w).all() for w in parameters(found))
    model = found.get("global", found.get("local"))
    one = model[0] if getattr(model, "stacked", False) else model
    stored = fed.predict(one, fed.partition.index("Site A", "test"))
    assert stored.shape == (4, len(fed.task.columns)) and fed.task.is_finite(stored)


@pytest.mark.parametrize("augment", ["none", "flip + rotate(20)"])
def test_modes_and_split_learning_train_with_the_same_numbers(augment, monkeypatch):
    """Masks move with augmented images in each of them."""
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)
    given = {"precision": "float64", "augment": augment, "class_weights": "balanced"}
    found = {}
    for mode in ("sequential", "vmap", "cuda_graph"):
        fed = world(execution=mode, **given)
        found[mode] = at_sites("fedavg", fed)
        assert fed.execution.used == {mode}
        assert torch.allclose(found[mode].vector, found["sequential"].vector, rtol=0, atol=1e-10), mode
    for split in ("splitfed(cut=2)", "splitfed(cut=1, tail=1)"):
        assert same(last(split, world(**given)), last("fedavg", world(**given)))


def test_masks_move_with_augmented_images():
    """What the loss sees of a mask is what it sees of an image that is the mask."""
    shades = np.arange(len(DATA), dtype=np.uint8).reshape(-1, 1, 1, 1)  # no two images are the same
    images = (DATA.masks[:, None] > 0) * np.uint8(200) + shades
    data = Cases(images, DATA.table, DATA.card, DATA.masks)
    fed = federation(partition(sizes=(10, 6), data=data, held_out=4), "tiny_fcn", augment="flip + shift(0.2)")
    index, inputs, key = fed.union.batches.index, fed.execution.engine.inputs, [(0, "Site A", 1)]
    images, before = inputs.gather(fed.execution.engine.dataset.rows(index), [index], key)
    moved, masks = inputs.augment(images, before, [index], key)
    clear = (moved[:, 0] < 0.2) | (moved[:, 0] > 0.7)
    assert torch.equal((masks > 0)[clear], moved[:, 0][clear] > 0.5) and not torch.equal(masks, before)
    assert (masks[clear] > 0).any()


def test_weights_balance_the_voxels_of_structures():
    fed = world(class_weights="balanced")
    masks = DATA.masks[fed.union.batches.index]
    counts = np.array([(masks & 1 > 0).sum(), (masks & 2 > 0).sum()])
    assert np.allclose(fed.task.loss.class_weights, counts.sum() / (2 * counts))
    with pytest.raises(ValueError, match=r"3 numbers for 2 structures: give one for each$"):
        world(class_weights=[1.0, 2.0, 3.0])


def test_a_killed_run_resumes_and_predicts_its_masks(tmp_path, monkeypatch):
    experiment = fedlab.Experiment(
        model="tiny_fcn", rounds=2, local_steps=2, batch_size=4, device="cpu", augment="flip", lr=0.5
    )
    whole = fedlab.run(experiment, PART, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, after=3)
        with pytest.raises(PowerCut):
            fedlab.run(experiment, PART, folder=tmp_path / "killed")
    resumed = fedlab.run(experiment, PART, folder=tmp_path / "killed")
    pd.testing.assert_frame_equal(resumed.predictions, whole.predictions, check_exact=True)
    found = fedlab.predicted_masks([whole], partition=PART)
    masks, stored = found.predicted["fedavg"], whole.predictions.query("choice == 'last'").set_index("case")
    assert found.overlap and len(found.table)
    for k, case in enumerate(found.table["case"]):
        for bit in (1, 2):
            both = ((masks[k] & bit) > 0) & ((found.truth[k] & bit) > 0)
            assert both.sum() == stored.loc[case, f"tp{bit}"]
            assert ((masks[k] & bit) > 0).sum() == stored.loc[case, [f"tp{bit}", f"fp{bit}"]].sum()
    fedlab.plots.contours(found)
