"""Laws of partitions: nothing is lost or leaked, requests are met, and shift is distinguished from chance."""

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import masked_cases

import fedlab
from fedlab.core.site_names import natural, site_names
from fedlab.core.warnings import HeterogeneityWarning, LeakageWarning
from fedlab.data.cases import Cases
from fedlab.heterogeneity.log_odds import L, LogOdds, expected_counts, stratify
from fedlab.heterogeneity.prevalence import LabelledCases, log_odds
from fedlab.heterogeneity.shift.divergences import (
    hellinger,
    jensen_shannon,
    mutual_information,
    total_variation,
    weighted_l1,
)
from fedlab.heterogeneity.site_effects import SiteEffects
from fedlab.partitioning.build import partition
from fedlab.partitioning.partitions import Partition

MIRROR = os.environ.get("FEDLAB_MIRROR")
CLASSES = {"binary": 2, "multiclass": 3, "ordinal": 4, "multilabel": 3}
quiet = pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")


def make(n=400, task="binary", split=(0.6, 0.1, 0.3), labels=None, seed=0, **columns) -> Cases:
    """Random images that are all different; official splits unless `split` is None."""
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, 2**3 if task == "multilabel" else CLASSES[task], n)
    table = pd.DataFrame({"case": [f"case-{i:05d}" for i in range(n)], "label": labels, **columns})
    if split is not None:
        ends = np.rint(np.cumsum(split) * n).astype(int)
        table["split"] = np.array(["train", "val", "test"])[np.searchsorted(ends, rng.permutation(n), side="right")]
    images = rng.integers(0, 256, (n, 1, 6, 6)).astype(np.uint8)
    card = {"name": "made", "task": task, "classes": [f"class {c}" for c in range(CLASSES[task])]}
    return Cases(images, table, card)


def with_copies(copies: dict[int, int], **how) -> Cases:
    """Cases of which some have the same image as another."""
    cases = make(**how)
    images = cases.images.copy()
    for row, original in copies.items():
        images[row] = images[original]
    return Cases(images, cases.table, cases.card)


def same(a: Partition, b: Partition) -> bool:
    return a.table.equals(b.table) and a.fingerprint == b.fingerprint


def prevalences(part: Partition, split="train") -> np.ndarray:
    counts = part.counts(split).to_numpy(float)
    return counts[:, 1] / counts.sum(axis=1)


# what any partition keeps


@quiet
@given(
    seed=st.integers(0, 99),
    sites=st.integers(1, 6),
    doses=st.tuples(st.floats(0, 0.9), st.floats(0, 1)),
    task=st.sampled_from(list(CLASSES)),
    splits=st.sampled_from(["official", "site"]),
)
@settings(max_examples=12, deadline=None)
def test_every_case_is_assigned_once_and_units_stay_whole(seed, sites, doses, task, splits):
    patients = np.random.default_rng(seed).integers(0, 200, 300)
    cases = make(300, task, patient=patients, split=None)
    if splits == "official":
        of_patient = np.array(["train", "train", "val", "test"])[np.arange(200) % 4]
        cases = Cases(cases.images, cases.table.assign(split=of_patient[patients]), cases.card)
    part = partition(cases, sites, quantity=doses[0], prevalence=doses[1], seed=seed, splits=splits)
    assert part.table["case"].tolist() == cases.table["case"].tolist()
    assert part.sites == site_names(sites)
    for column in ("site", "split"):
        assert (part.table.groupby(cases.units)[column].nunique() == 1).all()
    rows = np.concatenate([part.index(site, split) for site in part.sites for split in ("train", "val", "test")])
    assert sorted(rows) == list(range(300))
    if splits == "official":
        assert (part.table["split"] == cases.table["split"]).all()
    assert same(part, partition(cases, sites, quantity=doses[0], prevalence=doses[1], seed=seed, splits=splits))


def test_no_dose_is_the_stratified_split():
    cases = make(1000, "multiclass")
    part = partition(cases, 4)
    for split in ("train", "val", "test"):
        counts = part.counts(split).to_numpy()
        proportional = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
        assert (np.abs(counts - proportional) < 1).all()
        assert np.ptp(counts.sum(axis=1)) <= 1
    assert not same(part, partition(cases, 4, seed=1))


