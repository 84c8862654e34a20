"""What methods cost: nothing is counted twice or lost, and the estimate of time is its formula."""

import numpy as np
import pandas as pd
import pytest
from worlds import CNN, partition

import fedlab
from fedlab.algorithms import METHODS
from fedlab.analysis.communication import critical_path
from fedlab.analysis.usage import resource_use, training_rows

SOME = [
    "local",
    "centralized",
    "fedavg",
    "scaffold",
    "cyclic",
    "split(tail=1)",
    "splitfed",
    "swarm",
    "gossip",
    "ditto",
    "ensemble",
]


pytestmark = pytest.mark.xdist_group("communication")  # the same runs serve most tests


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = fedlab.Experiment(model=CNN, rounds=3, local_steps=2, batch_size=8, device="cpu")
    return fedlab.grid(base, partition=partition(), folder=tmp_path_factory.mktemp("runs"), method=SOME)


def test_bytes_of_sites_and_of_all_add_up(runs):
    """What passes a server crosses one border, what passes between two sites crosses two."""
    for run in runs:
        spent, ledger = resource_use([run]), run.ledger
        sites = sum(found["megabytes"] for site, found in spent.items() if site != "all sites")
        between = ledger.loc[ledger["direction"].eq("peer") & ledger["other"].ne("server"), "bytes"].sum() / 1e6
        assert spent["all sites"]["megabytes"] == pytest.approx(ledger["bytes"].sum() / 1e6)
        assert sites == pytest.approx(ledger["bytes"].sum() / 1e6 + between), run.method


def test_comparisons_show_what_a_method_cost(runs):
    frame = fedlab.compare(runs)
    whole = frame[frame["site"] == "pooled"].set_index("method")
    for run in runs:
        row = whole.loc[run.method]
        assert row["megabytes"] == pytest.approx(run.ledger["bytes"].sum() / 1e6)
        assert row["messages"] == run.ledger["messages"].sum()
    site = frame[frame["site"] == "Site B"].set_index("method")
    assert site.loc["fedavg", "steps"] == 6 and site.loc["ditto", "steps"] == 12 and site.loc["local", "megabytes"] == 0
    assert site.loc["fedavg", "megabytes"] == pytest.approx(whole.loc["fedavg", "megabytes"] / 4)
    for name in ("pooled", "mean of sites", "worst site"):
        assert frame.loc[frame["site"] == name, "steps"].tolist() == whole["steps"].tolist()


def test_costs_of_several_seeds_are_their_mean(tmp_path):
    base = fedlab.Experiment(model=CNN, rounds=4, local_steps=2, device="cpu", availability=0.5)
    seeds = fedlab.grid(base, partition=partition(), folder=tmp_path, seed=[0, 1, 2])
    each = [run.ledger["bytes"].sum() / 1e6 for run in seeds]
    assert len(set(each)) > 1
    frame = fedlab.compare(seeds)
    assert frame.loc[frame["site"] == "pooled", "megabytes"].item() == pytest.approx(np.mean(each))


def test_estimated_time_is_work_and_travel_along_the_critical_path(runs):
    table = fedlab.costs(runs, bandwidth=10.0, latency=0.2, step=0.5).set_index("method")
    for run in runs:
        path = critical_path(run)
        seconds = 0.5 * path["steps"] + 8 * path["bytes"] / 10e6 + 0.2 * path["messages"]
        assert table.loc[run.method, "estimated minutes"] == pytest.approx(seconds / 60)
        assert table.loc[run.method, "sequential steps"] == path["steps"]
    slow, fast = (fedlab.costs(runs, bandwidth=b)["estimated minutes"] for b in (1.0, 1000.0))
    sends = table["megabytes"] > 0
    assert (slow.to_numpy() > fast.to_numpy())[sends.to_numpy()].all()
    assert (slow.to_numpy() == fast.to_numpy())[~sends.to_numpy()].all()


def test_what_waits_for_what_tells_topologies_apart(runs):
    """Four sites with two steps in three rounds: side by side six steps, one after the other twenty-four."""
    table = fedlab.costs(runs).set_index("method")
    steps = table["sequential steps"].to_dict()
    parallel = ("local", "fedavg", "splitfed", "swarm", "gossip", "ensemble")
    assert {name: steps[name] for name in parallel} == dict.fromkeys(parallel, 6)
    assert steps["cyclic"] == steps["split(tail=1)"] == 24 and steps["ditto"] == 12
    hand_overs = table["hand-overs"].to_dict()
    assert hand_overs["cyclic"] == 11 and hand_overs["fedavg"] == 0 and hand_overs["swarm"] == 3 * 2 * 3


