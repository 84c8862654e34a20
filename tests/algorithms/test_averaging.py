"""Identities of the averaging family: what must agree does so bit for bit or to rounding, what must differ differs.

The numbers O1, O2, ... are those of the oracles that the methods' mathematics fixes.
"""

import warnings

import numpy as np
import pytest
import torch
from worlds import at_sites, cases, ends, error, federation, last, partition, repeated, same

from fedlab.algorithms.formulas import Contrast, accumulated, simplex
from fedlab.core.warnings import UnstableWarning
from fedlab.federation.local_training import Features

BN_FREE = {"batchnorm": "group"}
ONE_STEP = {"batch_size": None, "local_steps": 1, "rounds": 10, **BN_FREE}
PROJECTED = "small_cnn(width=4, depth=2, projection=5)"


def twins(**changes):
    return federation(**changes), federation(**changes)


def relabelled(**changes):
    """The same four sites under other names."""
    names = (["Site A", "Site B", "Site C", "Site D"], ["Site D", "Site B", "Site A", "Site C"])
    return (federation(partition(names=each), **changes) for each in names)


# -- fedavg ----------------------------------------------------------------------------------------------------------


def test_fedavg_with_one_full_batch_step_is_gradient_descent(precision, tolerance):  # O1
    a, b = twins(**ONE_STEP, precision=precision)
    assert error(last("fedavg", a), last("centralized", b)) < tolerance


def test_uniform_weights_are_not_gradient_descent(precision):  # O2
    a, b = twins(**ONE_STEP, precision=precision, lr=0.5)
    assert error(last("fedavg(weighting='uniform')", a), last("centralized", b)) > 1e-3


def test_fedavg_of_one_site_is_local_training(precision):  # O3
    a, b = (federation(partition(sizes=(30,)), precision=precision) for _ in range(2))
    assert same(last("fedavg", a), last("local", b)[0])


def test_the_order_of_sites_never_matters(precision):  # O6
    a = partition((24, 40, 16, 8), ["Site A", "Site B", "Site C", "Site D"])
    b = type(a).from_sites(a.cases, a.table.sample(frac=1, random_state=0))
    first, second = (federation(part, precision=precision) for part in (a, b))
    assert same(last("fedavg", first), last("fedavg", second))


RELABELLED = [
    *("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox(mu=1)", "scaffold", "scaffold(option=1)"),
    *(
        "fednova",
        "feddyn",
        "moon",
        "fedsam",
        "qfedavg",
        "afl",
        "fedrep",
        "ditto",
        "apfl",
        "pfedme",
        "gossip('complete')",
    ),
]


@pytest.mark.every_method
@pytest.mark.parametrize("method", RELABELLED)
def test_relabelling_sites_changes_nothing_but_the_labels(method, precision):  # O6
    a, b = relabelled(batch_size=None, local_steps=2, precision=precision)
    loose = 1e3 if method == "fedadam" or method == "fedyogi" or method == "fedadagrad" else 1  # divides by rounding
    assert error(last(method, a), last(method, b)) < loose * {"float64": 1e-12, "float32": 2e-6}[precision]


@pytest.mark.every_method
@pytest.mark.parametrize(
    "method", ["fedavg", "fedprox(mu=0)", "fedavg(weighting='uniform')", "scaffold", "fednova", "swarm", "gossip",
               "swarm(merge='median')", "swarm(merge='geomedian')", "splitfed", "qfedavg(q=0)", "afl(release='last')"],
)  # fmt: skip
def test_identical_sites_train_as_one(method, precision, tolerance):  # O51
    data, changes = cases(20), {"batch_size": None, "local_steps": 5, "precision": precision}
    reference = last("local", federation(repeated(data, sites=1), **changes))[0]
    assert error(last(method, federation(repeated(data, sites=3), **changes)), reference) < tolerance


@pytest.mark.parametrize("method", ["fedavg", "fedavgm", "scaffold", "fednova", "fedprox(mu=1)"])
def test_duplicating_a_site_and_halving_its_weight_changes_nothing(method, precision, tolerance):  # O52
    changes = {"batch_size": None, "local_steps": 2, "precision": precision}
    data = cases(40)
    a, b = (federation(repeated(data, sites=sites), **changes) for sites in (2, 3))
    a.shares, b.shares = np.array([0.4, 0.6]), np.array([0.4, 0.3, 0.3])
    assert error(last(method, a), last(method, b)) < tolerance


# -- the server's step -----------------------------------------------------------------------------------------------


