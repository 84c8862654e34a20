"""Regression: a number of each case is learnt by every method, on one scale, and judged by metrics of numbers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from worlds import at_sites, cases, ends, federation, partition, same

import fedlab
from fedlab.learning.losses import LOSSES, Loss
from fedlab.learning.metrics import METRICS
from fedlab.learning.models import MODELS
from fedlab.learning.regression_metrics import REGRESSION_METRICS

SIZES, RNG = (12, 6), np.random.default_rng(0)
N = sum(SIZES) + 2 * len(SIZES) * 4
AGE = (60 + (np.arange(N) % 2 - 0.5) * 20 + RNG.normal(0, 4, N)).round(1)  # brighter centres are older
DATA = cases(N, shape=(1, 6, 6), age=AGE, months=12 * AGE + 5, sex="F", hollow=[None, *AGE[1:]], same=7.0)
GIVEN = {"rounds": 1, "local_steps": 1, "batch_size": None, "lr": 0.01, "precision": "float64"}


def world(target="age", sizes=SIZES, model="logistic", **changes):
    part = partition(sizes=sizes, data=DATA.with_target(target), held_out=4)
    return federation(part, model, **GIVEN | changes)


def trained(fed):
    """Pixels (n, 36) with a constant, and targets (n,), of each site's training cases."""
    each = [site.batches.index for site in fed.sites]
    pixels = [np.c_[DATA.images[index].reshape(len(index), -1) / 255.0, np.ones(len(index))] for index in each]
    return pixels, [fed.partition.cases.targets[index] for index in each]


def test_a_full_batch_step_of_fedavg_is_gradient_descent_of_linear_regression():
    fed = world(target_scale=[50.0, 10.0], rounds=3)
    pixels, targets = trained(fed)
    x, y = np.concatenate(pixels), (np.concatenate(targets) - 50) / 10
    w = np.zeros(x.shape[1])
    for _ in range(3):
        w -= 0.01 * 2 * x.T @ (x @ w - y) / len(y)
    (model,) = ends("fedavg", fed).values()
    found = fed.predict(model, np.concatenate([site.batches.index for site in fed.sites]))
    assert np.allclose(found[:, 0], 50 + 10 * (x @ w), rtol=0, atol=1e-9)


def linear(shape, outputs):
    """Two linear layers that start at zero but for the first, so that all methods find stages to keep or to cut."""
    layers = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), nn.Linear(4, outputs))
    nn.init.zeros_(layers[1].weight)
    nn.init.zeros_(layers[1].bias)
    return layers


@pytest.fixture(autouse=True, scope="module")
def _linear():
    MODELS.add(linear)
    yield
    MODELS.remove("linear")


@pytest.mark.every_method
@pytest.mark.parametrize("method", fedlab.METHODS)
def test_every_method_learns_a_number(method):
    """Full-batch steps from the mean of all training targets lower the squared error of the cases that are trained on.

    A single pass ends at the last site, which alone it fits.
    """
    fed, gained = world(model="linear", local_steps=2, lr=0.02), []
    used = ends(method, fed)["global"] if method == "ensemble" else at_sites(method, fed)
    for k, site in enumerate(fed.sites):
        targets = fed.partition.cases.targets[site.batches.index]
        error = fed.predict(used if method == "ensemble" else used[k], site.batches.index)[:, 0] - targets
        gained.append(((targets - fed.task.scale.mean) ** 2).sum() - (error**2).sum())
    assert max(gained) > 0 if method == "single_pass" else sum(gained) > 0


def test_a_batched_model_learns_what_sites_learn_one_after_another():
    found = [
        next(iter(ends("fedavg", world(execution=mode, local_steps=3)).values())) for mode in ("vmap", "sequential")
    ]
    assert torch.allclose(found[0].vector, found[1].vector, rtol=0, atol=1e-12)


def test_a_split_model_of_one_site_learns_what_the_whole_one_does():
    model = "small_cnn(width=4, depth=1)"
    whole, parts = (ends(method, world(sizes=(12,), model=model)) for method in ("local", "split(cut=1)"))
    found = [next(iter(each.values())).vector.flatten() for each in (whole, parts)]
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_sites_exchange_mean_and_deviation_of_their_training_targets_once():
    fed = world()
    _, targets = trained(fed)
    values = np.concatenate(targets)
    assert np.allclose([fed.task.scale.mean, fed.task.scale.deviation], [values.mean(), values.std()])
    first = fed.ledger.frame().query("round == 0").groupby("direction")["bytes"].sum()
    assert first.to_dict() == {"up": 2 * 24, "down": 2 * 16}
    given = world(target_scale=[fed.task.scale.mean, fed.task.scale.deviation])
    assert given.ledger.frame().empty and world(target_scale="none").task.scale.mean == 0
    assert same(*(next(iter(ends("fedavg", each).values())).without_moments() for each in (fed, given)))


