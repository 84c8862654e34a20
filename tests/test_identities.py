"""Identities between methods: what must agree does so bit for bit or to rounding, what must differ differs.

The numbers O1, O2, ... are those of the oracles that the method's mathematics fixes.
"""

import numpy as np
import pytest
import torch
from worlds import CNN, cases, error, federation, last, partition, same

from fedlab.algorithms import METHODS
from fedlab.federation import Ensemble, Federation
from fedlab.models import build
from fedlab.weights import Weights

BN_FREE = {"batchnorm": "group"}


def twins(**changes):
    return federation(**changes), federation(**changes)


def test_fedavg_with_one_full_batch_step_is_gradient_descent(precision, tolerance):  # O1
    changes = {"batch_size": None, "local_steps": 1, "rounds": 10, "precision": precision, **BN_FREE}
    a, b = twins(**changes)
    assert error(last("fedavg", a), last("centralized", b)) < tolerance


def test_uniform_weights_are_not_gradient_descent(precision):  # O2
    changes = {"batch_size": None, "local_steps": 1, "rounds": 10, "precision": precision, **BN_FREE}
    a, b = twins(**changes, lr=0.5)
    assert error(last("fedavg(weighting='uniform')", a), last("centralized", b)) > 1e-3


def test_fedavg_of_one_site_is_local_training(precision):  # O3
    a, b = (federation(partition(sizes=(30,)), precision=precision) for _ in range(2))
    assert same(last("fedavg", a), last("local", b)[0])


def test_fedprox_without_pull_is_fedavg(precision):  # O4
    a, b = twins(precision=precision)
    assert same(last("fedprox(mu=0)", a), last("fedavg", b))


def test_fedprox_of_one_step_is_fedavg(precision):  # O5
    a, b = twins(precision=precision, local_steps=1)
    assert same(last("fedprox(mu=3)", a), last("fedavg", b))


def test_fedprox_pulls_towards_the_shared_model():
    a, b = twins(local_steps=8, rounds=1)
    near, far = last("fedprox(mu=5)", a), last("fedavg", b)
    start = a.start.parameters
    assert (near.parameters - start).norm() < (far.parameters - start).norm()


def test_fedprox_solves_the_proximal_problem(tolerance):
    """One site, many steps: the stationary point of F(w) + mu/2 |w - w0|^2, so gradient = mu (w0 - w)."""
    part = partition(sizes=(30,), data=cases(60, (1, 4, 4)))
    changes = {"batch_size": None, "precision": "float64", "rounds": 1, "local_steps": 4000, "lr": 0.5}
    fed = federation(part, "logistic", **changes)
    w = last("fedprox(mu=1.0)", fed)
    index = part.index("Site A", "train")
    x = torch.from_numpy(part.cases.images[index]).double().flatten(1) / 255
    p = torch.sigmoid(x @ w.vector[:-1] + w.vector[-1])
    residual = (p - torch.from_numpy(part.cases.labels[index])) / len(index)
    gradient = torch.cat([x.T @ residual, residual.sum()[None]])
    assert float((gradient + w.vector).abs().max()) < 1e-9


def test_the_order_of_sites_never_matters(precision):  # O6
    sizes, names = (24, 40, 16, 8), ["Site A", "Site B", "Site C", "Site D"]
    a = partition(sizes, names)
    table = a.table.sample(frac=1, random_state=0)
    b = type(a).from_sites(a.cases, table)
    first, second = (federation(part, precision=precision) for part in (a, b))
    assert same(last("fedavg", first), last("fedavg", second))


def test_relabelling_sites_changes_nothing_but_the_labels(precision, tolerance):  # O6
    changes = {"batch_size": None, "local_steps": 2, "precision": precision}
    a = federation(partition(names=["Site A", "Site B", "Site C", "Site D"]), **changes)
    b = federation(partition(names=["Site D", "Site B", "Site A", "Site C"]), **changes)
    assert error(last("fedavg", a), last("fedavg", b)) < tolerance


def test_cyclic_with_a_travelling_optimizer_is_sgd_on_the_batches_in_site_order(precision):  # O27
    fed = federation(momentum=0.9, precision=precision, rounds=2)
    mine = fed.layout.state(last("cyclic", fed))
    net = build(CNN, fed.partition.cases.shape, 1, seed=0).to(fed.settings.dtype).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.train().parameters(), 0.05, momentum=0.9)
    for cycle in range(2):
        for site in fed.sites:
            for step in range(cycle * 3, cycle * 3 + 3):
                rows = fed._engine.store.rows(site.batches.at(step))
                optimizer.zero_grad()
                fed.task.loss(net(fed._engine.store.images(rows)), fed._engine.store.targets[rows]).backward()
                optimizer.step()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("optimizer", ["travel", "reset"])
def test_cyclic_of_one_site_is_local_training(optimizer, precision):  # O28
    a, b = (federation(partition(sizes=(30,)), precision=precision) for _ in range(2))
    assert same(last(f"cyclic(optimizer={optimizer!r})", a), last("local", b)[0])


def test_cyclic_remembers_its_last_site():
    """Different orders end in different models; the same order twice in the same one."""
    a, b, c = (federation() for _ in range(3))
    forward, again, backward = last("cyclic", a), last("cyclic", b), last("cyclic(order='reversed')", c)
    assert same(forward, again) and not same(forward, backward)


def test_visits_are_permutations():
    from fedlab.algorithms.cyclic import ORDERS, visits
    from fedlab.federation import Clock

    fed = federation()
    for order in ORDERS:
        assert sorted(visits(fed, order, Clock(3, 0.1))) == [0, 1, 2, 3]
    assert visits(fed, "by_size", Clock(1, 0.1)) == [1, 0, 2, 3]
    shuffled = {tuple(visits(fed, "shuffled", Clock(r, 0.1))) for r in range(20)}
    assert len(shuffled) > 5


