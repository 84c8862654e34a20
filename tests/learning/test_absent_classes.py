"""Metrics where some classes have no case: they are those of the classes that are there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fedlab.core.rng import stream
from fedlab.learning.metrics import METRICS, TASK_METRICS, present_classes

OVER_CLASSES = ("auroc", "average_precision", "balanced_accuracy")
quick = settings(max_examples=15, deadline=None)


def measure(name, *args):
    return METRICS.function(name)(*args)


def sample(seed, classes, there, n=60):
    """Labels among `there` of so many classes, each present, and probabilities of all classes."""
    rng = stream(seed, "test")
    y = np.concatenate([there, rng.choice(there, n - len(there))])
    p = rng.integers(1, 9, (n, classes)).astype(float)
    return y, p / p.sum(1, keepdims=True)


@quick
@given(st.integers(0, 10**6), st.integers(3, 9), st.data())
def test_metrics_are_the_means_over_the_classes_that_are_there(seed, classes, data):
    there = data.draw(st.lists(st.integers(0, classes - 1), min_size=2, max_size=classes, unique=True))
    y, p = sample(seed, classes, np.array(sorted(there)))
    expected = {
        "auroc": np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in there]),
        "average_precision": np.mean([sk.average_precision_score(y == c, p[:, c]) for c in there]),
        "balanced_accuracy": np.mean([(p[y == c].argmax(1) == c).mean() for c in there]),
    }
    assert {name: measure(name, y, p) for name in expected} == pytest.approx(expected, abs=1e-12)


@quick
@given(st.integers(0, 10**6), st.integers(4, 9), st.data())
def test_metrics_of_rankings_are_those_of_the_relabelled_data(seed, classes, data):
    there = np.array(sorted(data.draw(st.lists(st.integers(0, classes - 1), min_size=3, unique=True))))
    y, p = sample(seed, classes, there)
    weights = stream(seed, "draws").poisson(2.0, (5, len(y)))
    for name in ("auroc", "average_precision"):
        for more in ((), (weights,)):
            relabelled = measure(name, np.searchsorted(there, y), p[:, there], *more)
            np.testing.assert_array_equal(measure(name, y, p, *more), relabelled)


@quick
@given(st.integers(0, 10**6))
def test_a_label_without_positive_or_negative_cases_is_left_out(seed):
    rng = stream(seed, "test")
    y, p = rng.integers(0, 2, (30, 3)), rng.random((30, 5))
    y[:2] = [[0, 0, 0], [1, 1, 1]]
    y = np.column_stack([np.zeros(30, int), y, np.ones(30, int)])
    for name in TASK_METRICS["multilabel"][:2]:
        np.testing.assert_array_equal(measure(name, y, p), measure(name, y[:, 1:4], p[:, 1:4]))
    assert measure("accuracy", y, p) == pytest.approx(((p > 0.5) == y).mean())


def test_a_draw_that_lacks_a_class_of_the_sample_is_undefined():
    y, p = np.array([0, 2, 2, 4, 4]), np.full((5, 6), 1 / 6)
    for name in OVER_CLASSES:
        drawn = measure(name, y, p, np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [2, 2, 0, 0, 3]]))
        assert np.isfinite(drawn).tolist() == [True, False, True]


def test_one_class_alone_is_undefined():
    for name in OVER_CLASSES:
        assert np.isnan(measure(name, [3, 3, 3], np.full((3, 6), 1 / 6)))
        assert np.isnan(measure(name, [1, 1, 1], np.full((3, 2), 1 / 2)))


def test_present_classes_have_a_case_and_lack_one():
    assert present_classes([0, 2, 5, 2], 6).tolist() == [0, 2, 5]
    assert present_classes([4, 4], 6).tolist() == present_classes([], 6).tolist() == []
    assert present_classes([[1, 0, 1], [1, 0, 0]], 3).tolist() == [2]


@quick
@given(st.integers(0, 10**6), st.sampled_from(OVER_CLASSES))
def test_where_all_classes_are_there_no_bit_changes(seed, name):
    """The definition over all classes, as one sum over the last axis."""
    y, p = sample(seed, 5, np.arange(5))
    weights = stream(seed, "draws").poisson(1.0, (7, len(y))).astype(float)
    member = np.eye(5)[y]
    if name == "balanced_accuracy":
        with np.errstate(invalid="ignore"):
            expected = ((weights @ (member * (p.argmax(1) == y)[:, None])) / (weights @ member)).mean(1)
    else:
        binary = [
            measure(name, (y == c).astype(int), np.column_stack([1 - p[:, c], p[:, c]]), weights) for c in range(5)
        ]
        expected = np.mean(binary, axis=0)
    np.testing.assert_array_equal(measure(name, y, p, weights), expected)
