"""Swarm learning and gossip: no server, the same numbers where they must be, and faults that are reported."""

import numpy as np
import pytest
import torch
from worlds import ends, error, federation, last, partition, same

import fedlab
from fedlab.algorithms import start, swarm
from fedlab.algorithms.graphs import TOPOLOGIES, links, metropolis
from fedlab.core.weights import weighted_mean
from fedlab.federation.participation import Participants, Participation

RNG = np.random.default_rng(0)


def events(fed, name: str):
    return fed.round_log.event_frame().query("event == @name")


# -- swarm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["avg", "pooled", "silobn", "fedbn"])
def test_a_swarm_of_all_peers_by_cases_is_fedavg(policy, precision):  # O33
    a, b = (federation(precision=precision, batchnorm=policy) for _ in range(2))
    assert same(last("swarm(weighting='cases')", a), last("fedavg", b))


def test_merges_every_few_batches_are_shorter_rounds(precision):  # O33
    a = federation(precision=precision, rounds=2, local_steps=6)
    b = federation(precision=precision, rounds=6, local_steps=2)
    assert same(last("swarm(sync=2, weighting='cases')", a), last("fedavg", b))
    assert len(events(a, "leader")) == 6


@pytest.mark.parametrize("merge", ["mean", "median", "geomedian"])
def test_it_does_not_matter_who_leads(merge, precision, monkeypatch):  # O33
    found = []
    for leader in range(4):
        monkeypatch.setattr(swarm, "elect_leader", lambda fed, s, trained, failure, leader=leader: leader)
        found.append(last(f"swarm(merge={merge!r})", federation(precision=precision)))
    assert all(same(found[0], other) for other in found[1:])


def test_leaders_are_drawn_anew_and_break_off_without_changing_a_bit(precision):
    calm, rough = (federation(precision=precision, rounds=8) for _ in range(2))
    assert same(last("swarm", calm), last("swarm(leader_failure=0.5)", rough))
    assert len(set(events(calm, "leader")["site"])) > 1
    failed = events(rough, "leader failed")
    assert len(failed) and len(events(rough, "leader")) == 8
    assert rough.ledger.frame()["bytes"].sum() > calm.ledger.frame()["bytes"].sum()  # models were sent in vain


def test_where_every_leader_breaks_off_nothing_is_merged():
    fed = federation(rounds=2)
    found = last("swarm(leader_failure=1.0)", fed)
    assert same(found, fed.start) and len(events(fed, "leader failed")) == 2 * 4


def test_the_leader_carries_the_traffic_and_the_role_rotates():  # O55
    """m - 1 models in and m - 1 out at the leader; one in and one out at every other peer."""
    fed = federation(rounds=1)
    last("swarm", fed)
    (leader,) = events(fed, "leader")["site"]
    frame = fed.ledger.frame()
    assert (frame["direction"] == "peer").all() and frame["bytes"].sum() == 2 * 3 * fed.start.nbytes
    assert {site: fed.ledger.bytes_of(1, site) for site in fed.names} == {
        site: (6 if site == leader else 2) * fed.start.nbytes for site in fed.names
    }
    assert fed.channel.path.bytes == 2 * 3 * fed.start.nbytes  # all through the leader's link
    many = federation(rounds=12)
    last("swarm", many)
    assert set(events(many, "leader")["site"]) == set(many.names)


def test_too_few_peers_do_not_merge_and_go_on(precision):
    """With three of four needed and two there, two peers train on by themselves: the steps of local training."""
    there = [1.0, 0.0, 1.0, 0.0]
    fed, alone = (federation(precision=precision, rounds=3, momentum=0.9, availability=there) for _ in range(2))
    assert same(last("swarm(min_peers=3)", fed), fed.start)
    assert len(events(fed, "no quorum")) == 3 and fed.ledger.frame().empty
    local = last("local", alone)
    assert same(fed.schedule.state.peers[0].without_moments(), local[0]) and same(
        fed.schedule.state.peers[2].without_moments(), local[2]
    )
    assert same(fed.schedule.state.peers[1].without_moments(), fed.start)


