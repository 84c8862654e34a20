"""Held-out sites do not influence training and only test the models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import CNN, cases, partition

import fedlab
from fedlab.algorithms import METHODS
from fedlab.analysis.comparison import transfer
from fedlab.data.cases import Cases
from fedlab.federation import Federation
from fedlab.learning.metrics import METRICS
from fedlab.partitioning.partitions import Partition

KNOBS = {"model": CNN, "rounds": 2, "local_steps": 2, "batch_size": 8, "momentum": 0.9, "device": "cpu"}
SHARED = ("centralized", "ensemble", "fedavg", "ditto", "cyclic", "split", "swarm")  # some that share a model


def experiment(**changes) -> fedlab.Experiment:
    return fedlab.Experiment(**{**KNOBS, **changes})


def hold_out(part: Partition, *unseen: str) -> Partition:
    return replace(part, unseen=unseen)


def without(part: Partition, site: str) -> Partition:
    """The partition of a world in which that site never was."""
    table = part.table[part.table["site"] != site].reset_index(drop=True)
    return Partition(part.cases.take(np.flatnonzero(part.cases.table["case"].isin(table["case"]))), table, part.spec)


def repainted(part: Partition, site: str, split: str) -> Partition:
    """Other pixels in that site's cases of one split."""
    images = part.cases.images.copy()
    images[part.index(site, split)] = 255 - images[part.index(site, split)]
    return replace(part, cases=Cases(images, part.cases.table, part.cases.card))


@pytest.fixture(scope="module")
def part():
    return hold_out(partition(), "Site D")


class Runs(dict):
    """The run of each method, trained when it is first needed."""

    def __init__(self, part: Partition, folder: Path) -> None:
        self.part, self.folder = part, folder

    def __missing__(self, method: str) -> fedlab.runs.Run:
        self[method] = fedlab.run(experiment(method=method), self.part, folder=self.folder)
        return self[method]


@pytest.fixture(scope="module")
def runs(part, tmp_path_factory):
    return Runs(part, tmp_path_factory.mktemp("runs"))


def at_home(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] != "unseen"].reset_index(drop=True)


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_an_unseen_site_changes_nothing_for_the_others(method, part, runs, tmp_path):
    alone = fedlab.run(experiment(method=method), without(part, "Site D"), folder=tmp_path)
    run = runs[method]
    assert run.models == alone.models
    for choice in ("last", "best"):
        for model in run.models:
            first, second = run.weights(model, choice), alone.weights(model, choice)
            assert all(torch.equal(first[name], second[name]) for name in first)
    same = {"check_exact": True}
    pd.testing.assert_frame_equal(run.ledger, alone.ledger, **same)
    pd.testing.assert_frame_equal(at_home(run.rounds.drop(columns="seconds")), alone.rounds.drop(columns="seconds"))
    shared = [column for column in alone.predictions if column != "unit"]
    pd.testing.assert_frame_equal(at_home(run.predictions)[shared], alone.predictions[shared], **same)
    assert_only_tested(run, "Site D")


def assert_only_tested(run: fedlab.runs.Run, site: str) -> None:
    """No validation case of an unseen site is scored, and it costs nothing."""
    scored = run.rounds[run.rounds["site"] == site]
    assert set(scored["split"]) == {"unseen"} and set(scored["round"]) == {1, 2}
    assert (scored[["bytes", "steps", "samples", "seconds"]] == 0).all(axis=None)
    predicted = run.predictions[run.predictions["site"] == site]
    assert set(predicted["split"]) == {"unseen"}
    tests = run.partition_table.query("site == @site and split == 'test'")
    assert set(predicted["case"]) == set(tests["case"]) and run.unseen == (site,)


def test_the_tables_of_training_sites_do_not_change(part, runs, tmp_path):
    pair = [runs[m] for m in ("local", "fedavg")]
    alone = [fedlab.run(experiment(method=run.method), without(part, "Site D"), folder=tmp_path) for run in pair]
    seen, known = fedlab.compare(pair), fedlab.compare(alone)
    kept = seen[~seen["site"].str.startswith("unseen")].drop(columns=["gap", "gap_low", "gap_high"])
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), known)
    first, second = (fedlab.costs(runs, step=0.1).drop(columns="seconds") for runs in (pair, alone))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("normalisation", ["none", "image", "global"])
def test_training_cases_of_an_unseen_site_are_looked_at_by_nobody(normalisation, part, tmp_path):
    run, other = (
        fedlab.run(experiment(normalisation=normalisation), each, folder=tmp_path / name)
        for name, each in (("as is", part), ("repainted", repainted(part, "Site D", "train")))
    )
    pd.testing.assert_frame_equal(run.rounds.drop(columns="seconds"), other.rounds.drop(columns="seconds"))
    pd.testing.assert_frame_equal(run.predictions, other.predictions, check_exact=True)
    assert all(torch.equal(t, other.weights()[name]) for name, t in run.weights().items())


