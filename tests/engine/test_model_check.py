"""Networks as people write them: each trains and predicts in every way to the same result, or is refused beforehand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worlds import cases, ends, federation, partition

import fedlab
from fedlab.engine import loop, model_check
from fedlab.engine.model_check import Needs
from fedlab.learning.models import MODELS, build

SHAPE = (2, 6, 6)
SIZE = 72  # pixels of an image


class View(nn.Module):
    """The commonest flatten."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation, which views the kernel."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(self.weight.size(0), -1)
        kernel = self.weight / (flat.std(1).view(-1, 1, 1, 1) + 1e-3)
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding)


class FunctionalDropout(nn.Module):
    """Dropout that no layer announces."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Centred(nn.Module):
    """Overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5)


class Table(nn.Module):
    """A table of integers, a scalar, an embedding with the dimensions of an image, and a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("index", torch.arange(SIZE).flip(0))
        self.scale, self.unused = nn.Parameter(torch.tensor(2.0)), nn.Linear(3, 3)
        self.embedding = nn.Parameter(torch.rand(1, *SHAPE))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * (x + self.embedding)).flatten(1)[:, self.index]


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.rows, self.last = nn.LSTM(12, 5, batch_first=True), nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rows(x.transpose(1, 2).flatten(2))[0][:, -1])


class Attention(nn.Module):
    """Attention between rows, whose dropout is no layer."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, dropout=0.3, batch_first=True)
        self.last = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        return self.last(self.attention(rows, rows, rows)[0].mean(1))


class Permuted(nn.Module):
    """A constant that is drawn at construction and is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.order = torch.randperm(SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.order]


class OneMean(nn.Module):
    """One buffer in two places, which training changes."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.5).add_(0.5 * x.detach().mean())
        return x - self.mean


class Branching(nn.Module):
    """Decides by a number that it reads on the host."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean().item() > -1e9 else -x


class Chain(nn.Sequential):
    """A subclass with another constructor."""

    def __init__(self, outputs: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(SIZE, 4), nn.Tanh(), nn.Linear(4, outputs))


def frozen(outputs):
    body = nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 6), nn.Tanh()).requires_grad_(False)
    return nn.Sequential(body, nn.Linear(6, outputs))


def tied(outputs):
    layer = nn.Linear(SIZE, SIZE)
    return nn.Sequential(nn.Flatten(), nn.Sequential(layer, nn.Tanh(), layer), nn.Linear(SIZE, outputs))


def one_relu(outputs):
    relu = nn.ReLU()
    return nn.Sequential(nn.Conv2d(2, 3, 3), relu, nn.Conv2d(3, 4, 3), relu, nn.Flatten(), nn.Linear(16, outputs))


def shared_buffer(outputs):
    mean = torch.zeros(())
    return nn.Sequential(OneMean(mean), OneMean(mean), nn.Flatten(), nn.Linear(SIZE, outputs))


def conv(*last):
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), *last)


ZOO = {
    "view": lambda n: conv(View(), nn.Linear(36, n)),
    "view_of_one": lambda n: conv(nn.AdaptiveAvgPool2d(1), View(), nn.Linear(4, n)),
    "kernel_view": lambda n: nn.Sequential(StandardisedConv(2, 4, 3), nn.ReLU(), View(), nn.Linear(64, n)),
    "functional_dropout": lambda n: nn.Sequential(nn.Flatten(), FunctionalDropout(), nn.Linear(SIZE, n)),
    "overwrites": lambda n: nn.Sequential(Centred(), nn.Flatten(), nn.Linear(SIZE, n)),
    "table": lambda n: nn.Sequential(Table(), nn.Linear(SIZE, n)),
    "recurrent": Recurrent,
    "attention": Attention,
    "permuted": lambda n: nn.Sequential(Permuted(), nn.Linear(SIZE, n)),
    "shared_buffer": shared_buffer,
    "branching": lambda n: nn.Sequential(nn.Flatten(), Branching(), nn.Linear(SIZE, n)),
    "chain": Chain,
    "frozen": frozen,
    "tied": tied,
    "one_relu": one_relu,
    "lazy": lambda n: nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(n)),
    "weight_norm": lambda n: nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(SIZE, n))),
    "half": lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n)).half(),
    "in_float64": lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), Lambda(lambda x: x.double())),
    "norm_after_pooling": lambda n: conv(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, n)),
}


class Lambda(nn.Module):
    """Any function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.fixture
