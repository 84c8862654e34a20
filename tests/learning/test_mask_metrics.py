"""Metrics of masks from stored counts: rules for empty masks, weights, and which tasks they are for."""

import numpy as np
import pandas as pd
import pytest

from fedlab.learning import mask_metrics
from fedlab.learning.mask_metrics import MASK_METRICS
from fedlab.learning.metrics import METRICS

RULES = {  # metric -> value where both, only the prediction, only the mask are empty; columns as in `columns`
    "dice": (np.nan, 0.0, 0.0), "iou": (np.nan, 0.0, 0.0), "hd95": (np.nan, 9.0, 9.0), "nsd": (np.nan, 0.0, 0.0),
    "volume_error": (np.nan, np.nan, 1.0), "lesion_sensitivity": (np.nan, np.nan, 0.0),
    "false_lesions": (0.0, 1.0, 0.0),
}  # fmt: skip
EMPTY = [[0, 0, 0, np.nan, np.nan, 0, 0, 0], [0, 5, 0, 9, 0, 0, 0, 1], [0, 0, 5, 9, 0, 2, 0, 0]]


def stored(cases: int = 20, structures: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (cases, structures, 3))
    distances = np.where(counts.sum(2, keepdims=True) > 0, rng.random((cases, structures, 2)), np.nan)
    lesions = np.sort(rng.integers(0, 3, (cases, structures, 3)))[..., ::-1]
    return np.concatenate([counts, distances, lesions], 2).reshape(cases, -1)


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
    p = [[1, 1, 1, 2, 0.5, 2, 1, 3, 0, 0, 0, np.nan, np.nan, 0, 0, 0]]
    assert mask_metrics.dice(None, p) == 0.5 and mask_metrics.hd95(None, p) == 2
    assert mask_metrics.lesion_sensitivity(None, p) == 0.5 and mask_metrics.false_lesions(None, p) == 1.5


def test_numbers_that_earlier_versions_stored_read_the_same():
    p = stored(structures=3).reshape(20, 3, 8)[:, :, :5].reshape(20, 15)
    for name in ("dice", "iou", "hd95", "nsd", "volume_error"):
        whole = mask_metrics.case_scores(name, stored(structures=3))
        assert np.array_equal(mask_metrics.case_scores(name, p), whole, equal_nan=True)
    assert np.isnan(mask_metrics.lesion_sensitivity(None, p)) and mask_metrics.is_finite(p)
    names = [name for name in mask_metrics.columns(4) if name[:-1] not in ("lesions", "hits", "false")]
    read = mask_metrics.stored_numbers(pd.DataFrame(p, columns=names), 4)
    assert read.shape == (20, 24) and np.array_equal(
        read.reshape(20, 3, 8)[:, :, :5].reshape(20, 15), p, equal_nan=True
    )


def test_perfect_masks_are_best_and_a_diverged_model_has_no_score():
    perfect = np.array([[7, 0, 0, 0, 1.0, 2, 2, 0]])
    assert [METRICS.function(name)(None, perfect) for name in RULES] == [1, 1, 0, 1, 0, 1, 0]
    lost = np.array([[np.nan] * 8, perfect[0]])
    assert not mask_metrics.is_finite(lost) and np.isnan(mask_metrics.dice(None, lost))
    assert mask_metrics.is_finite(np.array(EMPTY))


@pytest.mark.parametrize("p", [np.zeros((3, 4)), np.zeros(5), np.zeros((3, 0))])
def test_other_columns_are_refused(p):
    with pytest.raises(ValueError, match=r"wanted \(n, 8 x structures\)"):
        mask_metrics.dice(None, p)


def test_every_metric_of_masks_is_a_metric():
    assert set(RULES) <= set(MASK_METRICS) <= set(METRICS)
