"""Properties that a GPU needs, checked on a CPU."""

import warnings
from functools import cache

import numpy as np
import pytest
import recordings
import torch
from host_reads import HostReads
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import cases, ends, federation, last, partition

import fedlab
from fedlab import algorithms
from fedlab.core import stages
from fedlab.core.layout import Layout
from fedlab.core.memory import aligned_zeros
from fedlab.engine import cuda_graph
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.optimizers import optimizer_of
from fedlab.engine.vmap import ModelStack
from fedlab.federation import Ensemble
from fedlab.learning import models
from fedlab.learning.models import MODELS
from fedlab.learning.settings import Training

ODD = nn.Sequential(nn.Flatten(), nn.Linear(7, 3), nn.BatchNorm1d(3), nn.Linear(3, 5, bias=False), nn.Linear(5, 1))
SHAPES = {"logistic": (1, 9, 9), "small_cnn(width=3, depth=2)": (1, 12, 12), "resnet18": (3, 12, 12)}


def architectures():
    yield "odd", ODD
    for name, shape in SHAPES.items():
        yield name, models.build(name, shape, 3, seed=0)
    yield "small_cnn in 3D", models.build("small_cnn(width=3, depth=2)", (1, 8, 8, 8), 3, seed=0)


def misplaced(tensors):
    """Tensors that do not begin at a multiple of 256 bytes; empty tensors may be anywhere."""
    return [name for name, t in tensors.items() if t.numel() and t.data_ptr() % 256]


def everything(flat):
    """Parameters, buffers and gradients of a flat model, and all slots of Adam's state, by name."""
    model, layout = flat.model, flat.layout
    found = {f"parameter {name}": p for name, p in model.named_parameters()}
    found |= {f"buffer {name}": b for name, b in model.named_buffers()}
    found |= {f"gradient {name}": g for name, g in layout.views(flat.gradient).items()}
    decays = layout.mask("weight")[: layout.trained]
    state = optimizer_of(Training(optimizer="adam"), decays).initial_state(flat.parameters).vectors
    return found | {f"slot {i} {name}": s for i, slot in enumerate(state) for name, s in layout.views(slot).items()}


# -- alignment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "model"), list(architectures()))
def test_every_tensor_is_aligned(name, model, kind):
    model = stages.submodel(model, [(0, len(model))]).to(kind)
    flat = FlatModel(model, Layout.of(model))
    assert misplaced(everything(flat)) == []