def test_server_momentum_of_zero_is_fedavg(precision):  # O8
    a, b = twins(precision=precision)
    assert error(last("fedavgm(beta=0.0)", a), last("fedavg", b)) < {"float64": 1e-14, "float32": 1e-6}[precision]


def test_server_momentum_follows_its_recurrence():
    """w, v of three rounds by hand from the updates of the sites, plain and with Nesterov's look ahead."""
    for nesterov in (False, True):
        fed, hand = twins(rounds=3, precision="float64", **BN_FREE)
        mine = last(f"fedavgm(beta=0.5, server_lr=0.7, nesterov={nesterov})", fed)
        s = hand.memory(w=hand.start)
        v = torch.zeros_like(hand.start.parameters)
        for r in hand.rounds(s):
            mean = hand.merge(s.w, hand.gather(hand.fit(hand.broadcast(s.w), r)))
            d = s.w.parameters - mean.parameters
            v = 0.5 * v + d
            s.w = mean.with_parameters(s.w.parameters - 0.7 * (d + 0.5 * v if nesterov else v))
        assert error(mine, s.w) < 1e-14


def test_adaptive_server_without_memory_and_with_endless_tau_is_fedavg(precision):  # O9
    a, b = twins(precision=precision)
    assert error(last("fedadam(beta1=0.0, beta2=0.0, server_lr=1e6, tau=1e6)", a), last("fedavg", b)) < 1e-6


def test_first_rounds_of_yogi_and_adam_agree(precision):  # O10
    a, b = twins(precision=precision, rounds=1)
    assert same(last("fedyogi", a), last("fedadam", b))


def test_first_round_of_adagrad_is_a_normalised_step(precision):  # O10
    a, b = twins(precision=precision, rounds=1)
    delta = last("fedavg", b).parameters - b.start.parameters
    expected = a.start.parameters + 0.01 * delta / (delta.abs() + 1e-3)
    assert torch.allclose(last("fedadagrad", a).parameters, expected, rtol=1e-6, atol=1e-7)


def test_bias_correction_makes_the_first_step_that_of_adam():
    a, b = twins(precision="float64", rounds=1)
    delta = last("fedavg", b).parameters - b.start.parameters
    expected = a.start.parameters + 0.01 * delta / (delta.abs() + 1e-3)
    assert torch.allclose(last("fedadam(bias_correction=True)", a).parameters, expected, rtol=1e-12)


def test_server_optimizers_leave_normalisation_statistics_to_the_mean():
    a, b = twins(rounds=1)
    statistics = a.layout.mask("mean", "variance")
    assert torch.equal(last("fedadam", a).vector[statistics], last("fedavg", b).vector[statistics])


# -- the local gradient ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedprox(mu=0)", "fedsam(rho=0)", "moon(mu=0)", "fedsam(rho=0, adaptive=0.2)"])
@pytest.mark.parametrize("model", ["small_cnn(width=4, depth=2)", PROJECTED])
def test_a_correction_of_no_strength_is_fedavg(method, model, precision):  # O4
    a, b = (federation(model=model, precision=precision, weight_decay=0.01) for _ in range(2))
    assert same(last(method, a), last("fedavg", b))


def test_fedprox_of_one_step_is_fedavg(precision):  # O5
    a, b = twins(precision=precision, local_steps=1)
    assert same(last("fedprox(mu=3)", a), last("fedavg", b))


def test_fedprox_pulls_towards_the_shared_model():
    a, b = twins(local_steps=8, rounds=1)
    near, far = last("fedprox(mu=5)", a), last("fedavg", b)
    start = a.start.parameters
    assert (near.parameters - start).norm() < (far.parameters - start).norm()


def test_a_pull_is_towards_what_the_site_was_sent():
    """Normalisation that stays at a site is pulled towards the site's own, not towards the mean of others."""
    fed = federation(batchnorm="fedbn", local_steps=1, rounds=2)
    plain = federation(batchnorm="fedbn", local_steps=1, rounds=2)
    assert same(at_sites("fedprox(mu=3)", fed), at_sites("fedavg", plain))


def test_scaffold_of_one_site_is_sgd(precision):  # O11
    a, b = (federation(partition(sizes=(30,)), precision=precision, rounds=3) for _ in range(2))
    assert error(last("scaffold", a), last("local", b)[0]) < {"float64": 1e-12, "float32": 1e-6}[precision]


