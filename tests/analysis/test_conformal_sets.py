"""Laws of prediction sets, on scores and on runs made up of arrays."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import fedlab
from fedlab.analysis.joining.conformal_sets import aps, coverage_band, threshold
from fedlab.core.rng import stream

CLASSES = ("normal", "nodule", "mass")


def stored(
    sites=("Site A", "Site B", "Site C"), n=(80, 30, 12), skills=(2.0, 2.0, 2.0), classes=CLASSES, seed=0, images=1
):
    """A run whose shared model knows the class by `skill` standard deviations; as many validation as test cases."""
    rng, frames = stream(seed, "stored"), []
    for site, count, skill in zip(sites, n, skills, strict=True):
        for split in ("val", "test"):
            y = rng.integers(0, len(classes), count)
            p = np.exp(2 * (np.eye(len(classes))[y] * skill / 2 + rng.normal(size=(count, len(classes))) / 2))
            p /= p.sum(1, keepdims=True)
            frame = pd.DataFrame({"case": [f"{site}/{split}/{k}" for k in range(count)], "site": site, "split": split})
            frame["unit"] = [f"{site}/{split}/{k // images}" for k in range(count)]
            frames.append(frame.assign(label=y, **{f"p{c}": p[:, c] for c in range(len(classes))}))
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.assign(model="global", choice="best").sample(frac=1, random_state=seed)
    task = "binary" if len(classes) == 2 else "multiclass"
    experiment = SimpleNamespace(method="fedavg", seed=seed, dataset="made up")
    return SimpleNamespace(
        experiment=experiment, method="fedavg", task=task, classes=list(classes), headline="auroc", unseen=(),
        partition_table=rows[["case", "site", "split"]].reset_index(drop=True), predictions=rows.reset_index(drop=True),
    )  # fmt: skip


@pytest.mark.parametrize("n", [9, 19, 50, 200])
def test_the_coverage_of_exchangeable_scores_is_beta(n):
    """Of uniform scores the coverage of a threshold is the threshold itself."""
    draws = stream(0, "exchangeable", n).random((1500, n))
    found = np.array([threshold(each, np.empty(0), 0.9, 1.0) for each in draws])
    left = int((n + 1) * 0.1 + 1e-9)
    assert stats.kstest(found, stats.beta(n + 1 - left, left).cdf).pvalue > 0.001
    low, high = coverage_band(n, 0.9)
    inside = stats.binomtest(int(((found >= low) & (found <= high)).sum()), len(found), 0.95)
    assert inside.pvalue > 0.001 and found.mean() >= 0.9 - 3 * found.std() / len(found) ** 0.5


def test_the_weight_leads_from_the_others_to_the_site():
    rng = stream(0, "weights")
    own, others = rng.random(40), 2 * rng.random(90)
    alone, of_others = (threshold(each, np.empty(0), 0.9, 1.0) for each in (own, others))
    assert threshold(own, others, 0.9, 1.0) == alone == np.sort(own)[int(np.ceil(41 * 0.9)) - 1]
    assert threshold(own, others, 0.9, 0.0) == of_others
    steps = [threshold(own, others, 0.9, weight) for weight in np.linspace(1, 0, 11)]
    assert steps == sorted(steps)
    assert threshold(own[:8], np.empty(0), 0.9, 1.0) == np.inf


def test_shrinkage_leads_from_the_site_to_the_others():
    run = stored(skills=(3.0, 1.0, 0.2))
    site, none, shrunken = (
        fedlab.conformal(run, calibration=way, shrinkage=c).set_index("site")["threshold"]
        for way, c in (("site", 30), ("shrunken", 0), ("shrunken", 30))
    )
    pd.testing.assert_series_equal(site, none)
    far = fedlab.conformal(run, calibration="shrunken", shrinkage=1e12).set_index("site")["threshold"]
    others = stored(skills=(3.0, 1.0, 0.2))
    others.predictions = others.predictions[others.predictions["site"] != "Site A"]
    others.partition_table = others.partition_table[others.partition_table["site"] != "Site A"]
    pooled = fedlab.conformal(others, calibration="pooled")
    assert far["Site A"] == pooled["threshold"].iloc[0]
    low, high = sorted((site["Site A"], far["Site A"]))
    assert low <= shrunken["Site A"] <= high


def test_coverage_and_size_are_those_of_the_sets():
    run = stored()
    table = fedlab.conformal(run, 0.8, "pooled").set_index("site")
    assert table["threshold"].nunique() == 1 and list(table["tests"]) == [80, 30, 12, 122]
    test = run.predictions[run.predictions["split"] == "test"]
    p = test[["p0", "p1", "p2"]].to_numpy()
    inside = 1 - p <= table["threshold"].iloc[0] + 1e-9
    for site, row in table.iterrows():
        at = np.ones(len(test), bool) if site == "pooled" else (test["site"] == site).to_numpy()
        assert row["coverage"] == inside[np.arange(len(test)), test["label"]][at].mean()
        assert row["size"] == inside[at].sum(1).mean() and row["low"] <= row["coverage"] <= row["high"]
    assert list(table["covered_by"]) == ["none"] * 3 + ["guarantee"]
    assert list(fedlab.conformal(run, 0.8, "site")["covered_by"]) == ["guarantee"] * 3 + ["none"]


def test_a_site_with_too_few_cases_gets_sets_of_all_classes():
    table = fedlab.conformal(stored(n=(80, 30, 8)), 0.9, "site").set_index("site")
    assert table.loc["Site C", "size"] == 3 and table.loc["Site C", "coverage"] == 1
    assert table.loc["Site C", "threshold"] == np.inf and table.loc["Site C", "band_low"] == 1


def test_thresholds_of_classes_are_those_of_their_cases():
    run = stored(n=(120, 60, 40))
    table = fedlab.conformal(run, 0.8, "pooled", by_class=True)
    val = run.predictions[run.predictions["split"] == "val"]
    for c, name in enumerate(CLASSES):
        scores = np.sort(1 - val.loc[val["label"] == c, f"p{c}"].to_numpy())
        rows = table[table["class"] == name]
        assert set(rows["threshold"]) == {scores[int(np.ceil((len(scores) + 1) * 0.8)) - 1]}
        assert set(rows["cases"]) == {len(scores)}


def test_adaptive_scores_of_the_true_class_are_uniform_if_probabilities_are_right():
    rng = stream(0, "adaptive")
    p = rng.dirichlet((1.0, 2.0, 0.5), 3000)
    y = (p.cumsum(1) < rng.random((3000, 1))).sum(1)
    assert stats.kstest(aps(p, rng.random(3000))[np.arange(3000), y], "uniform").pvalue > 0.001


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_neither_the_order_of_rows_nor_names_of_sites_change_the_sets(score):
    names = ["$z$ <b>_", "日本\n site", "\\frac{1}"]
    run, other = stored(), stored()
    for frame in (other.predictions, other.partition_table):
        frame["site"] = frame["site"].map(dict(zip(["Site A", "Site B", "Site C"], names, strict=True)))
    other.predictions = other.predictions.sample(frac=1, random_state=5)
    one, two = (fedlab.conformal(each, score=score, calibration="shrunken").set_index("site") for each in (run, other))
    one = one.rename(index=dict(zip(["Site A", "Site B", "Site C"], names, strict=True)))
    pd.testing.assert_frame_equal(pd.DataFrame(one), pd.DataFrame(two).loc[one.index])


def test_images_of_a_patient_count_as_one():
    table = fedlab.conformal(stored(n=(60, 30, 30), images=3), 0.9, "site").set_index("site")
    assert list(table["cases"]) == [20, 10, 10, 40]
    twice = stored(n=(60, 30, 30))
    copies = twice.predictions.assign(case=twice.predictions["case"] + "/again")
    table_twice = twice.partition_table.assign(case=twice.partition_table["case"] + "/again")
    frames = {"predictions": [twice.predictions, copies], "partition_table": [twice.partition_table, table_twice]}
    joined = {name: pd.concat(both, ignore_index=True) for name, both in frames.items()}
    both = SimpleNamespace(**{**vars(twice), **joined})
    same = ["cases", "threshold", "coverage", "size", "band_low"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(fedlab.conformal(twice))[same], pd.DataFrame(fedlab.conformal(both))[same]
    )


def test_bad_input_is_refused_with_the_remedy():
    run = stored()
    for given, match in [({"level": 1.0}, "between 0 and 1"), ({"calibration": "own"}, "choose one of"),
                         ({"score": "raps"}, "choose one of"), ({"shrinkage": -1}, "0 or more")]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            fedlab.conformal(run, **given)
    run.task = "multilabel"
    with pytest.raises(ValueError, match="one class a case"):
        fedlab.conformal(run)
