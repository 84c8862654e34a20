"""Laws of the verdict of a site, on runs made up of arrays and on gains made up by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_comparison import SITES, changed, made_up, three_sites

import fedlab
from fedlab.analysis.alignment import margin_of
from fedlab.analysis.joining.rule import CANNOT, ENSEMBLE, FREE, JOIN, STAY, VERDICTS, Statement, decide
from fedlab.evaluation.intervals.decisions import finding
from fedlab.evaluation.intervals.interval import Interval

BIG = (160, 120, 12)


def said(value, half, margin=0.02):
    """A gain with a 95 % interval of that half-width."""
    at_95, at_90 = Interval(value - half, value + half), Interval(value - 0.84 * half, value + 0.84 * half)
    return Statement(value, at_95, at_90, finding(at_95, at_90, margin))


@pytest.fixture(scope="module")
def runs():
    """The federated model knows much more than the local ones; the third site has twelve cases."""
    labels = three_sites(n=BIG)
    return [made_up(labels, method, skill=skill) for method, skill in (("local", 0.5), ("fedavg", 3.0))]


def without(run, site, skill=3.0):
    """The run of the same method that leaves a site out, whose cases all are test cases."""
    labels = three_sites(n=BIG)
    other = made_up(labels, run.method, seed=int(run.experiment.seed), skill=skill)
    at = other.partition_table["site"] == site
    table = other.partition_table.assign(split=other.partition_table["split"].where(~at, "test"))
    seen = other.predictions.assign(split=other.predictions["split"].where(other.predictions["site"] != site, "unseen"))
    return changed(other, partition_table=table, predictions=seen, unseen=(site,))


def renamed(run, names):
    columns = {"site": lambda f: f["site"].map(names)}
    frame = run.predictions.assign(**columns)
    frame["model"] = frame["model"].map(lambda model: names.get(model, model))
    return changed(run, predictions=frame, partition_table=run.partition_table.assign(**columns))


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ({"federated": said(0.06, 0.04)}, JOIN),
        ({"federated": said(0.01, 0.04)}, CANNOT),
        ({"federated": said(-0.06, 0.04)}, STAY),
        ({"federated": said(0.0, 0.01)}, STAY),
        ({"federated": said(-0.06, 0.04), "ensemble": said(0.06, 0.04)}, ENSEMBLE),
        ({"federated": said(0.06, 0.04), "ensemble": said(0.08, 0.04), "over_federated": said(0.02, 0.04)}, JOIN),
        ({"federated": said(0.06, 0.04), "ensemble": said(0.12, 0.04), "over_federated": said(0.06, 0.04)}, ENSEMBLE),
        ({"federated": said(0.06, 0.04), "free": said(0.06, 0.04), "giving": said(0.0, 0.01)}, FREE),
        ({"federated": said(0.06, 0.04), "free": said(0.03, 0.02), "giving": said(0.03, 0.02)}, JOIN),
        ({"federated": said(0.01, 0.04), "free": said(0.06, 0.04), "giving": said(-0.05, 0.08)}, FREE),
        ({"federated": said(0.01, 0.04), "free": said(0.01, 0.04), "giving": said(0.0, 0.01)}, CANNOT),
    ],
)
def test_the_rule_of_gains(gains, word):
    assert decide(**gains) == word


def test_gains_are_those_of_compare_and_verdicts_follow_the_rule(runs):
    table = fedlab.verdict(runs, metric="brier").set_index("site")
    frame = fedlab.compare(runs, "brier").set_index(["method", "site"]).loc["fedavg"]
    for site in SITES:
        there = frame.loc[site]
        assert table.loc[site, "gain"] == -there["difference"]
        assert (table.loc[site, "low"], table.loc[site, "high"]) == (
            -there["difference_high"],
            -there["difference_low"],
        )
        assert table.loc[site, "finding"] == there["finding"]
    assert list(table["verdict"])[:2] == [JOIN, JOIN] and set(table["verdict"]) <= set(VERDICTS)


def test_neither_the_order_of_runs_nor_names_of_sites_change_verdicts(runs):
    everything = [*runs, without(runs[1], "Site A"), changed(runs[1], method="fedprox(mu=0.1)")]
    first = fedlab.verdict(everything)
    for order in (everything[::-1], everything[2:] + everything[:2]):
        pd.testing.assert_frame_equal(pd.DataFrame(first), pd.DataFrame(fedlab.verdict(order)))
    names = dict(zip(SITES, ["$z$ <b>_", "日本\n site", "\\frac{1}"], strict=True))
    odd = fedlab.verdict([renamed(run, names) for run in runs]).set_index("site")
    usual = fedlab.verdict(runs).set_index("site").rename(index=names)
    same = ["verdict", "gain", "low", "high", "patients", "rarer", "p_holm", "needed"]
    pd.testing.assert_frame_equal(pd.DataFrame(odd)[same].sort_index(), pd.DataFrame(usual)[same].sort_index())


@pytest.mark.parametrize("labels", [[0, 1] * 4, [0] * 60, [1] + [0] * 60])
def test_a_site_below_its_support_is_never_said_to_join(labels):
    """Eight patients, patients of one class, and a class of one patient, with a perfect federated model."""
    sites = {"Site A": np.array([0, 1] * 40), "Site B": np.array(labels), "Site C": np.array([0, 1] * 40)}
    runs = [made_up(sites, "local", skill=0.3), made_up(sites, "fedavg", skill=20.0)]
    for metric in (None, "auroc", "brier"):
        table = fedlab.verdict(runs, metric=metric).set_index("site")
        assert table.loc["Site B", "verdict"] == CANNOT and not table.loc["Site B", "may_join"]
        assert table.loc["Site A", "verdict"] == JOIN
        assert "Too few" in table.loc["Site B", "sentence"]


def test_the_ensemble_is_the_mean_of_the_local_models(runs):
    """As an ensemble run that stores these means."""
    local = runs[0].predictions
    keys = ["choice", "site", "split", "case", "label", "unit"]
    mean = local.groupby(keys)[["p0", "p1"]].mean().reset_index().assign(model="global")
    stored = changed(runs[1], method="ensemble", predictions=mean)
    one, two = fedlab.verdict(runs, metric="brier"), fedlab.verdict([*runs, stored], metric="brier")
    assert set(two["ensemble"]) == {"ensemble"}
    columns = ["ensemble_gain", "ensemble_low", "ensemble_high"]
    assert np.allclose(one[columns], two[columns], atol=1e-12, equal_nan=True)


def test_a_site_that_gains_without_giving_rides_free(runs):
    """The model without Site A predicts as well as the one with it; without Site B it knows nothing."""
    free = fedlab.verdict([*runs, without(runs[1], "Site A"), without(runs[1], "Site B", skill=0.0)], metric="brier")
    free = free.set_index("site")
    assert free.loc["Site A", "verdict"] == FREE and free.loc["Site A", "giving"] == 0
    assert free.loc["Site A", "free_gain"] == free.loc["Site A", "gain"]
    assert free.loc["Site B", "verdict"] == JOIN and free.loc["Site B", "giving_finding"] == "gains"
    assert free.loc["Site C", "left_out"] == ""


def test_the_second_metric_decides_where_the_first_cannot_tell(runs):
    both, one = (fedlab.verdict(runs, metric=metric).set_index("site") for metric in (["auroc", "brier"], "auroc"))
    for site in SITES:
        decided = one.loc[site, "verdict"] != CANNOT
        assert both.loc[site, "metric"] == ("auroc" if decided else "brier") or both.loc[site, "verdict"] == CANNOT
    assert (both["p_value"].dropna() >= 0).all()
    few = fedlab.verdict(runs, metric=["auroc"])
    pd.testing.assert_frame_equal(pd.DataFrame(few), pd.DataFrame(one.reset_index())[list(few)])


def test_two_seeds_have_no_verdict_and_three_have():
    labels = three_sites(n=BIG)
    runs = [made_up(labels, m, seed, skill) for m, skill in (("local", 0.5), ("fedavg", 3.0)) for seed in range(3)]
    two = [run for run in runs if run.experiment.seed < 2]
    assert set(fedlab.verdict(two)["verdict"]) == {CANNOT}
    assert JOIN in set(fedlab.verdict(runs)["verdict"])


def test_masks_are_judged_by_dice():
    rng = np.random.default_rng(0)
    table = pd.DataFrame([(f"{site}/{i}", site, split) for site in SITES for i in range(14) for split in ("test",)],
                         columns=["case", "site", "split"])  # fmt: skip
    runs = []
    for method, dice in (("local", 0.6), ("fedavg", 0.85)):
        model = table["site"] if method == "local" else "global"
        found = (100 * np.clip(dice + rng.normal(0, 0.02, len(table)), 0, 1)).round()
        counts = {"tp1": found, "fp1": 100 - found, "fn1": 100 - found, "hd1": 1.0, "nsd1": 0.5}
        frame = table.assign(model=model, choice="best", label=0, unit=np.arange(len(table)), **counts)
        runs.append(changed(made_up(three_sites(), method), task="segmentation", structures=["background", "organ"],
                            partition_table=table, predictions=frame, headline="dice"))  # fmt: skip
    found = fedlab.verdict(runs)
    assert set(found["verdict"]) == {JOIN} and set(found["metric"]) == {"dice"} and found["rarer"].isna().all()


def test_bad_input_is_refused_with_the_remedy(runs):
    with pytest.raises(ValueError, match="no run has method 'local'"):
        fedlab.verdict(runs[1:])
    with pytest.raises(ValueError, match="no federated method"):
        fedlab.verdict(runs[:1])
    with pytest.raises(ValueError, match="above 0"):
        fedlab.verdict(runs, margin=0)
    with pytest.raises(ValueError, match="two that differ"):
        fedlab.verdict(runs, metric=["auroc", "auroc"])
    with pytest.raises(ValueError, match="some value between"):
        fedlab.verdict(runs, metric="calibration_slope")
    with pytest.raises(ValueError, match="federated method 'fedavgm'"):
        fedlab.verdict(runs, method="fedavgm")
    moved = without(runs[1], "Site A")
    table = moved.partition_table.assign(site=np.roll(moved.partition_table["site"], 1))
    with pytest.raises(ValueError, match="leave_one_out"):
        fedlab.verdict([*runs, changed(moved, partition_table=table)])


def test_printed_it_is_a_sentence_for_each_site(runs):
    table = fedlab.verdict(runs)
    lines = repr(table).splitlines()
    assert lines[:3] == list(table["sentence"]) and lines[-1].startswith("Some site gains")
    assert all(line.startswith(f"{site}: {word}. ") for line, site, word in
               zip(lines, table["site"], table["verdict"], strict=False))  # fmt: skip
    assert "<td>Site A</td>" in table._repr_html_()


@pytest.mark.parametrize("metric, wanted", [("mae", 1.7), ("rmse", 1.7), ("r2", 0.02), ("auroc", 0.02), ("dice", 0.02)])
def test_the_usual_margin_of_an_error_is_a_tenth_of_the_standard_deviation_of_the_target(metric, wanted):
    y = 50 + 17.2 * np.array([-1.0, 1.0] * 20)
    assert margin_of(SimpleNamespace(metric=metric, y=y), None) == wanted
    assert margin_of(SimpleNamespace(metric=metric, y=y), 0.3) == 0.3
    assert margin_of(SimpleNamespace(metric=metric, y=np.ones(3))) == 0.02
    for wrong in (0, -1, True, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            margin_of(SimpleNamespace(metric=metric, y=y), wrong)
