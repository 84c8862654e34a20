"""Metrics of masks from stored counts: rules for empty masks, weights, and which tasks they are for."""

import numpy as np
import pytest

from fedlab.learning import mask_metrics
from fedlab.learning.mask_metrics import MASK_METRICS
from fedlab.learning.metrics import METRICS

RULES = {  # metric -> value where both, only the mask, only the prediction are empty; columns tp, fp, fn, hd, nsd
    "dice": (np.nan, 0.0, 0.0), "iou": (np.nan, 0.0, 0.0), "hd95": (np.nan, 9.0, 9.0), "nsd": (np.nan, 0.0, 0.0),
    "volume_error": (np.nan, np.nan, 1.0),
}  # fmt: skip
EMPTY = [[0, 0, 0, np.nan, np.nan], [0, 5, 0, 9, 0], [0, 0, 5, 9, 0]]


def stored(cases: int = 20, structures: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (cases, structures, 3))
    distances = np.where(counts.sum(2, keepdims=True) > 0, rng.random((cases, structures, 2)), np.nan)
    return np.concatenate([counts, distances], 2).reshape(cases, -1)


@pytest.mark.parametrize("metric", RULES)
def test_empty_masks_are_left_out_or_failures(metric):
    assert np.array_equal(mask_metrics.case_scores(metric, np.array(EMPTY)), RULES[metric], equal_nan=True)


@pytest.mark.parametrize("metric", RULES)
def test_multiplicities_are_repeated_cases(metric):
    p = stored()
    times = np.random.default_rng(1).integers(0, 3, (4, len(p)))
    measure = METRICS.function(metric)
    expected = [measure(None, np.repeat(p, row, axis=0)) for row in times]
    assert np.allclose(measure(None, p, times), expected, equal_nan=True)
    assert np.isnan(measure(None, p, np.zeros((1, len(p))))).all() and np.isnan(measure(None, p[:0]))


def test_a_case_is_the_mean_over_its_defined_structures():
    p = [[1, 1, 1, 2, 0.5, 0, 0, 0, np.nan, np.nan]]
    assert mask_metrics.dice(None, p) == 0.5 and mask_metrics.hd95(None, p) == 2


def test_perfect_masks_are_best_and_a_diverged_model_has_no_score():
    perfect = np.array([[7, 0, 0, 0, 1.0]])
    assert [METRICS.function(name)(None, perfect) for name in RULES] == [1, 1, 0, 1, 0]
    lost = np.array([[np.nan] * 5, [7, 0, 0, 0, 1.0]])
    assert not mask_metrics.is_finite(lost) and np.isnan(mask_metrics.dice(None, lost))
    assert mask_metrics.is_finite(np.array(EMPTY))


@pytest.mark.parametrize("p", [np.zeros((3, 4)), np.zeros(5), np.zeros((3, 0))])
def test_other_columns_are_refused(p):
    with pytest.raises(ValueError, match=r"wanted \(n, 5 x structures\)"):
        mask_metrics.dice(None, p)


def test_every_metric_of_masks_is_a_metric():
    assert set(RULES) <= set(MASK_METRICS) <= set(METRICS)
