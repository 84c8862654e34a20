"""On quadratics all is known: fixed points of methods, in closed form, and the optima that they reach or miss."""

import numpy as np
import pytest
from quadratics import Quadratics
from worlds import ends, last

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ONE = np.eye(5)
STEPS = [(5, 5, 5, 5), (2, 7, 4, 1)]
UNIFORM = np.full(4, 0.25)


def balance(q: Quadratics, pulls: list[np.ndarray], weights) -> np.ndarray:
    """The w at which sum weights[k] pulls[k] (a_k - w) vanishes."""
    each = [weight * pull for weight, pull in zip(weights, pulls, strict=True)]
    return np.linalg.solve(sum(each), sum(pull @ a for pull, a in zip(each, q.a, strict=True)))


def after(goal: np.ndarray, left: np.ndarray, times: int, q: Quadratics) -> np.ndarray:
    """Where `times` linear steps lead, of each of which `left` is what it leaves of the distance to the goal."""
    assert np.abs(np.linalg.eigvals(left)).max() < 1  # so that the goal is reached
    return goal + np.linalg.matrix_power(left, times) @ (q.start - goal)


def fedavg_point(q: Quadratics, weights) -> np.ndarray:
    """[sum p (ONE - M_k)]^-1 sum p (ONE - M_k) a_k."""
    return balance(q, [ONE - q.left(k) for k in range(4)], weights)


def stays(q: Quadratics, method: str, w: np.ndarray) -> float:
    """How far one round moves the shared model from w."""
    q.begin_at(w)
    return float(np.abs(last(method, q.fed).numbers.numpy() - w).max())


def test_the_world_is_what_it_says(monkeypatch):
    """Losses and gradients of the engine are those of the quadratics, and A_k is positive definite."""
    q = Quadratics(monkeypatch)
    w = np.linspace(-1, 1, 5)
    q.begin_at(w)
    _, gradient = q.fed.gradient(q.fed.start.expand(4))
    for k in range(4):
        assert np.abs(gradient[k, q.fed.layout.places].numpy() - q.gradient(k, w)).max() < 1e-14
        assert np.linalg.eigvalsh(q.A[k]).min() > 0.01


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("weighting", ["cases", "uniform"])
def test_fedavg_rests_where_its_closed_form_says(steps, weighting, monkeypatch):  # O14
    q = Quadratics(monkeypatch, steps)
    weights = q.p if weighting == "cases" else UNIFORM
    point = fedavg_point(q, weights)
    assert stays(q, f"fedavg(weighting={weighting!r})", point) < 1e-12
    assert np.abs(point - q.optimum(weights)).max() > 1e-3  # which is not the optimum


@pytest.mark.parametrize("steps", STEPS)
def test_fedavg_reaches_its_fixed_point(steps, monkeypatch):  # O14
    q = Quadratics(monkeypatch, steps, rounds=20)
    left = sum(p * q.left(k) for k, p in enumerate(q.p))
    found = last("fedavg", q.fed).numbers.numpy()
    assert np.abs(found - after(fedavg_point(q, q.p), left, 20, q)).max() < 1e-12


@pytest.mark.parametrize("steps", STEPS)
def test_fednova_rests_where_its_closed_form_says(steps, monkeypatch):  # O14
    q = Quadratics(monkeypatch, steps)
    point = balance(q, [(ONE - q.left(k)) / q.tau[k] for k in range(4)], q.p)
    assert stays(q, "fednova", point) < 1e-12


def test_fednova_removes_the_bias_of_unequal_steps_as_the_rate_falls(monkeypatch):
    """fedavg tends to the optimum of sum p tau F, fednova to that of sum p F."""
    distances = []
    for lr in (0.1, 0.01, 0.001):
        q = Quadratics(monkeypatch, STEPS[1], lr=lr)
        nova = balance(q, [(ONE - q.left(k)) / q.tau[k] for k in range(4)], q.p)
        weighted = q.p * q.tau / (q.p * q.tau).sum()
        distances.append(
            [np.abs(nova - q.optimum(q.p)).max(), np.abs(fedavg_point(q, q.p) - q.optimum(weighted)).max()]
        )
    fell = np.array(distances[:-1]) / np.array(distances[1:])
    assert (fell > 7.5).all() and np.abs(q.optimum(weighted) - q.optimum(q.p)).max() > 0.05


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_fedprox_rests_where_its_closed_form_says(steps, mu, monkeypatch):  # O14
    q = Quadratics(monkeypatch, steps)
    pulls = [(ONE - q.left(k, mu)) @ np.linalg.solve(q.A[k] + mu * ONE, q.A[k]) for k in range(4)]
    assert stays(q, f"fedprox(mu={mu})", balance(q, pulls, q.p)) < 1e-12


