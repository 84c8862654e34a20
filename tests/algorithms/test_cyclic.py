"""Weight transfer: identities with centralized training, orders, mitigations for unequal sites, and forgetting."""

import numpy as np
import pytest
import torch
from worlds import CNN, cases, federation, last, partition, repeated, same

import fedlab
from fedlab.algorithms.cyclic import MITIGATIONS, ORDERS, best, mitigated, visits
from fedlab.federation import DivergedError, RoundContext
from fedlab.federation.participation import all_sites
from fedlab.learning.models import build
from fedlab.learning.settings import SCHEDULES
from fedlab.partitioning.partitions import Partition

EVERYBODY = all_sites(4)
EQUAL = {"sizes": (20, 20, 20, 20)}


def test_cyclic_with_a_travelling_optimizer_is_sgd_on_the_batches_in_site_order(precision):  # O27
    fed = federation(momentum=0.9, precision=precision, rounds=2)
    mine = last("cyclic", fed).state_dict()
    net = build(CNN, fed.partition.cases.shape, 1, seed=0).to(fed.settings.dtype).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.train().parameters(), 0.05, momentum=0.9)
    for cycle in range(2):
        for site in fed.sites:
            for step in range(cycle * 3, cycle * 3 + 3):
                rows = fed.execution.dataset.rows(site.batches.at(step))
                optimizer.zero_grad()
                fed.task.loss(net(fed.execution.dataset.images(rows)), fed.execution.dataset.targets[rows]).backward()
                optimizer.step()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "method", ["cyclic", "cyclic(optimizer='reset')", "single_pass", "single_pass(optimizer='reset')"]
)
def test_a_cycle_of_one_site_is_local_training(method, precision):  # O28
    a, b = (federation(partition(sizes=(30,)), precision=precision, momentum=0.9, rounds=3) for _ in range(2))
    assert same(last(method, a), last("local", b)[0]) == ("cyclic(opt" not in method)
    plain, alone = (federation(partition(sizes=(30,)), precision=precision) for _ in range(2))
    assert same(last(method, plain), last("local", alone)[0])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("optimizer", ["travel", "reset"])
def test_a_single_pass_of_one_round_is_one_cycle(order, optimizer, precision):  # O28
    a, b = (federation(precision=precision, momentum=0.9, rounds=1) for _ in range(2))
    arguments = f"(order={order!r}, optimizer={optimizer!r})"
    assert same(last("single_pass" + arguments, a), last("cyclic" + arguments, b))


def test_a_single_pass_spends_each_sites_budget_in_one_visit():
    fed, seen = federation(rounds=3), []
    fed.channel.hooks.append(lambda message: seen.append((message.round, message.site)))
    last("single_pass", fed)
    assert [site for _, site in seen] == ["Site A", "Site B", "Site C", "Site D"]  # one hand-over each
    whole = federation(rounds=3)
    w = whole.start
    for site in whole.sites:  # nine steps at each, one after the other
        s = whole.memory(w=w)
        for turn in range(3):
            w = whole.fit(s.w if turn == 0 else w, RoundContext(turn + 1, 0.05, EVERYBODY), at=whole.sites.index(site))
    again = federation(rounds=3)
    assert same(last("single_pass", again), w)


def test_cyclic_remembers_its_last_site():
    """Different orders end in different models; the same order twice in the same one."""
    a, b, c = (federation() for _ in range(3))
    forward, again, backward = last("cyclic", a), last("cyclic", b), last("cyclic(order='reversed')", c)
    assert same(forward, again) and not same(forward, backward)


def test_visits_are_permutations():
    fed = federation()
    for order in ORDERS:
        assert sorted(visits(fed, order, RoundContext(3, 0.1, EVERYBODY))) == [0, 1, 2, 3]
    assert visits(fed, "by_size", RoundContext(1, 0.1, EVERYBODY)) == [1, 0, 2, 3]
    assert visits(fed, "reversed", RoundContext(1, 0.1, EVERYBODY)) == [3, 2, 1, 0]
    shuffled = {tuple(visits(fed, "shuffled", RoundContext(r, 0.1, EVERYBODY))) for r in range(20)}
    assert len(shuffled) > 5


def test_absent_sites_are_left_out_of_a_cycle(precision):
    a = federation(precision=precision, rounds=2, availability=[1.0, 0.0, 1.0, 1.0])
    found, s = last("cyclic", a), (b := federation(precision=precision, rounds=2)).memory(w=b.start)
    for r in b.rounds(s):
        for k in (0, 2, 3):
            s.w = b.fit(b.hand_over(s.w, to=k), r, at=k, keep_optimizer=True)
    assert same(found, s.w)