@pytest.mark.parametrize(("name", "model"), list(architectures()))
def test_every_tensor_of_a_split_model_is_aligned(name, model):
    whole = Layout.of(model)
    for cut in range(1, len(model)):
        for ranges in (((0, cut),), ((cut, len(model)),), ((0, cut), (len(model) - 1, len(model)))):
            part = stages.stage_layout(whole, ranges)
            flat = FlatModel(stages.submodel(model, ranges), part, torch.zeros(1))
            assert misplaced(everything(flat)) == []
            assert part.parameters == sum(p.numel() for p in flat.model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_tensor_of_every_row_of_a_stack_is_aligned(optimizer, monkeypatch):
    seen = []

    def looked_at(stack, *given):
        vectors = [*stack.vector, *stack.moments.vectors.flatten(0, 1)]
        seen.extend(misplaced(view) for row in vectors for view in [stack.layout.views(row)])
        seen.append(misplaced({str(i): count for i, count in enumerate(stack.counts.flatten())}))
        return step(stack, *given)

    step = ModelStack.step
    monkeypatch.setattr(ModelStack, "step", looked_at)
    fed = federation(execution="vmap", optimizer=optimizer)
    ends("fedavg", fed)
    assert fed.execution.used == {"vmap"} and seen and not any(seen)


def test_aligned_memory_begins_at_a_multiple_of_256_bytes():
    for _ in range(20):
        assert aligned_zeros(3, 5, dtype=torch.float32, device=torch.device("cpu")).data_ptr() % 256 == 0


SEQUENTIAL = {"centralized", "cyclic", "single_pass", "split", "splitfed"}  # methods whose sites take turns
CELLS = [(mode, method) for mode in ("sequential", "vmap") for method in sorted(fedlab.METHODS)]


@pytest.mark.every_method
@pytest.mark.parametrize(("mode", "method"), [cell for cell in CELLS if cell[0] != "vmap" or cell[1] not in SEQUENTIAL])
def test_padding_stays_zero(method, mode):
    fed = federation(execution=mode, momentum=0.5, weight_decay=0.01, attack="gaussian", precision="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ends(method, fed)
    assert mode == "sequential" or mode in fed.execution.used
    for model in found.values():
        stack = model.models if isinstance(model, Ensemble) else model
        assert not stack.vector[..., ~fed.layout.occupied].any()
    padding = ~fed.layout.occupied[: fed.layout.trained]
    for value in vars(fed.schedule.state).values():  # control variates, momenta, duals
        if isinstance(value, torch.Tensor) and value.shape[-1:] == padding.shape:
            assert not value[..., padding].any()


def test_padding_is_counted_nowhere():
    fed = federation(model="small_cnn(width=3, depth=2)")
    model = fed.execution.engine.flat.model
    p = sum(each.numel() for each in model.parameters())
    q = sum(each.numel() for each in model.buffers() if each.is_floating_point())
    assert (fed.layout.parameters, fed.layout.coordinates) == (p, p + q) and fed.layout.size > p + q
    bytes_ = 4 * (p + q) + 8 * len(fed.layout.counters)
    assert fed.start.nbytes == bytes_
    ends("fedavg", fed)
    assert {row[5] for row in fed.ledger.rows} == {bytes_}
    state = fed.start.state_dict()
    assert sum(t.numel() for t in state.values()) == p + q + len(fed.layout.counters)
    assert all(state[name].shape == t.shape for name, t in model.state_dict().items())


def test_messages_have_no_padding():
    fed, seen = federation(model="small_cnn(width=3, depth=2)", momentum=0.5, local_optimizer="share"), []
    fed.channel.hooks.append(lambda message: seen.append({tuple(t.shape) for t in message.tensors}))
    ends("scaffold", fed)
    sizes = {size for shapes in seen for shape in shapes for size in shape}
    assert sizes <= {fed.layout.coordinates, fed.layout.parameters, len(fed.layout.counters), 1}


# -- host reads ----------------------------------------------------------------------------------------------------

QUICK = {"rounds": 3, "batch_size": 8, "execution": "sequential"}


@cache
def equal_sites(count):
    """One partition for all methods: to make it takes as long as a round of training."""
    return partition((16,) * count)


def reads(method, sites, steps, **changes):
    """Host reads in the second round of sites of 16 cases, evaluation not included."""
    torch.set_num_threads(1)  # counted in one thread
    fed = federation(equal_sites(sites), local_steps=steps, **QUICK | changes)
    run = algorithms.start(method, fed)
    next(run)
    with HostReads() as counted:
        next(run)
    assert fed.execution.used <= {fed.settings.execution}
    return counted.found


@pytest.mark.every_method
@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_reads_of_a_round_grow_with_neither_sites_nor_steps(method):
    few = reads(method, 3, 2)
    assert few == reads(method, 5, 3)
    assert few.total() <= 6  # three transfers: a call to `cpu` and one to `numpy` each


SETTINGS = [  # with methods on which the setting acts differently
    ({"optimizer": "adam", "local_optimizer": "keep"}, ["fedavg", "ditto", "cyclic", "split"]),
    ({"momentum": 0.5, "local_optimizer": "share"}, ["fedavg", "scaffold", "fedbn"]),
    ({"batchnorm": "silobn", "participation": "sample(0.7)"}, ["fedavg", "scaffold", "apfl", "swarm", "gossip"]),
    ({"batchnorm": "pooled"}, ["fedavg", "swarm"]),
    ({"augment": "flip + rotate(10)", "normalisation": "site"}, ["fedavg", "cyclic", "split"]),
    ({"model": "small_cnn(width=16, depth=3)"}, ["fedavg", "gossip"]),
    ({"execution": "vmap"}, ["fedavg", "scaffold", "fedbn", "ditto", "apfl", "swarm", "gossip"]),
    ({"attack": "alie"}, ["fedavg", "scaffold", "swarm"]),
    ({"aggregate": "median"}, ["fedavg", "scaffold", "fedbn", "swarm"]),
    ({"aggregate": "krum(f=0)"}, ["fedavg", "ditto"]),
    ({"aggregate": "geomedian"}, ["fedavg", "apfl"]),
    ({"aggregate": "clipped"}, ["fedavg", "scaffold"]),
    ({"secure_sum": True}, ["fedavg", "ditto"]),
]


@pytest.mark.each_value
@pytest.mark.parametrize(
    ("changes", "method"), [(changes, method) for changes, methods in SETTINGS for method in methods], ids=repr
)
def test_reads_do_not_grow_with_sites_under_any_setting(method, changes):
    assert reads(method, 3, 2, **changes) == reads(method, 6, 2, **changes)


def test_a_streaming_mean_reads_nothing_per_model(monkeypatch):
    from fedlab.core import memory
    from fedlab.federation import server

    monkeypatch.setattr(server, "STACK_BYTES", 0)
    monkeypatch.setattr(memory, "CPU_CHUNK", 64)  # many chunks
    few, many = (reads("fedavg", count, 2) for count in (3, 6))
    assert few == many and few.total() <= 2


def test_predictions_are_read_in_one_transfer():
    counts = []
    for sites in (3, 6):
        fed = federation(equal_sites(sites), **QUICK)
        with HostReads() as counted:
            fed.validate(fed.start)
        counts.append(counted.found)
    assert counts[0] == counts[1] and counts[0].total() <= 2


def test_a_diverging_site_is_named_when_the_round_is_read():
    fed = federation(lr=1e30, precision="float32")
    with pytest.raises(fedlab.federation.DivergedError, match="Site A, round 1: training diverged"):
        ends("fedavg", fed)


# -- capture -------------------------------------------------------------------------------------------------------


RECORDED = ["fedavg", "fedprox", "scaffold", "fedrep(head_epochs=1)", "cyclic(mitigation='loss')"]


def dropping(shape, outputs):
    size = int(np.prod(shape))
    return nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(size, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, outputs)
    )


@pytest.mark.each_value
@pytest.mark.parametrize("method", RECORDED)
@pytest.mark.parametrize(("optimizer", "batchnorm"), [("sgd", "silobn"), ("adam", "avg"), ("adamw", "frozen")])
@pytest.mark.filterwarnings("ignore:scaffold with")
def test_random_layers_are_captured(method, optimizer, batchnorm, monkeypatch):
    """Dropout of a replayed step draws the numbers of the sequential step."""
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)
    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "dropping": dropping})
    settings = {
        "model": "dropping", "precision": "float64", "optimizer": optimizer, "batchnorm": batchnorm, "lr": 0.01,
        "augment": "flip + shift(0.1)", "weight_decay": 0.01, "local_steps": None, "batch_size": 12,
    }  # fmt: skip
    alone, played = (federation(execution=mode, **settings) for mode in ("sequential", "cuda_graph"))
    a, b = last(method, alone), last(method, played)
    assert played.execution.used == {"cuda_graph"}
    assert float((a.vector - b.vector).abs().max()) < 1e-12 * float(a.vector.abs().max())


# -- vmap ----------------------------------------------------------------------------------------------------------

REFUSED = ("batch_norm", "group_norm", "instance_norm")  # kernels whose batching rules fail on a GPU


class Dispatched(TorchDispatchMode):
    """Names of the operations that run inside this context."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("batchnorm", ["avg", "group"])
@pytest.mark.parametrize("model", ["small_cnn(width=4, depth=2)", "narrow_resnet"])
def test_a_stack_uses_no_kernel_that_cannot_be_batched(model, batchnorm, precision):
    torch.set_num_threads(1)
    part = partition((9, 5, 12), data=cases(26 + 3 * 4, (1, 12, 12)), held_out=2)  # of unequal sizes
    fed = federation(
        part, model, execution="vmap", precision=precision, batchnorm=batchnorm, batch_size=4, local_steps=None,
        rounds=1,
    )  # fmt: skip
    with Dispatched() as seen:
        ends("fedavg", fed)
    assert fed.execution.used == {"vmap"} and "convolution" in seen.names
    assert not [name for name in seen.names if any(kind in name for kind in REFUSED)]