@pytest.mark.parametrize("option", [1, 2])
@pytest.mark.parametrize("weighting", ["cases", "uniform"])
@pytest.mark.parametrize("participation", ["all", "sample(0.5)"])
def test_the_mean_of_control_variates_is_the_servers(option, weighting, participation, precision):  # O12
    fed = federation(precision=precision, rounds=4, participation=participation)
    last(f"scaffold(option={option}, weighting={weighting!r})", fed)
    s, share = fed.schedule.state, torch.as_tensor(fed.site_weights(weighting)).to(fed.start.vector)
    mean = (share[:, None] * s.own).sum(0)
    assert s.own.abs().max() > 0
    assert float((s.c - mean).abs().max() / s.own.abs().max()) < {"float64": 1e-12, "float32": 1e-6}[precision]


def test_option_one_keeps_the_gradient_of_all_cases_at_the_shared_model(precision):
    """With one full-batch step both options hold the same: the gradient at w."""
    a, b = twins(**ONE_STEP, precision=precision)
    one, two = last("scaffold(option=1)", a), last("scaffold(option=2)", b)
    assert error(one, two) < {"float64": 1e-10, "float32": 1e-4}[precision]
    assert torch.allclose(a.schedule.state.own, b.schedule.state.own, rtol=1e-3, atol=1e-5)


def test_full_gradients_add_up_over_batches():
    """Without batch normalisation the gradient over a site's batches is that of one batch of all its cases."""
    small, large = (federation(batch_size=size, precision="float64", weight_decay=0.1, **BN_FREE) for size in (7, None))
    (loss, gradient), (loss1, gradient1) = (fed.gradient(fed.start.expand(4)) for fed in (small, large))
    assert np.abs(loss - loss1).max() < 1e-12 and float((gradient - gradient1).abs().max()) < 1e-12
    assert np.abs(small.losses(small.start.expand(4)) - loss).max() < 1e-14


def test_fednova_of_equal_steps_is_fedavg(precision):  # O15
    for momentum in (0.0, 0.9):
        a, b = twins(precision=precision, momentum=momentum)
        bound = {"float64": 1e-12, "float32": 2e-6}[precision]
        assert error(last("fednova", a), last("fedavg", b)) < bound


def test_fednova_of_unequal_steps_is_not_fedavg():
    a, b = (federation(local_steps=None, local_epochs=1) for _ in range(2))
    assert error(last("fednova", a), last("fedavg", b)) > 1e-3


def test_accumulated_gradients_have_closed_forms():  # O16
    assert accumulated(7) == 7
    assert accumulated(7, 0.9) == pytest.approx((7 - 0.9 * (1 - 0.9**7) / 0.1) / 0.1, abs=1e-10)
    assert accumulated(7, 0.9) == pytest.approx(23.046721, abs=1e-10)
    assert accumulated(7, 0.0, 0.035) == pytest.approx((1 - 0.965**7) / 0.035, abs=1e-10)
    assert accumulated(7, 0.0, 0.035) == pytest.approx(6.3064055, abs=5e-8)


def test_feddyn_begins_with_twice_the_step_of_fedprox(precision):  # O17
    """w = 2 mean(fedprox with mu = alpha) - w0 after the first round, uniform weights."""
    a, b = twins(precision=precision, rounds=1, **BN_FREE)
    prox = last("fedprox(mu=0.1, weighting='uniform')", b)
    expected = prox.with_parameters(2 * prox.parameters - b.start.parameters)
    assert error(last("feddyn(alpha=0.1)", a), expected) < {"float64": 1e-12, "float32": 1e-6}[precision]


def test_feddyn_releases_three_models():
    cloud, active, everyone = (last(f"feddyn(release={name!r})", federation()) for name in ("cloud", "active", "all"))
    assert same(active, everyone) and not same(cloud, active)  # all sites were active
    some = {"participation": "sample(0.5)", "rounds": 3}
    active, everyone = (last(f"feddyn(release={name!r})", federation(**some)) for name in ("active", "all"))
    assert not same(active, everyone)


def test_a_contrast_between_equals_is_ln_2_without_gradient(precision):  # O19
    rng = torch.Generator().manual_seed(0)
    z, held = (torch.randn(9, 5, generator=rng, dtype=getattr(torch, precision)) for _ in range(2))
    rows = torch.arange(9)
    same_place = Features(held, rows, 20)
    loss = Contrast(1.0, 0.5, same_place, same_place)(z.requires_grad_(), rows)
    loss.backward()
    assert abs(float(loss.detach()) - np.log(2)) < 1e-6 and float(z.grad.abs().max()) < 1e-6


