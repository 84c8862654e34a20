"""Runs of a regression: stored in the target's unit, compared with lower errors as better, with intervals that hold."""

import numpy as np
import pytest
from scipy import stats

import fedlab
from fedlab.analysis.scores import Gain, Score, TestSet
from fedlab.evaluation.intervals.interval import t_quantile
from fedlab.evaluation.intervals.means import around, effective_number, jackknife_spread

BASE = fedlab.Experiment(
    dataset="phantoms(cases=160, size=16)", target="age", sites=2, model="logistic", rounds=3, lr=0.02, device="cpu"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return fedlab.grid(BASE, folder=tmp_path_factory.mktemp("runs"), method=["local", "fedavg"])


def scored(metric, prediction, y, patient=None):
    test = TestSet(metric, y, np.arange(len(y)) if patient is None else patient, 0)
    return Score(test, {0: test.score([prediction[:, None]])})


def test_a_run_stores_target_and_prediction_in_the_unit_of_the_target(runs):
    run, ages = runs[1], fedlab.load(BASE.dataset).table.set_index("case")["age"]
    found = run.predictions
    assert (found["target"] == ages.loc[found["case"]].to_numpy()).all()
    assert (run.task, run.target, run.headline) == ("regression", "age", "mae")
    trained = run.partition_table.query("split == 'train'")["case"]
    assert np.allclose(run.target_scale, [ages.loc[trained].mean(), ages.loc[trained].std(ddof=0)])
    test = found.query("split == 'test' and choice == 'best'")
    pooled = fedlab.compare([run]).set_index("site")["value"]["pooled"]
    assert np.isclose(pooled, (test["prediction"] - test["target"]).abs().mean())


def test_the_round_with_the_lowest_error_is_the_best(runs):
    run = runs[1]
    rounds = run.rounds.query("metric == 'mae' and split == 'val'").pivot(index="round", columns="site", values="value")
    cases = run.partition_table.query("split == 'val'")["site"].value_counts()
    best = run.predictions.query("split == 'val' and choice == 'best'")
    found = (best["prediction"] - best["target"]).abs().mean()
    assert np.isclose(found, (rounds[cases.index] @ (cases / cases.sum())).min())


def test_a_lower_error_is_a_gain_in_tables_figures_and_verdicts(runs):
    table = fedlab.compare(runs, ["mae", "r2"], margin=0.5).query("method == 'fedavg' and site == 'Site A'")
    lower = dict(zip(table["metric"], table["difference"], strict=True))
    assert np.sign(lower["mae"]) == -np.sign(lower["r2"])
    verdict = fedlab.verdict(runs, margin=0.5).set_index("site")
    assert np.isclose(verdict["gain"]["Site A"], -lower["mae"]) and verdict["metric"].eq("mae").all()
    drawn = fedlab.plots.local_vs_global(runs).table
    row = drawn[(drawn["method"] == "fedavg") & (drawn["site"] == "Site A")].iloc[0]
    assert np.isclose(row["gain"], -lower["mae"])


def test_a_better_model_gains_and_the_worst_site_has_the_largest_error():
    rng = np.random.default_rng(0)
    y = rng.normal(60, 10, 40)
    close, far = scored("mae", y + rng.normal(0, 1, 40), y), scored("mae", y + rng.normal(0, 9, 40), y)
    assert Gain(close, far).limits.high < 0 and close.limits.high < far.limits.low


def test_the_interval_of_the_bias_is_that_of_student():
    rng = np.random.default_rng(0)
    y, p = rng.normal(60, 10, 25), rng.normal(62, 10, 25)
    low, high = stats.t.interval(0.95, 24, np.mean(p - y), stats.sem(p - y))
    assert np.allclose(scored("bias", p, y).limits, [low, high])


def test_few_large_errors_widen_the_interval_of_the_absolute_error():
    """Its degrees of freedom are the number of patients that the mean rests on, not that of all."""
    y = np.zeros(30)
    even, uneven = np.resize([4.0, 6.0], 30), np.r_[np.full(28, 1.0), 40.0, 42.0]
    for p in (even, uneven):
        score = scored("mae", p, y)
        spread = jackknife_spread(score.value, score.left)
        expected = around(score.value, t_quantile(effective_number(p) - 1) * spread.error, "log")
        assert np.allclose(score.limits, expected)
    assert effective_number(uneven) < 4 < 28 < effective_number(even)


def test_images_of_one_patient_count_as_one():
    rng = np.random.default_rng(0)
    y, p = rng.normal(60, 10, 20), rng.normal(60, 10, 20)
    once, twice = scored("mae", p, y), scored("mae", np.repeat(p, 2), np.repeat(y, 2), np.repeat(np.arange(20), 2))
    assert np.allclose(once.limits, twice.limits) and twice.test.patients == 20
    assert np.isnan(scored("mae", p[:9], y[:9]).limits.low)


def test_metrics_without_an_interval_that_holds_have_none(runs):
    table = fedlab.compare(runs, ["rmse", "r2", "bias"])
    rows = table[~table["site"].isin(["worst site"])].groupby("metric")
    assert rows["low"].apply(lambda low: low.notna().all()).to_dict() == {"bias": True, "r2": False, "rmse": False}
    assert table.query("metric == 'rmse' and site == 'Site A'")["note"].str.contains("that of mae did").all()
    assert table.query("metric == 'rmse'")["difference_low"].dropna().eq(0).all()
    assert table.query("metric == 'bias'")["finding"].eq("").all()


def test_what_needs_classes_says_what_to_do(runs):
    with pytest.raises(ValueError, match=r"auroc is a metric of probabilities.*compare mae, rmse, r2 or bias"):
        fedlab.compare(runs, "auroc")
    with pytest.raises(ValueError, match="mae is a metric of numbers, and this task is binary: compare auroc"):
        fedlab.compare([fedlab.run(BASE.with_(target=None, rounds=1), folder=runs[0].folder.parent)], "mae")
    with pytest.raises(ValueError, match="solves a regression task: prediction sets need one class a case"):
        fedlab.conformal(runs[1])
    for draw in (fedlab.plots.roc, fedlab.plots.reliability):
        with pytest.raises(ValueError, match="predict numbers: curves need class probabilities, compare mae"):
            draw(runs)


def test_a_saved_dataset_keeps_its_target_and_another_target_is_another_run(tmp_path, runs):
    cases = fedlab.load(BASE.dataset, target="severity")
    folder = cases.save(tmp_path / "mine")
    assert fedlab.load(folder).fingerprint == cases.fingerprint != fedlab.load(BASE.dataset, target="age").fingerprint
    run = fedlab.run(BASE.with_(dataset=folder, target=None, rounds=1), folder=tmp_path)
    assert run.target == "severity" and run.folder.name != runs[0].folder.name
    with pytest.raises(ValueError, match="target='age', and the partition is of a regression task with target='severi"):
        fedlab.run(BASE, fedlab.partition(cases, sites=2), folder=tmp_path)


def test_doses_raise_all_axes_but_that_of_readers_and_a_scale_without_a_target_is_reported(tmp_path):
    found = fedlab.dose_response(fedlab.load(BASE.dataset, target="age"), doses=[0.5], seeds=[0], brief=True)
    assert set(fedlab.AXES) - set(found["axis"]) == {"annotation"}
    with pytest.warns(UserWarning, match="target_scale"):
        fedlab.run(BASE.with_(target=None, target_scale="none", rounds=1), folder=tmp_path)


def test_what_sites_contribute_adds_up_from_the_error_of_the_mean_age(tmp_path):
    table = fedlab.contributions(BASE.with_(rounds=1), seed=[0], draws=10, folder=tmp_path)
    assert np.isclose(table["shapley"].sum(), (table["worth"] - table["nothing"])[0]) and (table["nothing"] < 0).all()
