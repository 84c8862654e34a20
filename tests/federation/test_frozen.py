"""Laws of frozen parameters and adapters: what is frozen never moves and never travels, in every method and mode."""

import numpy as np
import pandas as pd
import pytest
import recordings
import torch
from interruptions import PowerCut, interrupt
from torch import nn
from worlds import (
    CNN,
    at_sites,
    ends,
    error,
    federation,
    last,
    masked_cases,
    parameters,
    partition,
    same,
    usual_partition,
)

import fedlab
from fedlab.algorithms import METHODS
from fedlab.core.layout import Layout
from fedlab.core.stages import stage_layout
from fedlab.engine import cuda_graph
from fedlab.engine.flat_model import FlatModel
from fedlab.federation import Ensemble
from fedlab.learning.models import MODELS, build
from fedlab.learning.segmentation_models import ConcatenateThenUp, Encode
from fedlab.learning.trainable import restrict

SHAPE = (1, 12, 12)
HEAD = 4 * (8 + 1)  # bytes of the last stage of CNN
RANK, ALPHA = 2, 6.0
LORA = f"lora(rank={RANK}, alpha={ALPHA})"
LAYERS = ((4, 1 * 9), (8, 4 * 9))  # (o, i) of the two convolutions of CNN
ADAPTERS = 4 * RANK * sum(o + i for o, i in LAYERS)
TRAINABLE = ["head", LORA, "1*, head"]
ALONE = ("local", "centralized", "ensemble", "single_pass")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of weights whose statistics are not those of a new network."""
    net = build(CNN, SHAPE, 1, seed=9)
    generator = torch.Generator().manual_seed(1)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5, generator=generator)
    torch.save(net.state_dict(), file := tmp_path_factory.mktemp("weights") / "w.pt")
    return str(file)


@pytest.fixture
def copies(monkeypatch):
    """All flat models that are made."""
    made, init = [], FlatModel.__init__

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(FlatModel, "__init__", remember)
    return made


def crossed(fed, what="weights"):
    """Bytes of each message of this kind."""
    table = fed.ledger.frame().query("what == @what")
    return set(table["bytes"] // table["messages"])


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_with_a_frozen_backbone_every_tensor_of_it_is_that_of_the_file(method, path, copies):
    """At every site, in every copy of the model; only the head moves, and only the head travels."""
    fed = federation(weights=path, trainable="head", rounds=1, local_steps=2)
    models, file = ends(method, fed), torch.load(path)
    checked = 0
    for copy in copies:
        for name, tensor in copy.model.state_dict().items():
            if not name.startswith("3."):
                assert torch.equal(tensor, file[name]), name
                checked += 1
    assert checked > 10
    for model in models.values():
        each = model.models if isinstance(model, Ensemble) else model
        assert each.vector.shape[-1] == fed.layout.size and fed.layout.coordinates == 8 + 1
        state = fed.execution.engine.flat.state_dict(each[0] if each.stacked else each)
        assert state.keys() == file.keys()
        moved = {name for name in file if not torch.equal(state[name], file[name])}
        assert moved <= {"3.weight", "3.bias"} and (moved or method in ("fedper", "fedrep"))
    if method not in ("split", "fedper", "fedrep", *ALONE):  # there the head is the server's, or never crosses
        assert crossed(fed) <= {HEAD} | ({0} if method == "splitfed" else set())


@pytest.mark.parametrize("method", ["fedavg", "cyclic", "swarm", "ditto", "fedbn"])
def test_adapters_send_their_factors_and_the_head(method, path):
    """4 r (o + i) bytes a layer, in each direction."""
    fed = federation(weights=path, trainable=LORA, rounds=1, local_steps=1)
    ends(method, fed)
    assert crossed(fed) == {ADAPTERS + HEAD}


def test_the_ledger_of_a_frozen_backbone_counts_what_is_trained_in_every_round(path):
    """Nothing for the first distribution: sites hold the file."""
    for text, size in (("head", HEAD), (LORA, ADAPTERS + HEAD)):
        fed = federation(weights=path, trainable=text, local_optimizer="share", momentum=0.9)
        ends("fedavg", fed)
        table = fed.ledger.frame()
        assert set(table["round"]) == {1, 2} and set(table.query("what == 'weights'")["bytes"]) == {size}
        optimizer = table.query("what not in ['weights']")["bytes"]
        assert set(optimizer) == {size + 8}  # one momentum for each trained number, and the number of steps


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_an_adapter_adds_the_low_rank_update_to_the_weights(d, mode):
    """As W + (alpha/r) B A, computed by the plain layer; at the start the plain layer itself, bit for bit."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[d]
    make = lambda: nn.Sequential(  # noqa: E731
        conv(2, 3, 3, padding=1, stride=2, padding_mode=mode if d < 3 else "zeros"),
        nn.Flatten(),
        nn.LazyLinear(4),
        nn.Linear(4, 2),
    )
    plain = make().double()
    x = torch.rand(5, 2, *[6] * d, dtype=torch.float64)
    before = plain(x)
    restrict(plain, LORA, seed=0)
    assert torch.equal(plain(x), before)
    trained = {name for name, p in plain.named_parameters() if p.requires_grad}
    assert trained == {"0.lora_a", "0.lora_b", "2.lora_a", "2.lora_b", "3.weight", "3.bias"}
    state = plain.state_dict()
    with torch.no_grad():
        for name in state:
            if "lora_b" in name:
                state[name].normal_()
    other = make().double()
    other(x)
    other.load_state_dict({name: tensor for name, tensor in state.items() if "lora" not in name})
    with torch.no_grad():
        for stage in (0, 2):
            update = ALPHA / RANK * state[f"{stage}.lora_b"] @ state[f"{stage}.lora_a"]
            other[stage].weight += update.view_as(other[stage].weight)
    torch.testing.assert_close(plain(x), other(x), rtol=1e-12, atol=1e-12)


