"""Laws of site sizes: each scheme's own, and those of real federations against the tables they come from."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_worlds import made, quiet

from fedlab.core.registry import split_call
from fedlab.heterogeneity.profiles import profile, profiles
from fedlab.heterogeneity.quantity import SIZES, check, shares, sizes
from fedlab.heterogeneity.shift.divergences import gini
from fedlab.heterogeneity.site_effects import SiteEffects
from fedlab.partitioning.build import partition

MIRROR = os.environ.get("FEDLAB_MIRROR")
TABLES = Path(MIRROR or "") / "site_tables"
SOURCES = ["vidir_molemax", "vidir_modern", "rosendahl", "vienna_dias"]
VALUES = [0.0, 0.4, 1.0, "dirichlet(0.3)", "lognormal(1.5)", "power(1.2)", "like(fets2022)", [3, 1, 2, 1, 1]]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_drawn_once_and_add_up_to_one(value, seed):
    found = shares(value, SiteEffects(5, seed))
    assert found.shape == (5,) and (found >= 0).all() and found.sum() == pytest.approx(1)
    np.testing.assert_array_equal(found, shares(value, SiteEffects(5, seed)))
    check(value)


@pytest.mark.parametrize("value", [0.4, "dirichlet(0.3)", "lognormal(1.5)", "power(1.2)", "like(fed_isic2019)"])
def test_doses_and_schemes_agree_on_which_site_is_large(value):
    for seed in range(4):
        effects = SiteEffects(6, seed)
        by_effect = shares(value, effects)[np.argsort(-effects.of("quantity"))]
        assert (np.diff(by_effect) <= 0).all()


@given(
    value=st.sampled_from(
        ["dirichlet(0.5)", "dirichlet(0.02)", "lognormal(2)", "power(3)", "like(fed_tcga_brca)", 0.7]
    ),
    sites=st.integers(1, 6),
    seed=st.integers(0, 99),
    splits=st.sampled_from(["official", "site"]),
)
@quiet
@settings(max_examples=10, deadline=None)
def test_every_case_once_patients_whole_sizes_exact(value, sites, seed, splits):
    cases = made(400, "ordinal", 3, seed=1, patients=300 if splits == "site" else None)
    part = partition(cases, sites, quantity=value, seed=seed, splits=splits)
    assert part.table["case"].tolist() == cases.table["case"].tolist()
    assert part.table.equals(partition(cases, sites, quantity=value, seed=seed, splits=splits).table)
    if splits == "site":
        assert (part.table.groupby(cases.units)["site"].nunique() == 1).all()
        pools = {None: (part.counts().sum(axis=1), 15)}
    else:
        pools = {name: (part.counts(name).sum(axis=1), k * 3) for name, k in {"train": 2, "val": 1, "test": 1}.items()}
    for size, floor in pools.values():
        np.testing.assert_array_equal(size, sizes(shares(value, SiteEffects(sites, seed)), int(size.sum()), floor))


@quiet
def test_reordering_a_list_reorders_the_sizes():
    cases, wanted, order = made(300, "binary"), np.array([5.0, 1.0, 3.0, 2.0]), [2, 0, 3, 1]
    one, other = (partition(cases, 4, quantity=list(value)) for value in (wanted, wanted[order]))
    np.testing.assert_array_equal(
        one.counts("train").sum(axis=1).to_numpy()[order], other.counts("train").sum(axis=1).to_numpy()
    )


@pytest.mark.parametrize("beta", [0.1, 0.5, 5.0])
def test_dirichlet_has_its_variance_and_an_infinite_beta_is_equal(beta):
    drawn = np.stack([shares(f"dirichlet({beta})", SiteEffects(4, seed)) for seed in range(1000)])
    wanted = (1 / 4) * (1 - 1 / 4) / (4 * beta + 1)
    assert ((drawn - 1 / 4) ** 2).mean() == pytest.approx(wanted, rel=0.1)
    np.testing.assert_allclose(shares("dirichlet(1e12)", SiteEffects(4, 0)), 1 / 4, atol=1e-5)
    assert shares("dirichlet(1e-9)", SiteEffects(4, 0)).max() == pytest.approx(1)


def test_lognormal_is_frozen_in_sigma_and_has_its_gini():
    logs = [np.log(shares(f"lognormal({sigma})", SiteEffects(50, 1))) for sigma in (0, 0.5, 1.5)]
    np.testing.assert_allclose(logs[0], math.log(1 / 50))
    np.testing.assert_allclose(np.diff(logs[2] / 3), np.diff(logs[1]), atol=1e-12)
    for sigma in (0.5, 1.0):
        assert gini(shares(f"lognormal({sigma})", SiteEffects(4000, 2))) == pytest.approx(math.erf(sigma / 2), abs=0.02)


def test_power_law_is_zipfs():
    np.testing.assert_allclose(
        np.sort(shares("power(2)", SiteEffects(4, 0)))[::-1], np.array([1, 1 / 4, 1 / 9, 1 / 16]) * 144 / 205
    )
    np.testing.assert_allclose(shares("power(0)", SiteEffects(4, 0)), 1 / 4)


@pytest.mark.parametrize("name", list(profiles()))
def test_as_many_sites_as_in_the_profile_have_its_sizes(name):
    real = profile(name)
    np.testing.assert_allclose(
        np.sort(shares(f"like({name})", SiteEffects(len(real), 3))), np.sort(real.sizes) / real.sizes.sum()
    )
    assert len(real.sites) == len(real.sizes) and real.source and real.licence
    if real.labels:
        np.testing.assert_array_equal(real.labels.counts.sum(axis=1), real.sizes)
        assert real.labels.counts.shape[1] == len(real.labels.classes)


def test_fewer_sites_take_evenly_spaced_ranks_and_more_are_refused():
    all_sizes = profile("fets2022").sizes
    few = np.sort(all_sizes[profile("fets2022").match(SiteEffects(3, 0))])
    np.testing.assert_array_equal(few, [all_sizes.min(), np.median(all_sizes), all_sizes.max()])
    for sites in (1, 2, 5, 22):
        matched = profile("fets2022").match(SiteEffects(sites, 0))
        assert len(set(matched)) == sites and all_sizes.max() in all_sizes[matched]
    with pytest.raises(ValueError, match=r"has 3 sites.*at most 3 sites.*fets2022 \(23\)"):
        shares("like(fed_ixi)", SiteEffects(7, 0))


@quiet
def test_a_profile_with_more_sites_than_cases_is_refused():
    with pytest.raises(ValueError, match=r"of 23 sites would have no case to train on, with 20 patients"):
        partition(made(20, "binary", split=False), 23, quantity="like(fets2022)")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dirichlt(0.5)", "unknown quantity scheme 'dirichlt': did you mean 'dirichlet'"),
        ("lognormal", None),
        ("lognorm", "quantity is 'lognorm'.*did you mean 'lognormal'"),
        ("dirichlet(0)", "beta is a positive number"),
        ("dirichlet('x')", "beta='x': give a number"),
        ("lognormal(-1)", "sigma is zero or a positive number"),
        ("lognormal(1e999)", "sigma=inf: give a number"),
        ("power(exponnt=2)", "no argument 'exponnt': did you mean 'exponent'"),
        ("like(fets2021)", "no profile 'fets2021' to imitate: did you mean 'fets2022'"),
        ("like()", "choose one of fed_camelyon16"),
        ("0.5", "quantity is '0.5': give a dose"),
        ("power(2", "cannot read quantity scheme"),
        (1.5, "give a dose between 0"),
        (True, "quantity is True"),
        ([1, 2, -1], "quantity holds -1: relative sizes are positive"),
        ([1, math.inf], "quantity holds inf"),
        ([], "give one for each site"),
    ],
)
def test_what_can_be_no_quantity_is_refused_without_cases(value, message):
    if message is None:
        return check(value)
    with pytest.raises(ValueError, match=message):
        check(value)


def test_every_scheme_can_be_written_bare_or_says_what_it_needs():
    for name in SIZES:
        assert split_call(name)[0] == name and SIZES[name]
        if name != "like":
            assert shares(name, SiteEffects(3, 0)).sum() == pytest.approx(1)


@pytest.mark.skipif(not MIRROR or not TABLES.is_dir(), reason="FEDLAB_MIRROR holds no site_tables")
@pytest.mark.parametrize(
    ("name", "path", "column", "rows"),
    [
        ("fed_isic2019", "fed_isic2019/train_test_split", "center", list("012345")),
        ("ham10000", "HAM10000/HAM10000_metadata", "dataset", SOURCES),
        ("fed_ixi", "fed_ixi/metadata_tiny.csv", "Manufacturer", list("012")),
        ("fets2022", "fets2022/partitioning_1.csv", "Partition_ID", [str(i) for i in range(1, 24)]),
    ],
)
def test_sizes_are_those_of_the_published_tables(name, path, column, rows):
    counted = pd.read_csv(TABLES / path, dtype=str)[column].value_counts()
    assert profile(name).sizes.tolist() == counted.loc[rows].tolist() and len(counted) == len(rows)


@pytest.mark.skipif(not MIRROR or not TABLES.is_dir(), reason="FEDLAB_MIRROR holds no site_tables")
def test_label_profiles_are_those_of_the_published_tables():
    isic = pd.read_csv(TABLES / "fed_isic2019/train_test_split")
    np.testing.assert_array_equal(profile("fed_isic2019").labels.counts, pd.crosstab(isic["center"], isic["target"]))
    shown = [isic.columns[1 + target] for target in range(8)]
    assert list(profile("fed_isic2019").labels.classes) == shown
    ham = pd.read_csv(TABLES / "HAM10000/HAM10000_metadata")
    counts = pd.crosstab(ham["dataset"], ham["dx"]).loc[SOURCES]
    np.testing.assert_array_equal(profile("ham10000").labels.counts, counts)
    assert list(profile("ham10000").labels.classes) == list(counts.columns)
