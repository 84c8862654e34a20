"""Phantoms are what their card says they are."""

import json

import numpy as np
import pandas as pd
import pytest

from fedlab.data.cases import Cases, read
from fedlab.data.phantoms import TRUTH, phantom_images, phantom_table, phantoms

OF_A_PATIENT = ["label", "split", "age", "sex", "severity", "subtype"]


@pytest.fixture(scope="module")
def cases() -> Cases:
    return phantoms(cases=1200, seed=3)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return phantom_table(60_000, seed=1)


def drawn(table: pd.DataFrame, size: int = 28, dimensions: int = 2, **columns) -> np.ndarray:
    """Images (n, size, size[, size]) in full scales of the same patients with these columns set."""
    return phantom_images(table.assign(**columns), size, dimensions, seed=5)[0][:, 0] / 255


def test_same_arguments_same_bytes_other_seed_other_bytes(cases):
    again, other = phantoms(cases=1200, seed=3), phantoms(cases=1200, seed=4)
    assert np.array_equal(again.images, cases.images) and np.array_equal(again.masks, cases.masks)
    assert again.fingerprint == cases.fingerprint
    assert not np.array_equal(other.images, cases.images)
    assert not other.table["age"].equals(cases.table["age"])


def test_nothing_leaks(cases):
    assert cases.audit().empty
    assert (cases.table.groupby("patient")["split"].nunique() == 1).all()


def test_a_patient_has_one_age_sex_split_and_disease_and_about_1_4_images(table):
    patients = table.groupby("patient")
    assert (patients[OF_A_PATIENT].nunique() == 1).all(axis=None)
    assert patients.size().isin([1, 2, 3]).all()
    assert patients.size().mean() == pytest.approx(1.4, abs=0.03)


def test_images_of_one_patient_share_their_anatomy(cases):
    pixels = cases.images.reshape(len(cases), -1) / 255
    same = cases.table["patient"].eq(cases.table["patient"].shift(-1)).to_numpy()[:-1]
    distance = np.square(pixels[1:] - pixels[:-1]).mean(1)
    assert distance[same].mean() < 0.7 * distance[~same].mean()


@pytest.mark.parametrize("seed", range(5))
def test_ten_cases_still_have_three_splits(seed):
    assert set(phantom_table(10, seed)["split"]) == {"train", "val", "test"}