def test_adapters_start_at_the_function_of_the_file_bit_for_bit(path):
    """A is that of the seed and not zero; grouped convolutions and attention have no adapter."""
    whole, adapted = (federation(weights=path, trainable=text) for text in ("all", LORA))
    index = np.arange(20)
    assert np.array_equal(whole.predict(whole.start, index), adapted.predict(adapted.start, index))
    first, again, other = (federation(weights=path, trainable=LORA, seed=seed).start.vector for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.MultiheadAttention(4, 2), nn.Linear(4, 4), nn.Linear(4, 1))
    restrict(net, LORA, seed=0)
    assert {name for name, p in net.named_parameters() if p.requires_grad and "lora" in name} == {
        "2.lora_a",
        "2.lora_b",
    }


@pytest.mark.parametrize("text", TRAINABLE)
@pytest.mark.parametrize("mode", ["vmap", "cuda_graph"])
def test_frozen_parts_train_alike_in_every_mode(text, mode, path, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)
    changes = {"weights": path, "trainable": text, "momentum": 0.5, "precision": "float64", "batch_size": 12}
    found = {}
    for execution in ("sequential", mode):
        fed = federation(execution=execution, local_steps=None, rounds=2, **changes)
        found[execution] = last("fedavg", fed)
        assert fed.execution.used == {execution}
    assert error(found[mode], found["sequential"]) < 1e-12
    assert torch.equal(found[mode].counts, found["sequential"].counts)


def test_cores_share_the_frozen_parameters(path):
    one = federation(weights=path, trainable="head", execution="sequential")
    two = federation(weights=path, trainable="head", execution="sequential")
    two.execution.pool.count = 2
    assert same(last("fedavg", one), last("fedavg", two))
    engines = two.execution.pool.engines
    assert len(engines) == 2
    kernels = [engine.flat.model[0][0].weight for engine in engines]
    assert kernels[0].data_ptr() == kernels[1].data_ptr()


