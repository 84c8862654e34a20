"""Weights as one vector: the layout is a bijection, and aggregation obeys the laws of a mean."""

import itertools

import numpy as np
import pytest
import torch
from worlds import error, same

from fedlab.core.layout import Layout
from fedlab.core.weights import Weights, stack, weighted_mean
from fedlab.engine.flat_model import FlatModel
from fedlab.learning import models


def random_stack(k: int = 4, dtype=torch.float32, pooled: bool = False) -> Weights:
    model = models.build("small_cnn(width=4)", (1, 16, 16), 3, seed=0)
    layout = Layout.of(model, pooled=pooled)
    rng = torch.Generator().manual_seed(1)
    vector = torch.randn(k, layout.size, generator=rng, dtype=dtype)
    return Weights(layout, vector, torch.arange(k * len(layout.counters)).reshape(k, -1))


@pytest.mark.each_value
@pytest.mark.parametrize("name", ["logistic", "small_cnn", "resnet18", "densenet121"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32, 32)])
def test_flat_vector_holds_exactly_the_state_dict(name, shape):
    model = models.build(name, shape, 3, seed=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flat = FlatModel(model, Layout.of(model))
    after = flat.read().state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_bytes_of_the_published_resnet18():
    """P = 11,171,397 parameters, 9,600 float and 20 integer buffers, 44,724,148 bytes in float32."""
    model = models.build("resnet18", (3, 28, 28), 5, seed=0)
    layout = Layout.of(model)
    weights = Weights(layout, torch.zeros(layout.size), torch.zeros(len(layout.counters), dtype=torch.int64))
    assert (layout.parameters, layout.coordinates - layout.parameters, len(layout.counters)) == (11_171_397, 9_600, 20)
    assert weights.nbytes == 44_724_148


def test_the_mean_of_identical_models_is_that_model_bit_for_bit():
    one = random_stack(1)[0]
    many = Weights(one.layout, *(t.expand(5, -1) for t in (one.vector, one.counts)))
    assert same(weighted_mean(many, [0.1, 0.2, 0.3, 0.15, 0.25]), one)


def test_delta_form_equals_weight_form(precision, tolerance):  # O7
    many = random_stack(dtype=getattr(torch, precision))
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    plain = torch.tensordot(torch.as_tensor(shares), many.vector.double(), 1)
    assert error(weighted_mean(many, shares), Weights(many.layout, plain, many.counts[0])) < tolerance


def test_the_mean_does_not_depend_on_the_order_of_sites(precision, tolerance):  # O6
    many, shares = random_stack(dtype=getattr(torch, precision)), np.array([0.4, 0.3, 0.2, 0.1])
    reference = weighted_mean(many, shares)
    for order in itertools.permutations(range(4)):
        again = weighted_mean(stack([many[k] for k in order]), shares[list(order)])
        assert error(again, reference) < tolerance


def test_counters_are_never_averaged():
    assert torch.equal(weighted_mean(random_stack(), [0.25] * 4).counts, random_stack().counts[-1])


def test_pooled_variance_is_that_of_the_union(precision):  # O50
    tolerance = {"float64": 1e-10, "float32": 1e-5}[precision]
    many = random_stack(2, getattr(torch, precision), pooled=True)
    layout = many.layout
    mean = next(e for e in layout.entries if e.kind == "mean")
    variance = layout.entries[layout.entries.index(mean) + 1]
    assert variance.kind == "variance"
    samples = [np.random.default_rng(k).normal(k, 1 + k, (n, mean.stop - mean.start)) for k, n in ((0, 30), (1, 70))]
    for k, x in enumerate(samples):
        many.vector[k, mean.start : mean.stop] = torch.from_numpy(x.mean(0))
        many.vector[k, variance.start : variance.stop] = torch.from_numpy(x.var(0))
    mixed, union = weighted_mean(many, [0.3, 0.7]).vector.numpy(), np.concatenate(samples)
    assert np.abs(mixed[mean.start : mean.stop] - union.mean(0)).max() < tolerance
    assert np.abs(mixed[variance.start : variance.stop] / union.var(0) - 1).max() < tolerance
    naive = weighted_mean(
        Weights(Layout(layout.entries, layout.counters, layout.trained, layout.size), *(many.vector, many.counts)),
        [0.3, 0.7],
    )
    assert (naive.vector.numpy()[variance.start : variance.stop] <= union.var(0) * (1 + tolerance)).all()


def test_batch_norm_is_found_by_type_not_by_name():
    layout = Layout.of(models.build("resnet18", (1, 28, 28), 2, seed=0))
    kinds = {entry.name: entry.kind for entry in layout.entries}
    assert kinds["2.0.shortcut.1.weight"] == "batchnorm"
    assert kinds["2.0.shortcut.1.running_var"] == "variance"
    assert kinds["2.0.shortcut.0.weight"] == "weight"


def test_shares_must_be_a_mean():
    for shares in ([0.5, 0.5, 0.5, 0.5], [1, 0, 0], [1.5, -0.5, 0, 0]):
        with pytest.raises(ValueError, match="sum to 1"):
            weighted_mean(random_stack(), shares)
