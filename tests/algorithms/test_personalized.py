"""Personalized methods: what stays at a site stays, what is shared is shared, and limiting cases are exact."""

import warnings
from dataclasses import replace

import pytest
import torch
from worlds import CNN, at_sites, ends, federation, last, partition, same

import fedlab
from fedlab.algorithms import start
from fedlab.core import stages
from fedlab.learning.models import build

RESNET = "resnet18"


def head(fed, personal: int = 1) -> torch.Tensor:
    return stages.head(fed.layout, personal)


# -- ditto, apfl, fine-tuning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.1, 2.0])
def test_the_shared_path_of_ditto_is_fedavg(lam, precision):  # O22
    a, b = (federation(precision=precision, momentum=0.9) for _ in range(2))
    assert same(last(f"ditto(lam={lam})", a), last("fedavg", b))


def test_ditto_without_pull_is_local_training_beside_it(precision):  # O22
    for momentum in (0.0, 0.9):
        a, b = (federation(precision=precision, momentum=momentum, rounds=3) for _ in range(2))
        assert same(ends("ditto(lam=0)", a)["local"].without_moments(), last("local", b))


def test_a_stronger_pull_brings_personal_models_nearer():
    distances = []
    for lam in (0.0, 1.0, 10.0):
        models = ends(f"ditto(lam={lam})", federation(rounds=4, local_steps=8, batchnorm="group"))
        distances.append(float((models["local"].parameters - models["global"].parameters).norm(dim=1).mean()))
    assert distances == sorted(distances, reverse=True)


def test_personal_models_of_absent_sites_rest():
    fed = federation(rounds=3, availability=[1.0, 0.0, 1.0, 1.0])
    for method in ("ditto", "apfl", "pfedme"):
        models = ends(method, federation(rounds=3, availability=[1.0, 0.0, 1.0, 1.0]))
        assert torch.equal(models["local"].vector[1], fed.start.vector), method


def test_a_mixture_of_nothing_personal_is_fedavg(precision):  # O25
    """alpha = 0: the shared path is fedavg's, and each personal model is the site's own copy of it after training."""
    a, b = (federation(precision=precision, rounds=2) for _ in range(2))
    models = ends("apfl(alpha=0.0, adaptive=False)", a)
    s = b.memory(w=b.start)
    for r in b.rounds(s):
        back = b.fit(b.broadcast(s.w), r)
        s.w = b.merge(s.w, b.gather(back))
    assert same(models["global"], s.w) and torch.equal(models["local"].vector, back.vector)


def test_a_mixture_of_nothing_shared_is_local_training(precision):  # O25
    a, b = (federation(precision=precision, rounds=3) for _ in range(2))
    models = ends("apfl(alpha=1.0, adaptive=False)", a)
    found, wanted = models["local"].vector, last("local", b).vector
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12 if precision == "float64" else 2e-6)


def test_the_mixture_of_the_formula(monkeypatch):
    """alpha, v and w of one step by hand, on quadratics."""
    import numpy as np
    from quadratics import Quadratics

    q = Quadratics(monkeypatch, rounds=2, lr=0.2)
    w, v, alpha = np.zeros(5), np.zeros((4, 5)), np.full(4, 0.5)
    for _ in range(2):
        new = []
        for k in range(4):
            slope = q.gradient(k, alpha[k] * v[k] + (1 - alpha[k]) * w)
            towards, before = (v[k] - w) @ slope, alpha[k]
            v[k] = v[k] - 0.2 * before * slope
            alpha[k] = np.clip(before - 0.2 * towards, 0, 1)
            new.append(w - 0.2 * q.gradient(k, w))
        w = q.p @ np.array(new)
    models = ends("apfl", q.fed)
    assert np.abs(models["global"].numbers.numpy() - w).max() < 1e-14
    assert np.abs(np.array(q.fed.schedule.state.alpha) - alpha).max() < 1e-14
    expected = alpha[:, None] * v + (1 - alpha[:, None]) * np.array(new)
    assert np.abs(models["local"].numbers.numpy() - expected).max() < 1e-14