@pytest.mark.parametrize("text", ["head", LORA])
def test_a_full_batch_step_is_gradient_descent_on_what_is_trained(text, path):
    """The mean of the sites' steps is the step on all cases, with the backbone in evaluation mode."""
    fed = federation(weights=path, trainable=text, rounds=1, local_steps=1, batch_size=None, precision="float64")
    w = last("fedavg", fed)
    net = build(CNN, SHAPE, 1, seed=0).double()
    net.load_state_dict(torch.load(path))
    restrict(net, text, seed=0)
    net.eval()
    index = fed.union.batches.index
    rows = fed.execution.engine.dataset.rows(index)
    logits = net(fed.execution.engine.dataset.images(rows).contiguous())
    fed.task.loss(logits, fed.execution.engine.dataset.targets[rows]).backward()
    views = fed.layout.views(w.vector)
    assert views.keys() == {name for name, p in net.named_parameters() if p.requires_grad}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(views[name], parameter.detach() - 0.05 * parameter.grad, rtol=1e-9, atol=1e-12)


def test_what_is_frozen_is_in_no_norm_attack_or_sum(path):
    """Rules, attacks, statistics of updates and secure sums see the coordinates that are trained."""
    rule = next(name for name in fedlab.federation.aggregation.RULES if "clip" in name)
    for changes in ({"aggregate": rule}, {"aggregate": "median", "attack": "signflip(count=1)"}):
        fed = federation(weights=path, trainable="head", rounds=1, **changes)
        w = last("fedavg", fed)
        assert w.vector.shape == (fed.layout.size,) and fed.layout.coordinates == 9 == len(w.numbers)
        assert fed.round_log.updates and all(np.isfinite(float(value)) for value in fed.round_log.updates.values())
    masked, plain = (federation(weights=path, trainable="head", rounds=1, secure_sum=s) for s in (True, False))
    assert error(last("fedavg", masked), last("fedavg", plain)) < 1e-4 and crossed(masked) == {HEAD}


# -- split learning --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["split(cut=1)", "split(cut=1, tail=1)", "splitfed(cut=1)"])
def test_no_gradient_is_sent_for_a_frozen_first_stage(method, path):
    """Activations still go up, with labels or for features; nothing of the client's first stages travels."""
    whole, frozen = (federation(weights=path, trainable=text, rounds=1) for text in ("all", "1, head"))
    for fed in (whole, frozen):
        ends(method, fed)
    kinds = [set(zip(*fed.ledger.frame()[["direction", "what"]].to_numpy().T, strict=True)) for fed in (whole, frozen)]
    lost = {("down", "gradients")} | (
        set() if "tail" in method else {("up", "weights"), ("down", "weights"), ("peer", "weights")}
    )
    assert kinds[1] == kinds[0] - lost and ("down", "gradients") in kinds[0]
    sent = [fed.ledger.frame().query("what == 'activations'")["bytes"].sum() for fed in (whole, frozen)]
    assert sent[0] == sent[1] > 0


def test_with_a_trained_tail_alone_nothing_but_activations_and_features_crosses(path):
    fed = federation(weights=path, trainable="head", rounds=1)
    ends("split(cut=1, tail=1, handover='none')", fed)
    assert set(fed.ledger.frame()["what"]) == {"activations", "features"}


@pytest.mark.parametrize(("text", "cut"), [("head", "cut=1"), (LORA, "cut=1, tail=1"), ("1, head", "cut=2")])
def test_a_split_model_with_frozen_parts_is_the_whole_one_bit_for_bit(text, cut, path):
    """SplitFedV1 is fedavg, and turns of whole rounds are cyclic weight transfer."""
    for split, whole in (("splitfed(version=1, {})", "fedavg"), ("split({})", "cyclic")):
        one, two = (federation(weights=path, trainable=text) for _ in range(2))
        assert same(last(split.format(cut), one), last(whole, two))


