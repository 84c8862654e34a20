"""What must not change the table of shifts: names and order of sites, order of cases, names of categories."""

import numpy as np
import pandas as pd
import pytest
from worlds import cases as world

import fedlab
from fedlab.data.cases import Cases

N = 60
RNG = np.random.default_rng(0)
SITES = np.array(["north", "south", "west"])[RNG.integers(0, 3, N)]
COLUMNS = {"age": RNG.normal(50, 10, N), "subtype": np.array(["round", "ring"])[RNG.integers(0, 2, N)]}


def table(cases: Cases, sites) -> pd.DataFrame:
    given_sites = pd.DataFrame({"case": cases.table["case"], "site": sites, "split": "train"})
    return fedlab.Partition.from_sites(cases, given_sites).shift()


@pytest.fixture(scope="module")
def expected():
    return table(world(N, **COLUMNS), SITES)


def same_values(found, expected):
    """Values to rounding; nulls and intervals are other draws of the same law."""
    assert found[["axis", "measure"]].equals(expected[["axis", "measure"]])
    kept = ~expected["measure"].str.startswith(("Frechet", "site AUC"))  # of a sample, and of random folds
    np.testing.assert_allclose(found["value"][kept], expected["value"][kept], rtol=1e-5, atol=1e-5)


def test_names_of_sites_do_not_matter(expected):
    """Names in another order, and of numbers."""
    called = {"north": "Oslo 10", "south": "Oslo 9", "west": "Aachen"}
    same_values(table(world(N, **COLUMNS), [called[site] for site in SITES]), expected)


def test_the_order_of_cases_does_not_matter(expected):
    order = np.random.default_rng(1).permutation(N)
    same_values(table(world(N, **COLUMNS).take(order), SITES[order]), expected)


def test_names_of_categories_and_further_columns_do_not_matter(expected):
    named = np.where(COLUMNS["subtype"] == "ring", "a", "b")
    cases = world(N, **{**COLUMNS, "subtype": named}, ward="one", note=[None] * N)
    pd.testing.assert_frame_equal(table(cases, SITES), expected)
