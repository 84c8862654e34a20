"""What others see: hooks are called with every message that crosses, and the ledger counts exactly those."""

import pytest
import torch
from worlds import federation, last, partition, same

import fedlab
from fedlab.algorithms import METHODS, start
from fedlab.core import stages
from fedlab.experiments.no_effect import unused_settings
from fedlab.federation import secure_aggregation

SETTINGS = {
    "moments shared, malicious, faults": {
        "momentum": 0.9, "local_optimizer": "share", "attack": "gaussian", "availability": 0.6, "failures": 0.2,
        "seed": 3,
    },
    "moments travel, fedbn, float64": {"batchnorm": "fedbn", "momentum": 0.9, "precision": "float64"},
    "secure, fedbn": {"secure_sum": True, "batchnorm": "fedbn", "availability": 0.7},
}  # fmt: skip
FAULTS, *OTHERS = SETTINGS
IN_CLEAR = {
    "scaffold": "the control variate of each",
    "fednova": "how much gradient each took in",
    "qfedavg(q=1.0)": "the loss of each",
    "afl": "the loss of each",
    "feddyn(release='all')": "the latest model of each",
    "ensemble": "the model of each",
}
VARIANTS = [
    *("split(tail=1)", "split(turns='batch', handover='server')", "splitfed(version=2, tail=1)", "splitfed(version=3)"),
    *("swarm(leader_failure=0.4)", "swarm(sync=1)", "gossip('matching')", "cyclic(recalibrate=True)"),
]


def crossing(method: str, **changes):
    """The federation after training, and every message that crossed."""
    fed, seen = federation(**changes), []
    fed.channel.hooks.append(seen.append)
    last(method, fed)
    return fed, seen


