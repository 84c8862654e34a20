"""Spearman's rank correlation: the value is scipy's, and the interval covers the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedlab.core.rng import stream
from fedlab.evaluation.intervals.rank_correlation import spearman

numbers = st.integers(-4, 4).map(float)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12))
def test_the_value_is_that_of_scipy_ties_included(points):
    x, y = np.array(points).T
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan([found.rho, found.low, found.high]).all()
        return
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert np.isnan(found.low) == (len(points) < 5)
    if len(points) >= 5:
        assert -1 <= found.low <= found.rho <= found.high <= 1 and found.high - found.low > 0.01


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_interval_covers_the_correlation_of_normal_points(rho):
    rng = stream(0, "spearman", str(rho))
    truth = 6 / np.pi * np.arcsin(rho / 2)  # of a bivariate normal distribution (Pearson 1907)
    covered = []
    for _ in range(1000):
        x, noise = rng.normal(size=(2, 20))
        found = spearman(x, rho * x + np.sqrt(1 - rho**2) * noise)
        covered.append(found.low <= truth <= found.high)
    assert 0.925 <= np.mean(covered) <= 0.98


def test_points_without_a_finite_coordinate_are_left_out():
    assert spearman([1, 2, np.nan, 3, np.inf], [1, 3, 2, 2, 9]).points == 3
    assert spearman([], []).points == 0 and np.isnan(spearman([1], [1]).rho)


def test_a_perfect_correlation_has_an_interval_that_narrows_with_the_number_of_points():
    lows = [spearman(range(n), range(n)).low for n in (5, 8, 20)]
    assert 0 < lows[0] < lows[1] < lows[2] < 1
    assert spearman(range(6), range(6, 0, -1)).high == -spearman(range(6), range(6)).low
