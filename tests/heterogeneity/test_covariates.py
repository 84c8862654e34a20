"""Columns that describe patients: numbers however they are written, orders, and missing values."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases as world

import fedlab
from fedlab.core.warnings import HeterogeneityWarning
from fedlab.heterogeneity.covariates import read_column
from fedlab.heterogeneity.log_odds import column_levels
from fedlab.heterogeneity.shift.contingency import axis_tables
from fedlab.heterogeneity.shift.null_intervals import COLUMNS, FULL
from fedlab.partitioning import observe

N = 240
AGE = np.random.default_rng(0).integers(20, 90, N)
DAYS = pd.Timestamp("1950-01-01") + pd.to_timedelta(AGE, "D")
WRITTEN = {
    "text": [str(age) for age in AGE],
    "DICOM": [f"{age:03d}Y" for age in AGE],
    "with a unit": [f" {age} years " for age in AGE],
    "half with a unit": [f"{age}Y" if i % 2 else f"{age}" for i, age in enumerate(AGE)],
    "months and years": [f"{12 * age}M" if i % 2 else f"{age:03d}Y" for i, age in enumerate(AGE)],
    "decimal commas": [f"{age},0" for age in AGE],
    "limits": [f">{age}" if i % 3 == 0 else f"{age}+" if i % 3 == 1 else str(age) for i, age in enumerate(AGE)],
    "objects": pd.Series(list(AGE), dtype=object),
    "nullable": pd.Series(AGE).astype("Int64"),
    "text of pandas": pd.Series([str(age) for age in AGE]).astype("string"),
    "categories of numbers": pd.Series(AGE).astype("category"),
    "categories of text": pd.Series([f"{age:03d}Y" for age in AGE]).astype("category"),
}


@pytest.fixture(scope="module")
def of_numbers():
    """A federation by ages that are numbers, and what is measured of it."""
    part = fedlab.partition(world(N, age=AGE), 3, population=1.0)
    return part.table, population(part)


@pytest.mark.parametrize("form", WRITTEN)
def test_ages_are_numbers_however_they_are_written(form, of_numbers):
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeterogeneityWarning)
        found = fedlab.partition(world(N, age=WRITTEN[form]), 3, population=1.0)
    pd.testing.assert_frame_equal(found.table, of_numbers[0])
    pd.testing.assert_frame_equal(population(found), of_numbers[1])


@pytest.mark.parametrize("dates", [DAYS, DAYS.tz_localize("Europe/Berlin"), pd.to_timedelta(AGE, "D")])
def test_dates_have_their_order(dates):
    number, date = (fedlab.partition(world(N, age=values), 3, population=1.0) for values in (AGE, dates))
    pd.testing.assert_frame_equal(number.table, date.table)


def test_an_ordered_category_has_its_order():
    bands = pd.cut(AGE, [0, 30, 40, 50, 60, 100], labels=["young", "30s", "40s", "50s", "old"])
    levels = column_levels(world(N, age=pd.Series(bands)), "age")
    assert levels.names == ["young", "30s", "40s", "50s", "old"]
    assert levels.scores.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]


@pytest.mark.parametrize(
    "values",
    [["old" if age > 60 else "middle" if age > 40 else "young" for age in AGE],
     [f"{age // 10 * 10}-{age // 10 * 10 + 9}" for age in AGE],
     [f"1,{age:03d}" for age in AGE],  # 1020 or 1.020
     ["ninety", *map(str, AGE[1:])],
     ["45kg", "2Y", *map(str, AGE[2:])]],
)  # fmt: skip
def test_an_order_that_text_does_not_tell_is_warned_of(values):
    with pytest.warns(HeterogeneityWarning, match="'age' is text such as .* without an order: make it a number"):
        part = fedlab.partition(world(N, age=values), 3, population=0.8)
    assert any("without an order" in note for note in part.spec["notes"])


def test_what_has_no_order_is_not_warned_of():
    kinds = np.array(["F", "M", "X"])[AGE % 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeterogeneityWarning)
        fedlab.partition(world(N, sex=kinds, subtype=kinds), 3, population=0.8, presentation=0.8)


# -- missing values ------------------------------------------------------------------------------------------------

GAPS = {
    "numbers": (AGE.astype(float), np.nan),
    "nullable": (AGE, pd.NA),
    "None": ([str(age) for age in AGE], None),
    "empty": ([str(age) for age in AGE], " "),
    "NA": ([f"{age:03d}Y" for age in AGE], "NA"),
    "dates": (DAYS, pd.NaT),
}
WITHOUT = np.random.default_rng(1).random(N) < 0.3


def gaps(values, gap, out=WITHOUT, kind=None):
    return pd.Series([gap if gone else value for value, gone in zip(values, out, strict=True)], dtype=kind)


def population(part):
    """The rows of the population axis, without comparing images."""
    about = {"spec": part.spec, "sites": part.sites, "regions": {}, "levels": part.levels, "annotated": None}
    seen = observe.observed(part.cases, part.table, part.rows, **about)
    rows = [line for tables in axis_tables(seen, FULL) for line in tables.rows(FULL)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).query("axis == 'population'").set_index("measure")


@pytest.mark.parametrize("form", GAPS)
def test_a_missing_value_is_no_value_however_it_is_written(form):
    values, gap = GAPS[form]
    cases = world(N, age=gaps(values, gap, kind="Int64" if form == "nullable" else None))
    column, levels = read_column(cases.table["age"]), column_levels(cases, "age")
    assert (column.known == ~WITHOUT).all() and (levels.known == ~WITHOUT).all() and len(levels.values) == 5
    given_sites = np.array(["a", "b", "c"])[np.arange(N) % 3]
    found = population(fedlab.Partition.from_sites(cases, given_sites))
    assert list(found.index) == ["I(S;A|Y)", "TV within class", "missing age", "W1 of age"]
    known = cases.take(~WITHOUT)
    same = population(fedlab.Partition.from_sites(known, given_sites[~WITHOUT], splits="site"))
    assert list(same.index) == ["I(S;A|Y)", "TV within class", "W1 of age"]


def test_no_site_prefers_missing_values():
    kinds = np.array(["F", "M", "X"])[AGE % 3]
    levels = column_levels(world(N, sex=gaps(kinds, None)), "sex")
    odds = levels.odds(1.0, np.array([-1.0, 0.0, 1.0]))
    assert levels.names == ["F", "M", "X", "missing"] and (odds[:, 3] == 1).all()
    complete = column_levels(world(N, sex=kinds), "sex").odds(1.0, np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(odds[:, :3], complete)
    part = fedlab.partition(world(N, sex=gaps(kinds, None)), 3, population="dirichlet(0.3, column='sex')")
    assert part.levels["population"].known.sum() == (~WITHOUT).sum()


@pytest.mark.parametrize("values", [[None] * N, [np.nan] * N, [""] * N, gaps([50.0] * N, np.nan)])
def test_a_column_without_two_known_values_is_refused(values):
    with pytest.raises(ValueError, match="column 'weight' has one value, so that nothing can differ"):
        fedlab.partition(world(N, weight=values), 3, population="weight(0.5)")


def test_what_is_missing_counts_in_no_standardised_share():
    cases = world(N, age=gaps(AGE.astype(float), np.nan))
    sites = np.array(["a", "b"])[np.arange(N) // 2 % 2]
    found = fedlab.Partition.from_sites(cases, sites).standardised()["standardised"]
    known = fedlab.Partition.from_sites(cases.take(~WITHOUT), sites[~WITHOUT]).standardised()["standardised"]
    pd.testing.assert_frame_equal(found, known)


def explicit(age, sites):
    """All cases train, so that nothing but the values of the covariate is random."""
    cases = world(len(age), age=age)
    frame = pd.DataFrame({"case": cases.table["case"], "site": sites, "split": "train"})
    return fedlab.Partition.from_sites(cases, frame)


def test_values_missing_at_random_leave_the_measure_and_raise_nothing():
    """Averaged over what is deleted: beyond its null mean the shift of the covariate is that of the complete data."""
    rng, n = np.random.default_rng(3), 600
    sites = np.array(["a", "b"])[np.arange(n) // 2 % 2]
    age = rng.normal(50, 10, n) + 6.0 * (sites == "b")
    full = population(explicit(age, sites))
    thinned, raised = [], 0
    for _ in range(6):
        found = population(explicit(np.where(rng.random(n) < 0.4, np.nan, age), sites))
        thinned.append(found["value"] - found["null"])
        raised += found.loc["missing age", "value"] > found.loc["missing age", "null_high"]
    mean = pd.concat(thinned, axis=1).mean(axis=1)
    for measure in ("I(S;A|Y)", "W1 of age"):
        assert mean[measure] == pytest.approx(full.loc[measure, "value"] - full.loc[measure, "null"], rel=0.25)
    assert raised <= 1


@given(st.floats(0.2, 0.9), st.integers(0, 1000))
@settings(max_examples=4, deadline=None)
def test_values_missing_at_one_site_are_a_row_of_their_own(share, seed):
    """Where only how much is missing differs, only the row of missing values is beyond its null."""
    rng, n = np.random.default_rng(seed), 400
    sites = np.array(["a", "b"])[np.arange(n) // 2 % 2]
    age = rng.normal(50, 10, n)
    age[(sites == "b") & (rng.random(n) < share)] = np.nan
    found = population(explicit(age, sites))
    gone = found.loc["missing age"]
    assert gone["value"] == pytest.approx(np.isnan(age[sites == "b"]).mean(), abs=1e-9)
    assert gone["value"] > gone["null_high"] and found.loc["I(S;A|Y)", "value"] < 3 * found.loc["I(S;A|Y)", "null_high"]


def test_a_site_without_any_value_leaves_the_others():
    sites = np.array(["a", "b", "c"])[np.arange(N) // 2 % 3]
    age = np.where(sites == "c", np.nan, AGE + 20 * (sites == "b"))
    found, pair = population(explicit(age, sites)), population(explicit(age[sites != "c"], sites[sites != "c"]))
    assert found.loc["W1 of age", "value"] == pytest.approx(pair.loc["W1 of age", "value"], rel=0.05)
    assert found.loc["missing age", "value"] == pytest.approx(2 / 3)


def test_severity_may_be_missing_or_text():
    for severity in (gaps(AGE.astype(float), np.nan), ["mild", "severe"] * (N // 2), [None] * N):
        cases = world(N, classes=2, severity=severity)
        part = fedlab.partition(cases, 2, annotation="threshold(1.0)", splits="site")
        assert (part.table["annotated"] != cases.labels).mean() == pytest.approx(0.25, abs=0.02)