def test_stages_of_a_frozen_model_have_a_layout(path):
    net = build(CNN, SHAPE, 1, seed=0)
    restrict(net, "head", seed=0)
    parts = [stage_layout(Layout.of(net), (part,)) for part in ((0, 2), (2, 4))]
    assert [part.coordinates for part in parts] == [0, 9]


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "text"), [("ditto", LORA), ("fedbn", "1*, head")])
def test_a_killed_run_with_frozen_parts_resumes_bit_for_bit(method, text, path, tmp_path, monkeypatch):
    experiment = fedlab.Experiment(
        method=method, model=CNN, weights=path, trainable=text, rounds=2, local_steps=2, optimizer="adam", device="cpu"
    )
    whole = fedlab.run(experiment, usual_partition(), folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, after=6)
        with pytest.raises(PowerCut):
            fedlab.run(experiment, usual_partition(), folder=tmp_path / "killed")
    resumed = fedlab.run(experiment, usual_partition(), folder=tmp_path / "killed")
    pd.testing.assert_frame_equal(resumed.predictions, whole.predictions, check_exact=True)
    for model in whole.models:
        ours, theirs = resumed.weights(model), whole.weights(model)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_predicts_again_from_its_stored_weights(path, tmp_path):
    """A held-out site gets the shared model, and what is stored rebuilds it: frozen parts and adapters are in it."""
    part = partition()
    experiment = fedlab.Experiment(model=CNN, weights=path, trainable=LORA, rounds=1, local_steps=2, device="cpu")
    run = fedlab.run(experiment, part, folder=tmp_path)
    net = build(CNN, SHAPE, 1, seed=0)
    restrict(net, LORA, seed=0)
    net.load_state_dict(run.weights())
    test = run.predictions.query("split == 'test' and choice == 'last'").drop_duplicates("case")
    images = torch.from_numpy(part.cases.images[part.cases.table.set_index("case").index.get_indexer(test["case"])])
    with torch.no_grad():
        p = net.eval()(images / 255).sigmoid()[:, 0]
    np.testing.assert_allclose(p.numpy(), test["p1"], atol=1e-5)
    plain = federation(weights=str(run.folder))  # adapters are added to the weights
    np.testing.assert_allclose(plain.predict(plain.start, np.arange(9))[:, 1], _again(net, part, 9), atol=1e-5)
    assert run.trainable().numel() == (ADAPTERS + HEAD) // 4
    net.load_state_dict(torch.load(path), strict=False)  # the backbone is that of the file
    assert all(torch.equal(run.weights()[name], tensor) for name, tensor in torch.load(path).items() if name[0] < "3")


def _again(net, part, count):
    with torch.no_grad():
        return net.eval()(torch.from_numpy(part.cases.images[:count]) / 255).sigmoid()[:, 0].numpy()


def test_seeds_that_train_together_train_as_alone(path, tmp_path):
    """A frozen backbone from a file is that of all seeds; a random one is that of its own."""
    base = fedlab.Experiment(model=CNN, rounds=1, local_steps=1, execution="vmap", device="cpu", trainable="head")
    for weights in (path, None):
        one = base.with_(weights=weights)
        together = fedlab.grid(one, partition=usual_partition(), folder=tmp_path / f"a{weights is None}", seed=[0, 1])
        alone = [
            fedlab.run(one.with_(seed=s), usual_partition(), folder=tmp_path / f"b{weights is None}") for s in (0, 1)
        ]
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.weights()["3.weight"], b.weights()["3.weight"], rtol=1e-5, atol=1e-6)
            assert torch.equal(a.weights()["0.0.weight"], b.weights()["0.0.weight"])
            assert np.allclose(a.predictions["p1"], b.predictions["p1"], atol=1e-5)


# -- networks of the user's own, and segmentation --------------------------------------------------------------------


