"""A traced network is the network, to the last bit; what could differ is not traced."""

import copy

import pytest
import torch
from torch import nn
from worlds import CNN, ends, federation, last, partition, same

from fedlab import models
from fedlab.engine import serial
from fedlab.engine.traced import ALWAYS_ALIKE, HOOKS, traceable, traced
from fedlab.models import MODELS

LAYERS = {  # layers between a convolution and a linear layer, of images of 12 x 12
    nn.Identity: nn.Identity(),
    nn.Sequential: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)),
    nn.Conv2d: nn.Conv2d(4, 4, 3, stride=2),
    nn.BatchNorm2d: nn.BatchNorm2d(4),
    nn.GroupNorm: nn.GroupNorm(2, 4),
    nn.LayerNorm: nn.LayerNorm(12),
    nn.MaxPool2d: nn.MaxPool2d(2),
    nn.AvgPool2d: nn.AvgPool2d(3, stride=2, padding=1),
    nn.AdaptiveAvgPool2d: nn.AdaptiveAvgPool2d(2),
    nn.ReLU: nn.ReLU(inplace=True),
    nn.LeakyReLU: nn.LeakyReLU(0.1),
    nn.ELU: nn.ELU(),
    nn.GELU: nn.GELU(),
    nn.SiLU: nn.SiLU(),
    nn.Sigmoid: nn.Sigmoid(),
    nn.Tanh: nn.Tanh(),
    nn.Dropout: nn.Dropout(0.5),
    nn.Dropout2d: nn.Dropout2d(0.5),
    models.Mean: nn.Sequential(nn.Conv2d(4, 4, 3), models.Mean(), nn.Unflatten(1, (4, 1, 1))),
    models.Residual: models.Residual(2, 4, 8, 2),
}
VOLUMES = {
    nn.Conv3d: nn.Conv3d(1, 4, 3, padding=1),
    nn.BatchNorm3d: nn.BatchNorm3d(1),
    nn.MaxPool3d: nn.MaxPool3d(2),
    nn.AvgPool3d: nn.AvgPool3d(2),
    nn.AdaptiveAvgPool3d: nn.AdaptiveAvgPool3d(2),
    nn.Dropout3d: nn.Dropout3d(0.5),
}
ROWS = {
    nn.Flatten: nn.Flatten(),
    nn.Linear: nn.Linear(24, 8),
    nn.Conv1d: nn.Sequential(nn.Unflatten(1, (1, 24)), nn.Conv1d(1, 2, 3)),
    nn.BatchNorm1d: nn.BatchNorm1d(24),
}


def worked(network, model, images):
    """Losses, gradients and statistics of some steps with batches of two sizes."""
    found = []
    torch.manual_seed(0)
    for batch in (images, images[:5], images, images[2:]):
        model.zero_grad()
        loss = network(batch).square().mean()
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return found + [buffer.clone() for buffer in model.buffers()]


def assert_alike(model, images):
    plain, other = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    state = copy.deepcopy(other.state_dict())
    network = traced(other, images)
    other.load_state_dict(state)
    for a, b in zip(worked(plain, plain, images), worked(network, other, images), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_every_layer_of_images_is_alike_to_the_last_bit(kind):
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert_alike(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), LAYERS[kind], tail), torch.rand(9, 1, 12, 12))


@pytest.mark.parametrize("kind", VOLUMES, ids=lambda kind: kind.__name__)
def test_every_layer_of_volumes_is_alike_to_the_last_bit(kind):
    assert_alike(nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), VOLUMES[kind], nn.Flatten()), torch.rand(9, 1, 6, 6, 6))


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_every_layer_of_rows_is_alike_to_the_last_bit(kind):
    assert_alike(nn.Sequential(nn.Linear(24, 24), ROWS[kind], nn.Flatten()), torch.rand(9, 24))


def test_every_layer_that_is_traced_is_tested():
    assert {*LAYERS, *VOLUMES, *ROWS} == set(ALWAYS_ALIKE)


def test_tracing_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    traced(nn.Sequential(nn.Dropout(0.5)), torch.rand(2, 3))
    state = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.rand(2, 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("model", ["small_cnn", "resnet18", "logistic", "small_cnn(projection=8)"])
@pytest.mark.parametrize("batchnorm", ["avg", "group", "frozen"])
@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 8, 8, 8)], ids=["2D", "3D"])
def test_models_are_traced_and_alike(model, batchnorm, shape):
    net = models.build(model, shape, 2, 0, batchnorm)
    assert traceable(net)
    assert_alike(net, torch.rand(6, *shape))


@pytest.mark.parametrize("method", ["fedavg", "fedsam", "ditto", "scaffold(option=1)", "cyclic"])
def test_training_is_alike(method, monkeypatch, precision):
    asked = {"momentum": 0.5, "precision": precision, "local_steps": None}
    expected = last(method, federation(partition((9, 17, 5)), **asked))
    monkeypatch.setattr(serial, "traceable", lambda model: False)
    assert same(last(method, federation(partition((9, 17, 5)), **asked)), expected)


def test_without_traces_training_is_the_same(monkeypatch):
    def gone(*given, **knobs):
        raise RuntimeError("traces are no more")

    expected = last("fedavg", federation())
    monkeypatch.setattr(torch.jit, "trace", gone)
    assert same(last("fedavg", federation()), expected)


class Choosing(nn.Conv2d):
    """Does not do the same with every batch."""

    def forward(self, x):
        return super().forward(x) * (2.0 if x.mean() > 0.5 else 1.0)


def hooked():
    model = nn.Sequential(nn.Conv2d(1, 1, 3))
    model[0].register_forward_hook(lambda module, given, out: out * 2)
    return model


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Choosing(1, 1, 3)),
        nn.Sequential(nn.BatchNorm2d(1, momentum=None)),
        hooked(),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
        nn.Sequential(nn.LSTM(2, 2)),
    ],
    ids=["own", "mean of all batches", "hook", "parametrized", "with state"],
)
def test_what_could_do_otherwise_next_time_is_not_traced(model):
    assert not traceable(model)


def test_hooks_are_known_by_their_names():
    assert all(isinstance(getattr(nn.Linear(1, 1), name), dict) for name in HOOKS)


def test_a_model_of_ones_own_is_trained_as_it_is(monkeypatch):
    def build(shape, outputs):
        return nn.Sequential(Choosing(shape[0], 2, 3), nn.Flatten(), nn.Linear(200, outputs))

    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "choosing": build})
    fed = federation(model="choosing")
    ends("fedavg", fed)
    assert fed._engine._network is fed._engine.flat.model
    fed = federation(model=CNN)
    ends("fedavg", fed)
    assert fed._engine._network is not fed._engine.flat.model