def test_index_and_counts_agree_with_the_table():
    part = partition(make(300), 3, quantity=0.4, prevalence=0.5)
    for site in part.sites:
        for split in ("train", "val", "test"):
            rows = part.index(site, split)
            assert (np.diff(rows) > 0).all()
            chosen = part.table[(part.table["site"] == site) & (part.table["split"] == split)]
            assert part.cases.table["case"].iloc[rows].tolist() == chosen["case"].tolist()
            np.testing.assert_array_equal(
                part.counts(split).loc[site], np.bincount(part.cases.labels[rows], minlength=2)
            )
    assert (part.counts() == sum(part.counts(split) for split in ("train", "val", "test"))).all().all()


@pytest.mark.parametrize("task", CLASSES)
def test_counts_are_those_of_grouped_labels_also_of_sites_without_a_case(task):
    """A site with training cases only, names in natural order, cases that no site has."""
    cases = make(60, task)
    kept = cases.table["case"].iloc[np.random.default_rng(1).permutation(60)[:50]].reset_index(drop=True)
    site = np.array(["Site 10", "Site 2", "Site 1"])[np.minimum(np.arange(50) // 20, 2)]
    table = pd.DataFrame({"case": kept, "site": site, "split": np.where(np.arange(50) % 4, "train", "test")})
    table.loc[table["site"] == "Site 1", "split"] = "train"
    part = Partition.from_sites(cases, table)
    label = cases.table.set_index("case")["label"][kept].to_numpy()
    ranks = np.arange(len(cases.classes))
    present = (label[:, None] >> ranks) & 1 if task == "multilabel" else label[:, None] == ranks
    for split in (None, "train", "val", "test"):
        chosen = np.full(50, True) if split is None else (table["split"] == split).to_numpy()
        frame = pd.DataFrame(present[chosen].astype(np.int64), columns=cases.classes)
        wanted = frame.groupby(site[chosen]).sum().reindex(["Site 1", "Site 2", "Site 10"], fill_value=0)
        pd.testing.assert_frame_equal(part.counts(split), wanted.rename_axis("site"), check_index_type=False)


def test_site_sizes_are_those_requested():
    cases = make(1000)
    train = int((cases.table["split"] == "train").sum())
    part = partition(cases, 3, quantity=[5, 3, 2])
    assert part.counts("train").sum(axis=1).tolist() == pytest.approx([0.5 * train, 0.3 * train, 0.2 * train], abs=1)
    geometric = np.sort(partition(cases, 3, quantity=0.5).counts("train").sum(axis=1))[::-1]
    np.testing.assert_allclose(geometric, train * np.array([4, 2, 1]) / 7, atol=1)
    with pytest.warns(HeterogeneityWarning, match="3 of 4 sites were raised to 4 train cases"):
        floored = partition(cases, 4, quantity=1.0).counts("train").sum(axis=1)
    assert sorted(floored)[:3] == [4, 4, 4]


def test_splits_within_sites_are_stratified_70_10_20():
    part = partition(make(1000, split=None), 4, prevalence=0.5)
    assert part.spec["splits"] == "site"
    total = part.counts().to_numpy()
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        counts = part.counts(split).to_numpy()
        assert (np.abs(counts - share * total) < 2).all()
        np.testing.assert_array_less(np.abs(counts.sum(axis=1) - share * total.sum(axis=1)), 1)


# prevalence


@pytest.mark.parametrize("task", ["binary", "ordinal", "multiclass", "multilabel"])
@pytest.mark.parametrize("sites", [2, 5])
def test_odds_ratios_between_sites_are_the_dose_times_the_scores(task, sites):
    h, classes = 0.7, CLASSES[task]
    labels = np.arange(400) % (8 if task == "multilabel" else classes)
    u = SiteEffects(sites, 3).of("prevalence")
    scores = {
        "binary": lambda y: np.outer(u, y - 0.5),
        "ordinal": lambda y: np.outer(u, y / (classes - 1) - 0.5),
        "multilabel": lambda y: np.outer(u, (y > 0) - 0.5),
        "multiclass": lambda y: np.stack([np.roll(u, round(c * sites / classes)) / 2 for c in y], axis=1),
    }[task](np.unique(labels))
    tilts = [log_odds(h, LabelledCases(labels, classes, task, SiteEffects(sites, 3)))]
    strata = stratify(labels, tilts)
    pool, size = np.bincount(strata.of), np.full(sites, 400 // sites)
    logs = np.log(expected_counts(strata, tilts, pool, size)[:-1])
    for k in range(sites):
        found = (logs[k] - logs[0]) - (logs[k, 0] - logs[0, 0])
        expected = h * L * ((scores[k] - scores[0]) - (scores[k, 0] - scores[0, 0]))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@quiet
@pytest.mark.parametrize("task", ["binary", "ordinal", "multiclass"])
def test_the_realised_shift_grows_with_the_dose(task):
    cases = make(2000, task)
    found = [
        float(mutual_information(partition(cases, 4, prevalence=h).counts("train").to_numpy(float)))
        for h in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert found[0] < 1e-4 and (np.diff(found) > 0.01).all()
    order = [np.argsort(prevalences(partition(make(2000), 4, prevalence=h))) for h in (0.3, 0.9)]
    assert (order[0] == order[1]).all()  # the same sites lead


@quiet
def test_dirichlet_runs_from_no_shift_to_a_class_a_site():
    even = make(800, labels=np.arange(800) % 2, split=None)
    for seed in range(3):
        mild = partition(even, 4, prevalence="dirichlet(1e6)", seed=seed, splits="site")
        np.testing.assert_allclose(
            mild.counts().to_numpy() / mild.counts().sum(axis=1).to_numpy()[:, None], 0.5, atol=0.01
        )
    sharp = [partition(even, 2, prevalence="dirichlet(0.001)", seed=seed).counts().to_numpy() for seed in range(8)]
    apart = [table for table in sharp if table.max() > 390]  # the draws sent the two classes to different sites
    assert len(apart) >= 2
    assert all((table.sum(axis=1) == 400).all() and table.min() <= 1 for table in apart)


@quiet
def test_shards_and_classes_are_the_published_schemes():
    cases = make(1200, "ordinal", labels=np.repeat(np.arange(4), 300), split=None)
    shards = partition(cases, 6, prevalence="shards(2)").counts().to_numpy()
    assert (shards % 100 == 0).all() and (shards.sum(axis=1) == 200).all()  # 12 shards of 100, none across classes
    assert ((shards > 0).sum(axis=1) <= 2).all()
    for c in (1, 2, 4):
        held = partition(cases, 6, prevalence=f"classes({c})").counts().to_numpy()
        assert ((held > 0).sum(axis=1) == c).all()
        assert all(held[k, k % 4] > 0 for k in range(6))
        assert all(np.ptp(column[column > 0]) <= 1 for column in held.T) and (held.sum(axis=0) == 300).all()


@quiet
def test_a_class_that_nobody_holds_is_left_out_and_said_so():
    cases = make(400, "ordinal", labels=np.arange(400) % 4, split=None)
    with pytest.warns(HeterogeneityWarning, match="200 of 400 cases were left out"):
        part = partition(cases, 2, prevalence="classes(1)")
    assert part.counts().sum().tolist() == [100, 100, 0, 0]


@quiet
def test_a_dose_of_prevalence_without_a_second_class_is_said_to_change_nothing():
    data = masked_cases(40)
    with pytest.warns(
        HeterogeneityWarning, match="all cases have the class 'case', so that prevalence=0.5 changes nothing"
    ):
        dosed = partition(data, sites=2, prevalence=0.5)
    assert dosed.table.equals(partition(data, sites=2).table)


def test_exact_prevalence_to_half_a_case():
    cases = make(2000)
    part = partition(cases, 4, prevalence=[0.5, 0.45, 0.55, 0.5], quantity=[1, 1, 1, 1])
    n = part.counts("train").sum(axis=1).to_numpy()
    assert (np.abs(prevalences(part) - [0.5, 0.45, 0.55, 0.5]) <= 1 / (2 * n) + 1e-12).all()
    with pytest.warns(HeterogeneityWarning, match="cases were left out to meet"):
        skewed = partition(cases, 4, prevalence=[0.9, 0.9, 0.8, 0.7], quantity=[4, 2, 1, 1])
    n = skewed.counts("train").sum(axis=1).to_numpy()
    assert (np.abs(prevalences(skewed) - [0.9, 0.9, 0.8, 0.7]) <= 1 / (2 * n) + 1e-12).all()
    np.testing.assert_allclose(n / n.sum(), [0.5, 0.25, 0.125, 0.125], atol=0.01)  # one common factor
    official = cases.table["split"] == "test"
    assert len(skewed.unassigned("test")) == official.sum() - skewed.counts("test").to_numpy().sum() > 0


def test_an_impossible_prevalence_names_the_nearest():
    cases = make(60, labels=np.arange(60) % 20 == 0, split=None)  # three positives
    with pytest.raises(ValueError, match=r"3 positive.*nearest feasible value is \[0\.\d+, "):
        partition(cases, 4, prevalence=[0.9, 0.9, 0.9, 0.9])


def test_a_new_axis_is_one_more_tilt():
    labels, grade = np.arange(600) % 2, np.arange(600) // 2 % 3
    tilts = [
        LogOdds(labels, np.exp(np.outer([-1, 0, 1], [-0.5, 0.5]))),
        LogOdds(grade, np.exp(np.outer([1, -1, 0], [-1, 0, 1]))),
    ]
    strata = stratify(labels, tilts)
    table = expected_counts(strata, tilts, np.bincount(strata.of), np.array([200, 300, 100]))[:-1]
    odds = np.log(table).reshape(3, 2, 3)  # sites, labels, grades
    np.testing.assert_allclose((odds[2] - odds[0])[1] - (odds[2] - odds[0])[0], 2, atol=1e-6)
    np.testing.assert_allclose(np.diff((odds[1] - odds[0]), axis=1), -2, atol=1e-6)
    quota = LogOdds(
        labels, np.ones((3, 2)), lambda sizes, pool, least: np.array([[50, 150], [100, 100], [100, 50], [50, 0]])
    )
    fixed = expected_counts(strata, [quota, tilts[1]], np.bincount(strata.of), np.array([200, 200, 200]))
    np.testing.assert_allclose(
        fixed.reshape(4, 2, 3).sum(axis=2), [[50, 150], [100, 100], [100, 50], [50, 0]], atol=1e-6
    )


# leakage


def straddling(a: str, b: str) -> Cases:
    """Cases 0 and 1 have the same image, and stand in splits a and b; 2 and 3 are copies within train."""
    cases = with_copies({1: 0, 3: 2}, n=60)
    split = cases.table["split"].to_numpy(object).copy()
    split[[0, 1, 2, 3]] = [a, b, "train", "train"]
    return Cases(cases.images, cases.table.assign(split=split), cases.card)


def test_a_unit_in_train_and_val_is_moved_to_train():
    cases = straddling("val", "train")
    with pytest.warns(LeakageWarning, match="1 val cases went to train"):
        part = partition(cases, 2)
    assert part.table["split"][:2].tolist() == ["train", "train"] and part.table["site"][:2].nunique() == 1
    assert any("went to train" in note for note in part.spec["notes"])


def test_a_unit_that_touches_test_is_refused_unless_in_writing():
    cases = straddling("train", "test")
    with pytest.raises(ValueError, match=r"first: case 'case-00000'.*leakage='drop'"):
        partition(cases, 2)
    with pytest.warns(LeakageWarning, match="2 cases were left out"):
        dropped = partition(cases, 2, leakage="drop")
    gone = set(cases.table["case"]) - set(dropped.table["case"])
    assert gone == {"case-00000", "case-00003"}  # the train copy of a test image, and a surplus copy
    assert len(dropped.unassigned("train")) == len(dropped.unassigned("test")) == 0
    allowed = partition(cases, 2, leakage="allow")
    assert (allowed.table["split"] == cases.table["split"]).all()
    whole = partition(cases, 2, splits="site")
    assert len(whole.table) == 60 and (whole.table[:2][["site", "split"]].nunique() == 1).all()


def test_test_cases_of_no_site_still_count_as_test():
    cases = straddling("train", "test")
    sites = np.where(cases.table["split"] == "train", "North", None)
    with pytest.raises(ValueError, match="are both in test and in train"):
        Partition.from_sites(cases, sites)


@quiet
def test_a_unit_at_two_sites_is_split_once():
    cases = with_copies({i + 100: i for i in range(100)}, n=200, split=None)
    part = Partition.from_sites(cases, np.repeat(["East", "West"], 100))
    split = part.table["split"].to_numpy()
    assert (split[:100] == split[100:]).all()


# explicit sites


@quiet
def test_all_forms_of_explicit_sites_agree():
    cases = make(90, hospital=np.tile(["B", "A", "C"], 30))
    ids, names = cases.table["case"], cases.table["hospital"]
    expected = Partition.from_sites(cases, "hospital")
    shuffled = np.random.default_rng(0).permutation(90)
    forms = [
        names.to_numpy(),
        names.tolist(),
        names.iloc[shuffled],
        pd.Series(names.to_numpy(), index=ids).iloc[shuffled],
        {site: ids[names == site].tolist() for site in "CAB"},
        {site: np.flatnonzero(names == site) for site in "ABC"},
        {site: (names == site).to_numpy() for site in "ABC"},
        pd.DataFrame({"case": ids, "site": names}).iloc[shuffled],
        expected.table.iloc[shuffled],
    ]
    for form in forms:
        assert same(Partition.from_sites(cases, form), expected)
    assert same(partition(cases, "hospital"), expected)


@quiet
@pytest.mark.parametrize("nothing", [None, np.nan, -1])
def test_numbers_become_site_names_in_natural_order(nothing):
    sites = [10, 2, nothing] * 30
    part = Partition.from_sites(make(90), sites)
    assert part.sites == ["Site 2", "Site 10"] and len(part.table) == 60
    held_out = part.unassigned("test")
    assert (held_out % 3 == 2).all() and (part.cases.table["split"].iloc[held_out] == "test").all()


@quiet
@pytest.mark.parametrize("split", [(0.6, 0.1, 0.3), None])
def test_renaming_sites_renames_the_partition_and_nothing_else(split):
    cases, sites = make(120, split=split), np.repeat(["A", "B", "C"], 40)
    rename = {"A": "Zurich", "B": "Aachen", "C": "Lyon"}
    before = Partition.from_sites(cases, sites).table
    after = Partition.from_sites(cases, [rename[site] for site in sites]).table
    assert before.replace({"site": rename}).equals(after)


def test_names_run_past_z():
    names = site_names(60)
    assert names[:2] == ["Site A", "Site B"] and names[25:28] == ["Site Z", "Site AA", "Site AB"]
    assert sorted(reversed(names), key=natural) == names


def test_a_frame_brings_its_own_splits():
    cases = make(40, split=None, labels=np.arange(40) % 2)
    frame = pd.DataFrame(
        {"case": cases.table["case"], "site": ["N", "N", "S", "S"] * 10, "split": ["train"] * 20 + ["test"] * 20}
    )
    part = Partition.from_sites(cases, frame)
    assert part.table["split"].tolist() == frame["split"].tolist() and part.spec["splits"] == "official"


# what is refused, and what is warned of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prevalence": 1.2}, "prevalence is 1.2: give a dose between 0"),
        ({"quantity": -0.1}, "quantity is -0.1"),
        ({"acquisition": True}, "acquisition is True"),
        ({"prevalence": False}, "prevalence is False"),
        ({"quantity": "big"}, "quantity is 'big'"),
        ({"prevalence": "dirichlt(0.3)"}, "did you mean 'dirichlet'"),
        ({"prevalence": "dirichlet(beta=1)"}, "no argument 'beta'"),
        ({"prevalence": "dirichlet(0)"}, "alpha is a positive number"),
        ({"prevalence": "classes(3)"}, "at most 2, the number of classes"),
        ({"prevalence": "shards(0)"}, "from 1 to"),
        ({"prevalence": "shards(2)", "quantity": 0.5}, "fixes the site sizes"),
        ({"prevalence": [0.5, 0.5]}, "2 values for 4 sites"),
        ({"prevalence": [0.5, 0.5, 0.5, 1.5]}, "prevalence holds 1.5"),
        ({"quantity": [1, 2]}, "2 relative sizes for 4 sites"),
        ({"quantity": [1, 2, 3, 0]}, "quantity holds 0"),
        ({"quantity": [1, 1, 1, 5000]}, "no case to train on"),
        ({"sites": 0}, "sites is 0"),
        ({"sites": 2.5}, "sites is 2.5"),
        ({"sites": True}, "sites is True"),
        ({"sites": 1000}, "sites would have no case to train on"),
        ({"sites": "hospitl"}, "did you mean 'hospital'"),
        ({"sites": "hospital", "prevalence": 0.3}, "leave prevalence at 0"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"splits": "oficial"}, "did you mean 'official'"),
        ({"leakage": "ignore"}, "choose one of allow"),
    ],
)
def test_what_cannot_be_done_is_refused(changes, message):
    cases = make(120, hospital=["A", "B"] * 60)
    with pytest.raises(ValueError, match=message):
        partition(cases, **{"sites": 4, **changes})


def test_a_misspelt_axis_names_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'prevalence'"):
        partition(make(60), 4, prevalance=0.3)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"A": [0, 1], "B": [1, 2]}, "'case-00001' is listed twice"),
        ({"A": ["case-00000", "nobody"]}, "1 cases of site 'A' are unknown"),
        ({"A": [0, 99]}, "rows 0..59"),
        ({"A": []}, "lists no cases"),
        ({}, "no case belongs to a site"),
        (["A"] * 7, "7 values for 60 cases"),
        (pd.DataFrame({"case": ["case-00000"]}), "wanted case, site"),
        (pd.DataFrame({"case": ["case-00000"] * 2, "site": "A"}), "more than once"),
        (pd.DataFrame({"case": ["case-00000"], "site": "A", "split": "training"}), "holds \\['training'\\]"),
        (pd.DataFrame({"case": ["case-00000"], "site": "A", "split": "test"}), "A would have no training case"),
    ],
)
def test_explicit_sites_that_make_no_sense_are_refused(sites, message):
    with pytest.raises(ValueError, match=message):
        Partition.from_sites(make(60, split=None), sites)