def test_fine_tuning_starts_from_the_shared_model_and_leaves_it(precision):
    a, b = (federation(precision=precision, rounds=2) for _ in range(2))
    models = ends("finetune(steps=4)", a)
    assert same(models["global"], last("fedavg", b))
    expected = b.fit(models["global"].expand(4), b.schedule.context, steps=4, private=True)
    assert torch.equal(models["local"].vector, expected.vector)


def test_fine_tuning_happens_only_where_it_is_looked_at():
    fed = federation(rounds=5, evaluate_every=2)
    seen = [set(outcome.models) for outcome in start("finetune", fed)]
    assert seen == [{"global"}, {"global", "local"}, {"global"}, {"global", "local"}, {"global", "local"}]


# -- parts that stay -------------------------------------------------------------------------------------------------

NOTHING_STAYS = ["fedper(personal=0)", "lg_fedavg(cut=0)", "fedrep(personal=0, head_epochs=0)"]


@pytest.mark.parametrize("method", NOTHING_STAYS)
def test_an_empty_personal_part_is_fedavg(method, precision):  # O23
    a, b = (federation(precision=precision) for _ in range(2))
    assert same(last(method, a), last("fedavg", b))


@pytest.mark.parametrize("method", ["fedper(personal=3)", "lg_fedavg(cut=9)"])
def test_everything_personal_is_local_training(method, precision):  # O23
    a, b = (federation(precision=precision) for _ in range(2))
    assert same(at_sites(method, a), last("local", b))
    assert a.ledger.frame()["bytes"].sum() == 0


@pytest.mark.parametrize("method", ["fedbn", "fedavg"])
@pytest.mark.parametrize("policy", ["fedbn", "silobn", "params_only"])
def test_without_normalisation_layers_its_policies_are_fedavg(method, policy, precision):  # O23
    a, b = (federation(model="logistic", precision=precision, batchnorm=each) for each in (policy, "avg"))
    assert same(last(method, a), last("fedavg", b))


def test_the_method_fedbn_is_the_policy_fedbn(precision):
    a, b = federation(precision=precision), federation(precision=precision, batchnorm="fedbn")
    assert same(at_sites("fedbn", a), at_sites("fedavg", b))
    assert a.ledger.rows == b.ledger.rows


PARTS = {  # method -> which coordinates of the model stay at a site
    "fedbn": lambda fed: fed.layout.mask("batchnorm", "mean", "variance"),
    "fedper": lambda fed: head(fed),
    "fedper(personal=2)": lambda fed: head(fed, 2),
    "fedrep": lambda fed: head(fed),
    "lg_fedavg": lambda fed: stages.mask(fed.layout, 0, 1),
    "lg_fedavg(cut=2)": lambda fed: stages.mask(fed.layout, 0, 2),
}


@pytest.mark.parametrize("method", PARTS)
def test_shared_coordinates_agree_and_personal_ones_are_the_sites_own(method, precision):  # O24
    fed = federation(precision=precision)
    seen, stays = at_sites(method, fed).vector, PARTS[method](fed)
    assert stays.any() and not stays.all()
    assert all(torch.equal(seen[0, ~stays], row[~stays]) for row in seen)
    assert not any(torch.equal(seen[0, stays], row[stays]) for row in seen[1:])


@pytest.mark.parametrize("method", PARTS)
def test_only_the_shared_part_crosses(method):  # O55
    fed = federation(rounds=1)
    last(method, fed)
    stays = PARTS[method](fed)
    counts = 0 if bool(stays[fed.layout.trained :].any()) else 8 * len(fed.layout.counters)
    assert set(fed.ledger.frame()["bytes"]) == {4 * int((~stays & fed.layout.occupied).sum()) + counts}