def judged(run, site: str, model: str, metric: str, split: str = "unseen") -> float:
    rows = run.predictions.query("choice == 'best' and site == @site and model == @model and split == @split")
    return METRICS.function(metric)(rows["label"].to_numpy(), rows[["p0", "p1"]].to_numpy())


@pytest.mark.parametrize("metric", ["auroc", "accuracy"])
def test_compare_shows_unseen_sites_and_the_generalisation_gap(metric, runs):
    frame = fedlab.compare([runs[method] for method in ("local", *SHARED)], metric).set_index(["method", "site"])
    for method in SHARED:
        row, mean = frame.loc[(method, "unseen: Site D")], frame.loc[(method, "mean of sites")]
        assert row["value"] == pytest.approx(judged(runs[method], "Site D", "global", metric), abs=1e-12)
        assert row["gap"] == pytest.approx(mean["value"] - row["value"], abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"] and row["gap_low"] < row["gap_high"]
        assert row["note"] == ("uninformative: 4 patients of the rarest class" if metric == "auroc" else "")
        assert row["cases"] == 8 and mean[["gap", "gap_low"]].isna().all()
    own = [judged(runs["local"], "Site D", site, metric) for site in ("Site A", "Site B", "Site C")]
    local = frame.loc[("local", "unseen: Site D")]
    assert local["value"] == pytest.approx(np.mean(own), abs=1e-12)
    gain = frame.loc[("fedavg", "unseen: Site D"), "difference"]
    assert gain == pytest.approx(frame.loc[("fedavg", "unseen: Site D"), "value"] - local["value"], abs=1e-12)
    assert list(frame.reset_index().matrix().columns)[-1] == "unseen: Site D"


def test_the_mean_over_own_models_is_what_rounds_record_too(runs):
    rounds = runs["local"].rounds.query("split == 'unseen' and metric == 'auroc' and round == 2")
    last = runs["local"].predictions.query("choice == 'last' and split == 'unseen'")
    each = [METRICS.function("auroc")(m["label"], m[["p0", "p1"]].to_numpy()) for _, m in last.groupby("model")]
    assert len(each) == 3 and rounds["value"].item() == pytest.approx(np.mean(each), abs=1e-12)


def test_the_gap_is_an_independent_difference_of_means(runs):
    """Its interval is about as wide as the two sides' variances add up to."""
    frame = fedlab.compare([runs["fedavg"]], "accuracy").set_index("site")
    width = frame["high"] - frame["low"]
    gap = frame.loc["unseen: Site D", "gap_high"] - frame.loc["unseen: Site D", "gap_low"]
    assert gap == pytest.approx(np.hypot(width["mean of sites"], width["unseen: Site D"]), rel=0.1)


def test_transfer_tries_every_model_at_unseen_sites(runs):
    frame = transfer([runs["local"], runs["fedavg"]])
    table = frame.pivot(index="trained_at", columns="tested_on", values="value")
    assert list(table) == ["Site A", "Site B", "Site C", "unseen: Site D"]
    for site in ("Site A", "Site B", "Site C"):
        expected = judged(runs["local"], "Site D", site, "auroc")
        assert table.loc[site, "unseen: Site D"] == pytest.approx(expected, abs=1e-12)
    assert frame[frame["tested_on"] == "unseen: Site D"]["cases"].eq(8).all()


def test_several_seeds_and_several_unseen_sites(tmp_path):
    part = hold_out(partition(), "Site B", "Site D")
    some = fedlab.grid(experiment(rounds=1), partition=part, folder=tmp_path, seed=[0, 1])
    frame = fedlab.compare(some)
    assert list(frame["site"])[:2] == ["Site A", "Site C"]
    assert list(frame["site"])[-2:] == ["unseen: Site B", "unseen: Site D"]
    for site in ("Site B", "Site D"):
        each = [judged(run, site, "global", "auroc") for run in some]
        assert frame.set_index("site").loc[f"unseen: {site}", "value"] == pytest.approx(np.mean(each), abs=1e-12)


def test_an_unseen_site_gets_the_shared_normalisation_statistics(part, tmp_path):
    """What stays at the sites never came to it."""
    run = fedlab.run(experiment(batchnorm="fedbn", precision="float64"), part, folder=tmp_path)
    rows = run.predictions.query("split == 'unseen' and choice == 'last' and model == 'global'")
    fed = Federation(part, CNN, experiment(batchnorm="fedbn", precision="float64"))
    fed.execution.engine.flat.model.load_state_dict(run.weights("global"))
    p = fed.predict(fed.execution.engine.flat.read(), part.index("Site D", "test"))
    assert np.abs(p[:, 1] - rows["p1"].to_numpy()).max() < 1e-12


def test_an_unseen_site_needs_no_training_case_and_may_lack_test_cases(tmp_path):
    whole = partition()
    only_test = whole.table[(whole.table["site"] != "Site D") | (whole.table["split"] == "test")]
    part = hold_out(replace(whole, table=only_test.reset_index(drop=True)), "Site D")
    for normalisation in ("none", "site"):
        run = fedlab.run(experiment(rounds=1, normalisation=normalisation), part, folder=tmp_path)
        assert run.rounds.query("split == 'unseen' and metric == 'brier'")["value"].notna().all()
    no_test = whole.table[(whole.table["site"] != "Site D") | (whole.table["split"] != "test")]
    part = hold_out(replace(whole, table=no_test.reset_index(drop=True)), "Site D")
    run = fedlab.run(experiment(rounds=1), part, folder=tmp_path / "no test")
    last = fedlab.compare([run]).iloc[-1]
    assert last["site"] == "unseen: Site D" and np.isnan(last["value"]) and last["note"] == "no test case"


def test_runs_that_hold_out_other_sites_are_not_compared(part, runs, tmp_path):
    other = fedlab.run(experiment(method="local"), hold_out(part, "Site C"), folder=tmp_path)
    with pytest.raises(ValueError, match="the same scanners, readers and held-out sites"):
        fedlab.compare([runs["fedavg"], other])
    with pytest.raises(ValueError, match="choose split='test'"):
        fedlab.compare([other], split="unseen")


def test_validation_has_no_unseen_rows(runs):
    frame = fedlab.compare([runs["fedavg"]], split="val")
    assert not frame["site"].str.startswith("unseen").any() and "gap" not in frame


def test_the_interval_of_an_unseen_site_does_not_depend_on_the_company_of_a_method(runs):
    frame = fedlab.compare([runs["fedavg"], runs["centralized"]], "accuracy")
    alone = fedlab.compare([runs["centralized"]], "accuracy")
    pick = lambda table: table[(table["method"] == "centralized") & (table["site"] == "unseen: Site D")]  # noqa: E731
    columns = ["value", "low", "high", "gap", "gap_low", "gap_high"]
    assert (pick(frame)[columns].to_numpy() == pick(alone)[columns].to_numpy()).all()


def test_a_site_held_out_by_name_from_the_start():
    data = cases(200)
    part = fedlab.partition(data, 4, unseen=1)
    fed = Federation(part, "logistic", experiment())
    assert part.unseen == ("Site D",) and [site.name for site in fed.sites] == ["Site A", "Site B", "Site C"]
    assert not set(fed.union.batches.index) & set(part.index("Site D", "train"))
    assert fed.shares.sum() == pytest.approx(1) and len(fed.shares) == 3


@pytest.mark.parametrize("policy", ["fedbn", "silobn", "avg"])
def test_an_unseen_site_may_bring_its_own_normalisation_statistics(policy, part, tmp_path):
    """Beside the mean over sites: the shared model with statistics re-estimated on the site's unlabelled images."""
    run = fedlab.run(experiment(batchnorm=policy, precision="float64"), part, folder=tmp_path)
    rows = run.predictions.query("split == 'unseen' and choice == 'last' and model == 'global, own statistics'")
    fed = Federation(part, CNN, experiment(batchnorm=policy, precision="float64"))
    index = part.index("Site D", "test")
    fed.execution.engine.flat.model.load_state_dict(run.weights("global"))
    shared = fed.execution.engine.flat.read()
    own = fed.trainer.adapt_batchnorm(shared, index)
    assert torch.equal(own.parameters, shared.parameters)
    first = fed.layout.views(own.vector)["0.1.running_mean"]
    fed.execution.engine.flat.load(shared)
    with torch.no_grad():
        met = fed.execution.engine.flat.model[0][0](
            fed.execution.dataset.images(fed.execution.dataset.rows(index))
        ).mean((0, 2, 3))
    assert torch.allclose(first, met, rtol=1e-10)  # eight cases are one batch
    assert np.abs(fed.predict(own, index)[:, 1] - rows["p1"].to_numpy()).max() < 1e-12
    by = {rule: fedlab.compare([run], unseen=rule).set_index("site") for rule in ("average", "estimate")}
    away = "unseen: Site D"
    auroc = METRICS.function("auroc")
    assert by["estimate"]["value"][away] == auroc(rows["label"].to_numpy(), rows[["p0", "p1"]].to_numpy())
    at_home = by["average"].index != away
    assert by["average"]["value"][at_home].equals(by["estimate"]["value"][at_home])


def test_without_statistics_there_is_nothing_to_re_estimate(part, tmp_path):
    for changes in ({"batchnorm": "group"}, {"model": "logistic"}, {"method": "local"}):
        run = fedlab.run(experiment(**changes), part, folder=tmp_path)
        assert "global, own statistics" not in set(run.predictions["model"])
        first, second = (fedlab.compare([run], unseen=rule) for rule in ("average", "estimate"))
        pd.testing.assert_frame_equal(first, second)
    frozen = fedlab.run(experiment(batchnorm="frozen"), part, folder=tmp_path).predictions.query("split == 'unseen'")
    own, shared = (
        frozen[frozen["model"] == name].reset_index(drop=True) for name in ("global, own statistics", "global")
    )
    assert own["p1"].equals(shared["p1"])
    with pytest.raises(ValueError, match="unseen='nearest': choose one of 'average', 'estimate'"):
        fedlab.compare([run], unseen="nearest")