def test_sites_without_a_class_are_named_once():
    labels = np.repeat([0, 1], 100)
    cases = make(200, labels=labels, split=None)
    with pytest.warns(HeterogeneityWarning) as caught:
        Partition.from_sites(cases, np.where(labels, "North", "South"))
    (warning,) = caught
    assert "South has no class 1 in train" in str(warning.message) and "left out of means" in str(warning.message)
    assert warning.filename == __file__  # points at the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partition(cases, 4, prevalence=0.3)


def test_unknown_sites_and_splits_are_refused():
    part = partition(make(100), 2)
    with pytest.raises(ValueError, match="no site 'Site C'"):
        part.index("Site C", "train")
    for call in (lambda: part.index("Site A", "training"), lambda: part.counts("tst"), lambda: part.unassigned("all")):
        with pytest.raises(ValueError, match="there is no split"):
            call()


# acquisition, and the disk


def test_pixels_are_what_the_scanner_shows():
    cases = make(100)
    plain, shown = partition(cases, 2), partition(cases, 2, acquisition=0.8)
    assert plain.table.equals(shown.table) and not plain.scanners
    rows = shown.index("Site A", "test")
    assert plain.pixels(rows, "Site A").tobytes() == cases.images[rows].tobytes()
    seen = shown.pixels(rows, "Site A")
    assert seen.dtype == np.uint8 and (seen != cases.images[rows]).any()
    np.testing.assert_array_equal(shown.pixels(rows[::-1][:5], "Site A"), seen[::-1][:5])
    assert (shown.pixels(rows, "Site B") != seen).any()
    assert plain.fingerprint != shown.fingerprint


