"""Runs of a segmentation dataset: killed and resumed, stored by counts, compared with intervals of masks."""

import numpy as np
import pandas as pd
import pytest
from interruptions import PowerCut, interrupt
from torch import nn
from worlds import masked_cases, partition

import fedlab
from fedlab.analysis.comparison import transfer
from fedlab.data.cases import Cases
from fedlab.evaluation.intervals import means
from fedlab.evaluation.surface_distances import hd95
from fedlab.experiments import multi_seed
from fedlab.learning import mask_metrics
from fedlab.learning.models import CONV, MODELS

DATA = masked_cases(64, (1, 8, 8), structures=3, patient=[f"patient {i // 2}" for i in range(64)])
DATA.masks[-3:] = 0  # the last cases are test cases of Site B
PART = partition(sizes=(12, 4), data=DATA, held_out=12)
BASE = {
    "rounds": 2,
    "local_steps": 8,
    "batch_size": 4,
    "optimizer": "adam",
    "lr": 0.03,
    "device": "cpu",
    "model": "one_layer",
}


def one_layer(shape, outputs):
    """A convolution and logits."""
    return nn.Sequential(nn.Sequential(CONV[2](shape[0], 4, 3, padding=1), nn.ReLU()), CONV[2](4, outputs, 1))


@pytest.fixture(scope="module", autouse=True)
def _one_layer():
    MODELS.add(one_layer)
    yield
    MODELS.remove("one_layer")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    methods = ["local", "fedavg", "ensemble", "ditto"]
    return fedlab.grid(fedlab.Experiment(**BASE), partition=PART, folder=folder, method=methods)


def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path, monkeypatch):
    experiment = fedlab.Experiment(method="fedbn", **BASE | {"rounds": 3})
    whole = fedlab.run(experiment, PART, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, after=4)
        with pytest.raises(PowerCut):
            fedlab.run(experiment, PART, folder=tmp_path / "killed")
    resumed = fedlab.run(experiment, PART, folder=tmp_path / "killed")
    pd.testing.assert_frame_equal(resumed.predictions, whole.predictions, check_exact=True)
    columns = ["round", "model", "site", "split", "metric", "value"]
    pd.testing.assert_frame_equal(resumed.rounds[columns], whole.rounds[columns], check_exact=True)


def test_a_run_stores_counts_of_voxels_and_distances_of_each_case_and_structure(runs):
    """They are those of the masks that the stored weights predict."""
    import torch

    run, (one,) = runs[1], [DATA]
    found = run.predictions.query("choice == 'last' and split == 'test' and model == 'global'").reset_index(drop=True)
    net = one_layer(DATA.shape, 3)
    net.load_state_dict(run.weights("global"))
    rows = pd.Index(DATA.table["case"]).get_indexer(found["case"])
    with torch.no_grad():
        predicted = net(torch.from_numpy(one.images[rows]).float() / 255).argmax(1).numpy()
    assert run.structures == DATA.structures and run.headline == "dice"
    for k in (1, 2):
        mask, true = predicted == k, one.masks[rows] == k
        for kind, counted in (("tp", mask & true), ("fp", mask & ~true), ("fn", ~mask & true)):
            assert found[f"{kind}{k}"].tolist() == counted.sum((1, 2)).tolist()
        expected = [hd95(*pair, (1.0, 1.0)) for pair in zip(mask, true, strict=True)]
        assert np.allclose(found[f"hd{k}"], expected, equal_nan=True)
    dice = run.rounds.query("round == 2 and split == 'test' and metric == 'dice'").set_index("site")["value"]
    for site, group in found.groupby("site"):
        stored = group[list(mask_metrics.columns(3))].to_numpy()
        assert mask_metrics.dice(None, stored) == pytest.approx(dice[site], abs=1e-12)


def test_dice_is_that_of_monai(runs):
    """From counts of the stored predictions alone, mean over structures and over cases with any of them."""
    import torch
    from monai.metrics import DiceMetric

    rng = np.random.default_rng(0)
    predicted, true = (rng.integers(0, 3, (12, 6, 6)) * (rng.random((12, 1, 1)) < 0.6) for _ in range(2))
    theirs = DiceMetric(include_background=False, num_classes=3, ignore_empty=False)
    one_hot = [torch.from_numpy(np.stack([m == c for c in range(3)], 1)).float() for m in (predicted, true)]
    each = theirs(*one_hot).numpy()  # 1 where both are empty, which here is undefined
    stored = [
        [n for k in (1, 2) for n in (*_counts(p == k, t == k), *[np.nan] * 5)]
        for p, t in zip(predicted, true, strict=True)
    ]
    empty = np.array([[not ((p == k) | (t == k)).any() for k in (1, 2)] for p, t in zip(predicted, true, strict=True)])
    assert empty.all(1).any() and not empty.all()
    known = np.where(empty, np.nan, each)[~empty.all(1)]
    assert mask_metrics.dice(None, stored) == pytest.approx(np.nanmean(np.nanmean(known, 1)), abs=1e-6)


