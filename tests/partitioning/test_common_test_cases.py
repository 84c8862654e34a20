"""Test cases that are the same at every dose: splits="common"."""

from dataclasses import replace

import pytest

import fedlab

DOSES = [
    {"quantity": 0.8},
    {"prevalence": 0.9},
    {"presentation": 0.9},
    {"population": 0.8},
    {"acquisition": 0.8},
    {"annotation": 0.7},
    {"prevalence": 0.5, "geography": 0.5},
    {"prevalence": "dirichlet(0.3)"},
]


@pytest.fixture(scope="module")
def cases():
    return fedlab.load("phantoms(cases=400, size=16)")


def sites_of_test_cases(part):
    return part.table[part.table["split"] == "test"].set_index("case")["site"].sort_index()


@pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")
@pytest.mark.parametrize("doses", DOSES, ids=str)
def test_every_dose_has_the_test_cases_of_dose_0_at_the_same_sites(cases, doses):
    base, raised = (fedlab.partition(cases, 4, splits="common", **asked) for asked in ({}, doses))
    assert sites_of_test_cases(raised).equals(sites_of_test_cases(base))
    assert set(sites_of_test_cases(base).index) == set(cases.table.loc[cases.table["split"] == "test", "case"])
    if not {"acquisition", "annotation"} & set(doses):
        train = [part.table.query("split == 'train'").set_index("case")["site"] for part in (base, raised)]
        assert not train[0].sort_index().equals(train[1].sort_index())


def test_sites_have_equally_many_test_cases_with_nearly_the_same_prevalence(cases):
    counts = fedlab.partition(cases, 4, splits="common", quantity=0.7, prevalence=0.9).counts("test")
    assert counts.to_numpy().sum(1).max() - counts.to_numpy().sum(1).min() <= 1
    assert (counts.max() - counts.min()).max() <= 1


def test_another_partition_seed_draws_other_sites_of_the_same_test_cases(cases):
    first, second = (sites_of_test_cases(fedlab.partition(cases, 4, splits="common", seed=seed)) for seed in (0, 1))
    assert set(first.index) == set(second.index) and not first.equals(second)


def test_splits_are_made_first_where_cases_have_none(cases):
    without = replace(cases, table=cases.table.drop(columns="split"))
    base, raised = (fedlab.partition(without, 4, splits="common", prevalence=dose) for dose in (0.0, 0.9))
    assert sites_of_test_cases(base).equals(sites_of_test_cases(raised)) and len(sites_of_test_cases(base)) == 80


def test_a_held_out_site_is_tested_on_its_common_test_cases_alone(cases):
    part = fedlab.partition(cases, 4, splits="common", prevalence=0.9, unseen=1)
    assert sites_of_test_cases(part).equals(sites_of_test_cases(fedlab.partition(cases, 4, splits="common")))
    assert set(part.table.loc[part.table["site"] == "Site D", "split"]) == {"test"}


def test_given_sites_are_refused(cases):
    with pytest.raises(ValueError, match="choose 'official' or 'site'"):
        fedlab.Partition.from_sites(cases, [0] * 200 + [1] * 200, splits="common")