def add(monkeypatch):
    """Register a network for the length of a test: add(name, function of the number of outputs)."""
    monkeypatch.setattr(MODELS, "_functions", dict(MODELS._functions))
    monkeypatch.setattr(MODELS, "_meanings", dict(MODELS._meanings))
    monkeypatch.setattr(MODELS, "_sources", dict(MODELS._sources))

    def add(name, function):
        MODELS.add(lambda shape, outputs: function(outputs), name, "A network.", f"{name} of the tests")
        return name

    return add


def world(sizes=(9, 6, 5)):
    return partition(sizes, data=cases(sum(sizes) + 6 * len(sizes), SHAPE), held_out=3)


def trained(name, method="fedavg", part=None, **changes):
    """The federation after a round, and what its model predicts for 9 cases."""
    given = {"rounds": 1, "local_steps": 4, "batch_size": 4, "execution": "sequential", "weight_decay": 0.1, **changes}
    fed = federation(part or world(), name, **given)
    model = next(iter(ends(method, fed).values()))
    return SimpleNamespace(fed=fed, model=model, p=fed.predict(model[0] if model.stacked else model, np.arange(9)))


def close(a, b, tolerance=2e-5):
    return float(np.abs(a - b).max()) < tolerance


# -- networks that work --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:DeprecationWarning")
@pytest.mark.parametrize("name", ZOO)
def test_a_network_gives_the_same_in_every_way(name, add, monkeypatch):
    add(name, ZOO[name])
    found = trained(name)
    assert found.p.shape == (9, 2) and np.isfinite(found.p).all()
    assert not torch.equal(found.model.parameters, found.fed.start.parameters)
    assert found.fed.predict(found.model, np.arange(0)).shape == (0, 2)
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 4)  # so that the last batch has one case
    assert close(found.p, found.fed.predict(found.model, np.arange(9)))
    monkeypatch.undo()
    add(name, ZOO[name])
    assert close(found.p, trained(name, execution="vmap").p)
    several = federation(world(), name, rounds=1, local_steps=4, batch_size=4, execution="sequential", weight_decay=0.1)
    several.execution.pool.count = 3
    if several.execution.engine.layer_rng.layer is None:
        assert torch.equal(ends("fedavg", several)["global"].vector, found.model.vector)


@pytest.mark.parametrize("name", ["norm_after_pooling", "one_relu", "table", "frozen", "tied"])
def test_plain_and_channels_last_memory_agree(name, add, monkeypatch):
    add(name, ZOO[name])
    first = trained(name)
    assert first.fed.execution.engine.needs.channels_last
    monkeypatch.setattr(model_check.ModelCheck, "needs", lambda check: Needs(channels_last=False))
    second = trained(name)
    images = second.fed.execution.engine.dataset.images(torch.arange(2))
    assert close(first.p, second.p) and not second.fed.layout.channels_last
    assert not images.is_contiguous()  # the model copies them


@pytest.mark.parametrize("name", ["view", "kernel_view"])
def test_a_network_that_calls_view_gets_plain_memory(name, add):
    add(name, ZOO[name])
    assert trained(name).fed.execution.engine.needs == Needs(channels_last=False)
    assert trained("small_cnn(width=2, depth=2)").fed.execution.engine.needs == Needs()


@pytest.mark.parametrize("method", ["split(cut=2)", "splitfed(cut=2)", "moon", "fedrep", "scaffold"])
def test_a_network_that_calls_view_trains_with_every_kind_of_method(method, add):
    add("view", ZOO["view"])
    add("flat", lambda n: conv(nn.Flatten(), nn.Linear(36, n)))
    assert close(trained("view", method).p, trained("flat", method).p)


def test_one_layer_in_two_stages_is_in_both_halves_of_a_split_model(add):
    add("one_relu", ZOO["one_relu"])
    assert close(trained("one_relu", "split(cut=3)").p, trained("one_relu", "cyclic").p)


def test_networks_of_other_seeds_keep_their_constants(add, tmp_path):
    add("permuted", ZOO["permuted"])
    base = fedlab.Experiment(model="permuted", rounds=1, execution="vmap", device="cpu", batch_size=4, local_steps=2)
    together = fedlab.grid(base, partition=world(), folder=tmp_path / "together", seed=[0, 1])
    alone = fedlab.run(base.with_(seed=1), world(), folder=tmp_path / "alone")
    columns = ["p0", "p1"]
    assert np.allclose(together[1].predictions[columns], alone.predictions[columns], atol=1e-6)


def test_numbers_of_unannounced_dropout_depend_on_the_seed_alone(add):
    add("functional_dropout", ZOO["functional_dropout"])
    one, _, other = trained("functional_dropout"), torch.rand(3), trained("functional_dropout")
    assert torch.equal(one.model.vector, other.model.vector)
    assert one.fed.execution.engine.layer_rng.layer is not None