@quiet
def test_saved_and_loaded_it_is_the_same(tmp_path: Path):
    cases = make(120)
    part = partition(
        cases, 3, prevalence=[0.4, 0.5, 0.6], quantity=np.array([1, 1, 2]), acquisition=0.5, seed=np.int64(4)
    )
    again = Partition.load(part.save(tmp_path / "folder"), cases)
    assert same(part, again) and again.scanners == part.scanners and again.spec == part.spec
    rows = part.index("Site B", "train")
    np.testing.assert_array_equal(part.pixels(rows, "Site B"), again.pixels(rows, "Site B"))
    with pytest.raises(ValueError, match="does not belong to these cases"):
        Partition.load(tmp_path / "folder", make(120, seed=1))


# the realised shift


@quiet
def test_moving_one_dose_moves_one_axis():
    cases = make(900, seed=5)
    marks = {"quantity": "Gini", "prevalence": "I(S;Y)", "acquisition": "MMD^2 within class"}
    for moved in marks:
        found = partition(cases, 4, **{moved: 0.6}, seed=2).shift().set_index("measure")
        for axis, measure in marks.items():
            beyond_chance = found["value"][measure] > found["null_high"][measure]
            assert beyond_chance == (axis == moved), (moved, measure)


def test_shift_is_deterministic_and_knows_its_splits():
    part = partition(make(200), 3, prevalence=0.6)
    assert part.shift().equals(part.shift())
    assert list(part.shift()) == ["axis", "measure", "value", "null_low", "null", "null_high", "low", "high"]
    value = part.shift(None).set_index("measure")["value"]["TV"]
    assert value == pytest.approx(float(total_variation(part.counts().to_numpy(float))), abs=1e-12)
    assert set(part.shift()["axis"]) <= set(fedlab.AXES)


