"""Laws of comparing methods at sites, on runs made up of arrays."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.analysis.alignment import of_used_models
from fedlab.analysis.comparison import Comparison, compare, transfer
from fedlab.core.rng import stream
from fedlab.learning.metrics import METRICS, targets

SITES = ["Site A", "Site B", "Site C"]
OWNERS = {"local": SITES, "fedavg": ["global"], "centralized": ["global"], "ditto": ["global", *SITES]}


def assigned(labels_at):
    """A partition table in no order, these test cases and one training case a site; the label of each test case."""
    label = {f"{site}/{i}": y for site, labels in labels_at.items() for i, y in enumerate(labels)}
    rows = [(case, case.split("/")[0], "test") for case in label]
    rows += [(f"{site}/train", site, "train") for site in labels_at]
    return pd.DataFrame(rows, columns=["case", "site", "split"]).sample(frac=1, random_state=0), label


def made_up(labels_at, method="fedavg", seed=0, skill=1.0, task="binary", classes=("normal", "nodule"), **more):
    """A run whose models know the label by `skill` standard deviations; every case is a patient."""
    table, label = assigned(labels_at)
    table = table.reset_index(drop=True)
    tests = table.loc[table["split"] == "test", ["site", "split", "case"]]
    tests = tests.assign(label=tests["case"].map(label), unit=np.arange(len(tests)))
    truth = targets(tests["label"], task, len(classes))
    member = truth if task == "multilabel" else np.eye(len(classes))[truth]
    frames = []
    for choice in ("last", "best"):
        for owner in OWNERS[method]:
            p = np.exp(stream(seed, "scores", method, choice, owner).normal(skill * member))
            p = p / (1 + p) if task == "multilabel" else p / p.sum(1, keepdims=True)
            frames.append(tests.assign(model=owner, choice=choice, **{f"p{c}": p[:, c] for c in range(len(classes))}))
    experiment = SimpleNamespace(method=method, seed=seed, **{"dataset": "made up", **more})
    return SimpleNamespace(
        experiment=experiment, method=method, task=task, classes=list(classes), headline="auroc", partition_table=table,
        unseen=(), predictions=pd.concat(frames).sample(frac=1, random_state=seed).reset_index(drop=True),
    )  # fmt: skip


def changed(run, **attributes):
    return SimpleNamespace(**{**vars(run), **attributes})


def three_sites(seed=0, n=(40, 30, 20)):
    rng = stream(seed, "labels")
    return {site: np.concatenate([[0, 1], rng.integers(0, 2, size - 2)]) for site, size in zip(SITES, n, strict=True)}


def row(frame, method, site):
    return frame.set_index(["method", "site"]).loc[(method, site)]


@pytest.fixture(scope="module")
def runs():
    return [made_up(three_sites(), method) for method in ("local", "fedavg", "ditto", "centralized")]


def judged(run, metric, sites, models, choice="best"):
    """The metric of the cases at these sites, each predicted by its site's entry of `models`."""
    at = run.predictions
    at = at[(at["choice"] == choice) & at["site"].isin(sites) & (at["model"] == at["site"].map(models))]
    p = at[[c for c in at if c[0] == "p" and c[1:].isdigit()]].to_numpy()
    return METRICS.function(metric)(targets(at["label"], run.task, len(run.classes)), p)


