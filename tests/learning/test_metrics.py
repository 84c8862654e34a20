"""Laws of metrics and of their intervals."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fedlab.core.rng import stream
from fedlab.learning.mask_metrics import MASK_METRICS
from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS, TASK_METRICS, metric, targets
from fedlab.learning.regression_metrics import REGRESSION_METRICS

SHAPES = ["binary", "multiclass", "multilabel"]
seeds = st.integers(0, 10**6)
quick = settings(max_examples=15, deadline=None)


OF_PROBABILITIES = [name for name in METRICS if name not in {*MASK_METRICS, *REGRESSION_METRICS}]


def measure(name, *args):
    return METRICS.function(name)(*args)


def sample(shape, seed, n=40):
    """(y, p) with every class present and many tied probabilities."""
    rng = stream(seed, "test", shape)
    if shape == "multilabel":
        y = np.vstack([np.zeros(3, int), np.ones(3, int), rng.integers(0, 2, (n - 2, 3))])
        return y, rng.integers(0, 9, y.shape) / 8
    classes = 2 if shape == "binary" else 4
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    shares = rng.integers(1, 5, (n, classes)).astype(float)
    return y, shares / shares.sum(1, keepdims=True)


def ordered(y, scores):
    """AUROC by its definition: the share of pairs in the right order, ties one half."""
    gap = scores[y == 1][:, None] - scores[y == 0]
    return ((gap > 0) + (gap == 0) / 2).mean()


@quick
@given(seeds)
def test_binary_metrics_are_those_of_scikit_learn(seed):
    y, p = sample("binary", seed)
    decision = p[:, 1] > 0.5
    expected = {
        "auroc": sk.roc_auc_score(y, p[:, 1]),
        "average_precision": sk.average_precision_score(y, p[:, 1]),
        "accuracy": sk.accuracy_score(y, decision),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decision),
        "brier": sk.brier_score_loss(y, p[:, 1]),
        "log_loss": sk.log_loss(y, p),
    }
    assert {name: measure(name, y, p) for name in expected} == pytest.approx(expected, abs=1e-12)


@quick
@given(seeds)
def test_multiclass_metrics_are_those_of_scikit_learn(seed):
    y, p = sample("multiclass", seed)
    member = np.eye(4)[y]
    expected = {
        "auroc": sk.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "average_precision": sk.average_precision_score(member, p, average="macro"),
        "accuracy": sk.accuracy_score(y, p.argmax(1)),
        "balanced_accuracy": sk.balanced_accuracy_score(y, p.argmax(1)),
        "brier": ((p - member) ** 2).sum(1).mean(),
        "log_loss": sk.log_loss(y, p),
        "kappa": sk.cohen_kappa_score(y, p.argmax(1), weights="quadratic"),
    }
    assert {name: measure(name, y, p) for name in expected} == pytest.approx(expected, abs=1e-12)


@quick
@given(seeds)
def test_multilabel_metrics_are_means_of_binary_ones(seed):
    y, p = sample("multilabel", seed)
    for name in OF_PROBABILITIES:
        each = [measure(name, y[:, j], np.column_stack([1 - p[:, j], p[:, j]])) for j in range(3)]
        assert measure(name, y, p) == pytest.approx(np.mean(each), abs=1e-12)
    assert measure("auroc", y, p) == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
    assert measure("accuracy", y, p) == pytest.approx(((p > 0.5) == y).mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_multiplicities_are_repeated_cases(name, shape):
    y, p = sample(shape, 1)
    weights = stream(0, "test", name).poisson(1.0, (30, len(y))).astype(np.uint16)
    weights[0] = 1
    expected = [measure(name, np.repeat(y, w, 0), np.repeat(p, w, 0)) for w in weights]
    values = measure(name, y, p, weights)
    assert values.shape == (30,)
    np.testing.assert_allclose(values, expected, atol=1e-12)
    np.testing.assert_allclose(measure(name, y, p, 3.0 * weights), values, atol=1e-12)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_values_do_not_depend_on_how_many_draws_are_taken_at_once(name):
    y, p = sample("multiclass", 2, n=3000)
    weights = stream(0, "test").poisson(1.0, (200, len(y)))
    one = measure(name, y, p, weights[150:151])
    np.testing.assert_allclose(measure(name, y, p, weights)[150:151], one, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_order_of_cases_does_not_matter(name, shape):
    y, p = sample(shape, 3)
    order = stream(0, "test").permutation(len(y))
    assert measure(name, y[order], p[order]) == pytest.approx(measure(name, y, p), abs=1e-12)


@quick
@given(seeds)
def test_pooled_auroc_is_the_mixture_of_within_and_between_sites(seed):
    y, p = sample("binary", seed, n=60)
    site = np.concatenate([[0, 0, 1, 1, 2, 2], stream(seed, "site").integers(0, 3, 54)])
    mixture = 0.0
    for k in range(3):
        for other in range(3):
            pair = ((site == k) & (y == 1)) | ((site == other) & (y == 0))
            weight = ((site == k) & (y == 1)).sum() * ((site == other) & (y == 0)).sum()
            mixture += weight * measure("auroc", y[pair], p[pair]) if weight else 0.0
    pooled = measure("auroc", y, p)
    assert pooled == pytest.approx(mixture / ((y == 1).sum() * (y == 0).sum()), abs=1e-12)
    assert pooled == pytest.approx(ordered(y, p[:, 1]), abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "brier", "log_loss"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pooled_means_are_the_size_weighted_means_of_sites(name, shape):
    y, p = sample(shape, 4, n=90)
    parts = [slice(0, 13), slice(13, 40), slice(40, 90)]
    weighted = sum((rows.stop - rows.start) / 90 * measure(name, y[rows], p[rows]) for rows in parts)
    assert measure(name, y, p) == pytest.approx(weighted, abs=1e-12)


def test_kappa_is_one_when_perfect_zero_by_chance_and_minus_one_when_reversed():
    grades = np.eye(5)
    y = np.repeat(np.arange(5), 5)
    assert measure("kappa", y, grades[y]) == pytest.approx(1, abs=1e-12)
    assert measure("kappa", y, grades[np.tile(np.arange(5), 5)]) == pytest.approx(0, abs=1e-12)
    assert measure("kappa", y, grades[4 - y]) == pytest.approx(-1, abs=1e-12)
    assert measure("kappa", y, grades[np.full(25, 2)]) == 0
    assert measure("kappa", np.full(25, 2), grades[np.full(25, 2)]) == 0
    assert measure("kappa", np.full(3, 2), grades[np.full(3, 2)], np.full((1, 3), 1 / 3)) == [0]


def test_exactly_one_half_is_class_zero_and_equal_classes_are_the_first():
    assert measure("accuracy", [0, 1], [[0.5, 0.5], [0.5, 0.5]]) == 0.5
    assert measure("accuracy", [[0, 1]], [[0.5, 0.5]]) == 0.5
    assert measure("accuracy", [0, 1, 2], np.full((3, 3), 1 / 3)) == pytest.approx(1 / 3)


def test_calibration_error_closed_forms():
    constant = np.tile([0.2, 0.8], (10, 1))
    assert measure("ece", [1] * 8 + [0] * 2, constant) == pytest.approx(0, abs=1e-12)
    assert measure("ece", [1] * 5 + [0] * 5, constant) == pytest.approx(0.3)
    assert measure("ece", [0, 1, 2], np.eye(3)) == 0
    assert measure("ece", [1, 2, 0], np.eye(3)) == pytest.approx(1)
    apart = np.array([[0.1, 0.9]] * 10 + [[0.4, 0.6]] * 10)  # two bins: gaps of one sign in each do not cancel
    assert measure("ece", [1] * 10 + [0] * 10, apart) == pytest.approx((0.1 + 0.6) / 2)
    together = np.array([[0.28, 0.72], [0.21, 0.79]])  # one bin, (11/15, 12/15] holds 0.79 and 0.74 but not 0.72
    assert measure("ece", [1, 0], together) == pytest.approx((0.28 + 0.79) / 2)
    assert measure("ece", [1, 0], [[0.26, 0.74], [0.21, 0.79]]) == pytest.approx((0.79 - 0.26) / 2)


def test_what_is_undefined_is_nan_without_a_warning():
    one_class, absent = np.array([1, 1, 1]), np.array([0, 1, 1])
    two, three = np.array([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]]), np.full((3, 3), 1 / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("auroc", "average_precision", "balanced_accuracy"):
            assert np.isnan(measure(name, one_class, two))
            assert np.isnan(measure(name, one_class, three))
            assert np.isnan(measure(name, [[1, 0], [1, 0], [1, 0]], two))
        for name in OF_PROBABILITIES:
            assert np.isnan(measure(name, np.zeros(0, int), np.zeros((0, 2))))
            assert np.isnan(measure(name, absent, two, np.zeros((4, 3)))).all()
            assert np.isnan(measure(name, absent, np.where(two > 0.85, np.nan, two)))
        drawn = measure("auroc", absent, two, np.array([[1, 1, 1], [0, 2, 1], [2, 1, 0]]))
    assert np.isfinite(drawn).tolist() == [True, False, True]


def test_tasks_name_registered_metrics_headline_first():
    usual = dict.fromkeys(TASK_METRICS, "auroc") | {"segmentation": "dice", "ordinal": "kappa", "regression": "mae"}
    assert {task: names[0] for task, names in TASK_METRICS.items()} == usual
    assert {name for names in TASK_METRICS.values() for name in names} <= set(METRICS)
    assert set(HIGHER_IS_BETTER) == set(METRIC_LABELS) == set(METRICS)
    lower = {"brier", "ece", "log_loss", "hd95", "volume_error", "false_lesions", "mae", "rmse", "bias"}
    assert {name for names in TASK_METRICS.values() for name in names if not HIGHER_IS_BETTER[name]} | lower == lower
    with pytest.raises(ValueError, match="auroc"):
        METRICS.function("auroq")


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_better_predictions_score_on_the_better_side(name):
    y, _ = sample("multiclass", 5)
    good, poor = measure(name, y, 0.9 * np.eye(4)[y] + 0.025), measure(name, y, 0.9 * np.eye(4)[(y + 1) % 4] + 0.025)
    assert (good > poor) == HIGHER_IS_BETTER[name]


def test_targets_read_bit_masks():
    np.testing.assert_array_equal(targets([0, 1, 6], "multilabel", 3), [[0, 0, 0], [1, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(targets([0, 1, 6], "multiclass", 7), [0, 1, 6])


def test_arrays_that_do_not_fit_are_refused():
    two = np.full((3, 2), 0.5)
    with pytest.raises(ValueError, match=r"y holds 0\.\.2"):
        measure("auroc", [0, 1, 2], two)
    with pytest.raises(ValueError, match="shape"):
        measure("auroc", [0, 1], two)
    with pytest.raises(ValueError, match="stack"):
        measure("auroc", [0, 1, 1], two[:, :1])
    with pytest.raises(ValueError, match="wanted the same"):
        measure("auroc", [[0, 1, 1]] * 3, two)
    with pytest.raises(ValueError, match=r"\(draws, 3\)"):
        measure("auroc", [0, 1, 1], two, np.ones(3))


def test_a_metric_of_ones_own_joins_the_others():
    @metric("sensitivity")
    def sensitivity(y, p, weights):
        """Share of diseased cases found."""
        return weights @ ((p[:, 1] > 0.5) & (y == 1)) / (weights @ (y == 1))

    try:
        assert METRICS["sensitivity"] == "Share of diseased cases found."
        assert measure("sensitivity", [1, 1, 0], [[0.1, 0.9], [0.9, 0.1], [0.1, 0.9]]) == 0.5
        assert np.isnan(measure("sensitivity", [0], [[0.1, 0.9]]))
    finally:
        METRICS.remove("sensitivity")
        for register in (METRIC_LABELS, HIGHER_IS_BETTER):
            del register["sensitivity"]