def test_shift_of_thousands_of_cases_in_a_moment():
    part = partition(make(3000), 4, prevalence=0.5, acquisition=0.5)
    _ = part.cases.units
    start = time.thread_time()
    part.shift()
    assert time.thread_time() - start < 3


def test_one_site_alone_has_no_shift():
    found = partition(make(200), 1).shift().set_index("measure")
    assert found["value"]["I(S;Y)"] == 0 and np.isnan(found["value"]["MMD^2"])


# real data


@pytest.fixture(scope="module")
def pneumonia() -> Cases:
    with np.load(Path(str(MIRROR)) / "medmnist" / "pneumoniamnist.npz") as official:
        names = ("train", "val", "test")
        images = np.concatenate([official[f"{name}_images"] for name in names])[:, None]
        labels = np.concatenate([official[f"{name}_labels"][:, 0] for name in names]).astype(int)
        split = np.repeat(names, [len(official[f"{name}_labels"]) for name in names])
    table = pd.DataFrame({"case": [f"case-{i:05d}" for i in range(len(labels))], "label": labels, "split": split})
    return Cases(images, table, {"name": "pneumoniamnist", "task": "binary", "classes": ["normal", "pneumonia"]})


mirrored = pytest.mark.skipif(not MIRROR, reason="set FEDLAB_MIRROR to a folder with the official files")


