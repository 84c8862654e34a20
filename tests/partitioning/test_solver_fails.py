"""Allocation where the solver of linear programs fails, is missing or gives up: the same laws by another way."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import cases as world

import fedlab
from fedlab.heterogeneity.raking import controlled_rounding, largest_remainder, rake


def fails(*args, **kwargs):
    raise RuntimeError("HiGHS is not available")


def missing(*args, **kwargs):
    raise ImportError("cannot import name '_highs'")


def gives_up(cost, **kwargs):
    return SimpleNamespace(x=None, status=1, message="iteration limit")


def gives_rubbish(cost, **kwargs):
    return SimpleNamespace(x=np.full(len(cost), 0.6), status=0, message="optimal")


@pytest.fixture(params=[fails, missing, gives_up])
def no_solver(request, monkeypatch):
    monkeypatch.setattr(scipy.optimize, "linprog", request.param)


def random_table(seed: int, sites: int, strata: int):
    """A table whose sums are whole, the sums of its rows and of its columns."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 12, strata)
    size = largest_remainder(rng.random(sites) + 0.05, int(pool.sum()))
    return rake(rng.random((sites, strata)) + 0.01, size, pool), size, pool


TABLES = (st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))


@given(*TABLES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_cell_is_a_floor_or_ceiling_and_sums_are_kept(no_solver, seed, sites, strata):
    table, size, pool = random_table(seed, sites, strata)
    found = controlled_rounding(table, np.random.default_rng(seed))
    assert (found.sum(axis=1) == size).all() and (found.sum(axis=0) == pool).all()
    assert (np.abs(found - table) < 1 + 1e-6).all()


def test_a_solution_that_misses_the_sums_is_not_used(monkeypatch):
    table, size, pool = random_table(3, 5, 6)
    monkeypatch.setattr(scipy.optimize, "linprog", gives_rubbish)
    found = controlled_rounding(table, np.random.default_rng(3))
    assert (found.sum(axis=1) == size).all() and (found.sum(axis=0) == pool).all()


def test_large_fractions_are_rounded_up_first(no_solver):
    assert controlled_rounding([[0.9, 0.1], [0.1, 0.9]], np.random.default_rng(0)).tolist() == [[1, 0], [0, 1]]


def test_it_rounds_nearly_as_well_as_the_solver(monkeypatch):
    table, *_ = random_table(5, 12, 40)
    best = controlled_rounding(table, np.random.default_rng(0))
    monkeypatch.setattr(scipy.optimize, "linprog", fails)
    other = controlled_rounding(table, np.random.default_rng(0))
    kept = [((found - np.floor(table)) * (table - np.floor(table))).sum() for found in (other, best)]
    assert 0.9 * kept[1] <= kept[0] <= kept[1] + 1e-2


def test_raking_reaches_a_border_and_refuses_what_no_table_can_meet(no_solver):
    np.testing.assert_allclose(rake([[1, 1], [0, 1]], [5, 5], [5, 5]), [[5, 0], [0, 5]], atol=1e-6)
    odds = [[1, 1, 0], [0, 1, 1], [1, 0, 1]]
    np.testing.assert_allclose(rake(odds, [4, 4, 4], [8, 4, 0]).sum(axis=1), 4)
    with pytest.raises(ValueError, match="keeps the zeros of the odds"):
        rake([[1, 0], [1, 1]], [5, 5], [2, 8])


@pytest.mark.parametrize(
    "axes",
    [{"quantity": 0.6, "prevalence": 0.7}, {"prevalence": "shards(2)"}, {"prevalence": "mix(0.5)"},
     {"population": 0.8, "presentation": 0.6}],
)  # fmt: skip
def test_patients_stay_whole_and_sizes_are_those_with_the_solver(axes, monkeypatch):
    patient = np.repeat([f"p{i}" for i in range(70)], 3)[:180]
    rng = np.random.default_rng(0)
    own = {"age": rng.integers(20, 90, 70).repeat(3)[:180], "subtype": np.array(["a", "b"])[rng.integers(0, 2, 180)]}
    cases = world(180, patient=np.where(np.arange(180) < 90, patient, [f"q{i}" for i in range(180)]), **own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = fedlab.partition(cases, 4, **axes)
        monkeypatch.setattr(scipy.optimize, "linprog", fails)
        part = fedlab.partition(cases, 4, **axes)
        again = fedlab.partition(cases, 4, **axes)
    assert part.fingerprint == again.fingerprint and len(part.table) == len(usual.table)
    assert part.table.groupby(cases.units[part.rows])["site"].nunique().eq(1).all()
    np.testing.assert_array_equal(*(np.sort(each.table["site"].value_counts()) for each in (part, usual)))