@pytest.mark.parametrize("metric", ["auroc", "brier"])
def test_values_are_the_metric_of_the_model_that_each_site_uses(runs, metric):
    frame = compare(runs, metric)
    for run in runs:
        models = {site: "global" if run.method in ("fedavg", "centralized") else site for site in SITES}
        each = [judged(run, metric, [site], models) for site in SITES]
        expected = [*each, judged(run, metric, SITES, models), np.mean(each), np.nan]
        found = frame[frame["method"] == run.method]
        assert list(found["site"]) == [*SITES, "pooled", "mean of sites", "worst site"]
        assert list(found["value"]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert list(found["cases"]) == [40, 30, 20, 90, 90, 90]
        worst = found.iloc[-1]  # an interval alone: the smallest of unbiased values is biased
        assert worst["low" if metric == "auroc" else "high"] == (min if metric == "auroc" else max)(
            found[found["site"].isin(SITES)]["low" if metric == "auroc" else "high"]
        )


def test_columns_and_interval_order(runs):
    frame = compare(runs)
    assert list(frame) == [
        "method", "site", "cases", "metric", "value", "low", "high", "interval", "varied", "support", "versus",
        "difference", "difference_low", "difference_high", "p_value", "p_holm", "finding", "seeds", "note", "megabytes",
        "messages", "steps", "samples", "rounds", "classes",
    ]  # fmt: skip
    assert list(frame["method"].unique()) == ["local", "fedavg", "ditto", "centralized"]
    assert (frame["low"] < frame["high"]).all() and (frame["metric"] == "auroc").all()
    assert set(frame["interval"]) == {"Newcombe", "sum of variances", "limits of sites"}
    inside = frame[frame["site"].isin([*SITES, "pooled"])]
    assert ((inside["low"] <= inside["value"]) & (inside["value"] <= inside["high"])).all()
    pd.testing.assert_frame_equal(frame, compare(runs))


def test_differences_are_to_the_reference_and_paired(runs):
    frame = compare(runs, "accuracy")
    local = frame[frame["method"] == "local"]
    scored = local[local["site"] != "worst site"]
    assert (scored[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    for method in ("fedavg", "ditto", "centralized"):
        other = frame[frame["method"] == method]
        assert list(other["difference"]) == pytest.approx(
            list(other["value"].to_numpy() - local["value"].to_numpy()), nan_ok=True
        )
    copy = changed(runs[1], method="fedprox(mu=0.0)")
    twin = compare([copy, runs[1]], reference="fedprox")
    assert set(twin["versus"]) == {"fedprox(mu=0.0)"}
    twin = twin[twin["site"] != "worst site"]
    assert (twin["difference"] == 0).all() and (twin["finding"] != "gains").all()
    assert (twin["difference_low"] <= 0).all() and (twin["difference_high"] >= 0).all()


def test_reference_is_a_name_or_a_family(runs):
    assert compare(runs[1:])["difference"].isna().all()
    assert (compare(runs[1:])["versus"] == "").all()
    gap = compare(runs, reference="centralized")
    benefit = compare(runs)
    assert row(gap, "local", "Site A")["difference"] == -row(benefit, "centralized", "Site A")["difference"]
    two = [changed(runs[1], method=f"fedprox(mu={mu})") for mu in (0.1, 1.0)]
    with pytest.raises(ValueError, match="name one of them"):
        compare(two, reference="fedprox")
    assert set(compare(two, reference="fedprox(mu=1.0)")["versus"]) == {"fedprox(mu=1.0)"}


def test_order_of_runs_and_of_rows_does_not_matter(runs):
    key = ["method", "site"]
    shuffled = [changed(run, predictions=run.predictions.sample(frac=1, random_state=7)) for run in runs[::-1]]
    frames = [compare(some).set_index(key).sort_index() for some in (runs, shuffled)]
    pd.testing.assert_frame_equal(*frames)


def test_patients_widen_intervals():
    run = made_up({site: np.repeat(labels, 4) for site, labels in three_sites().items()})
    case = run.predictions["case"].str.split("/", expand=True)
    patient = case[0] + "/" + (case[1].astype(int) // 4).astype(str)  # four images that look the same
    key = [run.predictions["choice"], patient]
    equal = run.predictions.assign(p1=run.predictions["p1"].groupby(key).transform("first"))
    together = changed(run, predictions=equal.assign(unit=pd.factorize(patient)[0]))
    alone = changed(run, predictions=equal)
    wide, narrow = (row(compare([each], "accuracy"), "fedavg", "pooled") for each in (together, alone))
    assert wide["value"] == narrow["value"]
    assert (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(2, rel=0.15)
    assert (wide["interval"], narrow["interval"]) == ("Korn-Graubard", "Wilson and mid-P")


def test_a_site_without_a_class_is_nan_and_counted():
    labels = {**three_sites(), "Site B": np.zeros(12, int)}
    frame = compare([made_up(labels, method) for method in ("local", "fedavg")])
    for method in ("local", "fedavg"):
        alone, mean = row(frame, method, "Site B"), row(frame, method, "mean of sites")
        assert alone[["value", "low", "high", "difference", "difference_low"]].isna().all()
        assert alone["note"] == "no test case of class 'nodule'"
        others = [row(frame, method, site)["value"] for site in ("Site A", "Site C")]
        assert mean["value"] == pytest.approx(np.mean(others))
        assert mean["note"].startswith("1 of 3 sites left out; no evidence that sites differ") and mean["cases"] == 60
        assert row(frame, method, "worst site")["note"] == "1 of 3 sites left out"
        assert np.isfinite(row(frame, method, "pooled")["value"])
    accuracy = row(compare([made_up(labels)], "accuracy"), "fedavg", "Site B")
    assert np.isfinite(accuracy["value"]) and accuracy["note"] == "no test case of class 'nodule'"


def test_sites_without_cases_and_federations_without_a_defined_site():
    labels = {"Site A": np.zeros(5, int), "Site B": np.zeros(0, int)}
    frame = compare([made_up(labels), made_up(labels, "local")]).set_index(["method", "site"])
    assert frame[["value", "low", "difference"]].isna().all(axis=None)
    assert frame.loc[("fedavg", "Site B"), "note"] == "no test case"
    assert set(frame.loc[(slice(None), ["mean of sites", "worst site"]), "note"]) == {"2 of 2 sites left out"}


def test_a_diverged_model_is_not_left_out_of_the_mean():
    run = made_up(three_sites())
    run.predictions.loc[run.predictions["site"] == "Site C", "p1"] = np.nan
    frame = compare([run])
    assert row(frame, "fedavg", "Site C")["note"] == "predictions are not finite"
    assert np.isnan(row(frame, "fedavg", "mean of sites")["value"])
    assert np.isnan(row(frame, "fedavg", "worst site")["low"])


def test_multilabel_and_multiclass_runs():
    rng = stream(0, "labels")
    many = {site: np.concatenate([[0, 7], rng.integers(0, 8, 28)]) for site in SITES}
    many["Site C"] = many["Site C"] & 3  # third label never present
    run = made_up(many, task="multilabel", classes=("mass", "effusion", "hernia"))
    frame = compare([run])
    assert row(frame, "fedavg", "Site C")["note"] == "no test case with 'hernia': 2 of 3 classes can be scored"
    assert row(frame, "fedavg", "Site A")["value"] == pytest.approx(
        judged(run, "auroc", ["Site A"], {"Site A": "global"}), abs=1e-12
    )
    grades = {site: np.concatenate([np.arange(4), rng.integers(0, 4, 26)]) for site in SITES}
    kappa = compare([made_up(grades, task="ordinal", classes=tuple("0123"))], "kappa")
    assert (kappa["low"] < kappa["high"]).all()


def test_seeds_are_averaged_and_widen_the_interval():
    labels = three_sites()
    seeds = [made_up(labels, seed=seed, skill=seed + 0.2) for seed in range(3)]
    together = compare([*seeds, made_up(labels, "local")])
    alone = [compare([run]) for run in seeds]
    for site in [*SITES, "pooled", "mean of sites"]:
        found = row(together, "fedavg", site)
        assert found["value"] == pytest.approx(np.mean([row(frame, "fedavg", site)["value"] for frame in alone]))
        assert found["low"] < min(row(frame, "fedavg", site)["value"] for frame in alone) + 0.15
        assert found["seeds"] == 3
    assert row(together, "local", "Site A")["seeds"] == 1
    width = {name: (f["high"] - f["low"]).mean() for name, f in (("three", together[:6]), ("one", alone[1]))}
    assert width["three"] > width["one"]  # skills so different that the seed matters more than the cases


def test_seeds_that_agree_change_nothing():
    labels = three_sites()
    run = made_up(labels)
    again = [changed(run, experiment=changed(run.experiment, seed=seed)) for seed in (1, 2)]
    one, three = compare([run]), compare([run, *again])
    numbers = ["value", "low", "high"]
    np.testing.assert_allclose(one[numbers], three[numbers], atol=1e-12)


def test_two_seeds_have_no_interval():
    frame = compare([made_up(three_sites(), seed=seed) for seed in (0, 1)])
    assert frame[["low", "high"]].isna().all(axis=None)
    assert row(frame, "fedavg", "Site A")["note"].startswith("no interval over 2 seeds: train 3 or more")


def test_support_decides_what_is_shown():
    labels = {f"Site {k}": np.r_[np.ones(k, int), np.zeros(30, int)] for k in (1, 2, 5, 10)}
    frame = compare([made_up(labels, method) for method in ("centralized", "fedavg")], reference="centralized")
    shown = {k: row(frame, "fedavg", f"Site {k}") for k in (1, 2, 5, 10)}
    assert [shown[k]["support"] for k in shown] == [1, 2, 5, 10]
    assert np.isnan(shown[1]["low"]) and np.isfinite(shown[1]["value"])
    assert shown[1]["note"] == "not estimable: 1 patient of the rarest class"
    assert shown[2]["note"] == "uninformative: 2 patients of the rarest class"
    assert shown[5]["note"] == "low support: 5 patients of the rarest class" and shown[10]["note"] == ""
    assert shown[2]["finding"] == "cannot tell" and shown[1]["finding"] == ""
    mean = row(frame, "fedavg", "mean of sites")
    assert np.isnan(mean["low"]) and "no interval, since there is none at Site 1" in mean["note"]


def test_a_difference_is_decided_against_a_margin_set_beforehand():
    labels = {site: np.tile([0, 1], 600) for site in SITES}
    local = made_up(labels, "local", skill=1.0)
    better = made_up(labels, "fedavg", skill=2.0)
    frame = compare([local, better])
    assert (frame[frame["method"] == "fedavg"]["finding"].iloc[:5] == "gains").all()
    assert (compare([local, better], "brier")["finding"].iloc[6:11] == "gains").all()  # a smaller error
    found = frame[frame["method"] == "fedavg"].iloc[:3]
    assert (found["p_holm"] >= found["p_value"]).all() and (found["p_value"] < 1e-6).all()
    same = changed(local, method="fedprox(mu=0.0)")
    assert set(compare([local, same], "accuracy", margin=0.1)["finding"].iloc[6:9]) == {"no different"}
    assert set(compare([local, same], "accuracy", margin=1e-6)["finding"].iloc[6:9]) == {"cannot tell"}
    with pytest.raises(ValueError, match="margin=0: give the largest difference"):
        compare([local, same], margin=0)


def test_a_number_of_draws_is_no_longer_needed(runs):
    with pytest.warns(DeprecationWarning, match="no longer drawn by a bootstrap"):
        compare(runs, draws=20)


def test_different_federations_are_refused(runs):
    other = made_up(three_sites(n=(41, 30, 20)), "local")
    with pytest.raises(ValueError, match=r"differ in sites or splits \(1 case at different sites"):
        compare([runs[1], other])
    moved = changed(runs[0], partition_table=runs[0].partition_table.copy())
    moved.partition_table.loc[0, "site"] = "Site Z"
    with pytest.raises(ValueError, match="one partition"):
        compare([runs[1], moved])
    with pytest.raises(ValueError, match="one dataset"):
        compare([runs[1], made_up(three_sites(), "local", dataset="another")])
    with pytest.raises(ValueError, match="same scanners"):
        compare([runs[1], made_up(three_sites(), "local", acquisition=0.5)])


def test_what_cannot_be_compared_is_refused(runs):
    with pytest.raises(ValueError, match="did you mean 'auroc'"):
        compare(runs, "aurok")
    with pytest.raises(ValueError, match="no runs"):
        compare([])
    with pytest.raises(ValueError, match=r"two runs of 'fedavg' have seed 0"):
        compare([*runs, runs[1]])
    with pytest.raises(ValueError, match=r"choose \(choice, split\) from .*'best', 'test'"):
        compare(runs, split="val")
    short = changed(runs[1], predictions=runs[1].predictions.query("case != 'Site B/3'"))
    with pytest.raises(ValueError, match=r"predicts 89 of 90 cases \(first missing: 'Site B/3'\)"):
        compare([runs[0], short])


def test_cases_of_no_site_are_left_out(runs):
    outside = runs[1].predictions.iloc[:5].assign(site="unassigned", case=[f"out/{i}" for i in range(5)])
    more = changed(runs[1], predictions=pd.concat([runs[1].predictions, outside]))
    pd.testing.assert_frame_equal(compare([more]), compare([runs[1]]))


def test_sites_stand_in_natural_order():
    names = ["Site 10", "Site 2", "Site AA", "Site B", "Charité"]
    frame = compare([made_up({name: np.array([0, 1, 0, 1]) for name in names})])
    assert list(frame["site"])[:5] == ["Charité", "Site 2", "Site 10", "Site B", "Site AA"]


def test_choice_selects_the_round(runs):
    last = row(compare(runs, choice="last"), "fedavg", "Site A")["value"]
    assert last == pytest.approx(judged(runs[1], "auroc", ["Site A"], {"Site A": "global"}, "last"), abs=1e-12)
    assert last != row(compare(runs), "fedavg", "Site A")["value"]


def test_the_used_model_is_the_own_model_else_the_global_one():
    rows = [("global", "A"), ("A", "A"), ("global", "B"), ("A", "B"), ("global", "unassigned")]
    used = of_used_models(pd.DataFrame(rows, columns=["model", "site"]))
    assert list(map(tuple, used.to_numpy())) == [("A", "A"), ("global", "B"), ("global", "unassigned")]


def test_transfer_holds_local_models_at_all_sites_then_global_ones(runs):
    frame = transfer(runs)
    assert list(frame) == ["trained_at", "tested_on", "metric", "value", "low", "high", "cases"]
    assert list(frame["trained_at"].unique()) == [*SITES, "fedavg", "ditto", "centralized"]
    table = frame.pivot(index="trained_at", columns="tested_on", values="value")
    for trained_at in SITES:
        for tested_on in SITES:
            expected = judged(runs[0], "auroc", [tested_on], {tested_on: trained_at})
            assert table.loc[trained_at, tested_on] == pytest.approx(expected, abs=1e-12)
    benefit = compare(runs)
    for site in SITES:  # the diagonal is what the local method reaches, the global row what the site would use
        assert table.loc[site, site] == row(benefit, "local", site)["value"]
        assert table.loc["fedavg", site] == row(benefit, "fedavg", site)["value"]
        assert table.loc["ditto", site] != row(benefit, "ditto", site)["value"]
    assert list(transfer(runs[1:2])["trained_at"].unique()) == ["fedavg"]


def test_matrix_reads_like_a_table():
    numbers = {"value": [0.874, np.nan], "low": [0.84, np.nan], "high": [0.9, np.nan]}
    frame = pd.DataFrame({"method": ["fedavg"] * 2, "site": ["Site B", "Site A"], **numbers})
    wide = Comparison(frame).matrix()
    assert list(wide.columns) == ["Site B", "Site A"]
    assert list(wide.loc["fedavg"]) == ["0.87 (0.84 to 0.90)", "–"]


def test_a_comparison_prints_its_main_columns_and_stays_a_table(tmp_path):
    base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1, device="cpu")
    table = compare(fedlab.grid(base, method=["local", "fedavg"], folder=tmp_path))
    first = table.matrix().iloc[0, 0]
    assert first in repr(table) and first in table._repr_html_() and "difference to local" in repr(table)
    assert isinstance(table[table["site"] == "pooled"], Comparison)
    assert repr(table[["method", "value"]]) == repr(pd.DataFrame(table)[["method", "value"]])


def test_runs_that_differ_in_a_setting_are_compared_by_it(tmp_path):
    base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1, device="cpu")
    runs = fedlab.grid(base, normalisation=["none", "image"], folder=tmp_path)
    with pytest.raises(ValueError, match=r"in normalisation \('none' and 'image'\).*by='normalisation'"):
        compare(runs)
    both = compare(runs, by="normalisation")
    assert list(both["method"].unique()) == ["fedavg (normalisation=none)", "fedavg (normalisation=image)"]
    alone = compare(runs[1:])
    again = both[both["method"] == "fedavg (normalisation=image)"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.drop(columns="method"), alone.drop(columns="method"))
    with pytest.raises(ValueError, match="did you mean 'normalisation'"):
        compare(runs, by="normalization")