# -- unequal sites ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mitigation", ["'iterations'", "'rate'", "()"])
def test_mitigations_of_size_change_nothing_between_equal_sites(mitigation, precision):  # O28
    a, b = (federation(partition(**EQUAL), precision=precision) for _ in range(2))
    assert same(last(f"cyclic(mitigation={mitigation})", a), last("cyclic", b))


def test_weights_of_balanced_classes_are_one(precision):  # O28
    """Half of each site's cases are of each class: the weighted loss is the plain one, bit for bit."""
    a, b = (federation(partition(**EQUAL), precision=precision) for _ in range(2))
    assert all((site.class_weights == 1).all() for site in a.sites)
    assert same(last("cyclic(mitigation='loss')", a), last("cyclic", b))


def test_proportional_iterations_are_proportional():
    """T_k = round(T K n_k / N): 3 steps at four sites of 24, 40, 16 and 8 cases."""
    fed = federation(rounds=1)
    last("cyclic(mitigation='iterations')", fed)
    assert [fed.round_log.costs[name].steps for name in fed.names] == [round(3 * 4 * n / 88) for n in (24, 40, 16, 8)]
    assert mitigated(fed, 3, ["iterations"])["steps"] == 1


def test_the_cyclical_rate_is_proportional_and_steps_are_equal():
    fed = federation(local_steps=None, local_epochs=1, rounds=1)  # 3, 5, 2 and 1 batches
    found = [mitigated(fed, k, ["rate"]) for k in range(4)]
    assert [each["rate"] for each in found] == pytest.approx([4 * n / 88 for n in (24, 40, 16, 8)])
    assert {each["steps"] for each in found} == {round(11 / 4)}


def skewed() -> Partition:
    """Four sites of which the last two have three cases of class 0 for every one of class 1."""
    data = cases(128)
    rare = (data.labels == 1) & (np.arange(128) >= 64) & (np.arange(128) % 6 != 1)
    kept = data.take(np.flatnonzero(~rare))
    site = np.where(np.flatnonzero(~rare) < 32, "Site A", np.where(np.flatnonzero(~rare) < 64, "Site B", "Site C"))
    site = np.where(np.flatnonzero(~rare) >= 96, "Site D", site)
    table = kept.table.assign(split="train")
    return Partition.from_sites(type(kept)(kept.images, table, kept.card), site)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weighted_sampling_and_weighted_loss_have_one_expected_gradient(precision):  # O29
    """Enumerated over all cases: sum q_i g_i = mean omega_i g_i, with sum q = 1 and sum omega = n_k."""
    fed = federation(skewed(), precision=precision, batchnorm="group")
    tolerance = {"float64": 1e-12, "float32": 1e-5}[precision]
    for site in fed.sites:
        omega, q = site.class_weights, site.balanced.probabilities
        assert abs(omega.sum() - site.cases) < 1e-9 and abs(q.sum() - 1) < 1e-12
        gradients = torch.stack([_gradient(fed, case) for case in site.batches.index])
        sampled = (torch.as_tensor(q).to(gradients)[:, None] * gradients).sum(0)
        weighed = (torch.as_tensor(omega).to(gradients)[:, None] * gradients).mean(0)
        assert float((sampled - weighed).abs().max() / weighed.abs().max()) < tolerance
        for label in set(site.labels.tolist()):
            classes = len(set(site.labels.tolist()))
            assert q[site.labels == label].sum() == pytest.approx(1 / classes)
    assert any((site.class_weights != 1).any() for site in fed.sites)


def _gradient(fed, case: int) -> torch.Tensor:
    """Of the loss of one case at the start."""
    engine = fed.execution.engine
    engine.flat.load(fed.start)
    engine.flat.train()
    rows = engine.dataset.rows(np.array([case]))
    engine.flat.differentiate(
        fed.task.loss(engine.flat.model(engine.dataset.images(rows)), engine.dataset.targets[rows])
    )
    return engine.flat.gradient.clone()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_step_of_the_weighted_loss_is_along_the_weighted_gradient(precision):
    fed = federation(skewed(), precision=precision, batchnorm="group", batch_size=None, local_steps=1, rounds=1)
    k = 2
    omega = torch.as_tensor(fed.sites[k].class_weights).to(fed.start.vector)
    gradients = torch.stack([_gradient(fed, case) for case in fed.sites[k].batches.index])
    expected = fed.start.parameters - 0.05 * (omega[:, None] * gradients).mean(0)
    found = fed.fit(fed.start, RoundContext(1, 0.05, EVERYBODY), at=k, weights=fed.trainer.case_weights(k))
    assert torch.allclose(found.parameters, expected, atol={"float64": 1e-13, "float32": 1e-6}[precision])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_balanced_batches_meet_classes_alike_and_repeat():
    site = federation(skewed()).sites[3]
    drawn = np.concatenate([site.balanced.at(step) for step in range(600)])
    where = {case: label for case, label in zip(site.batches.index.tolist(), site.labels.tolist(), strict=True)}
    share = np.mean([where[case] for case in drawn.tolist()])
    assert abs(share - 0.5) < 0.03 and site.labels.mean() < 0.3
    assert np.array_equal(site.balanced.at(5), site.balanced.at(5))
    assert [len(site.balanced.at(step)) for step in range(3)] == [len(site.batches.at(step)) for step in range(3)]


