"""Numbers that an independent implementation reached on real data, through the public API.

The deterministic federation of PneumoniaMNIST has no randomness at all: every method must land on its published digits.
"""

import os

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import fedlab

pytestmark = pytest.mark.skipif(not os.environ.get("FEDLAB_MIRROR"), reason="set FEDLAB_MIRROR to the official files")
SLICES = [((0, 50), (0, 950)), ((50, 250), (950, 1750)), ((250, 650), (1750, 2150)), ((650, 1214), (2150, 2350))]
ANCHORS = {  # method: rounds, F on the union, test AUC, test accuracy, norm of (w, b)
    "centralized": (100, 0.2721838910, 0.91087004, 0.81891026, 1.62814947),
    "fedavg": (100, 0.2884094683, 0.90879904, 0.82051282, 1.46402336),
    "cyclic": (25, 0.4072456629, 0.91354372, 0.78525641, 1.52688743),
}


@pytest.fixture(scope="module")
def pneumonia():
    with pytest.warns(UserWarning, match="duplicates"):
        return fedlab.load("pneumoniamnist")


@pytest.fixture(scope="module")
def sites(pneumonia):
    """Case names of each site: negatives and positives of the training set in file order."""
    train = np.flatnonzero(pneumonia.table["split"] == "train")
    negative, positive = (train[pneumonia.labels[train] == label] for label in (0, 1))
    return {
        f"Site {k}": pneumonia.table["case"][np.concatenate([negative[slice(*n)], positive[slice(*p)]])].tolist()
        for k, (n, p) in enumerate(SLICES)
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", ANCHORS)
def test_deterministic_pneumonia_federation(method, pneumonia, sites, tmp_path):
    rounds, objective, auc, accuracy, norm = ANCHORS[method]
    experiment = fedlab.Experiment(
        dataset="pneumoniamnist",
        method=method,
        model="logistic",
        rounds=rounds,
        local_steps=10,
        batch_size=None,
        lr=0.01,
        weight_decay=0.01,
        precision="float64",
        device="cpu",
        evaluate_every=rounds,
    )
    part = fedlab.Partition.from_sites(pneumonia, sites)
    run = fedlab.run(experiment, part, folder=tmp_path)
    weight, bias = run.weights("global").values()
    used = np.flatnonzero(pneumonia.table["case"].isin(part.table["case"]))
    assert abs(mean_loss(pneumonia, used, weight, bias) - objective) < 1e-8
    assert abs(float(torch.cat([weight.ravel(), bias]).norm()) - norm) < 1e-8
    tested = run.predictions.query("split == 'test' and choice == 'last'")
    assert len(tested) == 624
    assert abs(roc_auc_score(tested["label"], tested["p1"]) - auc) < 1e-8
    assert abs(((tested["p1"] > 0.5) == tested["label"]).mean() - accuracy) < 1e-8


def test_centralized_optimum_of_pneumonia(pneumonia, tmp_path):
    train = pneumonia.take(pneumonia.table["split"].to_numpy() == "train")
    part = fedlab.Partition.from_sites(train, np.repeat("Site A", len(train)))
    run = fedlab.run(optimum(rounds=30, lr=0.04, local_steps=50, momentum=0.98), part, folder=tmp_path)
    weight, bias = run.weights("global").values()
    assert abs(mean_loss(pneumonia, np.arange(len(train)), weight, bias) - 0.20534637) < 1e-5


def test_centralized_optimum_of_retina(tmp_path):
    retina = fedlab.load("retinamnist")
    train = retina.take(retina.table["split"].to_numpy() == "train")
    part = fedlab.Partition.from_sites(train, np.repeat("Site A", len(train)))
    run = fedlab.run(optimum(rounds=20, lr=0.02, local_steps=50, momentum=0.98), part, folder=tmp_path)
    weight, bias = run.weights("global").values()
    logits = pixels(train) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.labels.copy()))
    assert abs(float(loss + 0.005 * (weight**2).sum()) - 1.09365677) < 1e-5


def optimum(**changes) -> fedlab.Experiment:
    fixed = {"batch_size": None, "weight_decay": 0.01, "precision": "float64", "evaluate_every": 100, "device": "cpu"}
    return fedlab.Experiment(method="centralized", model="logistic", **fixed, **changes)


def pixels(cases) -> torch.Tensor:
    return torch.from_numpy(np.array(cases.images)).flatten(1).double() / 255


def mean_loss(cases, index, weight, bias) -> float:
    """Mean cross-entropy plus (lambda/2)|w|^2, lambda = 0.01."""
    logits = pixels(cases.take(index)) @ weight.ravel() + bias
    y = torch.from_numpy(cases.labels[index]).double()
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, y) + 0.005 * (weight**2).sum())