def test_predictions_follow_the_unit_of_the_target():
    found = []
    for target in ("age", "months"):
        fed = world(target, local_steps=4)
        (model,) = ends("fedavg", fed).values()
        found.append(fed.predict(model, np.arange(N)))
    assert np.allclose(found[1], 12 * found[0] + 5, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("mse", F.mse_loss), ("mae", F.l1_loss), ("huber(delta=0.5)", lambda *pair: F.huber_loss(*pair, delta=0.5))],
)
def test_losses_are_those_of_pytorch(text, expected):
    outputs, targets = torch.randn(6, 1, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    assert torch.isclose(Loss(text)(outputs, targets), expected(outputs[:, 0], targets))
    assert Loss(text)(outputs, targets, reduction="none").shape == (6,)


def test_a_loss_of_ones_own_gets_standardised_targets():
    seen = []

    def tilted(outputs, targets, class_weights, quantile: float = 0.5):
        """Quantile loss."""
        seen.append(targets)
        error = targets - outputs[:, 0]
        return torch.maximum(quantile * error, (quantile - 1) * error)

    LOSSES.add(tilted)
    try:
        ends("fedavg", world(loss="tilted(quantile=0.9)"))
    finally:
        LOSSES.remove("tilted")
    assert seen and max(float(each.abs().max()) for each in seen) < 6


def test_metrics_agree_with_scikit_learn_and_with_repeated_cases():
    from sklearn import metrics

    y, p = RNG.normal(60, 12, 30), RNG.normal(60, 12, (30, 1))
    expected = {
        "mae": metrics.mean_absolute_error(y, p),
        "rmse": metrics.mean_squared_error(y, p) ** 0.5,
        "r2": metrics.r2_score(y, p),
        "bias": float((p[:, 0] - y).mean()),
    }
    times = RNG.integers(0, 3, 30)
    for name in REGRESSION_METRICS & set(expected):
        measure = METRICS.function(name)
        repeated = measure(np.repeat(y, times), np.repeat(p, times, axis=0))
        assert np.isclose(measure(y, p), expected[name]) and np.isclose(measure(y, p, [times])[0], repeated)
        assert np.isnan(measure(y, np.full((30, 1), np.inf)))
    assert np.isnan(METRICS.function("r2")(np.full(4, 1e6), np.arange(4.0)))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("agee", "no column of the table: did you mean 'age'"),
        ("sex", "holds string values such as 'F': a regression predicts numbers; choose one of label, age"),
        ("hollow", "1 of 34 cases have no 'hollow' .first: case 'case-0000'.: leave them out"),
    ],
)
def test_a_column_that_cannot_be_predicted_is_refused(column, message):
    with pytest.raises(ValueError, match=message):
        DATA.with_target(column)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "cross_entropy"}, "compares classes, and this task is regression: use 'mse'"),
        ({"loss": "dice"}, "compares classes, and this task is regression"),
        ({"class_weights": "balanced"}, "weighs classes, and a regression of 'age' has none"),
        ({"attack": "labelflip"}, "a regression learns numbers: choose an attack on the models"),
        ({"target_scale": [60.0, 0.0]}, "a standard deviation above 0"),
        ({"target_scale": "sites"}, "write 'pooled', 'none', or"),
        ({"target": "same"}, "all 18 training cases have same 7, so there is nothing to predict"),
    ],
)
def test_what_needs_classes_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        world(**changes)


def test_what_changes_labels_is_refused():
    data = DATA.with_target("age")
    with pytest.raises(ValueError, match="does not suit the regression task of world: leave `annotation` at 0"):
        fedlab.partition(data, sites=2, annotation=0.5)
    with pytest.raises(ValueError, match="weighs classes, and a regression has none: use 'iterations'"):
        ends("cyclic(mitigation='loss')", world())
    with pytest.raises(ValueError, match=r"loss='mse' compares numbers, and this task is binary.*target='age'"):
        federation(partition(sizes=SIZES, data=DATA, held_out=4), "logistic", loss="mse")