@pytest.mark.parametrize("method", ["fedper", "lg_fedavg", "fedrep", "fedbn"])
def test_what_stays_is_untouched_by_the_others(method):  # O24
    """Other data at other sites: as long as the shared part is what it was, the personal one of site A is, too."""
    from dataclasses import replace

    from fedlab.data.cases import Cases

    part = partition()
    images = part.cases.images.copy()
    images[part.index("Site D", "train")] = 255 - images[part.index("Site D", "train")]
    other = replace(part, cases=Cases(images, part.cases.table, part.cases.card))
    for rounds, equal in ((1, True), (2, False)):  # in the second round the shared part carries D's data to A
        first, second = (federation(p, rounds=rounds) for p in (part, other))
        stays = PARTS[method](first)
        a, b = at_sites(method, first), at_sites(method, second)
        assert torch.equal(a.vector[0, stays], b.vector[0, stays]) == equal
        assert not torch.equal(a.vector[3, stays], b.vector[3, stays])


def test_fedrep_trains_the_head_first_then_the_base():
    """In a round of eleven steps ten are the head's and one is the base's; what rests does not move, statistics too."""
    fed = federation(local_steps=11, rounds=1)
    s = fed.memory(w=fed.start)
    mask = head(fed)
    for r in fed.rounds(s):
        headed = fed.fit(fed.broadcast(s.w), r, part=(0.0, 10 / 11), frozen=~mask)
        assert (fed.trainer.steps == 10).all()
        assert all(torch.equal(row[~mask], fed.start.vector[~mask]) for row in headed.vector)
        assert not torch.equal(headed.vector[0, mask], fed.start.vector[mask])
        back = fed.fit(headed, r, part=(10 / 11, 1.0), frozen=mask)
        assert (fed.trainer.steps == 1).all() and torch.equal(back.vector[:, mask], headed.vector[:, mask])
    assert torch.equal(at_sites("fedrep", federation(local_steps=11, rounds=1)).vector[0, mask], headed.vector[0, mask])


def test_fedrep_shares_out_the_same_batches_as_other_methods():
    fed, plain = (federation(local_steps=11, rounds=2) for _ in range(2))
    last("fedrep", fed), last("fedavg", plain)
    for site in fed.names:
        one, other = (each.round_log.costs[site] for each in (fed, plain))
        assert (one.steps, one.samples) == (other.steps, other.samples)


@pytest.mark.parametrize("model", [CNN, "small_cnn(width=4, depth=2, projection=6)", "resnet18"])
def test_heads_are_the_last_stages_with_parameters(model):
    from fedlab.core.weights import Layout

    net = build(model, (1, 32, 32), 2, seed=0)
    layout = Layout.of(net)
    last_stage = len(net) - 1
    found = stages.head(layout, 1)
    assert torch.equal(found, stages.mask(layout, last_stage, last_stage + 1)) and found.any()


def test_an_unseen_site_gets_the_mean_of_personal_parts(tmp_path):
    """What `fed.keep_local` names is averaged for an institution that took no part; nothing else could be offered."""
    from dataclasses import replace

    part = replace(partition(), unseen=("Site D",))
    experiment = fedlab.Experiment(model=CNN, rounds=2, local_steps=2, method="fedper", device="cpu")
    run = fedlab.run(experiment, part, folder=tmp_path)
    own = [run.weights(site) for site in ("Site A", "Site B", "Site C")]
    name = next(key for key in run.weights("global") if key.startswith("3."))
    sizes = torch.tensor([24.0, 40.0, 16.0]) / 80
    mean = sum(p * state[name] for p, state in zip(sizes, own, strict=True))
    assert torch.allclose(run.weights("global")[name], mean, atol=1e-6)
    assert set(run.predictions.query("split == 'unseen'")["model"]) >= {"global"}


def test_global_and_personal_models_are_judged_apart(tmp_path):
    experiment = fedlab.Experiment(model=CNN, rounds=2, local_steps=2, device="cpu")
    runs = fedlab.grid(experiment, partition=partition(), folder=tmp_path, method=["fedavg", "ditto", "finetune"])
    own, shared = (fedlab.compare(runs, use=which) for which in ("own", "global"))
    values = {
        which: frame.set_index(["method", "site"])["value"] for which, frame in (("own", own), ("global", shared))
    }
    for method in ("ditto", "finetune"):
        assert values["global"][method].equals(values["global"]["fedavg"])
        assert not values["own"][method].equals(values["own"]["fedavg"])
    with pytest.raises(ValueError, match="use='globl'"):
        fedlab.compare(runs, use="globl")