def test_the_contrast_of_the_paper():
    z, near, far = (torch.tensor([v], dtype=torch.float64) for v in ([1.0, 0.0], [1.0, 1.0], [0.0, 2.0]))
    rows = torch.tensor([0])
    found = Contrast(3.0, 0.5, Features(near, rows, 20), Features(far, rows, 20))(z, rows)
    close, apart = np.exp(np.sqrt(0.5) / 0.5), np.exp(0.0)
    assert float(found) == pytest.approx(-3 * np.log(close / (close + apart)), rel=1e-12)


def test_first_round_of_moon_is_that_of_fedavg_and_the_second_is_not():  # O19
    for rounds, bound in ((1, True), (2, False)):
        a, b = (federation(model=PROJECTED, rounds=rounds, precision="float64") for _ in range(2))
        assert (error(last("moon(mu=5)", a), last("fedavg", b)) < 1e-12) == bound


def test_moon_remembers_each_sites_last_round():
    """A site that was away is compared with the model of the last round in which it took part."""
    fed = federation(rounds=3, availability=[1.0, 1.0, 0.0, 1.0])
    last("moon", fed)
    assert torch.equal(fed.schedule.state.previous[2].vector, fed.start.vector)
    assert not torch.equal(fed.schedule.state.previous[0].vector, fed.start.vector)


@pytest.mark.parametrize("arguments", ["rho=0.5", "rho=0.5, adaptive=0.2"])
def test_sharpness_aware_gradients_are_those_of_the_formula(arguments):
    """One step from a known point: g at w + rho g / |g|, computed by autograd on the plain network."""
    part = partition(sizes=(30,))
    fed = federation(part, rounds=1, local_steps=1, batch_size=None, precision="float64", **BN_FREE)
    net = _network(fed)
    g, weights = _gradient(net, fed, fed.start.parameters), fed.layout.mask("weight")[: fed.layout.trained]
    scale = torch.where(weights, fed.start.parameters.abs() + 0.2, 1.0) if "adaptive" in arguments else 1.0
    e = 0.5 * scale * (scale * g) / (scale * g).norm()
    expected = fed.start.parameters - 0.05 * _gradient(net, fed, fed.start.parameters + e)
    assert torch.allclose(last(f"fedsam({arguments})", fed).parameters, expected, rtol=1e-10, atol=1e-13)


def test_sharpness_aware_steps_leave_statistics_to_the_first_pass():
    a, b = (federation(rounds=1, local_steps=1, batchnorm="avg") for _ in range(2))
    statistics = a.layout.mask("mean", "variance")
    first, second = last("fedsam(rho=1.0)", a), last("fedavg", b)
    assert torch.equal(first.vector[statistics], second.vector[statistics]) and torch.equal(first.counts, second.counts)
    assert not torch.equal(first.parameters, second.parameters)


def _network(fed):
    from fedlab.learning.models import build

    return build("small_cnn(width=4, depth=2)", fed.partition.cases.shape, 1, 0, "group").double()


def _gradient(net, fed, point: torch.Tensor) -> torch.Tensor:
    """By plain autograd, in the order of the flat vector."""
    for name, value in fed.layout.views(point).items():
        net.get_parameter(name).data.copy_(value)
    net.zero_grad()
    index = fed.sites[0].batches.index
    x = torch.from_numpy(fed.partition.cases.images[index]).double() / 255
    fed.task.loss(net(x), torch.from_numpy(fed.partition.cases.labels[index])).backward()
    flat = torch.zeros_like(point)
    for name, view in fed.layout.views(flat).items():
        view.copy_(net.get_parameter(name).grad)
    return flat


# -- the weights of the mean -----------------------------------------------------------------------------------------


def test_qfedavg_of_zero_is_uniform_fedavg(precision):  # O20
    a, b = twins(precision=precision, rounds=3)
    bound = {"float64": 1e-12, "float32": 1e-6}[precision]
    assert error(last("qfedavg(q=0)", a), last("fedavg(weighting='uniform')", b)) < bound


def test_qfedavg_is_its_formula():
    """One round by hand: w - sum F^q L (w - w_k) / sum [q F^(q-1) L^2 |w - w_k|^2 + L F^q]."""
    a, b = twins(rounds=1, precision="float64", **BN_FREE)
    sent = b.start.expand(4)
    loss, rate = b.losses(sent) + 1e-10, 1 / 0.05
    s = b.memory(w=b.start)
    (r,) = list(b.rounds(s))
    moved = rate * (b.start.parameters - b.fit(b.broadcast(s.w), r).parameters)
    h = 2 * loss * moved.square().sum(1).numpy() + rate * loss**2
    expected = b.start.parameters - (torch.as_tensor(loss**2)[:, None] * moved).sum(0) / h.sum()
    assert torch.allclose(last("qfedavg(q=2)", a).parameters, expected, rtol=1e-12, atol=1e-14)


