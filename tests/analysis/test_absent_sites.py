"""Laws of leaving sites out: nothing else changes, and what is left out was never seen."""

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.analysis.joining.absent_sites import without
from fedlab.core.warnings import LeakageWarning

DATA = "phantoms(cases=360, size=16)"
pytestmark = pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")


@pytest.fixture(scope="module")
def cases():
    return fedlab.load(DATA)


@pytest.mark.parametrize("more", [{}, {"splits": "common"}, {"splits": "site", "annotation": 0.5, "acquisition": 0.5}])
def test_a_partition_without_a_site_is_that_of_the_field_unseen(cases, more):
    whole, held_out = (fedlab.partition(cases, sites=3, **more, **out) for out in ({}, {"unseen": ["Site B"]}))
    assert without(whole, ["Site B"]).fingerprint == held_out.fingerprint
    assert without(whole, []).fingerprint == whole.fingerprint


def test_patients_of_a_site_that_is_left_out_are_not_trained_on_elsewhere(cases):
    patients = cases.table["patient"].to_numpy(object)
    sites = np.where(np.arange(len(cases)) % 2, "north", "south")
    part = fedlab.Partition.from_sites(cases, list(sites), leakage="allow", splits="site")
    with pytest.warns(LeakageWarning, match="left out of training"):
        left = without(part, ["north"])
    at = dict(zip(cases.table["case"], patients, strict=True))
    trained = {at[case] for case in left.table.loc[left.table["split"] != "test", "case"]}
    assert not trained & {at[case] for case in left.table.loc[left.table["site"] == "north", "case"]}
    assert set(left.table.loc[left.table["site"] == "north", "split"]) == {"test"}


def test_runs_are_those_of_unseen_and_are_loaded_again(tmp_path):
    base = fedlab.Experiment(dataset=DATA, sites=3, model="logistic", rounds=1, batch_size=None, device="cpu")
    runs = fedlab.leave_one_out(base, folder=tmp_path, method=["fedavg"])
    again = fedlab.grid(base, folder=tmp_path, unseen=[["Site A"], ["Site B"], ["Site C"]])
    assert [run.folder for run in runs] == [run.folder for run in again]
    whole = fedlab.grid(base, folder=tmp_path, method=["local", "fedavg"])
    table = fedlab.verdict([*runs, *whole], metric="brier").set_index("site")
    assert list(table["left_out"]) == ["Site A", "Site B", "Site C"]
    run = runs[1]
    tested = whole[0].partition_table.query("site == 'Site B' and split == 'test'")["case"]
    p = run.predictions.query("choice == 'best' and split == 'unseen'").set_index("case").loc[tested]
    free = ((p["p1"] - p["label"]) ** 2).mean()
    known = table.loc["Site B"]
    assert np.isclose(known["local"] - free, known["free_gain"]) or np.isnan(known["free_gain"])
    assert table["free_gain"].notna().any()


def test_regions_are_left_out_as_a_whole(cases, tmp_path):
    base = fedlab.Experiment(dataset=DATA, sites=4, geography=0.5, model="logistic", rounds=1, batch_size=None)
    regions = base.make_partition().regions
    runs = fedlab.leave_one_out(base, "region", folder=tmp_path)
    named = [{site for site in regions if regions[site] == region} for region in sorted(set(regions.values()))]
    assert [set(run.unseen) for run in runs] == named
    part = fedlab.Partition.from_sites(cases, ["a", "b", "c"] * 120)
    mapped = fedlab.leave_one_out(base.with_(geography=0.0), {"a": "x", "b": "y", "c": "x"}, partition=part,
                                  folder=tmp_path)  # fmt: skip
    assert [run.unseen for run in mapped] == [("a", "c"), ("b",)]
    for by, partition in (("region", part), ({"a": "x"}, part), (dict.fromkeys("abc", "x"), part)):
        with pytest.raises(ValueError, match="region"):
            fedlab.leave_one_out(base, by, partition=partition, folder=tmp_path)


def test_runs_of_other_cases_are_refused(tmp_path):
    base = fedlab.Experiment(dataset=DATA, sites=2, model="logistic", rounds=1, batch_size=None, device="cpu")
    whole = fedlab.grid(base, folder=tmp_path, method=["local", "fedavg"])
    other = fedlab.leave_one_out(base.with_(partition_seed=1), folder=tmp_path)
    with pytest.raises(ValueError, match="leave_one_out of the same experiment"):
        fedlab.verdict([*whole, *other])
    assert isinstance(fedlab.verdict(whole), pd.DataFrame)