def test_a_network_that_overwrites_its_input_does_not_change_the_images(add):
    """All cases of a site are one batch, which is gathered once for all steps."""
    add("overwrites", ZOO["overwrites"])
    add("keeps", lambda n: nn.Sequential(Lambda(lambda x: x - 0.5), nn.Flatten(), nn.Linear(SIZE, n)))
    assert close(trained("overwrites", batch_size=None).p, trained("keeps", batch_size=None).p)


@pytest.mark.parametrize("mode", ["sequential", "vmap"])
def test_parameters_that_need_no_gradient_are_not_trained(mode, add):
    add("frozen", ZOO["frozen"])
    found = trained("frozen", execution=mode, weight_decay=0.5)
    before, after = found.fed.start.state_dict(), found.model.state_dict()
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-6)}
    assert changed == {"1.weight", "1.bias"} and found.fed.layout.parameters == 14 - 7


def test_what_vmap_cannot_batch_is_trained_one_after_another(add):
    add("branching", ZOO["branching"])
    fed = trained("branching", execution="vmap").fed
    assert fed.execution.used == {"sequential"}
    assert "cannot be batched over sites" in fed.execution.fallback()


def test_trying_a_network_leaves_the_random_numbers_of_the_user_alone(add):
    add("attention", ZOO["attention"])
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    federation(world(), "attention")
    assert torch.equal(torch.rand(2), expected)


def test_a_table_of_integers_is_stored_with_the_weights(add, tmp_path):
    add("table", ZOO["table"])
    experiment = fedlab.Experiment(model="table", rounds=1, device="cpu", batch_size=4, local_steps=1)
    run = fedlab.run(experiment, world(), folder=tmp_path)
    build("table", SHAPE, 1, seed=3).load_state_dict(run.weights())


# -- networks that are refused -------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A table of integers that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += len(x)
        return x.flatten(1)


class Remembering(nn.Module):
    """Keeps something from one batch to the next."""

    last = 0.0

    def forward(self, x: Tensor) -> Tensor:
        before, self.last = self.last, x.detach().mean()
        return x.flatten(1) + before


def head(*first):
    return lambda n: nn.Sequential(*first, nn.Flatten(), nn.Linear(SIZE, n))


def drawn_by_numpy(n):
    layer = nn.Linear(SIZE, n)
    layer.weight.data.copy_(torch.from_numpy(np.random.default_rng().normal(size=(n, SIZE))))
    return nn.Sequential(nn.Flatten(), layer)


ONCE = nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 3))
NEVER = np.random.default_rng(0)

REFUSED = {
    "a_tuple": (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), Lambda(lambda x: (x, x))), "returns a tuple"),
    "a_dict": (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), Lambda(lambda x: {"x": x})), "returns a dict"),
    "other_number": (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n + 1)), "numbers a case, the task needs 3"),
    "squeezed": (
        lambda n: conv(nn.AdaptiveAvgPool2d(1), Lambda(torch.squeeze), nn.Linear(4, n)),
        r"for a batch of 1 image .*\.flatten\(1\) instead of \.squeeze",
    ),
    "norm_of_one_number": (
        lambda n: conv(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(4, 4), nn.Flatten(), nn.Linear(4, n)),
        "fails on a batch of 1 image .*before the pooling",
    ),
    "fixed_batch": (
        lambda n: nn.Sequential(Lambda(lambda x: x.reshape(2, -1)), nn.Linear(SIZE, n)),
        "fails on a batch of 3 images",
    ),
    "no_batch": (
        lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), Lambda(lambda x: x[0])),
        "keep the dimension",
    ),
    "answers": (
        lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), Lambda(lambda x: x.argmax(1, True).expand(-1, n))),
        "returns int64",
    ),
    "detached": (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), Lambda(Tensor.detach)), "none of its param"),
    "untracked_norm": (head(nn.BatchNorm2d(2, track_running_stats=False)), "alone in its batch .*track_running_stats"),
    "softmax_over_cases": (
        lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), nn.Softmax(0)),
        "alone in its batch",
    ),
    "dropout_always": (head(Lambda(lambda x: F.dropout(x, 0.5))), "asked again.*training=self.training"),
    "remembers": (lambda n: nn.Sequential(Remembering(), nn.Linear(SIZE, n)), "same images, weights and random"),
    "numpy_in_forward": (head(Lambda(lambda x: x + NEVER.normal())), "let it draw with torch"),
    "numpy_in_constructor": (drawn_by_numpy, "built differently each time"),
    "once": (lambda n: ONCE, "is the same network each time"),
    "no_parameter": (lambda n: nn.Sequential(nn.Flatten()), "has no parameter to train"),
    "all_frozen": (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n)).requires_grad_(False), "no parameter to"),
    "a_class": (lambda n: nn.Linear, "is built as a type"),
    "nothing": (lambda n: None, "is built as a NoneType"),
    "missing": (lambda n: {}["weights"], "cannot be built .*KeyError"),
    "complex": (lambda n: nn.Sequential(nn.Linear(SIZE, n, dtype=torch.complex64)), "parameters of complex64"),
    "counting": (lambda n: nn.Sequential(Counting(), nn.Linear(SIZE, n)), "changes its buffer '0.seen' of int64"),
    "auxiliary": (
        lambda n: Auxiliary(n),
        r"returns a tuple for a batch of 3 images of shape \(2, 6, 6\) in training",
    ),
    "asserts": (head(Lambda(lambda x: x if x.shape[-1] == 224 else {}[224])), "does not fit images of shape"),
}


