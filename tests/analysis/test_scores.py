"""Scores with intervals, on more patients than are left out one by one."""

import numpy as np
import pytest

from fedlab.analysis.scores import GROUPS, Gain, Score, TestSet
from fedlab.core.rng import stream
from fedlab.evaluation.intervals.means import paired_mean


def many(metric: str, patients: int = 5 * GROUPS) -> tuple[TestSet, list[np.ndarray]]:
    """Patients class after class, as a pool of sites has them, and two models."""
    rng = stream(0, "many")
    y = np.sort((rng.random(patients) < 0.3).astype(np.int64))
    each = [1 / (1 + np.exp(-rng.normal(2 * y - 2, 1))) for _ in range(2)]
    return TestSet(metric, y, np.arange(patients), 2), [np.column_stack([1 - p, p]) for p in each]


def test_groups_of_patients_give_the_error_of_single_patients_in_any_order():
    """The log loss is a mean: its standard error is that of its cases, though cases of a class follow each other."""
    test, (p, _) = many("log_loss")
    assert test.without.shape == (GROUPS, 5 * GROUPS) and (test.without.sum(0) == GROUPS - 1).all()
    low, high = Score(test, {0: test.score([p])}).limits
    losses = -np.log(p[np.arange(len(test.y)), test.y])
    half = 1.972 * losses.std(ddof=1) / np.sqrt(len(losses))  # Student's t with 199 degrees of freedom
    assert high - low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize("metric", ["accuracy", "brier", "balanced_accuracy", "average_precision", "auroc", "log_loss"])
def test_a_gain_is_the_negative_of_the_reverse_and_zero_of_itself(metric):
    test, (p, q) = many(metric, 60)
    one, two = (Score(test, {0: test.score([each])}) for each in (p, q))
    forth, back = Gain(one, two), Gain(two, one)
    assert forth.limits == pytest.approx((-back.limits.high, -back.limits.low), abs=1e-6)
    assert forth.p_value == pytest.approx(back.p_value, rel=1e-2)
    assert forth.limits.low <= forth.value <= forth.limits.high
    itself = Gain(one, one)
    assert itself.value == 0 and not itself.limits.low > 0 and not itself.limits.high < 0


def masks_of(rng, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Stored numbers of masks with one structure of 100 voxels where there is a truth; found: the voxels in common."""
    false = np.where(truth, 5.0, found)
    counts = np.column_stack([np.where(truth, found, 0.0), false, np.where(truth, 100 - found, 0.0)])
    return np.column_stack([counts, np.full((len(truth), 2), np.nan)])


def test_a_gain_in_dice_is_the_distance_of_the_two_means_also_where_one_model_leaves_cases_out():
    rng, truth = stream(0, "masks"), np.arange(60) % 3 > 0
    careful, careless = (
        masks_of(rng, truth, np.where(truth, rng.integers(60, 100, 60), false)) for false in (0, np.arange(60) % 2)
    )
    test = TestSet("dice", truth.astype(np.int64), np.arange(60), 2)
    one, two = (Score(test, {0: test.score([p])}) for p in (careful, careless))
    gain = Gain(one, two)
    assert (one.patients, two.patients) == (40, 50)  # false voxels in an empty case count as a Dice of 0
    assert gain.value == one.value - two.value > 0.1
    assert gain.limits.low > 0 and gain.limits.low < gain.value < gain.limits.high
    same = Gain(one, Score(test, {0: test.score([masks_of(rng, truth, np.where(truth, 70, 0))])}))
    own = same.first.masks - same.second.masks  # both are defined for the same cases
    assert same.limits == pytest.approx(paired_mean(own[np.isfinite(own)], 0.5), abs=1e-12)