def test_identical_sites_train_as_one(precision, tolerance):  # O51
    data = cases(20)
    part = repeated(data, sites=3)
    changes = {"batch_size": None, "local_steps": 5, "precision": precision}
    one = federation(repeated(data, sites=1), **changes)
    reference = last("local", one)[0]
    for method in ("fedavg", "fedprox(mu=0)", "fedavg(weighting='uniform')"):
        assert error(last(method, federation(part, **changes)), reference) < tolerance


def test_duplicating_a_site_and_halving_its_weight_changes_nothing(precision, tolerance):  # O52
    changes = {"batch_size": None, "local_steps": 2, "precision": precision}
    data = cases(40)
    two, three = repeated(data, sites=2), repeated(data, sites=3)
    a, b = federation(two, **changes), federation(three, **changes)
    a.shares, b.shares = np.array([0.4, 0.6]), np.array([0.4, 0.3, 0.3])
    assert error(last("fedavg", a), last("fedavg", b)) < tolerance


def repeated(data, sites: int):
    """Sites that hold the same images, as cases of different names."""
    import pandas as pd

    from fedlab.cases import Cases
    from fedlab.partition import Partition

    n = len(data)
    table = pd.concat([data.table.assign(case=data.table["case"] + f"-{k}") for k in range(sites)], ignore_index=True)
    copies = Cases(np.tile(data.images, (sites, 1, 1, 1)), table, data.card)
    split = np.tile(np.array(["train", "train", "train", "val", "test"])[np.arange(n) % 5], sites)
    who = np.repeat([f"Site {chr(65 + k)}" for k in range(sites)], n)
    return Partition.from_sites(copies, pd.DataFrame({"case": table["case"], "site": who, "split": split}))


@pytest.mark.parametrize("method", METHODS)
def test_without_a_learning_rate_nothing_moves(method, precision):  # O54
    fed = federation(lr=0.0, precision=precision)
    model = last(method, fed)
    parameters = (model.models if isinstance(model, Ensemble) else model).parameters
    assert torch.equal(parameters, fed.start.parameters.expand_as(parameters))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_experiment_gives_the_same_bits(method):
    a, b = (last(method, federation(momentum=0.9)) for _ in range(2))
    a, b = (m.models if isinstance(m, Ensemble) else m for m in (a, b))
    assert same(a, b)


def test_ledger_counts_the_bytes_that_crossed():  # O55
    sizes = {"fedavg": 2 * 4 * 2, "fedprox": 2 * 4 * 2, "cyclic": 4 * 2, "ensemble": 4, "local": 0, "centralized": 0}
    for method, transfers in sizes.items():
        fed = federation()
        last(method, fed)
        assert fed.ledger.frame()["bytes"].sum() == transfers * fed.start.nbytes, method
    assert set(sizes) == set(METHODS)


def test_a_travelling_optimizer_weighs_three_models_with_adam():  # O55
    fed = federation(optimizer="adam", lr=0.01, rounds=1)
    last("cyclic", fed)
    first, *others = fed.ledger.frame()["bytes"]
    moments = 2 * fed.layout.parameters * 4 + 8
    assert first == fed.start.nbytes and set(others) == {fed.start.nbytes + moments}


def test_an_ensemble_of_copies_is_the_copy():  # O56
    fed = federation()
    w, index = last("fedavg", fed), fed.partition.index("Site A", "test")
    copies = Ensemble(w.expand(4), np.array([0.1, 0.2, 0.3, 0.4]))
    assert np.abs(fed.predict(copies, index) - fed.predict(w, index)).max() < 1e-12


def test_an_ensemble_does_not_depend_on_the_order_of_its_members():  # O56
    fed = federation()
    models, index = last("local", fed), fed.partition.index("Site A", "test")
    order = [2, 0, 3, 1]
    shuffled = Weights(models.layout, models.vector[order], models.counts[order])
    a = fed.predict(Ensemble(models, fed.shares), index)
    b = fed.predict(Ensemble(shuffled, fed.shares[order]), index)
    assert np.abs(a - b).max() < 1e-12


BUDGETS = {  # match, unit of local work: steps in a round on the union of four sites of 24, 40, 16 and 8 cases
    ("unit", "steps"): 3,
    ("steps", "steps"): 3,
    ("epochs", "steps"): 12,
    ("unit", "epochs"): 2 * 11,
    ("steps", "epochs"): round(2 * (3 + 5 + 2 + 1) / 4),
    ("epochs", "epochs"): 2 * 11,
}


@pytest.mark.parametrize("match,unit", BUDGETS)
def test_matched_budgets_are_matched(match, unit):
    work = {"local_steps": 3} if unit == "steps" else {"local_steps": None, "local_epochs": 2}
    fed = federation(rounds=1, **work)
    last(f"centralized(match={match!r})", fed)
    assert fed.costs["all sites"].steps == BUDGETS[match, unit]


def test_a_new_method_is_a_function_in_a_cell():
    from fedlab.algorithms import algorithm
    from fedlab.federation import Round
    from fedlab.weights import mix

    @algorithm
    def average_once(fed: Federation):
        """Local training, averaged at the end of each round but never sent back."""
        s = fed.memory(w=fed.start.expand(len(fed.sites)))
        for r in fed.rounds(s):
            s.w = fed.fit(s.w, r)
            yield Round({"global": mix(fed.gather(s.w), fed.shares)})

    try:
        assert "average_once" in METHODS and last("average_once", federation()).vector.ndim == 1
    finally:
        del METHODS._functions["average_once"], METHODS._meanings["average_once"]