class Auxiliary(nn.Module):
    """Two outputs in training, as Inception has them."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(SIZE, outputs)

    def forward(self, x: Tensor):
        found = self.last(x.flatten(1))
        return (found, found) if self.training else found


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_work_is_refused_before_training(name, add):
    function, expected = REFUSED[name]
    add(name, function)
    part = partition((9, 6), data=cases(27, SHAPE, classes=3), held_out=3)
    with pytest.raises(ValueError, match=f"(?s)model '{name}' .*{expected}"):
        federation(part, name)


def test_a_network_that_returns_probabilities_is_warned_of(add):
    add("probabilities", lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), nn.Softmax(1)))
    part = partition((9, 6), data=cases(27, SHAPE, classes=3), held_out=3)
    with pytest.warns(UserWarning, match="'probabilities' returns probabilities.*remove the softmax"):
        federation(part, "probabilities")
    add("one", lambda n: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, n), nn.Sigmoid()))
    with pytest.warns(UserWarning, match="remove the sigmoid"):
        federation(world(), "one")


def test_stages_that_share_a_layer_cannot_be_cut(add):
    def shares(n):
        layer = nn.Linear(SIZE, SIZE)
        return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), layer, nn.Linear(SIZE, n))

    add("shares", shares)
    assert np.isfinite(trained("shares").p).all()
    with pytest.raises(ValueError, match=r"share 3\.bias, 3\.weight"):
        trained("shares", "split(cut=2)")


def test_a_sequence_with_a_forward_of_its_own_cannot_be_cut(add):
    class Own(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    add("own", lambda n: Own(nn.Flatten(), nn.Linear(SIZE, n)))
    assert np.isfinite(trained("own").p).all()
    with pytest.raises(ValueError, match="Own has a forward of its own"):
        trained("own", "moon")


# -- batches of one case -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedavg", "cyclic", "split(cut=2)", "local"])
@pytest.mark.parametrize(
    ("sizes", "batch_size", "named"), [((9, 1, 1), 4, "Site B, Site C"), ((5, 4), 1, "Site A, Site B")]
)
def test_a_batch_of_one_case_is_refused_before_any_training(method, sizes, batch_size, named, add, monkeypatch):
    add("norm_after_pooling", ZOO["norm_after_pooling"])
    fed = federation(world(sizes), "norm_after_pooling", batch_size=batch_size, participation="sample(0.5)")
    monkeypatch.setattr(loop.SequentialEngine, "train", None)
    with pytest.raises(ValueError, match=rf"{named}.*'norm_after_pooling'.*larger `batch_size`"):
        ends(method, fed)


def test_a_batch_of_one_case_is_nothing_to_the_union_or_to_frozen_statistics(add):
    add("norm_after_pooling", ZOO["norm_after_pooling"])
    assert np.isfinite(trained("norm_after_pooling", "centralized", world((9, 1))).p).all()
    assert np.isfinite(trained("norm_after_pooling", part=world((9, 1)), batchnorm="frozen").p).all()
    assert np.isfinite(trained("norm_after_pooling", part=world((9, 1)), batchnorm="group").p).all()
    add("view", ZOO["view"])  # whose batch norm sees many pixels
    assert np.isfinite(trained("view", part=world((9, 1))).p).all()


def test_statistics_of_one_case_are_not_adapted(add):
    """A held-out site with one test case, whose channels have one number each after pooling."""
    add("norm_after_pooling", ZOO["norm_after_pooling"])
    found = trained("norm_after_pooling")
    with pytest.warns(UserWarning, match="one case"):
        assert torch.equal(found.fed.trainer.adapt_batchnorm(found.model, np.arange(1)).vector, found.model.vector)
    assert not torch.equal(found.fed.trainer.adapt_batchnorm(found.model, np.arange(2)).vector, found.model.vector)
