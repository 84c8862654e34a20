"""Random layers draw numbers that depend on seed, site and step alone, in every kind of run."""

import json

import numpy as np
import pytest
import torch
from monai.networks.layers import DropPath
from torch import nn
from worlds import ends, federation, last, parameters, same

import fedlab
from fedlab.learning.models import MODELS

BASE = {"dataset": "phantoms(cases=160)", "model": "dropping", "rounds": 3, "batch_size": 16, "device": "cpu"}


@pytest.fixture(autouse=True)
def dropping(monkeypatch):
    """A model whose first and third stages draw."""

    def build(shape, outputs):
        stages = nn.Flatten(), nn.Dropout(0.5), nn.Linear(int(np.prod(shape)), 8), nn.ReLU(), nn.Dropout(0.3)
        return nn.Sequential(*stages, nn.Linear(8, outputs))

    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "dropping": build})


@pytest.mark.parametrize("method", ["fedavg", "scaffold(option=1)", "cyclic", "split(cut=3)", "fedsam", "ditto"])
def test_a_run_repeats_and_leaves_the_global_generator_alone(method):
    torch.manual_seed(0)
    found = [parameters(ends(method, federation(model="dropping"))) for _ in range(2)]
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_sites_and_steps_draw_differently():
    def trained(**changes):
        return last("local", federation(model="dropping", rounds=1, lr=1.0, **changes)).parameters

    engine = federation(model="dropping").execution.engine
    places = [("Site A", 0), ("Site A", 1), ("Site B", 0)]
    drawn = []
    for place in places:
        with engine.layer_rng.at(*place):
            drawn.append(torch.rand(3))
    assert not any(torch.equal(drawn[i], drawn[j]) for i in range(3) for j in range(i))
    assert not torch.equal(trained(seed=0), trained(seed=1))


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_a_split_model_draws_the_numbers_of_the_unsplit_one(cut):
    a, b = federation(model="dropping"), federation(model="dropping")
    assert same(last(f"split(cut={cut})", a), last("cyclic", b))


@pytest.mark.parametrize("method", ["fedavg", "cyclic"])
def test_a_resumed_run_draws_the_numbers_of_the_uninterrupted_one(method, tmp_path, monkeypatch):
    experiment = fedlab.Experiment(**BASE, method=method)
    whole = fedlab.run(experiment, folder=tmp_path / "whole")
    add, calls = fedlab.experiments.recorder.Recorder.add, []

    def interrupted(record, outcome):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        add(record, outcome)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fedlab.experiments.recorder.Recorder.add", interrupted)
        fedlab.run(experiment, folder=tmp_path / "cut")
    torch.rand(5)
    resumed = fedlab.run(experiment, folder=tmp_path / "cut")
    first, second = whole.weights("global"), resumed.weights("global")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings("ignore:execution=")
def test_runs_in_lockstep_draw_the_numbers_of_each_alone(tmp_path):
    base = fedlab.Experiment(**BASE, execution="vmap")
    for run in fedlab.grid(base, folder=tmp_path / "lockstep", seed=[0, 1]):
        assert json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["execution"] == ["sequential"]
        alone = fedlab.run(run.experiment.with_(execution="sequential"), folder=tmp_path / "alone")
        first, second = alone.weights("global"), run.weights("global")
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("layer", "draws"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.Dropout2d(0.5), True),
        (nn.RReLU(), True),
        (DropPath(0.2), True),
        (DropPath(0.0), False),
        (nn.ReLU(), False),
    ],
    ids=repr,
)
def test_random_layers_are_recognised(layer, draws, monkeypatch):
    def build(shape, outputs):
        return nn.Sequential(nn.Flatten(), layer, nn.Linear(int(np.prod(shape)), outputs))

    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "one": build})
    fed = federation(model="one")
    assert (fed.execution.engine.layer_rng.layer == "1") is draws
    assert (fed.execution.pool.count == 1) is (draws or fed.execution.dense or torch.get_num_threads() == 1)
