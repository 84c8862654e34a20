"""Means over sites keep their level where single sites are skewed or perfect; sums and biased metrics."""

from functools import cache

import numpy as np
import pytest

from fedlab.analysis.scores import MeanOfSites, Score, TestSet
from fedlab.evaluation.intervals import means, proportions, sites
from fedlab.evaluation.intervals.auroc import auroc_interval, auroc_parts
from fedlab.evaluation.intervals.interval import Interval, t_quantile


@cache
def accuracy(right: int, cases: int):
    """Value, error and interval of one site."""
    each = np.arange(cases) < right
    return right / cases, proportions.proportion_spread(each, np.ones(cases)), proportions.proportion(right, cases)


def mean(right, cases: int) -> Interval:
    values, spreads, limits = zip(*(accuracy(int(n), cases) for n in right), strict=True)
    return sites.mean_of_sites(values, spreads, limits, "logit")


@pytest.mark.parametrize(("k", "cases", "share"), [(8, 15, 0.92), (20, 40, 0.97), (20, 15, 0.5)])
def test_the_mean_accuracy_of_sites_misses_no_more_towards_its_bound_than_away_from_it(k, cases, share):
    right = np.random.default_rng(1).binomial(cases, share, (1500, k))
    found = np.array([mean(x, cases) for x in right])
    missed = np.mean(found[:, 0] > share), np.mean(found[:, 1] < share)
    assert max(missed) < 0.04 and sum(missed) < 0.07


@pytest.mark.parametrize("k", [2, 4, 8])
def test_where_all_sites_are_perfect_the_mean_says_more_than_one_of_them(k):
    one, many = accuracy(15, 15)[2], mean([15] * k, 15)
    assert many.low == pytest.approx(1 - (1 - one.low) / np.sqrt(k)) and many.high == pytest.approx(1)
    label = np.arange(20) < 5
    perfect = auroc_parts(label, label, np.arange(20))
    low, high = sites.mean_auroc([perfect] * k)
    assert auroc_interval(perfect).low < low < 1 == pytest.approx(high)


def test_a_loss_near_zero_stays_above_it():
    spreads, limits = [means.Spread(0.02, 9), means.Spread(0.03, 9)], [Interval(0.001, 0.09), Interval(0.005, 0.08)]
    low, high = sites.mean_of_sites([0.01, 0.02], spreads, limits, "log")
    assert 0 < low < 0.015 < high <= 0.015 + np.hypot(0.08, 0.06) / 2 + 1e-12


def test_the_error_of_a_proportion_is_that_of_its_cases_and_copies_of_images_add_nothing():
    right = np.arange(12) < 8
    spread = proportions.proportion_spread(right, np.ones(12))
    assert spread == pytest.approx((right.std(ddof=1) / np.sqrt(12), 11))
    assert proportions.proportion_spread(3 * right, np.full(12, 3)) == pytest.approx(spread)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "brier", "average_precision", "log_loss"])
def test_one_site_is_about_its_own_mean(metric):
    rng = np.random.default_rng(3)
    y = (np.arange(200) < 60).astype(np.int64)
    p = 1 / (1 + np.exp(-rng.normal(1.5 * y - 1, 1)))
    test = TestSet(metric, y, np.arange(200), 2)
    score = Score(test, {0: test.score([np.column_stack([1 - p, p])])})
    one = MeanOfSites([score])
    assert one.method == "sum of variances"
    assert one.limits == pytest.approx(score.limits, abs=0.1 * score.limits.width)


def test_a_weighted_sum_is_one_estimate_a_difference_or_none():
    one, two = Interval(0.7, 0.84), Interval(0.5, 0.62)
    assert sites.weighted_sum([0.8], [one], [1]) == pytest.approx(one)
    assert sites.weighted_sum([0.8], [one], [-2]) == pytest.approx((-1.68, -1.4))
    forth, back = (sites.weighted_sum([0.8, 0.6], [one, two], [sign, -sign]) for sign in (1, -1))
    assert forth == pytest.approx((-back.high, -back.low))
    assert forth == pytest.approx((0.2 - np.hypot(0.1, 0.02), 0.2 + np.hypot(0.04, 0.1)))
    assert np.isnan(sites.weighted_sum([0.8, 0.6], [one, Interval(np.nan, np.nan)], [1, 1]).low)


def test_the_jackknife_of_a_mean_is_students_t_and_a_bias_is_part_of_the_error():
    x = np.random.default_rng(0).normal(2, 1, 30)
    without = (x.sum() - x) / 29
    half = t_quantile(29) * x.std(ddof=1) / np.sqrt(30)
    assert means.jackknife(x.mean(), without, "identity") == pytest.approx((x.mean() - half, x.mean() + half))
    bias = -x.var(ddof=1) / 30  # what the jackknife finds for -mean(x)^2
    found = means.jackknife(-(x.mean() ** 2), -(without**2), "identity")
    error = means.jackknife_error(-(without**2), 30)
    assert found.width == pytest.approx(2 * t_quantile(29) * np.hypot(error, bias), rel=1e-3)


@pytest.mark.parametrize("failures", [0.0, 0.06])
def test_the_mean_dice_of_sites_holds_its_level_with_rare_failures(failures):
    rng, covered = np.random.default_rng(2), []
    for _ in range(300):
        dice = [np.where(rng.random(20) < failures, 0.0, rng.beta(16, 3, 20)) for _ in range(4)]
        spreads, limits = [means.bounded_spread(x)[1] for x in dice], [means.bounded_mean(x) for x in dice]
        low, high = sites.mean_of_sites([float(x.mean()) for x in dice], spreads, limits, "logit")
        covered.append(low <= 16 / 19 * (1 - failures) <= high)
    assert np.mean(covered) > 0.925