def test_splits_hold_their_shares(table):
    shares = table["split"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx(TRUTH["split"], abs=0.01)


def test_columns_stay_in_their_ranges(table):
    ill = table["label"] == 1
    assert table["age"].between(20, 90).all() and set(table["sex"]) == {"F", "M"}
    assert (
        table.loc[ill, "severity"].between(0, 1, inclusive="right").all() and (table.loc[~ill, "severity"] == 0).all()
    )
    assert (table.loc[~ill, "subtype"] == "none").all()
    shares = table[ill]["subtype"].value_counts(normalize=True).to_dict()
    assert shares == pytest.approx(TRUTH["subtype"], abs=0.02)
    assert 0.36 < ill.mean() < 0.44


def test_logistic_regression_recovers_the_risk_on_the_card(table, cases):
    patients = table.drop_duplicates("patient")
    columns = [np.ones(len(patients)), (patients["age"] - 55) / 10, patients["sex"] == "M"]
    X, y, beta = np.column_stack(columns).astype(float), patients["label"].to_numpy(), np.zeros(3)
    for _ in range(8):  # Newton
        p = 1 / (1 + np.exp(-X @ beta))
        information = (X.T * (p * (1 - p))) @ X
        beta = beta + np.linalg.solve(information, X.T @ (y - p))
    error = np.sqrt(np.diag(np.linalg.inv(information)))
    truth = cases.card["truth"]["disease"]
    assert np.all(np.abs(beta - [truth["intercept"], truth["age_per_decade"], truth["male"]]) < 3 * error)
    assert np.all(error < 0.03)


def test_referral_follows_disease_and_severity_as_the_card_says():
    from sklearn.linear_model import LogisticRegression

    table = phantom_table(40000, seed=5).drop_duplicates("patient")
    known = np.column_stack([table["label"], table["severity"], table["subtype"] == "spiculated"])
    fit = LogisticRegression(C=np.inf).fit(known, table["site"] == "University")
    assert [fit.intercept_[0], *fit.coef_[0]] == pytest.approx(list(TRUTH["site"].values()), abs=0.15)


def test_the_site_does_not_act_on_the_image():
    table = phantom_table(60)
    for part, same in zip(phantom_images(table), phantom_images(table.assign(site="County")), strict=True):
        np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize(("size", "dimensions"), [(16, 2), (28, 2), (33, 2), (16, 3)])
def test_masks_mark_exactly_the_ill_and_stay_off_the_border(size, dimensions):
    drawn = phantoms(300, size, dimensions, seed=2)
    assert drawn.images.shape == (300, 1, *[size] * dimensions) and drawn.masks.shape == (300, *[size] * dimensions)
    assert drawn.images.dtype == drawn.masks.dtype == np.uint8 and drawn.masks.max() == 1
    assert np.array_equal(drawn.masks.any(tuple(range(1, dimensions + 1))), drawn.labels == 1)
    border = np.ones([size] * dimensions, bool)
    border[(slice(1, -1),) * dimensions] = False
    assert not drawn.masks[:, border].any()


def test_without_label_nothing_but_the_nodule_goes(cases):
    images, masks = phantom_images(cases.table, seed=3)
    without, empty = phantom_images(cases.table.assign(label=0), seed=3)
    change = images[:, 0].astype(int) - without[:, 0]
    assert np.array_equal(images, cases.images) and not empty.any()
    assert not change[cases.labels == 0].any()
    assert change.min() >= 0 and change[masks == 1].mean() > 20 * change[masks == 0].mean()


def test_severity_sets_the_contrast_on_the_card():
    table = phantom_table(600, seed=5)
    severity = np.random.default_rng(0).random(len(table))
    ill = table.assign(label=1, severity=severity, subtype="round")
    with_nodule = drawn(ill, size=48)
    peak = (with_nodule - drawn(ill, size=48, label=0)).max((1, 2))
    dark = with_nodule.max((1, 2)) < 1  # nothing is cut off at white
    slope, start = np.polyfit(severity[dark], peak[dark], 1)
    truth = TRUTH["severity"]["contrast"]
    assert dark.mean() > 0.5
    assert [start, slope] == pytest.approx([truth["at_0"], truth["per_unit"]], abs=0.02)


def test_nodules_stand_out_from_their_surroundings_the_more_the_severer():
    cases = phantoms(3000, seed=7)
    pixels, masks = cases.images[:, 0] / 255, cases.masks == 1
    grown = masks.copy()
    for axis, step in [(1, 1), (1, -1), (2, 1), (2, -1)] * 2:
        grown |= np.roll(grown, step, axis)
    around = grown & ~masks
    ill = cases.labels == 1
    inside = (pixels * masks).sum((1, 2))[ill] / masks.sum((1, 2))[ill]
    contrast = inside - (pixels * around).sum((1, 2))[ill] / around.sum((1, 2))[ill]
    thirds = pd.Series(contrast).groupby(pd.qcut(cases.table["severity"][ill].to_numpy(), 3)).mean().to_numpy()
    assert thirds[0] > 0 and np.all(np.diff(thirds) > 0.02)
    area = pd.Series(masks.sum((1, 2))[ill])
    assert area.corr(cases.table["severity"][ill].reset_index(drop=True), method="spearman") > 0.5


def test_subtypes_have_their_profiles():
    table = phantom_table(60, seed=5).assign(label=1, severity=1.0)
    without = drawn(table, size=64, label=0)
    added = {kind: drawn(table, size=64, subtype=kind) - without for kind in TRUTH["subtype"]}
    centre = added["round"].reshape(60, -1).argmax(1)
    at_centre = {kind: change.reshape(60, -1)[np.arange(60), centre] for kind, change in added.items()}
    hollow, rim = at_centre["ring"] / at_centre["round"], added["ring"].max((1, 2)) / at_centre["round"]
    assert np.median(hollow) < 0.15 and np.median(rim) > 0.4
    area = {kind: (change > 0.05).sum((1, 2)) for kind, change in added.items()}
    assert np.median(area["spiculated"] / area["round"]) > 1.2


def test_age_widens_the_mediastinum_and_fades_the_ribs():
    table = phantom_table(200, seed=5).assign(label=0)
    young, old = drawn(table, size=64, age=30), drawn(table, size=64, age=80)
    lateral = np.r_[22:26, 38:42]  # columns next to the midline, 0.2 to 0.3 half-images off
    assert (old - young)[:, 15:35, lateral].mean() > 0.03
    rib = (young - old)[:, 24:40, 10:20].max((1, 2))  # in the lung: nothing else changes there, the noise cancels
    assert rib.mean() == pytest.approx(-5 * TRUTH["age"]["rib_contrast"]["per_decade"], abs=0.01)


def test_men_are_broader_and_women_have_breast_shadows():
    table = phantom_table(200, seed=5).assign(label=0)
    women, men = drawn(table, size=64, sex="F"), drawn(table, size=64, sex="M")
    breadth = [(images[:, 50:].mean(1) > 0.3).sum(1).mean() * 2 / 64 for images in (women, men)]
    truth = TRUTH["sex"]["body_width"]
    assert breadth[1] - breadth[0] == pytest.approx(2 * (truth["M"] - truth["F"]), abs=0.03)
    chest = (women - men)[:, :, 14:22].mean((0, 2))
    assert chest[40:46].mean() > chest[22:30].mean() + 0.02


def test_a_volume_hides_its_nodule_from_most_slices():
    cases = phantoms(40, 20, dimensions=3, seed=1)
    slices = cases.masks[cases.labels == 1].any((1, 2)).sum(1)
    assert cases.shape == (1, 20, 20, 20)
    assert slices.min() >= 1 and slices.max() < 10


def test_the_card_travels_and_cannot_change_the_truth(tmp_path, cases):
    card = phantoms(10).card
    assert json.loads(json.dumps(card)) == card
    card["truth"]["disease"]["male"] = 9.0
    assert TRUTH["disease"]["male"] != 9.0
    assert set(card["columns"]) == set(cases.table.columns) - {"case"}
    assert read(cases.save(tmp_path / "phantoms")).fingerprint == cases.fingerprint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cases": 9}, "cases is 9: draw at least 10"),
        ({"size": 15}, "size is 15: .* choose 16 or more"),
        ({"dimensions": 4}, "dimensions is 4: choose 2 for images or 3 for volumes"),
    ],
)
def test_impossible_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        phantoms(**arguments)
