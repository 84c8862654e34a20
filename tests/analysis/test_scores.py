"""Scores with intervals, on more patients than are left out one by one."""

import numpy as np
import pytest

from fedlab.analysis.scores import GROUPS, Gain, Score, TestSet
from fedlab.core.rng import stream


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
