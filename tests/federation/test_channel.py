"""The ledger and the critical path: bytes of what was handed over, by whom to whom, and what must wait for what."""

import pytest
import torch
from worlds import CNN, federation, last, partition

from fedlab.engine.local_task import Usage
from fedlab.federation.channel import CriticalPath, Ledger, Message


def table(method: str, **changes) -> dict[tuple[str, str], int]:
    """(direction, what) -> bytes of one round at four sites."""
    fed = federation(rounds=1, **changes)
    last(method, fed)
    return fed.ledger.frame().groupby(["direction", "what"])["bytes"].sum().to_dict()


def sizes(**changes) -> tuple[int, int]:
    """(bytes of a model, bytes of its parameters)."""
    fed = federation(**changes)
    return fed.start.nbytes, 4 * fed.layout.parameters


M, P = sizes()
BOTH_WAYS = {("down", "weights"): 4 * M, ("up", "weights"): 4 * M}
PER_ROUND = {  # method -> bytes of a round at four sites, by direction and content
    **{name: BOTH_WAYS for name in ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", "feddyn")},
    **{name: BOTH_WAYS for name in ("moon", "fedsam", "ditto", "apfl", "pfedme", "finetune")},
    "scaffold": BOTH_WAYS | {("down", "control"): 4 * P, ("up", "control"): 4 * P},
    "fednova": BOTH_WAYS | {("up", "normaliser"): 4 * 8},
    "qfedavg": BOTH_WAYS | {("up", "loss"): 4 * 8},
    "afl": BOTH_WAYS | {("up", "loss"): 4 * 8},
    "cyclic": {("down", "weights"): M, ("peer", "weights"): 3 * M},  # the first one is the initial model
    "swarm": {("peer", "weights"): 2 * 3 * M},
    "gossip": {("peer", "weights"): 4 * 2 * M},
    "ensemble": {("up", "weights"): 4 * M},
    "local": {},
    "centralized": {},
}


@pytest.mark.parametrize("method", PER_ROUND)
def test_bytes_of_a_round_are_those_of_the_table(method):  # O55
    assert table(method) == PER_ROUND[method]


def test_a_single_pass_costs_one_hand_over_a_site_in_all():  # O55
    fed = federation(rounds=5)
    last("single_pass", fed)
    assert fed.ledger.frame()["bytes"].sum() == 4 * M


@pytest.mark.parametrize("optimizer,slots", [({"momentum": 0.9}, 1), ({"optimizer": "adam", "lr": 0.01}, 2)])
def test_a_travelling_optimizer_weighs_as_much_as_its_state(optimizer, slots):  # O55
    fed = federation(rounds=1, **optimizer)
    last("cyclic", fed)
    first, *others = fed.ledger.frame()["bytes"]
    assert first == M and set(others) == {M + slots * P + 8}
    again = federation(rounds=1, **optimizer)
    last("cyclic(optimizer='reset')", again)
    assert set(again.ledger.frame()["bytes"]) == {M}


@pytest.mark.parametrize("handover", ["peer", "server"])
@pytest.mark.parametrize("turns", ["site", "batch"])
def test_an_optimizer_that_begins_afresh_does_not_travel(handover, turns):
    sent = []
    for optimizer, momentum in (("travel", 0.9), ("reset", 0.9), ("reset", 0.0)):
        fed = federation(rounds=1, momentum=momentum)
        last(f"split(optimizer={optimizer!r}, turns={turns!r}, handover={handover!r})", fed)
        sent.append(fed.ledger.frame().query("what == 'weights'")["bytes"].sum())
    assert sent[0] > sent[1] == sent[2]


@pytest.mark.parametrize(
    "policy,kinds", [("silobn", ("mean", "variance")), ("fedbn", ("mean", "variance", "batchnorm"))]
)
def test_what_stays_does_not_cross_nor_do_control_variates_of_it(policy, kinds):
    fed = federation(rounds=1, batchnorm=policy)
    last("scaffold", fed)
    stays = fed.layout.mask(*kinds)
    totals = fed.ledger.frame().groupby("what")["bytes"].max()
    assert totals["weights"] == 4 * int((~stays & fed.layout.occupied).sum())
    assert totals["control"] == 4 * int((~stays & fed.layout.occupied)[: fed.layout.trained].sum())


def test_rows_of_a_round_add_up_and_rounds_stay_apart():
    ledger = Ledger()
    for number in (1, 1, 2):
        ledger.record(number, "Site A", "up", "weights", 10)
    ledger.record(2, "Site A", "peer", "weights", 7, other="Site B")
    assert ledger.rows == [
        (1, "Site A", "up", "server", "weights", 20, 2),
        (2, "Site A", "up", "server", "weights", 10, 1),
        (2, "Site A", "peer", "Site B", "weights", 7, 1),
    ]
    assert [ledger.bytes_of(2, site) for site in ("Site A", "Site B", "Site C")] == [17, 7, 0]


def test_what_crosses_between_sites_crosses_two_borders():
    """A hand-over is one row of the ledger, and counts at the site that gives as at the one that gets."""
    fed = federation(rounds=1)
    last("cyclic", fed)
    assert fed.ledger.frame()["other"].tolist() == ["server", "Site A", "Site B", "Site C"]
    assert [fed.ledger.bytes_of(1, name) for name in fed.names] == [2 * M, 2 * M, 2 * M, M]


def test_taps_see_the_tensors_themselves():
    fed, seen = federation(rounds=1), []
    fed.channel.hooks.append(seen.append)
    last("fedavg", fed)
    down = [message for message in seen if message.direction == "down"]
    assert all(torch.equal(message.tensors[0], fed.start.numbers) for message in down)
    assert {message.site for message in down} == set(fed.names) and all(isinstance(each, Message) for each in seen)


def test_the_path_of_trips_and_training():
    path = CriticalPath()
    path.add_training(Usage(torch.zeros(()), steps, 0, lambda s=s: s) for steps, s in ((3, 0.1), (5, 0.4)))
    path.add_messages([10, 30])
    path.add_messages([10, 30], one_link=True)
    path.add_messages([2], same_time=True)
    path.add_messages([])
    assert (path.steps, path.messages, path.bytes, path.seconds) == (5, 2, 72, 0.4)
    path.add_parallel([CriticalPath(1, 2, 3, [lambda: 0.5]), CriticalPath(4, 1, 9, [lambda: 0.1])])
    assert (path.steps, path.messages, path.bytes, path.seconds) == (9, 4, 81, 0.9)


PATHS = {  # method -> (steps, messages, bytes) on the critical path of a round at four sites with three steps each
    "fedavg": (3, 2, 2 * M),
    "cyclic": (12, 4, 4 * M),
    "swarm": (3, 2, 2 * 3 * M),
    "gossip": (3, 1, 2 * M),
    "local": (3, 0, 0),
    "centralized": (3, 0, 0),
    "ditto": (6, 2, 2 * M),
    "single_pass": (12, 4, 4 * M),
}


@pytest.mark.parametrize("method", PATHS)
def test_the_critical_path_of_each_topology(method):
    fed = federation(rounds=1)
    last(method, fed)
    path = fed.channel.path
    assert (path.steps, path.messages, path.bytes) == PATHS[method]


def test_a_channel_starts_empty():
    frame = federation().ledger.frame()
    assert frame.empty
    assert list(frame) == ["round", "site", "direction", "other", "what", "bytes", "messages"]


def test_the_world_of_these_tests_is_small():
    assert federation(partition(), CNN).layout.parameters == P // 4