def test_agnostic_weights_stay_on_the_simplex_and_rise_with_the_loss():  # O21
    fed = federation(rounds=6)
    last("afl(lambda_lr=0.5)", fed)
    weights = fed.schedule.state.weights
    assert abs(weights.sum() - 1) < 1e-12 and (weights >= 0).all() and weights.std() > 0


def test_agnostic_learning_without_a_rate_is_uniform_gradient_descent(precision):  # O21
    a, b = twins(**ONE_STEP, precision=precision)
    found = last("afl(lambda_lr=0, release='last')", a)
    assert error(found, last("fedavg(weighting='uniform')", b)) < {"float64": 1e-12, "float32": 1e-6}[precision]


def test_agnostic_learning_releases_the_mean_of_its_rounds():
    models = [last("afl(release='last')", federation(rounds=n, precision="float64")) for n in (1, 2, 3)]
    mean = torch.stack([m.vector for m in models]).mean(0)
    released = last("afl", federation(rounds=3, precision="float64"))
    assert torch.allclose(released.vector, mean, rtol=1e-12, atol=1e-14)


def test_the_projection_to_the_simplex_is_the_nearest_point():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = rng.normal(size=5) * 3
        p = simplex(x)
        assert abs(p.sum() - 1) < 1e-12 and (p >= 0).all()
        others = rng.dirichlet(np.ones(5), 200)
        assert ((x - p) ** 2).sum() <= ((x - others) ** 2).sum(1).min() + 1e-12
    assert np.allclose(simplex(np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])


# -- optimizers between rounds ---------------------------------------------------------------------------------------


def test_an_optimizer_that_a_site_keeps_goes_on_where_it_stopped(precision):
    """One site that keeps its momentum is uninterrupted local training; one that forgets it is not."""
    one, changes = partition(sizes=(30,)), {"momentum": 0.9, "rounds": 3, "precision": precision}
    alone = last("local", federation(one, **changes))[0]
    for policy in ("keep", "share"):
        assert same(last("fedavg", federation(one, **changes, local_optimizer=policy)), alone), policy
    assert not same(last("fedavg", federation(one, **changes)), alone)


def test_shared_optimizer_state_is_averaged_and_crosses():
    plain, shared = (federation(momentum=0.9, rounds=3, local_optimizer=policy) for policy in ("keep", "share"))
    assert not same(last("fedavg", plain), last("fedavg", shared))
    state = shared.ledger.frame().query("what == 'optimizer state'")
    size = shared.layout.parameters * 4 + 8
    assert set(state["bytes"]) == {size} and len(state) == 4 * 3 + 4 * 2  # up in three rounds, down in the later two
    assert plain.ledger.frame().query("what == 'optimizer state'").empty


def test_moments_of_models_that_were_not_merged_are_not_averaged():
    """Two of five answer, krum needs five: no merge, and no shared state either."""
    part = partition(sizes=(24, 40, 16, 8, 12))
    there = [1.0, 1.0, 0.0, 0.0, 0.0]
    fed = federation(part, momentum=0.9, local_optimizer="share", aggregate="krum", availability=there)
    last("fedavg", fed)
    assert "shared" not in fed.optimizers.states
    assert {event for *_, event, _ in fed.round_log.events} == {"absent", "nothing merged"}


@pytest.mark.parametrize("method", ["scaffold", "fednova"])
def test_methods_that_count_gradients_assume_momentum_that_starts_at_zero(method):
    with pytest.warns(UserWarning, match=f"{method} with local_optimizer='keep': it assumes that momentum starts"):
        last(method, federation(momentum=0.9, local_optimizer="keep"))


def test_sites_that_do_the_same_share_their_state_without_loss():
    data, changes = cases(20), {"batch_size": None, "local_steps": 3, "rounds": 3, "optimizer": "adam", "lr": 0.01}
    one, three = (
        federation(repeated(data, n), precision="float64", local_optimizer="share", **changes) for n in (1, 3)
    )
    assert error(last("fedavg", three), last("fedavg", one)) < 1e-10


# -- arguments ---------------------------------------------------------------------------------------------------------