def test_a_peer_that_was_away_adopts_the_last_merge_first():
    """Whoever begins a round together with a peer that has the last merge begins with it."""
    fed = federation(rounds=8, availability=0.6)
    starts: list = []
    plain, memory = fed.fit, {}

    def fit(start, r, **how):
        s = memory["s"]
        starts.append((start.parameters.clone(), s.w.parameters.clone(), [k in s.behind for k in start.owners]))
        return plain(start, r, **how)

    remember = fed.memory

    def kept(**initial):
        memory["s"] = remember(**initial)
        return memory["s"]

    fed.fit, fed.memory = fit, kept
    last("swarm(min_peers=1)", fed)
    adopted = events(fed, "adopted the last merge")
    assert len(adopted)
    for begun, w, behind in starts:
        assert all(behind) or not any(behind)
        assert any(behind) or all(torch.equal(row, w) for row in begun)


def test_an_optimizer_that_goes_on_is_not_one_that_begins_afresh():
    kept, reset, plain = (federation(momentum=0.9, rounds=3) for _ in range(3))
    a, b = last("swarm(weighting='cases')", kept), last("swarm(weighting='cases', optimizer='reset')", reset)
    assert same(b, last("fedavg", plain)) and not same(a, b)
    own = federation(momentum=0.9, rounds=3, local_optimizer="keep")
    assert same(a, last("fedavg", own))


def test_merges_are_the_rules_they_name():
    weighted = federation(aggregate="median(weighted=True)")
    assert same(last("swarm(merge='median', weighting='cases')", federation()), last("fedavg", weighted))
    geometric = federation(aggregate="geomedian")
    assert same(last("swarm(merge='geomedian', weighting='cases')", federation()), last("fedavg", geometric))


NEVER = {
    "swarm(min_peers=5)": "min_peers=5 with 4 sites: no merge could ever take place",
    "swarm(sync=0)": "sync=0: give a whole number",
    "swarm(leader_failure=2)": "leader_failure=2: give a number from 0 to 1",
}


@pytest.mark.parametrize("method", NEVER)
def test_swarms_that_could_never_merge_are_refused(method):
    with pytest.raises(ValueError, match=NEVER[method]):
        last(method, federation())


def test_two_ways_to_say_how_to_merge_are_refused():
    with pytest.raises(ValueError, match="both say how to merge"):
        last("swarm(merge='median')", federation(aggregate="geomedian"))


def test_a_median_withstands_malicious_peers():
    part = partition(sizes=(20, 20, 20, 20, 20))
    honest = last("swarm", federation(part))
    hurt = [error(last(method, federation(part, attack="scaled(boost=50.0)")), honest)
            for method in ("swarm(merge='median')", "swarm")]  # fmt: skip
    assert hurt[0] < hurt[1] / 5


# -- gossip ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("sites", [1, 2, 3, 4, 5, 6, 9, 12])
def test_weights_are_symmetric_and_keep_the_mean(topology, sites):
    near = links(topology, sites, np.random.default_rng(3))
    weights = metropolis(near)
    assert (near == near.T).all() and not near.diagonal().any()
    assert np.abs(weights - weights.T).max() == 0 and (weights >= 0).all()
    assert np.abs(weights.sum(0) - 1).max() < 1e-15 * sites + 1e-15


def test_topologies_are_what_they_are_called():
    assert links("ring", 5, RNG).sum(1).tolist() == [2] * 5
    assert links("torus", 12, RNG).sum(1).tolist() == [4] * 12
    assert links("torus", 5, RNG).tolist() == links("ring", 5, RNG).tolist()
    assert links("complete", 4, RNG).sum() == 12 and np.allclose(metropolis(links("complete", 4, RNG)), 0.25)
    assert links("star", 4, RNG).sum(1).tolist() == [3, 1, 1, 1]
    assert links("matching", 5, RNG).sum(1).max() == 1 and links("matching", 5, RNG).sum() == 4
    assert len({links("matching", 6, np.random.default_rng(n)).tobytes() for n in range(20)}) > 5


def test_gossip_with_everybody_is_uniform_fedavg(precision):  # O37
    a, b = (federation(precision=precision, rounds=3) for _ in range(2))
    tolerance = {"float64": 1e-12, "float32": 2e-6}[precision]
    assert error(last("gossip('complete')", a), last("fedavg(weighting='uniform')", b)) < tolerance


