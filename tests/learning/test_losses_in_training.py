"""The setting `loss` and class weights of classification: the usual loss by its name, and weights of classes."""

import numpy as np
import pytest
import torch
from worlds import CNN, cases, federation, last, partition, same

import fedlab

SIZES = {"binary": 2, "multiclass": 3}


def world(task: str, **changes):
    data = cases(44, classes=SIZES[task])
    return federation(partition(sizes=(16, 4), data=data, held_out=6), CNN, precision="float64", **changes)


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("changes", [{"loss": "cross_entropy"}, {"loss": "focal(gamma=0)"}, {"class_weights": "ones"}])
def test_the_usual_loss_is_cross_entropy_with_equal_weights(task, changes):
    named = changes if "loss" in changes else {"class_weights": [1.0] * SIZES[task]}
    found, usual = last("fedavg", world(task, **named)), last("fedavg", world(task))
    assert torch.allclose(found.vector, usual.vector, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", SIZES)
def test_balanced_weights_are_those_of_all_training_cases(task):
    fed = world(task, class_weights="balanced")
    counts = np.bincount(fed.labels[fed.union.batches.index])
    weights = list(counts.sum() / (len(counts) * counts))
    assert np.allclose(fed.task.loss.class_weights, weights)
    assert same(last("fedavg", fed), last("fedavg", world(task, class_weights=weights)))


def test_grades_are_trained_with_their_loss_and_judged_by_kappa(tmp_path):
    data = cases(44, classes=3)
    data.card["task"] = "ordinal"
    part = partition(sizes=(16, 4), data=data, held_out=6)
    given = {"rounds": 2, "model": CNN, "local_steps": 1, "batch_size": None, "device": "cpu"}
    run = fedlab.run(fedlab.Experiment(loss="ordinal", class_weights="balanced", **given), part, folder=tmp_path)
    other = fedlab.run(fedlab.Experiment(**given), part, folder=tmp_path)
    assert run.headline == "kappa" and fedlab.compare([run])["metric"].unique().tolist() == ["kappa"]
    assert not np.array_equal(run.predictions["p1"], other.predictions["p1"])
    with pytest.raises(ValueError, match="loss='ordinal' compares grades, and this task is multiclass"):
        world("multiclass", loss="ordinal")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "focl"}, "unknown loss 'focl'.*focal"),
        ({"loss": "focal(gamma=-1)"}, "gamma"),
        ({"class_weights": "equal"}, "write 'none', 'balanced' or a list of numbers"),
        ({"class_weights": [0.0, 0.0]}, "not all of them 0"),
        ({"class_weights": [1.0, -1.0]}, "at least 0"),
    ],
)
def test_impossible_losses_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fedlab.Experiment(**changes)


def test_the_usual_loss_leaves_the_identity_of_runs_alone():
    """Runs of a fedlab that had no such field are found again."""
    part = fedlab.partition(cases(60), 2)
    usual, other = fedlab.Experiment(), fedlab.Experiment(loss="focal")
    assert usual.identity(part, 3) == usual.with_(loss="auto").identity(part, 3) != other.identity(part, 3)