@pytest.mark.parametrize("order", ["fixed", "reversed", "by_size"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_cycle_rests_where_its_affine_maps_compose(order, steps, monkeypatch):  # O14
    from fedlab.algorithms.cyclic import visits
    from fedlab.federation import RoundContext
    from fedlab.federation.participation import all_sites

    q = Quadratics(monkeypatch, steps)
    linear, offset = ONE, np.zeros(5)
    for k in visits(q.fed, order, RoundContext(1, 0.1, all_sites(4))):
        linear, offset = q.left(k) @ linear, q.left(k) @ offset + (ONE - q.left(k)) @ q.a[k]
    point = np.linalg.solve(ONE - linear, offset)
    assert stays(q, f"cyclic(order={order!r})", point) < 1e-12


@pytest.mark.parametrize(
    ("option", "steps", "weighting"),
    [(1, STEPS[1], "uniform"), (2, STEPS[0], "cases")],  # the other two are anchors in tests/test_anchors.py
)
def test_scaffold_reaches_the_optimum_of_the_objective_it_weighs(option, steps, weighting, monkeypatch):  # O13
    q = Quadratics(monkeypatch, steps, rounds=120, lr=0.45)
    found = last(f"scaffold(option={option}, weighting={weighting!r})", q.fed).numbers.numpy()
    assert np.abs(found - q.optimum(q.p if weighting == "cases" else UNIFORM)).max() < 1e-7  # fedavg misses it by 1e-3


@pytest.mark.parametrize("weighting", ["cases", "uniform"])
def test_feddyn_with_exact_optima_reaches_the_optimum_and_holds_the_gradients(weighting, monkeypatch):  # O18
    q = Quadratics(monkeypatch, local_steps=40, rounds=60, lr=0.5)
    found = last(f"feddyn(alpha=0.5, weighting={weighting!r})", q.fed).numbers.numpy()
    weights = q.p if weighting == "cases" else UNIFORM
    assert np.abs(found - q.optimum(weights)).max() < 1e-5
    alphas = 0.5 / (4 * weights)
    for k in range(4):
        held = -alphas[k] * q.fed.schedule.state.gone[k, q.fed.layout.places].numpy()  # the paper's gradient of site k
        assert np.abs(held - q.gradient(k, found)).max() < 1e-5


@pytest.mark.parametrize("lam", [0.5, 2.0])
def test_pfedme_with_exact_inner_optima_follows_the_envelope(lam, monkeypatch):  # O26
    """One step a round: the optimum of the mean Moreau envelope, whose curvature is lam (A + lam)^-1 A."""
    q = Quadratics(monkeypatch, rounds=1, lr=0.3)
    curvature = [lam * np.linalg.solve(q.A[k] + lam * ONE, q.A[k]) for k in range(4)]
    point = balance(q, curvature, q.p)
    method = f"pfedme(lam={lam}, inner=600, inner_lr={0.8 / (2.5 + lam)})"
    q.begin_at(point)
    models = ends(method, q.fed)
    assert np.abs(models["global"].numbers.numpy() - point).max() < 1e-9
    for k in range(4):
        theta = np.linalg.solve(q.A[k] + lam * ONE, q.A[k] @ q.a[k] + lam * point)
        assert np.abs(models["local"].numbers[k].numpy() - theta).max() < 1e-9


def test_ditto_rests_between_its_own_optimum_and_the_shared_model(monkeypatch):
    """With many steps v_k solves min F_k + lam/2 |v - w|^2 for the shared model of the round's start."""
    q = Quadratics(monkeypatch, local_steps=100, rounds=1, lr=0.4)
    q.begin_at(fedavg_point(q, q.p))
    models = ends("ditto(lam=0.7)", q.fed)
    w = models["global"].numbers.numpy()
    for k in range(4):
        goal = np.linalg.solve(q.A[k] + 0.7 * ONE, q.A[k] @ q.a[k] + 0.7 * w)
        assert np.abs(models["local"].numbers[k].numpy() - goal).max() < 1e-9


def test_local_training_and_the_bounds_reach_their_optima(monkeypatch):
    q = Quadratics(monkeypatch, local_steps=50, rounds=2)
    for k, own in enumerate(ends("local", q.fed)["local"].numbers.numpy()):
        assert np.abs(own - after(q.a[k], q.left(k), 2, q)).max() < 1e-12
    q = Quadratics(monkeypatch, local_steps=50, rounds=2)
    left = ONE - q.lr * np.tensordot(q.p, q.A, 1)
    assert np.abs(last("centralized", q.fed).numbers.numpy() - after(q.optimum(q.p), left, 100, q)).max() < 1e-12


@pytest.mark.parametrize("topology", ["ring", "torus", "complete", "star"])
def test_gossip_agrees_in_the_mean_with_gradient_steps(topology, monkeypatch):
    """The mean of all models moves by the mean of all gradients on any graph, as long as all agree."""
    q = Quadratics(monkeypatch, rounds=1)
    w = np.linspace(-1, 1, 5)
    q.begin_at(w)
    step = w - q.lr * np.mean([q.gradient(k, w) for k in range(4)], 0)
    assert np.abs(last(f"gossip({topology!r})", q.fed).numbers.numpy() - step).max() < 1e-14
