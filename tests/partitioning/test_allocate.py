"""Laws of raking, rounding and allocation."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.heterogeneity.prevalence.class_counts import exact
from fedlab.heterogeneity.quantity import shares, sizes
from fedlab.heterogeneity.raking import controlled_rounding, largest_remainder, rake
from fedlab.heterogeneity.site_effects import SiteEffects
from fedlab.partitioning.allocate import allocate

SEEDS = st.integers(0, 2**32 - 1)


def rng(seed=0):
    return np.random.default_rng(seed)


def log_ratios(table):
    """All odds ratios follow from those against the first row and column."""
    logs = np.log(table)
    return logs - logs[:1] - logs[:, :1] + logs[0, 0]


def counted(place, strata, shape):
    table = np.zeros(shape, int)
    np.add.at(table, (place, strata), 1)
    return table


@given(SEEDS, st.integers(1, 8), st.integers(1, 6), st.floats(0.1, 4))
@settings(max_examples=15, deadline=None)
def test_raking_meets_both_sums_and_keeps_odds_ratios(seed, sites, strata, steep):
    random = rng(seed)
    odds = np.exp(steep * random.normal(size=(sites, strata)))
    columns = random.integers(1, 500, strata)
    rows = largest_remainder(random.random(sites) + 0.05, columns.sum())
    table = rake(odds, rows, columns)
    np.testing.assert_allclose(table.sum(axis=1), rows, atol=1e-8)
    np.testing.assert_allclose(table.sum(axis=0), columns, atol=1e-8)
    some = rows > 0
    np.testing.assert_allclose(log_ratios(table[some]), log_ratios(odds[some]), atol=1e-6)


def test_raking_keeps_zeros_and_reaches_a_border_that_fitting_only_creeps_to():
    table = rake([[1, 0, 1], [1, 1, 0]], [4, 6], [5, 3, 2])
    np.testing.assert_allclose(table, [[2, 0, 2], [3, 3, 0]], atol=1e-8)
    border = rake([[1, 1], [0, 1]], [5, 5], [5, 5])  # the only table has a zero where the odds have none
    np.testing.assert_allclose(border, [[5, 0], [0, 5]], atol=1e-6)


@pytest.mark.parametrize("odds", [[[1, 0], [1, 0]], [[1, 0, 0], [1, 0, 0], [1, 1, 1]]])
def test_raking_refuses_what_no_table_can_meet(odds):
    rows = np.full(len(odds), 4)
    columns = np.full(len(odds[0]), 4)
    with pytest.raises(ValueError, match=r"cannot be assigned|keeps the zeros"):
        rake(odds, rows, columns)
    with pytest.raises(ValueError, match="add up"):
        rake(np.ones((2, 2)), [1, 2], [2, 2])


@given(SEEDS, st.integers(1, 7), st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_controlled_rounding_takes_floor_or_ceiling_and_keeps_sums(seed, sites, strata):
    random = rng(seed)
    columns = random.integers(0, 40, strata)
    rows = largest_remainder(random.random(sites) + 0.01, columns.sum())
    table = rake(np.exp(random.normal(size=(sites, strata))), rows, columns)
    whole = controlled_rounding(table, rng(1))
    assert (whole.sum(axis=1) == rows).all() and (whole.sum(axis=0) == columns).all()
    assert (np.abs(whole - table) < 1 + 1e-6).all()
    assert (whole == controlled_rounding(table, rng(1))).all()


def test_controlled_rounding_prefers_large_fractions_and_needs_whole_sums():
    np.testing.assert_array_equal(controlled_rounding([[1.9, 0.1], [0.1, 1.9]], rng()), [[2, 0], [0, 2]])
    with pytest.raises(ValueError, match="not whole"):
        controlled_rounding([[0.3, 0.3]], rng())


def test_largest_remainder_is_hamiltons():
    np.testing.assert_array_equal(largest_remainder([0.7, 0.1, 0.2], 7), [5, 1, 1])
    np.testing.assert_array_equal(largest_remainder([1, 1, 1], 5), [2, 2, 1])  # ties go to the first
    np.testing.assert_array_equal(largest_remainder([1, 1, 1, 1], 0), [0, 0, 0, 0])


@given(SEEDS, st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_single_cases_come_out_within_one_of_the_wanted_table(seed, sites, strata):
    random = rng(seed)
    stratum = random.integers(0, strata, 150)
    pool = np.bincount(stratum, minlength=strata)
    rows = largest_remainder(random.random(sites) + 0.1, 150)
    table = rake(np.exp(random.normal(size=(sites, strata))), rows, pool)
    place = allocate(np.arange(150), stratum, table, rng(seed))
    counts = counted(place, stratum, table.shape)
    assert (np.abs(counts - table) < 1 + 1e-6).all()
    assert (counts.sum(axis=1) == rows).all()


@given(SEEDS, st.integers(2, 5), st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_units_stay_whole_and_sizes_are_exact_where_single_cases_suffice(seed, sites, strata):
    random = rng(seed)
    stratum = random.integers(0, strata, 300)
    units = np.concatenate(
        [np.repeat(np.arange(20), 4), np.arange(20, 240)]
    )  # 80 cases of 20 patients, 220 on their own
    rows = largest_remainder(np.ones(sites), 300)
    table = rake(np.exp(0.7 * random.normal(size=(sites, strata))), rows, np.bincount(stratum, minlength=strata))
    place = allocate(units, stratum, table, rng(seed))
    assert all(len(np.unique(place[units == unit])) == 1 for unit in range(20))
    assert (counted(place, stratum, table.shape).sum(axis=1) == rows).all()


def test_large_units_alone_come_as_near_as_they_can():
    stratum = rng().integers(0, 3, 1200)
    rows = np.array([500, 250, 150, 300])
    table = rake(np.exp(np.outer([-3, 1, 2, 3], [-1, 0, 1])), rows, np.bincount(stratum))
    place = allocate(np.repeat(np.arange(300), 4), stratum, table, rng())
    assert (np.abs(np.bincount(place) - rows) <= 8).all()  # two units


def test_patients_of_a_class_that_only_one_site_wants_go_there():
    stratum = np.repeat([0, 1], 50)
    units = np.concatenate([np.repeat(np.arange(10), 5), np.arange(10, 60)])
    place = allocate(units, stratum, np.diag([50.0, 50.0]), rng())
    np.testing.assert_array_equal(place, stratum)


def test_which_unit_goes_where_is_drawn():
    stratum, table = np.zeros(40, int), np.full((2, 1), 20.0)
    first, again, other = (allocate(np.arange(40), stratum, table, rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    units, mixed = np.repeat(np.arange(30), 30), (np.arange(30) < np.arange(30)[:, None]).ravel().astype(int)
    sizes = np.outer([450, 450], np.bincount(mixed) / 900)  # every patient is different
    assert len({tuple(allocate(units, mixed, sizes, rng(seed))) for seed in range(9)}) == 9


def test_a_hundred_thousand_cases_at_a_hundred_sites_in_a_moment():
    random = rng()
    stratum, units = random.integers(0, 5, 100_000), np.arange(100_000)
    units[:30_000] = random.integers(0, 8_000, 30_000)
    rows = largest_remainder(np.ones(100), 100_000)
    table = rake(np.exp(random.normal(size=(100, 5))), rows, np.bincount(stratum))
    start = time.thread_time()
    place = allocate(units, stratum, table, rng())
    assert time.thread_time() - start < 2
    assert (np.bincount(place) == rows).all()


@pytest.mark.parametrize(
    ("h", "gini", "effective"), [(0.2, 0.138, 3.77), (0.4, 0.298, 3.08), (0.6, 0.469, 2.22), (0.8, 0.628, 1.50)]
)
def test_geometric_sizes_have_their_closed_form(h, gini, effective):
    part = np.sort(shares(h, SiteEffects(4, 3)))
    assert 1 / (part**2).sum() == pytest.approx(effective, abs=0.005)
    assert part @ np.array([-3, -1, 1, 3]) / 4 == pytest.approx(gini, abs=0.0005)
    np.testing.assert_allclose(part[:-1] / part[1:], 1 - h)


def test_a_dose_keeps_the_order_of_sites_and_no_dose_is_equal():
    order = np.argsort(shares(0.1, SiteEffects(6, 1)))
    assert (np.argsort(shares(0.7, SiteEffects(6, 1))) == order).all()
    np.testing.assert_allclose(shares(0.0, SiteEffects(6, 1)), 1 / 6)
    np.testing.assert_allclose(shares([3, 1], SiteEffects(2, 1)), [0.75, 0.25])


@given(st.floats(0, 1), st.integers(1, 12), st.integers(12, 3000), st.integers(0, 40))
@settings(max_examples=15, deadline=None)
def test_sizes_add_up_and_nobody_falls_below_the_floor(h, sites, total, floor):
    found = sizes(shares(h, SiteEffects(sites, 0)), total, floor)
    assert found.sum() == total
    assert found.min() >= min(floor, total // sites)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(20, 400), st.integers(20, 400))
@settings(max_examples=20, deadline=None)
def test_exact_prevalence_to_half_a_case_by_one_common_factor(prevalence, negative, positive):
    wanted, pool = np.array(prevalence), np.array([negative, positive])
    size = largest_remainder(np.ones(len(wanted)), pool.sum())
    counts = exact(np.stack([1 - wanted, wanted], axis=1), 0)(size, pool, 0)
    assert (counts.sum(axis=0) == pool).all() and (counts >= 0).all()
    kept = counts[:-1].sum(axis=1)
    assert (np.abs(counts[:-1, 1] - kept * wanted) <= 0.5 + 1e-9).all()
    if kept.sum() < pool.sum():  # shrunk: no more than the pool forces, up to rounding
        need = np.array([size @ (1 - wanted), size @ wanted])
        best = min(pool[need > 1e-9] / need[need > 1e-9])
        assert kept.sum() >= best * pool.sum() - 3 * len(wanted) - 2
