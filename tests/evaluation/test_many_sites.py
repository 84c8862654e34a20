"""Predictions across sites: all up to a number of sites, above it each model on its own site's cases."""

import numpy as np
import pandas as pd
import pytest
from worlds import cases

import fedlab
from fedlab.analysis.comparison import transfer
from fedlab.evaluation import evaluate
from fedlab.evaluation.evaluate import CROSS_SITES, LIMITED

SITES = 6
EXPERIMENT = fedlab.Experiment(model="logistic", rounds=2, local_steps=1, batch_size=8, device="cpu")
METHODS = {0: ["local", "fedavg", "fedper"], 1: ["local", "ditto"]}  # by the number of held-out sites


def trained(folder, unseen=0):
    part = fedlab.partition(cases(240, (1, 4, 4)), SITES, unseen=unseen)
    return fedlab.grid(EXPERIMENT, partition=part, method=METHODS[unseen], folder=folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("unseen", [0, 1])
def test_above_the_limit_own_models_predict_own_cases_and_nothing_else_changes(tmp_path, monkeypatch, unseen):
    whole = trained(tmp_path / "whole", unseen)
    monkeypatch.setattr(evaluate, "CROSS_SITES", SITES - unseen - 1)
    few = trained(tmp_path / "few", unseen)
    for one, other in zip(whole, few, strict=True):
        own = set(one.predictions["model"]) & set(one.partition_table["site"])
        rows = one.predictions
        same_site = ~rows["model"].isin(own) | (rows["model"] == rows["site"])
        kept = rows[same_site & (rows["split"] != "unseen")].reset_index(drop=True)
        found = other.predictions.query("split != 'unseen'").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, kept, check_exact=True)
        assert (LIMITED in set(other.events["event"])) == bool(own) and LIMITED not in set(one.events["event"])
    before, after = (fedlab.compare(runs) for runs in (whole, few))
    inside = ~before["site"].str.startswith("unseen")
    pd.testing.assert_frame_equal(after[inside], before[inside], check_exact=True)
    assert after.query("site != 'worst site'")["value"].notna().all()
    if unseen:
        held_out = few[0].predictions.query("split == 'unseen' and choice == 'last'")
        assert held_out["model"].nunique() == SITES - 2
        rounds = few[0].rounds.query("split == 'unseen' and metric == 'brier'")["value"].to_numpy()
        used = [((rows["p1"] - rows["label"]) ** 2).mean() for _, rows in held_out.groupby("model")]
        assert rounds[-1] == pytest.approx(np.mean(used))


@pytest.mark.filterwarnings("ignore")
def test_cross_site_generalization_of_many_sites_is_refused_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "CROSS_SITES", 3)
    local, fedavg, *_ = trained(tmp_path)
    with pytest.raises(ValueError, match=f"'local' has more than {CROSS_SITES} sites.*own site only"):
        transfer([local])
    assert list(transfer([fedavg])["trained_at"].unique()) == ["fedavg"]


@pytest.mark.filterwarnings("ignore")
def test_rows_grow_with_cases_and_not_with_sites_times_cases(tmp_path):
    part = fedlab.partition(cases(480, (1, 4, 4)), CROSS_SITES + 8)
    run = fedlab.run(EXPERIMENT.with_(method="local", rounds=1), part, folder=tmp_path)
    evaluated = part.table["split"].isin(["val", "test"]).sum()
    assert len(run.predictions) == 2 * evaluated
    (detail,) = run.events.loc[run.events["event"] == LIMITED, "detail"]
    assert detail == f"more than {CROSS_SITES} sites: each site's model predicts its own site's cases only"