PULLS = {"fedprox": "mu", "feddyn": "alpha", "ditto": "lam", "pfedme": "lam", "fednova": "mu"}


@pytest.mark.parametrize("name", PULLS)
def test_a_pull_that_overshoots_is_warned_of_with_its_bound(name):
    argument, method = PULLS[name], f"{name}({PULLS[name]}=50)"
    fed = federation(lr=0.05, rounds=1, local_steps=1)
    with pytest.warns(
        UnstableWarning, match=rf"{argument}=50 with lr=0.05 overshoots.*2\.5.*below 2; keep {argument} under 40"
    ):
        ends(method, fed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnstableWarning)
        ends(method.replace("50", "1"), federation(lr=0.05, rounds=1, local_steps=1))


def test_the_bound_of_a_pull_is_sharp():
    """On a flat loss w moves by -lr mu (w - anchor): it settles below lr mu = 2 and swings ever further above."""
    from fedlab.engine.optimizers import Moments, optimizer_of
    from fedlab.learning.settings import Training

    for strength, settles in ((1.9, True), (2.1, False)):
        optimizer = optimizer_of(Training(lr=1.0), torch.ones(1, dtype=torch.bool))
        w, state = torch.ones(1), Moments(torch.zeros(0, 1))
        for _ in range(200):
            optimizer.step(w, strength * w, state, 1.0)
        assert (abs(float(w)) < 1) == settles


BAD_KNOBS = {
    "fedprox(mu=-1)": "mu=-1: give a number of at least 0",
    "fedprox(mu='x')": "mu='x': give a number of at least 0",
    "fedavgm(beta=1.0)": "beta=1.0: give a number from 0 to below 1",
    "fedadam(tau=0)": "tau=0: give a number above 0",
    "fedavg(weighting='size')": "weighting='size': choose one of 'cases', 'uniform'",
    "scaffold(option=3)": "option=3: choose one of 1, 2",
    "feddyn(alpha=0)": "alpha=0: give a number above 0",
    "feddyn(release='w')": "release='w': choose one of 'cloud', 'active', 'all'",
    "moon(temperature=0)": "temperature=0: give a number above 0",
    "qfedavg(q=-0.1)": "q=-0.1: give a number from 0 to 100",
    "afl(release='best')": "release='best': choose one of 'average', 'last'",
    "apfl(alpha=2)": "alpha=2: give a number from 0 to 1",
    "pfedme(inner=0)": "inner=0: give a whole number of at least 1",
    "fedper(personal=9)": "personal=9: the model has 3 stages with parameters, so choose from 0 (nothing) to 3",
    "cyclic(order='random')": "order='random': choose one of",
    "cyclic(mitigation=('sampling', 'loss'))": "loss and sampling do the same, choose one",
    "cyclic(mitigation=['rate', 'iterations'])": "iterations and rate do the same, choose one",
    "cyclic(mitigation='size')": "mitigation='size': choose one of 'iterations', 'rate', 'sampling', 'loss'",
    "split(handover='mail')": "handover='mail': choose one of 'peer', 'server', 'none'",
    "splitfed(version=4)": "version=4: choose one of 1, 2, 3",
    "swarm(merge='max')": "merge='max': choose one of 'mean', 'median', 'geomedian'",
    "gossip('rings')": "unknown topology 'rings': did you mean 'ring'",
}


@pytest.mark.parametrize("method", BAD_KNOBS)
def test_a_argument_that_makes_no_sense_is_refused_before_any_training(method):
    fed = federation()
    with pytest.raises(ValueError) as error:
        ends(method, fed)
    assert BAD_KNOBS[method] in str(error.value)
    assert not fed.round_log.costs


def test_methods_that_assume_plain_sgd_say_so():
    with pytest.warns(UserWarning, match="scaffold with momentum=0.9"):
        ends("scaffold", federation(momentum=0.9))
    with pytest.warns(UserWarning, match="fednova with adam: it counts SGD steps"):
        ends("fednova", federation(optimizer="adam", lr=0.01))


def test_accumulation_with_momentum_and_pull_is_that_of_the_steps():
    """SGD with momentum on a constant gradient of 1 with the pull mu (w - w0): how far w goes, over lr."""
    lr, mu, momentum, w, v = 0.1, 0.35, 0.9, 0.0, 0.0
    for _ in range(7):
        v = momentum * v + 1 + mu * w
        w -= lr * v
    assert accumulated(7, momentum, lr * mu) == pytest.approx(-w / lr, abs=1e-12)