def test_personal_models_travel_in_the_transfer_matrix(tmp_path):
    experiment = fedlab.Experiment(model=CNN, rounds=2, local_steps=2, device="cpu", method="ditto")
    run = fedlab.run(experiment, partition(), folder=tmp_path)
    tested = run.predictions.query("split == 'test' and choice == 'last'")
    assert set(tested["model"]) == {"global", "Site A", "Site B", "Site C", "Site D"}
    assert tested.groupby("model")["site"].nunique().eq(4).all()


def test_personal_parts_survive_a_merge_by_krum():
    """A robust rule picks one site's shared part; every site keeps its own head."""
    fed = federation(aggregate="krum(f=0)")
    seen, stays = at_sites("fedper", fed).vector, head(fed)
    assert not torch.equal(seen[0, stays], seen[1, stays]) and torch.equal(seen[0, ~stays], seen[1, ~stays])
    chosen = [fed.round_log.numbers[name, "influence"] for name in fed.names]
    assert sorted(chosen) == [0, 0, 0, 1]


@pytest.mark.parametrize("rule", ["krum(f=0)", "geomedian", "clipped(0.01)"])
def test_robust_rules_do_not_see_what_stays_at_sites(rule):
    """Personal heads, however far apart, decide nothing of the shared part: the server never has them."""
    models = []
    for spread in (0.0, 10.0):
        fed = federation(aggregate=rule, rounds=1)
        personal = head(fed)
        fed.keep_local(personal)
        now = first_round(fed)
        back = fed.fit(fed.broadcast(fed.start), now)
        noise = spread * torch.randn(back.vector.shape, generator=torch.Generator().manual_seed(0)).to(back.vector)
        moved = replace(back, vector=torch.where(personal, back.vector + noise, back.vector))
        arrived = fed.gather(moved)
        assert (arrived.vector[:, personal] == fed.start.vector[personal]).all()
        models.append(fed.merge(fed.start, arrived).vector)
    assert torch.equal(*models) and not torch.equal(models[0], fed.start.vector)


def first_round(fed):
    """The first round of a federation that no method drives."""
    return next(fed.rounds(fed.memory(w=fed.start)))


def test_a_head_that_would_never_train_is_warned_of():
    with pytest.warns(
        UserWarning, match="fedrep: 91% of a round's steps are none at Site A, Site B.*lower head_epochs"
    ):
        last("fedrep", federation(local_steps=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last("fedrep", federation(local_steps=2))
        last("fedrep(head_epochs=0)", federation(local_steps=1))


def test_a_head_that_shares_its_optimizer_with_nobody_keeps_it_within_the_round():
    """The base is trained after the head: the head's momentum is still there at the end."""
    for policy in ("keep", "share"):
        fed = federation(rounds=1, momentum=0.9, local_optimizer=policy, local_steps=12)
        last("fedrep(head_epochs=1)", fed)
        personal = head(fed)[: fed.layout.trained]
        assert all(fed.optimizers.load(fed.start, k).moments[0, personal].any() for k in range(4)), policy


def test_stragglers_shorten_head_and_base_alike():
    """Half of the steps is half of the head's and half of the base's."""
    slow = federation(rounds=1, local_steps=20, stragglers=1.0, seed=1)
    now = first_round(slow)
    for k, share in now.participants.work.items():
        most = max(1, int(20 * share))
        parts = [slow.trainer.step_range(slow.sites[k], k, now, part=part) for part in ((0.0, 0.75), (0.75, 1.0))]
        assert parts == [(0, int(0.75 * most)), (int(0.75 * most), most)]
    assert len(now.participants.work) == 4


def test_weight_decay_reaches_pfedme_with_every_optimizer():
    for optimizer in ("sgd", "adam", "adamw"):
        a, b = (last("pfedme", federation(optimizer=optimizer, weight_decay=d, lr=0.01)) for d in (0.0, 1.0))
        assert not same(a, b), optimizer
