"""Aggregation rules: laws of location and breakdown, attacks of malicious sites, and secure sums."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from worlds import cases, error, federation, last, partition, same

import fedlab
from fedlab.core.layout import Entry, Layout
from fedlab.core.warnings import MinorityWarning
from fedlab.core.weights import Weights, squared_distances, weighted_mean
from fedlab.federation import aggregation, secure_aggregation
from fedlab.federation.aggregation import RULES, least, rule
from fedlab.federation.attacks import ATTACKS, Attack
from fedlab.partitioning.partitions import Partition

ROBUST = ["median", "median(weighted=True)", "trimmed(0.2)", "krum(f=1)", "multikrum(f=1)", "geomedian", "clipped(0.5)"]

ONCE = (0, 1, 0)  # seed, round, merge


def models(rows, dtype=torch.float64) -> Weights:
    vector = torch.as_tensor(np.asarray(rows), dtype=dtype)
    d = vector.shape[1]
    layout = Layout((Entry("w", (d,), 0, "weight"),), (), d, d)
    return Weights(layout, vector, torch.zeros(len(vector), 0, dtype=torch.int64))


def random_models(m: int, d: int = 12, seed: int = 0, dtype=torch.float64) -> Weights:
    return models(np.random.default_rng(seed).normal(size=(m, d)), dtype)


def merged(text: str, stack: Weights, shares=None, w=None) -> torch.Tensor:
    p = np.full(len(stack), 1 / len(stack)) if shares is None else np.asarray(shares)
    start = stack[0] if w is None else w
    return rule(text)(stack, p, start).model.vector


@pytest.mark.parametrize("text", ["mean", *ROBUST])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_models_that_agree_are_merged_to_themselves(text, dtype):  # O34
    one = random_models(1, dtype=dtype)
    same_ones = Weights(one.layout, one.vector.expand(7, -1), one.counts.expand(7, -1))
    assert torch.equal(merged(text, same_ones, np.arange(1, 8) / 28, one[0]), one.vector[0])


@pytest.mark.parametrize("text", ["mean", *ROBUST])
def test_influence_is_a_share_of_the_whole(text):
    stack = random_models(7)
    found = rule(text)(stack, np.arange(1, 8) / 28, stack[0]).influence
    assert found.shape == (7,) and abs(found.sum() - 1) < 1e-9 and (found >= 0).all()


@pytest.mark.parametrize("text", ["median", "trimmed(0.2)", "geomedian", "krum(f=1)", "multikrum(f=1)", "mean"])
def test_influence_is_of_the_coordinates_that_differ(text):
    """Coordinates in which all models agree, such as those that stay at sites, are due to nobody."""
    stack = random_models(5)
    shares, w = np.full(5, 0.2), random_models(1, seed=9)[0]
    padded = models(np.concatenate([stack.vector.numpy(), np.zeros((5, 300))], 1))
    around = models(np.concatenate([w.vector.numpy()[None], np.zeros((1, 300))], 1))[0]
    found, alone = (rule(text)(each, shares, at).influence for each, at in ((padded, around), (stack, w)))
    np.testing.assert_allclose(found, alone, atol=1e-12)
    same = models(np.ones((5, 4)))
    np.testing.assert_allclose(rule("median")(same, shares, same[0]).influence, 0.2)


@pytest.mark.parametrize("text", RULES)
def test_merging_moves_with_the_models(text):
    """Adding a vector to all models adds it to the result; it does not matter whether models or updates are merged."""
    stack, by = random_models(7), torch.linspace(-2, 3, 12, dtype=torch.float64)
    moved = models((stack.vector + by).numpy())
    assert (merged(text, moved) - (merged(text, stack) + by)).abs().max() < 1e-8


@pytest.mark.parametrize("text", ["mean", "median", "trimmed(0.2)", "krum(f=1)", "multikrum(f=1)", "geomedian"])
def test_the_order_of_sites_does_not_matter(text):
    stack = random_models(7)
    order = [3, 1, 6, 0, 5, 2, 4]
    assert (merged(text, models(stack.vector[order].numpy())) - merged(text, stack)).abs().max() < 1e-9


@pytest.mark.parametrize("m", [3, 5, 7])
def test_trimming_all_but_one_is_the_median_and_nothing_the_mean(m):  # O35
    stack = random_models(m)
    most = (m - 1) // 2 / m
    assert torch.allclose(merged(f"trimmed({most})", stack), merged("median", stack), rtol=0, atol=1e-14)
    assert torch.allclose(merged("trimmed(0)", stack), stack.vector.mean(0), rtol=0, atol=1e-15)


def test_the_median_of_an_even_number_is_between_the_middle_two():
    stack = random_models(6)
    assert np.abs(merged("median", stack).numpy() - np.median(stack.vector.numpy(), 0)).max() < 1e-15


def test_the_weighted_median_is_the_definition():
    """Smallest x at which the weights of all x_i <= x reach a half; the midpoint where they are just a half."""
    rng = np.random.default_rng(2)
    for m in (2, 3, 4, 6):
        stack = random_models(m, seed=m)
        for p in (rng.dirichlet(np.ones(m)), np.full(m, 1 / m)):
            found = merged("median(weighted=True)", stack, p).numpy()
            for column, value in zip(stack.vector.numpy().T, found, strict=True):
                order = np.argsort(column)
                reached = p[order].cumsum()
                first = int(np.argmax(reached >= 0.5 - 1e-12))
                tie = abs(reached[first] - 0.5) < 1e-12
                expected = column[order[first : first + 2]].mean() if tie else column[order[first]]
                assert abs(value - expected) < 1e-12
    assert merged("median(weighted=True)", models([[6.0], [7.0]]), [0.5, 0.5]).item() == 6.5


def test_krum_returns_one_of_its_inputs_and_multikrum_of_all_is_the_mean():  # O35
    stack = random_models(7)
    found = merged("krum(f=2)", stack)
    assert any(torch.equal(found, row) for row in stack.vector)
    p = np.arange(1, 8) / 28
    assert torch.equal(merged("multikrum(f=1, c=7)", stack, p), weighted_mean(stack, p).vector)
    assert torch.equal(merged("multikrum(f=2, c=1)", stack), found)


def test_krum_is_its_definition():
    stack = random_models(8, seed=4)
    x = stack.vector.numpy()
    apart = ((x[:, None] - x[None]) ** 2).sum(2)
    assert np.abs(squared_distances(stack) - apart).max() < 1e-12
    scores = [np.sort(np.delete(apart[k], k))[: 8 - 2 - 2].sum() for k in range(8)]
    order = np.argsort(scores)
    assert torch.equal(merged("krum(f=2)", stack), stack.vector[order[0]])
    assert np.abs(merged("multikrum(f=2, c=3)", stack).numpy() - x[order[:3]].mean(0)).max() < 1e-14


@pytest.mark.parametrize("text", ["krum(f=0)", "multikrum(f=0, c=2)"])
def test_krum_may_choose_models_of_no_weight(text):
    """Those of agnostic learning may be 0: the chosen then have equal weight."""
    stack = models([[0.0, 0], [0.1, 0], [0.2, 0], [9.0, 0], [-9.0, 5.0]])
    shares = np.array([0.0, 0, 0, 0.5, 0.5])
    found = rule(text)(stack, shares, stack[0])
    assert found.influence.sum() == 1 and set(np.flatnonzero(found.influence)) <= {0, 1, 2}
    assert torch.isfinite(found.model.vector).all()
    with pytest.raises(ValueError, match="must be 5 non-negative numbers that sum to 1"):
        weighted_mean(stack, np.full(5, np.nan))


def test_krum_gives_ties_to_the_first_site():
    stack = models([[0.0], [1.0], [0.0], [1.0], [5.0]])
    assert merged("krum(f=1)", stack).item() == 0.0


def test_the_geometric_median_is_where_unit_vectors_cancel():  # O36
    stack, p = random_models(6, d=3), np.array([0.1, 0.2, 0.15, 0.25, 0.2, 0.1])
    z = merged("geomedian(nu=1e-12, steps=20000)", stack, p).numpy()
    towards = stack.vector.numpy() - z
    unit = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    assert np.abs(p @ unit).max() < 1e-8
    best = minimize(lambda v: p @ np.linalg.norm(stack.vector.numpy() - v, axis=1), z + 0.1, tol=1e-14).x
    assert np.abs(best - z).max() < 1e-5


def test_the_geometric_median_turns_and_grows_with_the_models():  # O36
    stack = random_models(5, d=3)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    other = models(2.5 * stack.vector.numpy() @ turn.T + np.array([1.0, -2.0, 0.5]))
    text = "geomedian(nu=1e-12, steps=5000)"
    expected = 2.5 * merged(text, stack).numpy() @ turn.T + np.array([1.0, -2.0, 0.5])
    assert np.abs(merged(text, other).numpy() - expected).max() < 1e-8


def test_a_model_that_holds_more_than_half_of_the_weight_is_the_geometric_median():
    stack = random_models(4)
    found = merged("geomedian(nu=1e-9, steps=2000)", stack, [0.6, 0.2, 0.1, 0.1])
    assert (found - stack.vector[0]).abs().max() < 1e-6


@pytest.mark.parametrize("text", ["median", "trimmed(0.3)", "geomedian", "krum(f=2)", "multikrum(f=2, c=3)"])
def test_a_minority_at_infinity_moves_a_robust_rule_by_little(text):  # O36
    stack = random_models(7)
    bad = stack.vector.clone()
    bad[5:] = 1e6
    moved = (merged(text, models(bad.numpy())) - merged(text, stack)).norm()
    far = (merged("mean", models(bad.numpy())) - merged("mean", stack)).norm()
    assert moved < 10 and far > 1e5


def test_clipping_shortens_updates_and_leaves_short_ones():
    w = models(np.zeros((1, 3)))[0]
    stack = models([[3.0, 4.0, 0.0], [0.1, 0.0, 0.0]])
    found = merged("clipped(1.0)", stack, [0.5, 0.5], w).numpy()
    assert np.abs(found - [0.5 * 0.6 + 0.05, 0.5 * 0.8, 0.0]).max() < 1e-12
    assert torch.allclose(
        merged("clipped(100.0)", stack, [0.3, 0.7], w), weighted_mean(stack, [0.3, 0.7]).vector, atol=1e-14
    )


# -- settings of an experiment ---------------------------------------------------------------------------------------


@pytest.mark.every_method
@pytest.mark.parametrize("method", ["fedavg", "fedavgm", "fedadam", "fedprox", "scaffold", "fednova", "feddyn", "moon",
                                    "fedsam", "qfedavg", "afl", "ditto", "fedrep", "swarm", "splitfed"])  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_robust_rule_is_a_setting_of_every_method_that_merges(method):
    plain = last(method, federation(rounds=1))
    for text in ("median", "krum(f=0)", "geomedian", "clipped(0.01)"):
        robust = last(method, federation(rounds=1, aggregate=text))
        assert torch.isfinite(robust.vector).all() and not same(plain, robust), text


def test_a_rule_gets_too_few_models_in_a_round():
    fed = federation(aggregate="krum(f=0)", availability=0.5, rounds=8)
    last("fedavg", fed)
    short = fed.round_log.event_frame().query("event == 'nothing merged'")
    assert len(short) and short["detail"].str.contains("models came back, 3 are needed").all()


@pytest.mark.parametrize("text,needed", [("krum(f=1)", 5), ("multikrum(f=2)", 7), ("multikrum(f=0, c=6)", 6)])
def test_a_rule_with_too_few_sites_is_refused(text, needed):
    with pytest.raises(ValueError, match=rf"needs at least {needed} sites, found 4: lower f"):
        federation(aggregate=text)


@pytest.mark.parametrize(
    "text,message",
    [("trimmed(0.5)", "from 0 to below 0.5"), ("krum(f=-1)", "f=-1: give a whole number of at least 0"),
     ("clipped(0)", "above 0"), ("geomedian(nu=0)", "nu=0: give a number above 0"),
     ("medain", "did you mean 'median'"), ("krum(g=1)", "no argument 'g'")],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused_by_the_experiment(text, message):
    with pytest.raises(ValueError, match=message):
        fedlab.Experiment(aggregate=text)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_honest_minorities_are_named_before_a_robust_rule_leaves_them_out():
    """Three sites of healthy patients, one of a few sick ones: it counts for nothing, and a warning says so."""
    data = cases(160)
    data = data.take(np.flatnonzero((data.labels == 0) | (np.arange(160) < 40)))
    sick = data.labels == 1
    site = np.where(sick, "Site D", "Site A").astype(object)
    site[np.flatnonzero(~sick)[0::3]] = "Site B"
    site[np.flatnonzero(~sick)[1::3]] = "Site C"
    part = Partition.from_sites(data, pd.DataFrame({"case": data.table["case"], "site": site, "split": "train"}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fed = federation(part, aggregate="multikrum(f=0, c=2)", rounds=4, local_steps=20, lr=0.2)
    (message,) = [str(each.message) for each in caught if each.category is MinorityWarning]
    assert "may reject sites that merely differ" in message and "Site D" in message
    last("fedavg", fed)
    assert fed.round_log.numbers["Site D", "influence"] == 0


def test_no_warning_where_sites_agree():
    with warnings.catch_warnings():
        warnings.simplefilter("error", MinorityWarning)
        federation(aggregate="median")


def test_influence_is_kept_with_the_rounds(tmp_path):
    experiment = fedlab.Experiment(model="small_cnn(width=4, depth=2)", rounds=2, local_steps=2, aggregate="krum(f=0)")
    run = fedlab.run(experiment, partition(), folder=tmp_path)
    rows = run.rounds.query("metric == 'influence'")
    assert rows.groupby("round")["value"].sum().tolist() == [1.0, 1.0] and set(rows["value"]) == {0.0, 1.0}


def test_settings_without_effect_are_reported(tmp_path):
    experiment = fedlab.Experiment(model="small_cnn(width=4, depth=2)", rounds=1, local_steps=1, method="cyclic")
    for changes, message in (({"aggregate": "median"}, "aggregate='median'"), ({"secure_sum": True}, "secure_sum=True"),
                          ({"attack": "signflip"}, "attack='signflip'")):  # fmt: skip
        with pytest.warns(UserWarning, match=f"{message}: no effect on 'cyclic'"):
            fedlab.run(experiment.with_(**changes), partition(), folder=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fedlab.run(experiment.with_(method="fedavg", attack="signflip"), partition(), folder=tmp_path)
        fedlab.run(experiment.with_(watch_visits=True), partition(), folder=tmp_path)
        fedlab.run(experiment.with_(method="ensemble", attack="signflip"), partition(), folder=tmp_path)
        rare = {"method": "fedavg", "availability": 0.3, "failures": 0.3, "rounds": 8, "aggregate": "median"}
        fedlab.run(experiment.with_(**rare), partition(sizes=(24, 24)), folder=tmp_path)
    for method in ("gossip", "swarm"):
        with pytest.warns(UserWarning, match=f"local_optimizer='keep': no effect on '{method}'"):
            changes = {"method": method, "local_optimizer": "keep", "momentum": 0.9}
            fedlab.run(experiment.with_(**changes), partition(), folder=tmp_path)
    with pytest.warns(UserWarning, match="watch_visits=True: no effect on 'fedavg'"):
        fedlab.run(experiment.with_(method="fedavg", watch_visits=True), partition(), folder=tmp_path)


# -- attacks ---------------------------------------------------------------------------------------------------------


def sent(text: str, m: int = 5, shares=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(honest models, the model sent out, what arrives)."""
    stack, w = random_models(m), random_models(1, seed=9)[0]
    p = np.full(m, 1 / m) if shares is None else np.asarray(shares)
    found = Attack.of(text, m).apply(stack, w, p, 0, 1)
    return stack.numbers.numpy(), w.numbers.numpy(), found.numbers.numpy()


