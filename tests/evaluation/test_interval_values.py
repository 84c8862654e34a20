"""Intervals and tests give the digits of the reference code, and those of statsmodels and of published examples."""

import numpy as np
import pytest

from fedlab.evaluation.intervals import auroc, calibration, decisions, means, proportions, repeats, sites
from fedlab.evaluation.intervals.interval import Interval

SCORE = np.array([0.9, 0.8, 0.75, 0.6, 0.35, 0.7, 0.5, 0.45, 0.4, 0.3, 0.3, 0.2, 0.15, 0.1, 0.05])
PERFECT = np.r_[np.linspace(0.6, 0.9, 5), np.linspace(0, 0.5, 10)]
LABEL = np.r_[np.ones(5), np.zeros(10)]
ALONE, GROUPED = np.arange(15), np.array([0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7])


def rounded(values, digits: int = 4) -> tuple[float, ...]:
    return tuple(round(float(value), digits) for value in values)


def test_auroc():
    parts = auroc.auroc_parts(SCORE, LABEL, ALONE)
    assert rounded((parts.value, *parts.variances, parts.variance, parts.positives, parts.negatives), 5) == (
        *(0.9, 0.006, 0.002, 0.008),
        *(5, 10),
    )
    assert rounded(auroc.auroc_interval(parts)) == (0.5114, 0.985)
    assert rounded(auroc.auroc_interval(auroc.auroc_parts(PERFECT, LABEL, ALONE))) == (0.5492, 1.0)
    assert rounded(auroc.auroc_interval(auroc.auroc_parts(SCORE, LABEL, GROUPED))) == (0.321, 0.9933)
    other = auroc.auroc_parts(PERFECT, LABEL, ALONE)
    assert rounded(auroc.paired_auroc_interval(parts, other)) == (-0.4886, 0.3587)


def test_proportions():
    assert rounded(proportions.proportion(9, 10)) == (0.5958, 0.995)
    found = proportions.clustered_proportion([2, 3, 1, 2, 0, 2, 3, 2, 2, 1], [2, 3, 2, 2, 2, 2, 3, 2, 2, 3])
    assert rounded(found) == (0.4164, 0.9709)
    assert rounded(proportions.balanced_accuracy((4, 33), (5, 35))) == (0.6312, 0.9693)
    assert rounded(proportions.tango(8, 3, 40)) == (-0.042, 0.2928)
    assert rounded(proportions.tango(0, 0, 25)) == (-0.1332, 0.1332)


def test_means():
    wrong = (np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.2]) - np.array([0, 0, 0, 1, 1, 1, 1, 0])) ** 2
    without = (wrong.sum() - wrong) / 7
    assert rounded(means.jackknife(wrong.mean(), without, "log")) == (0.0274, 0.2641)
    dice = [0.91, 0.88, 0.85, 0.92, 0.10, 0.87, 0.9, 0.83, 0.89, 0.86]
    assert rounded(means.bounded_mean(dice)) == (0.5175, 0.9159)
    assert rounded(means.paired_mean([0.02, 0.01, -0.01, 0.03, 0.5, 0, 0.02, -0.02, 0.01, 0.0], 0.5)) == (
        -0.0976,
        0.1994,
    )
    assert rounded(means.paired_mean([0.02, 0.01, -0.01, 0.03, 0.05, 0, 0.02, -0.02, 0.01, 0.0])) == (-0.0035, 0.0255)


def test_several_sites():
    each = [of(*row) for row in zip([0.9, 1, 0.8, 0.85], [5, 5, 6, 10], [30, 30, 40, 40], VARIANCES, strict=True)]
    assert rounded(sites.mean_auroc(each)) == (0.7823, 0.9454)
    assert sites.sidak_level(8) == pytest.approx(0.9936805529374961, abs=1e-15)
    given = ([0.9, 0.95, 0.6, 0.85], [0.004, 0.002, 0.01, 0.004], [10, 10, 10, 12], [40, 40, 40, 50])
    assert round(sites.differ(*map(np.array, given)), 4) == 0.0059


VARIANCES = [(0.004, 0.001), (0, 0), (0.006, 0.002), (0.003, 0.001)]


def of(value: float, positives: int, negatives: int, variances: tuple[float, float]) -> auroc.AurocParts:
    """Parts with given variances: one patient of each class carries all of it, another balances."""
    both = [np.sqrt(v * (count - 1) / count / 2) for v, count in zip(variances, (positives, negatives), strict=True)]
    spread = np.zeros((2, positives + negatives))
    spread[0, :2], spread[1, -2:] = (both[0], -both[0]), (both[1], -both[1])
    return auroc.AurocParts(value, spread[0], spread[1], positives, negatives)


def test_repeats():
    assert rounded(repeats.over_splits([0.02, -0.01, 0.03, 0.0, 0.01], 20, 80)) == (-0.0194, 0.0394)
    half = 2.0210753903 * np.sqrt(0.001)  # Student's t with 40 degrees of freedom
    found = repeats.over_seeds([0.84, 0.86, 0.83], Interval(0.84333333 - half, 0.84333333 + half))
    assert rounded(found) == (0.769, 0.9177)
    right = (np.random.default_rng(0).random((100, 10)) < 0.8) * 1.0
    assert round(repeats.best_out_of_bag(right, np.random.default_rng(1), 200), 3) == 0.868
    assert rounded(repeats.best_accuracy(right, np.random.default_rng(2), 500)) == (0.7917, 0.9552)


def test_calibration():
    rng = np.random.default_rng(0)
    rng.random((100, 10))
    probability = rng.random(60)
    found = calibration.calibration(probability, rng.random(60) < probability, np.random.default_rng(3))
    assert rounded(found) == (0.07, 0.0168, 0.1805, 0.1345)


def test_findings():
    assert decisions.finding(Interval(0.01, 0.05), Interval(0.02, 0.04), 0.02) == "gains"
    assert decisions.finding(Interval(-0.05, -0.01), Interval(-0.04, -0.02), 0.02) == "loses"
    assert decisions.finding(Interval(-0.03, 0.03), Interval(-0.015, 0.018), 0.02) == "no different"
    assert decisions.finding(Interval(-0.03, 0.03), Interval(-0.025, 0.018), 0.02) == "cannot tell"
