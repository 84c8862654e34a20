"""The engine computes what plain PyTorch computes, on batches that depend on seed, site and step alone."""

import numpy as np
import pytest
import torch
from worlds import federation, last, partition

from fedlab.engine.batches import Batches
from fedlab.engine.optimizers import Moments, optimizer_of
from fedlab.learning.models import build
from fedlab.learning.settings import Training

OPTIMIZERS = {
    "sgd": ({"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01)),
    "momentum": ({"lr": 0.1, "momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
    "adam": ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01)),
    "adamw": ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_flat_optimizers_equal_those_of_pytorch(name):
    arguments, theirs = OPTIMIZERS[name]
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=rng, dtype=torch.float64)
    mine, parameter = start.clone(), torch.nn.Parameter(start.clone())
    optimizer = optimizer_of(
        Training(weight_decay=0.01, precision="float64", **arguments), torch.ones(50, dtype=torch.bool)
    )
    reference, moments = theirs([parameter]), optimizer.initial_state(start)
    for _ in range(7):
        gradient = torch.randn(50, generator=rng, dtype=torch.float64)
        parameter.grad = gradient.clone()
        reference.step()
        optimizer.step(mine, gradient.clone(), moments, 0.1)
    assert float((mine - parameter).detach().abs().max()) < 1e-12


def test_weight_decay_leaves_biases_and_normalisation_alone():
    fed = federation(lr=0.0)
    decays = fed.layout.mask("weight")[: fed.layout.trained]
    kinds = {entry.kind for entry in fed.layout.entries if bool(decays[entry.start : entry.start + 1].all())}
    moments = Moments(torch.zeros(0, int(decays.numel())))
    w, g = torch.ones(decays.numel()), torch.zeros(decays.numel())
    optimizer_of(Training(weight_decay=0.5), decays).step(w, g, moments, 1.0)
    assert torch.equal(w, torch.where(decays, 0.5, 1.0))
    assert "bias" not in kinds and "batchnorm" not in kinds and decays.any() and not decays.all()


@pytest.mark.parametrize("n,size", [(10, 3), (9, 4), (13, 4), (7, 7), (7, None), (5, 8), (1, 4)])
def test_an_epoch_sees_every_case_once_and_no_batch_of_one(n, size):
    batches = Batches("Site A", np.arange(100, 100 + n), size, seed=0)
    for epoch in range(3):
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        seen = [batches.at(step) for step in steps]
        assert sorted(np.concatenate(seen)) == list(range(100, 100 + n))
        assert all(len(batch) > 1 for batch in seen) or n == 1


def test_batches_are_a_pure_function_of_the_step():
    forward, backward = (Batches("Site A", np.arange(20), 6, seed=3) for _ in range(2))
    there = [forward.at(step) for step in range(12)]
    back = [backward.at(step) for step in reversed(range(12))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(there, back, strict=True))
    other = Batches("Site B", np.arange(20), 6, seed=3)
    assert not np.array_equal(there[0], other.at(0))


def test_steps_mode_continues_where_the_last_round_stopped():
    """Two rounds of three steps see the batches of one round of six: small local work still sees the whole site."""
    fine, coarse = federation(local_steps=3, rounds=2), federation(local_steps=6, rounds=1)
    assert torch.equal(last("local", fine).vector, last("local", coarse).vector)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("small_cnn(width=4, depth=2)", {"momentum": 0.9}),
        ("narrow_resnet", {"optimizer": "adam", "lr": 0.01}),
        ("logistic", {}),
        ("resnet18", {"local_steps": 2}),  # whose layers allocate their gradients
    ],
)
def test_local_training_is_a_plain_pytorch_loop(model, arguments):
    given = {"local_steps": 4, "precision": "float64", **arguments}
    fed = federation(partition(sizes=(20,)), model, rounds=1, **given)
    net = build(model, fed.partition.cases.shape, 1, seed=0).double().train()
    lr = arguments.get("lr", 0.05)
    adam = arguments.get("optimizer") == "adam"
    optimizer = (
        torch.optim.Adam(net.parameters(), lr)
        if adam
        else torch.optim.SGD(net.parameters(), lr, arguments.get("momentum", 0))
    )
    for step in range(given["local_steps"]):
        index = fed.sites[0].batches.at(step)
        x = torch.from_numpy(fed.partition.cases.images[index]).double() / 255
        y = torch.from_numpy(fed.partition.cases.labels[index]).double()
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y).backward()
        optimizer.step()
    mine = last("local", fed)[0].state_dict()
    rounding = 1e-6 if adam else 1e-12  # Adam divides by gradients that may be rounding noise themselves
    for name, tensor in net.state_dict().items():
        assert torch.allclose(tensor.double(), mine[name].double(), rtol=1e-10, atol=rounding), name


def test_a_prediction_does_not_depend_on_the_rest_of_its_batch():
    fed = federation(precision="float64")
    model, index = last("fedavg", fed), fed.partition.index("Site A", "test")
    together = fed.predict(model, index)
    alone = np.concatenate([fed.predict(model, index[i : i + 1]) for i in range(len(index))])
    assert np.abs(together - alone).max() < 1e-12 and np.allclose(together.sum(1), 1)


@pytest.mark.parametrize("policy", ["avg", "pooled", "silobn", "fedbn", "params_only", "frozen", "group"])
def test_every_precision_trains_nearly_the_same_model(policy):
    """Distances to the float64 model, relative to how far that one moved; as in tests/gpu.py."""
    exact, single, half = (federation(precision=p, batchnorm=policy) for p in ("float64", "float32", "bf16"))
    models = [last("fedavg", fed).parameters.double() for fed in (exact, single, half)]
    moved = float((models[0] - exact.start.parameters).norm())
    distances = [float((model - models[0]).norm()) / moved for model in models[1:]]
    assert 0 < distances[0] < 2e-4 and 1e-3 < distances[1] < 0.15


def test_local_parameters_are_neither_sent_nor_averaged():
    plain, kept = federation(batchnorm="avg"), federation(batchnorm="fedbn")
    last("fedavg", plain), last("fedavg", kept)
    stays = kept.layout.mask("mean", "variance", "batchnorm")
    crossing = plain.start.nbytes - int(stays.sum()) * 4 - kept.start.counts.numel() * 8
    assert set(kept.ledger.frame()["bytes"]) == {crossing}
    own = kept.at_sites(kept.start, range(4)).vector
    assert not any(torch.equal(own[0, stays], other) for other in own[1:, stays])
    assert torch.equal(own[1, ~stays], kept.start.vector[~stays])


def test_frozen_normalisation_keeps_its_statistics():
    fed = federation(batchnorm="frozen")
    statistics = fed.layout.mask("mean", "variance")
    assert torch.equal(last("fedavg", fed).vector[statistics], fed.start.vector[statistics])