@pytest.mark.parametrize("text", [name for name in ATTACKS if name not in ("none", "labelflip")])
def test_only_malicious_sites_send_something_else(text):
    honest, _, found = sent(f"{text}(count=2)")
    assert np.array_equal(honest[:3], found[:3]) and not np.isclose(honest[3:], found[3:]).all(1).any()


def test_attacks_are_what_they_say():
    honest, w, found = sent("signflip(boost=2.0)")
    assert np.allclose(found[4] - w, -2 * (honest[4] - w))
    honest, w, found = sent("scaled(boost=3.0)")
    assert np.allclose(found[4] - w, 3 * (honest[4] - w))
    honest, w, found = sent("alie(count=2, z=1.5)")
    assert np.allclose(found[3], honest[:3].mean(0) - 1.5 * honest[:3].std(0)) and np.array_equal(found[3], found[4])
    _, w, found = sent("gaussian(sd=0.5)", m=3)
    assert 0.2 < (found[2] - w).std() < 1.0


def test_model_replacement_makes_the_mean_the_malicious_model():
    p = np.array([0.1, 0.3, 0.2, 0.25, 0.15])
    honest, w, found = sent("replacement", shares=p)
    honest[:4] = found[:4] = w  # the others have converged
    assert np.allclose(p @ found, p @ found - p[4] * found[4] + w * p[4] + (honest[4] - w))
    quiet = np.concatenate([np.tile(w, (4, 1)), found[4:]])
    assert np.allclose(p @ quiet, honest[4])