def _counts(mask, true):
    return (mask & true).sum(), (mask & ~true).sum(), (~mask & true).sum()


def test_intervals_are_those_of_a_bounded_mean_over_patients(runs):
    table = fedlab.compare(runs).set_index(["method", "site"])
    found = runs[1].predictions.query("choice == 'best' and split == 'test' and model == 'global'")
    numbers = found[list(mask_metrics.columns(3))].to_numpy()
    scores = pd.Series(mask_metrics.case_scores("dice", numbers), found["unit"].to_numpy()).dropna()
    each = scores.groupby(level=0).sum() * scores.index.nunique() / len(scores)
    row = table.loc["fedavg", "pooled"]
    assert row["value"] == pytest.approx(scores.mean(), abs=1e-12)
    assert (row["low"], row["high"]) == pytest.approx(tuple(means.bounded_mean(each)), abs=1e-12)
    assert row["interval"] == "bounded mean" and row["support"] == len(each)
    own = runs[0].predictions.query("choice == 'best' and split == 'test' and model == site").set_index("case")
    local = mask_metrics.case_scores("dice", own.loc[found["case"], list(mask_metrics.columns(3))].to_numpy())
    gain = pd.Series(mask_metrics.case_scores("dice", numbers) - local, found["unit"].to_numpy()).dropna()
    paired = means.paired_mean(gain.groupby(level=0).sum() * gain.index.nunique() / len(gain), 0.5)
    assert row["difference"] == pytest.approx(gain.mean(), abs=1e-12)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(paired), abs=1e-12)


def test_cases_without_a_structure_are_left_out_with_a_count(runs):
    table = fedlab.compare(runs, "volume_error").set_index(["method", "site"])
    assert "3 of 12 cases left out: no structure in the mask" in table.loc["fedavg", "Site B"]["note"]
    assert "left out" not in table.loc["fedavg", "Site A"]["note"]
    assert table.loc["fedavg", "Site B"]["classes"] == 2


def test_a_metric_of_one_structure_is_that_of_its_columns_alone(runs):
    names = ["dice[structure 1]", "dice[structure 2]"]
    table = fedlab.compare(runs, "dice[*]")
    assert table["metric"].unique().tolist() == names
    pd.testing.assert_frame_equal(pd.DataFrame(table), pd.DataFrame(fedlab.compare(runs, names)))
    found = runs[1].predictions.query("choice == 'best' and split == 'test' and model == 'global'")
    for k, name in enumerate(names, 1):
        tp, fp, fn = (found[f"{kind}{k}"].to_numpy() for kind in ("tp", "fp", "fn"))
        known = tp + fp + fn > 0
        row = table.set_index(["metric", "method", "site"]).loc[name, "fedavg", "pooled"]
        assert row["value"] == pytest.approx((2 * tp[known] / (2 * tp + fp + fn)[known]).mean(), abs=1e-12)
        assert row["interval"] == "bounded mean" and row["low"] <= row["value"] < row["high"] and row["classes"] == 1
        drawn = fedlab.plots.case_scores([runs[1]], name, choice="best")
        assert drawn.table["cases"].sum() == known.sum() and f"of structure {k}" in drawn.figure.axes[0].get_xlabel()
    mean = table.query("site == 'pooled' and method == 'fedavg'")["value"].mean()
    assert abs(mean - fedlab.compare(runs).query("site == 'pooled' and method == 'fedavg'")["value"].item()) < 0.1
    assert fedlab.plots.local_vs_global(runs, "hd95[structure 2]").figure is not None


def test_lesions_of_final_predictions_are_counted(runs):
    table = fedlab.compare(runs, ["lesion_sensitivity", "false_lesions"]).set_index(["metric", "method", "site"])
    found = runs[1].predictions.query("choice == 'best' and split == 'test' and model == 'global'")
    has = (found[["lesions1", "lesions2"]] > 0).to_numpy()
    hits, true = found[["hits1", "hits2"]].to_numpy(), found[["lesions1", "lesions2"]].to_numpy()
    share = np.where(has, hits / np.where(has, true, 1), np.nan)
    expected = np.nanmean(np.nanmean(share[has.any(1)], 1))
    assert table.loc[("lesion_sensitivity", "fedavg", "pooled"), "value"] == pytest.approx(expected, abs=1e-12)
    row = table.loc[("false_lesions", "fedavg", "pooled")]
    assert row["value"] == pytest.approx(found[["false1", "false2"]].to_numpy().mean(), abs=1e-12)
    assert row["support"] == found["unit"].nunique() and "left out" not in row["note"]
    assert (
        "3 of 12 cases left out: no structure in the mask"
        in table.loc[("lesion_sensitivity", "fedavg", "Site B"), "note"]
    )
    assert not set(runs[1].rounds["metric"]) & {"lesion_sensitivity", "false_lesions", "hd95"}