@pytest.mark.parametrize("wrong", [{"bandwidth": 0}, {"latency": -1}, {"step": -0.1}, {"bandwidth": float("nan")}])
def test_networks_that_make_no_sense_are_refused(wrong, runs):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*give megabits a second above 0"):
        fedlab.costs(runs[:1], **wrong)


def test_personal_and_shared_models_are_distinguished(runs):
    names = [run.method for run in runs if run.method in ("fedavg", "ditto")]
    pair = [run for run in runs if run.method in names]
    own, shared = (fedlab.compare(pair, use=use, reference="fedavg") for use in ("own", "global"))
    assert shared.loc[shared["method"] == "ditto", "difference"].fillna(0).eq(0).all()
    assert not own.loc[own["method"] == "ditto", "difference"].fillna(0).eq(0).all()
    pd.testing.assert_series_equal(
        own.loc[own["method"] == "fedavg", "value"], shared.loc[shared["method"] == "fedavg", "value"]
    )


def test_methods_that_share_no_model_say_so(runs):
    frame = fedlab.compare([run for run in runs if run.method in ("local", "fedavg")], use="global")
    noted = frame.groupby("method")["note"].agg(lambda notes: notes.str.contains("own models, none is shared").mean())
    assert noted.to_dict() == {"fedavg": 0.0, "local": 1.0}


def test_every_method_has_a_line_of_meaning():
    assert all(len(meaning) > 20 and meaning[0].isupper() for meaning in METHODS.values())


def test_the_models_of_an_ensemble_travel_once(runs, tmp_path):
    """After the last round, planned or by patience, and whether or not the run was finished at one go."""
    (run,) = [each for each in runs if each.method == "ensemble"]
    size = run.ledger.query("what == 'weights'")
    assert size["round"].tolist() == [3] * 4 and set(size["direction"]) == {"up"} and size["bytes"].nunique() == 1
    assert critical_path(run)["messages"] == 1 and critical_path(run)["bytes"] == size["bytes"].iloc[0]
    early = run.experiment.with_(rounds=30, patience=1, lr=0.0)
    stopped = fedlab.run(early, partition(), folder=tmp_path)
    assert stopped.rounds["round"].max() == 2 and stopped.ledger["round"].tolist() == [2] * 4
    barely = fedlab.run(early.with_(rounds=2), partition(), folder=tmp_path)
    for each in (stopped, barely):
        assert each.ledger["messages"].tolist() == [1] * 4 and critical_path(each)["messages"] == 1
        rows = each.rounds.query("round == 2 and metric == 'loss' and split == 'train'")
        assert set(rows["bytes"]) == set(size["bytes"])


def test_paths_of_rounds_add_up(runs):
    """Three rounds are three times one: trips there and back of a model, hand-overs, and what all wait for."""
    size = runs[0].weights("Site A", "last")
    model = sum(t.numel() * t.element_size() for t in size.values())
    trips = {"fedavg": 2, "cyclic": 4, "swarm": 2, "gossip": 1, "ditto": 2, "local": 0, "centralized": 0}
    bytes_a_trip = {"swarm": 3, "gossip": 2}
    for run in runs:
        if run.method in trips:
            path, each = critical_path(run), trips[run.method]
            assert path["messages"] == 3 * each
            assert path["bytes"] == 3 * each * bytes_a_trip.get(run.method, 1) * model


def test_looking_at_losses_takes_time_on_the_path(tmp_path):
    """A pass over all cases without a step: seconds of the path, no steps."""
    base = fedlab.Experiment(model=CNN, rounds=2, local_steps=2, device="cpu")
    for method in ("qfedavg", "scaffold(option=1)"):
        run = fedlab.run(base.with_(method=method), partition(), folder=tmp_path)
        path, slowest = critical_path(run), training_rows(run).groupby("round")["seconds"].max().sum()
        assert path["steps"] == 4 and path["seconds"] >= slowest * 0.999
