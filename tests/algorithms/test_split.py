"""Split learning: really split, and the same to the last bit as if it were not.

The two sides meet in tensors that cross the wire and nowhere else; what crossed is what the ledger counts.
"""

import numpy as np
import pytest
import torch
from worlds import CNN, at_sites, cases, ends, federation, last, masked_cases, partition, same

import fedlab
from fedlab.algorithms import start
from fedlab.algorithms.split_training import SplitModel
from fedlab.core.stages import extract, join, stage_layout
from fedlab.engine import split_model
from fedlab.federation import Federation
from fedlab.learning.models import MODELS, build

EDGE = {"logistic": 8, "small_cnn": 16, "resnet18": 8, "densenet121": 32} | dict.fromkeys(
    SEGMENTING := ("unet", "segresnet", "dynunet"), 16
)  # of the smallest image that a model takes


LARGE = ("resnet18", "densenet121")  # a step of them takes as long as all others together


def dimensions() -> list[tuple[str, int]]:
    return [(name, d) for name in MODELS if name != "timm" for d in (2, 3) if d == 2 or name not in LARGE]


def cuts(model: str, d: int, count: int) -> list[tuple[int, int]]:
    """Cuts and tails: all of small models in 2D, the middle one in 3D; of large ones the first in a U shape."""
    if d == 3:
        return [(max(1, count // 2), 0)]
    if model == "unet":  # every pair, so that skip connections start and end on all sides
        return [(cut, tail) for cut in range(1, count) for tail in range(count - cut)]
    if model in LARGE:
        return [(1, 1)]
    return [*((cut, 0) for cut in range(1, count)), *((cut, 1) for cut in {1, count - 2} if 0 < cut < count - 1)]


def world(model: str, d: int, **changes) -> Federation:
    """A few small images or volumes at one site."""
    shape = (1, *[EDGE.get(model, 32)] * d)
    data = masked_cases(12, shape, structures=3) if model in SEGMENTING else cases(12, shape)
    given = {"batch_size": None, "local_steps": 1, "rounds": 1, "lr": 0.5, **changes}
    return federation(partition(sizes=(2,), data=data, held_out=2), model, **given)


@pytest.mark.parametrize("model,d", dimensions())
def test_a_cut_gives_the_gradients_of_the_whole_model_bit_for_bit(model, d):  # O30
    """One step, with labels sent and U-shaped: weights, statistics and gradients of the whole model."""
    fed = world(model, d)
    whole, count = last("local", fed)[0], len(fed.execution.engine.flat.model)
    gradient = fed.execution.engine.flat.gradient.clone()
    for cut, tail in cuts(model, d, count):
        halves = SplitModel(fed, cut, tail)
        client, server = (extract(fed.start, side) for side in (halves.client, halves.server))
        s = fed.memory()
        (r,) = list(fed.rounds(s))
        client, server = halves.fit_one(client, server, r, at=0)
        found = halves.join(client, server)
        assert same(found, whole), (cut, tail)
        learnt = torch.zeros_like(gradient)
        for side in (halves._client, halves._server):
            spans, at = side.flat.layout.spans[0], 0
            for span in spans:
                learnt[span] = side.flat.gradient[at : at + span.stop - span.start]
                at += span.stop - span.start
        assert torch.equal(learnt, gradient), (cut, tail)


def test_skip_connections_cross_once_or_stay_at_the_site():
    """The five stages of a UNet of two halvings, cut 2 | 1 | 2: the bottom gets one tensor and gives one back.

    The first decoder of the tail uses what enters the bottom, which the site has, so that only its gradient is sent,
    and the second one the output of the first stage, which never leaves the site. With labels sent all of them cross.
    """
    data = masked_cases(12, (1, 16, 16))
    part, crossed = partition(sizes=(4,), data=data, held_out=4), {}
    for tail in (0, 2):
        fed, seen = federation(part, "unet(width=4, depth=2)", batch_size=None, local_steps=1, rounds=1), []
        fed.channel.hooks.append(seen.append)
        last(f"split(cut=2, tail={tail})", fed)
        sent = [m for m in seen if m.what != "weights"]
        crossed[tail] = [(m.direction, m.what, tuple(t.shape)) for m in sent for t in m.tensors]
        assert sum(m.nbytes for m in seen) == fed.ledger.frame()["bytes"].sum()
    shallow, deep, bottom = (4, 4, 8, 8), (4, 8, 4, 4), (4, 16, 4, 4)
    assert crossed[0] == [
        ("up", "activations", deep), ("up", "activations", shallow), ("up", "labels", (4, 16, 16)),
        ("down", "gradients", deep), ("down", "gradients", shallow),
    ]  # fmt: skip
    assert crossed[2] == [
        ("up", "activations", deep), ("down", "features", bottom), ("up", "gradients", bottom),
        ("up", "gradients", deep), ("down", "gradients", deep),
    ]  # fmt: skip


@pytest.mark.parametrize("tail", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}, {"weight_decay": 0.1}])
def test_several_steps_of_every_optimizer_are_those_of_the_whole_model(tail, changes, precision):  # O30
    one = partition(sizes=(30,))
    a, b = (federation(one, precision=precision, rounds=3, **changes) for _ in range(2))
    assert same(last(f"split(cut=1, tail={tail})", a), last("local", b)[0])


def test_bfloat16_trains_split():
    fed = federation(precision="bf16")
    assert torch.isfinite(last("split(cut=1, tail=1)", fed).vector).all()


@pytest.mark.parametrize("policy", ["avg", "frozen", "group"])
def test_turns_with_hand_over_are_a_cycle(policy, precision):  # O32
    for arguments in ("cut=1", "cut=2, tail=1", "cut=1, handover='server'", "cut=2, order='reversed'"):
        a, b = (federation(precision=precision, batchnorm=policy) for _ in range(2))
        order = ", order='reversed'" if "reversed" in arguments else ""
        assert same(last(f"split({arguments})", a), last(f"cyclic({order[2:]})", b)), arguments


def test_an_optimizer_that_stays_at_the_server_is_not_the_cycles():
    """With momentum the server's state persists across sites; the client's travels with it, or is reset."""
    cycle = last("cyclic", federation(momentum=0.9))
    assert same(last("split", federation(momentum=0.9)), cycle)  # both travel: one state in two places
    assert not same(last("split(optimizer='reset')", federation(momentum=0.9)), cycle)
    assert not same(last("split(optimizer='reset')", federation(momentum=0.9)),
                    last("cyclic(optimizer='reset')", federation(momentum=0.9)))  # fmt: skip


@pytest.mark.parametrize("tail", [0, 1])
@pytest.mark.parametrize(
    "changes", [{}, {"batchnorm": "silobn"}, {"batchnorm": "fedbn"}, {"availability": 0.6, "rounds": 4}]
)
def test_splitfed_is_fedavg(tail, changes, precision):  # O31
    a, b = (federation(precision=precision, momentum=0.9, **changes) for _ in range(2))
    assert same(last(f"splitfed(cut=2, tail={tail})" if not tail else "splitfed(cut=1, tail=1)", a), last("fedavg", b))


def test_the_second_splitfed_of_one_site_is_the_first(precision):  # O31
    one = partition(sizes=(30,))
    first, second, alone = (federation(one, precision=precision) for _ in range(3))
    found = last("splitfed(version=2)", second)
    assert same(found, last("splitfed", first)) and same(found, last("local", alone)[0])


@pytest.mark.parametrize("cut", [1, 2])
def test_the_third_splitfed_is_lg_fedavg(cut, precision):  # O31
    a, b = (federation(precision=precision) for _ in range(2))
    assert same(at_sites(f"splitfed(version=3, cut={cut})", a), at_sites(f"lg_fedavg(cut={cut})", b))


def test_the_server_of_the_second_splitfed_learns_from_one_site_after_the_other():
    """In random order; the clients all start from the same weights and are averaged."""
    fed = federation(rounds=1, precision="float64")
    found = last("splitfed(version=2)", fed)
    hand = federation(rounds=1, precision="float64")
    halves, s = SplitModel(hand, 1), hand.memory()
    client, server = extract(hand.start, halves.client), extract(hand.start, halves.server)
    (r,) = list(hand.rounds(s))
    from fedlab.core.rng import stream
    from fedlab.core.weights import stack, weighted_mean

    clients = {}
    for k in stream(0, "order at the server", 1).permutation(4).tolist():
        clients[k], server = halves.fit_one(client, server, r, at=k)
    expected = halves.join(weighted_mean(stack([clients[k] for k in range(4)]), hand.shares), server)
    assert same(found, expected)


def test_a_reference_server_takes_steps_of_one_size():
    """A new Adam in every step moves every parameter by plus or minus lr for any gradient."""
    fed = federation(optimizer="adam", lr=0.01, local_steps=1, rounds=1, precision="float64")
    found = last("splitfed(optimizer='reference')", fed)
    halves = SplitModel(fed, 1)
    moved = (extract(found, halves.server).parameters - extract(fed.start, halves.server).parameters).abs()
    assert float(moved.max()) <= 0.01 * (1 + 1e-6)
    longer = federation(optimizer="adam", lr=0.01, local_steps=3, rounds=1)
    assert not same(last("splitfed(optimizer='reference')", longer),
                    last("splitfed", federation(optimizer="adam", lr=0.01, local_steps=3, rounds=1)))  # fmt: skip


def test_alternate_batches_take_turns():
    """One batch each until a site's data end; the same batches as in turns of sites, in another order."""
    fed, seen = federation(local_steps=None, local_epochs=1, rounds=1), []
    fed.channel.hooks.append(lambda message: seen.append(message.site) if message.what == "activations" else None)
    last("split(turns='batch')", fed)
    assert seen == [f"Site {letter}" for letter in "ABCD" + "ABC" + "AB" + "B" + "B"]
    assert {name: cost.steps for name, cost in fed.round_log.costs.items()} == dict(
        zip(fed.names, (3, 5, 2, 1), strict=True)
    )
    plain = federation(local_steps=None, local_epochs=1, rounds=1)
    last("split", plain)
    taken = [sum(cost.samples for cost in each.round_log.costs.values()) for each in (plain, fed)]
    assert taken[0] == taken[1]


def test_without_hand_over_every_institution_has_its_own_first_stages(precision):
    fed = federation(precision=precision, rounds=2)
    seen = at_sites("split(cut=1, handover='none')", fed)
    halves = SplitModel(fed, 1)
    clients, servers = extract(seen, halves.client).vector, extract(seen, halves.server).vector
    assert not any(torch.equal(clients[0], row) for row in clients[1:])
    assert all(torch.equal(servers[0], row) for row in servers)
    assert not len(fed.ledger.frame().query("what == 'weights'"))


# -- the wire --------------------------------------------------------------------------------------------------------


def crossing(method: str, **changes) -> tuple[Federation, list]:
    """The federation after training, and every message that crossed."""
    fed, seen = federation(**changes), []
    fed.channel.hooks.append(seen.append)
    last(method, fed)
    return fed, seen


@pytest.mark.parametrize(
    "method", ["split(tail=1)", "splitfed(tail=1)", "splitfed(version=2, tail=1)", "split(turns='batch', tail=1)"]
)
def test_labels_never_cross_in_the_u_shaped_form(method):
    fed, seen = crossing(method)
    assert {message.what for message in seen} <= {"activations", "features", "gradients", "weights"}
    of_batches = [m for m in seen if m.what in ("activations", "features", "gradients")]
    assert of_batches and all(t.is_floating_point() for m in of_batches for t in m.tensors)
    labels = {tuple(fed.labels[site.batches.at(step)]) for site in fed.sites for step in range(6)}
    for message in of_batches:
        for tensor in message.tensors:
            assert tuple(tensor.flatten().tolist()) not in labels


def test_labels_cross_where_they_are_shared():
    fed, seen = crossing("split")
    sent = [m for m in seen if m.what == "labels"]
    site = fed.sites[0]
    assert len(sent) == 2 * 4 * 3
    assert sent[0].tensors[0].tolist() == fed.labels[site.batches.at(0)].tolist()


@pytest.mark.parametrize("method", ["split", "split(tail=1)", "splitfed", "splitfed(version=3, cut=2)"])
def test_images_never_cross(method):
    fed, seen = crossing(method)
    images = fed.execution.dataset.images(fed.execution.dataset.rows(fed.union.batches.index))
    shapes = {tuple(t.shape[1:]) for m in seen for t in m.tensors}
    assert tuple(images.shape[1:]) not in shapes


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_ledger_is_the_bytes_of_the_tensors_at_the_cut(cut):  # O55
    """Per case and direction A floats; labels 8 bytes a case; the client's weights once a turn."""
    fed, seen = crossing(f"split(cut={cut})", rounds=1)
    shape = fed.execution.engine.flat.model.eval()[:cut](torch.zeros(1, *fed.partition.cases.shape)).shape
    floats, samples = int(np.prod(shape)), sum(cost.samples for cost in fed.round_log.costs.values())
    totals = fed.ledger.frame().groupby(["direction", "what"])["bytes"].sum()
    assert totals["up", "activations"] == 4 * floats * samples
    assert totals["down", "gradients"] == 4 * floats * samples
    assert totals["up", "labels"] == 8 * samples
    client = extract(fed.start, SplitModel(fed, cut).client)
    assert (totals["down", "weights"], totals["peer", "weights"]) == (client.nbytes, 3 * client.nbytes)
    assert sum(m.nbytes for m in seen) == fed.ledger.frame()["bytes"].sum()


def test_the_u_shape_sends_two_cuts_both_ways():
    fed, _ = crossing("split(cut=1, tail=1)", rounds=1)
    model, samples = fed.execution.engine.flat.model.eval(), sum(cost.samples for cost in fed.round_log.costs.values())
    first = model[:1](torch.zeros(1, *fed.partition.cases.shape))
    second = model[1:-1](first)
    totals = fed.ledger.frame().groupby(["direction", "what"])["bytes"].sum()
    crossed = {("up", "activations"): first, ("down", "gradients"): first}
    crossed |= {("down", "features"): second, ("up", "gradients"): second}
    for (direction, what), cut in crossed.items():
        assert totals[direction, what] == 4 * cut.numel() * samples


def test_the_published_cuts_of_the_resnet():
    """Floats a case at each cut of the ResNet-18 for 28 x 28 images."""
    net, x = build("resnet18", (3, 28, 28), 5, seed=0).eval(), torch.zeros(1, 3, 28, 28)
    floats = [net[:cut](x).numel() for cut in range(1, len(net))]
    assert floats == [50_176, 50_176, 25_088, 12_544, 8_192, 512]


def test_hand_over_through_the_server_costs_a_trip_more():
    peer, server = (crossing(f"split(handover={way!r})", rounds=2)[0] for way in ("peer", "server"))
    weights = server.ledger.frame().query("what == 'weights'").groupby("direction")["messages"].sum()
    assert weights.to_dict() == {"down": 8, "up": 7}  # the first institution gets the initial weights
    assert peer.ledger.frame().query("what == 'weights'")["messages"].sum() == 8
    assert server.channel.path.messages > peer.channel.path.messages


def test_what_arrives_leads_back_to_nothing():
    """A message is a copy: no shared memory, no graph; writing on it changes nothing at the sender."""
    fed = federation()
    sent = torch.ones(3, requires_grad=True) * 2
    arrived = fed.channel.send_tensor(sent, 0, "up", "activations")
    arrived.add_(5)
    assert not arrived.requires_grad and arrived.grad_fn is None
    assert sent.tolist() == [2, 2, 2] and arrived.data_ptr() != sent.data_ptr()


def test_the_sides_share_no_memory_and_know_nothing_of_each_other():
    fed = federation()
    halves = SplitModel(fed, 2)
    mine, theirs = halves._client, halves._server
    places = [{p.data_ptr() for p in side.flat.model.parameters()} for side in (mine, theirs)]
    assert not places[0] & places[1] and fed.execution.engine.flat.vector.data_ptr() not in places[0] | places[1]
    assert not any(isinstance(value, split_model.SplitPart) for side in (mine, theirs) for value in vars(side).values())


@pytest.mark.parametrize("protocol", [split_model.vanilla, split_model.u_shaped])
def test_a_wire_that_lets_nothing_through_leaves_nothing_to_learn_from(protocol):
    """With zeros instead of every message the server's gradient is the same for all images and labels, and the
    first stages get none."""
    fed = federation()
    halves = SplitModel(fed, 1, int(protocol is split_model.u_shaped))
    found = []
    for shift in (0, 1):
        halves._client.load(extract(fed.start, halves.client))
        halves._server.load(extract(fed.start, halves.server))
        rows = fed.execution.dataset.rows(fed.sites[shift].batches.index[:8])
        images, labels = fed.execution.dataset.images(rows), (fed.execution.dataset.targets[rows] + shift) % 2
        protocol(
            halves._client, halves._server, images, labels, fed.task, lambda t, direction, what: torch.zeros_like(t)
        )
        halves._client.flat.collect_gradients(), halves._server.flat.collect_gradients()
        found.append(halves._server.flat.gradient.clone())
        front = halves._client.flat.layout.spans[0][0]
        assert not halves._client.flat.gradient[: front.stop - front.start].any()
    assert torch.equal(*found)


def test_parallel_institutions_wait_for_the_slowest_and_turns_add_up():
    side_by_side, turns = (crossing(method, rounds=1)[0].channel.path for method in ("splitfed", "split"))
    assert side_by_side.steps == 3 and turns.steps == 12
    assert side_by_side.messages == 2 * 3 + 2 and turns.messages == 2 * 12 + 4


# -- parts of a model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CNN, "resnet18", "logistic"])
def test_parts_put_together_are_the_whole(model):
    fed = federation(partition(data=cases(152, (1, 32, 32))), model)
    count = len(fed.execution.engine.flat.model)
    stacked = fed.start.expand(2)
    for cut in sorted({1, count // 2, count - 1} - {0}):
        for tail in sorted({0, (count - cut) // 2}):
            back = count - tail
            inner, outer = stage_layout(fed.layout, ((cut, back),)), stage_layout(fed.layout, ((0, cut), (back, count)))
            assert same(join([extract(fed.start, outer), extract(fed.start, inner)], fed.layout), fed.start)
            assert same(join([extract(stacked, inner), extract(stacked, outer)], fed.layout), stacked)
            assert inner.parameters + outer.parameters == fed.layout.parameters


OUTSIDE = {
    **{(cut, 0): "a cut from 1 to 3" for cut in (0, 4, -1, 99)},
    (3, 1): "a cut from 1 to 2",
    (1, 3): "a tail from 0 to 2",
    (1, -1): "a tail from 0 to 2",
}


@pytest.mark.parametrize("cut,tail", OUTSIDE)
def test_a_cut_outside_the_model_is_refused_with_those_inside(cut, tail):
    fed = federation()
    message = rf"cut={cut}, tail={tail} lies outside the model, which has 4 stages: choose {OUTSIDE[cut, tail]}"
    if cut < 1 or tail < 0:
        message = f"{'cut' if cut < 1 else 'tail'}={min(cut, tail)}: give a whole number of at least"
    with pytest.raises(ValueError, match=message):
        last(f"split(cut={cut}, tail={tail})", fed)
    with pytest.raises(ValueError, match=r"cut=1\.5: give a whole number of at least 1"):
        last("split(cut=1.5)", fed)
    assert not fed.round_log.costs


def test_a_model_without_stages_cannot_be_cut():
    from fedlab.core.stages import stage_of

    with pytest.raises(ValueError, match=r"no sequence of stages .*nn\.Sequential"):
        stage_of("encoder.weight")


def test_divergence_at_one_side_names_site_and_round():
    with pytest.raises(RuntimeError, match=r"Site A, round 1: training diverged"):
        last("split", federation(lr=1e30, local_steps=4))


def test_a_batch_of_one_is_explained(tmp_path):
    part_ = fedlab.partition(cases(24, shape=(1, 8, 8)), 2)
    experiment = fedlab.Experiment(model="resnet18", batch_size=1, method="split(cut=3)", rounds=1, device="cpu")
    with pytest.raises(ValueError, match=r"Site A, Site B, round 1.*larger `batch_size`"):
        fedlab.run(experiment, part_, folder=tmp_path)


def test_every_round_of_split_learning_is_evaluated_whole():
    fed = federation(rounds=2)
    for outcome in start("split(cut=1, tail=1)", fed):
        assert outcome.models["global"].layout is fed.layout
    assert set(ends("splitfed(version=3)", federation())) == {"global"}


@pytest.mark.parametrize(
    "rule", ["median", "trimmed(0.25)", "krum(f=0)", "multikrum(f=0, c=2)", "geomedian", "clipped(0.05)"]
)
def test_robust_rules_judge_the_whole_model_of_splitfed(rule):  # O31
    """Halves are put together before they are merged: fedavg, and lg_fedavg, with that rule, bit for bit."""
    fedavg, splitfed = (last(method, federation(aggregate=rule)) for method in ("fedavg", "splitfed"))
    assert same(fedavg, splitfed)
    own, third = (at_sites(m, federation(aggregate=rule)) for m in ("lg_fedavg(cut=2)", "splitfed(version=3, cut=2)"))
    assert same(own, third)


@pytest.mark.parametrize("method", ["moon", "split", "splitfed", "fedper"])
def test_a_model_that_is_no_sequence_is_refused_by_what_cuts_it(method):
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.out = torch.nn.Flatten(), torch.nn.Linear(144, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.flat(x))

    def whole_net(shape: tuple[int, ...], outputs: int) -> torch.nn.Module:
        """One piece."""
        return Net()

    MODELS.add(whole_net)
    try:
        assert torch.isfinite(last("fedavg", federation(model="whole_net")).vector).all()
        with pytest.raises(ValueError, match=r"no sequence of stages.*register it as an nn\.Sequential"):
            last(method, federation(model="whole_net"))
    finally:
        MODELS.remove("whole_net")