@pytest.mark.parametrize("topology", ["ring", "torus", "star", "matching"])
def test_mixing_keeps_the_mean_of_all_models(topology, precision):  # O37
    """Twenty rounds without learning: the mean stays, distances shrink by the second eigenvalue."""
    fed = federation(partition(sizes=(10,) * 6), precision=precision)
    rng = torch.Generator().manual_seed(0)
    peers = fed.start.expand(6)
    noise = (
        torch.randn(6, fed.layout.size, generator=rng, dtype=torch.float64).to(fed.start.vector) * fed.layout.occupied
    )
    peers = type(peers)(peers.layout, peers.vector + noise, peers.counts.clone())
    mean, spread = peers.vector.double().mean(0), []
    for number in range(20):
        weights = metropolis(links(topology, 6, np.random.default_rng(number)))
        peers = swarm.average_neighbours(fed, peers, weights)
        spread.append(float((peers.vector.double() - peers.vector.double().mean(0)).norm()))
        assert (
            float((peers.vector.double() - mean).mean(0).abs().max()) < {"float64": 1e-12, "float32": 2e-6}[precision]
        )
    if topology != "matching":
        second = np.sort(np.abs(np.linalg.eigvalsh(weights)))[-2]
        start = float((noise.double() - noise.double().mean(0)).norm())
        assert spread[-1] <= start * second**20 * 1.001 + 1e-4
    assert spread[-1] < spread[0]


def test_consensus_is_told_and_better_connected_graphs_are_nearer_to_it():
    distance = {}
    for topology in ("ring", "complete"):
        fed = federation(partition(sizes=(12,) * 6), rounds=3)
        models = ends(f"gossip({topology!r})", fed)
        distance[topology] = float(fed.round_log.numbers["all sites", "consensus distance"])
        mean = weighted_mean(models["local"], np.full(6, 1 / 6))
        assert same(models["global"], mean)
    assert distance["complete"] < 1e-6 < distance["ring"]


@pytest.mark.parametrize("topology,degrees", [("ring", [2] * 6), ("star", [5, 1, 1, 1, 1, 1]), ("complete", [5] * 6)])
def test_every_neighbour_gets_one_model(topology, degrees):  # O55
    fed = federation(partition(sizes=(12,) * 6), rounds=1)
    last(f"gossip({topology!r})", fed)
    frame = fed.ledger.frame()
    received = frame.groupby("site")["bytes"].sum()
    assert [received[name] for name in fed.names] == [d * fed.start.nbytes for d in degrees]


def test_absent_neighbours_are_left_out_and_keep_their_model():
    fed = federation(partition(sizes=(12,) * 6), rounds=3, availability=[1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    models = ends("gossip('ring')", fed)
    assert torch.equal(models["local"].vector[1], fed.start.vector)
    assert "Site B" not in set(fed.ledger.frame()["site"]) | set(fed.ledger.frame()["other"])


def test_swarm_and_gossip_in_a_run_folder(tmp_path):
    base = fedlab.Experiment(
        model="small_cnn(width=4, depth=2)", rounds=3, local_steps=2, availability=0.7, device="cpu"
    )
    ours, theirs = fedlab.grid(base, partition=partition(), folder=tmp_path, method=["swarm", "gossip"])
    assert list(ours.events) == ["round", "site", "event", "detail"] and "leader" in set(ours.events["event"])
    assert "consensus distance" in set(theirs.rounds["metric"])
    assert set(theirs.predictions["model"]) == {"global", "Site A", "Site B", "Site C", "Site D"}


def test_peers_that_all_missed_the_last_merge_do_not_merge_without_it(monkeypatch):
    """Sites B and C merged, then A and D are there alone: they train, and the last merge stays the last one."""
    there = {1: (1, 2), 2: (0, 3), 3: (0, 1, 2, 3)}
    monkeypatch.setattr(Participation, "at", lambda self, number: Participants(dict.fromkeys(there[number], 1)))
    fed = federation(rounds=3)
    found = [outcome.models["global"] for outcome in start("swarm", fed)]
    assert same(found[0], found[1]) and not same(found[1], found[2])
    assert [detail for _, _, event, detail in fed.round_log.events if event == "no quorum"] == [
        "no peer that is ready has the last merge; training continues"
    ]