@pytest.mark.parametrize("mitigation", MITIGATIONS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_mitigation_changes_training_at_unequal_sites(mitigation):
    changes = {"rounds": 1, "lr": 0.2}
    assert not same(last(f"cyclic(mitigation={mitigation!r})", federation(skewed(), **changes)),
                    last("cyclic", federation(skewed(), **changes)))  # fmt: skip


def test_labels_that_overlap_have_no_class_weights():
    data = cases(88 + 64)
    card = data.card | {"task": "multilabel", "classes": ["a", "b"]}
    many = type(data)(data.images, data.table.assign(label=np.arange(152) % 4), card)
    with pytest.raises(ValueError, match="needs one class for each case: use 'iterations' or 'rate'"):
        last("cyclic(mitigation='loss')", federation(partition(data=many)))


# -- release and normalisation ---------------------------------------------------------------------------------------


def test_the_best_stop_of_a_cycle_is_chosen_on_validation():
    """Each model as it leaves a site, by the validation cases of that site; the last among equals."""
    fed = federation(rounds=1, lr=0.3, local_steps=6)
    s, stops = fed.memory(w=fed.start), {}
    for r in fed.rounds(s):
        for k in range(4):
            stops[k] = s.w = fed.fit(fed.hand_over(s.w, to=k), r, at=k, keep_optimizer=True)
    scores = [fed.score(w, k) for k, w in stops.items()]
    chosen = best(fed, stops)
    assert chosen is stops[max(k for k in range(4) if scores[k] == max(scores))]
    assert scores[1] == fed.validate(stops[1])[1]
    released = last("cyclic(release='best')", federation(rounds=1, lr=0.3, local_steps=6))
    assert same(released, chosen)


def test_release_does_not_change_training():
    """The next cycle continues from the last model, whichever was released."""
    plain, best_of = (federation(rounds=2, lr=0.3) for _ in range(2))
    last("cyclic", plain), last("cyclic(release='best')", best_of)
    assert same(plain.schedule.state.w, best_of.schedule.state.w)


def test_recalibrated_statistics_are_those_of_all_sites(precision):
    """The first layer's are exact: mean and variance of what enters it, over the union of all sites' batches."""
    a, b = (federation(precision=precision, batch_size=None, rounds=1) for _ in range(2))
    plain, again = last("cyclic", a), last("cyclic(recalibrate=True)", b)
    assert torch.equal(plain.parameters, again.parameters)
    entries = {entry.name: slice(entry.start, entry.stop) for entry in a.layout.entries}
    rows = a.execution.dataset.rows(np.concatenate([site.batches.index for site in a.sites]))
    a.execution.engine.flat.load(plain)
    conv = a.execution.engine.flat.model[0][0]
    with torch.no_grad():
        y = conv(a.execution.dataset.images(rows)).double()
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
    found = {name: again.vector[entries[f"0.1.running_{name}"]].double() for name in ("mean", "var")}
    assert torch.allclose(found["mean"], mean, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found["var"], variance, rtol=0.01)  # a batch's own variance is the unbiased one
    assert not torch.allclose(plain.vector[entries["0.1.running_var"]].double(), variance, rtol=0.05)


def test_recalibration_costs_one_more_pass_of_the_model():
    plain, more = (federation(rounds=2) for _ in range(2))
    last("cyclic", plain), last("cyclic(recalibrate=True)", more)
    assert (
        len(plain.ledger.frame())
        and more.ledger.frame()["messages"].sum() == 2 * plain.ledger.frame()["messages"].sum()
    )


def test_recalibration_asks_whoever_is_there_and_leaves_the_model_where_it_was():
    """The next cycle sets out from the last site that trained, not from the last one in the order."""
    there = {"rounds": 2, "availability": [1.0, 0.0, 1.0, 1.0]}
    plain, again = federation(**there), federation(**there)
    last("cyclic('reversed')", plain), last("cyclic('reversed', recalibrate=True)", again)
    rows = again.ledger.frame()
    assert "Site B" not in {*rows["site"], *rows["other"]}
    assert rows[rows["round"] == 2]["other"].iloc[0] == "Site A"
    assert same(plain.schedule.state.w, again.schedule.state.w)


def test_identical_sites_need_no_recalibration():
    part = repeated(cases(20), sites=3)
    plain, again = (federation(part, batch_size=None, rounds=30, lr=0.0, precision="float64") for _ in range(2))
    a, b = last("cyclic", plain), last("cyclic(recalibrate=True)", again)
    assert float((a.vector - b.vector).abs().max()) < 1e-3  # running statistics have converged to the batch's


# -- the saw-tooth ---------------------------------------------------------------------------------------------------


def test_forgetting_is_recorded_between_visits(tmp_path):
    experiment = fedlab.Experiment(model=CNN, rounds=3, local_steps=4, method="cyclic", watch_visits=True, device="cpu")
    run = fedlab.run(experiment, partition(), folder=tmp_path)
    assert list(run.visits) == ["round", "visit", "at", "site", "metric", "value"]
    assert len(run.visits) == 3 * 4 * 4
    assert run.visits.groupby(["round", "visit"])["at"].first().tolist() == ["Site A", "Site B", "Site C", "Site D"] * 3
    final = run.visits.query("visit == 4").set_index(["round", "site"])["value"]
    scored = run.rounds.query("split == 'val' and metric == 'auroc'").set_index(["round", "site"])["value"]
    assert final.sort_index().equals(scored.sort_index())


def test_watching_changes_nothing_and_is_off_by_default(tmp_path):
    experiment = fedlab.Experiment(model=CNN, rounds=2, local_steps=4, method="cyclic", device="cpu")
    plain, watched = (
        fedlab.run(experiment.with_(watch_visits=flag), partition(), folder=tmp_path) for flag in (False, True)
    )
    assert plain.visits.empty and len(watched.visits)
    assert all(torch.equal(tensor, watched.weights()[name]) for name, tensor in plain.weights().items())


def test_order_matters_more_to_a_cycle_than_to_a_mean():
    """The order of sites decides the result of weight transfer and is nothing to averaging."""
    names = ["Site A", "Site B", "Site C", "Site D"]
    forward, backward = ("fixed", "reversed")
    cycle = [last(f"cyclic(order={order!r})", federation(precision="float64")) for order in (forward, backward)]
    assert float((cycle[0].parameters - cycle[1].parameters).norm()) > 1e-3
    mean = [last("fedavg", federation(partition(names=each), precision="float64", batch_size=None))
            for each in (names, names[::-1])]  # fmt: skip
    assert float((mean[0].parameters - mean[1].parameters).norm()) < 1e-12


def test_a_single_pass_that_diverges_names_the_round_in_which_it_did():
    """Batches of the site's first round come in whichever round the visit falls."""
    fed = federation(rounds=4, lr=1e30, precision="float32")
    with pytest.raises(DivergedError, match="Site A, round 1"):
        last("single_pass", fed)
    late = federation(rounds=4, schedule="rising_at_the_end")
    with pytest.raises(DivergedError, match="Site D, round 4"):
        last("single_pass", late)


@pytest.fixture(autouse=True)
def _schedule():
    def rising_at_the_end(t: float) -> float:
        """Nothing until the last quarter, then far too much."""
        return 1e30 if t >= 0.75 else 0.0

    SCHEDULES.add(rising_at_the_end)
    yield
    SCHEDULES.remove("rising_at_the_end")


@pytest.mark.parametrize("batchnorm", ["group", "frozen", "silobn", "fedbn"])
def test_where_sites_share_no_statistics_there_is_nothing_to_recalibrate(batchnorm):
    plain, again = (federation(batchnorm=batchnorm) for _ in range(2))
    w = last("cyclic", plain)
    with pytest.warns(UserWarning, match="recalibrate=True: nothing is recalibrated"):
        assert same(last("cyclic(recalibrate=True)", again), w)
    assert again.ledger.rows == plain.ledger.rows


def test_a_single_pass_does_not_lose_patience():
    with pytest.raises(ValueError, match="patience would end a single pass before every site was visited"):
        last("single_pass", federation(patience=2))
