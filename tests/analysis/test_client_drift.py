"""How far sites pull the model apart: closed forms of the optimisation family, and what runs record of it."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from interruptions import PowerCut, interrupt
from worlds import CNN, cases, federation, last, partition, repeated

import fedlab
from fedlab.analysis.client_drift import drift, weight_divergence
from fedlab.core.weights import Weights, weighted_mean
from fedlab.engine import update_statistics
from fedlab.engine.update_statistics import MEASURES, SquaredNorms, count_different, measures, squared_norms

KNOBS = {"model": CNN, "rounds": 3, "local_steps": 2, "batch_size": 8, "momentum": 0.9, "device": "cpu"}
P = np.array([0.5, 0.3, 0.2])


def experiment(**changes) -> fedlab.Experiment:
    return fedlab.Experiment(**{**KNOBS, **changes})


def of(moved, shares=P) -> dict[str, float]:
    """The measures of updates (K, P) from the origin."""
    moved, shares = torch.as_tensor(moved, dtype=torch.float64), np.asarray(shares)
    numbers = squared_norms(torch.zeros(moved.shape[1], dtype=torch.float64), moved, shares)
    return measures(SquaredNorms.of(numbers.tolist()), shares)


def flat(found) -> list[float]:
    return found.tolist()


def random(k=3, n=1000, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(k, n))


def test_definitions():
    d = random()
    mean = P @ d
    found = of(d)
    cosines = [d[i] @ d[j] / np.linalg.norm(d[i]) / np.linalg.norm(d[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = {
        "gradient diversity": (d**2).sum() / (d.sum(0) ** 2).sum(),
        "update cosine": np.mean(cosines),
        "client drift": np.linalg.norm(d, axis=1).mean(),
        "update spread": P @ ((d - mean) ** 2).sum(1),
        "dissimilarity": P @ (d**2).sum(1) / (mean**2).sum(),
    }
    assert list(found) == list(expected) == list(MEASURES)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_equal_updates():
    found = of(np.repeat(random(1), 3, 0))
    assert found["gradient diversity"] == pytest.approx(1 / 3, rel=1e-12)
    assert found["update cosine"] == pytest.approx(1, rel=1e-12)
    assert found["update spread"] < 1e-12 * found["client drift"] ** 2
    assert found["dissimilarity"] == pytest.approx(1, rel=1e-12)


def test_opposite_updates():
    one = random(1)
    found = of(np.concatenate([one, -one]), [0.5, 0.5])
    assert found["update cosine"] == pytest.approx(-1, rel=1e-12)
    assert found["gradient diversity"] > 1e12 and found["dissimilarity"] > 1e12


def test_orthogonal_updates_and_none():
    found = of(np.eye(3) * 2)
    assert found["gradient diversity"] == 1 and found["update cosine"] == 0 and found["client drift"] == 2
    nothing = of(np.zeros((3, 5)))
    assert nothing["client drift"] == 0 and nothing["update spread"] == 0
    assert np.isnan(nothing["gradient diversity"]) and np.isnan(nothing["update cosine"])


def test_scale_and_rotation():
    """Diversity, cosine and dissimilarity are pure numbers; nothing depends on the basis."""
    d, turn = random(n=40), np.linalg.qr(random(40, 40, 1))[0]
    found, larger, turned = of(d), of(3 * d), of(d @ turn)
    for name in MEASURES:
        power = {"client drift": 1, "update spread": 2}.get(name, 0)
        assert larger[name] == pytest.approx(3**power * found[name], rel=1e-12)
        assert turned[name] == pytest.approx(found[name], rel=1e-10)


def test_small_pieces_and_chosen_coordinates(monkeypatch):
    start, d = torch.from_numpy(random(1)[0]), torch.from_numpy(random(seed=1))
    counted = torch.arange(1000) % 3 == 0
    whole, some = (flat(squared_norms(start, d, P, which)) for which in (None, counted))
    assert np.allclose(some, flat(squared_norms(start[counted], d[:, counted], P)), rtol=1e-12)
    monkeypatch.setattr(update_statistics, "CPU_CHUNK", 100)
    assert np.allclose(flat(squared_norms(start, d, P)), whole, rtol=1e-12)
    assert np.allclose(flat(squared_norms(start, d, P, counted)), some, rtol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_measuring_leaves_the_weights_alone(kind):
    start, trained = (torch.from_numpy(random(k)).to(kind) for k in (1, 3))
    before = start.clone(), trained.clone()
    squared_norms(start[0], trained, P)
    assert torch.equal(start, before[0]) and torch.equal(trained, before[1])


def test_float32_weights_lose_nothing_in_the_sums():
    """Large weights, small updates: the differences are exact, and summed in float64."""
    start = torch.full((10**6,), 1.0)
    moved = start + torch.tensor([[1.0], [-1.0]]) * 2.0**-20
    square = 10**6 * 2.0**-40
    assert flat(squared_norms(start, moved, np.array([0.75, 0.25]))) == [square, square, 0, square / 4, 0]


def test_starts_that_differ_are_counted_by_their_values():
    w = torch.arange(6.0)
    assert not count_different(w.expand(3, 6)).item() and not count_different(w.repeat(3, 1)).item()
    other = w.repeat(3, 1)
    other[2, 4] += 1
    assert count_different(other).item() == 1 and not count_different(other, torch.arange(6) != 4).item()


def test_what_is_recorded_is_what_the_sites_did():
    fed = federation(precision="float64", momentum=0.9)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        back = fed.fit(sent, r)
        d = (back.parameters - s.w.parameters).numpy()
        expected = of(d, fed.shares)
        assert fed.round_log.updates == pytest.approx(expected, rel=1e-12)
        s.w = weighted_mean(fed.gather(back), fed.shares)
        spread = fed.shares @ ((back.parameters - s.w.parameters) ** 2).sum(1).numpy()
        assert fed.round_log.updates["update spread"] == pytest.approx(spread, rel=1e-10)


def test_identical_sites_do_not_drift_apart():
    fed = federation(repeated(cases(20), sites=3), batch_size=None, local_steps=5, precision="float64")
    last("fedavg", fed)
    assert fed.round_log.updates["gradient diversity"] == pytest.approx(1 / 3, rel=1e-12)
    assert fed.round_log.updates["update cosine"] == pytest.approx(1, rel=1e-12)
    assert fed.round_log.updates["dissimilarity"] == pytest.approx(1, rel=1e-12)
    assert fed.round_log.updates["update spread"] < 1e-12 * fed.round_log.updates["client drift"] ** 2


def test_only_training_side_by_side_from_one_start_is_measured():
    recorded = {"fedavg": True, "fedprox": True, "local": False, "centralized": False, "cyclic": False}
    for method, there in recorded.items():
        fed = federation(rounds=2)
        last(method, fed)
        assert bool(fed.round_log.updates) == there, method
    first = federation(rounds=1)
    last("local", first)
    both = federation(rounds=1)
    last("fedavg", both)
    assert first.round_log.updates == both.round_log.updates  # in the first round all sites start from one model
    alone = federation(partition(sizes=(30,)))
    last("fedavg", alone)
    assert alone.round_log.updates == {}


def test_the_first_training_of_a_round_counts():
    fed = federation(rounds=1)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        fed.fit(fed.broadcast(s.w), r)
        before = dict(fed.round_log.updates)
        fed.fit(fed.broadcast(s.w), r, steps=7)
        assert fed.round_log.updates == before


def test_what_stays_at_a_site_is_not_counted():
    fed = federation(batchnorm="fedbn", precision="float64")
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        back = fed.fit(sent, r)
        shared = fed.private.shared
        d = (back.parameters - s.w.parameters)[:, shared].numpy()
        assert fed.round_log.updates == pytest.approx(of(d, fed.shares), rel=1e-10)
        s.w = weighted_mean(fed.gather(back), fed.shares)


def test_rounds_carry_the_measures_and_costs_do_not_move(tmp_path):
    run = fedlab.run(experiment(), partition(), folder=tmp_path)
    rows = run.rounds[run.rounds["metric"].isin(MEASURES)]
    assert len(rows) == 3 * len(MEASURES)
    assert set(rows["site"]) == {"all sites"} and set(rows["split"]) == {"train"} and set(rows["model"]) == {"global"}
    assert (rows[["bytes", "steps", "samples", "seconds"]] == 0).all(axis=None)
    costs = fedlab.costs(run)
    assert costs["steps"].item() == 3 * 4 * 2 and costs["rounds"].item() == 3
    frame = drift(run)
    assert list(frame) == ["method", "seed", "round", *MEASURES] and list(frame["round"]) == [1, 2, 3]
    for name in MEASURES:
        assert frame[name].tolist() == rows.loc[rows["metric"] == name, "value"].tolist()
    assert len(fedlab.plots.curves(run).table) == 3
    losses = fedlab.plots.curves(run, split="train").table
    expected = run.rounds.query("metric == 'loss'").groupby("round")["value"].mean()
    assert losses["value"].tolist() == pytest.approx(expected.tolist())


def test_several_runs_stand_below_each_other(tmp_path):
    methods = ["fedavg", "local", "cyclic"]
    some = fedlab.grid(experiment(rounds=2), partition=partition(), folder=tmp_path, method=methods)
    frame = drift(some)
    assert frame.groupby("method")["round"].apply(list).to_dict() == {"fedavg": [1, 2], "local": [1]}
    assert list(drift([])) == list(frame)


def test_resumed_runs_record_the_same_drift(tmp_path, monkeypatch):
    part = partition()
    whole = fedlab.run(experiment(), part, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        interrupt(patch, after=7)
        fedlab.run(experiment(), part, folder=tmp_path / "cut")
    again = fedlab.run(experiment(), part, folder=tmp_path / "cut")
    assert drift(again).equals(drift(whole)) and len(drift(whole)) == 3


def test_weight_divergence_is_the_relative_distance_to_the_reference(tmp_path):
    part = partition()
    runs = fedlab.grid(experiment(), partition=part, folder=tmp_path, method=["centralized", "fedavg", "local"])
    central, fedavg, local = runs
    assert weight_divergence(central, central)["divergence"].tolist() == [0]
    fed = federation(**{name: value for name, value in KNOBS.items() if name not in ("model", "device")})
    w, goal = last("fedavg", fed), last("centralized", federation(rounds=3, local_steps=2, momentum=0.9))
    expected = (w.parameters - goal.parameters).double().norm() / goal.parameters.double().norm()
    found = weight_divergence(fedavg, central)
    assert found["model"].tolist() == ["global"]
    assert found["divergence"].item() == pytest.approx(float(expected), rel=1e-5)
    assert weight_divergence(local, central)["model"].tolist() == part.sites
    other = fedlab.run(experiment(seed=1), part, folder=tmp_path)
    with pytest.raises(ValueError, match="compare the weights of runs of one dataset, model and seed"):
        weight_divergence(other, central)


def test_weight_divergence_vanishes_where_averaging_is_gradient_descent(tmp_path):
    """One full-batch step a round: federated and centralized weights are the same up to rounding."""
    same = {"batch_size": None, "local_steps": 1, "batchnorm": "group", "precision": "float64", "momentum": 0.0}
    fedavg, central = fedlab.grid(
        experiment(**same), partition=partition(), folder=tmp_path, method=["fedavg", "centralized"]
    )
    assert weight_divergence(fedavg, central)["divergence"].item() < 1e-12


def test_an_unseen_site_does_not_drift(tmp_path):
    part = replace(partition(), unseen=("Site D",))
    run = fedlab.run(experiment(rounds=1), part, folder=tmp_path)
    fed = federation(part, rounds=1, local_steps=2, momentum=0.9)
    models: Weights = last("local", fed)
    expected = of((models.parameters - fed.start.parameters).double(), fed.shares)
    assert len(models) == 3
    assert drift(run)[list(MEASURES)].iloc[0].to_dict() == pytest.approx(expected, rel=1e-6)


@pytest.mark.skipif(not os.environ.get("FEDLAB_MIRROR"), reason="set FEDLAB_MIRROR to the official files")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_drift_of_the_deterministic_pneumonia_federation(tmp_path):
    """At theta = 0 updates of one plain step are the sites' gradients."""
    from test_anchors import SLICES

    data = fedlab.load("pneumoniamnist")
    train = np.flatnonzero(data.table["split"] == "train")
    negative, positive = (train[data.labels[train] == label] for label in (0, 1))
    sites = {
        f"Site {k}": data.table["case"][np.concatenate([negative[slice(*n)], positive[slice(*p)]])].tolist()
        for k, (n, p) in enumerate(SLICES)
    }
    one = fedlab.Experiment(
        dataset="pneumoniamnist", model="logistic", rounds=1, local_steps=1, batch_size=None, lr=0.01,
        weight_decay=0.01, precision="float64", device="cpu",
    )  # fmt: skip
    found = drift(fedlab.run(one, fedlab.Partition.from_sites(data, sites), folder=tmp_path))
    assert abs(found["gradient diversity"].item() - 1.12874515) < 1e-8
    assert abs(found["dissimilarity"].item() - 3.30513265) < 1e-8
