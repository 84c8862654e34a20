"""Intervals against statsmodels, published examples, and laws that any interval must keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fedlab.evaluation.intervals import auroc, calibration, decisions, means, proportions, sites
from fedlab.evaluation.intervals.interval import Interval, z_quantile

COUNTS = [(0, 5), (1, 5), (9, 10), (17, 40), (40, 40)]


@pytest.mark.parametrize(("right", "n"), COUNTS)
def test_proportions_are_those_of_statsmodels(right, n):
    assert proportions.wilson(right / n, n, z_quantile()) == pytest.approx(
        proportion_confint(right, n, method="wilson"), abs=1e-12
    )
    one_each = proportions.clustered_proportion(np.arange(n) < right, np.ones(n))
    exact = proportion_confint(right, n, method="beta")
    assert one_each.low <= exact[0] + 1e-12 and one_each.high >= exact[1] - 1e-12  # Student's t for the normal quantile


@pytest.mark.parametrize("counts", [(1, 7), (8, 3), (0, 6), (25, 11)])
def test_mcnemar_is_exact_less_half_the_observed_table(counts):
    b, c = counts
    exact = statsmodels_mcnemar([[0, b], [c, 0]], exact=True).pvalue
    point = 0.5 ** (b + c) * float(np.prod([(b + c - i) / (i + 1) for i in range(min(b, c))]))
    assert proportions.mcnemar(b, c) == pytest.approx(exact - point, abs=1e-12)


def test_airway_responsiveness_before_and_after_transplantation():
    """Fagerland, Lydersen and Laake 2013 (BMC Med Res Methodol 13:91) and 2014 (Stat Med 33:2850): 21 children."""
    assert round(proportions.mcnemar(1, 7), 3) == 0.039
    assert [round(limit, 3) for limit in proportions.tango(1, 7, 21)] == [-0.517, -0.026]


def test_ct_ratings_of_109_patients():
    """Hanley and McNeil 1982 (Radiology 143:29): an area of 0.893; without clusters the variance is DeLong's."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    score = np.concatenate([np.repeat(np.arange(5), counts) for counts in (normal, abnormal)])
    label = np.repeat([0, 1], [58, 51])
    parts = auroc.auroc_parts(score, label, np.arange(109))
    assert round(parts.value, 3) == 0.893 and parts.value == pytest.approx(roc_auc_score(label, score), abs=1e-14)
    psi = (score[label == 1][:, None] > score[label == 0]) + 0.5 * (score[label == 1][:, None] == score[label == 0])
    delong = psi.mean(1).var(ddof=1) / 51 + psi.mean(0).var(ddof=1) / 58
    assert parts.variance == pytest.approx(delong, rel=1e-12)


def test_holm_is_that_of_statsmodels():
    p = np.random.default_rng(0).random(12) ** 3
    assert decisions.holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-15)
    with_gaps = decisions.holm([np.nan, *p, np.nan])
    assert np.isnan(with_gaps[[0, -1]]).all() and (with_gaps[1:-1] == decisions.holm(p)).all()


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_auroc_of_reversed_scores_is_mirrored_and_copies_of_images_add_nothing(positives, negatives, seed):
    rng = np.random.default_rng(seed)
    label = np.arange(positives + negatives) < positives
    score, patient = np.round(rng.normal(label, 1), 1), np.arange(len(label))
    parts = auroc.auroc_parts(score, label, patient)
    low, high = auroc.auroc_interval(parts)
    assert 0 <= low <= parts.value <= high <= 1 and high - low > 0.01
    mirrored = auroc.auroc_interval(auroc.auroc_parts(-score, label, patient))
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-7)
    copied = auroc.auroc_parts(*(np.tile(each, 3) for each in (score, label, patient)))
    assert auroc.auroc_interval(copied) == pytest.approx((low, high), abs=1e-9)
    gain = auroc.paired_auroc_interval(parts, auroc.auroc_parts(rng.normal(size=len(label)), label, patient))
    assert -1 <= gain.low <= gain.high <= 1


@given(st.integers(0, 30), st.integers(1, 30), st.floats(0.5, 0.99))
@settings(max_examples=40, deadline=None)
def test_intervals_of_proportions_grow_with_their_level_and_mirror(right, more, level):
    n = right + more
    found, wider = proportions.proportion(right, n, level), proportions.proportion(right, n, (1 + level) / 2)
    assert wider.low <= found.low <= right / n <= found.high <= wider.high
    assert proportions.proportion(more, n, level) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)
    forth, back = proportions.tango(right, 1, n + 1, level), proportions.tango(1, right, n + 1, level)
    assert back == pytest.approx((-forth.high, -forth.low), abs=1e-6)


def test_one_case_decides_nothing():
    label, score, one = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3]), np.arange(4)
    parts = auroc.auroc_parts(score, label, one)
    assert np.isnan(auroc.auroc_interval(parts)).all() and np.isnan(auroc.paired_auroc_interval(parts, parts)).all()
    assert np.isnan(sites.sites_differ([parts, parts])) and np.isnan(sites.mean_auroc([parts, parts])).all()
    for found in (means.bounded_mean([0.5]), means.paired_mean([0.5]), means.jackknife(0.5, [0.4], "logit")):
        assert np.isnan(found).all()


def test_a_slope_is_found_where_it_is():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, 4000)
    label = rng.random(4000) < 1 / (1 + np.exp(-(0.5 * logits + 0.4)))
    value, (low, high) = calibration.slope(1 / (1 + np.exp(-logits)), label)
    assert low < 0.5 < high and 0.45 < value < 0.55 and high - low < 0.2
    shifted = rng.random(4000) < 1 / (1 + np.exp(-(logits + 0.7)))
    value, (low, high) = calibration.intercept(1 / (1 + np.exp(-logits)), shifted)
    assert low < 0.7 < high and 0.6 < value < 0.8 and high - low < 0.25


def test_the_mean_of_sites_is_narrower_and_the_worst_site_below():
    limits = [Interval(0.6, 0.8), Interval(0.7, 0.9), Interval(0.75, 0.95), Interval(0.5, 0.9)]
    mean = sites.weighted_sum([0.7, 0.8, 0.85, 0.7], limits, [0.25] * 4)
    assert mean.width < min(limit.width for limit in limits)
    worst = sites.worst_site(limits, [Interval(low - 0.05, high + 0.05) for low, high in limits])
    assert worst == pytest.approx((0.5, 0.85))
    assert sites.worst_site(limits, limits, higher_is_better=False) == pytest.approx((0.75, 0.95))
