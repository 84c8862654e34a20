"""A held-out site is an external validation: all of its cases are test cases, and no other site changes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases as world
from worlds import settings as federation_settings

import fedlab
from fedlab.core.warnings import LeakageWarning
from fedlab.federation import Federation

OFFICIAL = np.resize(["train"] * 7 + ["val"] + ["test"] * 2, 160)
pytestmark = pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")


@given(
    st.sampled_from([1, 2, "Site B", ["Site A", "Site D"], "Region 2"]),
    st.sampled_from(["official", "site"]),
    st.booleans(),
    st.sampled_from(["together", "drop", "allow"]),
    st.integers(0, 1000),
)
@settings(max_examples=8, deadline=None)
def test_all_cases_of_a_held_out_site_are_test_cases_and_others_stay(unseen, splits, given_splits, leakage, seed):
    cases = world(160, **({"split": OFFICIAL} if given_splits else {}))
    asked = {"splits": splits, "leakage": leakage, "seed": seed, "geography": 0.5, "prevalence": 0.4}
    part, all_train = (fedlab.partition(cases, 4, unseen=some, **asked) for some in (unseen, 0))
    out = part.table["site"].isin(part.unseen)
    assert out.any() and (part.table.loc[out, "split"] == "test").all()
    pd.testing.assert_series_equal(part.table["site"], all_train.table["site"])
    pd.testing.assert_frame_equal(part.table[~out], all_train.table[~out])


SITES = np.resize(["A", "A", "B", "B", "C"], 160)
FORMS = {
    "values": lambda cases: SITES,
    "column": lambda cases: "hospital",
    "mapping": lambda cases: {site: np.flatnonzero(site == SITES) for site in "ABC"},
    "frame with splits": lambda cases: pd.DataFrame({"case": cases.table["case"], "site": SITES, "split": OFFICIAL}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("own", [{}, {"split": OFFICIAL}])
def test_so_are_those_of_real_sites(form, own):
    cases = world(160, hospital=SITES, **own)
    part, all_train = (fedlab.Partition.from_sites(cases, FORMS[form](cases), unseen=some) for some in ("B", 0))
    assert part.unseen == ("B",) and len(part.index("B", "test")) == (SITES == "B").sum()
    kept = part.table["site"] != "B"
    pd.testing.assert_frame_equal(part.table[kept], all_train.table[kept])
    assert part.counts("train").loc["B"].sum() == 0


def shared(**own):
    """A patient with the first case at A and another one at C, the held-out site."""
    patient = [f"p{i}" for i in range(160)]
    patient[4] = patient[0]
    return world(160, patient=patient, **own)


def test_a_patient_of_a_held_out_site_trains_nowhere():
    with pytest.warns(match="1 cases became test cases, since their patient is at a held-out site"):
        part = fedlab.Partition.from_sites(shared(), SITES, unseen="C")
    assert part.table["split"][0] == "test" and part.table["site"][0] == "A"
    cases = shared(split="train")
    with pytest.raises(ValueError, match="both in test and in train"):
        fedlab.Partition.from_sites(cases, SITES, unseen="C")
    with pytest.warns(LeakageWarning, match="1 cases were left out"):
        part = fedlab.Partition.from_sites(cases, SITES, unseen="C", leakage="drop")
    assert cases.table["case"][0] not in set(part.table["case"])
    assert len(fedlab.Partition.from_sites(cases, SITES, unseen="C", leakage="allow").index("A", "train")) == 64


def test_training_cases_are_compared_between_training_sites():
    cases = world(160, split=OFFICIAL)
    held_out = fedlab.partition(cases, 4, unseen=1, prevalence=0.8)
    gini = {
        split: held_out.shift(split, brief=True).set_index("axis")["value"]["quantity"] for split in ("train", "test")
    }
    assert gini["train"] < 0.01 and gini["test"] > 0.2  # three equal sites; most of the test cases are held out
    missing = [note for note in held_out.spec["notes"] if "Site D" in note and "train" in note]
    assert not missing


def test_no_note_says_that_a_held_out_site_lacks_training_cases(recwarn):
    fedlab.partition(world(160, split=OFFICIAL), 4, unseen=1)
    assert not [str(one.message) for one in recwarn if "in train" in str(one.message)]


@pytest.mark.parametrize("normalisation", ["none", "image", "site", "global"])
def test_every_case_of_the_site_is_predicted(normalisation, tmp_path):
    part = fedlab.partition(world(90), 3, unseen=1)
    asked = fedlab.Experiment(
        dataset="phantoms(cases=120, size=16)", model="logistic", rounds=1, local_steps=1, batch_size=8, device="cpu",
        normalisation=normalisation,
    )  # fmt: skip
    run = fedlab.run(asked, part, folder=tmp_path)
    predicted = run.predictions.query("split == 'unseen' and choice == 'last' and model == 'global'")
    here = part.table["site"].isin(part.unseen)
    assert sorted(predicted["case"]) == sorted(part.table.loc[here, "case"]) and len(predicted) == 30
    compared = fedlab.compare([run]).set_index("site")
    assert compared.loc["unseen: Site C", "cases"] == 30


def test_a_site_normalisation_is_that_of_the_sites_own_images(tmp_path):
    """A held-out site has no training cases, but its images need no labels to be normalised."""
    part = fedlab.partition(world(90), 3, unseen=1)
    dataset = Federation(part, "logistic", federation_settings(normalisation="site")).execution.dataset
    images = dataset.images(dataset.rows(part.index("Site C", "test")))
    assert float(images.mean()) == pytest.approx(0, abs=1e-5) and float(images.std()) == pytest.approx(1, abs=1e-3)
