"""Curves of stored predictions are those of scikit-learn or of a closed form; intervals have the patient as unit."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, auc, confusion_matrix, roc_auc_score, roc_curve

from fedlab.analysis import operating_curves as curves
from fedlab.analysis.operating_curves import Place
from fedlab.analysis.scores import TestSet
from fedlab.evaluation.intervals.proportions import clustered_proportion, proportion

RNG = np.random.default_rng(5)


def place(n: int = 90, images: int = 1, seeds: int = 1, ties: bool = False, classes: int = 2) -> Place:
    """A site of n cases, with some images a patient, predicted by a model of each seed."""
    y = RNG.integers(0, classes, n)
    y[:classes] = np.arange(classes)
    models = {}
    for seed in range(seeds):
        p = RNG.dirichlet(np.ones(classes), n) + 0.4 * np.eye(classes)[y]
        p = np.round(p, 1) if ties else p
        models[seed] = [p / p.sum(1, keepdims=True)]
    test = TestSet("accuracy", y, np.arange(n) // images, classes)
    return Place("Site A", test, y, {"fedavg": models})


@pytest.mark.parametrize("ties", [False, True])
def test_an_roc_curve_is_that_of_scikit_learn(ties):
    one = place(ties=ties)
    (p,) = one.each("fedavg")
    false, true, _ = roc_curve(one.y, p[:, 1], drop_intermediate=False)
    table = curves.roc([one])
    np.testing.assert_allclose(table[["false_positive_rate", "true_positive_rate"]], np.column_stack([false, true]))


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_of_a_mean_roc_curve_is_the_mean_area_of_the_seeds(ties):
    one = place(n=40, seeds=3, ties=ties)
    table = curves.roc([one])
    area = auc(table["false_positive_rate"], table["true_positive_rate"])
    areas = [roc_auc_score(one.y, p[:, 1]) for p in one.each("fedavg")]
    assert area == pytest.approx(np.mean(areas), abs=1e-12)
    assert curves.operating_points([one])["auroc"].item() == pytest.approx(area)


def test_bins_of_reliability_are_those_of_scikit_learn():
    one = place(n=100)
    (p,) = one.each("fedavg")
    observed, predicted = calibration_curve(one.y, p[:, 1], n_bins=10, strategy="quantile")
    table = curves.reliability([one])
    np.testing.assert_allclose(table[["predicted", "observed"]], np.column_stack([predicted, observed]))
    assert (table["count"] == 10).all()
    first = table.iloc[0]
    assert (first["low"], first["high"]) == tuple(proportion(round(10 * first["observed"]), 10))


def test_of_several_classes_reliability_is_about_the_most_probable_one():
    one = place(n=100, classes=4)
    (p,) = one.each("fedavg")
    observed, predicted = calibration_curve(p.argmax(1) == one.y, p.max(1), n_bins=5, strategy="quantile")
    table = curves.reliability([one], bins=5)
    np.testing.assert_allclose(table[["predicted", "observed"]], np.column_stack([predicted, observed]))


def test_net_benefit_is_that_of_the_counts_and_of_treating_all_and_nobody():
    one = place()
    (p,) = one.each("fedavg")
    n, share = len(one.y), one.y.mean()
    table = curves.net_benefit([one], [0.1, 0.35, 0.8]).set_index(["method", "threshold"])["net_benefit"]
    for t in (0.1, 0.35, 0.8):
        _, false, _, true = confusion_matrix(one.y, p[:, 1] >= t).ravel()
        assert table["fedavg", t] == pytest.approx(true / n - false / n * t / (1 - t))
        assert table[curves.ALL, t] == pytest.approx(share - (1 - share) * t / (1 - t))
        assert table[curves.NOBODY, t] == 0


def test_a_model_that_treats_nobody_here_may_treat_others_and_so_has_an_interval():
    one = place()
    never = Place(one.site, one.test, one.y, {"fedavg": {0: [np.tile([0.9, 0.1], (len(one.y), 1))]}})
    table = curves.net_benefit([never], [0.5, 0.8]).set_index("method")
    assert not table.loc[["fedavg", curves.NOBODY], "net_benefit"].any()
    most = proportion(0, len(one.y)).high  # of patients whom it treats
    np.testing.assert_allclose(table.loc["fedavg", "high"], most)
    np.testing.assert_allclose(table.loc["fedavg", "low"], [-most, -4 * most])
    assert not table.loc[curves.NOBODY, ["low", "high"]].any(axis=None)


def test_risk_is_the_error_among_the_cases_of_which_the_model_is_most_sure():
    one = place(classes=3)
    (p,) = one.each("fedavg")
    order = np.argsort(-p.max(1))
    table = curves.risk_coverage([one]).set_index("coverage")
    for coverage in (0.25, 0.5, 1.0):
        kept = order[: int(np.ceil(coverage * len(order)))]
        assert table["risk"][coverage] == pytest.approx(1 - accuracy_score(one.y[kept], p[kept].argmax(1)))


def test_cases_of_the_same_confidence_have_the_mean_risk_of_all_orders():
    y = np.array([1, 0, 1, 0])
    p = np.column_stack([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.8, 0.8]])
    one = Place("A", TestSet("accuracy", y, np.arange(4), 2), y, {"m": {0: [p]}})
    assert curves.risk_coverage([one], [0.25, 0.5, 1.0])["risk"].tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_images_of_a_patient_count_as_one_patient_and_few_patients_have_no_interval():
    many, few = place(n=90, images=3), place(n=9)
    (p,) = many.each("fedavg")
    wrong = (p.argmax(1) != many.y).astype(float)
    last = curves.risk_coverage([many], [1.0]).iloc[0]
    patients = wrong.reshape(30, 3).sum(1)
    assert (last["low"], last["high"]) == tuple(clustered_proportion(patients, np.full(30, 3)))
    for table in (curves.risk_coverage([few]), curves.net_benefit([few], [0.3]).query("method == 'fedavg'")):
        assert table[["low", "high"]].isna().all(None)
    assert curves.reliability([few]).empty


def test_a_value_is_inside_its_interval_and_copies_of_an_image_add_nothing():
    one = place(n=60)
    twice = Place(
        "A", TestSet("accuracy", np.repeat(one.y, 2), np.repeat(np.arange(60), 2), 2), np.repeat(one.y, 2),
        {"fedavg": {0: [np.repeat(one.each("fedavg")[0], 2, axis=0)]}},
    )  # fmt: skip
    found = [curves.net_benefit([each], [0.2, 0.9]) for each in (one, twice)]
    for column in ("net_benefit", "low", "high"):
        np.testing.assert_allclose(found[0][column], found[1][column])
    assert (found[0]["low"] <= found[0]["net_benefit"]).all() and (found[0]["net_benefit"] <= found[0]["high"]).all()
