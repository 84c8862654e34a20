"""Several metrics in one comparison, sensitivity and calibration among them, and decisions that belie a ranking."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from test_comparison import SITES, changed, made_up, row, three_sites

from fedlab.analysis import comparison
from fedlab.analysis.comparison import compare
from fedlab.analysis.scores import Score, TestSet
from fedlab.analysis.thresholds import Disagreement, disagreement
from fedlab.core.rng import stream
from fedlab.core.warnings import ProtocolWarning
from fedlab.evaluation.intervals import calibration, proportions
from fedlab.evaluation.report_metrics import REPORT_METRICS
from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS, TASK_METRICS, metric

NUMBERS = ["value", "low", "high", "difference", "difference_low", "p_value", "p_holm", "finding", "note"]


@pytest.fixture(scope="module")
def runs():
    return [made_up(three_sites(), method, skill=1.5) for method in ("local", "fedavg", "centralized")]


def moved(run, shift=0.0, scale=1.0):
    """The run with other log-odds: the ranking stays."""
    p = expit(scale * logit(run.predictions["p1"]) + shift)
    return changed(run, predictions=run.predictions.assign(p0=1 - p, p1=p))


def test_several_metrics_are_the_tables_of_each_below_each_other(runs):
    names = ["auroc", "sensitivity", "brier"]
    together = compare(runs, names)
    pd.testing.assert_frame_equal(together, pd.concat([compare(runs, name) for name in names], ignore_index=True))
    pd.testing.assert_frame_equal(compare(runs, ["brier"]), compare(runs, "brier"))
    wide = together.matrix()
    assert wide.index.tolist() == [(name, run.method) for name in names for run in runs]
    for name in names:
        pd.testing.assert_frame_equal(wide.loc[name], compare(runs, name).matrix(), check_names=False)
    assert "metric" in repr(together) and "sensitivity" in repr(together) and "metric" not in repr(compare(runs))


def test_metrics_are_named_once_and_known(runs):
    for names in ([], ["auroc", "auroc"]):
        with pytest.raises(ValueError, match="name one metric or more, each once"):
            compare(runs, names)
    with pytest.raises(ValueError, match="did you mean 'sensitivity'"):
        compare(runs, ["auroc", "sensitivty"])
    three = made_up({site: np.arange(12) % 3 for site in SITES}, task="multiclass", classes=tuple("abc"))
    with pytest.raises(ValueError, match="specificity is a metric of binary tasks, and this task is multiclass"):
        compare([three], ["auroc", "specificity"])


def test_sensitivity_is_the_accuracy_of_the_diseased(runs):
    diseased = []
    for run in runs:
        kept = run.predictions[run.predictions["label"] == 1]
        table = run.partition_table[
            run.partition_table["case"].isin(kept["case"]) | (run.partition_table["split"] != "test")
        ]
        diseased.append(changed(run, predictions=kept, partition_table=table))
    found, expected = compare(runs, "sensitivity"), compare(diseased, "accuracy")
    columns = [
        "value",
        "low",
        "high",
        "interval",
        "difference",
        "difference_low",
        "difference_high",
        "p_value",
        "p_holm",
    ]
    pd.testing.assert_frame_equal(found[columns], expected[columns])
    assert found["support"].tolist() == expected["support"].tolist()
    site = runs[0].predictions.query("choice == 'best' and site == 'Site A' and model == 'Site A' and label == 1")
    hits = int((site["p1"] > 0.5).sum())
    assert tuple(row(found, "local", "Site A")[["low", "high"]]) == pytest.approx(
        proportions.proportion(hits, len(site))
    )


def test_specificity_is_the_sensitivity_of_swapped_classes(runs):
    swapped = []
    for run in runs:
        of = run.predictions
        swapped.append(changed(run, predictions=of.assign(label=1 - of["label"], p0=of["p1"], p1=of["p0"])))
    one, other = compare(runs, "specificity"), compare(swapped, "sensitivity")
    pd.testing.assert_frame_equal(one[NUMBERS[:-1]], other[NUMBERS[:-1]])


def test_images_of_one_patient_widen_sensitivity():
    run = made_up({site: np.repeat(labels, 4) for site, labels in three_sites().items()})
    case = run.predictions["case"].str.split("/", expand=True)
    together = changed(
        run,
        predictions=run.predictions.assign(unit=pd.factorize(case[0] + case[1].astype(int).floordiv(4).astype(str))[0]),
    )
    wide, narrow = (row(compare([each], "sensitivity"), "fedavg", "pooled") for each in (together, run))
    assert (wide["interval"], narrow["interval"]) == ("Korn-Graubard", "Wilson and mid-P")
    assert wide["support"] * 4 == narrow["support"]


def test_few_of_the_class_are_marked_and_none_leave_the_site_out():
    labels = {"Site A": np.r_[1, 1, 1, np.zeros(30, int)], "Site B": np.zeros(30, int), "Site C": np.tile([0, 1], 20)}
    frame = compare([made_up(labels)], ["sensitivity", "specificity"])
    found = frame[frame["metric"] == "sensitivity"]
    assert row(found, "fedavg", "Site A")["note"] == "uninformative: 3 patients of class 'nodule'"
    assert np.isnan(row(found, "fedavg", "Site B")["value"])
    assert row(found, "fedavg", "mean of sites")["note"] == "1 of 3 sites left out"
    assert frame[frame["metric"] == "specificity"]["value"].iloc[:5].notna().all()


def test_calibration_follows_the_log_odds(runs):
    run = runs[1]
    names = ["calibration_slope", "calibration_intercept"]
    base, other = (compare([each], names).query("site == 'Site A'") for each in (run, moved(run, 0.7, 1.0)))
    ends = ["value", "low", "high"]
    assert other[ends].to_numpy()[0] == pytest.approx(base[ends].to_numpy()[0], rel=1e-4)
    assert other[ends].to_numpy()[1] == pytest.approx(base[ends].to_numpy()[1] - 0.7, abs=1e-6)
    double = compare([moved(run, 0, 2.0)], "calibration_slope").query("site == 'Site A'")
    assert 2 * double[ends].to_numpy()[0] == pytest.approx(base[ends].to_numpy()[0], rel=1e-4)
    assert list(base["interval"]) == ["Firth profile", "score"]


def test_calibration_has_no_better_side(runs):
    frame = compare(runs, ["calibration_slope", "calibration_intercept"])
    assert frame[["difference", "difference_low", "p_value"]].isna().all(axis=None) and set(frame["finding"]) == {""}
    worst = frame[frame["site"] == "worst site"]
    assert worst[["value", "low"]].isna().all(axis=None) and worst["note"].str.startswith("no worst site").all()
    assert frame.query("site == 'mean of sites'")["low"].notna().all()


def test_copies_of_images_say_nothing_new_of_calibration():
    rng = np.random.default_rng(0)
    p = rng.random(60)
    y = rng.random(60) < p
    one, three = np.arange(60), np.tile(np.arange(60), 3)
    for found in (calibration.slope, calibration.intercept):
        alone, copied = found(p, y, 0.95, one), found(np.tile(p, 3), np.tile(y, 3), 0.95, three)
        assert copied[1].width == pytest.approx(alone[1].width, rel=0.12)
        assert found(np.tile(p, 3), np.tile(y, 3))[1].width < 0.65 * copied[1].width


def test_ece_says_what_calibrated_probabilities_would_have():
    rng = stream(0, "ece")
    biases = []
    for n in (40, 400):
        p = rng.random(n)
        test = TestSet("ece", (rng.random(n) < p).astype(np.int64), np.arange(n), 2)
        good = Score(test, {0: test.score([np.column_stack([1 - p, p])])})
        biases.append(good.calibrated.mean())
        assert np.quantile(good.calibrated, 0.01) < good.value < np.quantile(good.calibrated, 0.99)
    assert biases[0] > 2 * biases[1] > 0.02
    run = made_up(three_sites(n=(80, 80, 80)), skill=2.0)
    fine, extreme = (compare([each], "ece") for each in (run, moved(run, 0, 12.0)))
    found = row(extreme, "fedavg", "pooled")
    assert "expected if calibrated (p = 0.001); no interval below 500 cases" in found["note"]
    assert "p = 0.001" not in row(fine, "fedavg", "Site A")["note"]
    assert row(fine, "fedavg", "mean of sites")["note"].startswith("no interval, since")
    pd.testing.assert_frame_equal(fine, compare([run], "ece"))  # seeded


def test_images_of_one_patient_let_chance_go_further():
    p = stream(0, "p").random(40).repeat(5)
    both = np.column_stack([1 - p, p])
    alone, grouped = (
        calibration.calibrated_ece(both, patient, np.random.default_rng(0)).mean()
        for patient in (np.arange(200), np.arange(40).repeat(5))
    )
    assert grouped > 1.5 * alone


def test_the_squared_error_is_unbiased():
    rng = np.random.default_rng(0)
    calibrated, shifted = [], []
    for _ in range(200):
        p = rng.random(60)
        calibrated.append(calibration.squared_error(p, rng.random(60) < p))
        shifted.append(calibration.squared_error(0.5 * p, rng.random(60) < p))
    assert abs(np.mean(calibrated)) < 3 * np.std(calibrated) / 200**0.5 and min(calibrated) < 0
    assert np.mean(shifted) == pytest.approx(1 / 12, abs=0.015)  # the mean of (p / 2) ** 2
    frame = compare([made_up(three_sites(n=(40, 30, 8)))], "squared_calibration_error")
    assert row(frame, "fedavg", "Site C")["note"] == "too few test cases"
    assert row(frame, "fedavg", "Site A")["note"] == "no interval, and unbiased: may be below 0"


def test_what_varied_is_said(runs):
    one = compare(runs, "accuracy")
    assert set(one["varied"]) == {"test cases"}
    several = [made_up(three_sites(), seed=seed) for seed in range(3)]
    assert set(compare(several)["varied"]) == {"test cases, 3 seeds"}
    assert set(compare(several[:2])["varied"]) == {""}


def test_good_ranking_with_bad_decisions_is_said(runs):
    labels = three_sites(n=(80, 80, 40))
    good = [made_up(labels, method, skill=3.0) for method in ("local", "fedavg")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProtocolWarning)
        quiet = compare(good)
    with pytest.warns(ProtocolWarning, match=r"good ranking, bad decisions: 'fedavg' at Site A \(AUROC \d\.\d\d, acc"):
        found = compare([good[0], moved(good[1], -6.0)], ["brier", "auroc"])
    with pytest.warns(ProtocolWarning, match="calibration_slope"):
        compare([good[0], moved(good[1], -6.0)])
    noted = found[found["note"].str.contains("named as often as it occurs")]
    assert set(noted["method"]) == {"fedavg"} and set(noted["metric"]) == {"brier", "auroc"}
    assert {"Site A", "Site B", "pooled"} <= set(noted["site"])
    pd.testing.assert_series_equal(  # the ranking is as good as it was
        found.query("metric == 'auroc'")["value"].reset_index(drop=True), quiet["value"]
    )


@pytest.mark.parametrize("task, classes", [("binary", ("a", "b")), ("multiclass", ("a", "b", "c"))])
def test_advice_on_bad_decisions_names_metrics_of_the_task_only(task, classes, monkeypatch):
    labels = {site: np.arange(60) % len(classes) for site in SITES}
    monkeypatch.setattr(comparison, "disagreement", lambda score: Disagreement(0.9, 0.4, 0.5, 0.8))
    with pytest.warns(ProtocolWarning, match="good ranking") as warned:
        compare([made_up(labels, method, task=task, classes=classes) for method in ("local", "fedavg")])
    said = [str(one.message) for one in warned if "good ranking" in str(one.message)]
    assert said and all(("calibration_slope" in text) is (task == "binary") for text in said)


def ranked(auroc_distance, n, prevalence=0.5, classes=2, bias=0.0, seed=0):
    rng = stream(seed, "ranked", n, prevalence, classes)
    y = (rng.random(n) < prevalence).astype(np.int64) if classes == 2 else rng.integers(0, classes, n)
    logs = rng.normal(auroc_distance * np.eye(classes)[y]) * max(auroc_distance, 0.1)
    logs[:, 0] += bias
    p = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    test = TestSet("brier", y, np.arange(n), classes)
    return Score(test, {0: test.score([p])})


@pytest.mark.parametrize("classes", [2, 4])
def test_a_biased_class_is_found_where_the_model_discriminates(classes):
    found = disagreement(ranked(3.0, 150, classes=classes, bias=15.0))
    assert found.auroc > 0.9 and found.accuracy < 0.75 and found.matched > found.accuracy + 0.2
    for seed in range(10):
        assert disagreement(ranked(3.0, 150, classes=classes, seed=seed)) is None  # good
        assert disagreement(ranked(0.8, 150, classes=classes, seed=seed)) is None  # fair
        assert disagreement(ranked(0.0, 150, classes=classes, bias=5.0, seed=seed)) is None  # chance, one class named
        assert disagreement(ranked(2.0, 100, 0.08, bias=0.0, seed=seed)) is None or classes == 4  # few diseased


def test_a_model_that_never_names_a_rare_disease_is_no_disagreement():
    rng = stream(0, "rare")
    y = (rng.random(300) < 0.06).astype(np.int64)
    p = 0.45 * expit(rng.normal(1.5 * y - 2, 1))  # ranks well, and no case is likely to be diseased
    test = TestSet("auroc", y, np.arange(300), 2)
    score = Score(test, {0: test.score([np.column_stack([1 - p, p])])})
    assert score.value > 0.8 and p.max() < 0.5 and disagreement(score) is None


def test_no_training_computes_the_metrics_of_reports():
    assert set(REPORT_METRICS).isdisjoint({*METRICS, *(name for names in TASK_METRICS.values() for name in names)})


def test_a_metric_of_ones_own_comes_before_that_of_the_report(runs):
    @metric("sensitivity")
    def sensitivity(y, p, weights):
        """Of a stricter threshold."""
        return weights @ ((p[:, 1] > 0.9) & (y == 1)) / (weights @ (y == 1))

    try:
        own = compare(runs, "sensitivity")
        assert set(own["interval"]) == {"jackknife", "sum of variances", "limits of sites"}
    finally:
        METRICS.remove("sensitivity")
        for register in (METRIC_LABELS, HIGHER_IS_BETTER):
            del register["sensitivity"]
    assert row(own, "local", "pooled")["value"] < row(compare(runs, "sensitivity"), "local", "pooled")["value"]