def test_a_run_of_an_earlier_version_is_compared_but_for_its_lesions(runs, monkeypatch):
    before = fedlab.compare(runs, ["dice", "nsd"])
    for run in runs:
        old = run.predictions.drop(columns=[c for c in run.predictions if c[:-1] in ("lesions", "hits", "false")])
        monkeypatch.setitem(run.__dict__, "predictions", old)
    pd.testing.assert_frame_equal(pd.DataFrame(fedlab.compare(runs, ["dice", "nsd"])), pd.DataFrame(before))
    for names in ("false_lesions", ["dice", "lesion_sensitivity[structure 1]"]):
        with pytest.raises(ValueError, match="which counted no lesions: run it again"):
            fedlab.compare(runs, names)


def test_a_site_whose_masks_are_all_empty_is_not_scored(tmp_path):
    data = Cases(DATA.images, DATA.table, DATA.card, DATA.masks * (np.arange(64) < 52)[:, None, None].astype(np.uint8))
    part = partition(sizes=(12, 4), data=data, held_out=12)
    run = fedlab.run(fedlab.Experiment(**BASE), part, folder=tmp_path)
    table = fedlab.compare([run]).set_index("site")
    assert "no test case with 'structure 1' or 'structure 2'" in table.loc["Site B", "note"]
    assert table.loc["mean of sites", "value"] == table.loc["Site A", "value"]
    false = fedlab.compare([run], "false_lesions").set_index("site")  # defined without a lesion
    assert false.loc["mean of sites", "value"] == pytest.approx(false.loc[["Site A", "Site B"], "value"].mean())


def test_figures_and_tables_of_classification_take_masks(runs):
    assert {"local", "fedavg"} <= set(fedlab.plots.local_vs_global(runs)[1]["method"])
    assert fedlab.plots.curves(runs)[1]["value"].between(0, 1).all()
    cross = transfer(runs)
    assert set(cross["trained_at"]) == {"Site A", "Site B", "fedavg", "ensemble", "ditto"}
    assert set(fedlab.compare(runs, ["iou", "hd95", "nsd"])["metric"]) == {"iou", "hd95", "nsd"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "auroc"}, "auroc is a metric of probabilities, and this task is segmentation: compare dice, iou"),
        ({"metric": "sensitivity"}, "sensitivity is a metric of probabilities"),
        ({"metric": "dice[structure3]"}, "masks have no structure 'structure3': did you mean 'structure 2'"),
        ({"metric": "auroc[structure 1]"}, r"unknown metric 'auroc\[structure 1\]'"),
        ({"labels": "annotated"}, "compared with the true ones alone"),
    ],
)
def test_what_needs_probabilities_is_refused(runs, arguments, message):
    with pytest.raises(ValueError, match=message):
        fedlab.compare(runs, **arguments)


def test_seeds_train_in_lock_step_with_the_same_results(tmp_path, monkeypatch):
    monkeypatch.setattr(multi_seed, "worthwhile", lambda *given: True)
    base = fedlab.Experiment(execution="vmap", precision="float64", method="ensemble", **BASE)
    together = fedlab.grid(base, partition=PART, folder=tmp_path / "together", seed=[0, 1])
    alone = [fedlab.run(base.with_(seed=seed), PART, folder=tmp_path / "alone") for seed in (0, 1)]
    for one, other in zip(together, alone, strict=True):
        pd.testing.assert_frame_equal(one.predictions, other.predictions)


def test_the_model_follows_the_dataset_unless_one_is_named():
    text = "phantoms(cases=40, size=16, task='segmentation')"
    assert fedlab.Experiment(dataset=text).model == "unet" and fedlab.Experiment().model == "small_cnn"
    assert fedlab.Experiment().with_(dataset=text).model == "unet"
    assert fedlab.Experiment(dataset=text, rounds=1).with_(dataset="phantoms").model == "small_cnn"
    assert fedlab.Experiment(dataset=text, model="small_cnn").with_(rounds=1).model == "small_cnn"
    assert fedlab.Experiment(rounds=1).describing(PART).model == "unet"
    assert fedlab.Experiment(model="segresnet").describing(PART).model == "segresnet"


def test_held_out_sites_and_what_is_known_of_them(tmp_path):
    data = masked_cases(60, (1, 8, 8))
    part = fedlab.Partition.from_sites(data, ["a"] * 20 + ["b"] * 20 + ["c"] * 20, splits="site", unseen="c")
    table = fedlab.compare([fedlab.run(fedlab.Experiment(**BASE), part, folder=tmp_path)])
    row = table.set_index("site").loc["unseen: c"]
    assert 0 <= row["value"] <= 1 and row["low"] < row["high"] and row["cases"] == 20