@mirrored
def test_published_duplicates_do_not_leak(pneumonia):
    with pytest.warns(LeakageWarning, match="8 val cases went to train"):
        part = partition(pneumonia, 4, prevalence=0.5)
    assert len(part.table) == 5856
    for column in ("site", "split"):
        assert (part.table.groupby(pneumonia.units)[column].nunique() == 1).all()
    test = pneumonia.table["split"] == "test"
    assert set(part.table.loc[part.table["split"] == "test", "case"]) == set(pneumonia.table.loc[test, "case"])
    with pytest.warns(LeakageWarning, match="29 cases were left out"):
        assert len(partition(pneumonia, 4, leakage="drop").table) == 5856 - 29


@mirrored
def test_the_reference_federation_has_its_known_shift(pneumonia):
    train = pneumonia.table["split"] == "train"
    neg, pos = (np.flatnonzero(train & (pneumonia.labels == y)) for y in (0, 1))
    cuts = [((0, 50), (0, 950)), ((50, 250), (950, 1750)), ((250, 650), (1750, 2150)), ((650, 1214), (2150, 2350))]
    sites = {k: np.concatenate([neg[slice(*n)], pos[slice(*p)]]) for k, (n, p) in enumerate(cuts)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = Partition.from_sites(pneumonia, sites)
    for k, rows in sites.items():
        np.testing.assert_array_equal(part.index(f"Site {k}", "train"), np.sort(rows))
    assert len(part.unassigned("test")) == 624
    counts = part.counts("train").to_numpy(float)
    known = {mutual_information: 0.24023299, jensen_shannon: 0.16547933, total_variation: 0.39410995}
    known |= {hellinger: 0.31901512, weighted_l1: 0.48401461}
    for measure, value in known.items():
        assert float(measure(counts)) == pytest.approx(value, abs=1e-8)
    shift = part.shift().set_index("measure")
    assert shift["value"]["I(S;Y)"] == pytest.approx(0.24023299, abs=1e-8)
    assert shift["value"]["MMD^2 within class"] < shift["null_high"]["MMD^2 within class"] < shift["value"]["MMD^2"]