def test_flipped_labels_are_those_of_malicious_sites_in_training_only():
    clean, flipped_fed = federation(), federation(attack="labelflip(count=2)")
    store = flipped_fed.execution.dataset
    for k, name in enumerate(flipped_fed.names):
        index = flipped_fed.partition.index(name, "train")
        flipped = store.targets[store.rows(index)].numpy() != clean.labels[index]
        assert flipped.all() == flipped.any() == (k >= 2)
        for split in ("val", "test"):
            rest = flipped_fed.partition.index(name, split)
            assert (store.targets[store.rows(rest)].numpy() == clean.labels[rest]).all()


@pytest.mark.parametrize("attack", ["signflip(boost=10.0)", "scaled(boost=50.0)", "gaussian(sd=5.0)"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_robust_rules_withstand_what_ruins_the_mean(attack):
    part = partition(sizes=(20, 20, 20, 20, 20))
    honest = last("fedavg", federation(part))

    def damage(text: str) -> float:
        return error(last("fedavg", federation(part, aggregate=text, attack=attack)), honest)

    ruined = damage("mean")
    for text in ("median", "geomedian", "krum(f=1)", "trimmed(0.25)"):
        assert damage(text) < ruined / 3, text


def test_an_attack_is_noted_and_leaves_somebody_honest():
    fed = federation(attack="signflip(count=3)")
    last("fedavg", fed)
    notes = fed.round_log.event_frame().query("event == 'attack'")
    assert notes["detail"].tolist() == ["signflip by Site B, Site C, Site D"] * 2
    with pytest.raises(ValueError, match="4 of 4 sites would be malicious, leave at least one honest site"):
        federation(attack="signflip(count=4)")
    with pytest.raises(ValueError, match="did you mean 'signflip'"):
        fedlab.Experiment(attack="singflip")


# -- a sum that shows no addend --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype,after", [(torch.float32, 20), (torch.float64, 40)])
def test_the_masked_sum_is_the_plain_sum_of_encodings(dtype, after):
    """Exactly, in the ring; so that only rounding to the fixed point is lost, at most K 2^-(s+1)."""
    stack, w, p = (
        random_models(5, d=500, dtype=dtype),
        random_models(1, 500, 9, dtype)[0],
        np.array([1, 2, 3, 4, 5]) / 15,
    )
    bits, _ = secure_aggregation.FRACTION[dtype]
    masked = secure_aggregation.messages(stack, p, w, ONCE)
    plain = [
        secure_aggregation.encode(float(p[i]) * (stack.vector[i].double() - w.vector.double()), after) for i in range(5)
    ]
    total = torch.stack(masked).sum(0)
    assert torch.equal(secure_aggregation.centred(total, bits), torch.stack(plain).sum(0))
    exact = w.vector.double() + sum(float(p[i]) * (stack.vector[i].double() - w.vector.double()) for i in range(5))
    found = secure_aggregation.mean(stack, p, w, ONCE).vector.double()
    slack = {torch.float32: 3e-7, torch.float64: 1e-14}[dtype]  # of the final rounding to the type
    assert float((found - exact).abs().max()) <= 5 * 2.0 ** -(after + 1) + slack * 4


def test_a_single_message_is_noise():
    """What one site sends does not depend on what it has learnt, as far as its distribution goes."""
    stack, w = random_models(3, d=20000, dtype=torch.float32), random_models(1, 20000, 9, torch.float32)[0]
    for message in secure_aggregation.messages(stack, np.full(3, 1 / 3), w, ONCE):
        spread = message.double() / 2.0**32
        assert abs(float(spread.mean()) - 0.5) < 0.01 and abs(float(spread.std()) - 12**-0.5) < 0.01
    each = [
        secure_aggregation.messages(stack, np.full(3, 1 / 3), w, once)[0]
        for once in (ONCE, (0, 2, 0), (0, 1, 1), (1, 1, 0))
    ]
    for i, first in enumerate(each):
        assert all((first != second).double().mean() > 0.99 for second in each[:i])


def test_training_by_secure_sums_is_training_by_means():
    a, b = (federation(secure_sum=flag, precision="float64", batchnorm="group") for flag in (True, False))
    assert 0 < error(last("fedavg", a), last("fedavg", b)) < 1e-9


def test_an_update_too_large_for_the_ring_is_refused_with_what_to_do():
    w = random_models(1, 3, 9, torch.float32)[0]
    with pytest.raises(OverflowError, match="lower `lr`, or use precision='float64'"):
        secure_aggregation.mean(models(np.full((2, 3), 1e5), torch.float32), np.full(2, 0.5), w, ONCE)


@pytest.mark.parametrize(
    "changes,message",
    [({"aggregate": "median"}, "aggregate='median' must see"), ({"batchnorm": "pooled"}, "batchnorm='pooled'"),
     ({"failures": 0.1}, "cannot unmask"), ({"stragglers": "drop(0.2)"}, "cannot unmask")],
)  # fmt: skip
def test_settings_that_contradict_a_secure_sum_are_refused(changes, message):
    with pytest.raises(ValueError, match="secure_sum=True.*" + message.split("(")[0]):
        fedlab.Experiment(secure_sum=True, **changes)
    fedlab.Experiment(secure_sum=True, stragglers=0.2, availability=0.8)


def test_a_swarm_by_medians_cannot_hide_its_models():
    with pytest.raises(ValueError, match="secure_sum=True hides single models, which merge='median' must see"):
        last("swarm(merge='median')", federation(secure_sum=True))


def test_every_rule_says_how_few_models_it_needs():
    for name in RULES:
        assert least(name) >= 1
        size = max(3, least(name))
        assert torch.isfinite(merged(name, random_models(size))).all()
    with pytest.raises(aggregation.TooFewError):
        merged("multikrum(f=0, c=9)", random_models(4))


@pytest.mark.parametrize("method", ["fedavg", "feddyn(alpha=1.0)", "scaffold", "fedadam", "pfedme"])
def test_one_boundless_update_does_not_get_past_the_median(method):
    part, changes = partition(sizes=(24, 40, 16, 8, 12)), {"rounds": 2, "batchnorm": "group", "aggregate": "median"}
    moved = []
    for attack in ("none", "scaled(boost=1000)"):
        fed = federation(part, attack=attack, **changes)
        moved.append(float((last(method, fed).parameters - fed.start.parameters).norm()))
    assert moved[1] < 2 * moved[0]


def test_a_median_cannot_pool_variances():
    for changes in ({"aggregate": "median"}, {"aggregate": "trimmed(0.2)"}):
        with pytest.raises(ValueError, match="cannot compute the variance of the union"):
            fedlab.Experiment(batchnorm="pooled", **changes)
    fedlab.Experiment(batchnorm="pooled", aggregate="geomedian")
    with pytest.raises(ValueError, match="merge='median' cannot compute the variance of the union"):
        last("swarm(merge='median')", federation(batchnorm="pooled"))


IDLE = {  # (method, setting) -> what the warning says
    ("cyclic", "batchnorm"): "pooled",
    ("split", "batchnorm"): "pooled",
    ("ensemble", "failures"): 0.5,
    ("ensemble", "availability"): 0.5,
    ("single_pass", "participation"): "sample(0.5)",
    ("ensemble", "stragglers"): 0.5,
}


@pytest.mark.parametrize("method,setting", IDLE)
def test_settings_of_rounds_and_merges_without_effect_are_reported(method, setting, tmp_path):
    value = IDLE[method, setting]
    settings = {"model": "small_cnn(width=4, depth=2)", "rounds": 1, "local_steps": 1, "method": method, setting: value}
    with pytest.warns(UserWarning, match=re.escape(f"{setting}={value!r}: no effect on '{method}'")):
        fedlab.run(fedlab.Experiment(**settings), partition(), folder=tmp_path)


@pytest.mark.parametrize("method", ["gossip", "splitfed", "fedavg"])
def test_pooled_variances_are_pooled_wherever_models_are_merged(method, tmp_path):
    settings = {"model": "small_cnn(width=4, depth=2)", "rounds": 1, "local_steps": 1, "method": method}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fedlab.run(fedlab.Experiment(batchnorm="pooled", **settings), partition(), folder=tmp_path)