class Own(nn.Module):
    """A network that freezes its first layer and the norm after it, counts its passes and needs two cases."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.last, self.free = nn.Linear(3, outputs), nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("table", torch.arange(3))
        for layer in (self.first, self.norm):
            layer.requires_grad_(False)

    def forward(self, x):
        if self.training:
            self.seen += 1
        return self.last(self.free(self.norm(self.first(x)).mean((2, 3)))[:, self.table])


def test_a_network_that_freezes_a_part_of_itself_is_not_moved_there():
    """Its frozen norm stays in evaluation mode; the other one trains, and needs more than one case."""
    MODELS.add(lambda shape, outputs: Own(outputs), name="own")
    try:
        fed = federation(model="own", rounds=1, weight_decay=0.1)
        before = fed.execution.engine.flat.state_dict(fed.start)
        after = fed.execution.engine.flat.state_dict(last("fedavg", fed))
        still = {name for name in before if torch.equal(before[name], after[name])}
        assert still == {name for name in before if name.startswith(("first", "norm"))} | {"table"}
        assert int(after["seen"]) == 3 and crossed(fed) == {4 * (3 + 1 + 4 * 3) + 2 * 8}
        with pytest.raises(ValueError, match="cannot train on one case"):
            ends("fedavg", federation(partition(sizes=(9, 8)), model="own", local_steps=None, batch_size=1))
        head = federation(
            partition(sizes=(9, 8)), model="own", trainable="last", local_steps=None, batch_size=1, rounds=1
        )
        ends("fedavg", head)  # without a norm to estimate one case is enough
    finally:
        MODELS.remove("own")


def test_a_frozen_buffer_that_changes_itself_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(144))
            self.register_buffer("level", torch.zeros(()))

        def forward(self, x):
            self.level += 1
            return x.flatten(1) * self.scale

    MODELS.add(lambda shape, outputs: nn.Sequential(Counting(), nn.Linear(144, outputs)), name="counting")
    try:
        with pytest.raises(ValueError, match=r"changes the frozen '0\.level'"):
            federation(model="counting", trainable="head")
    finally:
        MODELS.remove("counting")


def two_levels(shape, outputs):
    """A network with one skip connection, which crosses the cut between its second and third stage."""
    return nn.Sequential(
        Encode(nn.Conv2d(shape[0], 2, 3, padding=1), first=True),
        Encode(nn.Conv2d(2, 2, 3, padding=1)),
        ConcatenateThenUp(nn.Conv2d(4, 3, 3, padding=1)),
        nn.Conv2d(3, outputs, 1),
    )


@pytest.mark.parametrize("method", ["fedavg", "split(cut=2)", "splitfed(cut=2, tail=1)"])
def test_a_frozen_encoder_segments(method):
    """Of a skip connection that a frozen stage made, the activation goes up and no gradient comes down."""
    part = partition(sizes=(8, 8), data=masked_cases(48, (1, 8, 8)), held_out=8)
    changes = {"model": "two_levels", "rounds": 1, "local_steps": 1, "batch_size": 4, "precision": "float64"}
    MODELS.add(two_levels)
    try:
        fed = federation(part, trainable="1, 2, head", **changes)
        last(method, fed)
        adapted, plain = (
            last("fedavg", federation(part, trainable="lora(rank=1)", execution=mode, **changes))
            for mode in ("vmap", "sequential")
        )
    finally:
        MODELS.remove("two_levels")
    assert {entry.name.partition(".")[0] for entry in fed.layout.entries} == {"1", "2", "3"}
    assert error(adapted, plain) < 1e-12
    if "split" in method:
        sent = fed.ledger.frame().groupby(["what", "direction"])["bytes"].sum()
        assert sent["gradients", "down"] * 2 == sent["activations", "up"]


def test_with_everything_frozen_at_the_sites_personal_methods_still_differ(path):
    fed = federation(weights=path, trainable="head", rounds=1)
    seen = at_sites("fedper(personal=1)", fed)
    assert not torch.equal(seen.vector[0], seen.vector[1]) and fed.ledger.frame().empty
    assert parameters({"global": seen})[0].shape[1] == fed.layout.trained