@pytest.mark.every_method
@pytest.mark.parametrize(
    ("method", "setting"),  # each method with faults and one of the others in turn
    [
        (method, setting)
        for number, method in enumerate([*METHODS, *VARIANTS])
        for setting in (FAULTS, OTHERS[number % len(OTHERS)])
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_ledger_counts_what_hooks_see(method, setting):  # O55
    if "secure" in setting and ("leader_failure" in method or method in IN_CLEAR or f"{method}(q=1.0)" in IN_CLEAR):
        pytest.skip("refuses a secure sum")
    fed, seen = crossing(method, local_steps=2, **SETTINGS[setting])
    totals = fed.ledger.frame().groupby(["site", "direction", "other", "what"])[["bytes", "messages"]].sum()
    found: dict[tuple, list[int]] = {}
    for message in seen:
        row = found.setdefault((message.site, message.direction, message.other, message.what), [0, 0])
        row[0], row[1] = row[0] + message.nbytes, row[1] + 1
    assert found == {key: [row["bytes"], row["messages"]] for key, row in totals.to_dict("index").items()}
    assert all(message.nbytes > 0 for message in seen)


@pytest.mark.parametrize("secret", ["weights", "moments"])
@pytest.mark.parametrize("method", ["fedavg", "splitfed", "swarm", "fedper"])
def test_each_site_sends_its_own(method, secret):
    """No two sites send the same, neither what they learnt nor what their optimizer knows."""
    _, seen = crossing(method, rounds=1, momentum=0.9, local_optimizer="share")
    what = {"weights": "weights", "moments": "optimizer state"}[secret]
    gave = [m for m in seen if m.what == what and (m.direction == "up" or method == "swarm")]
    sent = [m.tensors[0] for m in gave[: 3 if method == "swarm" else 4]]
    if secret == "moments" and method in ("swarm", "splitfed"):
        assert not sent  # they have a policy of their own
        return
    assert len(sent) >= 3 and not any(torch.equal(a, b) for i, a in enumerate(sent) for b in sent[:i])


def test_moments_come_back_as_the_mean_of_what_was_sent():
    fed, seen = crossing("fedavg", rounds=2, momentum=0.9, local_optimizer="share")
    state = [m for m in seen if m.what == "optimizer state"]
    up = torch.stack([m.tensors[0] for m in state if m.direction == "up" and m.round == 1]).double()
    down = next(m.tensors[0] for m in state if m.direction == "down" and m.round == 2)
    assert torch.allclose((torch.as_tensor(fed.shares)[:, None, None] * up).sum(0).float(), down, atol=1e-7)


def test_moments_of_what_stays_are_the_sites_own():
    """With personal heads: what is averaged is the base's; a head's momentum is what its site's steps made of it."""
    fed = federation(rounds=2, momentum=0.9, local_optimizer="share")
    last("fedper", fed)
    head = stages.head(fed.layout, 1)[: fed.layout.trained]
    at = [fed.optimizers.load(fed.start, k).moments[0] for k in range(4)]
    assert all(torch.equal(at[0][~head], each[~head]) for each in at[1:])
    assert not any(torch.equal(at[0][head], each[head]) for each in at[1:])
    kept = federation(rounds=2, momentum=0.9, local_optimizer="keep")
    last("lg_fedavg(cut=99)", kept)  # all of it stays: "share" and "keep" are the same
    shared = federation(rounds=2, momentum=0.9, local_optimizer="share")
    last("lg_fedavg(cut=99)", shared)
    for k in range(4):
        assert torch.equal(kept.optimizers.states[str(k)][0], shared.optimizers.load(shared.start, k).moments)


def test_moments_of_what_stays_do_not_travel():
    """A travelling model with each site's own normalisation begins there with no momentum for it."""
    fed = federation(rounds=1, momentum=0.9, batchnorm="fedbn")
    s = fed.memory(w=fed.start)
    now = next(fed.rounds(s))
    first = fed.fit(fed.hand_over(fed.start, to=0), now, at=0, keep_optimizer=True)
    second = fed.hand_over(first, to=1)
    norm = fed.layout.mask("batchnorm")[: fed.layout.trained]
    assert first.moments[0, norm].any() and not second.moments[0, norm].any()
    assert torch.equal(first.moments[0, ~norm], second.moments[0, ~norm])


@pytest.mark.parametrize("method", ["fedavg", "swarm"])
def test_what_a_malicious_site_sends_is_what_crosses(method):
    """The last site turns its update round: the wire carries that to server or leader, not what it learnt."""
    sent = []
    for attack in ("none", "signflip"):
        fed, seen = crossing(method, rounds=1, attack=attack, seed=1)
        leader = next((site for _, site, event, _ in fed.round_log.events if event == "leader"), None)
        assert leader != "Site D"
        merged = [m for m in seen if (m.direction == "up" if leader is None else m.site == leader)]
        sent.append({m.site if leader is None else m.other: m.tensors[0] for m in merged})
    honest, malicious = ({name: t[: fed.layout.parameters].double() for name, t in each.items()} for each in sent)
    start = fed.start.numbers[: fed.layout.parameters].double()
    assert torch.allclose(malicious["Site D"] - start, start - honest["Site D"], atol=1e-6)
    assert len(honest) >= 3 and all(torch.equal(honest[name], malicious[name]) for name in honest if name != "Site D")


@pytest.mark.parametrize("method", ["fedper(personal=99)", "lg_fedavg(cut=99)"])
def test_where_nothing_leaves_nothing_is_written_down(method):
    count = len(federation().execution.engine.flat.model)
    known = {"fedper(personal=99)": "fedper(personal=3)", "lg_fedavg(cut=99)": f"lg_fedavg(cut={count})"}
    fed, seen = crossing(known[method], batchnorm="group", rounds=2)
    assert bool(fed.private.mask[fed.layout.occupied].all()) and not seen and fed.ledger.frame().empty
    assert (fed.channel.path.messages, fed.channel.path.bytes, fed.channel.path.steps) == (0, 0, 3)


# -- secure sums -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision,width", [("float32", torch.int32), ("float64", torch.int64)])
@pytest.mark.parametrize("method", ["fedavg", "fedprox(mu=0.1)", "fedbn", "fedper", "splitfed"])
def test_a_secure_sum_shows_noise_that_adds_up(method, precision, width):
    """What crosses are integers, as many bytes as weights; their sum modulo 2^bits is the update, and no addend is."""
    fed, seen = crossing(method, rounds=1, precision=precision, secure_sum=True)
    up = [m for m in seen if (m.direction, m.what) == ("up", "weights")]
    assert len(up) == 4 and all(m.tensors[0].dtype == width for m in up)
    assert sum(m.nbytes for m in seen) == fed.ledger.frame()["bytes"].sum()
    bits, after = secure_aggregation.FRACTION[fed.start.vector.dtype]
    total = secure_aggregation.centred(sum(m.tensors[0].to(torch.int64) for m in up), bits).double() / 2.0**after
    plain = federation(rounds=1, precision=precision)
    w = [m for m in crossing(method, rounds=1, precision=precision)[1] if (m.direction, m.what) == ("up", "weights")]
    down = next(m.tensors[0] for m in seen if (m.direction, m.what) == ("down", "weights")).double()
    moved = sum(p * (m.tensors[0].double() - down) for p, m in zip(plain.shares, w, strict=True))
    assert (total - moved).abs().max() <= 4 * 2.0 ** -(after + 1) + 1e-6 * (precision == "float32")
    for m, p, honest in zip(up, plain.shares, w, strict=True):
        own = (p * (honest.tensors[0].double() - down) * 2.0**after).round()
        equal = (secure_aggregation.centred(m.tensors[0].to(torch.int64), bits).double() - own).abs() < 1
        assert equal.double().mean() < 0.01


def test_a_swarm_can_add_up_in_secret():
    fed, seen = crossing("swarm", rounds=1, secure_sum=True)
    to_leader = [m for m in seen if m.tensors[0].dtype == torch.int32]
    assert len(to_leader) == 3 and len({m.site for m in to_leader}) == 1
    assert len(seen) == 6 and fed.ledger.frame()["messages"].sum() == 6


@pytest.mark.parametrize("method", IN_CLEAR)
def test_methods_that_must_see_single_sites_refuse_a_secure_sum(method):
    message = f"secure_sum=True hides what single sites send, of which {method!r} must see {IN_CLEAR[method]}"
    for attempt in (
        lambda: fedlab.Experiment(method=method, secure_sum=True),
        lambda: start(method, federation(secure_sum=True)),
    ):
        with pytest.raises(ValueError) as caught:
            attempt()
        assert message in str(caught.value)
    fedlab.Experiment(method=method)


@pytest.mark.every_method
@pytest.mark.parametrize("method", [m for m in METHODS if m not in {text.split("(")[0] for text in IN_CLEAR}])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_with_a_secure_sum_nothing_of_a_single_site_goes_up_in_the_clear(method):
    """Whoever accepts the setting and sends models to a server or leader sends integers, or says that it has no sum."""
    fed, seen = crossing(method, rounds=1, secure_sum=True)
    if fed.server.merged and not unused_settings(fed):
        up = [m for m in seen if m.direction == "up" and m.what not in ("activations", "labels", "gradients")]
        assert all(not m.tensors[0].is_floating_point() for m in up)


def test_a_secure_sum_of_nothing_is_nothing():
    assert len(secure_aggregation.encode(torch.zeros(0, dtype=torch.float64), 20)) == 0
    a, b = (federation(secure_sum=flag, precision="float64", batchnorm="group", rounds=1) for flag in (True, False))
    assert not same(last("feddyn", a), b.start) and torch.isfinite(last("feddyn", b).vector).all()


def test_masks_serve_one_merge():
    """A swarm merges several times a round: what a peer sends twice tells nothing of how its model changed."""
    _, seen = crossing("swarm(sync=1)", secure_sum=True, rounds=1, local_steps=2, batchnorm="group")
    sent: dict[str, list] = {}
    for m in seen:
        if m.tensors[0].dtype == torch.int32:
            sent.setdefault(m.other, []).append(m.tensors[0].to(torch.int64))
    pairs = [(secure_aggregation.centred(a[1] - a[0], 32).double() / 2**20).abs() for a in sent.values() if len(a) == 2]
    assert pairs and all(apart.median() > 100 for apart in pairs)  # noise over a ring of -2048 .. 2048


@pytest.mark.parametrize("method", ["fedavg", "swarm(min_peers=1)", "fedper"])
def test_who_would_be_alone_in_a_sum_sends_nothing(method):
    fed, seen = crossing(method, secure_sum=True, availability=[1.0, 0.0, 0.0, 0.0], rounds=2)
    assert not [m for m in seen if m.direction in ("up", "peer")]
    assert {event for *_, event, _ in fed.round_log.events} & {"nothing merged", "no quorum"}
    with pytest.raises(ValueError, match="secure_sum=True with one site: a sum of one update is that update"):
        federation(partition(sizes=(24,)), secure_sum=True)


def test_leaders_that_fail_cannot_add_up_in_secret():
    with pytest.raises(ValueError, match="masks serve a single leader, so set leader_failure=0"):
        last("swarm(leader_failure=0.2)", federation(secure_sum=True))


def test_a_malicious_sites_noise_is_new_in_every_merge():
    """Gaussian attack on a swarm that merges three times a round: no two messages of the malicious peer are equal."""
    _, seen = crossing("swarm(sync=1)", attack="gaussian", rounds=1, seed=1)
    size = federation().layout.parameters
    start = federation(seed=1).start.numbers[:size]
    sent = [m.tensors[0][:size] for m in seen if m.other == "Site D" and (m.tensors[0][:size] - start).std() > 0.5]
    assert len(sent) >= 2
    assert all((a - b).abs().mean() > 0.1 for i, a in enumerate(sent) for b in sent[:i])
